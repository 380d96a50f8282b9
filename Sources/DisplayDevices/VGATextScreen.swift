/// What a VGA in text mode shows, as text.
public struct VGATextScreen: Equatable, Sendable {
    public let columns: Int
    /// One string for each row, without spaces at its end. Characters beyond ASCII are those of code page 437
    /// for lines and blocks, or "?".
    public let rows: [String]
    /// Attributes of each row: background in bits 7..4, foreground in bits 3..0.
    public let attributes: [[UInt8]]

    public var text: String { rows.joined(separator: "\n") }
}

extension VGA {
    /// The screen, or nil when it is in a graphics mode or shows nothing.
    public var textScreen: VGATextScreen? {
        let registers = registers
        guard !registers.isBochsEnabled,
            registers.graphics[GraphicsRegister.miscellaneous] & GraphicsRegister.graphics == 0,
            registers.controller[ControllerRegister.displayEnd] != 0
        else { return nil }
        let columns = Int(registers.controller[ControllerRegister.displayEnd]) + 1
        let lines = registers.displayedLines
        let height = Int(registers.controller[ControllerRegister.maximumScan] & 0x1F) + 1
        let pitch = Int(registers.controller[ControllerRegister.offset]) * 2
        var rows: [String] = [], attributes: [[UInt8]] = []
        for row in 0..<min(lines / height, 100) {
            let cells = (0..<columns).map { (registers.startAddress + row * pitch + $0) * 4 }
            let text = String(cells.map { Self.character(memory[$0]) })
            rows.append(String(text.reversed().drop { $0 == " " }.reversed()))
            attributes.append(cells.map { memory[$0 + 1] })
        }
        return VGATextScreen(columns: columns, rows: rows, attributes: attributes)
    }

    /// Code page 437: lines, blocks and arrows that programs draw boxes with.
    private static let drawn: [UInt8: Character] = [
        0x10: "►", 0x11: "◄", 0x18: "↑", 0x19: "↓", 0x1A: "→", 0x1B: "←", 0xB0: "░", 0xB1: "▒", 0xB2: "▓",
        0xB3: "│", 0xB4: "┤", 0xBA: "║", 0xBB: "╗", 0xBC: "╝", 0xBF: "┐", 0xC0: "└", 0xC1: "┴", 0xC2: "┬",
        0xC3: "├", 0xC4: "─", 0xC5: "┼", 0xC8: "╚", 0xC9: "╔", 0xCD: "═", 0xD9: "┘", 0xDA: "┌", 0xDB: "█",
    ]

    private static func character(_ code: UInt8) -> Character {
        switch code {
        case 0, 0x20, 0xFF: " "
        case 0x21...0x7E: Character(UnicodeScalar(code))
        default: drawn[code] ?? "?"
        }
    }
}

extension VGAState {
    /// The first cell or group of pixels that is shown.
    var startAddress: Int {
        Int(controller[ControllerRegister.startHigh]) << 8 | Int(controller[ControllerRegister.startLow])
    }

    /// Lines on the screen, bits 9 and 8 from the overflow register.
    var displayedLines: Int {
        let overflow = Int(controller[ControllerRegister.overflow])
        return
            (Int(controller[ControllerRegister.verticalEnd]) | (overflow & 2) << 7 | (overflow & 0x40) << 3)
            + 1
    }
}
