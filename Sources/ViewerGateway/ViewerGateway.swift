public import LinuxHost
internal import RFB

/// Where viewers of a machine's screen come with TLS: ends the encryption, and connects each of them to the
/// process that shows the screen and knows nothing of it. That process decides who may come in.
///
/// Confinement: `start` and `stop` on one thread; everything else on the gateway's own. Handlers of the loop
/// are declared to run anywhere, and run there.
public final class ViewerGateway: @unchecked Sendable {
    /// A place where viewers come to, and the socket of the screen's process that they are led to.
    public struct Place: Sendable {
        public enum Kind: Sendable {
            /// VNC that asks for encryption itself (VeNCrypt).
            case viewers
            /// TLS from the first byte, and whatever is in it: a WebSocket.
            case browsers
        }
        public var kind: Kind
        public var listener: Descriptor
        public var screen: String

        public init(_ kind: Kind, listener: Descriptor, screen: String) {
            self.kind = kind
            self.listener = listener
            self.screen = screen
        }
    }

    /// More at once are turned away. The screen's process takes some more, which are left for others.
    public static let mostViewers = 12
    /// Nanoseconds for everything up to the end of TLS's handshake.
    private static let patience: UInt64 = 20_000_000_000
    private let patience: UInt64
    /// Between looks at who is late.
    private var interval: UInt64 { max(patience / 4, 1) }

    private let identity: TLSIdentity
    private let places: [Place]
    private let loop: EventLoop
    private let timer: TimerDescriptor
    private var connections: [ObjectIdentifier: GatewayConnection] = [:]

    public convenience init(_ identity: TLSIdentity, _ places: [Place]) throws(HostError) {
        try self.init(identity, places, patience: Self.patience)
    }

    init(_ identity: TLSIdentity, _ places: [Place], patience: UInt64) throws(HostError) {
        self.identity = identity
        self.patience = patience
        self.places = places
        loop = try EventLoop(name: "viewers")
        timer = try TimerDescriptor()
    }

    /// Begins to listen, on a thread of the gateway's own.
    public func start() throws(HostError) {
        _ = try loop.watch(timer.descriptor, .read) { [weak self] _ in self?.dropLate() }
        for place in places {
            try place.listener.setNonBlocking(true)
            _ = try loop.watch(place.listener, .read) { [weak self] _ in self?.accept(at: place) }
        }
        try loop.start()
    }

    /// Ends every connection, and returns when the thread has ended.
    public func stop() {
        loop.post { [self] in
            for connection in Array(connections.values) { connection.end() }
        }
        loop.stop()
    }

    private func accept(at place: Place) {
        guard let viewer = try? place.listener.accept() else { return }
        // What is not kept is closed.
        guard connections.count < Self.mostViewers, (try? viewer.setNonBlocking(true)) != nil,
            let screen = try? Descriptor.connect(unixPath: place.screen),
            (try? screen.setNonBlocking(true)) != nil
        else { return }
        let now = HostTime.monotonic
        let connection = GatewayConnection(
            viewer: viewer, screen: screen, relay: place.kind == .viewers ? VeNCryptRelay() : nil,
            TLSStream(identity, for: place.kind), deadline: now + patience, gateway: self)
        guard connection.start(on: loop) else { return }
        if connections.isEmpty { try? timer.arm(at: now + interval, interval: interval) }
        connections[ObjectIdentifier(connection)] = connection
        connection.pump()
    }

    func connectionIsGone(_ connection: GatewayConnection) {
        connections[ObjectIdentifier(connection)] = nil
        if connections.isEmpty { try? timer.disarm() }
    }

    /// Ends connections that do not get to TLS.
    private func dropLate() {
        _ = timer.take()
        let now = HostTime.monotonic
        for connection in Array(connections.values)
        where !connection.isEncrypted && connection.deadline < now {
            connection.end()
        }
    }
}
