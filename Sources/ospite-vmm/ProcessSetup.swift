internal import CLinux
internal import Glibc
internal import MachineControl
internal import MachineSpec

/// What the process does to itself before it gives up the right to.
enum ProcessSetup {
    /// Closes every descriptor that was not passed for the machine. One more than its resources stays: the
    /// lock of its registration.
    static func closeStrangers(resourceCount: Int) {
        let closeRange = 436
        let first = Int(InheritedDescriptor.firstResource) + resourceCount + 1
        _ = ospite_syscall6(closeRange, first, Int(UInt32.max), 0, 0, 0, 0)
    }

    /// Shows the machine's name in lists of processes (at most 15 bytes).
    static func setName(_ name: MachineName) {
        // SAFETY: the call only reads the name, which lives during it.
        _ = unsafe ospite_set_thread_name(String(decoding: "vm:\(name)".utf8.prefix(15), as: UTF8.self))
    }
}
