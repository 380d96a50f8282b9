public import DeviceModel
import Synchronization

/// A clock that moves only when a test says so. Timers fire on the caller's thread, in the order of their
/// deadlines. Any thread, but one at a time moves it.
public final class FakeClock: MachineClock {
    private struct Entry {
        var deadline: UInt64?
        let fire: @Sendable () -> Void
    }
    private struct State {
        var now: UInt64
        var entries: [Entry] = []
        var fired = 0
    }
    private let state: Mutex<State>
    /// Unix time at machine time zero, in nanoseconds.
    public let epoch: UInt64
    /// More firings than this in one call mean a timer that arms itself in the past for ever.
    public static let firingLimit = 2_000_000

    /// 2026-01-01 00:00:00 by default.
    public init(now: UInt64 = 0, epoch: UInt64 = 1_767_225_600_000_000_000) {
        state = Mutex(State(now: now))
        self.epoch = epoch
    }

    public var now: UInt64 { state.withLock { $0.now } }
    public var wallClock: UInt64 { epoch &+ now }
    /// Timers that are armed.
    public var armedCount: Int { state.withLock { $0.entries.count { $0.deadline != nil } } }
    /// Firings since the clock was made.
    public var firedCount: Int { state.withLock { $0.fired } }

    public func makeTimer(_ fire: @escaping @Sendable () -> Void) -> any DeviceTimer {
        let index = state.withLock { state in
            state.entries.append(Entry(fire: fire))
            return state.entries.count - 1
        }
        return FakeTimer(clock: self, index: index)
    }

    fileprivate func arm(_ index: Int, _ deadline: UInt64?) {
        state.withLock { $0.entries[index].deadline = deadline }
    }

    /// Moves the time, stopping at every deadline on the way to fire its timer.
    public func advance(by nanoseconds: UInt64) {
        let target = now + nanoseconds
        runTimers(until: target)
        state.withLock { $0.now = target }
    }

    /// Moves the time at once and then fires what became due: a host that was late.
    public func jump(by nanoseconds: UInt64) {
        let target = state.withLock { state in
            state.now += nanoseconds
            return state.now
        }
        runTimers(until: target)
    }

    private func runTimers(until target: UInt64) {
        for _ in 0..<Self.firingLimit {
            let fire: (@Sendable () -> Void)? = state.withLock { state in
                var next: (index: Int, deadline: UInt64)?
                for (index, entry) in state.entries.enumerated() {
                    guard let deadline = entry.deadline, deadline <= target else { continue }
                    if next == nil || deadline < next!.deadline { next = (index, deadline) }
                }
                guard let next else { return nil }
                state.now = max(state.now, next.deadline)
                state.entries[next.index].deadline = nil
                state.fired += 1
                return state.entries[next.index].fire
            }
            guard let fire else { return }
            fire()
        }
        preconditionFailure("a timer arms itself in the past for ever")
    }
}

private final class FakeTimer: DeviceTimer {
    private let clock: FakeClock
    private let index: Int
    init(clock: FakeClock, index: Int) {
        self.clock = clock
        self.index = index
    }
    func arm(at deadline: UInt64) { clock.arm(index, deadline) }
    func disarm() { clock.arm(index, nil) }
}
