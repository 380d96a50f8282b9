internal import Glibc
public import LinuxHost
internal import Synchronization

/// A serial line that one client at a time reaches through a listening socket. A new client first gets the
/// last 64 KiB that the guest wrote; the next client waits until the one before it is gone.
public final class SocketBackend: CharacterBackend {
    private struct State {
        var listenWatch: EventLoop.Watch?
        var client: Descriptor?
        var clientWatch: EventLoop.Watch?
        /// The client's socket is full: wait until it is writable.
        var wantsWrite = false
        /// The receiver is full: do not read.
        var pausesRead = false
        var isClosed = false
    }
    private let listener: Descriptor
    private let loop: EventLoop
    private let queue: OutputQueue
    private let feed = InputFeed()
    private let state = Mutex(State())
    private let flushIsPosted = Atomic(false)
    private let retryIsPosted = Atomic(false)

    /// Takes over a listening stream socket. Makes the process ignore SIGPIPE.
    public convenience init(listener: Descriptor, loop: EventLoop) throws(HostError) {
        try self.init(listener: listener, loop: loop, patience: OutputQueue.patience)
    }

    init(listener: Descriptor, loop: EventLoop, patience: UInt64) throws(HostError) {
        HostSignals.ignoreBrokenPipes()
        self.listener = listener
        self.loop = loop
        queue = OutputQueue(hasConsumer: false, patience: patience)
        try listener.setNonBlocking(true)
        let watch = try loop.watch(listener, .read) { _ in self.acceptClient() }
        state.withLock { state in state.listenWatch = watch }
    }

    public var droppedBytes: UInt64 { queue.dropped }

    /// Whether a client is connected.
    public var hasClient: Bool { state.withLock { state in state.client != nil } }

    public func write(_ bytes: [UInt8]) { queue.append(bytes) { postFlush() } }

    public func start(_ receiver: @escaping @Sendable (ArraySlice<UInt8>) -> Int) {
        feed.setReceiver(receiver)
    }

    public func receiverHasRoom() {
        guard feed.isBlocked, !retryIsPosted.exchange(true, ordering: .acquiringAndReleasing) else { return }
        let isPosted = loop.post {
            self.retryIsPosted.store(false, ordering: .releasing)
            guard self.feed.retry() else { return }
            self.update { state in state.pausesRead = false }
        }
        if !isPosted { retryIsPosted.store(false, ordering: .releasing) }
    }

    private func postFlush() {
        guard hasClient, !flushIsPosted.exchange(true, ordering: .acquiringAndReleasing) else { return }
        let isPosted = loop.post {
            self.flushIsPosted.store(false, ordering: .releasing)
            self.flush()
        }
        if !isPosted { flushIsPosted.store(false, ordering: .releasing) }
    }

    // MARK: On the loop's thread

    private func acceptClient() {
        guard !hasClient, let client = try? listener.accept() else { return }
        guard (try? client.setNonBlocking(true)) != nil,
            let watch = try? loop.watch(client, .read, { readiness in self.handle(readiness) })
        else { return }
        let listenWatch = state.withLock { state in
            state.client = client
            state.clientWatch = watch
            state.wantsWrite = false
            state.pausesRead = false
            return state.listenWatch
        }
        if let listenWatch { loop.change(listenWatch, to: []) }
        queue.attachConsumer()
        flush()
    }

    private func handle(_ readiness: EventLoop.Readiness) {
        if readiness.contains(.writable) { flush() }
        if readiness.contains(.readable) {
            readInput()
        } else if !readiness.isDisjoint(with: [.hungUp, .failed]) {
            dropClient()
        }
    }

    private func readInput() {
        let client = state.withLock { state in state.pausesRead ? nil : state.client }
        guard let client else { return }
        var buffer = [UInt8](repeating: 0, count: InputFeed.readLimit)
        switch try? client.read(into: &buffer) {
        case .wouldBlock: return
        case .moved(let count):
            if !feed.offer(buffer[..<count]) { update { state in state.pausesRead = true } }
        case .endOfFile, nil: dropClient()
        }
    }

    /// Sends what the client has not had, as far as its socket takes it.
    private func flush() {
        // A quarter of a mebibyte at most, so that a fast guest does not keep the loop from its other work.
        for _ in 0..<64 {
            guard let client = state.withLock({ state in state.client }) else { return }
            let chunk = queue.peek(limit: 4096)
            if chunk.isEmpty { return update { state in state.wantsWrite = false } }
            switch try? client.write(chunk[...]) {
            case .moved(let count): queue.consume(count)
            case .wouldBlock: return update { state in state.wantsWrite = true }
            case .endOfFile, nil: return dropClient()
            }
        }
        postFlush()
    }

    /// Changes what the loop waits for.
    private func update(_ change: (inout State) -> Void) {
        let (watch, interest) = state.withLock { state in
            change(&state)
            var interest: EventLoop.Interest = state.pausesRead ? [] : .read
            if state.wantsWrite { interest.insert(.write) }
            return (state.clientWatch, interest)
        }
        if let watch { loop.change(watch, to: interest) }
    }

    private func dropClient() {
        let (client, watch, listenWatch) = state.withLock { state in
            defer {
                state.client = nil
                state.clientWatch = nil
            }
            return (state.client, state.clientWatch, state.listenWatch)
        }
        queue.detachConsumer(dropping: false)
        feed.clear()
        if let watch { loop.remove(watch) }
        if let listenWatch { loop.change(listenWatch, to: .read) }
        // The socket closes here at the latest, so that the client sees the end.
        _ = consume client
    }

    public func close() {
        queue.waitUntilEmpty(deadline: HostTime.monotonic &+ 2_000_000_000)
        let listenWatch = state.withLock { state -> EventLoop.Watch? in
            defer { state.listenWatch = nil }
            state.isClosed = true
            return state.listenWatch
        }
        if let listenWatch { loop.remove(listenWatch) }
        dropClient()
    }
}
