import Foundation
import Testing

/// One run of `ospite run` as a child of the test, with its console on pipes.
///
/// A machine that hangs is found: each wait has an end, after which the machine is killed and the test fails
/// with the last lines of the console. Confinement: the test's thread; the console is filled by a reader
/// thread.
final class GuestMachine {
    /// Seconds until a machine of a usual host counts as hung: about twenty times what a boot takes on an
    /// idle one.
    static let patience = 240.0

    private let process = Process()
    private let ended = DispatchSemaphore(value: 0)
    private let keyboard = Pipe()
    private let screen = Pipe()
    private let messages = Pipe()
    private let console = Transcript()
    private let errors = Transcript()
    private let deadline: Date
    /// How far `wait(for:)` has read.
    private var position = 0

    /// Starts the machine; `folder` gets what it keeps at run time.
    init(_ arguments: [String], in folder: ScratchFolder, patience: Double = GuestMachine.patience) throws {
        // The deadline only finds hangs, and a slow or busy host is none.
        deadline = Date(timeIntervalSinceNow: 3 * patience)
        process.executableURL = URL(fileURLWithPath: BuiltPrograms.ospite)
        process.arguments = ["run"] + arguments
        process.environment = ["XDG_RUNTIME_DIR": folder.path, "TMPDIR": folder.path]
        process.standardInput = keyboard
        process.standardOutput = screen
        process.standardError = messages
        process.terminationHandler = { [ended] _ in ended.signal() }
        console.follow(screen.fileHandleForReading)
        errors.follow(messages.fileHandleForReading)
        try process.run()
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        screen.fileHandleForReading.readabilityHandler = nil
        messages.fileHandleForReading.readabilityHandler = nil
    }

    var identifier: pid_t { process.processIdentifier }
    var consoleText: String { console.text }
    var errorText: String { errors.text }
    func send(_ signal: Int32) { kill(identifier, signal) }
    func type(_ text: String) { keyboard.fileHandleForWriting.write(Data(text.utf8)) }

    /// The lines that the guest wrote, without ends of lines.
    var consoleLines: [String] {
        consoleText.split(whereSeparator: \.isNewline).map { $0.trimmingCharacters(in: .whitespaces) }
    }

    /// What the guest wrote for us to compare.
    var results: [String] {
        consoleLines.filter { $0.hasPrefix("RESULT ") }.map { String($0.dropFirst("RESULT ".count)) }
    }

    /// Waits until the guest has written `text`, after all that was waited for before.
    func wait(for text: String) throws {
        while Date() < deadline {
            let (end, mayCome) = (console.end(of: text, from: position), process.isRunning)
            if let end {
                position = end
                return
            }
            guard mayCome else { break }
            usleep(20_000)
        }
        throw GuestProblem("the guest did not write \"\(text)\"", self)
    }

    /// The exit status, or minus the signal, once all of the console was read.
    func status() throws -> Int32 {
        // A test that took long until here still leaves the machine the time to end.
        guard ended.wait(timeout: .now() + max(30, deadline.timeIntervalSinceNow)) == .success else {
            let problem = GuestProblem("the machine hung", self)
            kill(identifier, SIGKILL)
            throw problem
        }
        ended.signal()
        console.waitUntilEnd()
        errors.waitUntilEnd()
        return process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus
    }

    /// The machine's own process, once it is in its sandbox and shows its name.
    func machineProcess() throws -> HostProcess {
        while Date() < deadline, process.isRunning {
            let children = HostProcess.all().filter { $0.parent == identifier }
            if let machine = children.first(where: { $0.name.hasPrefix("vm:") }) { return machine }
            usleep(20_000)
        }
        throw GuestProblem("the machine's process did not appear", self)
    }

    /// A counter that `--stats` printed after `label`.
    func statistic(_ label: String) -> Int? {
        guard let range = errorText.range(of: label + " ") else { return nil }
        return Int(errorText[range.upperBound...].prefix { $0.isNumber })
    }

    /// `--stats` in one line, for the test's report.
    var statistics: String {
        errorText.split(separator: "\n").filter { !$0.hasPrefix("ospite:") }.joined(separator: ", ")
    }
}

/// What went wrong with a machine, with the end of its console.
struct GuestProblem: Error, CustomStringConvertible {
    let description: String

    init(_ what: String, _ machine: GuestMachine) {
        let tail = machine.consoleLines.suffix(30).joined(separator: "\n  | ")
        description = "\(what)\nconsole:\n  | \(tail)\nstandard error:\n\(machine.errorText)"
    }
}

/// The text that arrives on a pipe. Confinement: any thread.
final class Transcript: @unchecked Sendable {
    private let lock = NSLock()
    private var bytes = Data()
    private let ended = DispatchSemaphore(value: 0)

    func follow(_ handle: FileHandle) {
        handle.readabilityHandler = { [self] handle in
            let more = handle.availableData
            if more.isEmpty {
                handle.readabilityHandler = nil
                ended.signal()
            } else {
                lock.withLock { bytes.append(more) }
            }
        }
    }

    var text: String { lock.withLock { String(decoding: bytes, as: UTF8.self) } }

    /// Where `text` ends, when it is there at or after `position`. Both count bytes.
    func end(of text: String, from position: Int) -> Int? {
        lock.withLock { bytes.range(of: Data(text.utf8), in: position..<bytes.count)?.upperBound }
    }

    /// The writers are gone; a few seconds are plenty for the rest to arrive.
    func waitUntilEnd() {
        if ended.wait(timeout: .now() + 10) == .success { ended.signal() }
    }
}
