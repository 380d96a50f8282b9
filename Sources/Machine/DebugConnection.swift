internal import LinuxHost
internal import Synchronization

/// A debugger's socket: one client at a time, the next waits until it is gone.
///
/// Confinement: the socket on the event loop's thread; `takeEvents`, `send` and `close` on any.
final class DebugConnection: Sendable {
    enum Event: Equatable {
        case connected
        case received([UInt8])
        case disconnected
    }
    /// Bytes that wait for the machine before we stop reading, and for the client before it is dropped: one
    /// that asks and does not listen.
    private static let mostInput = 64 << 10, mostOutput = 1 << 20

    private struct State {
        var listenWatch: EventLoop.Watch?
        var client: Descriptor?
        var watch: EventLoop.Watch?
        var events: [Event] = []
        var inputCount = 0
        var output: ArraySlice<UInt8> = []
        var interest: EventLoop.Interest = .read
    }
    private let listener: Descriptor
    private let loop: EventLoop
    private let notify: @Sendable () -> Void
    private let state = Mutex(State())

    /// Takes over a listening stream socket. `notify` is called when there are events.
    init(listener: Descriptor, loop: EventLoop, notify: @escaping @Sendable () -> Void) throws(HostError) {
        self.listener = listener
        self.loop = loop
        self.notify = notify
        try listener.setNonBlocking(true)
        let watch = try loop.watch(listener, .read) { [weak self] _ in self?.acceptClient() }
        state.withLock { $0.listenWatch = watch }
    }

    /// What happened since, in order.
    func takeEvents() -> [Event] {
        let (events, wasFull) = state.withLock { state in
            defer {
                state.events = []
                state.inputCount = 0
            }
            return (state.events, state.inputCount >= Self.mostInput)
        }
        if wasFull { loop.post { self.updateInterest() } }
        return events
    }

    func send(_ bytes: [UInt8]) {
        guard !bytes.isEmpty else { return }
        state.withLock { if $0.client != nil { $0.output += bytes } }
        loop.post { self.flush() }
    }

    /// Sends what is left, as far as the client takes it within a second.
    func close() {
        let deadline = HostTime.monotonic &+ 1_000_000_000
        let pause = Semaphore()
        while state.withLock({ $0.client != nil && !$0.output.isEmpty }), HostTime.monotonic < deadline {
            pause.wait(until: HostTime.monotonic &+ 1_000_000)
        }
        let watch = state.withLock { $0.listenWatch.take() }
        if let watch { loop.remove(watch) }
        dropClient()
    }

    // MARK: On the loop's thread

    private func acceptClient() {
        guard state.withLock({ $0.client == nil }), let client = try? listener.accept() else { return }
        guard (try? client.setNonBlocking(true)) != nil,
            let watch = try? loop.watch(client, .read, { [weak self] in self?.handle($0) })
        else { return }
        let listenWatch = state.withLock { state in
            state.client = client
            state.watch = watch
            state.output = []
            state.interest = .read
            state.events.append(.connected)
            return state.listenWatch
        }
        if let listenWatch { loop.change(listenWatch, to: []) }
        notify()
    }

    private func handle(_ readiness: EventLoop.Readiness) {
        if readiness.contains(.writable) { flush() }
        if readiness.contains(.readable) {
            read()
        } else if !readiness.isDisjoint(with: [.hungUp, .failed]) {
            dropClient()
        }
    }

    private func read() {
        let client = state.withLock { $0.inputCount < Self.mostInput ? $0.client : nil }
        guard let client else { return updateInterest() }
        var buffer = [UInt8](repeating: 0, count: 4096)
        switch try? client.read(into: &buffer) {
        case .wouldBlock: return
        case .moved(let count):
            state.withLock { state in
                state.events.append(.received(Array(buffer[..<count])))
                state.inputCount += count
            }
            notify()
            updateInterest()
        case .endOfFile, nil: dropClient()
        }
    }

    private func flush() {
        while true {
            let (client, output) = state.withLock { ($0.client, $0.output) }
            guard let client, !output.isEmpty else { return updateInterest() }
            guard output.count <= Self.mostOutput else { return dropClient() }
            switch try? client.write(output) {
            case .moved(let count): state.withLock { $0.output = $0.output.dropFirst(count) }
            case .wouldBlock: return updateInterest()
            case .endOfFile, nil: return dropClient()
            }
        }
    }

    private func updateInterest() {
        let (watch, interest) = state.withLock { state -> (EventLoop.Watch?, EventLoop.Interest) in
            var interest: EventLoop.Interest = state.inputCount < Self.mostInput ? .read : []
            if !state.output.isEmpty { interest.insert(.write) }
            guard interest != state.interest else { return (nil, interest) }
            state.interest = interest
            return (state.watch, interest)
        }
        if let watch { loop.change(watch, to: interest) }
    }

    private func dropClient() {
        let (client, watch, listenWatch) = state.withLock { state in
            defer {
                if state.client != nil { state.events.append(.disconnected) }
                state.client = nil
                state.watch = nil
                state.output = []
            }
            return (state.client, state.watch, state.listenWatch)
        }
        if let watch { loop.remove(watch) }
        if let listenWatch { loop.change(listenWatch, to: .read) }
        if client != nil { notify() }
    }
}
