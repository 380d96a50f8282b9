internal import LinuxHost
internal import Synchronization

/// The last bytes that a guest wrote, and how far a reader has got. Its size never changes.
///
/// Confinement: any thread appends; one consumer at a time peeks and consumes.
final class OutputQueue: Sendable {
    /// How long one `append` may wait for a slow reader, in nanoseconds.
    static let patience: UInt64 = 500_000_000

    private struct State {
        /// A ring: byte number n since the start is at n modulo the capacity.
        var storage: [UInt8]
        /// Bytes appended, and bytes that the consumer is done with, since the start.
        var end: UInt64 = 0
        var cursor: UInt64 = 0
        var hasConsumer: Bool
        /// A reader let us wait in vain and has not read since: nobody waits for it again.
        var isStalled = false
        var waiters = 0
        var dropped: UInt64 = 0
        /// Whether bytes without a consumer count as dropped, or are kept for the next one.
        var dropsWithoutConsumer = false

        var waitingCount: Int { hasConsumer ? Int(end - cursor) : 0 }

        mutating func store(_ bytes: ArraySlice<UInt8>) {
            for byte in bytes {
                storage[Int(end % UInt64(storage.count))] = byte
                end += 1
            }
        }
    }
    private let state: Mutex<State>
    private let roomMade = Semaphore()
    private let patience: UInt64
    let capacity: Int

    init(capacity: Int = 64 << 10, hasConsumer: Bool, patience: UInt64 = OutputQueue.patience) {
        self.capacity = capacity
        self.patience = patience
        state = Mutex(State(storage: [UInt8](repeating: 0, count: capacity), hasConsumer: hasConsumer))
    }

    var dropped: UInt64 { state.withLock { state in state.dropped } }
    var isEmpty: Bool { state.withLock { state in state.waitingCount == 0 } }

    /// Appends `bytes`, calling `kick` when there is something new for the consumer.
    func append(_ bytes: [UInt8], kick: () -> Void) {
        var rest = bytes[...]
        var deadline: UInt64?
        while !rest.isEmpty {
            let (taken, mayWait) = state.withLock { state in Self.append(rest, &state) }
            rest = rest.dropFirst(taken)
            if taken > 0 { kick() }
            guard !rest.isEmpty, mayWait else { return }
            let until = deadline ?? HostTime.monotonic &+ patience
            deadline = until
            let hadRoom = roomMade.wait(until: until)
            state.withLock { state in
                state.waiters -= 1
                if !hadRoom { state.isStalled = true }
            }
        }
    }

    /// Stores what fits. Returns how much of `bytes` is dealt with, and whether to wait for room for the rest
    /// (then counted as a waiter).
    private static func append(_ bytes: ArraySlice<UInt8>, _ state: inout State) -> (Int, Bool) {
        guard state.hasConsumer else {
            if state.dropsWithoutConsumer { state.dropped += UInt64(bytes.count) } else { state.store(bytes) }
            return (bytes.count, false)
        }
        let room = state.storage.count - state.waitingCount
        let fitting = bytes.prefix(room)
        state.store(fitting)
        if fitting.count == bytes.count { return (bytes.count, false) }
        if state.isStalled {
            state.dropped += UInt64(bytes.count - fitting.count)
            return (bytes.count, false)
        }
        state.waiters += 1
        return (fitting.count, true)
    }

    /// At most `limit` bytes that the consumer has not had, without moving on.
    func peek(limit: Int) -> [UInt8] {
        state.withLock { state in
            let count = min(limit, state.waitingCount)
            return (0..<UInt64(count)).map {
                state.storage[Int((state.cursor + $0) % UInt64(state.storage.count))]
            }
        }
    }

    /// The consumer is done with `count` bytes that it peeked; `dropping` says that nobody got them.
    func consume(_ count: Int, dropping: Bool = false) {
        let waiters = state.withLock { state in
            let count = min(count, state.waitingCount)
            state.cursor += UInt64(count)
            if dropping { state.dropped += UInt64(count) }
            state.isStalled = false
            return state.waiters
        }
        for _ in 0..<waiters { roomMade.signal() }
    }

    /// A consumer came; it starts with what is left of the past.
    func attachConsumer() {
        state.withLock { state in
            state.hasConsumer = true
            state.isStalled = false
            state.cursor = state.end - min(state.end, UInt64(state.storage.count))
        }
    }

    /// The consumer is gone. With `dropping`, for good: what it has not had, and all that follows, is lost.
    func detachConsumer(dropping: Bool) {
        let waiters = state.withLock { state in
            if dropping { state.dropped += UInt64(state.waitingCount) }
            state.hasConsumer = false
            state.dropsWithoutConsumer = dropping
            return state.waiters
        }
        for _ in 0..<waiters { roomMade.signal() }
    }

    /// Waits until the consumer had everything, at most until `deadline`.
    func waitUntilEmpty(deadline: UInt64) {
        let pause = Semaphore()
        while !isEmpty, HostTime.monotonic < deadline { pause.wait(until: HostTime.monotonic &+ 1_000_000) }
    }
}
