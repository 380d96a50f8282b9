internal import CLinux
internal import Glibc
internal import LinuxHost
internal import MachineSpec
internal import VMMSandbox

/// Proof that the sandbox holds, from inside it: for each class of thread a child process enters the sandbox
/// and tries what no machine may do. `ospite-vmm --sandbox-self-test` prints one line per class.
enum SandboxSelfTest {
    /// What must fail, and one call that must not.
    private static let forbidden = [
        "open", "openat", "socket", "execve", "fork", "write-execute", "ioctl", "ring",
    ]
    private static let allowed = "clock"
    /// What a probe ends with when the call went through.
    private static let wentThrough: Int32 = 7
    private static let wasRefused: Int32 = 8

    static func run() -> Int32 {
        var failures = 0
        let sandbox = Sandbox(mode: .on)
        for threadClass in ThreadClass.allCases {
            let held = forbidden.filter { call in
                let result = attempt(threadClass, call)
                return result == wasRefused || result == -SIGSYS
            }
            let calls = Set(threadClass.rules.map(\.call)).count
            let works = attempt(threadClass, allowed) == wentThrough
            let missing = forbidden.filter { !held.contains($0) }
            failures += missing.count + (works ? 0 : 1)
            print(
                "\(threadClass.rawValue): \(calls) system calls, "
                    + "\(sandbox.program(for: threadClass).instructions.count) instructions, "
                    + (missing.isEmpty ? "all \(held.count) forbidden calls fail" : "NOT stopped: \(missing)")
                    + (works ? "" : ", and an allowed call fails"))
        }
        print("process: \(sandbox.program(for: nil).instructions.count) instructions")
        return failures == 0 ? 0 : 1
    }

    /// In the child: enters the sandbox, then tries the call.
    static func probe(threadClass name: String, call: String) -> Int32 {
        guard let threadClass = ThreadClass(rawValue: name) else { return 64 }
        do throws(HostError) {
            try ProcessPrivileges.renounce()
            let sandbox = Sandbox(mode: .on)
            try sandbox.confineProcess()
            try sandbox.confine(threadClass)
        } catch {
            VMMProgram.say("\(error)")
            return 1
        }
        return tryCall(call) ? wentThrough : wasRefused
    }

    private static func tryCall(_ call: String) -> Bool {
        // SAFETY: constant strings, empty lists and our own memory; every call is expected to fail.
        switch call {
        case "open": return ospite_syscall6(2, path("/dev/null"), 0, 0, 0, 0, 0) >= 0
        case "openat": return unsafe ospite_open("/dev/null", O_RDONLY, 0) >= 0
        case "socket": return socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0) >= 0
        case "execve":
            _ = ospite_syscall6(59, path("/bin/true"), 0, 0, 0, 0, 0)
            return false
        case "fork": return ospite_syscall6(56, Int(SIGCHLD), 0, 0, 0, 0, 0) >= 0
        case "write-execute":
            let everything = PROT_READ | PROT_WRITE | PROT_EXEC
            return unsafe mmap(nil, 4096, everything, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED
        case "ioctl":
            var size: Int32 = 0
            return unsafe ospite_ioctl(STDERR_FILENO, UInt(FIONREAD), &size) >= 0
        case "ring":
            var parameters = [UInt64](repeating: 0, count: 15)
            return ospite_syscall6(425, 1, unsafe address(&parameters), 0, 0, 0, 0) >= 0
        case "clock":
            var time = timespec()
            return ospite_syscall6(228, Int(CLOCK_MONOTONIC), unsafe address(&time), 0, 0, 0, 0) == 0
        default: return false
        }
    }

    private static func address<T>(_ pointer: UnsafeMutablePointer<T>) -> Int { Int(bitPattern: pointer) }
    private static func path(_ text: StaticString) -> Int { unsafe Int(bitPattern: text.utf8Start) }

    /// Runs one probe in a child: its exit status, or minus the signal that killed it.
    private static func attempt(_ threadClass: ThreadClass, _ call: String) -> Int32 {
        // SAFETY: argv is a NULL-terminated list of strings freed below; the environment is empty.
        let words = ["ospite-vmm", "--sandbox-probe", threadClass.rawValue, call]
        var argv: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) }
        unsafe argv.append(nil)
        defer { unsafe argv.forEach { unsafe free($0) } }
        var environment: [UnsafeMutablePointer<CChar>?] = unsafe [nil]
        var child: pid_t = 0
        guard unsafe posix_spawn(&child, "/proc/self/exe", nil, nil, argv, &environment) == 0 else {
            return wentThrough
        }
        var status: Int32 = 0
        while unsafe waitpid(child, &status, 0) < 0, ospite_get_errno() == EINTR {}
        let signal = status & 0x7F
        return signal == 0 ? (status >> 8) & 0xFF : -signal
    }
}
