internal import Glibc
internal import Synchronization

/// A clock that can be stopped, and one-shot timers on it, fired by one thread.
///
/// Time counts nanoseconds since the queue was made (or from `setNow`) and stands still between `pause` and
/// `resume`. Timers are kept in a binary heap in which each timer knows its place, so that re-arming moves it
/// and the heap never holds more entries than there are timers, however often a guest re-arms.
///
/// Confinement: any thread.
public final class TimerQueue: Sendable {
    /// A one-shot timer of a queue. Any thread.
    public final class Timer: Sendable {
        private let queue: TimerQueue
        fileprivate let fire: @Sendable () -> Void
        /// Index into the queue's heap, -1 when not armed. Guarded by the queue's lock.
        fileprivate let place = Atomic(-1)
        fileprivate var position: Int {
            get { place.load(ordering: .relaxed) }
            set { place.store(newValue, ordering: .relaxed) }
        }

        fileprivate init(_ queue: TimerQueue, _ fire: @escaping @Sendable () -> Void) {
            self.queue = queue
            self.fire = fire
        }

        /// Fires once when the queue's time reaches `deadline`, at once when it has passed. Replaces an
        /// earlier deadline.
        public func arm(at deadline: UInt64) { queue.arm(self, deadline) }

        /// Cancels the deadline. The callback may be running while this returns, but will not start later.
        public func disarm() { queue.disarm(self) }
    }

    private struct Entry {
        var deadline: UInt64
        let timer: Timer
    }
    private struct State {
        var heap: [Entry] = []
        var isPaused = false
        var isStopped = false
        /// The time for which the thread sleeps; a later deadline need not wake it.
        var sleepsUntil: UInt64 = .max
        var thread: HostThread?
    }
    private let state = Mutex(State())
    /// Held by the timer thread while callbacks run, so that `pause` can wait for them.
    private let firing = Mutex(())
    private let parker = Parker()
    /// `now` is `HostTime.monotonic - origin` while the clock runs ...
    private let origin: Atomic<UInt64>
    /// ... and this while it stands still; `running` means that it runs, `stopping` that it is about to
    /// stand still.
    private let frozen = Atomic<UInt64>(TimerQueue.running)
    private static let running = UInt64.max, stopping = UInt64.max - 1

    /// Starts the thread; `now` begins at 0.
    public init(name: String = "timers") throws(HostError) {
        origin = Atomic(HostTime.monotonic)
        let thread = try HostThread(name: name) { self.run() }
        state.withLock { state in state.thread = thread }
    }

    /// Nanoseconds of this clock.
    public var now: UInt64 {
        while true {
            let stopped = frozen.load(ordering: .acquiring)
            guard stopped != Self.stopping else {
                sched_yield()
                continue
            }
            let from = origin.load(ordering: .acquiring)
            let time = stopped == Self.running ? HostTime.monotonic &- from : stopped
            // Unchanged around the reading of the host's clock: the three belong together.
            if frozen.load(ordering: .acquiring) == stopped, origin.load(ordering: .acquiring) == from {
                return time
            }
        }
    }

    /// A new timer, not armed. `fire` runs on the timer thread, must not block, and may arm any timer.
    public func makeTimer(_ fire: @escaping @Sendable () -> Void) -> Timer { Timer(self, fire) }

    /// Timers that are armed now.
    var armedCount: Int { state.withLock { state in state.heap.count } }

    /// Stops the clock and the timers; returns when no callback runs (unless called from one). The caller
    /// holds no lock that a callback takes.
    public func pause() {
        let thread = state.withLock { state -> HostThread? in
            if !state.isPaused {
                state.isPaused = true
                // Whoever reads the host's clock later than we do sees that and waits: nobody has seen a time
                // after the one at which the clock stands.
                frozen.store(Self.stopping, ordering: .sequentiallyConsistent)
                frozen.store(HostTime.monotonic &- origin.load(ordering: .acquiring), ordering: .releasing)
            }
            return state.thread
        }
        if let thread, !thread.isCurrent { firing.withLock { _ in } }
    }

