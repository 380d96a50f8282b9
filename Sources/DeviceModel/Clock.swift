/// The machine's time: guest-visible nanoseconds since it was created. It stands still while the machine is
/// paused, so that saved state needs no correction. Any thread.
public protocol MachineClock: AnyObject, Sendable {
    var now: UInt64 { get }
    /// Nanoseconds since the Unix epoch, for the real-time clock.
    var wallClock: UInt64 { get }
    /// A new one-shot timer. `fire` runs on the timer thread, must not block, and may arm the timer again.
    func makeTimer(_ fire: @escaping @Sendable () -> Void) -> any DeviceTimer
}

/// A one-shot timer. Any thread.
public protocol DeviceTimer: AnyObject, Sendable {
    /// Fires once at `deadline` (in `MachineClock.now` nanoseconds); a deadline in the past fires at once,
    /// from the timer thread. Replaces an earlier deadline.
    func arm(at deadline: UInt64)
    func disarm()
}
