internal import ByteLayout
internal import Compression

/// A PNG file of pixels XRGB8888 (W3C, "Portable Network Graphics", third edition): eight bits each of red,
/// green and blue.
enum PNGImage {
    static func file(_ pixels: [UInt32], width: Int) -> [UInt8] {
        let height = pixels.count / width
        var header: [UInt8] = []
        header.append(bigEndian: UInt32(width))
        header.append(bigEndian: UInt32(height))
        // Eight bits, true colour; the only compression, filtering and order that most readers know.
        header += [8, 2, 0, 0, 0]
        var rows: [UInt8] = [], above = [UInt8](repeating: 0, count: width * 3)
        rows.reserveCapacity((width * 3 + 1) * height)
        for y in 0..<height {
            var row: [UInt8] = []
            row.reserveCapacity(width * 3)
            for pixel in pixels[y * width..<(y + 1) * width] {
                row.append(UInt8(truncatingIfNeeded: pixel >> 16))
                row.append(UInt8(truncatingIfNeeded: pixel >> 8))
                row.append(UInt8(truncatingIfNeeded: pixel))
            }
            // Filter "up": the difference to the row above.
            rows.append(2)
            for (byte, old) in zip(row, above) { rows.append(byte &- old) }
            above = row
        }
        let signature: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]
        return signature + chunk("IHDR", header)
            + chunk("IDAT", Deflater(level: 6).compress(rows, finishing: true)) + chunk("IEND", [])
    }

    private static func chunk(_ name: String, _ data: [UInt8]) -> [UInt8] {
        var chunk: [UInt8] = []
        chunk.append(bigEndian: UInt32(data.count))
        let body = Array(name.utf8) + data
        chunk += body
        chunk.append(bigEndian: crc32(body))
        return chunk
    }
}
