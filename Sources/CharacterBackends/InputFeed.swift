internal import LinuxHost
internal import Synchronization

/// Bytes on their way to a receiver that may have no room for them: holds one read's worth.
///
/// Confinement: `offer` and `retry` on the event loop's thread; the rest on any thread.
final class InputFeed: Sendable {
    /// Bytes of one read from the outside.
    static let readLimit = 4096

    private struct State {
        var pending: ArraySlice<UInt8> = []
        var receiver: (@Sendable (ArraySlice<UInt8>) -> Int)?
    }
    private let state = Mutex(State())

    func setReceiver(_ receiver: @escaping @Sendable (ArraySlice<UInt8>) -> Int) {
        state.withLock { state in state.receiver = receiver }
    }

    /// Whether bytes wait for room.
    var isBlocked: Bool { state.withLock { state in !state.pending.isEmpty } }

    /// Hands over `bytes`; returns whether all were taken. The rest is kept.
    func offer(_ bytes: ArraySlice<UInt8>) -> Bool {
        state.withLock { state in state.pending = bytes }
        return retry()
    }

    /// Hands over what is kept; returns whether nothing is left.
    func retry() -> Bool {
        let (pending, receiver) = state.withLock { state in (state.pending, state.receiver) }
        guard !pending.isEmpty else { return true }
        // Outside the lock: the receiver takes its own.
        let taken = min(max(receiver?(pending) ?? pending.count, 0), pending.count)
        return state.withLock { state in
            state.pending = pending.dropFirst(taken)
            return state.pending.isEmpty
        }
    }

    /// Forgets what is kept: its sender is gone.
    func clear() { state.withLock { state in state.pending = [] } }
}
