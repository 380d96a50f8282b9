internal import DeviceModel
internal import Synchronization

/// Brings a device back to queues that it left with work in them. A driver can make a queue that never runs
/// empty (two processors that keep adding, or a disk that reads new requests into its own ring); the thread
/// that serves it leaves after a while, and the timer thread takes the next turn.
///
/// Confinement: any thread.
final class QueueRetry: Sendable {
    private struct State {
        var waiting: Set<Int> = []
        var timer: (any DeviceTimer)?
        var notify: (@Sendable (Int) -> Void)?
    }
    private let state = Mutex(State())

    init(_ clock: any MachineClock) {
        let timer = clock.makeTimer { [weak self] in self?.fire() }
        state.withLock { $0.timer = timer }
    }

    /// `notify` is called with the index of a queue that waits, on the timer thread.
    func connect(_ notify: @escaping @Sendable (Int) -> Void) { state.withLock { $0.notify = notify } }

    /// Asks for another turn of `queue`.
    func schedule(_ queue: Int) {
        let timer = state.withLock { state in
            state.waiting.insert(queue)
            return state.timer
        }
        timer?.arm(at: 0)
    }

    private func fire() {
        let (queues, notify) = state.withLock { state in
            defer { state.waiting = [] }
            return (state.waiting.sorted(), state.notify)
        }
        for queue in queues { notify?(queue) }
    }
}
