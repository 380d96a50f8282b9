import Foundation
import Testing

private enum DiscChange {
    static let kernel = InstalledKernel.standard
    private static let hasMaker = FileManager.default.isExecutableFile(atPath: "/usr/bin/xorriso")
    static let problem: String? =
        kernel.problem ?? (BootAssets.hasCompiler ? nil : "gcc is absent; see Scripts/packages")
        ?? (hasMaker ? nil : "xorriso is absent; see Scripts/packages")
}

extension BootTests {
    /// Discs that come and go while the machine runs.
    @Suite(.enabled(if: DiscChange.problem == nil, "\(DiscChange.problem ?? "")"))
    struct DiscChangeBootTests {
        /// An ISO image with the file `name`, in which its own name is, before as much as `padding` says.
        private func disc(_ name: String, padding: Int, in folder: ScratchFolder) throws -> String {
            let tree = folder.path + "/" + name + ".tree", image = "\(folder.path)/\(name).iso"
            try FileManager.default.createDirectory(atPath: tree, withIntermediateDirectories: true)
            try Data((name + "\n").utf8).write(to: URL(fileURLWithPath: tree + "/name"))
            try BootAssets.fixedFile.prefix(padding).write(to: URL(fileURLWithPath: tree + "/padding"))
            let run = try runTool(
                ["xorriso", "-as", "mkisofs", "-quiet", "-o", image, tree], in: folder.path)
            guard run.status == 0 else { throw AssetProblem(description: "xorriso: \(run.output)") }
            return image
        }

        private func disc(_ arguments: [String], in folder: ScratchFolder) throws -> (
            status: Int32, output: String
        ) {
            try runTool(
                ["env", "XDG_RUNTIME_DIR=" + folder.path, BuiltPrograms.ospite, "disc", "changer"]
                    + arguments, in: folder.path)
        }

        /// The images that the machine's process has open, by their names.
        private func openImages(_ machine: GuestMachine) throws -> [String] {
            let table = "/proc/\(try machine.machineProcess().identifier)/fd"
            return try FileManager.default.contentsOfDirectory(atPath: table)
                .compactMap { try? FileManager.default.destinationOfSymbolicLink(atPath: table + "/" + $0) }
                .filter { $0.hasSuffix(".iso") }
                .map { URL(fileURLWithPath: $0).lastPathComponent }.sorted()
        }

        @Test(arguments: [("sata", "ahci"), ("ide", "ata_piix")])
        func `Linux reads the discs that the host puts into its drive one after the other`(
            bus: String, driver: String
        ) throws {
            let folder = try ScratchFolder()
            let first = try disc("first", padding: 300_000, in: folder)
            let second = try disc("second", padding: 900_000, in: folder)
            let third = try disc("third", padding: 10, in: folder)
            let boot = TestBoot(
                kernel: DiscChange.kernel, test: "changer", program: try BootAssets.program("eject"),
                modules: [driver, "sr_mod", "isofs"], words: "ospite.disk=/dev/sr0")
            let machine = try GuestMachine(
                try boot.arguments() + [
                    "--cdrom", "\(first),bus=\(bus)", "--cdrom", "none,bus=\(bus)", "--name", "changer",
                ], in: folder)
            try machine.wait(for: "RESULT mounted first")
            for arguments in [[second], ["--eject"]] {
                let refused = try disc(arguments, in: folder)
                #expect(refused.status == 1)
                #expect(refused.output.contains("The guest has locked the tray of CD drive 1"))
            }
            machine.type("\n")
            try machine.wait(for: "RESULT free")
            #expect(try openImages(machine) == ["first.iso"])
            // Nobody ejected the first one: the drive says that there is another.
            let changed = try disc([second], in: folder)
            #expect(changed.status == 0 && changed.output.isEmpty, "\(changed.output)")
            #expect(try openImages(machine) == ["second.iso"])
            machine.type("\n")
            try machine.wait(for: "RESULT mounted second")
            machine.type("\n")
            try machine.wait(for: "RESULT open")
            #expect(try disc([third], in: folder).status == 0)
            machine.type("\n")
            try machine.wait(for: "RESULT mounted third")
            machine.type("\n")
            try machine.wait(for: "RESULT free")
            #expect(try disc(["--eject"], in: folder).status == 0)
            #expect(try openImages(machine) == [])
            // The other drive was empty all the time.
            #expect(try disc([second, "--drive", "2"], in: folder).status == 0)
            let absent = try disc([first, "--drive", "3"], in: folder)
            #expect(absent.status == 1 && absent.output.contains("no CD drive 3, but 2."))
            machine.type("\n")
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let sizes = try [first, second, third].map {
                try FileManager.default.attributesOfItem(atPath: $0)[.size] as? Int ?? 0
            }
            let results = machine.results.drop { !$0.hasPrefix("mounted") }
            #expect(
                Array(results) == [
                    "mounted first, \(sizes[0] / 512)", "free", "mounted second, \(sizes[1] / 512)", "open",
                    "mounted third, \(sizes[2] / 512)", "free", "empty", "other drive second", "end",
                ], "\(GuestProblem("results", machine))")
        }
    }
}
