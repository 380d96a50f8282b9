import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

@Suite struct ChipsetI8042Tests {
    private let bench = ChipsetBench()
    private func makeController() -> I8042 { I8042(bench.context) }

    @Test func `self and interface tests pass`() {
        let controller = makeController()
        #expect(controller.input(0x64) == 0x10)
        controller.output(0x64, 0xAA)
        #expect(controller.input(0x64) == 0x1D)
        #expect(controller.input(0x60) == 0x55)
        #expect(controller.input(0x64) & 1 == 0)
        for command in [0xA9, 0xAB] as [UInt8] {
            controller.output(0x64, command)
            #expect(controller.input(0x60) == 0)
        }
    }

    @Test func `the command byte can be read and written`() {
        let controller = makeController()
        controller.output(0x64, 0x60)
        controller.output(0x60, 0x47)
        controller.output(0x64, 0x20)
        #expect(controller.input(0x60) == 0x47)
        controller.output(0x64, 0xAD)
        controller.output(0x64, 0xA7)
        controller.output(0x64, 0x20)
        #expect(controller.input(0x60) == 0x77)
        controller.output(0x64, 0xAE)
        controller.output(0x64, 0xA8)
        controller.output(0x64, 0x20)
        #expect(controller.input(0x60) == 0x47)
        controller.output(0x64, 0x7F)
        controller.output(0x60, 0x99)
        controller.output(0x64, 0x3F)
        #expect(controller.input(0x60) == 0x99)
    }

    @Test func `the auxiliary loop test of Linux returns its byte on line 12`() {
        let controller = makeController()
        controller.output(0x64, 0x60)
        controller.output(0x60, 0x03)
        controller.output(0x64, 0xD3)
        controller.output(0x60, 0x5A)
        #expect(bench.lines.isHigh(12))
        #expect(controller.input(0x64) & 0x21 == 0x21)
        #expect(controller.input(0x60) == 0x5A)
        #expect(!bench.lines.isHigh(12))
        controller.output(0x64, 0xD2)
        controller.output(0x60, 0xA5)
        #expect(bench.lines.isHigh(1))
        _ = controller.input(0x60)
        #expect(bench.lines.takeChanges().map(\.line) == [12, 12, 1, 1])
    }

    @Test func `A20 is a bit of the output port`() {
        let controller = makeController()
        func port() -> UInt8 {
            controller.output(0x64, 0xD0)
            return controller.input(0x60)
        }
        #expect(port() & 0x03 == 0x03)
        controller.output(0x64, 0xDD)
        #expect(port() & 0x03 == 0x01)
        controller.output(0x64, 0xD1)
        controller.output(0x60, 0xDF)
        #expect(port() & 0x03 == 0x03)
        #expect(bench.events.all.isEmpty)
    }

    @Test(arguments: [(0xFE, true), (0xF0, true), (0xFF, false), (0xF1, false)] as [(UInt8, Bool)])
    func `a pulse of bit 0 resets the machine`(command: UInt8, resets: Bool) {
        let controller = makeController()
        controller.output(0x64, command)
        #expect(bench.events.all == (resets ? [.reset] : []))
    }

    @Test func `clearing bit 0 of the output port resets the machine`() {
        let controller = makeController()
        controller.output(0x64, 0xD1)
        controller.output(0x60, 0xDE)
        #expect(bench.events.all == [.reset])
    }

    @Test func `a flood of commands keeps one byte`() {
        let controller = makeController()
        for _ in 0..<1000 {
            for command in 0...0xEF as ClosedRange<UInt8> { controller.output(0x64, command) }
            controller.output(0x60, 0x12)
        }
        // The keyboard's answers are few.
        for _ in 0..<64 { _ = controller.input(0x60) }
        #expect(controller.input(0x64) & 1 == 0)
        #expect(bench.events.all.isEmpty)
    }

    @Test func `a saved pending command that takes no data is refused`() {
        let controller = makeController()
        var saved = controller.save()
        saved.pendingCommand = 0xAA
        #expect(throws: RestoreError.self) { try controller.restore(saved) }
        saved = controller.save()
        saved.memory = []
        #expect(throws: RestoreError.self) { try controller.restore(saved) }
    }

    // MARK: Keyboard and mouse

    /// Everything that waits, until the buffer is empty.
    private func drain(_ controller: I8042, atMost limit: Int = 4096) -> [UInt8] {
        var bytes: [UInt8] = []
        while controller.input(0x64) & 1 != 0, bytes.count < limit { bytes.append(controller.input(0x60)) }
        return bytes
    }

    private func setCommandByte(_ controller: I8042, _ value: UInt8) {
        controller.output(0x64, 0x60)
        controller.output(0x60, value)
    }

    private func sendToMouse(_ controller: I8042, _ bytes: UInt8...) -> [UInt8] {
        bytes.flatMap { byte in
            controller.output(0x64, 0xD4)
            controller.output(0x60, byte)
            return drain(controller)
        }
    }

