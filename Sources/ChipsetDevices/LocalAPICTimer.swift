/// The timer of a local APIC. Its clock runs at 1 GHz, so that one count at divide-by-one is one nanosecond.
struct LocalAPICTimer: Equatable, Sendable {
    var initialCount: UInt32 = 0
    /// Divide configuration register, bits 3, 1 and 0.
    var divideConfiguration: UInt32 = 0
    /// The machine time at which the count reaches zero, or the TSC deadline; nil when it does not run.
    var deadline: UInt64?
    /// The machine time at which an expiry was last noticed.
    var lastExpiry: UInt64 = 0
    /// IA32_TSC_DEADLINE as the guest wrote it; 0 when disarmed or fired.
    var tscDeadline: UInt64 = 0

    /// 1, 2, 4...128 (SDM vol. 3 figure 11-10).
    var divisor: UInt64 {
        let code = (divideConfiguration >> 1 & 4) | (divideConfiguration & 3)
        return code == 7 ? 1 : 2 << UInt64(code)
    }

    private var period: UInt64 { UInt64(initialCount) * divisor }

    mutating func setInitialCount(_ count: UInt32, now: UInt64) {
        initialCount = count
        deadline = count == 0 ? nil : now &+ period
    }

    mutating func setDivideConfiguration(_ value: UInt32, now: UInt64, isCounting: Bool) {
        let count = currentCount(now: now)
        divideConfiguration = value & 0xB
        if isCounting, deadline != nil { deadline = now &+ UInt64(count) * divisor }
    }

    func currentCount(now: UInt64) -> UInt32 {
        guard initialCount != 0, let deadline, deadline > now else { return 0 }
        return UInt32(truncatingIfNeeded: min((deadline - now + divisor - 1) / divisor, UInt64(initialCount)))
    }

    /// Lets the time pass; true when the timer expired, once however many periods went by.
    mutating func advance(to now: UInt64, isPeriodic: Bool) -> Bool {
        guard let deadline, deadline <= now else { return false }
        tscDeadline = 0
        lastExpiry = now
        if isPeriodic, period > 0 {
            self.deadline = deadline &+ ((now - deadline) / period &+ 1) &* period
        } else {
            self.deadline = nil
        }
        return true
    }
}
