import ScreenSurface
import TestKit
import Testing

@testable import RFB

@Suite struct EncodingTests {
    // swift-format-ignore
    private static let formats: [RFBTestViewer.Format] = [
        .native,
        .init(bits: 32, depth: 24, isBigEndian: true, maxima: [255, 255, 255], shifts: [16, 8, 0]),
        .init(bits: 32, depth: 24, maxima: [255, 255, 255], shifts: [24, 16, 8]),
        .init(bits: 32, depth: 24, isBigEndian: true, maxima: [255, 255, 255], shifts: [8, 16, 24]),
        .init(bits: 32, depth: 30, maxima: [1023, 1023, 1023], shifts: [20, 10, 0]),
        .init(bits: 16, depth: 16, maxima: [31, 63, 31], shifts: [11, 5, 0]),
        .init(bits: 16, depth: 15, isBigEndian: true, maxima: [31, 31, 31], shifts: [0, 5, 10]),
        .init(bits: 8, depth: 8, maxima: [7, 7, 3], shifts: [0, 3, 6]),
    ]

    private static let colors: [UInt32] = [0xFF0000, 0x00FF00, 0x0000FF, 0xFFFF00, 0x808080]

    private static func noise(_ x: Int, _ y: Int) -> UInt32 {
        let mixed = (x &* 2_654_435_761 ^ y &* 40_503) &* 2_246_822_519
        return UInt32(truncatingIfNeeded: mixed) & 0xFFFFFF
    }
    private static func gradient(_ x: Int, _ y: Int) -> UInt32 {
        let red = UInt32(x & 0xFF), green = UInt32(y & 0xFF), blue = UInt32((x + y) & 0xFF)
        return red << 16 | green << 8 | blue
    }

    // swift-format-ignore
    /// Pictures that lead encoders into each of their ways.
    private static let pictures: [(name: String, color: @Sendable (Int, Int) -> UInt32)] = [
        ("one colour",  { _, _ in 0x336699 }),
        ("text",        { x, y in (x * 7 + y * 13) % 11 < 3 ? 0xFFFFFF : 0 }),
        ("few colours", { x, y in colors[(x / 9 + y / 5) % 5] }),
        ("a palette",   { x, y in UInt32((x / 3 ^ y / 2) % 100) * 0x020305 }),
        ("long runs",   { x, y in UInt32(y * 40 + x / 200) * 0x010203 & 0xFFFFFF }),
        ("a gradient",  { gradient($0, $1) }),
        ("noise",       { noise($0, $1) }),
    ]

    @Test(arguments: [0, 5, 7, 16] as [Int32], formats)
    func `a picture arrives as it is in every encoding and format`(
        encoding: Int32, format: RFBTestViewer.Format
    ) throws {
        // Sides that are no multiple of any tile.
        let screen = ScreenBench(171, 93)
        let bench = SessionBench(screen), viewer = bench.viewer
        try viewer.connect()
        try viewer.setFormat(format)
        try viewer.setEncodings([encoding])
        for (name, color) in Self.pictures {
            bench.session.screenChanged(screen.draw(screen.bounds, color))
            try viewer.capture()
            #expect(bench.isUpToDate, "\(name)")
            // And in parts, which go on with the streams.
            let part = ScreenRectangle(x: 17, y: 3, width: 75, height: 70)
            bench.session.screenChanged(screen.draw(part) { x, y in color(y + 5, x) ^ 0x10 })
            try viewer.request(isIncremental: true)
            try viewer.takeMessage()
            #expect(bench.isUpToDate, "a part of \(name)")
        }
        #expect(viewer.seen.keys.allSatisfy { $0 == encoding })
    }

    @Test func `pictures of one colour and text are small in every encoding but Raw`() throws {
        for encoding in [5, 7, 16] as [Int32] {
            let screen = ScreenBench(640, 400)
            let bench = SessionBench(screen)
            try bench.viewer.connect()
            try bench.viewer.setEncodings([encoding])
            try bench.viewer.request(isIncremental: false)
            bench.session.screenChanged(Framebuffer.Change(damage: []))
            bench.session.fill()
            #expect(bench.session.output.count < 12_000, "encoding \(encoding)")
        }
    }

