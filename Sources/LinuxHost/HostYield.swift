internal import Glibc

extension HostThread {
    /// Lets another thread of the host run, for spin loops.
    public static func yield() { _ = sched_yield() }
}
