internal import Compression

/// What a server did that the protocol does not allow.
public struct RFBProblem: Error, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

/// A viewer for tests (RFC 6143 and extensions), written from the documents and not from our server: it keeps
/// the picture, and throws for everything that is not allowed. Confinement: one thread.
public final class RFBTestViewer {
    /// Gives exactly so many bytes of the server.
    public typealias Receive = (Int) throws -> [UInt8]
    public typealias Send = ([UInt8]) throws -> Void

    public struct Format: Sendable, CustomStringConvertible {
        public var bits: Int, depth: Int, isBigEndian: Bool
        public var maxima: [UInt32], shifts: [UInt32]
        public init(
            bits: Int, depth: Int, isBigEndian: Bool = false, maxima: [UInt32], shifts: [UInt32]
        ) {
            self.bits = bits
            self.depth = depth
            self.isBigEndian = isBigEndian
            self.maxima = maxima
            self.shifts = shifts
        }
        public static let native = Format(bits: 32, depth: 24, maxima: [255, 255, 255], shifts: [16, 8, 0])
        public var description: String { "\(bits) bits\(isBigEndian ? ", big-endian" : "") \(shifts)" }
    }

    private let receive: Receive
    private let send: Send
    public private(set) var width = 0, height = 0
    public private(set) var name = ""
    /// In the viewer's own format, as numbers.
    public private(set) var pixels: [UInt32] = []
    public private(set) var format = Format.native
    /// How often each encoding came.
    public private(set) var seen: [Int32: Int] = [:]
    public private(set) var fences: [(flags: UInt32, payload: [UInt8])] = []
    public private(set) var endsOfContinuousUpdates = 0
    /// Reason and status of the last extended size.
    public private(set) var sizeAnswer: (reason: Int, status: Int)?
    /// Whether the server takes positions of the pointer, once it has said so.
    public private(set) var isAbsolute: Bool?
    /// What the server gave this viewer to draw at its pointer: alpha, red, green, blue.
    public struct Cursor: Equatable {
        public var width: Int, height: Int, hotX: Int, hotY: Int
        public var pixels: [UInt32]
        public var isInvisible: Bool { pixels.allSatisfy { $0 >> 24 == 0 } }
    }
    public private(set) var cursor: Cursor?
    private var tightStreams: [Inflater?] = [nil, nil, nil, nil]
    private var zrleStream = Inflater()

    public init(receive: @escaping Receive, send: @escaping Send) {
        self.receive = receive
        self.send = send
    }

    // MARK: Bytes

    private func number(_ count: Int) throws -> Int { try receive(count).reduce(0) { $0 << 8 | Int($1) } }
    private func signed() throws -> Int32 { Int32(truncatingIfNeeded: try number(4)) }

