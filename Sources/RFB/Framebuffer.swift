public import ScreenSurface

/// A part of the screen that moved: what was at (`fromX`, `fromY`) is now in `rectangle`.
public struct ScreenMove: Equatable, Sendable {
    public var fromX: Int, fromY: Int
    public var rectangle: ScreenRectangle
}

/// A copy of the machine's screen, from which all its viewers are served: what they get does not change while
/// it is encoded. Confinement: one thread.
public final class Framebuffer {
    public private(set) var width = 640, height = 480
    /// What the guest could do when the last frame was drawn.
    public private(set) var abilities: ScreenAbilities = []
    /// XRGB8888, row after row, without the cursor.
    private var pixels: [UInt32]
    /// What lies over it, and the number of its picture.
    public private(set) var cursor: ScreenCursor?
    private(set) var cursorShape: UInt32 = 0

    public init() { pixels = [UInt32](repeating: 0, count: 640 * 480) }

    public var bounds: ScreenRectangle { ScreenRectangle(x: 0, y: 0, width: width, height: height) }

    /// What a frame changed, for viewers: if something moved, `move`, and the rest in `rest`.
    public struct Change: Equatable, Sendable {
        public var isResized = false
        public var damage: [ScreenRectangle]
        public var move: ScreenMove?
        public var rest: [ScreenRectangle] = []
        /// For those who see the cursor as a part of the picture: where it was and is, if it changed.
        public var cursorDamage: [ScreenRectangle] = []
        /// Nothing moves under a cursor, before or now: it would be dragged along.
        public var hasCursor = false
    }

    /// Takes over what a frame has changed; `read` copies pixels from a word of the surface on.
    public func apply(
        _ frame: ScreenFrame,
        _ read: (_ start: Int, _ count: Int, _ pixels: inout [UInt32], _ place: Int) -> Void
    ) -> Change {
        let before = cursor
        takeCursor(frame.cursor, read)
        var change = applyPicture(frame, read)
        change.hasCursor = before != nil || cursor != nil
        if before != cursor {
            change.cursorDamage = [before, cursor].compactMap { $0?.place(on: bounds) }
        }
        return change
    }

    private func takeCursor(
        _ news: ScreenCursorNews?,
        _ read: (_ start: Int, _ count: Int, _ pixels: inout [UInt32], _ place: Int) -> Void
    ) {
        guard let news else { return cursor = nil }
        var image = cursor?.pixels ?? []
        if news.shape != cursorShape || image.count != news.width * news.height {
            image = [UInt32](repeating: 0, count: news.width * news.height)
            read(SurfaceMemory.cursorStart, image.count, &image, 0)
        }
        cursorShape = news.shape
        cursor = ScreenCursor(
            pixels: image, width: news.width, height: news.height, hotX: news.hotX, hotY: news.hotY,
            left: news.left, top: news.top)
    }

    private func applyPicture(
        _ frame: ScreenFrame,
        _ read: (_ start: Int, _ count: Int, _ pixels: inout [UInt32], _ place: Int) -> Void
    ) -> Change {
        abilities = frame.abilities
        if frame.width != width || frame.height != height {
            width = frame.width
            height = frame.height
            pixels = [UInt32](repeating: 0, count: width * height)
            read(0, width * height, &pixels, 0)
            return Change(isResized: true, damage: [bounds])
        }
        var change = Change(damage: frame.damage)
        let largest = frame.damage.max { $0.area < $1.area }
        let isScroll = largest.map { $0.height >= 32 && $0.width >= 64 } ?? false
        let before = isScroll ? largest.map { (0..<$0.height).map(rowReader($0)) } : nil
        for part in frame.damage {
            for y in part.y..<part.bottom {
                read(y * width + part.x, part.width, &pixels, y * width + part.x)
            }
        }
        if let largest, let before, let move = verticalMove(in: largest, from: before) {
            change.move = move
            var rest = DamageRegion()
            for part in frame.damage { rest.add(part) }
            rest.subtract(move.rectangle)
            change.rest = rest.rectangles
        }
        return change
    }

    /// Where the cursor lies over the screen.
    var cursorPlace: ScreenRectangle? { cursor?.place(on: bounds) }

    /// The pixels of a rectangle without the cursor; black beyond the screen.
    public func copy(_ rectangle: ScreenRectangle) -> [UInt32] {
        var result: [UInt32] = []
        result.reserveCapacity(rectangle.area)
        let inside = rectangle.intersection(bounds)
        for y in rectangle.y..<rectangle.bottom {
            guard !inside.isEmpty, y >= inside.y, y < inside.bottom, inside.x == rectangle.x else {
                result.append(contentsOf: repeatElement(0, count: rectangle.width))
                continue
            }
            result += pixels[y * width + inside.x..<y * width + inside.right]
            result.append(contentsOf: repeatElement(0, count: rectangle.width - inside.width))
        }
        return result
    }

    // MARK: What scrolled

    private func rowReader(_ part: ScreenRectangle) -> (Int) -> [UInt32] {
        { [self] row in
            let start = (part.y + row) * width + part.x
            return Array(pixels[start..<start + part.width])
        }
    }

    /// Finds the rows of `part` that are as other rows of it were: most of them, all by one distance.
    private func verticalMove(in part: ScreenRectangle, from before: [[UInt32]]) -> ScreenMove? {
        let now = (0..<part.height).map(rowReader(part))
        // Rows that are there once before are evidence; blank ones are not.
        var places: [Int: Int] = [:]
        for (row, pixels) in before.enumerated() {
            let hash = pixels.hashValue
            places[hash] = places[hash] == nil ? row : -1
        }
        var votes: [Int: Int] = [:]
        for (row, pixels) in now.enumerated() {
            guard let old = places[pixels.hashValue], old >= 0, old != row else { continue }
            votes[old - row, default: 0] += 1
        }
        let best = votes.max { $0.value < $1.value || $0.value == $1.value && $0.key < $1.key }
        guard let (distance, count) = best, count >= 8 else { return nil }
        var run = 0..<0, start: Int?
        for row in 0...part.height {
            let old = row + distance
            let isSame = row < part.height && before.indices.contains(old) && now[row] == before[old]
            if isSame {
                start = start ?? row
            } else if let first = start {
                if row - first > run.count { run = first..<row }
                start = nil
            }
        }
        guard run.count * 2 >= part.height else { return nil }
        return ScreenMove(
            fromX: part.x, fromY: part.y + run.lowerBound + distance,
            rectangle: ScreenRectangle(
                x: part.x, y: part.y + run.lowerBound, width: part.width, height: run.count))
    }
}
