/// `value * multiplier / divisor`, rounded down and saturating: no operand traps.
func scaled(_ value: UInt64, by multiplier: UInt64, over divisor: UInt64) -> UInt64 {
    let product = value.multipliedFullWidth(by: multiplier)
    guard product.high < divisor else { return .max }
    return divisor.dividingFullWidth(product).quotient
}

/// Converts between the machine clock's nanoseconds and the ticks of a crystal of `frequency` Hz that has
/// run since the clock's zero.
struct TickRate {
    static let nanosecondsPerSecond: UInt64 = 1_000_000_000
    let frequency: UInt64

    /// Whole ticks at `time` nanoseconds.
    func ticks(at time: UInt64) -> UInt64 {
        scaled(time, by: frequency, over: Self.nanosecondsPerSecond)
    }

    /// The first nanosecond at which `ticks(at:)` has reached `tick`.
    func time(of tick: UInt64) -> UInt64 {
        let floor = scaled(tick, by: Self.nanosecondsPerSecond, over: frequency)
        return floor == .max || ticks(at: floor) >= tick ? floor : floor + 1
    }
}
