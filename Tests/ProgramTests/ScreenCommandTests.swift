import Compression
import Foundation
import LinuxHost
import MachineControl
import MachineSpec
import Testing

@testable import ospite

@Suite(.serialized) struct ScreenCommandTests {
    private let folder: ScratchFolder

    init() throws { folder = try ScratchFolder() }

    @Test func `display options are read`() throws {
        #expect(try DisplayOption(parsing: "none") == .none)
        #expect(try DisplayOption(parsing: "auto") == .auto)
        #expect(
            try DisplayOption(parsing: "vnc=:5901")
                == .vnc(.network(host: "127.0.0.1", port: 5901), webSocket: nil))
        #expect(
            try DisplayOption(parsing: "vnc=[::1]:5901,websocket=localhost:6080")
                == .vnc(
                    .network(host: "::1", port: 5901), webSocket: .network(host: "localhost", port: 6080)))
        #expect(
            try DisplayOption(parsing: "vnc=unix:/a:b,c")
                == .vnc(.unixSocket(path: "/a:b,c"), webSocket: nil))
    }

    @Test(arguments: [
        "", "vnc", "vnc=", "vnc=5900", "vnc=a:0", "vnc=a:70000", "vnc=unix:", "vnc=:1,websocket=",
    ])
    func `display options that we lack are refused`(text: String) {
        #expect(throws: SpecError.self) { try DisplayOption(parsing: text) }
    }

    @Test(
        arguments: [
            (
                ["--vnc-certificate", "/nowhere/x.pem"], 1,
                "--vnc-certificate cannot be used: opening /nowhere/x.pem"
            ),
            (["--vnc-certificate", "/dev/zero"], 1, "Give a PEM file that you may read."),
            (["--vnc-certificate", "/etc/hostname"], 1, "no certificate in it; give one in PEM form."),
            (["--vnc-key", "/etc/hostname"], 64, "--vnc-key goes with --vnc-certificate."),
            (["--display", "none", "--vnc-certificate", "x"], 64, "goes with --display vnc=HOST:PORT."),
            (["--display", "vnc=0.0.0.0:5999", "--vnc-certificate", "x"], 64, "add --vnc-password-file"),
        ] as [([String], Int32, String)])
    func `a certificate that cannot be used is one sentence`(more: [String], status: Int32, words: String)
        throws
    {
        let display = more.contains("--display") ? [] : ["--display", "vnc=unix:\(folder.path)/viewers"]
        let program = try RunningProgram(
            BuiltPrograms.ospite, ["run", "--accel", "soft", "--firmware", "bios"] + display + more,
            in: folder)
        #expect(program.status() == status)
        #expect(program.errorText.contains(words), "\(program.errorText)")
        #expect(program.errorText.split(separator: "\n").count == 1)
    }

    @Test func `chords are read`() throws {
        #expect(try KeyCommand.codes("ctrl-alt-del") == [0x1D, 0x38, 0xD3])
        #expect(try KeyCommand.codes("f12") == [0x58])
        #expect(try KeyCommand.codes("Shift-A") == [0x2A, 0x1E])
        #expect(try KeyCommand.codes("ctrl-minus") == [0x1D, 0x0C])
        for wrong in ["", "ctrl-", "f13", "hyper", "é"] {
            #expect(throws: RunFailure.self) { try KeyCommand.codes(wrong) }
        }
    }

    @Test func `a PNG file holds its pixels`() throws {
        let pixels = (0..<35).map { UInt32($0) * 0x01_0307 & 0xFF_FFFF }
        let file = PNGImage.file(pixels, width: 7)
        #expect(Array(file.prefix(8)) == [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A])
        var place = 8, chunks: [String: [UInt8]] = [:]
        while place < file.count {
            let length = file[place..<place + 4].reduce(0) { $0 << 8 | Int($1) }
            let body = Array(file[(place + 4)..<(place + 8 + length)])
            let crc = file[(place + 8 + length)..<(place + 12 + length)].reduce(UInt32(0)) {
                $0 << 8 | UInt32($1)
            }
            #expect(crc32(body) == crc)
            chunks[String(decoding: body.prefix(4), as: UTF8.self)] = Array(body.dropFirst(4))
            place += 12 + length
        }
        #expect(place == file.count && chunks["IEND"]?.isEmpty == true)
        #expect(chunks["IHDR"] == [0, 0, 0, 7, 0, 0, 0, 5, 8, 2, 0, 0, 0])
        let rows = try #require(Inflater().decompress(chunks["IDAT"] ?? [], limit: 1000))
        #expect(rows.count == 5 * 22)
        var above = [UInt8](repeating: 0, count: 21), read: [UInt32] = []
        for row in stride(from: 0, to: rows.count, by: 22) {
            #expect(rows[row] == 2)
            above = zip(rows[(row + 1)..<(row + 22)], above).map { $0 &+ $1 }
            for x in stride(from: 0, to: 21, by: 3) {
                read.append(UInt32(above[x]) << 16 | UInt32(above[x + 1]) << 8 | UInt32(above[x + 2]))
            }
        }
        #expect(read == pixels)
    }

    @Test(arguments: [
        ["screenshot", "nobody", "x.png"], ["type", "nobody", "text"], ["key", "nobody", "enter"],
    ])
    func `a machine that does not run has no screen`(arguments: [String]) throws {
        let program = try RunningProgram(BuiltPrograms.ospite, arguments, in: folder)
        #expect(program.status() == 1)
        #expect(
            program.errorText == "ospite: No machine of the name nobody that shows its screen is running: "
                + "start it with --name nobody, and without --display none.\n")
    }

    @Test(arguments: [
        (["type", "m", "naïve"], "no key for 'ï'"), (["key", "m", "hyper"], "is unknown"),
        (["screenshot", "../m", "x"], "no machine of the name"),
    ])
    func `wrong usage is said before anything is sent`(arguments: [String], words: String) throws {
        let program = try RunningProgram(BuiltPrograms.ospite, arguments, in: folder)
        #expect(program.status() == 64)
        #expect(program.errorText.contains(words), "\(program.errorText)")
    }

    @Test func `a disc for a machine without a drive, or that is none, is refused in a sentence`() throws {
        let machine = try RunningProgram(
            BuiltPrograms.ospite, ["run", "--idle", "--name", "driveless"], in: folder)
        _ = try machine.machineProcess()
        let text = try folder.file("text", bytes: 40_000), image = folder.path + "/image"
        var bytes = Data(count: 40 * 2048)
        bytes.replaceSubrange(16 * 2048 + 1..<16 * 2048 + 6, with: Data("CD001".utf8))
        try bytes.write(to: URL(fileURLWithPath: image))
        let cases: [([String], Int32, String)] = [
            (["driveless", image], 1, "This machine has no CD drive."),
            (["driveless", "--eject"], 1, "This machine has no CD drive."),
            (
                ["driveless", text], 1,
                "text is no image of a CD or DVD. Give an ISO image that you may read."
            ),
            (["driveless", folder.path], 1, "is not a regular file"),
            (["driveless", "/nowhere"], 1, "The disc cannot be used: opening /nowhere"),
            (["driveless"], 64, "Give either a FILE or --eject."),
            (["driveless", image, "--eject"], 64, "Give either a FILE or --eject."),
            (["driveless", "--eject", "--drive", "0"], 64, "--drive takes a number from 1 on."),
            (["nobody", image], 1, "No machine of the name nobody is running: start it with --name nobody."),
            (["../m", image], 64, "There is no machine of the name '../m'."),
        ]
        for (arguments, status, words) in cases {
            let program = try RunningProgram(BuiltPrograms.ospite, ["disc"] + arguments, in: folder)
            #expect(program.status() == status, "\(arguments)")
            #expect(program.errorText.contains(words), "\(program.errorText)")
            #expect(program.errorText.split(separator: "\n").count == 1)
        }
        machine.send(SIGTERM)
        #expect(machine.status() == 0)
    }

    @Test(arguments: [[0], [UInt8](repeating: 0x41, count: 4096)] as [[UInt8]])
    func `nonsense at a machine's socket is refused, and the machine goes on`(bytes: [UInt8]) throws {
        let machine = try RunningProgram(
            BuiltPrograms.ospite, ["run", "--idle", "--name", "patient"], in: folder)
        _ = try machine.machineProcess()
        let path = folder.path + "/ospite/patient/control"
        waitUntil("the machine listens") { FileManager.default.fileExists(atPath: path) }
        let frames = [bytes, MachineCommand.stop.frame, MachineCommand.insertDisc(drive: 0).frame]
        for frame in frames {
            let socket = try Descriptor.connect(unixPath: path)
            try socket.writeAll(frame)
            var answer = [UInt8](repeating: 0, count: 4096)
            guard case .moved(let count) = try socket.read(into: &answer) else {
                Issue.record("no answer")
                continue
            }
            guard case .discRefused = try MachineReport(frame: Array(answer.prefix(count))) else {
                Issue.record("not refused")
                continue
            }
        }
        // Who leaves without a word keeps nobody waiting, nor does who stays without one.
        _ = try Descriptor.connect(unixPath: path)
        let silent = try Descriptor.connect(unixPath: path)
        let eject = try RunningProgram(BuiltPrograms.ospite, ["disc", "patient", "--eject"], in: folder)
        #expect(eject.status() == 1 && eject.errorText == "ospite: This machine has no CD drive.\n")
        var answer = [UInt8](repeating: 0, count: 4096)
        guard case .moved(let count) = try silent.read(into: &answer) else {
            Issue.record("no answer for who was silent")
            return
        }
        let report = try MachineReport(frame: Array(answer.prefix(count)))
        #expect(
            report
                == .discRefused("Somebody else asks for something at the same time: try it again."))
        machine.send(SIGTERM)
        #expect(machine.status() == 0)
    }

    @Test func `ospite-display on its own says who starts it`() throws {
        let path = BuiltPrograms.ospite + "-display"
        let program = try RunningProgram(path, [], in: folder)
        #expect(program.status() == 64 && program.errorText.contains("use ospite run --display"))
    }
}
