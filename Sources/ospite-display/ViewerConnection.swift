internal import LinuxHost
internal import RFB

/// The socket of one viewer and what waits for it. Confinement: the hub's thread.
final class ViewerConnection: @unchecked Sendable {
    private static let readSize = 16 << 10
    /// A message of a WebSocket has at most so many bytes.
    private static let chunk = 64 << 10

    let session: RFBSession
    let deadline: UInt64
    private let socket: Descriptor
    private var webSocket: WebSocket?
    private unowned let hub: DisplayHub
    private var loop: EventLoop?
    private var watch: EventLoop.Watch?
    /// Bytes on their way, as they go into the socket.
    private var pending: [UInt8] = []
    private var interest: EventLoop.Interest = .read
    /// The peer wants no more.
    private var isClosing = false

    init(
        _ socket: Descriptor, _ session: RFBSession, _ webSocket: WebSocket?, hub: DisplayHub,
        deadline: UInt64
    ) {
        self.socket = socket
        self.session = session
        self.webSocket = webSocket
        self.hub = hub
        self.deadline = deadline
    }

    func start(on loop: EventLoop) -> Bool {
        self.loop = loop
        watch = try? loop.watch(socket, .read) { [weak self] readiness in self?.isReady(readiness) }
        return watch != nil
    }

    private func isReady(_ readiness: EventLoop.Readiness) {
        if readiness.contains(.failed) { return end() }
        if !readiness.isDisjoint(with: [.readable, .hungUp]) {
            guard receive() else { return end() }
        }
        pump()
    }

    /// False when the viewer is gone.
    private func receive() -> Bool {
        guard canReceive else { return true }
        var buffer = [UInt8](repeating: 0, count: Self.readSize)
        switch try? socket.read(into: &buffer) {
        case .moved(let count):
            guard var stream = webSocket else {
                session.receive(buffer[..<count])
                return true
            }
            let result = stream.receive(buffer[..<count])
            webSocket = stream
            pending += result.reply
            isClosing = result.isClosed
            session.receive(result.payload[...])
            return true
        case .wouldBlock: return true
        case .endOfFile, nil: return false
        }
    }

    private var canReceive: Bool {
        session.acceptsInput && hub.hasRoomForRequests && pending.count < RFBSession.mostPending
    }

    /// Sends what there is, as far as there is room, and waits for what is missing.
    func pump() {
        guard watch != nil else { return }
        session.process()
        hub.viewerActed(self)
        repeat {
            guard flush() else { return end() }
            session.fill()
        } while pending.isEmpty && hasOutput
        guard !isClosing, session.closeReason == nil else { return end() }
        var wanted: EventLoop.Interest = canReceive ? .read : []
        if !pending.isEmpty { wanted.insert(.write) }
        if wanted != interest, let watch { loop?.change(watch, to: wanted) }
        interest = wanted
    }

    private var hasOutput: Bool {
        !session.output.isEmpty && (webSocket == nil || webSocket?.isOpen == true)
    }

    /// False when the viewer is gone.
    private func flush() -> Bool {
        while true {
            if pending.isEmpty {
                guard hasOutput else { return true }
                let part = session.output.prefix(Self.chunk)
                pending = webSocket?.wrap(part) ?? Array(part)
                session.sent(part.count)
            }
            switch try? socket.write(pending[...]) {
            case .moved(let count): pending.removeFirst(count)
            case .wouldBlock: return true
            case .endOfFile, nil: return false
            }
        }
    }

    func end() {
        guard let watch else { return }
        self.watch = nil
        // What explains the end still goes out, when there is room.
        _ = flush()
        loop?.remove(watch)
        hub.viewerIsGone(self)
    }
}
