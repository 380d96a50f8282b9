import ScreenSurface
import TestKit

@testable import RFB

/// A screen and its server, with the machine's part played by the test.
final class ScreenBench {
    let framebuffer = Framebuffer()
    private(set) var pixels: [UInt32]
    private(set) var width: Int, height: Int
    /// What the guest has at its pointer, and the number of its picture.
    var cursor: ScreenCursor?
    var cursorShape: UInt32 = 1
    var abilities: ScreenAbilities = []

    init(_ width: Int = 640, _ height: Int = 480) {
        self.width = width
        self.height = height
        pixels = [UInt32](repeating: 0, count: width * height)
        _ = show([ScreenRectangle(x: 0, y: 0, width: width, height: height)])
    }

    var bounds: ScreenRectangle { ScreenRectangle(x: 0, y: 0, width: width, height: height) }

    func resize(_ width: Int, _ height: Int) -> Framebuffer.Change {
        self.width = width
        self.height = height
        pixels = [UInt32](repeating: 0x123456, count: width * height)
        return show([bounds])
    }

    func show(_ damage: [ScreenRectangle]) -> Framebuffer.Change {
        let news = cursor.map {
            ScreenCursorNews(
                shape: cursorShape, width: $0.width, height: $0.height, hotX: $0.hotX, hotY: $0.hotY,
                left: $0.left, top: $0.top)
        }
        let frame = ScreenFrame(
            width: width, height: height, damage: damage, abilities: abilities, cursor: news)
        return framebuffer.apply(frame) { start, count, target, place in
            let isCursor = start >= SurfaceMemory.cursorStart
            let source = isCursor ? cursor?.pixels ?? [] : pixels
            let first = isCursor ? start - SurfaceMemory.cursorStart : start
            for index in 0..<count { target[place + index] = source[first + index] }
        }
    }

    /// Draws into a rectangle, `color` by place inside it.
    func draw(_ part: ScreenRectangle, _ color: (Int, Int) -> UInt32) -> Framebuffer.Change {
        for y in 0..<part.height {
            for x in 0..<part.width { pixels[(part.y + y) * width + part.x + x] = color(x, y) }
        }
        return show([part])
    }

    /// Moves all rows up, and fills what comes in.
    func scroll(by lines: Int, _ color: (Int, Int) -> UInt32) -> Framebuffer.Change {
        pixels.removeFirst(lines * width)
        for y in height - lines..<height {
            for x in 0..<width { pixels.append(color(x, y)) }
        }
        return show([bounds])
    }
}

/// A viewer of the test kit at a session, without sockets.
final class SessionBench {
    let screen: ScreenBench
    let session: RFBSession
    private(set) var viewer: RFBTestViewer
    var sentByServer = 0

    init(_ screen: ScreenBench, password: VNCPassword? = nil, refusal: String? = nil) {
        self.screen = screen
        let session = RFBSession(
            RFBConfiguration(name: "the guest", password: password, refusal: refusal), screen.framebuffer,
            challenge: (0..<16).map { UInt8($0 * 7) })
        self.session = session
        var count = 0
        viewer = RFBTestViewer(
            receive: { wanted in
                while session.output.count < wanted {
                    let before = session.output.count
                    session.process()
                    if session.needsFreshFrame { session.screenChanged(Framebuffer.Change(damage: [])) }
                    session.fill()
                    guard session.output.count > before else { throw NothingToRead() }
                }
                count += wanted
                defer { session.sent(wanted) }
                return Array(session.output.prefix(wanted))
            }, send: { session.receive($0[...]) })
        _ = count
    }

    struct NothingToRead: Error {}

    /// Takes everything that the server has to say now.
    func drain() throws {
        do {
            while true { try viewer.takeMessage() }
        } catch is NothingToRead {}
    }

    /// Whether the viewer shows the screen, in its format.
    var isUpToDate: Bool { viewer.pixels == expected }

    /// The screen as the viewer's format has it.
    var expected: [UInt32] { expected(screen.pixels) }

    /// The same with the cursor over it.
    var expectedWithCursor: [UInt32] {
        var pixels = screen.pixels
        screen.cursor?.blend(into: &pixels, of: screen.bounds)
        return expected(pixels)
    }

    private func expected(_ pixels: [UInt32]) -> [UInt32] {
        let format = viewer.format
        return pixels.map { pixel in
            var value: UInt32 = 0
            for (part, shift) in [16, 8, 0].enumerated() {
                let component = pixel >> UInt32(shift) & 0xFF
                value |= ((component * format.maxima[part] + 127) / 255) << format.shifts[part]
            }
            return value
        }
    }
}
