internal import Glibc

/// The host's clocks, in nanoseconds.
public enum HostTime {
    /// CLOCK_MONOTONIC: since some time before the process started; never goes back.
    public static var monotonic: UInt64 { read(CLOCK_MONOTONIC) }
    /// CLOCK_REALTIME: since the Unix epoch.
    public static var wallClock: UInt64 { read(CLOCK_REALTIME) }
    /// CLOCK_PROCESS_CPUTIME_ID: CPU time used by all threads of the process.
    public static var processCPU: UInt64 { read(CLOCK_PROCESS_CPUTIME_ID) }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        // SAFETY: one out parameter; these clocks always exist.
        unsafe clock_gettime(clock, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }
}
