/// A picture that lies over the screen at the pointer. Viewers draw it themselves, or get it as a part of the
/// screen.
public struct ScreenCursor: Equatable, Sendable {
    public static let longestSide = 64
    /// Alpha, red, green, blue in bits 31..0, the colours multiplied with alpha already; row after row.
    public var pixels: [UInt32]
    public var width: Int, height: Int
    /// The pixel that points, from the top left corner of the picture and inside it.
    public var hotX: Int, hotY: Int
    /// Where the top left corner is on the screen, or beside it.
    public var left: Int, top: Int

    public init(
        pixels: [UInt32], width: Int, height: Int, hotX: Int = 0, hotY: Int = 0, left: Int, top: Int
    ) {
        precondition(
            width > 0 && height > 0 && pixels.count == width * height, "a picture has all its pixels")
        self.pixels = pixels
        self.width = width
        self.height = height
        self.hotX = hotX
        self.hotY = hotY
        self.left = left
        self.top = top
    }

    /// The part of a screen that it covers.
    public func place(on screen: ScreenRectangle) -> ScreenRectangle {
        let x = max(left, 0), y = max(top, 0)
        return ScreenRectangle(
            x: x, y: y, width: max(min(left + width, screen.right) - x, 0),
            height: max(min(top + height, screen.bottom) - y, 0))
    }

    /// Lays its pixels over those of a part of the screen, row after row.
    public func blend(into part: inout [UInt32], of rectangle: ScreenRectangle) {
        let covered = place(on: rectangle).intersection(rectangle)
        guard !covered.isEmpty else { return }
        for y in covered.y..<covered.bottom {
            let row = (y - rectangle.y) * rectangle.width - rectangle.x
            let own = (y - top) * width - left
            for x in covered.x..<covered.right { part[row + x] = Self.over(pixels[own + x], part[row + x]) }
        }
    }

    private static func over(_ front: UInt32, _ back: UInt32) -> UInt32 {
        let rest = 255 - (front >> 24)
        guard rest > 0 else { return front & 0xFF_FFFF }
        var sum: UInt32 = 0
        for shift in [0, 8, 16] as [UInt32] {
            let part = (front >> shift & 0xFF) + ((back >> shift & 0xFF) * rest + 127) / 255
            sum |= min(part, 255) << shift
        }
        return sum
    }
}

/// What a frame says of the cursor. Its pixels are in the surface, where they stay until the next request.
public struct ScreenCursorNews: Equatable, Sendable {
    /// Another number, another picture.
    public var shape: UInt32
    public var width: Int, height: Int
    public var hotX: Int, hotY: Int
    public var left: Int, top: Int

    public init(shape: UInt32, width: Int, height: Int, hotX: Int, hotY: Int, left: Int, top: Int) {
        self.shape = shape
        self.width = width
        self.height = height
        self.hotX = hotX
        self.hotY = hotY
        self.left = left
        self.top = top
    }

    /// Whether there may be such a cursor.
    var isPossible: Bool {
        let sides = 1...ScreenCursor.longestSide
        return sides.contains(width) && sides.contains(height) && (0..<width).contains(hotX)
            && (0..<height).contains(hotY)
    }
}
