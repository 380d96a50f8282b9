internal import ByteLayout

/// How a viewer wants its pixels (RFC 6143 §7.4). Pixels of ours are XRGB8888.
struct PixelFormat: Equatable, Sendable {
    /// 8, 16 or 32.
    var bitsPerPixel: Int
    var depth: Int
    var isBigEndian: Bool
    var redMax: UInt16, greenMax: UInt16, blueMax: UInt16
    var redShift: UInt8, greenShift: UInt8, blueShift: UInt8

    static let native = PixelFormat(
        bitsPerPixel: 32, depth: 24, isBigEndian: false, redMax: 255, greenMax: 255, blueMax: 255,
        redShift: 16, greenShift: 8, blueShift: 0)
    /// What a viewer with a colour map gets: three bits of red and green, two of blue.
    static let mapped = PixelFormat(
        bitsPerPixel: 8, depth: 8, isBigEndian: false, redMax: 7, greenMax: 7, blueMax: 3,
        redShift: 5, greenShift: 2, blueShift: 0)

    init(
        bitsPerPixel: Int, depth: Int, isBigEndian: Bool, redMax: UInt16, greenMax: UInt16, blueMax: UInt16,
        redShift: UInt8, greenShift: UInt8, blueShift: UInt8
    ) {
        self.bitsPerPixel = bitsPerPixel
        self.depth = depth
        self.isBigEndian = isBigEndian
        self.redMax = redMax
        self.greenMax = greenMax
        self.blueMax = blueMax
        self.redShift = redShift
        self.greenShift = greenShift
        self.blueShift = blueShift
    }

    /// Reads the sixteen bytes of the format. Nil for one that nobody can have, a format of `mapped` for a
    /// colour map.
    init?(_ reader: inout ClientReader) {
        guard let bits = reader.byte(), let depth = reader.byte(), let endian = reader.byte(),
            let isTrueColor = reader.byte(), let redMax = reader.word(), let greenMax = reader.word(),
            let blueMax = reader.word(), let redShift = reader.byte(), let greenShift = reader.byte(),
            let blueShift = reader.byte(), reader.skip(3)
        else { return nil }
        if isTrueColor == 0 {
            guard bits == 8 else { return nil }
            self = .mapped
            return
        }
        self.init(
            bitsPerPixel: Int(bits), depth: Int(depth), isBigEndian: endian != 0, redMax: redMax,
            greenMax: greenMax, blueMax: blueMax, redShift: redShift, greenShift: greenShift,
            blueShift: blueShift)
        guard [8, 16, 32].contains(bits), redMax > 0, greenMax > 0, blueMax > 0 else { return nil }
        for (maximum, shift) in [(redMax, redShift), (greenMax, greenShift), (blueMax, blueShift)] {
            // A maximum is a row of ones, and lies inside the pixel.
            guard maximum & (maximum &+ 1) == 0,
                Int(shift) + (16 - maximum.leadingZeroBitCount) <= bitsPerPixel
            else { return nil }
        }
    }

    func append(to bytes: inout [UInt8]) {
        bytes += [UInt8(bitsPerPixel), UInt8(depth), isBigEndian ? 1 : 0, 1]
        for maximum in [redMax, greenMax, blueMax] { bytes.append(bigEndian: maximum) }
        bytes += [redShift, greenShift, blueShift, 0, 0, 0]
    }

    var bytesPerPixel: Int { bitsPerPixel / 8 }

    /// The three bytes that hold all of a pixel, when ZRLE may send only those (§7.7.5).
    var compactBytes: Range<Int>? {
        guard bitsPerPixel == 32, depth <= 24 else { return nil }
        let used =
            UInt32(redMax) << UInt32(redShift) | UInt32(greenMax) << UInt32(greenShift)
            | UInt32(blueMax) << UInt32(blueShift)
        if used & 0xFF00_0000 == 0 { return isBigEndian ? 1..<4 : 0..<3 }
        if used & 0xFF == 0 { return isBigEndian ? 0..<3 : 1..<4 }
        return nil
    }

    /// Tight sends red, green and blue, a byte each.
    var isTightTrueColor: Bool {
        bitsPerPixel == 32 && depth == 24 && redMax == 255 && greenMax == 255 && blueMax == 255
    }
}

/// Turns pixels of ours into those of a viewer, and those into bytes.
struct PixelTranslator {
    let format: PixelFormat
    private let isIdentity: Bool
    private let red: [UInt32], green: [UInt32], blue: [UInt32]

    init(_ format: PixelFormat) {
        self.format = format
        func table(_ maximum: UInt16, _ shift: UInt8) -> [UInt32] {
            (0..<256).map { ((UInt32($0) * UInt32(maximum) + 127) / 255) << UInt32(shift) }
        }
        red = table(format.redMax, format.redShift)
        green = table(format.greenMax, format.greenShift)
        blue = table(format.blueMax, format.blueShift)
        isIdentity =
            format.redMax == 255 && format.greenMax == 255 && format.blueMax == 255
            && format.redShift == 16 && format.greenShift == 8 && format.blueShift == 0
    }

    func value(_ pixel: UInt32) -> UInt32 {
        if isIdentity { return pixel & 0xFF_FFFF }
        return red[Int(pixel >> 16 & 0xFF)] | green[Int(pixel >> 8 & 0xFF)] | blue[Int(pixel & 0xFF)]
    }

    func values(_ pixels: [UInt32]) -> [UInt32] {
        if isIdentity { return pixels.map { $0 & 0xFF_FFFF } }
        return pixels.map { red[Int($0 >> 16 & 0xFF)] | green[Int($0 >> 8 & 0xFF)] | blue[Int($0 & 0xFF)] }
    }

    /// Appends a viewer's pixel.
    func append(_ value: UInt32, to bytes: inout [UInt8]) {
        switch (format.bitsPerPixel, format.isBigEndian) {
        case (8, _): bytes.append(UInt8(truncatingIfNeeded: value))
        case (16, false): bytes.append(littleEndian: UInt16(truncatingIfNeeded: value))
        case (16, true): bytes.append(bigEndian: UInt16(truncatingIfNeeded: value))
        case (_, false): bytes.append(littleEndian: value)
        case (_, true): bytes.append(bigEndian: value)
        }
    }

    /// ZRLE's CPIXEL.
    func appendCompact(_ value: UInt32, to bytes: inout [UInt8]) {
        guard let part = format.compactBytes else { return append(value, to: &bytes) }
        for index in part {
            let shift = UInt32(format.isBigEndian ? 3 - index : index) * 8
            bytes.append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }

    /// Tight's TPIXEL.
    func appendTight(_ value: UInt32, to bytes: inout [UInt8]) {
        guard format.isTightTrueColor else { return append(value, to: &bytes) }
        for shift in [format.redShift, format.greenShift, format.blueShift] {
            bytes.append(UInt8(truncatingIfNeeded: value >> UInt32(shift)))
        }
    }
}
