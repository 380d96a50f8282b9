internal import ScreenSurface

/// Draws what a VGA shows: lines whose memory was stored to, or everything when the registers say so.
///
/// Confinement: a value; its owner locks. Bounded by the size of the picture.
struct VGARenderer {
    /// The cursor and blinking characters are on for 16 fields, then off; in nanoseconds.
    private static let blinkTime: UInt64 = 267_000_000

    private var look: VGALook?
    /// Pages that were stored to, which this drawing looks at.
    private var pages: [Bool]
    private var cursor: TextCursor?
    private var isBlinkOn = true
    private var font = TextFont()

    init(pageCount: Int) { pages = [Bool](repeating: false, count: pageCount) }

    /// - Parameter time: of the machine's clock, for what blinks.
    mutating func draw(
        _ registers: VGAState, _ memory: VideoMemory, time: UInt64, on canvas: inout ScreenCanvas
    ) {
        let look = VGALook(registers)
        // A screen that is off keeps its size: most are on again soon.
        let keepsSize = look.kind == .blank && canvas.width > 0
        let isNew =
            canvas.begin(
                width: keepsSize ? canvas.width : look.width, height: keepsSize ? canvas.height : look.height)
            || look != self.look
        self.look = look
        for page in pages.indices { pages[page] = false }
        let isChanged = memory.takeChanges(into: &pages)
        switch look.kind {
        case .blank:
            guard isNew else { return }
            let row = [UInt32](repeating: 0, count: canvas.width)
            for y in 0..<canvas.height { canvas.put(row, row: y) }
        case .text(let cellWidth, let cellHeight):
            drawText(
                look, cellWidth, cellHeight, registers, memory, time, isNew: isNew, isChanged: isChanged,
                on: &canvas)
        default:
            guard isNew || isChanged else { return }
            drawGraphics(look, memory, isNew: isNew, on: &canvas)
        }
    }

    private func isChanged(_ start: Int, _ count: Int, mask: Int = .max) -> Bool {
        let first = start / VideoMemory.pageSize, last = (start + max(count, 1) - 1) / VideoMemory.pageSize
        // Addresses wrap at the end of the memory or before, after a power of two of pages.
        let wrap = min(pages.count - 1, mask / VideoMemory.pageSize)
        return (first...last).contains { pages[$0 & wrap] }
    }

    // MARK: Graphics

    private mutating func drawGraphics(
        _ look: VGALook, _ memory: VideoMemory, isNew: Bool, on canvas: inout ScreenCanvas
    ) {
        var row = [UInt32](repeating: 0, count: look.width)
        for y in 0..<min(look.height, canvas.height) {
            let start = look.place(ofLine: y)
            guard isNew || isChanged(start, look.bytesInLine, mask: look.mask) else { continue }
            switch look.kind {
            case .planar: Self.planar(look, memory, start, &row)
            case .interleaved: Self.interleaved(look, memory, start, &row)
            case .bytes: for x in row.indices { row[x] = look.colors[Int(memory[(start + x) & look.mask])] }
            case .direct(let bits): Self.direct(bits, memory, start, &row)
            case .blank, .text: return
            }
            canvas.put(row, row: y)
        }
    }

    private static func planar(_ look: VGALook, _ memory: VideoMemory, _ start: Int, _ row: inout [UInt32]) {
        var x = -look.panning, place = start
        while x < row.count {
            let planes = memory[planes: place & look.mask]
            for bit in (0..<8 as Range<UInt32>).reversed() {
                defer { x += 1 }
                guard x >= 0, x < row.count else { continue }
                // One bit of each byte becomes a number of four bits.
                let bits = planes >> bit & 0x0101_0101
                row[x] = look.colors[Int((bits | bits >> 7 | bits >> 14 | bits >> 21) & 0x0F)]
            }
            place += 4
        }
    }

    private static func interleaved(
        _ look: VGALook, _ memory: VideoMemory, _ start: Int, _ row: inout [UInt32]
    ) {
        for x in row.indices {
            let dot = x + look.panning
            let planes = memory[planes: (start + dot / 8 * 4) & look.mask] >> (dot & 4 == 0 ? 0 : 8)
            let shift = UInt32(6 - 2 * (dot & 3))
            let low = planes >> shift & 3, high = planes >> (16 + shift) & 3
            row[x] = look.colors[Int(low | high << 2)]
        }
    }

    private static func direct(_ bits: Int, _ memory: VideoMemory, _ start: Int, _ row: inout [UInt32]) {
        /// A colour of five or six bits in eight.
        func wide(_ value: UInt32, _ bits: UInt32) -> UInt32 {
            value << (8 - bits) | value >> (2 * bits - 8)
        }
        switch bits {
        case 32:
            for x in row.indices { row[x] = memory[planes: start + 4 * x] & 0xFF_FFFF }
        case 24:
            for x in row.indices {
                let place = start + 3 * x
                row[x] =
                    UInt32(memory[place]) | UInt32(memory[place + 1]) << 8 | UInt32(memory[place + 2]) << 16
            }
        default:
            let greenBits: UInt32 = bits == 16 ? 6 : 5
            for x in row.indices {
                let value = UInt32(memory[start + 2 * x]) | UInt32(memory[start + 2 * x + 1]) << 8
                let red = wide(value >> (5 + greenBits) & 0x1F, 5)
                let green = wide(value >> 5 & (1 << greenBits - 1), greenBits)
                row[x] = red << 16 | green << 8 | wide(value & 0x1F, 5)
            }
        }
    }

