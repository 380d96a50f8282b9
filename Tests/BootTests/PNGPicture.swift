import Compression
import Foundation

/// A PNG file as others write it (W3C, "Portable Network Graphics", third edition): eight bits a colour, with
/// or without transparency, not interlaced. Checksums are not looked at.
struct PNGPicture {
    let width: Int, height: Int
    /// Red, green and blue from bit 23 down.
    let pixels: [UInt32]

    init(_ file: String) throws {
        let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: file)))
        guard bytes.starts(with: [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]) else {
            throw AssetProblem(description: "\(file) is no PNG file")
        }
        func number(_ place: Int) -> Int { bytes[place..<place + 4].reduce(0) { $0 << 8 | Int($1) } }
        var header: [UInt8] = [], packed: [UInt8] = [], place = 8
        while place + 12 <= bytes.count, place + 12 + number(place) <= bytes.count {
            let body = bytes[place + 8..<place + 8 + number(place)]
            switch String(decoding: bytes[place + 4..<place + 8], as: UTF8.self) {
            case "IHDR": header = Array(body)
            case "IDAT": packed += body
            default: break
            }
            place += 12 + body.count
        }
        let depths: [UInt8: Int] = [2: 3, 6: 4]
        guard header.count == 13, header[8] == 8, let depth = depths[header[9]], header[12] == 0 else {
            throw AssetProblem(description: "\(file) has pixels that this test cannot read: \(header)")
        }
        (width, height) = (
            header[0..<4].reduce(0) { $0 << 8 | Int($1) }, header[4..<8].reduce(0) { $0 << 8 | Int($1) }
        )
        let size = (width * depth + 1) * height
        guard let rows = Inflater().decompress(packed, limit: size), rows.count == size else {
            throw AssetProblem(description: "\(file) does not hold \(size) bytes of rows")
        }
        pixels = Self.pixels(rows, width: width, depth: depth)
    }

    /// Undoes the filter of each row (§9).
    private static func pixels(_ rows: [UInt8], width: Int, depth: Int) -> [UInt32] {
        let length = width * depth
        var above = [UInt8](repeating: 0, count: length), pixels: [UInt32] = []
        for start in stride(from: 0, to: rows.count, by: length + 1) {
            var row = [UInt8](repeating: 0, count: length)
            for index in 0..<length {
                let left = index < depth ? 0 : Int(row[index - depth])
                let corner = index < depth ? 0 : Int(above[index - depth])
                let over = Int(above[index])
                let guess =
                    switch rows[start] {
                    case 1: left
                    case 2: over
                    case 3: (left + over) / 2
                    case 4: nearest(left, over, corner)
                    default: 0
                    }
                row[index] = rows[start + 1 + index] &+ UInt8(truncatingIfNeeded: guess)
            }
            for place in stride(from: 0, to: length, by: depth) {
                pixels.append(row[place..<place + 3].reduce(0) { $0 << 8 | UInt32($1) })
            }
            above = row
        }
        return pixels
    }

    /// The one of three that is nearest to where they lead, the earlier of two that are as near.
    private static func nearest(_ left: Int, _ over: Int, _ corner: Int) -> Int {
        let aim = left + over - corner
        let distances = [abs(aim - left), abs(aim - over), abs(aim - corner)]
        if distances[0] <= distances[1], distances[0] <= distances[2] { return left }
        return distances[1] <= distances[2] ? over : corner
    }
}
