/// A rectangle of pixels, from the top left corner of a screen. Never negative; empty when it has no area.
public struct ScreenRectangle: Hashable, Sendable {
    public var x: Int, y: Int, width: Int, height: Int

    public init(x: Int, y: Int, width: Int, height: Int) {
        self.x = x
        self.y = y
        self.width = width
        self.height = height
    }

    public var isEmpty: Bool { width <= 0 || height <= 0 }
    public var right: Int { x + width }
    public var bottom: Int { y + height }
    public var area: Int { isEmpty ? 0 : width * height }

    public func intersection(_ other: ScreenRectangle) -> ScreenRectangle {
        let left = max(x, other.x), top = max(y, other.y)
        return ScreenRectangle(
            x: left, y: top, width: max(0, min(right, other.right) - left),
            height: max(0, min(bottom, other.bottom) - top))
    }

    /// The smallest rectangle around both.
    public func union(_ other: ScreenRectangle) -> ScreenRectangle {
        if isEmpty { return other }
        if other.isEmpty { return self }
        let left = min(x, other.x), top = min(y, other.y)
        return ScreenRectangle(
            x: left, y: top, width: max(right, other.right) - left,
            height: max(bottom, other.bottom) - top)
    }

    public func contains(_ other: ScreenRectangle) -> Bool { intersection(other) == other }
}

/// What of a screen has changed: a few rectangles that may cover more than that, never less.
public struct DamageRegion: Equatable, Sendable {
    /// More are merged: each costs its viewers a header, and its owner memory.
    public static let mostRectangles = 24
    public private(set) var rectangles: [ScreenRectangle] = []

    public init() {}

    public var isEmpty: Bool { rectangles.isEmpty }

    public mutating func clear() { rectangles = [] }

    /// Adds a rectangle to what has changed.
    public mutating func add(_ rectangle: ScreenRectangle) {
        guard !rectangle.isEmpty else { return }
        var new = rectangle
        // What covers little more together than apart becomes one.
        var place = 0
        while place < rectangles.count {
            let old = rectangles[place]
            let both = old.union(new)
            guard both.area <= old.area + new.area + both.area / 8 else {
                place += 1
                continue
            }
            rectangles.remove(at: place)
            new = both
            place = 0
        }
        rectangles.append(new)
        if rectangles.count > Self.mostRectangles { mergeClosest() }
    }

    /// Merges the two neighbours in the list that waste the least.
    private mutating func mergeClosest() {
        var best = 0, leastWaste = Int.max
        for place in 0..<rectangles.count - 1 {
            let (first, second) = (rectangles[place], rectangles[place + 1])
            let waste = first.union(second).area - first.area - second.area
            if waste < leastWaste { (best, leastWaste) = (place, waste) }
        }
        let second = rectangles.remove(at: best + 1)
        rectangles[best] = rectangles[best].union(second)
    }

    public mutating func formUnion(_ other: DamageRegion) { for part in other.rectangles { add(part) } }

    /// What of the region lies inside `bounds`.
    public func clipped(to bounds: ScreenRectangle) -> DamageRegion {
        var result = DamageRegion()
        result.rectangles = rectangles.map { $0.intersection(bounds) }.filter { !$0.isEmpty }
        return result
    }

    /// Takes out what lies inside `bounds`.
    public mutating func subtract(_ bounds: ScreenRectangle) {
        var rest = DamageRegion()
        for part in rectangles {
            for piece in part.pieces(without: bounds) { rest.rectangles.append(piece) }
        }
        while rest.rectangles.count > Self.mostRectangles { rest.mergeClosest() }
        self = rest
    }
}

extension ScreenRectangle {
    /// What is left without `hole`: above, below, left and right of it.
    func pieces(without hole: ScreenRectangle) -> [ScreenRectangle] {
        let cut = intersection(hole)
        guard !cut.isEmpty else { return isEmpty ? [] : [self] }
        return [
            ScreenRectangle(x: x, y: y, width: width, height: cut.y - y),
            ScreenRectangle(x: x, y: cut.bottom, width: width, height: bottom - cut.bottom),
            ScreenRectangle(x: x, y: cut.y, width: cut.x - x, height: cut.height),
            ScreenRectangle(x: cut.right, y: cut.y, width: right - cut.right, height: cut.height),
        ].filter { !$0.isEmpty }
    }
}
