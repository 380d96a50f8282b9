/// What the registers of a VGA say about the picture: everything that changes all of it when it changes.
struct VGALook: Equatable {
    enum Kind: Equatable {
        case blank
        /// Cells of characters, with lines of `cellWidth` dots.
        case text(cellWidth: Int, cellHeight: Int)
        /// Four planes, a bit of each for a pixel.
        case planar
        /// Two bits of planes 0 and 2 for a pixel, then of 1 and 3: what CGA's modes become.
        case interleaved
        /// A byte for a pixel.
        case bytes
        /// Bochs' extension: true colour of so many bits.
        case direct(bits: Int)
    }
    var kind: Kind
    var width: Int, height: Int
    /// Pixels of the first line begin at this byte, those of the next one so many bytes later.
    var start: Int, pitch: Int
    /// Graphics of a VGA wrap within these bits: it counts 64 Ki places of four bytes. Bochs' wrap at the end
    /// of memory.
    var mask = Int.max
    /// Each line of memory is shown so often.
    var repetition = 1
    /// From this line on memory begins at 0 again.
    var splitLine = Int.max
    /// Dots that are left out at the left.
    var panning = 0
    /// Lines whose number has these bits set, lie at `bankShift` in memory: how CGA interleaves lines.
    var bankMask = 0, bankShift = 0
    /// Lines that share a row of memory, and differ in their bank.
    var linesInRow = 1
    /// XRGB8888 of each colour number: 16 of a palette in text and planes, else 256.
    var colors: [UInt32]
    /// Characters with bit 7 of their attribute blink.
    var blinks = false
    /// The line graphics of code page 437 reach into the ninth dot.
    var extendsLines = false
    /// Where the fonts are, in bytes; attribute bit 3 chooses.
    var fonts: [Int] = [0, 0]

    /// Bytes of memory from `byteStart` on that the line shows.
    func place(ofLine y: Int) -> Int {
        var line = y / repetition, start = start
        if y >= splitLine {
            line = (y - splitLine) / repetition
            start = 0
        }
        let (row, scan) = line.quotientAndRemainder(dividingBy: linesInRow)
        return start + row * pitch + (scan & bankMask) << bankShift
    }

    var bytesInLine: Int {
        switch kind {
        case .blank: 0
        case .text(let cellWidth, _): width / cellWidth * 4
        case .planar, .interleaved: (width + 7 + panning) / 8 * 4
        case .bytes: width
        case .direct(let bits): width * ((bits + 7) / 8)
        }
    }
}

extension VGALook {
    private static let modeByte: UInt8 = 1 << 6
    private static let lineGraphics: UInt8 = 1 << 2, blink: UInt8 = 1 << 3
    private static let halfDots: UInt8 = 1 << 3

    /// Before a BIOS has set a mode, and while the screen is off.
    static let blank = VGALook(kind: .blank, width: 640, height: 480, start: 0, pitch: 0, colors: [])

    init(_ registers: VGAState) {
        if registers.isBochsEnabled {
            self = Self.bochs(registers)
        } else {
            self = Self.classic(registers)
        }
    }

    private static func bochs(_ registers: VGAState) -> VGALook {
        let bits = Int(registers.bochs[BochsRegister.bitsPerPixel])
        let width = Int(registers.bochs[BochsRegister.width])
        let height = Int(registers.bochs[BochsRegister.height])
        guard width > 0, height > 0 else { return blank }
        let x = Int(registers.bochs[BochsRegister.xOffset]), y = Int(registers.bochs[BochsRegister.yOffset])
        let pitch = registers.bochsPitch
        switch bits {
        case 4:
            return VGALook(
                kind: .planar, width: width, height: height, start: y * pitch + x / 8 * 4, pitch: pitch,
                panning: x % 8, colors: palette16(registers))
        case 8:
            return VGALook(
                kind: .bytes, width: width, height: height, start: y * pitch + x, pitch: pitch,
                colors: palette256(registers))
        default:
            return VGALook(
                kind: .direct(bits: bits), width: width, height: height,
                start: y * pitch + x * ((bits + 7) / 8), pitch: pitch, colors: [])
        }
    }

