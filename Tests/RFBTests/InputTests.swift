import ScreenSurface
import TestKit
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
        let screen = ScreenRectangle(x: 0, y: 0, width: 201, height: 101)
        func move(_ mask: UInt8, _ x: UInt16, _ y: UInt16) -> RFBEvent {
            pointer.move(mask, x, y, on: screen, isRelative: false)
        }
        func movement(
            right: Int32 = 0, down: Int32 = 0, wheel: Int32 = 0, buttons: UInt8 = 0, x: UInt16 = 36028,
            y: UInt16 = 61967
        ) -> RFBEvent {
            .move(
                ScreenMovement(
                    right: right, down: down, wheel: wheel, buttons: buttons, place: ScreenPlace(x: x, y: y)))
        }
        #expect(move(0, 100, 100) == movement(x: 32768, y: 65211))
        #expect(move(1, 110, 95) == movement(right: 10, down: -5, buttons: 1))
        #expect(move(4, 110, 95) == movement(buttons: 2))
        #expect(move(2, 110, 95) == movement(buttons: 4))
        #expect(move(0x10, 110, 95) == movement(wheel: 1))
        #expect(move(0x10, 110, 95) == movement())
        // Beyond the edge is the edge.
        #expect(move(0, 999, 0) == movement(right: 889, down: -95, x: 65372, y: 324))
        _ = move(0x10, 110, 95)
        #expect(move(0x08, 110, 95) == movement(wheel: -1))
        #expect(
            pointer.move(0, 0x7FFF + 3, 0x7FFF - 4, on: screen, isRelative: true)
                == .move(ScreenMovement(right: 3, down: -4)))
    }

    @Test func `a guest finds the pixel that the viewer meant, whatever the size of the screen`() {
        var pointer = PointerTracker()
        for (size, step) in [(640, 7), (1366, 13), (4096, 1)] {
            let screen = ScreenRectangle(x: 0, y: 0, width: size, height: 1)
            for pixel in stride(from: 0, to: size, by: step) {
                let event = pointer.move(0, UInt16(pixel), 0, on: screen, isRelative: false)
                guard case .move(let movement) = event, let place = movement.place else {
                    Issue.record("no place")
                    return
                }
                // What a tablet makes of it, and then the guest.
                #expect(Int(place.x >> 1) * size / 32_768 == pixel)
            }
        }
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
                .move(ScreenMovement(place: ScreenPlace(x: 5632, y: 5632))),
            ])
    }
}
