internal import CLinux
internal import Glibc
public import LinuxHost
public import MachineSpec

/// The fence around a machine's process. `confineProcess` goes around all its threads; each thread then
/// narrows it with `confine`. Nothing widens it again.
public struct Sandbox: Sendable {
    private let otherwise: UInt32

    public init(mode: SandboxMode) {
        otherwise = mode == .on ? BPFProgram.Verdict.killProcess : BPFProgram.Verdict.log
    }

    /// The program for one class, or for the whole process.
    public func program(for threadClass: ThreadClass?) -> BPFProgram {
        BPFProgram(
            rules: threadClass?.rules ?? ThreadClass.processRules,
            otherwise: otherwise,
            processID: UInt32(bitPattern: getpid()))
    }

    /// Puts all threads of the process, and those that they start, inside the union of the lists. Needs
    /// `ProcessPrivileges.renounce` first, and comes before any `confine`. Throws when the host's kernel has
    /// no seccomp filters.
    public func confineProcess() throws(HostError) {
        let synchronizeThreads = 1  // SECCOMP_FILTER_FLAG_TSYNC
        try install(program(for: nil), flags: synchronizeThreads)
    }

    /// Puts the calling thread inside the list of its class.
    public func confine(_ threadClass: ThreadClass) throws(HostError) {
        try install(program(for: threadClass), flags: 0)
    }

    private func install(_ program: BPFProgram, flags: Int) throws(HostError) {
        let seccomp = 317, setModeFilter = 1
        // linux/filter.h. An instruction: le16 code, u8 jump when true, u8 jump when false, le32 operand.
        let filters = program.instructions.map {
            UInt64($0.code) | UInt64($0.whenTrue) << 16 | UInt64($0.whenFalse) << 24 | UInt64($0.operand)
                << 32
        }
        // SAFETY: the kernel copies both arrays during the call; the count is the array's own.
        let result = unsafe filters.withUnsafeBytes { instructions in
            // A program: le16 count, padding, pointer.
            let header = [UInt64(filters.count), UInt64(UInt(bitPattern: instructions.baseAddress))]
            return unsafe header.withUnsafeBytes { bytes in
                ospite_syscall6(seccomp, setModeFilter, flags, Int(bitPattern: bytes.baseAddress), 0, 0, 0)
            }
        }
        guard result == 0 else {
            throw .last("entering the sandbox (the host's kernel needs seccomp filters)")
        }
    }
}