    private func sendToKeyboard(_ controller: I8042, _ bytes: UInt8...) -> [UInt8] {
        bytes.flatMap { byte in
            controller.output(0x60, byte)
            return drain(controller)
        }
    }

    // swift-format-ignore
    /// Code; set 2 down and up; set 1 down and up (IBM PS/2 technical reference, "Scan Code Tables").
    private static let strokes: [(UInt8, [UInt8], [UInt8], [UInt8], [UInt8])] = [
        (0x1E, [0x1C],                   [0xF0, 0x1C],                   [0x1E],                   [0x9E]),
        (0x01, [0x76],                   [0xF0, 0x76],                   [0x01],                   [0x81]),
        (0x1C, [0x5A],                   [0xF0, 0x5A],                   [0x1C],                   [0x9C]),
        (0x41, [0x83],                   [0xF0, 0x83],                   [0x41],                   [0xC1]),
        (0x57, [0x78],                   [0xF0, 0x78],                   [0x57],                   [0xD7]),
        (0x56, [0x61],                   [0xF0, 0x61],                   [0x56],                   [0xD6]),
        (0xC8, [0xE0, 0x75],             [0xE0, 0xF0, 0x75],           [0xE0, 0x48],           [0xE0, 0xC8]),
        (0x9D, [0xE0, 0x14],             [0xE0, 0xF0, 0x14],           [0xE0, 0x1D],           [0xE0, 0x9D]),
        (0xB7, [0xE0, 0x12, 0xE0, 0x7C], [0xE0, 0xF0, 0x7C, 0xE0, 0xF0, 0x12],
               [0xE0, 0x2A, 0xE0, 0x37], [0xE0, 0xB7, 0xE0, 0xAA]),
        (0xC6, [0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77], [],
               [0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5], []),
    ]

    @Test(arguments: strokes.indices)
    func `a key has its codes in set 2, translated, and in set 1`(row: Int) {
        let (code, down2, up2, down1, up1) = Self.strokes[row], key = KeyCode(code)
        let controller = makeController()
        func stroke(_ isDown: Bool) -> [UInt8] {
            controller.key(key, isDown: isDown)
            return drain(controller)
        }
        #expect(stroke(true) == down2)
        #expect(stroke(false) == up2)
        setCommandByte(controller, 0x41)
        #expect(stroke(true) == down1)
        #expect(stroke(false) == up1)
        setCommandByte(controller, 0x01)
        #expect(sendToKeyboard(controller, 0xF0, 0x01, 0xF0, 0x00) == [0xFA, 0xFA, 0xFA, 0xFA, 0x01])
        #expect(stroke(true) == down1)
        #expect(stroke(false) == up1)
    }

    @Test func `no two keys have the same codes`() {
        let keys = (1...255).map { KeyCode(UInt8($0)) }.filter(\.exists)
        for set in [1, 2] as [UInt8] {
            for isDown in [true, false] {
                let codes = keys.map { ScanCodes.bytes($0, isDown: isDown, set: set) }
                #expect(Set(codes).count == keys.count && codes.allSatisfy { $0.count <= 8 })
                #expect(codes.allSatisfy { !$0.dropFirst().contains(0) && $0.first != 0 })
            }
        }
    }

    @Test func `the keyboard resets, names itself and takes its lamps`() {
        let controller = makeController()
        #expect(sendToKeyboard(controller, 0xFF) == [0xFA, 0xAA])
        #expect(sendToKeyboard(controller, 0xF2) == [0xFA, 0xAB, 0x83])
        setCommandByte(controller, 0x40)
        #expect(sendToKeyboard(controller, 0xF2) == [0xFA, 0xAB, 0x41])
        #expect(sendToKeyboard(controller, 0xED, 0x06) == [0xFA, 0xFA])
        #expect(controller.lamps == 6)
        #expect(sendToKeyboard(controller, 0xEE, 0xF3, 0x20, 0x55) == [0xEE, 0xFA, 0xFA, 0xFE])
        // Set 3 is not there.
        #expect(sendToKeyboard(controller, 0xF0, 0x03) == [0xFA, 0xFE])
        // A command instead of a parameter.
        #expect(sendToKeyboard(controller, 0xED, 0xF4) == [0xFA, 0xFA])
        #expect(controller.lamps == 6)
    }

    @Test func `each byte raises line 1 anew, and a stopped clock holds them back`() {
        let controller = makeController()
        setCommandByte(controller, 0x41)
        controller.key(KeyCode(0xC8), isDown: true)
        #expect(bench.lines.isHigh(1))
        #expect(controller.input(0x60) == 0xE0)
        #expect(controller.input(0x60) == 0x48)
        #expect(!bench.lines.isHigh(1))
        #expect(bench.lines.takeChanges().map(\.line) == [1, 1, 1, 1])
        controller.output(0x64, 0xAD)
        controller.key(KeyCode(0xC8), isDown: false)
        #expect(controller.input(0x64) & 1 == 0)
        controller.output(0x64, 0xAE)
        #expect(drain(controller) == [0xE0, 0xC8])
    }

