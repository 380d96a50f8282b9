import Foundation
import LinuxHost
import TestKit
import Testing

/// A viewer of a machine under test, over its socket, that reads text from the screen. Confinement: the
/// test's thread.
final class ScreenViewer {
    let viewer: RFBTestViewer
    private let reader: VGAFontReader
    private let socket: Descriptor

    /// Reads what the video BIOS draws in text mode.
    static func textMode() throws -> VGAFontReader {
        try font(of: "/usr/share/seabios/vgabios-stdvga.bin", cellWidth: 9)
    }

    /// Reads what is drawn with the font that lies in a file.
    static func font(of file: String, cellWidth: Int, top: Int = 0) throws -> VGAFontReader {
        let program = try Data(contentsOf: URL(fileURLWithPath: file))
        guard let reader = VGAFontReader(in: Array(program), cellWidth: cellWidth, top: top) else {
            throw AssetProblem(description: "\(file) has no font that we know")
        }
        return reader
    }

    /// Waits for the socket of the machine of this name in the folder of the test. `reader`: of a screen that
    /// is not in text mode.
    init(_ machine: String, in folder: ScratchFolder, reader: VGAFontReader? = nil) throws {
        // A machine that ends early must fail its test, not end the tests' process.
        HostSignals.ignoreBrokenPipes()
        let path = "\(folder.path)/ospite/\(machine)/vnc"
        let end = Date(timeIntervalSinceNow: 60)
        var connected: Descriptor?
        while connected == nil {
            connected = try? Descriptor.connect(unixPath: path)
            guard connected != nil || Date() < end else { throw AssetProblem(description: "no \(path)") }
            if connected == nil { usleep(20_000) }
        }
        let socket = try #require(connected)
        self.socket = socket
        viewer = RFBTestViewer(
            receive: { count in
                var bytes: [UInt8] = []
                while bytes.count < count {
                    guard try socket.wait(forWriting: false, milliseconds: 60_000) else {
                        throw AssetProblem(description: "the screen says nothing")
                    }
                    var buffer = [UInt8](repeating: 0, count: min(count - bytes.count, 1 << 16))
                    guard case .moved(let moved) = try socket.read(into: &buffer) else {
                        throw AssetProblem(description: "the screen has gone")
                    }
                    bytes += buffer.prefix(moved)
                }
                return bytes
            }, send: { try socket.writeAll($0) })
        try viewer.connect()
        self.reader = try reader ?? Self.textMode()
    }

    /// Leaves without a word.
    func leave() { _ = shutdown(socket.number, Int32(SHUT_RDWR)) }

    /// What a text screen shows now.
    func text() throws -> [String] {
        try viewer.capture()
        return reader.text(viewer.pixels, width: viewer.width)
    }

    /// Looks until a row has `words`; the screen then. `seconds` are plenty on a usual host; a slow one gets
    /// three times as many.
    @discardableResult
    func wait(for words: String, seconds: Double = 90) throws -> [String] {
        try wait(for: [words], seconds: seconds)
    }

    /// The same until each of `words` is in a row: what a guest draws first may come last to a viewer.
    @discardableResult
    func wait(for words: [String], seconds: Double = 90) throws -> [String] {
        let end = Date(timeIntervalSinceNow: 3 * seconds)
        var rows: [String] = []
        while Date() < end {
            rows = try text()
            if words.allSatisfy({ word in rows.contains { $0.contains(word) } }) { return rows }
            usleep(100_000)
        }
        throw AssetProblem(description: "no \(words) on the screen:\n" + rows.joined(separator: "\n"))
    }

    /// Looks until GRUB has given this many prompts: what is typed while it works at a command is lost, and
    /// its answer to one is whole when the next prompt is there.
    func waitForPrompt(_ number: Int) throws {
        let end = Date(timeIntervalSinceNow: 120)
        while try text().count(where: { $0.hasPrefix("grub>") }) < number {
            try #require(Date() < end, "GRUB gives no prompt")
            usleep(200_000)
        }
    }

    /// Slowly enough for a guest that polls its keyboard.
    func type(_ text: String) throws { try viewer.type(text) { usleep(25_000) } }

    /// Types what ends the machine: it may be gone before the last key is released.
    func typeFarewell(_ text: String) throws { try untilItIsGone { try type(text) } }

    /// Does something that is of no use when the machine has just ended.
    func untilItIsGone(_ step: () throws -> Void) throws {
        do { try step() } catch let error as HostError where error.code == EPIPE {}
    }
}
