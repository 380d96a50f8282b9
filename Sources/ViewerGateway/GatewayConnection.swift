internal import LinuxHost
internal import RFB

/// One viewer with TLS and its connection to the screen's process. What waits in either direction is bounded:
/// while one side does not read, nothing more is read from the other. Confinement: the gateway's thread.
final class GatewayConnection: @unchecked Sendable {
    private static let readSize = 32 << 10
    /// While more waits for one side, the other has to wait.
    static let mostPending = 128 << 10

    let deadline: UInt64
    private let viewer: Side, screen: Side
    private let tls: TLSStream
    /// What is said before TLS; nil once that begins.
    private var relay: VeNCryptRelay?
    /// What the screen said before TLS was there.
    private var held: [UInt8] = []
    private var isClosing = false, hasEnded = false
    private unowned let gateway: ViewerGateway
    private var loop: EventLoop?

    /// One of the two sockets, and what waits for it. Confinement: as its connection.
    private final class Side {
        let socket: Descriptor
        var watch: EventLoop.Watch?
        var interest: EventLoop.Interest = .read
        var pending: [UInt8] = []

        init(_ socket: Descriptor) { self.socket = socket }

        /// False when the peer is gone.
        func flush() -> Bool {
            while !pending.isEmpty {
                switch try? socket.write(pending[...]) {
                case .moved(let count): pending.removeFirst(count)
                case .wouldBlock: return true
                case .endOfFile, nil: return false
                }
            }
            return true
        }
    }

    init(
        viewer: Descriptor, screen: Descriptor, relay: VeNCryptRelay?, _ tls: TLSStream, deadline: UInt64,
        gateway: ViewerGateway
    ) {
        self.viewer = Side(viewer)
        self.screen = Side(screen)
        self.relay = relay
        self.tls = tls
        self.deadline = deadline
        self.gateway = gateway
    }

    var isEncrypted: Bool { relay == nil && tls.isOpen }

    func start(on loop: EventLoop) -> Bool {
        self.loop = loop
        viewer.watch = try? loop.watch(viewer.socket, .read) { [weak self] in self?.viewerIsReady($0) }
        screen.watch = try? loop.watch(screen.socket, .read) { [weak self] in self?.screenIsReady($0) }
        if viewer.watch != nil, screen.watch != nil { return true }
        forget(viewer)
        forget(screen)
        return false
    }

    private func forget(_ side: Side) {
        if let watch = side.watch { loop?.remove(watch) }
        side.watch = nil
    }

    // MARK: What comes in

    private var canTakeFromViewer: Bool {
        screen.pending.count < Self.mostPending && viewer.pending.count < Self.mostPending
            && relay?.acceptsViewerBytes ?? true
    }

    private var canTakeFromScreen: Bool {
        viewer.pending.count < Self.mostPending && relay?.acceptsScreenBytes ?? tls.isOpen
    }

    private func viewerIsReady(_ readiness: EventLoop.Readiness) {
        guard readiness.isDisjoint(with: [.failed, .hungUp]) else { return end() }
        if readiness.contains(.readable), canTakeFromViewer {
            guard let bytes = read(viewer) else { return end() }
            if relay != nil {
                relay?.receiveFromViewer(bytes)
                followRelay()
            } else {
                screen.pending += tls.receive(bytes)
            }
        }
        pump()
    }

    private func screenIsReady(_ readiness: EventLoop.Readiness) {
        // What it said before it went is little: a socket's buffer.
        let isLast = !readiness.isDisjoint(with: [.failed, .hungUp])
        while canTakeFromScreen || isLast {
            guard let bytes = read(screen) else {
                screenIsGone()
                break
            }
            if relay != nil {
                relay?.receiveFromScreen(bytes)
                followRelay()
            } else {
                held += bytes
            }
            guard isLast, !bytes.isEmpty else { break }
        }
        pump()
    }

    /// Bytes, none when there are none now; nil when the peer is gone.
    private func read(_ side: Side) -> ArraySlice<UInt8>? {
        var buffer = [UInt8](repeating: 0, count: Self.readSize)
        switch try? side.socket.read(into: &buffer) {
        case .moved(let count): return buffer[..<count]
        case .wouldBlock: return []
        case .endOfFile, nil: return nil
        }
    }

    /// A viewer that has not said its version yet is still told why it may not come in.
    private func screenIsGone() {
        forget(screen)
        isClosing = relay?.isRefused != true
    }

    private func followRelay() {
        guard var talk = relay else { return }
        viewer.pending += talk.takeOutputForViewer()
        screen.pending += talk.takeOutputForScreen()
        relay = talk
        switch talk.outcome {
        case .negotiating: break
        case .over: isClosing = true
        case .encrypts:
            relay = nil
            held = talk.screenRest
            screen.pending += tls.receive(talk.viewerRest[...])
        }
    }

    // MARK: What goes out

    /// Sends what there is, as far as there is room, and waits for what is missing.
    func pump() {
        guard !hasEnded else { return }
        if relay != nil { followRelay() }
        if tls.isOpen, relay == nil {
            tls.send(held[...])
            held = []
        }
        viewer.pending += tls.takeOutput()
        guard !isClosing, !tls.isClosed, viewer.flush(), screen.flush() else { return end() }
        watch(viewer, reads: canTakeFromViewer)
        watch(screen, reads: canTakeFromScreen)
    }

    private func watch(_ side: Side, reads: Bool) {
        var wanted: EventLoop.Interest = reads ? .read : []
        if !side.pending.isEmpty { wanted.insert(.write) }
        if wanted != side.interest, let watch = side.watch { loop?.change(watch, to: wanted) }
        side.interest = wanted
    }

    func end() {
        guard !hasEnded else { return }
        hasEnded = true
        // What explains the end still goes out, when there is room.
        if relay == nil {
            tls.close()
            viewer.pending += tls.takeOutput()
        }
        _ = viewer.flush()
        _ = screen.flush()
        forget(viewer)
        forget(screen)
        gateway.connectionIsGone(self)
    }
}
