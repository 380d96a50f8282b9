/// Reads text from the picture of a VGA in text mode, cell by cell, with the font that draws it: what a
/// person would read.
public struct VGAFontReader {
    private let glyphs: [[UInt8]: Character]
    public static let cellWidth = 9, cellHeight = 16

    /// - Parameter font: 256 characters of 16 lines of 8 dots, as in a video BIOS.
    public init(font: [UInt8]) {
        var glyphs: [[UInt8]: Character] = [:]
        for code in (0x21...0x7E).reversed() {
            glyphs[Array(font[code * 16..<code * 16 + 16])] = Character(UnicodeScalar(UInt8(code)))
        }
        self.glyphs = glyphs
    }

    /// Finds the font in the image of a video BIOS: 'A' and 'B' of the usual 8 by 16 font are there once.
    public init?(videoBIOS: [UInt8]) {
        let a: [UInt8] = [0, 0, 0x10, 0x38, 0x6C, 0xC6, 0xC6, 0xFE, 0xC6, 0xC6, 0xC6, 0xC6, 0, 0, 0, 0]
        guard videoBIOS.count > 4096 else { return nil }
        let place = videoBIOS.indices.first { place in
            place >= 0x41 * 16 && place + (256 - 0x41) * 16 <= videoBIOS.count
                && videoBIOS[place] == 0
                && videoBIOS[place..<min(place + 16, videoBIOS.count)].elementsEqual(a)
        }
        guard let place else { return nil }
        self.init(font: Array(videoBIOS[place - 0x41 * 16..<place + (256 - 0x41) * 16]))
    }

    /// The rows of the screen, without spaces at their ends; "?" for what is no letter, digit or sign.
    public func text(_ pixels: [UInt32], width: Int) -> [String] {
        let columns = width / Self.cellWidth, rows = pixels.count / max(width, 1) / Self.cellHeight
        return (0..<rows).map { row in
            var line = ""
            for column in 0..<columns {
                line.append(character(pixels, width, column * Self.cellWidth, row * Self.cellHeight))
            }
            while line.last == " " { line.removeLast() }
            return line
        }
    }

    private func character(_ pixels: [UInt32], _ width: Int, _ x: Int, _ y: Int) -> Character {
        // The ninth dot of these characters is the background.
        let background = pixels[y * width + x + 8]
        let glyph = (0..<Self.cellHeight).map { line in
            (0..<8).reduce(UInt8(0)) { $0 << 1 | (pixels[(y + line) * width + x + $1] != background ? 1 : 0) }
        }
        return glyph.allSatisfy { $0 == 0 } ? " " : glyphs[glyph] ?? "?"
    }
}
