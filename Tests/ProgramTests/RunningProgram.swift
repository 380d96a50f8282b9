import Foundation
import Testing

/// Where the programs under test are: beside the test bundle, whose path is in our own memory map.
enum BuiltPrograms {
    static let folder: String = {
        let maps = (try? String(contentsOfFile: "/proc/self/maps", encoding: .utf8)) ?? ""
        for line in maps.split(separator: "\n") {
            guard let slash = line.firstIndex(of: "/"), line.hasSuffix(".xctest") else { continue }
            return URL(fileURLWithPath: String(line[slash...])).deletingLastPathComponent().path
        }
        return ".build/release"
    }()
    static var ospite: String { folder + "/ospite" }
    static var machine: String { folder + "/ospite-vmm" }
}

/// A folder of one test, removed with it.
final class ScratchFolder {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "/ospite-test-" + UUID().uuidString
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// An empty file of a size.
    func file(_ name: String, bytes: Int) throws -> String {
        let file = path + "/" + name
        try Data(count: bytes).write(to: URL(fileURLWithPath: file))
        return file
    }
}

/// One run of a program of ours, as a child of the test.
final class RunningProgram {
    private let process = Process()
    private let ended = DispatchSemaphore(value: 0)
    private let folder: ScratchFolder
    let input: FileHandle
    let output: FileHandle
    private let errors: String

    /// `terminal`: a descriptor that serves as standard input and output.
    init(_ program: String, _ arguments: [String], in folder: ScratchFolder, terminal: FileHandle? = nil)
        throws
    {
        self.folder = folder
        errors = folder.path + "/errors-\(UUID().uuidString)"
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.environment = ["XDG_RUNTIME_DIR": folder.path, "TMPDIR": folder.path]
        let toChild = Pipe(), fromChild = Pipe()
        input = toChild.fileHandleForWriting
        output = fromChild.fileHandleForReading
        process.standardInput = terminal ?? toChild as Any
        process.standardOutput = terminal ?? fromChild as Any
        try Data().write(to: URL(fileURLWithPath: errors))
        process.standardError = FileHandle(forWritingAtPath: errors)
        process.terminationHandler = { [ended] _ in ended.signal() }
        try process.run()
    }

    deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

    var identifier: pid_t { process.processIdentifier }
    var errorText: String { (try? String(contentsOfFile: errors, encoding: .utf8)) ?? "" }
    func send(_ signal: Int32) { kill(identifier, signal) }

    /// The exit status, or minus the signal. A program that has not ended after a minute is killed.
    func status() -> Int32 {
        if ended.wait(timeout: .now() + 60) == .timedOut {
            Issue.record("the program did not end: \(errorText)")
            kill(identifier, SIGKILL)
            ended.wait()
        }
        ended.signal()
        return process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus
    }

    /// The machine's process, once it is there and in its sandbox (it shows its name by then).
    func machineProcess() throws -> pid_t {
        var found: pid_t?
        waitUntil("the machine's process is there") {
            found = Self.processes().first { $0.parent == identifier && $0.name.hasPrefix("vm:") }?.identifier
            return found != nil
        }
        return try #require(found)
    }

    struct Entry { let identifier: pid_t, parent: pid_t, name: String, state: String }

    /// All processes of this computer (proc(5), stat).
    static func processes() -> [Entry] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { name in
            guard let identifier = pid_t(name),
                let text = try? String(contentsOfFile: "/proc/\(name)/stat", encoding: .utf8),
                let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")")
            else { return nil }
            let fields = text[close...].split(separator: " ")
            guard fields.count > 2, let parent = pid_t(fields[2]) else { return nil }
            let command = String(text[text.index(after: open)..<close])
            return Entry(identifier: identifier, parent: parent, name: command, state: String(fields[1]))
        }
    }

    static func isAlive(_ identifier: pid_t) -> Bool {
        processes().contains { $0.identifier == identifier && $0.state != "Z" && $0.state != "X" }
    }
}

/// Waits, at most half a minute, for something that another process does.
func waitUntil(_ what: String, _ condition: () -> Bool) {
    for _ in 0..<3000 {
        if condition() { return }
        usleep(10_000)
    }
    Issue.record("it did not happen: \(what)")
}