    @Test func `a keyboard that nobody reads stays bounded, and no key stays down`() {
        let controller = makeController()
        setCommandByte(controller, 0x41)
        for round in 0..<10_000 {
            let key = KeyCode(UInt8(1 + round % 0x50))
            controller.key(key, isDown: true)
            if round % 3 == 0 { controller.key(key, isDown: false) }
        }
        for code in 1...0xFF as ClosedRange<UInt8> { controller.key(KeyCode(code), isDown: false) }
        var down: Set<UInt8> = []
        let bytes = drain(controller)
        #expect(bytes.count > 20 && bytes.count <= PS2Keyboard.capacity + 1)
        for byte in bytes {
            if byte & 0x80 == 0 { down.insert(byte) } else { #expect(down.remove(byte & 0x7F) != nil) }
        }
        #expect(down.isEmpty)
    }

    @Test func `the mouse resets and tells plain, wheel and five buttons apart`() {
        let controller = makeController()
        #expect(sendToMouse(controller, 0xFF) == [0xFA, 0xAA, 0x00])
        #expect(sendToMouse(controller, 0xF2) == [0xFA, 0x00])
        _ = sendToMouse(controller, 0xF3, 200, 0xF3, 100, 0xF3, 80)
        #expect(sendToMouse(controller, 0xF2) == [0xFA, 0x03])
        _ = sendToMouse(controller, 0xF3, 200, 0xF3, 200, 0xF3, 80)
        #expect(sendToMouse(controller, 0xF2) == [0xFA, 0x04])
        #expect(sendToMouse(controller, 0xE8, 0x03, 0xE9) == [0xFA, 0xFA, 0xFA, 0x00, 3, 80])
        #expect(sendToMouse(controller, 0xE8, 0x07) == [0xFA, 0xFE])
    }

    @Test func `movement arrives on line 12 as packets of the chosen kind`() {
        let controller = makeController()
        setCommandByte(controller, 0x02)
        controller.move(PointerMovement(right: 5, down: 5))
        #expect(controller.input(0x64) & 1 == 0, "it does not report yet")
        #expect(sendToMouse(controller, 0xF4) == [0xFA])
        controller.move(PointerMovement(right: 3, down: 4, buttons: 1))
        #expect(controller.input(0x64) & 0x21 == 0x21)
        #expect(bench.lines.isHigh(12))
        #expect(drain(controller) == [0x29, 3, 0xFC])
        controller.move(PointerMovement(right: -300, down: -2, buttons: 0))
        #expect(drain(controller) == [0x18, 0x01, 2, 0x18, 0xD3, 0])
        _ = sendToMouse(controller, 0xF3, 200, 0xF3, 100, 0xF3, 80)
        controller.move(PointerMovement(wheel: -1, buttons: 4))
        #expect(drain(controller) == [0x0C, 0, 0, 0xFF])
        controller.move(PointerMovement(buttons: 4))
        #expect(drain(controller).isEmpty, "nothing moved")
        // Remote: only who asks is told.
        _ = sendToMouse(controller, 0xF0)
        controller.move(PointerMovement(right: 1, buttons: 4))
        #expect(drain(controller).isEmpty)
        #expect(sendToMouse(controller, 0xEB) == [0xFA, 0x0C, 1, 0, 0])
    }

    @Test func `clicks that wait keep their order, and a flood of them stays bounded`() {
        let controller = makeController()
        #expect(sendToMouse(controller, 0xF4) == [0xFA])
        setCommandByte(controller, 0x20)
        for button in [1, 0, 2, 0] as [UInt8] { controller.move(PointerMovement(right: 1, buttons: button)) }
        setCommandByte(controller, 0x00)
        let firstBytes = stride(from: 0, to: 12, by: 3)
        let bytes = drain(controller)
        #expect(bytes.count == 12 && firstBytes.map { bytes[$0] & 7 } == [1, 0, 2, 0])
        setCommandByte(controller, 0x20)
        for round in 0..<100_000 {
            controller.move(PointerMovement(right: .max, down: .min, wheel: .max, buttons: UInt8(round & 1)))
        }
        controller.move(PointerMovement(buttons: 0))
        setCommandByte(controller, 0x00)
        let flood = drain(controller, atMost: 100_000)
        #expect(flood.count.isMultiple(of: 3) && flood.count < 3 * 300 * PS2Mouse.mostSteps)
        #expect(flood.suffix(3).first.map { $0 & 7 } == 0, "the last button is up")
    }

    @Test func `saved keys, clicks and modes that no device has are refused`() {
        let controller = makeController()
        var saved = controller.save()
        saved.keyboard.codes = Array(repeating: 1, count: 300)
        #expect(throws: RestoreError.self) { try controller.restore(saved) }
        saved = controller.save()
        saved.keyboard.scanSet = 3
        #expect(throws: RestoreError.self) { try controller.restore(saved) }
        saved = controller.save()
        saved.mouse.identity = 7
        #expect(throws: RestoreError.self) { try controller.restore(saved) }
        saved = controller.save()
        saved.mouse.steps = [.init(right: .max)]
        #expect(throws: RestoreError.self) { try controller.restore(saved) }
    }
}
