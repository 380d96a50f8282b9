import Foundation
import LinuxHost
import Testing

@testable import ViewerGateway

/// A gateway with a screen that the test plays. Confinement: the test's thread.
private final class GatewayBench {
    let gateway: ViewerGateway
    private let listener: Descriptor
    private let path: String, outside: String

    init(_ kind: ViewerGateway.Place.Kind = .viewers, patience: UInt64 = 60_000_000_000) throws {
        HostSignals.ignoreBrokenPipes()
        path = NSTemporaryDirectory() + "gateway-\(UUID().uuidString.prefix(8))"
        outside = path + "-outside"
        listener = try Descriptor.listen(unixPath: path, backlog: 32)
        let place = ViewerGateway.Place(
            kind, listener: try Descriptor.listen(unixPath: outside, backlog: 32), screen: path)
        gateway = try ViewerGateway(try TLSStreamTests.identity(), [place], patience: patience)
        try gateway.start()
    }

    deinit {
        gateway.stop()
        unlink(path)
        unlink(outside)
    }

    func viewer() throws -> TestSocket {
        TestSocket(descriptor: try Descriptor.connect(unixPath: outside))
    }

    func screen() throws -> TestSocket {
        guard try listener.wait(forWriting: false, milliseconds: 20_000) else { throw TestSocket.Silence() }
        return TestSocket(descriptor: try #require(try listener.accept()))
    }

    static let version = Array("RFB 003.008\n".utf8)

    /// A viewer and its screen, up to TLS, with a password.
    func negotiated() throws -> (viewer: TestSocket, screen: TestSocket) {
        let viewer = try viewer(), screen = try screen()
        try screen.send(Self.version)
        #expect(try screen.take(12) == Self.version)
        try screen.send([1, 2])
        #expect(try screen.take(1) == [2])
        #expect(try viewer.take(12) == Self.version)
        try viewer.send(Self.version)
        #expect(try viewer.take(2) == [1, 19])
        try viewer.send([19])
        #expect(try viewer.take(2) == [0, 2])
        try viewer.send([0, 2])
        #expect(try viewer.take(6) == [0, 1, 0, 0, 1, 5])
        try viewer.send([0, 0, 1, 5])
        #expect(try viewer.take(1) == [1])
        return (viewer, screen)
    }

    /// Reads from the viewer's side until so many bytes of the screen have come.
    func exchange(_ viewer: TestSocket, _ peer: TLSTestPeer, until count: Int) throws {
        while true {
            let bytes = try peer.takeOutput()
            // The gateway may be gone when the peer answers its goodbye.
            do { try viewer.send(bytes) } catch let error as HostError where error.code == EPIPE {}
            if peer.received.count >= count { return }
            try peer.receive(try viewer.some())
        }
    }
}

@Suite struct ViewerGatewayTests {
    @Test func `what the screen asks and the viewer answers goes through TLS`() throws {
        let bench = try GatewayBench()
        let (viewer, screen) = try bench.negotiated()
        let challenge = [UInt8](1...16)
        try screen.send(challenge)
        let peer = try TLSTestPeer()
        try bench.exchange(viewer, peer, until: 16)
        #expect(peer.takeReceived(16) == challenge)
        peer.send([UInt8](17...32))
        try bench.exchange(viewer, peer, until: 0)
        #expect(try screen.take(16) == [UInt8](17...32))
        let reason: [UInt8] = [0, 0, 0, 1, 0, 0, 0, 5] + Array("Wrong".utf8)
        try screen.send(reason)
        _ = shutdown(screen.descriptor.number, Int32(SHUT_RDWR))
        try bench.exchange(viewer, peer, until: reason.count)
        #expect(peer.received == reason)
        let last = try viewer.rest()
        if !last.isEmpty { try peer.receive(last) }
        #expect(peer.isOver, "the end is said, too")
    }

    @Test func `a browser begins with TLS`() throws {
        let bench = try GatewayBench(.browsers)
        let viewer = try bench.viewer(), screen = try bench.screen(), peer = try TLSTestPeer()
        peer.send(Array("GET / HTTP/1.1\r\n\r\n".utf8))
        try screen.send([1, 2, 3])
        try bench.exchange(viewer, peer, until: 3)
        #expect(peer.received == [1, 2, 3])
        #expect(try screen.take(18) == Array("GET / HTTP/1.1\r\n\r\n".utf8))
    }