    private static func classic(_ registers: VGAState) -> VGALook {
        let controller = registers.controller
        let columns = Int(controller[ControllerRegister.displayEnd]) + 1, lines = registers.displayedLines
        guard columns > 1, lines > 1, registers.attributeIndex & AttributeRegister.screenOn != 0,
            registers.sequencer[SequencerRegister.clocking] & SequencerRegister.screenOff == 0
        else { return blank }
        let pitch = Int(controller[ControllerRegister.offset]) * 8
        let start = registers.startAddress * 4
        let scan = controller[ControllerRegister.maximumScan]
        var look: VGALook
        if registers.graphics[GraphicsRegister.miscellaneous] & GraphicsRegister.graphics == 0 {
            look = text(registers, columns, lines)
        } else {
            let mode = registers.graphics[GraphicsRegister.mode]
            let has256 = mode & GraphicsRegister.color256 != 0
            let width = columns * 8 / (has256 ? 2 : 1)
            // Lines that the monitor shows twice or more are here once, unless the picture is too wide then.
            let rowLines = Int(scan & 0x1F) + 1
            let bankMask = banks(of: controller[ControllerRegister.mode])
            let repeats = (bankMask == 0 ? rowLines : 1) * (scan & 0x80 != 0 ? 2 : 1)
            let rows = max(lines / repeats, 1)
            let repetition = width * 2 > rows * 5 ? 2 : 1
            look = VGALook(
                kind: has256 ? .bytes : mode & GraphicsRegister.interleaved != 0 ? .interleaved : .planar,
                width: width, height: rows * repetition, start: start, pitch: pitch,
                colors: has256 ? palette256(registers) : palette16(registers))
            look.mask = 0x3_FFFF
            look.repetition = repetition
            look.panning = has256 ? 0 : Int(registers.attribute[AttributeRegister.panning] & 7)
            look.splitLine = registers.splitLine / repeats * repetition
            look.bankMask = bankMask
            look.bankShift = controller[ControllerRegister.mode] & modeByte != 0 ? 15 : 14
            look.linesInRow = bankMask == 0 ? 1 : rowLines
        }
        return look
    }

    /// Bits 0 and 1 of the mode register, when zero, put bits of a line's number in its row into the address.
    private static func banks(of mode: UInt8) -> Int { Int(~mode & 3) }

    private static func text(_ registers: VGAState, _ columns: Int, _ lines: Int) -> VGALook {
        let clocking = registers.sequencer[SequencerRegister.clocking]
        let mode = registers.attribute[AttributeRegister.mode]
        let cellWidth = clocking & SequencerRegister.nineDots == 0 ? 9 : 8
        let cellHeight = Int(registers.controller[ControllerRegister.maximumScan] & 0x1F) + 1
        // A font is 256 characters of 32 lines in plane 2; eight of them.
        let choice = Int(registers.sequencer[SequencerRegister.fontSelect])
        let secondary = (choice >> 5 & 1 | choice >> 1 & 6) << 15
        let primary = (choice >> 4 & 1 | choice << 1 & 6) << 15
        var look = VGALook(
            kind: .text(cellWidth: cellWidth, cellHeight: cellHeight), width: columns * cellWidth,
            height: max(lines / cellHeight, 1) * cellHeight, start: registers.startAddress * 4,
            pitch: Int(registers.controller[ControllerRegister.offset]) * 8,
            colors: palette16(registers))
        look.blinks = mode & blink != 0
        look.extendsLines = mode & lineGraphics != 0
        look.fonts = [primary, secondary]
        return look
    }

    // MARK: Colours

    /// The colour of one entry of the digital-to-analog converter.
    private static func color(_ index: Int, _ registers: VGAState) -> UInt32 {
        let place = (index & Int(registers.paletteMask)) * 3
        let isWide = registers.usesWideColors
        return (0..<3).reduce(UInt32(0)) { color, part in
            let value = registers.palette[place + part]
            return color << 8 | UInt32(isWide ? value : value << 2 | value >> 4)
        }
    }

    private static func palette256(_ registers: VGAState) -> [UInt32] {
        (0..<256).map { color($0, registers) }
    }

    /// The attribute controller's 16 colours.
    private static func palette16(_ registers: VGAState) -> [UInt32] {
        let mode = registers.attribute[AttributeRegister.mode]
        let select = registers.attribute[AttributeRegister.colorSelect]
        let enabled = registers.attribute[AttributeRegister.planeEnable] & 0x0F
        return (0..<16).map { number in
            var index = registers.attribute[Int(UInt8(number) & enabled)]
            if mode & AttributeRegister.paletteSelect != 0 { index = index & 0x0F | (select & 3) << 4 }
            return color(Int(index & 0x3F | (select & 0x0C) << 4), registers)
        }
    }
}

extension VGAState {
    /// The line of the monitor from which on memory begins at 0, bits 8 and 9 from other registers.
    fileprivate var splitLine: Int {
        let overflow = Int(controller[ControllerRegister.overflow])
        let scan = Int(controller[ControllerRegister.maximumScan])
        return (Int(controller[ControllerRegister.lineCompare]) | (overflow & 0x10) << 4 | (scan & 0x40) << 3)
            + 1
    }
}
