/// Numbers of the remote framebuffer protocol (RFC 6143, and the community's register of extensions,
/// "rfbproto"), all fields big-endian.
enum RFBNumber {
    static let versionLength = 12
    static let version: [UInt8] = Array("RFB 003.008\n".utf8)
    /// 3, 7 or 8, from a version's twelve bytes (§7.1.1): what is unknown is treated as the version below.
    /// Nil for what is none.
    static func minorVersion(_ text: ArraySlice<UInt8>) -> Int? {
        let bytes = Array(text)
        func number(_ range: Range<Int>) -> Int? { Int(String(decoding: bytes[range], as: UTF8.self)) }
        guard bytes.count == versionLength, bytes.starts(with: "RFB ".utf8), bytes[7] == 0x2E,
            bytes[11] == 0x0A, let major = number(4..<7), let minor = number(8..<11), major >= 3
        else { return nil }
        return major > 3 || minor >= 8 ? 8 : minor == 7 ? 7 : 3
    }
    /// Security types, RFC 6143 §7.1.2.
    enum Security { static let none: UInt8 = 1, password: UInt8 = 2, veNCrypt: UInt8 = 19 }
    /// Encryption (rfbproto, "VeNCrypt"): the version that we speak, major and minor, and subtypes whose
    /// server has a certificate; inside TLS nothing, or the password of type 2.
    enum VeNCrypt {
        static let version: [UInt8] = [0, 2]
        static let x509None: UInt32 = 260, x509Password: UInt32 = 261
        /// The version, and then the subtype, suits or does not.
        static let versionSuits: UInt8 = 0, versionFails: UInt8 = 1
        static let subtypeFails: UInt8 = 0, subtypeSuits: UInt8 = 1
    }
    /// Messages of the client, §7.5, and extensions.
    enum FromClient {
        static let setPixelFormat: UInt8 = 0, setEncodings: UInt8 = 2, updateRequest: UInt8 = 3
        static let key: UInt8 = 4, pointer: UInt8 = 5, cutText: UInt8 = 6
        static let continuousUpdates: UInt8 = 150, fence: UInt8 = 248, setDesktopSize: UInt8 = 251
        static let qemu: UInt8 = 255
        /// What is answered, or changes what rectangles look like.
        static let betweenUpdates = [setPixelFormat, setEncodings, continuousUpdates, fence]
    }
    /// Messages of the server, §7.6, and extensions.
    enum FromServer {
        static let update: UInt8 = 0, colorMap: UInt8 = 1, endOfContinuousUpdates: UInt8 = 150
        static let fence: UInt8 = 248
    }
    enum QEMU { static let key: UInt8 = 0, audio: UInt8 = 1 }
    /// The number of rectangles of an update that ends with a word of its own.
    static let openCount = 0xFFFF
    /// Encodings, §7.7, and extensions.
    enum Encoding {
        static let raw: Int32 = 0, copyRectangle: Int32 = 1, hextile: Int32 = 5, tight: Int32 = 7
        static let zrle: Int32 = 16
        static let desktopSize: Int32 = -223, lastRectangle: Int32 = -224, cursor: Int32 = -239
        /// With colours and a mask, §7.8.1, or with alpha (rfbproto).
        static let alphaCursor: Int32 = -314
        static let pointerMotion: Int32 = -257, extendedKey: Int32 = -258, desktopName: Int32 = -307
        static let extendedDesktopSize: Int32 = -308, fence: Int32 = -312, continuousUpdates: Int32 = -313
        /// Compression levels 0 to 9, JPEG quality levels 0 to 9.
        static let compression: ClosedRange<Int32> = -256 ... -247, quality: ClosedRange<Int32> = -32 ... -23
    }
    /// By whom another size was wished for (rfbproto, "ExtendedDesktopSize").
    enum SizeReason { static let nobody = 0, viewer = 1, otherViewer = 2 }
    /// What became of a viewer's wish for another size.
    enum SizeStatus {
        static let done: UInt16 = 0, prohibited: UInt16 = 1, invalidLayout: UInt16 = 3
        /// The guest was told, and may do it later.
        static let forwarded: UInt16 = 4
    }
    /// Flags of a fence.
    enum Fence {
        static let blockBefore: UInt32 = 1, blockAfter: UInt32 = 2, syncNext: UInt32 = 4
        static let request: UInt32 = 0x8000_0000
        static let longestPayload = 64
    }
}

/// Takes big-endian fields out of bytes that have arrived; nil where they end.
struct ClientReader {
    let bytes: ArraySlice<UInt8>
    private(set) var place: Int

    init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        place = bytes.startIndex
    }

    mutating func byte() -> UInt8? {
        guard place < bytes.endIndex else { return nil }
        defer { place += 1 }
        return bytes[place]
    }
    mutating func word() -> UInt16? { number(2).map { UInt16($0) } }
    mutating func long() -> UInt32? { number(4) }

    private mutating func number(_ count: Int) -> UInt32? {
        guard bytes.endIndex - place >= count else { return nil }
        defer { place += count }
        return bytes[place..<place + count].reduce(0) { $0 << 8 | UInt32($1) }
    }
    mutating func skip(_ count: Int) -> Bool {
        guard count >= 0, bytes.endIndex - place >= count else { return false }
        place += count
        return true
    }
    mutating func take(_ count: Int) -> ArraySlice<UInt8>? {
        let start = place
        return skip(count) ? bytes[start..<start + count] : nil
    }
}