    // MARK: Text

    private mutating func drawText(
        _ look: VGALook, _ cellWidth: Int, _ cellHeight: Int, _ registers: VGAState, _ memory: VideoMemory,
        _ time: UInt64, isNew: Bool, isChanged anyChange: Bool, on canvas: inout ScreenCanvas
    ) {
        let isOn = time / Self.blinkTime & 1 == 0
        let blinked = isOn != isBlinkOn
        isBlinkOn = isOn
        let newCursor = TextCursor(registers, look), oldCursor = cursor
        cursor = newCursor
        var all = isNew
        if all || anyChange { all = font.update(look.fonts, memory) || all }
        guard all || anyChange || blinked || newCursor != oldCursor else { return }
        let columns = look.width / cellWidth
        for row in 0..<look.height / cellHeight {
            let start = look.start + row * look.pitch
            let hasCursor = newCursor.isIn(start, columns) || oldCursor?.isIn(start, columns) == true
            guard
                all || isChanged(start, columns * 4) || (hasCursor && (blinked || newCursor != oldCursor))
                    || (blinked && look.blinks && Self.blinks(memory, start, columns))
            else { continue }
            drawCells(
                look, cellWidth, cellHeight, memory, start, row: row, cursor: isOn ? newCursor : nil,
                on: &canvas)
        }
    }

    private static func blinks(_ memory: VideoMemory, _ start: Int, _ columns: Int) -> Bool {
        (0..<columns).contains { memory[start + 4 * $0 + 1] & 0x80 != 0 }
    }

    private func drawCells(
        _ look: VGALook, _ cellWidth: Int, _ cellHeight: Int, _ memory: VideoMemory, _ start: Int, row: Int,
        cursor: TextCursor?, on canvas: inout ScreenCanvas
    ) {
        let columns = look.width / cellWidth
        let cells = (0..<columns).map { memory[planes: start + 4 * $0] }
        var pixels = [UInt32](repeating: 0, count: look.width)
        for line in 0..<cellHeight {
            var x = 0
            for (column, cell) in cells.enumerated() {
                let code = UInt8(truncatingIfNeeded: cell), attribute = UInt8(truncatingIfNeeded: cell >> 8)
                var bits = UInt32(font.line(line, of: code, isBright: attribute & 8 != 0))
                bits = bits << 1 | (look.extendsLines && code & 0xE0 == 0xC0 ? bits & 1 : 0)
                if look.blinks, attribute & 0x80 != 0, !isBlinkOn { bits = 0 }
                if let cursor, cursor.covers(start + 4 * column, line: line) { bits = 0x1FF }
                let front = look.colors[Int(attribute & 0x0F)]
                let back = look.colors[Int(attribute >> 4 & (look.blinks ? 7 : 0x0F))]
                for dot in 0..<UInt32(cellWidth) {
                    pixels[x] = bits >> (8 - dot) & 1 != 0 ? front : back
                    x += 1
                }
            }
            canvas.put(pixels, row: row * cellHeight + line)
        }
    }
}

/// The cursor of a text screen: lines of one cell.
private struct TextCursor: Equatable {
    /// The cell's byte in video memory.
    let place: Int
    let first: Int, last: Int

    init(_ registers: VGAState, _ look: VGALook) {
        let controller = registers.controller
        let start = controller[ControllerRegister.cursorStart]
        place =
            (Int(controller[ControllerRegister.cursorHigh]) << 8
                | Int(controller[ControllerRegister.cursorLow])) * 4
        // Bit 5 hides it.
        first = start & 0x20 != 0 ? Int.max : Int(start & 0x1F)
        last = Int(controller[ControllerRegister.cursorEnd] & 0x1F)
    }

    func isIn(_ start: Int, _ columns: Int) -> Bool { (start..<start + columns * 4).contains(place) }
    func covers(_ cell: Int, line: Int) -> Bool { cell == place && first <= line && line <= last }
}

/// The two fonts of a text screen, copied out of plane 2.
private struct TextFont {
    /// 256 characters of 32 lines, for attribute bit 3 clear and set.
    private var lines: [[UInt8]] = [[], []]

    /// Looks at the fonts at these bytes; whether one is different.
    mutating func update(_ places: [Int], _ memory: VideoMemory) -> Bool {
        var isNew = false
        for (index, place) in places.enumerated() {
            let font: [UInt8]
            if index == 1, place == places[0] {
                font = lines[0]
            } else {
                font = (0..<256 * 32).map { memory[place + 4 * $0 + 2] }
            }
            if font != lines[index] {
                lines[index] = font
                isNew = true
            }
        }
        return isNew
    }

    func line(_ line: Int, of code: UInt8, isBright: Bool) -> UInt8 {
        lines[isBright ? 1 : 0][Int(code) * 32 + line & 31]
    }
}