    @Test func `JPEG comes only where it was asked for, and near to the picture`() throws {
        let screen = ScreenBench(256, 256)
        let change = screen.draw(screen.bounds) { x, y in UInt32(x) << 16 | UInt32(y) << 8 | 0x40 }
        func capture(_ encodings: [Int32]) throws -> (pixels: [UInt32], size: Int) {
            let bench = SessionBench(screen)
            try bench.viewer.connect()
            try bench.viewer.setEncodings(encodings)
            try bench.viewer.request(isIncremental: false)
            bench.session.screenChanged(change)
            bench.session.fill()
            let size = bench.session.output.count
            try bench.viewer.takeMessage()
            return (bench.viewer.pixels, size)
        }
        let exact = try capture([7]), near = try capture([7, -24]), coarse = try capture([7, -32])
        let isExact = exact.pixels == screen.pixels
        #expect(isExact)
        let isSame = near.pixels == screen.pixels
        #expect(!isSame && coarse.size < near.size && near.size < 256 * 256 * 3)
        var largest = 0
        for (left, right) in zip(near.pixels, screen.pixels) {
            for shift in [0, 8, 16] as [UInt32] {
                let difference = Int(left >> shift & 0xFF) - Int(right >> shift & 0xFF)
                largest = max(largest, abs(difference))
            }
        }
        #expect(largest < 24)
    }

    @Test func `what scrolls is copied by who can copy`() throws {
        let screen = ScreenBench(320, 200)
        func line(_ x: Int, _ y: Int) -> UInt32 { UInt32(y * 77 % 251) << 8 | UInt32(x / 8 * y % 13) }
        let copying = SessionBench(screen), plain = SessionBench(screen)
        for bench in [copying, plain] {
            try bench.viewer.connect()
            try bench.viewer.setEncodings(bench === copying ? [16, 1] : [16])
        }
        let first = screen.draw(screen.bounds, line)
        for bench in [copying, plain] {
            bench.session.screenChanged(first)
            try bench.viewer.capture()
        }
        let change = screen.scroll(by: 16) { x, y in line(x, y + 500) }
        #expect(change.move?.rectangle == ScreenRectangle(x: 0, y: 0, width: 320, height: 184))
        for bench in [copying, plain] {
            bench.session.screenChanged(change)
            try bench.viewer.request(isIncremental: true)
            try bench.viewer.takeMessage()
            #expect(bench.isUpToDate)
        }
        #expect(copying.viewer.seen[1] == 1 && plain.viewer.seen[1] == nil)
    }

    @Test func `a viewer that misses a scroll gets the pixels`() throws {
        let screen = ScreenBench(320, 200)
        let bench = SessionBench(screen)
        try bench.viewer.connect()
        try bench.viewer.setEncodings([16, 1])
        bench.session.screenChanged(screen.draw(screen.bounds) { x, y in UInt32(y * 1_000 + x) })
        try bench.viewer.capture()
        for step in 1...3 {
            bench.session.screenChanged(screen.scroll(by: 5 * step) { x, y in UInt32(x * y * step) })
        }
        try bench.viewer.request(isIncremental: true)
        try bench.viewer.takeMessage()
        #expect(bench.isUpToDate)
    }

    @Test func `a damage region never loses a pixel`() {
        var random = TestRandom(seed: 5)
        for _ in 0..<200 {
            var region = DamageRegion(), isDamaged = [Bool](repeating: false, count: 64 * 64)
            for _ in 0..<random.below(80) {
                let part = ScreenRectangle(
                    x: random.below(60), y: random.below(60), width: random.below(10),
                    height: random.below(10)
                ).intersection(ScreenRectangle(x: 0, y: 0, width: 64, height: 64))
                if random.below(4) == 0 {
                    region.subtract(part)
                } else {
                    region.add(part)
                    for y in part.y..<part.bottom {
                        for x in part.x..<part.right { isDamaged[y * 64 + x] = true }
                    }
                    continue
                }
                for y in part.y..<part.bottom {
                    for x in part.x..<part.right { isDamaged[y * 64 + x] = false }
                }
            }
            #expect(region.rectangles.count <= DamageRegion.mostRectangles)
            for part in region.rectangles {
                for y in part.y..<part.bottom {
                    for x in part.x..<part.right { isDamaged[y * 64 + x] = false }
                }
            }
            #expect(!isDamaged.contains(true))
        }
    }
}
