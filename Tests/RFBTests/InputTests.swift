import TestKit
import ScreenSurface
import Testing

@testable import RFB

@Suite struct InputTests {
    private func codes(_ events: [KeyTranslator.Event]) -> [String] {
        events.map { ($0.isDown ? "+" : "-") + String($0.code, radix: 16) }
    }

    @Test func `every character of a US keyboard has a key`() {
        for value in 0x20...0x7E as ClosedRange<UInt32> { #expect(KeyMap.stroke(value) != nil) }
        let shifted = (0x20...0x7E as ClosedRange<UInt32>).filter { KeyMap.stroke($0)?.isShifted == true }
        #expect(shifted.count == 26 + 21)
        #expect(KeyMap.stroke(0x7E) == KeyMap.Stroke(code: 0x29, isShifted: true))
        #expect(KeyMap.stroke(0x5C) == KeyMap.Stroke(code: 0x2B, isShifted: false))
        #expect(KeyMap.stroke(0x2F) == KeyMap.Stroke(code: 0x35, isShifted: false))
        #expect(KeyMap.stroke(0x1234_5678) == nil)
    }

    @Test func `a viewer that holds Shift itself is taken at its word`() {
        var keys = KeyTranslator()
        #expect(codes(keys.key(0xFFE1, isDown: true)) == ["+2a"])
        #expect(codes(keys.key(0x41, isDown: true)) == ["+1e"])
        #expect(codes(keys.key(0x41, isDown: false)) == ["-1e"])
        #expect(codes(keys.key(0xFFE1, isDown: false)) == ["-2a"])
    }

    @Test func `Shift comes and goes where the viewer's layout is another`() {
        var keys = KeyTranslator()
        #expect(codes(keys.key(0x41, isDown: true)) == ["+2a", "+1e", "-2a"])
        #expect(codes(keys.key(0x41, isDown: false)) == ["-1e"])
        // A slash is Shift and 7 on a German keyboard.
        _ = keys.key(0xFFE2, isDown: true)
        #expect(codes(keys.key(0x2F, isDown: true)) == ["-36", "+35", "+36"])
        #expect(codes(keys.key(0x2F, isDown: false)) == ["-35"])
        // Caps Lock is the guest's business.
        _ = keys.key(0xFFE2, isDown: false)
        _ = keys.key(0xFFE5, isDown: true)
        _ = keys.key(0xFFE5, isDown: false)
        #expect(codes(keys.key(0x41, isDown: true)) == ["+1e"])
    }

    @Test func `a key goes up as the key that went down, and all of them at the end`() {
        var keys = KeyTranslator()
        _ = keys.key(0x37, isDown: true)
        #expect(codes(keys.key(0x37, isDown: true)) == ["+8"], "a key that repeats")
        #expect(codes(keys.key(0x26, isDown: false)) == ["-8"], "Shift changed meanwhile")
        #expect(keys.key(0x26, isDown: false).isEmpty)
        _ = keys.key(0xFFE3, isDown: true)
        _ = keys.key(0xFFFF, isDown: true)
        #expect(codes(keys.releaseAll()) == ["-1d", "-d3"])
        #expect(keys.releaseAll().isEmpty)
    }

    @Test func `extended key events name the key itself`() {
        var keys = KeyTranslator()
        #expect(codes(keys.key(extended: 0x1E, isDown: true)) == ["+1e"])
        #expect(codes(keys.key(extended: 0xC8, isDown: true)) == ["+c8"])
        #expect(codes(keys.key(extended: 0xE048, isDown: false)) == ["-c8"])
        #expect(keys.key(extended: 0x1_0000, isDown: true).isEmpty)
    }

    @Test func `positions become distances, and the wheel steps`() {
        var pointer = PointerTracker()
        let screen = ScreenRectangle(x: 0, y: 0, width: 200, height: 100)
        func move(_ mask: UInt8, _ x: UInt16, _ y: UInt16) -> [Int32] {
            numbers(pointer.move(mask, x, y, on: screen, isRelative: false))
        }
        #expect(move(0, 100, 95) == [0, 0, 0, 0])
        #expect(move(1, 110, 90) == [10, -5, 0, 1])
        #expect(move(4, 110, 90) == [0, 0, 0, 2])
        #expect(move(2, 110, 90) == [0, 0, 0, 4])
        #expect(move(0x10, 110, 90) == [0, 0, 1, 0])
        #expect(move(0x10, 110, 90) == [0, 0, 0, 0])
        #expect(move(0x08, 110, 90) == [0, 0, -1, 0])
        let relative = pointer.move(0, 0x7FFF + 3, 0x7FFF - 4, on: screen, isRelative: true)
        #expect(relative == .move(right: 3, down: -4, wheel: 0, buttons: 0, position: nil))
    }

    /// Right, down, wheel, buttons.
    private func numbers(_ event: RFBEvent) -> [Int32] {
        guard case .move(let right, let down, let wheel, let buttons, _) = event else { return [] }
        return [right, down, wheel, Int32(buttons)]
    }

    @Test func `positions are the middles of pixels, whatever the size of the screen`() {
        var pointer = PointerTracker()
        func place(_ x: UInt16, _ y: UInt16, _ width: Int, _ height: Int) -> ScreenPosition? {
            let screen = ScreenRectangle(x: 0, y: 0, width: width, height: height)
            _ = pointer.move(0, x, y, on: screen, isRelative: false)
            return pointer.position
        }
        #expect(place(0, 0, 2, 1) == ScreenPosition(x: 8192, y: 16_384))
        #expect(place(1, 0, 2, 0) == ScreenPosition(x: 24_576, y: 16_384))
        #expect(place(.max, .max, 1024, 768) == ScreenPosition(x: 32_752, y: 32_746))
        // What a guest makes of it on the same screen is the same pixel.
        for (size, step) in [(640, 7), (1366, 13), (16_384, 1)] {
            for pixel in stride(from: 0, to: size, by: step) {
                let found = place(UInt16(pixel), 0, size, 1)
                #expect(found.map { Int($0.x) * size / 32_768 } == pixel)
            }
        }
    }

    @Test func `a viewer that can do both sends what the guest wants`() throws {
        let bench = SessionBench(ScreenBench(64, 64))
        try bench.viewer.connect()
        try bench.viewer.setEncodings([0, -257])
        try bench.viewer.capture()
        #expect(bench.viewer.pointerMode == .relative)
        try bench.viewer.pointer(0, 0x7FFF + 2, 0x7FFF)
        #expect(
            bench.session.takeEvents() == [.move(right: 2, down: 0, wheel: 0, buttons: 0, position: nil)])
        bench.session.isPointerAbsolute = true
        try bench.viewer.capture()
        #expect(bench.viewer.pointerMode == .absolute)
        try bench.viewer.pointer(0, 63, 0)
        let position = ScreenPosition(x: 32_512, y: 256)
        #expect(
            bench.session.takeEvents() == [
                .move(right: 0, down: 0, wheel: 0, buttons: 0, position: position)
            ])
        bench.session.isPointerAbsolute = false
        try bench.viewer.capture()
        #expect(bench.viewer.pointerMode == .relative && bench.viewer.seen[-257] == 3)
    }

    @Test func `a viewer that leaves lets go of keys and buttons`() throws {
        let bench = SessionBench(ScreenBench(64, 64))
        try bench.viewer.connect()
        try bench.viewer.key(0x61, isDown: true)
        try bench.viewer.pointer(1, 5, 5)
        _ = bench.session.takeEvents()
        bench.session.disconnect()
        #expect(
            bench.session.takeEvents() == [
                .key(0x1E, isDown: false),
                .move(
                    right: 0, down: 0, wheel: 0, buttons: 0, position: ScreenPosition(x: 2816, y: 2816)),
            ])
    }
}
