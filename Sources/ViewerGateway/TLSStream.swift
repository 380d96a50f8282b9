internal import NIOCore
internal import NIOEmbedded
internal import NIOSSL
internal import NIOTLS

/// The server's side of one TLS connection (RFC 8446, RFC 5246) as a state machine over bytes. The peer is
/// hostile: nothing that it sends makes this trap, and what its bytes make of bytes is handed out at once.
///
/// Confinement: the thread that made it.
final class TLSStream {
    private let channel: EmbeddedChannel
    private let watcher = HandshakeWatcher()
    /// Nothing comes or goes any more: the peer said so, or broke the rules. What is in the output, such as
    /// an alert, is still worth sending.
    private(set) var isClosed = false

    /// The handshake is done.
    var isOpen: Bool { watcher.isDone && !isClosed }

    init(_ identity: TLSIdentity, for kind: ViewerGateway.Place.Kind) {
        channel = EmbeddedChannel()
        let handler = NIOSSLServerHandler(
            context: kind == .viewers ? identity.viewerContext : identity.browserContext)
        do {
            try channel.pipeline.syncOperations.addHandlers([handler, watcher])
            // Nothing is connected: this says that bytes may come.
            try channel.connect(to: SocketAddress(unixDomainSocketPath: "/")).wait()
        } catch {
            isClosed = true
        }
    }

    deinit {
        close()
        // The handler waits for the peer to agree, on a clock that only moves here; then it lets go.
        channel.embeddedEventLoop.advanceTime(by: .hours(1))
        _ = try? channel.finish(acceptAlreadyClosed: true)
    }

    /// What goes with the stream.
    var resource: AnyObject { channel }

    /// What bytes of the peer hold for us.
    func receive(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        guard !isClosed, !bytes.isEmpty else { return [] }
        do {
            try channel.writeInbound(ByteBuffer(bytes: bytes))
        } catch {
            isClosed = true
        }
        var result: [UInt8] = []
        while let part = try? channel.readInbound(as: ByteBuffer.self) { result += part.readableBytesView }
        if !channel.isActive || watcher.isOver { isClosed = true }
        return result
    }

    /// Bytes for the peer, once the handshake is done.
    func send(_ bytes: ArraySlice<UInt8>) {
        precondition(watcher.isDone, "nothing may be said before the handshake is done")
        guard !isClosed, !bytes.isEmpty else { return }
        do {
            try channel.writeOutbound(ByteBuffer(bytes: bytes))
        } catch {
            isClosed = true
        }
    }

    /// Says that no more will come.
    func close() {
        isClosed = true
        channel.close(promise: nil)
    }

    /// What is to be sent to the peer now.
    func takeOutput() -> [UInt8] {
        var result: [UInt8] = []
        while let part = try? channel.readOutbound(as: ByteBuffer.self) { result += part.readableBytesView }
        return result
    }
}

/// Notices that the handshake is done, and that the peer wants no more. Confinement: its stream's thread.
private final class HandshakeWatcher: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private(set) var isDone = false, isOver = false

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event as? TLSUserEvent {
        case .handshakeCompleted: isDone = true
        case .shutdownCompleted: isOver = true
        case nil: break
        }
        context.fireUserInboundEventTriggered(event)
    }
}
