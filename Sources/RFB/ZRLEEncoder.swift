internal import ByteLayout
internal import Compression

/// ZRLE (RFC 6143 §7.7.6): tiles of 64 by 64 pixels as palettes and runs, in one zlib stream for each viewer.
struct ZRLEEncoder {
    private static let side = 64
    private enum Tile {
        static let raw: UInt8 = 0, solid: UInt8 = 1, runs: UInt8 = 128, paletteRuns: UInt8 = 128
    }
    private let stream = Deflater(level: 3)

    /// Appends the data of a rectangle of `width` pixels a row.
    func append(
        _ values: [UInt32], width: Int, level: Int, _ translator: PixelTranslator, to bytes: inout [UInt8]
    ) {
        let height = width > 0 ? values.count / width : 0
        var tiles: [UInt8] = []
        for top in stride(from: 0, to: height, by: Self.side) {
            for left in stride(from: 0, to: width, by: Self.side) {
                let tileWidth = min(Self.side, width - left), tileHeight = min(Self.side, height - top)
                var tile: [UInt32] = []
                tile.reserveCapacity(tileWidth * tileHeight)
                for y in top..<top + tileHeight {
                    tile += values[y * width + left..<y * width + left + tileWidth]
                }
                Self.append(tile, tileWidth, translator, to: &tiles)
            }
        }
        stream.setLevel(level)
        let data = stream.compress(tiles)
        bytes.append(bigEndian: UInt32(data.count))
        bytes += data
    }

    private static func append(
        _ tile: [UInt32], _ width: Int, _ translator: PixelTranslator, to bytes: inout [UInt8]
    ) {
        var palette: [UInt32: UInt8] = [:], colors: [UInt32] = []
        var runs: [(value: UInt32, length: Int)] = [], place = 0
        while place < tile.count {
            let value = tile[place]
            var end = place + 1
            while end < tile.count, tile[end] == value { end += 1 }
            runs.append((value, end - place))
            if colors.count <= 127, palette[value] == nil {
                palette[value] = UInt8(truncatingIfNeeded: colors.count)
                colors.append(value)
            }
            place = end
        }
        if colors.count == 1 {
            bytes.append(Tile.solid)
            return translator.appendCompact(tile[0], to: &bytes)
        }
        let pixel = translator.format.compactBytes == nil ? translator.format.bytesPerPixel : 3
        let plainCost = tile.count * pixel
        let runCost = runs.reduce(0) { $0 + pixel + 1 + ($1.length - 1) / 255 }
        let bits = colors.count <= 2 ? 1 : colors.count <= 4 ? 2 : 4
        let rows = tile.count / width
        let packedCost = colors.count <= 16 ? colors.count * pixel + (width * bits + 7) / 8 * rows : Int.max
        let paletteRunCost =
            colors.count <= 127
            ? colors.count * pixel + runs.reduce(0) { $0 + ($1.length == 1 ? 1 : 2 + ($1.length - 1) / 255) }
            : Int.max
        switch min(plainCost, runCost, packedCost, paletteRunCost) {
        case packedCost:
            bytes.append(UInt8(colors.count))
            for color in colors { translator.appendCompact(color, to: &bytes) }
            appendPacked(tile.map { palette[$0] ?? 0 }, width: width, bits: bits, to: &bytes)
        case paletteRunCost:
            bytes.append(Tile.paletteRuns + UInt8(colors.count))
            for color in colors { translator.appendCompact(color, to: &bytes) }
            for run in runs {
                let index = palette[run.value] ?? 0
                bytes.append(run.length == 1 ? index : index | 0x80)
                if run.length > 1 { appendLength(run.length, to: &bytes) }
            }
        case runCost:
            bytes.append(Tile.runs)
            for run in runs {
                translator.appendCompact(run.value, to: &bytes)
                appendLength(run.length, to: &bytes)
            }
        default:
            bytes.append(Tile.raw)
            for value in tile { translator.appendCompact(value, to: &bytes) }
        }
    }

    /// A length less one as a sum of bytes, the last one below 255.
    private static func appendLength(_ length: Int, to bytes: inout [UInt8]) {
        var rest = length - 1
        while rest >= 255 {
            bytes.append(255)
            rest -= 255
        }
        bytes.append(UInt8(rest))
    }

    /// Indices of so many bits, the first in the high ones; each row begins with a byte.
    private static func appendPacked(_ indices: [UInt8], width: Int, bits: Int, to bytes: inout [UInt8]) {
        for row in stride(from: 0, to: indices.count, by: width) {
            var byte: UInt8 = 0, used = 0
            for index in indices[row..<row + width] {
                byte = byte << UInt8(bits) | index
                used += bits
                if used == 8 {
                    bytes.append(byte)
                    byte = 0
                    used = 0
                }
            }
            if used > 0 { bytes.append(byte << UInt8(8 - used)) }
        }
    }
}
