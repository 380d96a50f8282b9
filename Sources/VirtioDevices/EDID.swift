internal import ByteLayout

/// What a monitor says about itself (VESA Enhanced EDID Standard, release A, EDID 1.4): one block of 128
/// bytes whose preferred mode is the size of the screen.
struct EDID {
    static let size = 128
    /// What a detailed timing can name: twelve bits.
    static let longestSide = 4095
    /// Millimetres of a pixel at 96 dots per inch, times a thousand.
    private static let pixelPitch = 265

    let bytes: [UInt8]

    /// - Parameters: the size of the screen in pixels, each 1...4095.
    init(width: Int, height: Int) {
        var bytes: [UInt8] = [0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x00]
        // "OSP" in five bits a letter, product 1, serial number 0, made in 1990 + 35.
        bytes += [0x3E, 0x70, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 35, 1, 4]
        // Digital, 8 bits a colour, DisplayPort; centimetres; gamma 2.2; sRGB, preferred mode is native.
        bytes += [0xA5, Self.centimetres(width), Self.centimetres(height), 120, 0x06]
        // The chromaticities of sRGB.
        bytes += [0xEE, 0x91, 0xA3, 0x54, 0x4C, 0x99, 0x26, 0x0F, 0x50, 0x54]
        // 640x480, 800x600 and 1024x768 at 60 Hz.
        bytes += [0x21, 0x08, 0x00]
        for (width, aspect) in Self.standardTimings {
            bytes += [UInt8(width / 8 - 31), aspect.rawValue << 6]
        }
        bytes += Self.detailedTiming(width, height)
        bytes += Self.descriptor(0xFC, Array("Ospite\n".utf8))
        // 50 to 125 Hz, 30 to 160 kHz, 660 MHz at most, no formula.
        bytes += Self.descriptor(0xFD, [50, 125, 30, 160, 66, 0x01, 0x0A])
        bytes += Self.descriptor(0x10, [])
        // No extension; all bytes together are zero.
        bytes.append(0)
        bytes.append(0 &- bytes.reduce(0, &+))
        self.bytes = bytes
    }

    private enum Aspect: UInt8 { case wide10 = 0, normal, square, wide9 }

    /// Widths of modes at 60 Hz and their shapes.
    private static let standardTimings: [(Int, Aspect)] = [
        (1920, .wide9), (1920, .wide10), (1680, .wide10), (1600, .normal), (1440, .wide10), (1280, .square),
        (1280, .wide10), (1280, .wide9),
    ]

    private static func centimetres(_ pixels: Int) -> UInt8 {
        UInt8(clamping: max(pixels * pixelPitch / 10_000, 1))
    }

    /// A mode with the narrow blanking of flat screens, at 60 Hz, or less where the clock's field ends.
    private static func detailedTiming(_ width: Int, _ height: Int) -> [UInt8] {
        let front = 48, pulse = 32, across = 160, lineFront = 3, linePulse = 6, down = 45
        let clock = min((width + across) * (height + down) * 60 / 10_000, 0xFFFF)
        let (wide, high) = (width * pixelPitch / 1000, height * pixelPitch / 1000)
        var bytes: [UInt8] = []
        bytes.append(littleEndian: UInt16(clamping: clock))
        func low(_ value: Int) -> UInt8 { UInt8(truncatingIfNeeded: value) }
        func high4(_ first: Int, _ second: Int) -> UInt8 {
            UInt8(first >> 8 & 15) << 4 | UInt8(second >> 8 & 15)
        }
        bytes += [low(width), low(across), high4(width, across)]
        bytes += [low(height), low(down), high4(height, down)]
        bytes += [low(front), low(pulse), UInt8(lineFront << 4 | linePulse), 0]
        bytes += [low(wide), low(high), high4(wide, high), 0, 0]
        // Separate syncs, horizontal positive.
        return bytes + [0x1A]
    }

    /// A descriptor that is no timing; text and numbers are padded with spaces, as the standard has it.
    private static func descriptor(_ tag: UInt8, _ contents: [UInt8]) -> [UInt8] {
        let padding: UInt8 = tag == 0x10 ? 0 : 0x20
        let rest = [UInt8](repeating: padding, count: 13 - contents.count)
        return [0, 0, 0, tag, 0] + contents + rest
    }
}
