internal import CLinux
internal import Glibc
public import LinuxHost

/// What a machine's process gives up for ever before it looks at anything that a guest or an image wrote.
public enum ProcessPrivileges {
    /// The user that owns nothing ("nobody" on Debian).
    static let nobody: UInt32 = 65_534

    /// Gives up core dumps, being traced, root's identity, new privileges and the whole file system. Call
    /// while the process has one thread.
    public static func renounce() throws(HostError) {
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        // SAFETY: the kernel reads our own structure.
        guard unsafe setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none) == 0 else {
            throw .last("giving up core dumps")
        }
        let setDumpable = 4, setNoNewPrivileges = 38  // linux/prctl.h
        try giveUpRoot()
        try control(setDumpable, 0, "giving up being traced")
        try control(setNoNewPrivileges, 1, "giving up new privileges")
        try giveUpFiles()
    }

    /// A process that root started goes on as nobody: it needs no file by name any more.
    private static func giveUpRoot() throws(HostError) {
        guard geteuid() == 0 else { return }
        guard setgroups(0, nil) == 0, setgid(nobody) == 0, setuid(nobody) == 0 else {
            // A user namespace that maps only root has nobody else to become; its root owns nothing outside.
            guard ospite_get_errno() == EINVAL || ospite_get_errno() == EPERM else {
                throw .last("giving up root")
            }
            return
        }
    }

    private static func control(_ operation: Int, _ value: Int, _ action: String) throws(HostError) {
        let prctl = 157
        guard ospite_syscall6(prctl, operation, value, 0, 0, 0, 0) == 0 else { throw .last(action) }
    }

    /// An empty Landlock rule set: no path can be used at all. A kernel without Landlock leaves this to the
    /// seccomp lists.
    private static func giveUpFiles() throws(HostError) {
        let createRuleset = 444, restrictSelf = 446
        let version = ospite_syscall6(createRuleset, 0, 0, 1, 0, 0, 0)
        guard version >= 1 else { return }
        // linux/landlock.h: le64 file-system rights, since version 4 le64 network rights.
        var handled = [Landlock.fileRights(version: version), version >= 4 ? Landlock.networkRights : 0]
        let size = version >= 4 ? 16 : 8
        // SAFETY: the kernel reads at most `size` bytes of the array's 16.
        let ruleset = unsafe handled.withUnsafeMutableBytes { bytes in
            ospite_syscall6(createRuleset, Int(bitPattern: bytes.baseAddress), size, 0, 0, 0, 0)
        }
        guard ruleset >= 0 else { throw .last("giving up the file system") }
        defer { _ = close(Int32(ruleset)) }
        guard ospite_syscall6(restrictSelf, ruleset, 0, 0, 0, 0, 0) == 0 else {
            throw .last("giving up the file system")
        }
    }
}

/// The rights that each version of Landlock knows (landlock(7)): handling them all and allowing none forbids
/// all.
enum Landlock {
    static let networkRights: UInt64 = 0b11

    static func fileRights(version: Int) -> UInt64 {
        switch version {
        case 1: (1 << 13) - 1
        case 2: (1 << 14) - 1
        case 3, 4: (1 << 15) - 1
        default: (1 << 16) - 1
        }
    }
}