    public static func big(_ value: Int, _ count: Int) -> [UInt8] {
        (0..<count).reversed().map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    private func pixel() throws -> UInt32 { value(try receive(format.bits / 8)) }
    private func value(_ bytes: [UInt8]) -> UInt32 {
        let ordered = format.isBigEndian ? bytes : bytes.reversed()
        return ordered.reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    }

    // MARK: Handshake

    /// - Parameter answer: to a challenge of sixteen bytes, when the server asks for a password.
    public func connect(version: String = "RFB 003.008\n", answer: (([UInt8]) -> [UInt8])? = nil) throws {
        guard try receive(12) == Array("RFB 003.008\n".utf8) else { throw RFBProblem("the version") }
        try send(Array(version.utf8))
        let isOld = version == "RFB 003.003\n"
        let type: Int
        if isOld {
            type = try number(4)
            guard type != 0 else { throw RFBProblem(try text()) }
        } else {
            let count = try number(1)
            guard count > 0 else { throw RFBProblem(try text()) }
            let types = try receive(count)
            type = Int(answer == nil ? types[0] : 2)
            try send([UInt8(type)])
        }
        if type == 2 { try send(answer?(try receive(16)) ?? []) }
        if type == 2 || version == "RFB 003.008\n" {
            guard try number(4) == 0 else {
                throw RFBProblem(version == "RFB 003.008\n" ? try text() : "no entry")
            }
        }
        try send([1])
        try setSize(try number(2), try number(2))
        guard try receive(16) == [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0] else {
            throw RFBProblem("the pixel format")
        }
        name = try text()
    }

    private func text() throws -> String {
        String(decoding: try receive(try number(4)), as: UTF8.self)
    }

    private func setSize(_ width: Int, _ height: Int) throws {
        guard (1...32_767).contains(width), (1...32_767).contains(height) else {
            throw RFBProblem("the size")
        }
        self.width = width
        self.height = height
        pixels = [UInt32](repeating: 0, count: width * height)
    }

    // MARK: Messages

    public func setFormat(_ format: Format) throws {
        self.format = format
        var message: [UInt8] = [0, 0, 0, 0, UInt8(format.bits), UInt8(format.depth)]
        message += [format.isBigEndian ? 1 : 0, 1]
        for maximum in format.maxima { message += Self.big(Int(maximum), 2) }
        message += format.shifts.map { UInt8($0) } + [0, 0, 0]
        try send(message)
    }

    public func setEncodings(_ list: [Int32]) throws {
        try send([2, 0] + Self.big(list.count, 2) + list.flatMap { Self.big(Int($0), 4) })
    }

    public func request(
        isIncremental: Bool, _ x: Int = 0, _ y: Int = 0, _ width: Int? = nil, _ height: Int? = nil
    )
        throws
    {
        let numbers = [x, y, width ?? self.width, height ?? self.height]
        try send([3, isIncremental ? 1 : 0] + numbers.flatMap { Self.big($0, 2) })
    }

    public func enableContinuousUpdates(_ isOn: Bool) throws {
        try send([150, isOn ? 1 : 0] + [0, 0, width, height].flatMap { Self.big($0, 2) })
    }

    public func key(_ symbol: UInt32, isDown: Bool) throws {
        try send([4, isDown ? 1 : 0, 0, 0] + Self.big(Int(symbol), 4))
    }

    public func pointer(_ buttons: UInt8, _ x: Int, _ y: Int) throws {
        try send([5, buttons] + Self.big(x, 2) + Self.big(y, 2))
    }

    /// Would like the screen to have this size: one screen, unless `layout` says something else.
    public func setDesktopSize(_ width: Int, _ height: Int, layout: [[Int]]? = nil) throws {
        let screens = layout ?? [[0, 0, width, height]]
        var message: [UInt8] = [251, 0] + Self.big(width, 2) + Self.big(height, 2)
        message += [UInt8(screens.count), 0]
        for screen in screens {
            message += [0, 0, 0, 1] + screen.flatMap { Self.big($0, 2) } + [0, 0, 0, 0]
        }
        try send(message)
    }

    /// Types a text: each character is its own symbol.
    public func type(_ text: String, pause: () -> Void = {}) throws {
        for character in text.unicodeScalars {
            let symbol: UInt32 = character == "\n" ? 0xFF0D : character.value
            for isDown in [true, false] {
                try key(symbol, isDown: isDown)
                pause()
            }
        }
    }

    /// Asks for the whole screen and waits for it, with its size.
    public func capture() throws {
        var size = (0, 0)
        repeat {
            size = (width, height)
            try request(isIncremental: false)
            while try !takeMessage() {}
        } while size != (width, height)
    }

    /// Takes one message; whether it was an update.
    @discardableResult
    public func takeMessage() throws -> Bool {
        switch try number(1) {
        case 0:
            _ = try receive(1)
            for _ in 0..<(try number(2)) where try !takeRectangle() { break }
            return true
        case 1:
            _ = try receive(3)
            _ = try receive(6 * (try number(2)))
        case 150: endsOfContinuousUpdates += 1
        case 248:
            _ = try receive(3)
            let flags = UInt32(try number(4))
            fences.append((flags, try receive(try number(1))))
        case let other: throw RFBProblem("there is no message \(other)")
        }
        return false
    }

    /// False for the last one of an update.
    private func takeRectangle() throws -> Bool {
        let x = try number(2), y = try number(2), width = try number(2), height = try number(2)
        let encoding = try signed()
        seen[encoding, default: 0] += 1
        switch encoding {
        case -224: return false
        case -223: try setSize(width, height)
        case -239, -314:
            cursor = Cursor(
                width: width, height: height, hotX: x, hotY: y,
                pixels: try encoding == -239
                    ? maskedCursor(width, height) : alphaCursor(width, height))
        case -257: isAbsolute = x == 1
        case -258: break
        case -307: name = try text()
        case -308:
            let screens = try number(1)
            _ = try receive(3 + 16 * screens)
            sizeAnswer = (x, y)
            if (width, height) != (self.width, self.height) { try setSize(width, height) }
        default:
            guard x + width <= self.width, y + height <= self.height else {
                throw RFBProblem("a rectangle is outside")
            }
            try takePixels(x, y, width, height, encoding)
        }
        return true
    }

    /// RFC 6143 §7.8.1.
    private func maskedCursor(_ width: Int, _ height: Int) throws -> [UInt32] {
        let values = try (0..<width * height).map { _ in try pixel() }
        let stride = (width + 7) / 8, mask = try receive(stride * height)
        return values.enumerated().map { place, value in
            let column = place % width, byte = mask[place / width * stride + column / 8]
            return byte >> UInt8(7 - column % 8) & 1 == 0 ? 0 : 0xFF00_0000 | value
        }
    }

    /// rfbproto, "Cursor With Alpha".
    private func alphaCursor(_ width: Int, _ height: Int) throws -> [UInt32] {
        guard try signed() == 0 else { throw RFBProblem("the cursor's encoding") }
        return try (0..<width * height).map { _ in
            let bytes = try receive(4).map { UInt32($0) }
            return bytes[3] << 24 | bytes[0] << 16 | bytes[1] << 8 | bytes[2]
        }
    }

    private func takePixels(_ x: Int, _ y: Int, _ width: Int, _ height: Int, _ encoding: Int32) throws {
        let block: [UInt32]
        switch encoding {
        case 0: block = try (0..<width * height).map { _ in try pixel() }
        case 1:
            let fromX = try number(2), fromY = try number(2)
            guard fromX + width <= self.width, fromY + height <= self.height else {
                throw RFBProblem("a copy comes from outside")
            }
            block = (0..<width * height).map { place in
                pixels[(fromY + place / width) * self.width + fromX + place % width]
            }
        case 5: block = try hextile(width, height)
        case 7: block = try tight(width, height)
        case 16: block = try zrle(width, height)
        default: throw RFBProblem("nobody asked for encoding \(encoding)")
        }
        for row in 0..<height {
            let start = (y + row) * self.width + x
            pixels.replaceSubrange(start..<start + width, with: block[row * width..<(row + 1) * width])
        }
    }

    // MARK: Hextile (§7.7.4)

    private func hextile(_ width: Int, _ height: Int) throws -> [UInt32] {
        var block = [UInt32](repeating: 0, count: width * height)
        var background: UInt32?, foreground: UInt32?
        for top in stride(from: 0, to: height, by: 16) {
            for left in stride(from: 0, to: width, by: 16) {
                let tile = (width: min(16, width - left), height: min(16, height - top))
                func fill(_ x: Int, _ y: Int, _ wide: Int, _ high: Int, _ value: UInt32) throws {
                    guard x + wide <= tile.width, y + high <= tile.height else {
                        throw RFBProblem("a rectangle leaves its tile")
                    }
                    for row in y..<y + high {
                        for column in x..<x + wide { block[(top + row) * width + left + column] = value }
                    }
                }
                let flags = try number(1)
                if flags & 1 != 0 {
                    for row in 0..<tile.height {
                        for column in 0..<tile.width { try fill(column, row, 1, 1, try pixel()) }
                    }
                    (background, foreground) = (nil, nil)
                    continue
                }
                if flags & 2 != 0 { background = try pixel() }
                if flags & 4 != 0 { foreground = try pixel() }
                guard let background else { throw RFBProblem("a tile has no background") }
                try fill(0, 0, tile.width, tile.height, background)
                guard flags & 8 != 0 else { continue }
                for _ in 0..<(try number(1)) {
                    let own = flags & 16 != 0 ? try pixel() : foreground
                    guard let own else { throw RFBProblem("a tile has no foreground") }
                    let place = try number(1), size = try number(1)
                    try fill(place >> 4, place & 15, size >> 4 + 1, size & 15 + 1, own)
                }
                if flags & 16 != 0 { foreground = nil }
            }
        }
        return block
    }

    // MARK: ZRLE (§7.7.6)

    private func zrle(_ width: Int, _ height: Int) throws -> [UInt32] {
        let data = try receive(try number(4))
        guard let plain = zrleStream.decompress(data, limit: width * height * 6 + 65_536) else {
            throw RFBProblem("this is no zlib stream")
        }
        var source = ByteSource(plain)
        var block = [UInt32](repeating: 0, count: width * height)
        for top in stride(from: 0, to: height, by: 64) {
            for left in stride(from: 0, to: width, by: 64) {
                let wide = min(64, width - left), high = min(64, height - top)
                let tile = try zrleTile(&source, wide, high)
                guard tile.count == wide * high else { throw RFBProblem("a tile has another size") }
                for (place, value) in tile.enumerated() {
                    block[(top + place / wide) * width + left + place % wide] = value
                }
            }
        }
        guard source.isAtEnd else { throw RFBProblem("bytes are left") }
        return block
    }

    private func zrleTile(_ source: inout ByteSource, _ wide: Int, _ high: Int) throws -> [UInt32] {
        let kind = Int(try source.byte()), count = wide * high
        func pixel(_ source: inout ByteSource) throws -> UInt32 { try compactPixel(&source) }
        func length(_ source: inout ByteSource) throws -> Int {
            var length = 1
            while true {
                let byte = Int(try source.byte())
                length += byte
                if byte < 255 { return length }
            }
        }
        switch kind {
        case 0: return try (0..<count).map { _ in try pixel(&source) }
        case 1: return [UInt32](repeating: try pixel(&source), count: count)
        case 2...16:
            let palette = try (0..<kind).map { _ in try pixel(&source) }
            let bits = kind == 2 ? 1 : kind <= 4 ? 2 : 4
            var tile: [UInt32] = []
            for _ in 0..<high {
                let row = try source.take((wide * bits + 7) / 8)
                for x in 0..<wide {
                    let index = Int(row[x * bits / 8]) >> (8 - bits - x * bits % 8) & (1 << bits - 1)
                    guard index < kind else { throw RFBProblem("a palette is too small") }
                    tile.append(palette[index])
                }
            }
            return tile
        case 128:
            var tile: [UInt32] = []
            while tile.count < count {
                let value = try pixel(&source)
                tile += [UInt32](repeating: value, count: try length(&source))
            }
            return tile
        case 130...255:
            let palette = try (0..<kind - 128).map { _ in try pixel(&source) }
            var tile: [UInt32] = []
            while tile.count < count {
                let index = Int(try source.byte())
                guard index & 0x7F < palette.count else { throw RFBProblem("a palette is too small") }
                let run = index & 0x80 == 0 ? 1 : try length(&source)
                tile += [UInt32](repeating: palette[index & 0x7F], count: run)
            }
            return tile
        default: throw RFBProblem("there is no tile \(kind)")
        }
    }

    private func compactPixel(_ source: inout ByteSource) throws -> UInt32 {
        let used = zip(format.maxima, format.shifts).reduce(UInt32(0)) { $0 | $1.0 << $1.1 }
        guard format.bits == 32, format.depth <= 24, used & 0xFF00_0000 == 0 || used & 0xFF == 0 else {
            return value(try source.take(format.bits / 8))
        }
        let bytes = try source.take(3), isLow = used & 0xFF00_0000 == 0
        if format.isBigEndian { return value(isLow ? [0] + bytes : bytes + [0]) }
        return value(isLow ? bytes + [0] : [0] + bytes)
    }

    // MARK: Tight

    private var isTightTrueColor: Bool {
        format.bits == 32 && format.depth == 24 && format.maxima == [255, 255, 255]
    }
    private func tightPixel(_ bytes: [UInt8]) -> UInt32 {
        guard isTightTrueColor else { return value(bytes) }
        return zip(bytes, format.shifts).reduce(UInt32(0)) { $0 | UInt32($1.0) << $1.1 }
    }
    private var tightSize: Int { isTightTrueColor ? 3 : format.bits / 8 }

    private func tightLength() throws -> Int {
        var length = 0
        for (shift, mask) in [(0, 0x7F), (7, 0x7F), (14, 0xFF)] {
            let byte = try number(1)
            length |= (byte & mask) << shift
            if shift == 14 || byte & 0x80 == 0 { break }
        }
        return length
    }

    private func tight(_ width: Int, _ height: Int) throws -> [UInt32] {
        guard width <= 2048 else { throw RFBProblem("a rectangle is too wide for Tight") }
        let control = try number(1)
        for stream in 0..<4 where control >> stream & 1 != 0 { tightStreams[stream] = nil }
        switch control >> 4 {
        case 8:
            let value = tightPixel(try receive(tightSize))
            return [UInt32](repeating: value, count: width * height)
        case 9:
            let file = try receive(try tightLength())
            guard let picture = JPEGImage.decompress(file, width: width, height: height) else {
                throw RFBProblem("this is no JPEG picture")
            }
            return picture.map { pixel in
                zip([16, 8, 0] as [UInt32], zip(format.maxima, format.shifts)).reduce(UInt32(0)) {
                    $0 | ((pixel >> $1.0 & 0xFF) * $1.1.0 / 255) << $1.1.1
                }
            }
        case 0...7:
            let filter = control & 0x40 != 0 ? try number(1) : 0
            return try tightBasic(control >> 4 & 3, filter, width, height)
        default: throw RFBProblem("there is no Tight control \(control)")
        }
    }

    private func tightBasic(_ stream: Int, _ filter: Int, _ width: Int, _ height: Int) throws -> [UInt32] {
        switch filter {
        case 0:
            let data = try tightData(stream, width * height * tightSize)
            return stride(from: 0, to: data.count, by: tightSize).map {
                tightPixel(Array(data[$0..<$0 + tightSize]))
            }
        case 1:
            let count = try number(1) + 1
            let palette = try (0..<count).map { _ in tightPixel(try receive(tightSize)) }
            if count == 2 {
                let row = (width + 7) / 8, data = try tightData(stream, row * height)
                return (0..<width * height).map { place in
                    let x = place % width
                    return palette[Int(data[place / width * row + x / 8] >> UInt8(7 - x % 8) & 1)]
                }
            }
            let data = try tightData(stream, width * height)
            guard data.allSatisfy({ Int($0) < count }) else { throw RFBProblem("a palette is too small") }
            return data.map { palette[Int($0)] }
        default: throw RFBProblem("there is no filter \(filter)")
        }
    }

    private func tightData(_ stream: Int, _ size: Int) throws -> [UInt8] {
        guard size >= 12 else { return try receive(size) }
        let data = try receive(try tightLength())
        let inflater = tightStreams[stream] ?? Inflater()
        tightStreams[stream] = inflater
        guard let plain = inflater.decompress(data, limit: size), plain.count == size else {
            throw RFBProblem("a Tight stream has another size")
        }
        return plain
    }
}

/// Bytes that are taken one after the other.
private struct ByteSource {
    private let bytes: [UInt8]
    private var place = 0
    init(_ bytes: [UInt8]) { self.bytes = bytes }
    var isAtEnd: Bool { place == bytes.count }
    mutating func byte() throws -> UInt8 { try take(1)[0] }
    mutating func take(_ count: Int) throws -> [UInt8] {
        guard count >= 0, bytes.count - place >= count else { throw RFBProblem("bytes are missing") }
        defer { place += count }
        return Array(bytes[place..<place + count])
    }
}
