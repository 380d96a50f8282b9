import Foundation
import Testing

/// Pictures of guests for docs/gallery, which the boot tests take on the way when OSPITE_GALLERY names a
/// folder.
enum Gallery {
    private static let destination = ProcessInfo.processInfo.environment["OSPITE_GALLERY"]

    /// Takes a picture of the machine `name`, whose runtime folder is `folder`, by `ospite screenshot`.
    static func keep(_ picture: String, of name: String, in folder: ScratchFolder) throws {
        guard let destination else { return }
        let shot = try runTool(
            [
                "env", "XDG_RUNTIME_DIR=" + folder.path, BuiltPrograms.ospite, "screenshot", name,
                "\(destination)/\(picture).png",
            ], in: BootAssets.root)
        #expect(shot.status == 0, "\(shot.output)")
    }
}
