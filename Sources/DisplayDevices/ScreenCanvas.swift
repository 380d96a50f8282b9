public import ScreenSurface

/// What has a picture for the screen. One at a time draws; the VGA is one, a display adapter with memory of
/// its own may be another.
public protocol ScreenSource: AnyObject, Sendable {
    /// Whether it has something to show. Of several, the first that has gets the screen.
    var wantsScreen: Bool { get }
    /// Whether the guest hears of a wish for another size.
    var takesSizes: Bool { get }
    /// Somebody would like the screen to have this size, in pixels; the guest may do it, later.
    func requestSize(width: Int, height: Int)
    /// Brings the canvas up to date: calls `begin` with the size of the picture, then `put` for each row that
    /// may have changed since the last call; all of them when `begin` says so. Bounded by the size of the
    /// picture. On the screen's thread.
    func draw(on canvas: inout ScreenCanvas)
}

extension ScreenSource {
    public var wantsScreen: Bool { true }
    public var takesSizes: Bool { false }
    public func requestSize(width: Int, height: Int) {}
}

/// The surface while a source draws, and what has changed on it.
public struct ScreenCanvas {
    private let memory: SurfaceMemory
    public private(set) var width = 0, height = 0
    private var hasNewSize = false
    private var wantsAll = true
    public private(set) var damage = DamageRegion()
    /// Rows that changed one after the other, not in `damage` yet.
    private var growing: ScreenRectangle?
    private(set) var cursor: ScreenCursor?
    private var cursorShape: UInt32 = 0
    private var hasNewCursor = false

    public init(_ memory: SurfaceMemory) { self.memory = memory }

    /// The picture has this size, cut to what a surface can have; true when every row must be drawn.
    public mutating func begin(width: Int, height: Int) -> Bool {
        let newWidth = min(max(width, 1), SurfaceMemory.longestSide)
        let newHeight = min(max(height, 1), SurfaceMemory.longestSide, SurfaceMemory.mostPixels / newWidth)
        if newWidth != self.width || newHeight != self.height {
            self.width = newWidth
            self.height = newHeight
            hasNewSize = true
            wantsAll = true
        }
        defer { wantsAll = false }
        return wantsAll
    }

    /// Pixels of one row of the picture from `x` on: what is beyond the canvas is not drawn, and what is
    /// missing stays.
    public mutating func put(_ pixels: [UInt32], row y: Int, from x: Int = 0) {
        guard y >= 0, y < height, x >= 0, x < width else { return }
        let row = pixels.count > width - x ? Array(pixels.prefix(width - x)) : pixels
        guard let changed = memory.write(row, at: y * width + x) else { return }
        let strip = ScreenRectangle(x: x + changed.lowerBound, y: y, width: changed.count, height: 1)
        if let before = growing, before.bottom == y, before.x <= strip.right, strip.x <= before.right {
            growing = before.union(strip)
        } else {
            if let before = growing { damage.add(before) }
            growing = strip
        }
    }

    /// What lies over the picture at the pointer from now on, which the source does not draw; nil: nothing.
    public mutating func show(_ new: ScreenCursor?) {
        guard new != cursor else { return }
        if let new, new.pixels != cursor?.pixels {
            _ = memory.write(new.pixels, at: SurfaceMemory.cursorStart)
            cursorShape &+= 1
        }
        cursor = new
        hasNewCursor = true
    }

    /// The frame since the last call; nil when nothing has changed and nobody wants to know that.
    mutating func takeFrame(evenWithoutDamage: Bool = false) -> ScreenFrame? {
        if let last = growing { damage.add(last) }
        growing = nil
        defer {
            damage.clear()
            hasNewSize = false
            hasNewCursor = false
        }
        guard width > 0 else { return nil }
        let cursor = cursor.map {
            ScreenCursorNews(
                shape: cursorShape, width: $0.width, height: $0.height, hotX: $0.hotX, hotY: $0.hotY,
                left: $0.left, top: $0.top)
        }
        if hasNewSize {
            let all = ScreenRectangle(x: 0, y: 0, width: width, height: height)
            return ScreenFrame(width: width, height: height, damage: [all], cursor: cursor)
        }
        guard evenWithoutDamage || hasNewCursor || !damage.isEmpty else { return nil }
        return ScreenFrame(width: width, height: height, damage: damage.rectangles, cursor: cursor)
    }

    /// The next source draws everything, and shows a cursor if it has one.
    mutating func forget() {
        wantsAll = true
        show(nil)
    }
}