    @Test func `a screen that is gone already tells a viewer why it lets nobody in`() throws {
        let bench = try GatewayBench()
        let viewer = try bench.viewer()
        do {
            let screen = try bench.screen()
            try screen.send(GatewayBench.version)
            #expect(try screen.take(12) == GatewayBench.version)
            try screen.send([0, 0, 0, 0, 2] + Array("No".utf8))
        }
        #expect(try viewer.take(12) == GatewayBench.version)
        try viewer.send(GatewayBench.version)
        #expect(try viewer.rest() == [0, 0, 0, 0, 2] + Array("No".utf8))
    }

    @Test func `a viewer that does not read holds the screen back, and loses nothing`() throws {
        let bench = try GatewayBench()
        let (viewer, screen) = try bench.negotiated(), peer = try TLSTestPeer()
        try screen.send([77])
        try bench.exchange(viewer, peer, until: 1)
        _ = peer.takeReceived(1)
        try screen.descriptor.setNonBlocking(true)
        let piece = (0..<65_536).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        var sent = 0, limit = 256 << 20
        // What the sockets of the host hold is some megabytes.
        while sent < limit, try screen.descriptor.wait(forWriting: true, milliseconds: 3_000) {
            guard case .moved(let count) = try screen.descriptor.write(piece[(sent % 65_536)...]) else {
                continue
            }
            sent += count
        }
        #expect(sent < limit, "everything was taken")
        limit = sent
        var seen = 0, isSame = true
        while seen < limit {
            try bench.exchange(viewer, peer, until: 1)
            for byte in peer.takeReceived(peer.received.count) {
                isSame = isSame && byte == piece[seen % 65_536]
                seen += 1
            }
        }
        #expect(isSame && seen == limit)
    }

    @Test func `garbage, half handshakes and goodbyes leave no connection behind`() throws {
        let bench = try GatewayBench()
        for round in 0..<40 {
            let (viewer, screen) = try bench.negotiated(), peer = try TLSTestPeer()
            let hello = try peer.takeOutput()
            switch round % 4 {
            case 0: try viewer.send(Array("\u{16}not TLS at all, whatever it is".utf8))
            case 1:
                try viewer.send(Array(hello.prefix(hello.count / 2)))
                _ = shutdown(viewer.descriptor.number, Int32(SHUT_RDWR))
            case 2:
                try viewer.send(hello.reversed())
            default:
                try viewer.send(hello + hello)
            }
            // Its screen's connection ends with it.
            #expect(try screen.rest().isEmpty, "round \(round)")
        }
        let (viewer, screen) = try bench.negotiated(), peer = try TLSTestPeer()
        try screen.send([5])
        try bench.exchange(viewer, peer, until: 1)
        #expect(peer.received == [5])
    }

    @Test func `so many viewers at once and no more, and room again when they go`() throws {
        let bench = try GatewayBench()
        var guests: [(TestSocket, TestSocket)] = []
        for _ in 0..<ViewerGateway.mostViewers { guests.append(try bench.negotiated()) }
        #expect(try bench.viewer().rest().isEmpty, "turned away")
        let (viewer, screen) = guests.removeLast()
        _ = shutdown(viewer.descriptor.number, Int32(SHUT_RDWR))
        #expect(try screen.rest().isEmpty)
        guests.append(try bench.negotiated())
    }

    @Test(arguments: ViewerGateway.Place.Kind.all)
    func `one that says nothing is dropped`(kind: ViewerGateway.Place.Kind) throws {
        let bench = try GatewayBench(kind, patience: 50_000_000)
        let viewer = try bench.viewer(), screen = try bench.screen()
        #expect(try screen.rest().isEmpty)
        #expect(try viewer.rest().count <= 12)
    }
}

extension ViewerGateway.Place.Kind {
    fileprivate static let all: [ViewerGateway.Place.Kind] = [.viewers, .browsers]
}
