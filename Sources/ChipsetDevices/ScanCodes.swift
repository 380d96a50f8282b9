/// One key of a PC's keyboard, by what the XT sends when it goes down: bit 7 is set for those with an E0h
/// before their code. Print Screen is B7h, Pause C6h (the XT's Ctrl with Break).
public struct KeyCode: Hashable, Sendable {
    public let raw: UInt8
    public init(_ raw: UInt8) { self.raw = raw }

    static let printScreen = KeyCode(0xB7), pause = KeyCode(0xC6)
    /// What a keyboard can have: code 0 is its overrun, 60h and 61h would be prefixes.
    var exists: Bool { raw & 0x7F != 0 && raw & 0x7F < 0x60 || raw == 0x70 || raw == 0x73 || raw == 0x79 }
}

/// The scan codes of keyboards (IBM PS/2 technical reference, "Keyboards"), and what an 8042 makes of them.
enum ScanCodes {
    // swift-format-ignore
    /// What the 8042 makes of each byte below 80h when it translates set 2 to set 1.
    private static let translation: [128 of UInt8] = [
        0xFF, 0x43, 0x41, 0x3F, 0x3D, 0x3B, 0x3C, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3E, 0x0F, 0x29, 0x59,
        0x65, 0x38, 0x2A, 0x70, 0x1D, 0x10, 0x02, 0x5A, 0x66, 0x71, 0x2C, 0x1F, 0x1E, 0x11, 0x03, 0x5B,
        0x67, 0x2E, 0x2D, 0x20, 0x12, 0x05, 0x04, 0x5C, 0x68, 0x39, 0x2F, 0x21, 0x14, 0x13, 0x06, 0x5D,
        0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5E, 0x6A, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5F,
        0x6B, 0x33, 0x25, 0x17, 0x18, 0x0B, 0x0A, 0x60, 0x6C, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0C, 0x61,
        0x6D, 0x73, 0x28, 0x74, 0x1A, 0x0D, 0x62, 0x6E, 0x3A, 0x36, 0x1C, 0x1B, 0x75, 0x2B, 0x63, 0x76,
        0x55, 0x56, 0x77, 0x78, 0x79, 0x7A, 0x0E, 0x7B, 0x7C, 0x4F, 0x7D, 0x4B, 0x47, 0x7E, 0x7F, 0x6F,
        0x52, 0x53, 0x50, 0x4C, 0x4D, 0x48, 0x01, 0x45, 0x57, 0x4E, 0x51, 0x4A, 0x37, 0x49, 0x46, 0x54,
    ]
    /// Before the code of a key that goes up, in set 2.
    static let release: UInt8 = 0xF0

    /// A byte of set 2 in set 1; the 8042 leaves answers of the keyboard as they are.
    static func translated(_ byte: UInt8) -> UInt8 {
        switch byte {
        case 0..<0x80: translation[Int(byte)]
        case 0x83: 0x41
        case 0x84: 0x54
        default: byte
        }
    }

    /// The code of a key in set 2: what the translation turns into its code of set 1.
    private static func second(_ first: UInt8) -> UInt8 {
        // F7 and SysRq are beyond 7Fh; the table has others that nobody's keyboard sends.
        switch first {
        case 0x41: return 0x83
        case 0x54: return 0x84
        default:
            for code in 0..<128 where translation[code] == first { return UInt8(code) }
            return 0
        }
    }

    /// What a keyboard sends when a key goes down or up, at most eight bytes.
    static func bytes(_ key: KeyCode, isDown: Bool, set: UInt8) -> [UInt8] {
        switch key {
        case .pause:
            // One sequence when it goes down, nothing later.
            guard isDown else { return [] }
            return set == 1
                ? [0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5]
                : [0xE1, 0x14, 0x77, 0xE1, release, 0x14, release, 0x77]
        case .printScreen:
            // With the Shift that the first keyboards needed for it.
            return isDown
                ? extended(0x2A, true, set) + extended(0x37, true, set)
                : extended(0x37, false, set) + extended(0x2A, false, set)
        default:
            let code = key.raw & 0x7F
            return key.raw & 0x80 == 0 ? plain(code, isDown, set) : extended(code, isDown, set)
        }
    }

    private static func plain(_ code: UInt8, _ isDown: Bool, _ set: UInt8) -> [UInt8] {
        if set == 1 { return [isDown ? code : code | 0x80] }
        return isDown ? [second(code)] : [release, second(code)]
    }

    private static func extended(_ code: UInt8, _ isDown: Bool, _ set: UInt8) -> [UInt8] {
        [0xE0] + plain(code, isDown, set)
    }
}
