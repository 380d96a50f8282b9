import Testing

@testable import RFB

@Suite struct WebSocketTests {
    private func request(_ more: String = "", host: String = "localhost:6080") -> [UInt8] {
        Array(
            ("GET /websockify HTTP/1.1\r\nHost: \(host)\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\(more)\r\n")
                .utf8)
    }
    private func frame(
        _ opcode: UInt8, _ payload: [UInt8], isLast: Bool = true, mask: [UInt8] = [1, 2, 3, 4]
    )
        -> [UInt8]
    {
        var frame: [UInt8] = [(isLast ? 0x80 : 0) | opcode]
        if payload.count < 126 {
            frame.append(0x80 | UInt8(payload.count))
        } else {
            frame += [0x80 | 126, UInt8(payload.count >> 8), UInt8(payload.count & 0xFF)]
        }
        return frame + mask + payload.enumerated().map { $1 ^ mask[$0 & 3] }
    }
    private func open(_ socket: inout WebSocket) -> String {
        String(decoding: socket.receive(request()[...]).reply, as: UTF8.self)
    }

    /// The example of RFC 6455 §1.3.
    @Test func `the handshake is the RFC's`() {
        #expect(WebSocket.accept("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        var socket = WebSocket(trustsAnyOrigin: false)
        // Byte by byte.
        var reply: [UInt8] = []
        for byte in request("Sec-WebSocket-Protocol: chat, binary\r\n") {
            reply += socket.receive([byte]).reply
        }
        let text = String(decoding: reply, as: UTF8.self)
        #expect(text.hasPrefix("HTTP/1.1 101 ") && text.hasSuffix("\r\n\r\n"))
        #expect(text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"))
        #expect(text.contains("Sec-WebSocket-Protocol: binary\r\n") && socket.isOpen)
    }

    @Test func `messages carry a stream, in pieces of any size`() {
        var socket = WebSocket(trustsAnyOrigin: false)
        _ = open(&socket)
        let long = (0..<1000).map { UInt8(truncatingIfNeeded: $0) }
        let bytes = frame(2, [1, 2, 3]) + frame(2, [4], isLast: false) + frame(9, [7]) + frame(0, long)
        for size in [1, 3, 7, bytes.count] {
            var copy = socket, payload: [UInt8] = [], reply: [UInt8] = []
            for start in stride(from: 0, to: bytes.count, by: size) {
                let result = copy.receive(bytes[start..<min(start + size, bytes.count)])
                payload += result.payload
                reply += result.reply
            }
            #expect(payload == [1, 2, 3, 4] + long && reply == [0x8A, 1, 7], "pieces of \(size)")
        }
        #expect(socket.wrap([5, 6]) == [0x82, 2, 5, 6])
        #expect(Array(socket.wrap(long[...]).prefix(4)) == [0x82, 126, 3, 0xE8])
        let end = socket.receive(frame(8, [3, 0xE8])[...])
        #expect(end.isClosed && end.reply == [0x88, 2, 3, 0xE8])
    }

    @Test(
        arguments: [
            [0x82, 0x03, 1, 2, 3], [0xC2, 0x81, 0, 0, 0, 0, 1], [0x81, 0x81, 0, 0, 0, 0, 1],
            [0x80, 0x80, 0, 0, 0, 0], [0x09, 0x80, 0, 0, 0, 0], [0x89, 0xFE, 0, 0], [0x83, 0x80, 0, 0, 0, 0],
            [0x82, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
        ] as [[UInt8]])
    func `frames that break the rules end the connection`(bytes: [UInt8]) {
        var socket = WebSocket(trustsAnyOrigin: false)
        _ = open(&socket)
        #expect(socket.receive(bytes[...]).isClosed)
    }

    @Test func `requests that are none, or have no end, are turned away`() {
        for text in ["GET / HTTP/1.1\r\n\r\n", "\r\n\r\n", "POST / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"] {
            var socket = WebSocket(trustsAnyOrigin: false)
            let result = socket.receive(Array(text.utf8)[...])
            #expect(result.isClosed && result.reply.starts(with: "HTTP/1.1 400".utf8))
        }
        var socket = WebSocket(trustsAnyOrigin: false)
        let result = socket.receive([UInt8](repeating: 0x41, count: 10_000)[...])
        #expect(result.isClosed && result.reply.starts(with: "HTTP/1.1 431".utf8))
    }

    // swift-format-ignore
    @Test(arguments: [
        ("http://localhost:8000", "127.0.0.1:6080", true), ("http://127.0.0.1", "localhost:1", true),
        ("http://[::1]:8000", "[::1]:6080", true),         ("http://10.0.0.5", "10.0.0.5:6080", true),
        ("https://evil.example", "127.0.0.1:6080", false), ("http://evil.org", "evil.org:6080", false),
        ("null", "127.0.0.1:6080", false),                 ("http://10.0.0.6", "10.0.0.5:6080", false),
        ("http://127.evil.example", "127.0.0.1", false),
    ])
    func `pages of other sites reach no machine without a password`(
        origin: String, host: String, isOwn: Bool
    ) {
        for trustsAll in [false, true] {
            var socket = WebSocket(trustsAnyOrigin: trustsAll)
            let reply = socket.receive(request("Origin: \(origin)\r\n", host: host)[...]).reply
            #expect(reply.starts(with: "HTTP/1.1 101".utf8) == (isOwn || trustsAll))
        }
    }
}
