import Foundation
import Testing

/// A word on a screen, and the rectangle around it in pixels.
struct ScreenWord: CustomStringConvertible {
    let text: String
    let x: Int, y: Int, width: Int, height: Int
    var middle: (x: Int, y: Int) { (x + width / 2, y + height / 2) }
    var description: String { "\(text) (\(x), \(y))" }
}

/// Reads what was drawn with fonts that only a guest has, by Debian's tesseract.
enum WordReader {
    static let problem: String? = {
        let files = ["/usr/bin/tesseract", "/usr/share/tesseract-ocr/5/tessdata/eng.traineddata"]
        let missing = files.filter { !FileManager.default.isReadableFile(atPath: $0) }
        return missing.isEmpty ? nil : "Missing: \(missing.joined(separator: ", ")); see Scripts/packages"
    }()

    /// The letters of screens are smaller than those of scanned pages, which the reader expects.
    private static let scale = 2

    /// The words of a picture of red, green and blue from bit 23 down. Read as text that lies about and as a
    /// page, since each finds what the other does not: most words are here twice.
    static func words(_ pixels: [UInt32], width: Int, in folder: ScratchFolder) throws -> [ScreenWord] {
        let file = try folder.file("screen.pgm", grey(pixels, width: width))
        let reader = "OMP_THREAD_LIMIT=1 tesseract '\(file)' - --psm $way tsv 2>/dev/null"
        let run = try runTool(
            ["sh", "-c", "for way in 11 3; do \(reader) || exit; done"], in: folder.path)
        guard run.status == 0 else { throw AssetProblem(description: "tesseract: \(run.output)") }
        // Level, page, block, paragraph, line, word; left, top, width, height; confidence; text.
        return run.output.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: "\t", omittingEmptySubsequences: false)
            guard fields.count == 12, let confidence = Double(fields[10]), confidence > 30 else { return nil }
            let numbers = fields[6..<10].compactMap { Int($0) }
            guard numbers.count == 4 else { return nil }
            let box = numbers.map { $0 / scale }
            return ScreenWord(text: String(fields[11]), x: box[0], y: box[1], width: box[2], height: box[3])
        }
    }

    /// As a portable grey map, each pixel `scale` times as wide and high, with straight lines between them.
    private static func grey(_ pixels: [UInt32], width: Int) -> Data {
        let height = pixels.count / width
        let light = pixels.map {
            (299 * ($0 >> 16 & 0xFF) + 587 * ($0 >> 8 & 0xFF) + 114 * ($0 & 0xFF)) / 1000
        }
        var data = Data("P5 \(width * scale) \(height * scale) 255\n".utf8)
        data.reserveCapacity(data.count + pixels.count * scale * scale)
        for y in 0..<height * scale {
            let top = y / scale, bottom = min(top + 1, height - 1), down = y % scale
            for x in 0..<width * scale {
                let left = x / scale, right = min(left + 1, width - 1), along = x % scale
                func row(_ y: Int) -> Int {
                    Int(light[y * width + left]) * (scale - along) + Int(light[y * width + right]) * along
                }
                data.append(UInt8((row(top) * (scale - down) + row(bottom) * down) / (scale * scale)))
            }
        }
        return data
    }
}

extension ScreenViewer {
    /// The words on the screen now.
    func words(in folder: ScratchFolder) throws -> [ScreenWord] {
        try viewer.capture()
        return try WordReader.words(viewer.pixels, width: viewer.width, in: folder)
    }

    /// Looks until the screen has all these words; them then, in this order. `seconds` as for `wait(for:)`.
    func wait(forWords wanted: [String], in folder: ScratchFolder, seconds: Double = 120) throws
        -> [ScreenWord]
    {
        let end = Date(timeIntervalSinceNow: 3 * seconds)
        var seen: [ScreenWord] = []
        while Date() < end {
            seen = try words(in: folder)
            let found = wanted.compactMap { text in seen.first { $0.text == text } }
            if found.count == wanted.count { return found }
            usleep(300_000)
        }
        let rest = seen.map(\.description).joined(separator: ", ")
        throw AssetProblem(description: "no \(wanted) among the words of the screen: \(rest)")
    }

    /// Presses and releases the pointer's first button there.
    func click(_ place: (x: Int, y: Int)) throws {
        for buttons in [0, 1, 0] as [UInt8] {
            try viewer.pointer(buttons, place.x, place.y)
            usleep(100_000)
        }
    }
}
