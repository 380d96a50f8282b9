import Foundation
import Testing

/// Runs of `ospite` with small guests of ours, for the tests of accelerators and of a machine's ends.
enum AccelRun {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().path

    /// `ospite` beside the test bundle, whose path is in our own memory map.
    static let program: String = {
        let maps = (try? String(contentsOfFile: "/proc/self/maps", encoding: .utf8)) ?? ""
        for line in maps.split(separator: "\n") {
            guard let slash = line.firstIndex(of: "/"), line.hasSuffix(".xctest") else { continue }
            return URL(fileURLWithPath: String(line[slash...])).deletingLastPathComponent().path + "/ospite"
        }
        return root + "/.build/release/ospite"
    }()

    /// One folder for the whole run of the tests.
    static let folder: String = {
        let path = NSTemporaryDirectory() + "/ospite-accel-\(getpid())"
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }()

    static func tool(_ words: [String]) throws -> String {
        let process = Process(), pipe = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        process.currentDirectoryURL = URL(fileURLWithPath: root)
        process.standardOutput = pipe
        try process.run()
        let data = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(words.joined(separator: " "))")
        return String(decoding: data, as: UTF8.self).trimmingCharacters(in: .newlines)
    }

    /// Assembles Tests/Guests/machine/NAME.asm.
    static func guest(_ name: String) throws -> String {
        let path = folder + "/\(name)-\(UUID().uuidString)"
        _ = try tool([
            "nasm", "-f", "bin", "-w-number-overflow", "-I", "Tests/Guests/machine/", "-o", path,
            "Tests/Guests/machine/\(name).asm",
        ])
        return path
    }
}

/// A machine that runs.
final class AccelMachine {
    private let process = Process()
    private let toGuest = Pipe(), fromGuest = Pipe()
    private let errors = AccelRun.folder + "/errors-\(UUID().uuidString)"
    private(set) var output: [UInt8] = []

    init(_ arguments: [String]) throws {
        process.executableURL = URL(fileURLWithPath: AccelRun.program)
        process.arguments = ["run"] + arguments
        process.environment = ["XDG_RUNTIME_DIR": AccelRun.folder, "TMPDIR": AccelRun.folder]
        process.standardInput = toGuest
        process.standardOutput = fromGuest
        _ = FileManager.default.createFile(atPath: errors, contents: nil)
        process.standardError = FileHandle(forWritingAtPath: errors)
        try process.run()
        // A machine that hangs must fail its test, not stop all of them.
        Thread.detachNewThread { [process] in
            let end = Date(timeIntervalSinceNow: Self.longestRun)
            while process.isRunning, Date() < end { Thread.sleep(forTimeInterval: 1) }
            if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        }
    }

    /// In seconds, of host time: the slowest machine here needs a twentieth of it, and a slow host is no
    /// hang.
    private static let longestRun: TimeInterval = 1200

    deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

    func type(_ text: String) { toGuest.fileHandleForWriting.write(Data(text.utf8)) }
    func send(_ signal: Int32) { kill(process.processIdentifier, signal) }

    /// Reads until `text` has come, or the end.
    func read(until text: String) -> Bool {
        while !outputText.contains(text) {
            let data = fromGuest.fileHandleForReading.availableData
            if data.isEmpty { return false }
            output += data
        }
        return true
    }

    /// The status and everything that the guest said.
    func end() -> Int32 {
        output += fromGuest.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus
    }

    var outputText: String { String(decoding: output, as: UTF8.self) }
    var errorText: String { (try? String(contentsOfFile: errors, encoding: .utf8)) ?? "" }

    /// Of the machine's process: threads, and resident memory in KiB (proc(5), status).
    func size() throws -> (threads: Int, kibibytes: Int) {
        let own = "\(process.processIdentifier)"
        let names = try FileManager.default.contentsOfDirectory(atPath: "/proc")
        for name in names where Int(name) != nil {
            guard let text = try? String(contentsOfFile: "/proc/\(name)/status", encoding: .utf8) else {
                continue
            }
            func field(_ key: String) -> String? {
                text.split(separator: "\n").first { $0.hasPrefix(key + ":") }?
                    .split(whereSeparator: { $0 == "\t" || $0 == " " }).dropFirst().first.map(String.init)
            }
            guard field("PPid") == own, let threads = field("Threads").flatMap({ Int($0) }),
                let memory = field("VmRSS").flatMap({ Int($0) })
            else { continue }
            return (threads, memory)
        }
        throw CocoaError(.fileNoSuchFile)
    }
}
