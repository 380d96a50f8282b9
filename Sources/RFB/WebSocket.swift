internal import ByteLayout

/// The server's end of a WebSocket (RFC 6455) around a stream of bytes, as noVNC wants it: binary messages,
/// no extensions. Pure; nothing of a message is kept but its header.
public struct WebSocket {
    private enum State { case request, open, closed }
    private var state = State.request
    private var buffer: [UInt8] = []
    /// Of the frame whose payload arrives.
    private var frame: Frame?
    private var isMidMessage = false
    /// A browser may come from any page; with a password that does no harm.
    private let trustsAnyOrigin: Bool

    private struct Frame {
        var opcode: UInt8, left: UInt64, mask: [UInt8], maskPlace = 0
        var control: [UInt8] = []
    }
    private enum Opcode {
        static let continuation: UInt8 = 0, text: UInt8 = 1, binary: UInt8 = 2, close: UInt8 = 8
        static let ping: UInt8 = 9, pong: UInt8 = 10
    }
    private static let longestRequest = 8192
    private static let longestControl = 125

    /// - Parameter trustsAnyOrigin: pages of any site may connect; else only those of this host.
    public init(trustsAnyOrigin: Bool) { self.trustsAnyOrigin = trustsAnyOrigin }

    /// What bytes of the peer mean: bytes of the stream, and bytes to send back at once.
    public struct Result: Equatable {
        public var payload: [UInt8] = []
        public var reply: [UInt8] = []
        public var isClosed = false
    }

    public mutating func receive(_ bytes: ArraySlice<UInt8>) -> Result {
        var result = Result()
        buffer += bytes
        if state == .request { readRequest(&result) }
        while state == .open, readFrame(&result) {}
        if state == .closed {
            buffer = []
            result.isClosed = true
        }
        return result
    }

    /// The handshake is done.
    public var isOpen: Bool { state == .open }

    /// Bytes of the stream as one message; nothing before the handshake.
    public func wrap(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        bytes.isEmpty || state != .open ? [] : Self.message(Opcode.binary, bytes)
    }

    private static func message(_ opcode: UInt8, _ payload: ArraySlice<UInt8>) -> [UInt8] {
        var message: [UInt8] = [0x80 | opcode]
        switch payload.count {
        case 0..<126: message.append(UInt8(payload.count))
        case 126..<65_536:
            message.append(126)
            message.append(bigEndian: UInt16(payload.count))
        default:
            message.append(127)
            message.append(bigEndian: UInt64(payload.count))
        }
        return message + payload
    }

    // MARK: Handshake