    /// Lets the clock go on from where it stopped.
    public func resume() {
        state.withLock { state in
            guard state.isPaused else { return }
            state.isPaused = false
            let time = frozen.load(ordering: .acquiring)
            origin.store(HostTime.monotonic &- time, ordering: .releasing)
            frozen.store(Self.running, ordering: .releasing)
        }
        parker.unpark()
    }

    /// Sets the time of a paused clock, when a saved machine is restored. Deadlines stay as they are.
    public func setNow(_ time: UInt64) {
        state.withLock { state in
            precondition(state.isPaused, "the time of a running clock cannot be set")
            frozen.store(min(time, Self.running - 1), ordering: .releasing)
        }
    }

    /// Ends the thread; nothing fires any more.
    public func stop() {
        let thread = state.withLock { state -> HostThread? in
            state.isStopped = true
            for entry in state.heap { entry.timer.position = -1 }
            return state.thread
        }
        parker.unpark()
        if let thread, !thread.isCurrent { thread.join() }
        // Outside the thread and its lock: timers may hold the last reference to devices.
        let left = state.withLock { state in
            defer { state.heap = [] }
            return state.heap
        }
        _ = consume left
    }

    private func run() {
        while true {
            let wakeAt: UInt64? = firing.withLock { _ in
                let (due, wakeAt) = takeDue()
                // All that were due fire before one that was re-armed meanwhile: no timer starves others.
                for timer in due { timer.fire() }
                return due.isEmpty ? wakeAt : 0
            }
            guard let wakeAt else { return }
            if wakeAt != 0 { parker.park(until: wakeAt == .max ? nil : wakeAt) }
        }
    }

    /// The timers that are due, taken out of the heap, and the host time of the next one (`.max` without
    /// one); nil when the queue ends.
    private func takeDue() -> (due: [Timer], wakeAt: UInt64?) {
        state.withLock { state in
            if state.isStopped { return ([], nil) }
            state.sleepsUntil = .max
            if state.isPaused { return ([], .max) }
            var due: [Timer] = []
            let time = now
            while let first = state.heap.first, first.deadline <= time {
                due.append(first.timer)
                Self.remove(at: 0, &state.heap)
            }
            guard let next = state.heap.first else { return (due, .max) }
            state.sleepsUntil = next.deadline
            let (wakeAt, overflow) = next.deadline.addingReportingOverflow(origin.load(ordering: .acquiring))
            return (due, overflow ? .max : wakeAt)
        }
    }

    private func arm(_ timer: Timer, _ deadline: UInt64) {
        let mustWake = state.withLock { state -> Bool in
            guard !state.isStopped else { return false }
            if timer.position < 0 {
                timer.position = state.heap.count
                state.heap.append(Entry(deadline: deadline, timer: timer))
            } else {
                state.heap[timer.position].deadline = deadline
            }
            Self.settle(timer.position, &state.heap)
            guard !state.isPaused, deadline < state.sleepsUntil else { return false }
            // The thread reads the heap again before it sleeps; until then nobody else need wake it.
            state.sleepsUntil = deadline
            return true
        }
        if mustWake { parker.unpark() }
    }

    private func disarm(_ timer: Timer) {
        state.withLock { state in
            if timer.position >= 0, !state.isStopped { Self.remove(at: timer.position, &state.heap) }
        }
    }

    // MARK: The heap

    private static func remove(at index: Int, _ heap: inout [Entry]) {
        heap[index].timer.position = -1
        let last = heap.removeLast()
        guard index < heap.count else { return }
        heap[index] = last
        last.timer.position = index
        settle(index, &heap)
    }

    /// Moves the entry at `start` up or down to where its deadline belongs.
    private static func settle(_ start: Int, _ heap: inout [Entry]) {
        var index = start
        while index > 0, heap[index].deadline < heap[(index - 1) / 2].deadline {
            exchange(index, (index - 1) / 2, &heap)
            index = (index - 1) / 2
        }
        while true {
            var least = index
            for child in [2 * index + 1, 2 * index + 2]
            where child < heap.count && heap[child].deadline < heap[least].deadline { least = child }
            if least == index { return }
            exchange(index, least, &heap)
            index = least
        }
    }

    private static func exchange(_ one: Int, _ other: Int, _ heap: inout [Entry]) {
        heap.swapAt(one, other)
        heap[one].timer.position = one
        heap[other].timer.position = other
    }
}
