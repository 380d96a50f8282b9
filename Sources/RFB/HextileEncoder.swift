/// Hextile (RFC 6143 §7.7.4): tiles of 16 by 16 pixels, each a background with rectangles in it.
struct HextileEncoder {
    private enum Flag {
        static let raw: UInt8 = 1, background: UInt8 = 2, foreground: UInt8 = 4, rectangles: UInt8 = 8
        static let colored: UInt8 = 16
    }
    private static let side = 16

    private let translator: PixelTranslator
    private var background: UInt32?
    private var foreground: UInt32?

    /// Appends the data of a rectangle of `width` pixels a row.
    static func append(
        _ values: [UInt32], width: Int, _ translator: PixelTranslator, to bytes: inout [UInt8]
    ) {
        var encoder = HextileEncoder(translator: translator)
        let height = width > 0 ? values.count / width : 0
        for top in stride(from: 0, to: height, by: side) {
            for left in stride(from: 0, to: width, by: side) {
                let tileWidth = min(side, width - left), tileHeight = min(side, height - top)
                var tile: [UInt32] = []
                tile.reserveCapacity(side * side)
                for y in top..<top + tileHeight {
                    tile += values[y * width + left..<y * width + left + tileWidth]
                }
                encoder.append(tile, tileWidth, tileHeight, to: &bytes)
            }
        }
    }

    private init(translator: PixelTranslator) { self.translator = translator }

    private mutating func append(_ tile: [UInt32], _ width: Int, _ height: Int, to bytes: inout [UInt8]) {
        let most = Self.mostFrequent(tile)
        var rectangles: [(value: UInt32, place: UInt8, size: UInt8)] = []
        var isCovered = [Bool](repeating: false, count: tile.count)
        var others: Set<UInt32> = []
        for place in tile.indices where !isCovered[place] && tile[place] != most {
            let (wide, high) = Self.grow(tile, &isCovered, place, width, height)
            let (y, x) = place.quotientAndRemainder(dividingBy: width)
            rectangles.append((tile[place], UInt8(x << 4 | y), UInt8((wide - 1) << 4 | (high - 1))))
            others.insert(tile[place])
        }
        let pixel = translator.format.bytesPerPixel, isColored = others.count > 1
        let cost = 2 * pixel + rectangles.count * (2 + (isColored ? pixel : 0))
        guard cost < tile.count * pixel, rectangles.count <= 255 else {
            bytes.append(Flag.raw)
            for value in tile { translator.append(value, to: &bytes) }
            // What a tile of plain pixels leaves behind is nothing.
            background = nil
            foreground = nil
            return
        }
        var flags: UInt8 = background == most ? 0 : Flag.background
        if !rectangles.isEmpty { flags |= Flag.rectangles }
        if isColored { flags |= Flag.colored }
        let front = others.count == 1 ? others.first : nil
        if let front, front != foreground { flags |= Flag.foreground }
        bytes.append(flags)
        if flags & Flag.background != 0 { translator.append(most, to: &bytes) }
        if let front, flags & Flag.foreground != 0 { translator.append(front, to: &bytes) }
        background = most
        // After a tile of many colours the foreground is none.
        foreground = isColored ? nil : front ?? foreground
        guard !rectangles.isEmpty else { return }
        bytes.append(UInt8(rectangles.count))
        for rectangle in rectangles {
            if isColored { translator.append(rectangle.value, to: &bytes) }
            bytes.append(rectangle.place)
            bytes.append(rectangle.size)
        }
    }

    private static func mostFrequent(_ tile: [UInt32]) -> UInt32 {
        guard tile.contains(where: { $0 != tile[0] }) else { return tile[0] }
        var counts: [UInt32: Int] = [:]
        for value in tile { counts[value, default: 0] += 1 }
        return counts.max { $0.value < $1.value || $0.value == $1.value && $0.key < $1.key }?.key ?? 0
    }

    /// The largest rectangle of one colour from `place` to the right, then down; marks it as covered.
    private static func grow(
        _ tile: [UInt32], _ isCovered: inout [Bool], _ place: Int, _ width: Int, _ height: Int
    ) -> (width: Int, height: Int) {
        let (y, x) = place.quotientAndRemainder(dividingBy: width)
        var wide = 1
        while x + wide < width, tile[place + wide] == tile[place], !isCovered[place + wide] { wide += 1 }
        var high = 1
        while y + high < height {
            let row = place + high * width
            guard (row..<row + wide).allSatisfy({ tile[$0] == tile[place] && !isCovered[$0] }) else { break }
            high += 1
        }
        for line in 0..<high {
            for column in 0..<wide { isCovered[place + line * width + column] = true }
        }
        return (wide, high)
    }
}