    private mutating func readRequest(_ result: inout Result) {
        let end: [UInt8] = [13, 10, 13, 10]
        guard let place = buffer.indices.first(where: { buffer[$0...].starts(with: end) }) else {
            if buffer.count > Self.longestRequest { refuse("431 Request Header Fields Too Large", &result) }
            return
        }
        guard place <= Self.longestRequest else {
            return refuse("431 Request Header Fields Too Large", &result)
        }
        let lines = String(decoding: buffer[..<place], as: UTF8.self).split(separator: "\r\n")
        buffer.removeFirst(place + end.count)
        var fields: [String: String] = [:]
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { continue }
            let value = line[line.index(after: colon)...].drop { $0 == " " || $0 == "\t" }
            fields[line[..<colon].lowercased()] = String(value)
        }
        guard lines.first?.hasPrefix("GET ") == true, let key = fields["sec-websocket-key"],
            fields["upgrade"]?.lowercased() == "websocket", fields["sec-websocket-version"] == "13"
        else { return refuse("400 Bad Request", &result) }
        guard trustsAnyOrigin || Self.isOwn(origin: fields["origin"], host: fields["host"]) else {
            return refuse("403 Forbidden", &result)
        }
        var reply = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        reply += "Sec-WebSocket-Accept: \(Self.accept(key))\r\n"
        let offered = fields["sec-websocket-protocol"]?.split(separator: ",") ?? []
        if offered.contains(where: { $0.drop(while: { $0 == " " }) == "binary" }) {
            reply += "Sec-WebSocket-Protocol: binary\r\n"
        }
        result.reply += Array((reply + "\r\n").utf8)
        state = .open
    }

    private mutating func refuse(_ status: String, _ result: inout Result) {
        result.reply += Array("HTTP/1.1 \(status)\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".utf8)
        state = .closed
    }

    /// RFC 6455 §4.2.2: the key and a constant, hashed.
    static func accept(_ key: String) -> String {
        Base64.text(SHA1.digest(Array((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").utf8)))
    }

    /// A program has no origin. A page has, and without a password only pages of this host may come: others
    /// would reach a machine of the one who reads them. The host must be a number or `localhost`, since a
    /// name may be made to lead here.
    private static func isOwn(origin: String?, host: String?) -> Bool {
        guard let origin else { return true }
        guard let scheme = origin.firstRange(of: "://") else { return false }
        func name(_ text: Substring) -> Substring {
            if text.first == "[" { return text.prefix { $0 != "]" } }
            return text.prefix { $0 != ":" }
        }
        let page = name(origin[scheme.upperBound...]), own = name((host ?? "")[...])
        func isNumber(_ name: Substring) -> Bool {
            name == "localhost" || name.first == "["
                || (!name.isEmpty && name.allSatisfy { $0 == "." || $0.isNumber && $0.isASCII })
        }
        func isLoopback(_ name: Substring) -> Bool {
            name == "localhost" || name == "[::1" || (isNumber(name) && name.hasPrefix("127."))
        }
        return isLoopback(page) || (isNumber(own) && page == own)
    }

    // MARK: Frames

    /// Whether something was read, and more may follow.
    private mutating func readFrame(_ result: inout Result) -> Bool {
        if frame == nil { guard readHeader() else { return false } }
        guard var current = frame else { return false }
        let count = Int(min(UInt64(buffer.count), current.left))
        guard count > 0 || current.left == 0 else { return false }
        for place in 0..<count {
            let byte = buffer[place] ^ current.mask[current.maskPlace & 3]
            current.maskPlace += 1
            if current.opcode < Opcode.close {
                result.payload.append(byte)
            } else {
                current.control.append(byte)
            }
        }
        buffer.removeFirst(count)
        current.left -= UInt64(count)
        frame = current.left == 0 ? nil : current
        guard current.left == 0 else { return false }
        switch current.opcode {
        case Opcode.ping: result.reply += Self.message(Opcode.pong, current.control[...])
        case Opcode.close:
            result.reply += Self.message(Opcode.close, current.control.prefix(2))
            state = .closed
        default: break
        }
        return true
    }

    /// §5.2. What breaks the rules closes the connection.
    private mutating func readHeader() -> Bool {
        guard buffer.count >= 2 else { return false }
        let first = buffer[0], second = buffer[1], opcode = first & 0x0F
        let short = second & 0x7F
        let lengthBytes = short < 126 ? 0 : short == 126 ? 2 : 8
        let isControl = opcode >= Opcode.close
        let follows = opcode == Opcode.continuation
        let isKnown =
            isControl
            ? opcode <= Opcode.pong && first & 0x80 != 0 && short <= UInt8(Self.longestControl)
            : follows == isMidMessage && opcode <= Opcode.binary && opcode != Opcode.text
        // Every frame of a client is masked, and there are no extensions.
        guard isKnown, second & 0x80 != 0, first & 0x70 == 0 else {
            state = .closed
            return false
        }
        guard buffer.count >= 2 + lengthBytes + 4 else { return false }
        let length =
            lengthBytes == 0
            ? UInt64(short) : buffer[2..<2 + lengthBytes].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length < 1 << 63 else {
            state = .closed
            return false
        }
        frame = Frame(
            opcode: opcode, left: length, mask: Array(buffer[(2 + lengthBytes)..<(6 + lengthBytes)]))
        if !isControl { isMidMessage = first & 0x80 == 0 }
        buffer.removeFirst(6 + lengthBytes)
        return true
    }
}

/// SHA-1 (FIPS 180-4 §6.1), which WebSocket's handshake asks for; it protects nothing there.
enum SHA1 {
    static func digest(_ message: [UInt8]) -> [UInt8] {
        var padded = message + [0x80]
        while padded.count % 64 != 56 { padded.append(0) }
        padded.append(bigEndian: UInt64(message.count) * 8)
        var state: [UInt32] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0]
        for start in stride(from: 0, to: padded.count, by: 64) { process(padded[start..<start + 64], &state) }
        var result: [UInt8] = []
        for word in state { result.append(bigEndian: word) }
        return result
    }

    private static func rotate(_ word: UInt32, _ count: UInt32) -> UInt32 {
        word << count | word >> (32 - count)
    }

    private static func process(_ block: ArraySlice<UInt8>, _ state: inout [UInt32]) {
        var words = stride(from: block.startIndex, to: block.endIndex, by: 4).map { place in
            block[place..<place + 4].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        }
        for place in 16..<80 {
            words.append(
                rotate(words[place - 3] ^ words[place - 8] ^ words[place - 14] ^ words[place - 16], 1))
        }
        var (a, b, c, d, e) = (state[0], state[1], state[2], state[3], state[4])
        for (round, word) in words.enumerated() {
            let mixed: UInt32, constant: UInt32
            switch round {
            case 0..<20: (mixed, constant) = (b & c | ~b & d, 0x5A82_7999)
            case 20..<40: (mixed, constant) = (b ^ c ^ d, 0x6ED9_EBA1)
            case 40..<60: (mixed, constant) = (b & c | b & d | c & d, 0x8F1B_BCDC)
            default: (mixed, constant) = (b ^ c ^ d, 0xCA62_C1D6)
            }
            let next = rotate(a, 5) &+ mixed &+ e &+ constant &+ word
            (e, d, c, b, a) = (d, c, rotate(b, 30), a, next)
        }
        for (index, value) in [a, b, c, d, e].enumerated() { state[index] = state[index] &+ value }
    }
}

/// Base 64 (RFC 4648 §4).
enum Base64 {
    private static let alphabet = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func text(_ bytes: [UInt8]) -> String {
        var text: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let part = bytes[start..<min(start + 3, bytes.count)]
            let word = (part + [0, 0]).prefix(3).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            for index in 0..<4 {
                text.append(
                    index <= part.count ? alphabet[Int(word >> UInt32(18 - 6 * index) & 0x3F)] : 0x3D)
            }
        }
        return String(decoding: text, as: UTF8.self)
    }
}
