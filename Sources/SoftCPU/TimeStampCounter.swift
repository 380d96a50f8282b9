import CGate
import LinuxHost

/// The host's time-stamp counter, which the guest's is an offset of.
public enum TimeStampCounter {
    public static var now: UInt64 { ospite_rdtsc() }

    /// Its frequency in Hz: from the hypervisor's or processor's own leaves, else measured over 5 ms.
    public static func frequency() -> UInt64 {
        if let stated = statedFrequency() { return stated }
        let startTime = HostTime.monotonic, start = now
        let parker = Parker()
        parker.park(until: startTime + 5_000_000)
        let ticks = now &- start, time = HostTime.monotonic - startTime
        let (product, overflowed) = ticks.multipliedReportingOverflow(by: 1_000_000_000)
        // kHz steps hide the jitter of the measurement.
        return overflowed || time == 0 ? 1_000_000_000 : product / time / 1000 * 1000
    }

    private static func statedFrequency() -> UInt64? {
        var leaf: [UInt32] = [0, 0, 0, 0]
        // SAFETY: the array holds the four words that CPUID fills.
        unsafe ospite_cpuid(0x4000_0000, 0, &leaf)
        // Hypervisors that offer leaf 0x40000010 say the TSC's kHz there.
        guard leaf[0] >= 0x4000_0010, leaf[0] < 0x4000_1000 else { return nil }
        unsafe ospite_cpuid(0x4000_0010, 0, &leaf)
        return leaf[0] > 100_000 ? UInt64(leaf[0]) * 1000 : nil
    }
}
