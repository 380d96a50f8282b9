import Foundation

/// A process of this computer, as /proc shows it (proc(5), /proc/PID/stat).
struct HostProcess {
    let identifier: pid_t
    let parent: pid_t
    let name: String
    let state: String
    /// Processor time in user and kernel mode of all its threads, in seconds.
    let processorTime: Double

    init?(_ identifier: pid_t) {
        guard let text = try? String(contentsOfFile: "/proc/\(identifier)/stat", encoding: .utf8),
            let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")")
        else { return nil }
        // The first field after the name is number 3.
        let fields = text[text.index(after: close)...].split(separator: " ")
        guard fields.count > 13, let parent = pid_t(fields[1]), let user = Double(fields[11]),
            let system = Double(fields[12])
        else { return nil }
        self.identifier = identifier
        self.parent = parent
        name = String(text[text.index(after: open)..<close])
        state = String(fields[0])
        processorTime = (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    static func all() -> [HostProcess] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { pid_t($0).flatMap { HostProcess($0) } }
    }

    static func isAlive(_ identifier: pid_t) -> Bool {
        guard let process = HostProcess(identifier) else { return false }
        return process.state != "Z" && process.state != "X"
    }
}
