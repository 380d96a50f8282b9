import ScreenSurface
import TestKit
import Testing

@testable import RFB

@Suite struct CursorTests {
    private let screen = ScreenBench(200, 100)

    init() { screen.abilities = .takesPositions }

    /// Opaque white, half of red, and nothing, in columns of three.
    private func cursor(_ left: Int, _ top: Int, width: Int = 9, height: Int = 5) -> ScreenCursor {
        let colors: [UInt32] = [0xFFFF_FFFF, 0x8080_0000, 0]
        return ScreenCursor(
            pixels: (0..<width * height).map { colors[$0 % width % 3] }, width: width, height: height,
            hotX: 3, hotY: 2, left: left, top: top)
    }

    private func background() {
        _ = screen.draw(screen.bounds) { x, y in UInt32(x * 1000 + y * 3) & 0xFF_FFFF }
    }

    private func connect(_ encodings: [Int32], format: RFBTestViewer.Format = .native) throws -> SessionBench
    {
        background()
        let bench = SessionBench(screen)
        try bench.viewer.connect()
        try bench.viewer.setFormat(format)
        try bench.viewer.setEncodings(encodings)
        bench.session.screenChanged(screen.show([]))
        try bench.viewer.capture()
        return bench
    }

    @Test(
        arguments: [
            .native, RFBTestViewer.Format(bits: 16, depth: 16, maxima: [31, 63, 31], shifts: [11, 5, 0]),
        ], [0, 5, 16] as [Int32])
    func `a viewer that draws no cursor sees it in the picture`(
        format: RFBTestViewer.Format, encoding: Int32
    ) throws {
        screen.cursor = cursor(50, 40)
        let bench = try connect([encoding], format: format)
        #expect(bench.viewer.pixels == bench.expectedWithCursor && !bench.isUpToDate)
        // Beside the screen, half and quite.
        for (left, top) in [(53, 41), (-4, -2), (196, 98), (200, 0), (-9, 50), (30_000, -30_000), (7, 7)] {
            screen.cursor = cursor(left, top)
            bench.session.screenChanged(screen.show([]))
            try bench.viewer.request(isIncremental: true)
            try bench.drain()
            #expect(bench.viewer.pixels == bench.expectedWithCursor, "at \(left), \(top)")
        }
        screen.cursor = nil
        bench.session.screenChanged(screen.show([]))
        try bench.viewer.request(isIncremental: true)
        try bench.drain()
        #expect(bench.isUpToDate && bench.viewer.cursor == nil)
    }

    @Test(arguments: [([-239], 0xFFFF_0000), ([-239, -314], 0x8080_0000)] as [([Int32], UInt32)])
    func `a viewer that draws cursors gets the picture, and no damage when it moves`(
        encodings: [Int32], halfRed: UInt32
    ) throws {
        screen.cursor = cursor(50, 40)
        let bench = try connect([0] + encodings)
        #expect(bench.isUpToDate, "there is no cursor in the picture")
        let shape = try #require(bench.viewer.cursor)
        #expect(shape.width == 9 && shape.height == 5 && shape.hotX == 3 && shape.hotY == 2)
        #expect(shape.pixels == (0..<45).map { [0xFFFF_FFFF, halfRed, 0][$0 % 9 % 3] })
        #expect(bench.viewer.seen[encodings.last ?? 0] == 1)
        try bench.viewer.request(isIncremental: true)
        screen.cursor = cursor(90, 10)
        bench.session.screenChanged(screen.show([]))
        bench.session.fill()
        #expect(bench.session.output.isEmpty)
        // Another picture, and none.
        screen.cursor = cursor(90, 10, width: 64, height: 64)
        screen.cursorShape += 1
        bench.session.screenChanged(screen.show([]))
        try bench.drain()
        #expect(bench.viewer.cursor?.width == 64 && bench.viewer.seen[encodings.last ?? 0] == 2)
        screen.cursor = nil
        bench.session.screenChanged(screen.show([]))
        try bench.viewer.request(isIncremental: true)
        try bench.drain()
        #expect(bench.viewer.cursor?.isInvisible == true && bench.isUpToDate)
    }

    @Test func `a guest without a cursor of its own leaves the viewer's alone`() throws {
        let bench = try connect([0, -239, -314])
        #expect(bench.viewer.cursor == nil && bench.isUpToDate)
    }

    @Test func `a guest that hears only how far the pointer moves keeps its cursor in the picture`() throws {
        screen.cursor = cursor(50, 40)
        screen.abilities = []
        let bench = try connect([0, -314])
        #expect(bench.viewer.pixels == bench.expectedWithCursor && bench.viewer.cursor == nil)
        screen.abilities = .takesPositions
        bench.session.screenChanged(screen.show([]))
        try bench.viewer.request(isIncremental: true)
        try bench.drain()
        #expect(bench.isUpToDate && bench.viewer.cursor?.width == 9)
        screen.abilities = []
        bench.session.screenChanged(screen.show([]))
        try bench.viewer.request(isIncremental: true)
        try bench.drain()
        #expect(bench.viewer.pixels == bench.expectedWithCursor && bench.viewer.cursor?.isInvisible == true)
    }

    @Test func `each of two viewers sees the cursor once`() throws {
        screen.cursor = cursor(50, 40)
        let first = try connect([0]), second = try connect([0, -239])
        #expect(first.viewer.pixels == first.expectedWithCursor && first.viewer.cursor == nil)
        #expect(second.isUpToDate && second.viewer.cursor != nil)
        // One that learns to draw it.
        try first.viewer.setEncodings([0, -314])
        try first.viewer.request(isIncremental: true)
        try first.drain()
        #expect(first.isUpToDate && first.viewer.cursor?.width == 9)
    }

    @Test(arguments: [[0, 1], [0, 1, -239]] as [[Int32]])
    func `what scrolls does not drag the cursor along`(encodings: [Int32]) throws {
        screen.cursor = cursor(50, 40)
        let bench = try connect(encodings)
        try bench.viewer.request(isIncremental: true)
        bench.session.screenChanged(screen.scroll(by: 10) { x, y in UInt32(x * y) })
        try bench.drain()
        let draws = encodings.contains(-239)
        #expect(bench.viewer.pixels == (draws ? bench.expected : bench.expectedWithCursor))
        #expect(bench.viewer.seen[1] ?? 0 == (draws ? 1 : 0))
    }

    @Test func `a frame's message holds a cursor, and only a possible one`() {
        let good = ScreenCursorNews(
            shape: 0x8000_0001, width: 64, height: 1, hotX: 63, hotY: 0, left: -40_000, top: 7)
        func read(_ cursor: ScreenCursorNews) -> ScreenFrame? {
            let whole = ScreenRectangle(x: 0, y: 0, width: 5, height: 5)
            return ScreenLink.frame(
                ScreenLink.bytes(ScreenFrame(width: 9, height: 9, damage: [whole], cursor: cursor)))
        }
        var expected = good
        expected.left = -32_768
        #expect(read(good)?.cursor == expected && read(good)?.damage.count == 1)
        for field in [\ScreenCursorNews.width, \.height] {
            for side in [0, 65, 0xFFFF] {
                var bad = good
                bad[keyPath: field] = side
                #expect(read(bad) == nil)
            }
        }
        for field in [\ScreenCursorNews.hotX, \.hotY] {
            var bad = good
            bad[keyPath: field] = 64
            #expect(read(bad) == nil)
        }
    }
}
