/// Keys of the X window system (X11, keysymdef.h) on a US keyboard, as codes of an XT with bit 7 for those
/// with a prefix (see `KeyCode` of the keyboard controller).
public struct KeyMap: Sendable {
    public struct Stroke: Equatable, Sendable {
        public let code: UInt8
        /// The character needs Shift; nil for keys that are no character.
        public let isShifted: Bool?
    }

    public static let shiftLeft: UInt8 = 0x2A, shiftRight: UInt8 = 0x36

    // swift-format-ignore
    /// The rows of characters: code of the first key, then each key without and with Shift.
    private static let rows: [(UInt8, String, String)] = [
        (0x02, "1234567890-=", "!@#$%^&*()_+"),
        (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
        (0x1E, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
        (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
        (0x39, " ",            " "),
    ]

    // swift-format-ignore
    /// Key symbol, code. The keypad's symbols for numbers and for movement are one key each.
    private static let others: [(UInt32, UInt8)] = [
        (0xFF08, 0x0E), (0xFF09, 0x0F), (0xFF0A, 0x1C), (0xFF0D, 0x1C), (0xFF13, 0xC6), (0xFF14, 0x46),
        (0xFF15, 0xB7), (0xFF1B, 0x01), (0xFF50, 0xC7), (0xFF51, 0xCB), (0xFF52, 0xC8), (0xFF53, 0xCD),
        (0xFF54, 0xD0), (0xFF55, 0xC9), (0xFF56, 0xD1), (0xFF57, 0xCF), (0xFF61, 0xB7), (0xFF63, 0xD2),
        (0xFF67, 0xDD), (0xFF6B, 0xC6), (0xFF7F, 0x45), (0xFF8D, 0x9C),
        (0xFF95, 0x47), (0xFF96, 0x4B), (0xFF97, 0x48), (0xFF98, 0x4D), (0xFF99, 0x50), (0xFF9A, 0x49),
        (0xFF9B, 0x51), (0xFF9C, 0x4F), (0xFF9D, 0x4C), (0xFF9E, 0x52), (0xFF9F, 0x53),
        (0xFFAA, 0x37), (0xFFAB, 0x4E), (0xFFAD, 0x4A), (0xFFAE, 0x53), (0xFFAF, 0xB5),
        (0xFFB0, 0x52), (0xFFB1, 0x4F), (0xFFB2, 0x50), (0xFFB3, 0x51), (0xFFB4, 0x4B), (0xFFB5, 0x4C),
        (0xFFB6, 0x4D), (0xFFB7, 0x47), (0xFFB8, 0x48), (0xFFB9, 0x49),
        (0xFFBE, 0x3B), (0xFFBF, 0x3C), (0xFFC0, 0x3D), (0xFFC1, 0x3E), (0xFFC2, 0x3F), (0xFFC3, 0x40),
        (0xFFC4, 0x41), (0xFFC5, 0x42), (0xFFC6, 0x43), (0xFFC7, 0x44), (0xFFC8, 0x57), (0xFFC9, 0x58),
        (0xFFE1, 0x2A), (0xFFE2, 0x36), (0xFFE3, 0x1D), (0xFFE4, 0x9D), (0xFFE5, 0x3A),
        (0xFFE7, 0xDB), (0xFFE8, 0xDC), (0xFFE9, 0x38), (0xFFEA, 0xB8), (0xFFEB, 0xDB), (0xFFEC, 0xDC),
        (0xFE03, 0xB8), (0xFE20, 0x0F), (0xFFFF, 0xD3),
    ]

    private static let table: [UInt32: Stroke] = {
        var table: [UInt32: Stroke] = [:]
        for (first, plain, shifted) in rows {
            for (index, character) in plain.unicodeScalars.enumerated() {
                let code = first + UInt8(index)
                table[character.value] = Stroke(code: code, isShifted: character == " " ? nil : false)
            }
            for (index, character) in shifted.unicodeScalars.enumerated() where character != " " {
                table[character.value] = Stroke(code: first + UInt8(index), isShifted: true)
            }
        }
        for (symbol, code) in others { table[symbol] = Stroke(code: code, isShifted: nil) }
        return table
    }()

    /// The key for a symbol; nil when the keyboard has none.
    public static func stroke(_ symbol: UInt32) -> Stroke? { table[symbol] }

    /// The symbol of a character in a text to be typed: line ends are Return.
    public static func symbol(of character: Unicode.Scalar) -> UInt32 {
        switch character {
        case "\n", "\r": 0xFF0D
        case "\t": 0xFF09
        case "\u{8}": 0xFF08
        case "\u{1B}": 0xFF1B
        default: character.value < 0x100 ? character.value : 0x0100_0000 | character.value
        }
    }

    /// The number of an extended key event (rfbproto, "QEMU Extended Key Event Message"): an XT code, with
    /// prefixes as bit 7 or in front.
    static func code(ofExtended number: UInt32) -> UInt8? {
        switch number {
        case 1...0xFF: UInt8(number)
        case 0xE001...0xE07F: UInt8(number & 0x7F) | 0x80
        // Pause, with its own prefix.
        case 0xE11D, 0xE11D45: 0xC6
        default: nil
        }
    }
}

/// Turns what a viewer says of its keys into strokes of the guest's keyboard. A viewer with another layout
/// than ours holds Shift for characters that need none here, or the other way round: Shift is then released,
/// or pressed, around the key. Pure.
struct KeyTranslator {
    typealias Event = (code: UInt8, isDown: Bool)

    /// Codes that are down in the guest.
    private(set) var pressed: Set<UInt8> = []
    /// Symbol to code, for keys that came by their symbol: the release may come with another Shift.
    private var symbols: [UInt32: UInt8] = [:]
    /// Shift keys that the viewer holds.
    private var shifts: Set<UInt8> = []
    private var capsAreLocked = false
    /// More keys than fingers are not held.
    private static let mostPressed = 64

    mutating func key(_ symbol: UInt32, isDown: Bool) -> [Event] {
        guard isDown else {
            guard let code = symbols.removeValue(forKey: symbol) ?? KeyMap.stroke(symbol)?.code else {
                return []
            }
            return up(code)
        }
        guard let stroke = KeyMap.stroke(symbol), pressed.count < Self.mostPressed else { return [] }
        symbols[symbol] = stroke.code
        if symbol == 0xFFE5, !pressed.contains(stroke.code) { capsAreLocked.toggle() }
        guard let wanted = needsShift(stroke, symbol), wanted != !shifts.isEmpty else {
            return down(stroke.code)
        }
        if wanted {
            return [(KeyMap.shiftLeft, true)] + down(stroke.code) + [(KeyMap.shiftLeft, false)]
        }
        let held = shifts.sorted()
        return held.map { ($0, false) } + down(stroke.code) + held.map { ($0, true) }
    }

    /// Whether the guest must see Shift; nil when it does not matter or nobody can know.
    private func needsShift(_ stroke: KeyMap.Stroke, _ symbol: UInt32) -> Bool? {
        let isLetter = (0x41...0x5A).contains(symbol) || (0x61...0x7A).contains(symbol)
        return isLetter && capsAreLocked ? nil : stroke.isShifted
    }

    /// A key by its own number: what it means is the guest's business.
    mutating func key(extended number: UInt32, isDown: Bool) -> [Event] {
        guard let code = KeyMap.code(ofExtended: number) else { return [] }
        if isDown, pressed.count >= Self.mostPressed, !pressed.contains(code) { return [] }
        if code == 0x3A, isDown, !pressed.contains(code) { capsAreLocked.toggle() }
        return isDown ? down(code) : up(code)
    }

    private mutating func down(_ code: UInt8) -> [Event] {
        pressed.insert(code)
        if code == KeyMap.shiftLeft || code == KeyMap.shiftRight { shifts.insert(code) }
        return [(code, true)]
    }

    private mutating func up(_ code: UInt8) -> [Event] {
        shifts.remove(code)
        return pressed.remove(code) == nil ? [] : [(code, false)]
    }

    /// Releases everything: the viewer is gone.
    mutating func releaseAll() -> [Event] {
        defer {
            pressed = []
            symbols = [:]
            shifts = []
        }
        return pressed.sorted().map { ($0, false) }
    }
}
