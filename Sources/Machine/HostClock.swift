internal import DeviceModel
internal import LinuxHost

/// The machine's clock over the host's timer queue.
final class HostClock: MachineClock {
    private let queue: TimerQueue

    private final class Timer: DeviceTimer {
        let timer: TimerQueue.Timer
        init(_ timer: TimerQueue.Timer) { self.timer = timer }
        func arm(at deadline: UInt64) { timer.arm(at: deadline) }
        func disarm() { timer.disarm() }
    }

    init() throws(HostError) { queue = try TimerQueue(name: "timers") }

    var now: UInt64 { queue.now }
    var wallClock: UInt64 { HostTime.wallClock }
    func makeTimer(_ fire: @escaping @Sendable () -> Void) -> any DeviceTimer { Timer(queue.makeTimer(fire)) }
    func pause() { queue.pause() }
    func resume() { queue.resume() }
    /// The time at which a saved machine goes on. While it is paused.
    func setNow(_ time: UInt64) { queue.setNow(time) }
    func stop() { queue.stop() }
}
