/// Reads text from the picture of a screen, cell by cell, with the font that draws it: what a person would
/// read.
public struct VGAFontReader {
    private let glyphs: [[UInt8]: Character]
    private let cellWidth: Int
    /// Lines above the first row.
    private let top: Int
    private static let cellHeight = 16

    /// - Parameters:
    ///   - font: 256 characters of 16 lines of 8 dots, as in a video BIOS.
    ///   - cellWidth: 9 dots as a VGA in text mode has them, or 8.
    ///   - top: lines above the first row, or above any other one.
    public init(font: [UInt8], cellWidth: Int, top: Int = 0) {
        precondition(cellWidth == 8 || cellWidth == 9, "a cell has a glyph, and perhaps a dot beside it")
        var glyphs: [[UInt8]: Character] = [:]
        for code in (0x21...0x7E).reversed() {
            glyphs[Array(font[code * 16..<code * 16 + 16])] = Character(UnicodeScalar(UInt8(code)))
        }
        self.glyphs = glyphs
        self.cellWidth = cellWidth
        self.top = top
    }

    /// Finds the font in a program that draws with it, a video BIOS or another: 'A' of the usual 8 by 16
    /// font, and the characters around it.
    public init?(in program: [UInt8], cellWidth: Int = 9, top: Int = 0) {
        let a: [UInt8] = [0, 0, 0x10, 0x38, 0x6C, 0xC6, 0xC6, 0xFE, 0xC6, 0xC6, 0xC6, 0xC6, 0, 0, 0, 0]
        let first = 0x41 * 16, last = program.count - (256 - 0x41) * 16
        guard last >= first else { return nil }
        let place = program.withUnsafeBufferPointer { bytes in
            // Most places differ in the third byte.
            (first...last).first { bytes[$0 + 2] == a[2] && bytes[$0..<$0 + 16].elementsEqual(a) }
        }
        guard let place else { return nil }
        self.init(font: Array(program[place - first..<place - first + 4096]), cellWidth: cellWidth, top: top)
    }

    /// The rows of the screen, without spaces at their ends; "?" for what is no letter, digit or sign.
    public func text(_ pixels: [UInt32], width: Int) -> [String] {
        let columns = width / cellWidth, rows = (pixels.count / max(width, 1) - top) / Self.cellHeight
        return (0..<max(rows, 0)).map { row in
            var line = ""
            for column in 0..<columns {
                line.append(character(pixels, width, column * cellWidth, top + row * Self.cellHeight))
            }
            while line.last == " " { line.removeLast() }
            return line
        }
    }

    private func character(_ pixels: [UInt32], _ width: Int, _ x: Int, _ y: Int) -> Character {
        let corner = pixels[y * width + x]
        let glyph = (0..<Self.cellHeight).map { line in
            (0..<8).reduce(UInt8(0)) { $0 << 1 | (pixels[(y + line) * width + x + $1] != corner ? 1 : 0) }
        }
        if glyph.allSatisfy({ $0 == 0 }) { return " " }
        // Few characters have a dot in the corner; then everything is the other way round.
        return glyphs[glyph] ?? glyphs[glyph.map { ~$0 }] ?? "?"
    }
}
