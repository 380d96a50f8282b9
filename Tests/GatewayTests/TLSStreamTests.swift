import NIOSSL
import TestKit
import Testing

@testable import ViewerGateway

@Suite struct TLSStreamTests {
    static let certificate = Result { try TestCertificate() }
    static func identity() throws -> TLSIdentity {
        let files = try certificate.get()
        return try TLSIdentity(certificate: files.certificate, key: files.key)
    }

    /// Carries bytes between both until they have nothing to say.
    private func settle(_ stream: TLSStream, _ peer: TLSTestPeer) throws -> [UInt8] {
        var heard: [UInt8] = []
        while true {
            let toServer = try peer.takeOutput(), toClient = stream.takeOutput()
            if toServer.isEmpty, toClient.isEmpty { return heard }
            heard += stream.receive(toServer[...])
            if !toClient.isEmpty { try peer.receive(toClient) }
        }
    }

    @Test(arguments: [TLSVersion.tlsv12, .tlsv13], [ViewerGateway.Place.Kind.viewers, .browsers])
    func `what is sent arrives on the other side`(version: TLSVersion, kind: ViewerGateway.Place.Kind) throws
    {
        let stream = TLSStream(try Self.identity(), for: kind), peer = try TLSTestPeer(newest: version)
        #expect(!stream.isOpen)
        #expect(try settle(stream, peer).isEmpty && stream.isOpen)
        let words = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        stream.send(words[...])
        peer.send(words)
        #expect(try settle(stream, peer) == words)
        #expect(peer.received == words)
        // Viewers get no ticket in front of the first words.
        #expect(peer.version == (kind == .viewers ? .tlsv12 : version))
        stream.close()
        try peer.receive(stream.takeOutput())
        #expect(peer.isOver && stream.isClosed)
    }

    @Test(arguments: [TLSVersion.tlsv1, .tlsv11])
    func `versions that are broken are refused`(version: TLSVersion) throws {
        let stream = TLSStream(try Self.identity(), for: .viewers), peer = try TLSTestPeer(newest: version)
        #expect(stream.receive(try peer.takeOutput()[...]).isEmpty)
        #expect(stream.isClosed && !stream.isOpen)
        #expect(stream.takeOutput().first == 21, "an alert (RFC 5246 §6.2.1)")
    }

    @Test func `one that says goodbye is gone`() throws {
        let stream = TLSStream(try Self.identity(), for: .viewers), peer = try TLSTestPeer()
        _ = try settle(stream, peer)
        peer.send([1, 2, 3])
        let last = try peer.takeOutput()
        #expect(stream.receive(last[...]) == [1, 2, 3])
        peer.close()
        #expect(stream.receive(try peer.takeOutput()[...]).isEmpty && stream.isClosed)
        // It is no error to go on.
        stream.send([4])
        #expect(stream.receive([5]).isEmpty)
    }

    @Test func `bytes that break the rules end the stream, and nothing of it stays`() throws {
        var random = TestRandom(seed: 8446)
        let identity = try Self.identity()
        var ends = 0
        for round in 0..<400 {
            weak var gone: AnyObject?
            do {
                let stream = TLSStream(identity, for: .browsers), peer = try TLSTestPeer()
                gone = stream.resource
                if round % 2 == 1 { _ = try settle(stream, peer) } else { peer.send([]) }
                peer.send([9, 9])
                var bytes = try peer.takeOutput()
                switch round % 6 {
                case 0, 1: bytes = Array(bytes.prefix(random.below(bytes.count)))
                case 2, 3: bytes[random.below(bytes.count)] ^= 1 << UInt8(random.below(8))
                default: bytes = (0..<300).map { _ in random.byte() }
                }
                #expect(stream.receive(bytes[...]) != [9, 9] || round % 6 == 3)
                _ = stream.takeOutput()
                if stream.isClosed { ends += 1 }
            }
            #expect(gone == nil, "round \(round)")
        }
        #expect(ends > 150)
    }

    @Test func `files that do not go together are refused with what to give instead`() throws {
        let files = try Self.certificate.get(), others = try TestCertificate()
        func problem(_ certificate: [UInt8], _ key: [UInt8]) -> String {
            do throws(CertificateProblem) {
                _ = try TLSIdentity(certificate: certificate, key: key)
                return ""
            } catch { return error.description }
        }
        #expect(problem(files.certificate, files.key) == "")
        #expect(problem(files.key + files.certificate, files.certificate + files.key) == "", "all in one")
        #expect(problem([], files.key).contains("no certificate in it"))
        #expect(problem(files.key, files.key).contains("no certificate in it"))
        #expect(problem(Array("-----BEGIN CERTIFICATE-----\nAAAA\n".utf8), []).contains("no certificate"))
        #expect(problem(files.certificate, files.certificate).contains("no private key"))
        #expect(problem(files.certificate, files.lockedKey).contains("no password"))
        #expect(problem(files.certificate, others.key).contains("another certificate"))
    }
}
