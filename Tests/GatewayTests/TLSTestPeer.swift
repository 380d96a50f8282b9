import LinuxHost
import NIOCore
import NIOEmbedded
import NIOSSL
import Testing

/// The client's side of a TLS connection over bytes. Confinement: the test's thread.
final class TLSTestPeer {
    private let channel = EmbeddedChannel()
    private let handler: NIOSSLClientHandler
    private(set) var received: [UInt8] = []

    init(newest: TLSVersion? = nil) throws {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.certificateVerification = .none
        configuration.minimumTLSVersion = .tlsv1
        configuration.maximumTLSVersion = newest
        let context = try NIOSSLContext(configuration: configuration)
        handler = try NIOSSLClientHandler(context: context, serverHostname: nil)
        try channel.pipeline.syncOperations.addHandler(handler)
        try channel.connect(to: SocketAddress(unixDomainSocketPath: "/")).wait()
    }

    deinit {
        channel.close(promise: nil)
        channel.embeddedEventLoop.advanceTime(by: .hours(1))
        _ = try? channel.finish(acceptAlreadyClosed: true)
    }

    /// What both agreed on.
    var version: TLSVersion? { handler.tlsVersion }
    var isOver: Bool { !channel.isActive }

    /// Bytes of the server; throws when they break the rules.
    func receive(_ bytes: [UInt8]) throws {
        try channel.writeInbound(ByteBuffer(bytes: bytes))
        while let part = try channel.readInbound(as: ByteBuffer.self) { received += part.readableBytesView }
    }

    /// Goes out when the handshake is done.
    func send(_ bytes: [UInt8]) {
        channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil)
    }

    /// Says that no more will come.
    func close() { channel.close(promise: nil) }

    func takeReceived(_ count: Int) -> [UInt8] {
        defer { received.removeFirst(count) }
        return Array(received.prefix(count))
    }

    func takeOutput() throws -> [UInt8] {
        var result: [UInt8] = []
        while let part = try channel.readOutbound(as: ByteBuffer.self) { result += part.readableBytesView }
        return result
    }
}

/// A socket of a test: every wait has an end. Confinement: the test's thread.
struct TestSocket {
    let descriptor: Descriptor

    struct Silence: Error {}
    struct End: Error {}

    func send(_ bytes: [UInt8]) throws { try descriptor.writeAll(bytes) }

    /// Bytes that are there, at least one.
    func some(most: Int = 1 << 16) throws -> [UInt8] {
        guard try descriptor.wait(forWriting: false, milliseconds: 20_000) else { throw Silence() }
        var buffer = [UInt8](repeating: 0, count: most)
        guard case .moved(let count) = try descriptor.read(into: &buffer) else { throw End() }
        return Array(buffer.prefix(count))
    }

    func take(_ count: Int) throws -> [UInt8] {
        var result: [UInt8] = []
        while result.count < count { result += try some(most: count - result.count) }
        return result
    }

    /// Everything until the other side ends the connection, in whatever way.
    func rest() throws -> [UInt8] {
        var result: [UInt8] = []
        while true {
            do { result += try some() } catch is End { return result } catch is HostError { return result }
        }
    }
}
