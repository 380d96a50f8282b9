import Foundation
import Testing

/// The small guests of `Tests/Guests`, each of which checks one corner of the processor and reports on its
/// serial line.
enum GuestProgram {
    static let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("Guests")
    static let assembler = "/usr/bin/nasm"
    static var canAssemble: Bool { FileManager.default.isExecutableFile(atPath: assembler) }

    /// Their names, without ".asm".
    static let names: [String] = {
        let files = (try? FileManager.default.contentsOfDirectory(atPath: sources.path)) ?? []
        return files.filter { $0.hasSuffix(".asm") }.map { String($0.dropLast(4)) }.sorted()
    }()

    /// The folder of this test bundle, which our own memory map names: the programs lie beside it.
    static let programs: String = {
        let maps = (try? String(contentsOfFile: "/proc/self/maps", encoding: .utf8)) ?? ""
        for line in maps.split(separator: "\n") where line.hasSuffix(".xctest") {
            guard let slash = line.firstIndex(of: "/") else { continue }
            return URL(fileURLWithPath: String(line[slash...])).deletingLastPathComponent().path
        }
        return ".build/release"
    }()

    struct Outcome {
        let status: Int32
        let output: String
        let errors: String
        func lines(_ prefix: String) -> [String] {
            output.split(separator: "\n").filter { $0.hasPrefix(prefix) }.map(String.init)
        }
    }

    /// Runs a program to its end, at most 180 s.
    static func execute(_ program: String, _ arguments: [String], in folder: URL) throws -> Outcome {
        let process = Process()
        let ended = DispatchSemaphore(value: 0)
        let output = folder.appendingPathComponent("output"), errors = folder.appendingPathComponent("errors")
        try Data().write(to: output)
        try Data().write(to: errors)
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.environment = ["XDG_RUNTIME_DIR": folder.path, "TMPDIR": folder.path]
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = try FileHandle(forWritingTo: output)
        process.standardError = try FileHandle(forWritingTo: errors)
        process.terminationHandler = { _ in ended.signal() }
        try process.run()
        if ended.wait(timeout: .now() + 180) == .timedOut {
            Issue.record("\(program) did not end")
            kill(process.processIdentifier, SIGKILL)
            ended.wait()
        }
        let isExit = process.terminationReason == .exit
        return Outcome(
            status: isExit ? process.terminationStatus : -process.terminationStatus,
            output: String(decoding: try Data(contentsOf: output), as: UTF8.self),
            errors: String(decoding: try Data(contentsOf: errors), as: UTF8.self))
    }

    /// Assembles the guest `name` and runs it on the software CPU.
    static func run(_ name: String) throws -> Outcome {
        let folder = URL(fileURLWithPath: NSTemporaryDirectory())
            .appendingPathComponent("ospite-guest-\(UUID().uuidString)")
        try FileManager.default.createDirectory(
            at: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        defer { try? FileManager.default.removeItem(at: folder) }
        let image = folder.appendingPathComponent(name + ".bin").path
        let assembly = try execute(
            assembler,
            [
                "-f", "bin", "-w-number-overflow", "-I", sources.path + "/", "-o", image,
                sources.appendingPathComponent(name + ".asm").path,
            ], in: folder)
        try #require(assembly.status == 0, "\(assembly.errors)")
        return try execute(
            programs + "/ospite",
            ["run", "--accel", "soft", "--kernel", image, "--debug-exit", "--memory", "64M"], in: folder)
    }
}

@Suite(.serialized) struct GuestProgramTests {
    @Test func `the guest programs are found`() {
        #expect(GuestProgram.names.count >= 8)
    }

    /// The last line is "DONE passed failed"; the exit status is `(0 << 1) | 1` when nothing failed.
    @Test(
        .enabled(if: GuestProgram.canAssemble, "nasm is not installed: apt-get install nasm"),
        arguments: GuestProgram.names)
    func `every check of a guest program passes on the software CPU`(name: String) throws {
        let outcome = try GuestProgram.run(name)
        #expect(outcome.lines("FAIL ") == [])
        let passed = outcome.lines("PASS ").count
        #expect(passed > 0)
        #expect(outcome.lines("DONE ") == ["DONE \(passed) 0"], "\(outcome.output.suffix(400))")
        #expect(outcome.status == 1, "\(outcome.errors)")
    }
}
