import DeviceModel
import GuestMemory
import LinuxHost
import ScreenSurface
import Synchronization
import TestKit
import Testing

@testable import DisplayDevices
@testable import PCIBus

/// What a VGA draws, for those who look.
@Suite struct ScreenTests {
    private let bench = ChipsetBench()
    private let vga: VGA
    private let surface: SurfaceMemory

    init() throws {
        vga = try VGA(bench.context, rom: [])
        surface = try SurfaceMemory(
            Descriptor.sealedMemory("screen", size: UInt64(SurfaceMemory.fileSize)), writable: true)
        // Colours of the palette by their numbers, and the screen on.
        for index in 0..<16 as Range<UInt8> {
            _ = vga.input(0x3DA)
            vga.output(0x3C0, index)
            vga.output(0x3C0, index)
        }
        vga.output(0x3C8, 0)
        for color in 0..<256 {
            for shift in [0, 2, 4] { vga.output(0x3C9, UInt8(color >> shift & 0x3F)) }
        }
        vga.output(0x3C2, 0x67)
        _ = vga.input(0x3DA)
        vga.output(0x3C0, 0x20)
        write(0x3C4, [0: 3, 2: 0x0F])
        write(0x3CE, [8: 0xFF])
        attribute(0x12, 0x0F)
    }

    private func write(_ port: UInt16, _ registers: [UInt8: UInt8]) {
        for (index, value) in registers.sorted(by: { $0.key < $1.key }) {
            vga.output(port, index)
            vga.output(port + 1, value)
        }
    }
    private func attribute(_ index: UInt8, _ value: UInt8) {
        _ = vga.input(0x3DA)
        vga.output(0x3C0, index | 0x20)
        vga.output(0x3C0, value)
    }
    private func bochs(_ registers: [(UInt32, UInt32)]) {
        for (index, value) in registers {
            vga.write(port: 0x1CE, width: .word, value: index)
            vga.write(port: 0x1CF, width: .word, value: value)
        }
    }
    /// A colour of the palette that `init` set.
    private func color(_ number: Int) -> UInt32 {
        [0, 2, 4].reduce(UInt32(0)) { sum, shift in
            let part = UInt32(number >> shift & 0x3F)
            return sum << 8 | part << 2 | part >> 4
        }
    }
    private func pixel(_ canvas: ScreenCanvas, _ x: Int, _ y: Int) -> UInt32 {
        var pixels: [UInt32] = [0]
        surface.read(y * canvas.width + x, count: 1, into: &pixels, at: 0)
        return pixels[0]
    }

    /// Mode 3, and 'A' with a frame around its cell.
    private func setTextMode() {
        write(0x3C4, [1: 0, 4: 2])
        write(0x3CE, [5: 0x10, 6: 0x0E])
        write(0x3D4, [1: 79, 7: 0x1F, 9: 0x4F, 0xA: 0x20, 0x12: 0x8F, 0x13: 40, 0x18: 0xFF])
        attribute(0x10, 0x0C)
        for line in 0..<16 { vga.memory[(0x41 * 32 + line) * 4 + 2] = line == 0 || line == 15 ? 0xFF : 0x81 }
        for line in 0..<16 { vga.memory[(0xC4 * 32 + line) * 4 + 2] = line == 8 ? 0xFF : 0 }
    }
    private func cell(_ row: Int, _ column: Int, _ code: UInt8, _ attribute: UInt8) {
        vga.write(
            region: 0, offset: UInt64(0x1_8000 + (row * 80 + column) * 2), width: .word,
            value: UInt64(code) | UInt64(attribute) << 8)
    }

    @Test func `text has its font and its colours`() {
        setTextMode()
        var canvas = ScreenCanvas(surface)
        cell(2, 3, 0x41, 0x1E)
        cell(2, 4, 0xC4, 0x1E)
        cell(3, 3, 0x20, 0x70)
        vga.draw(on: &canvas)
        #expect(canvas.takeFrame()?.damage == [ScreenRectangle(x: 0, y: 0, width: 720, height: 400)])
        #expect(pixel(canvas, 27, 32) == color(14) && pixel(canvas, 28, 33) == color(1))
        #expect(pixel(canvas, 34, 40) == color(14))
        #expect(pixel(canvas, 35, 32) == color(1), "the ninth dot is background")
        #expect(pixel(canvas, 44, 40) == color(14), "but a line goes on in it")
        #expect(pixel(canvas, 30, 50) == color(7))
    }

    @Test func `only what was stored to is drawn again`() {
        setTextMode()
        var canvas = ScreenCanvas(surface)
        vga.draw(on: &canvas)
        _ = canvas.takeFrame()
        vga.draw(on: &canvas)
        #expect(canvas.takeFrame() == nil)
        cell(10, 5, 0x41, 0x0F)
        vga.draw(on: &canvas)
        #expect(canvas.takeFrame()?.damage == [ScreenRectangle(x: 45, y: 160, width: 8, height: 16)])
        // The same again changes no pixel.
        cell(10, 5, 0x41, 0x0F)
        vga.draw(on: &canvas)
        #expect(canvas.takeFrame() == nil)
        // Another glyph of the font.
        vga.memory[(0x41 * 32 + 4) * 4 + 2] = 0x99
        vga.draw(on: &canvas)
        #expect(canvas.takeFrame()?.damage == [ScreenRectangle(x: 48, y: 164, width: 2, height: 1)])
    }

    @Test func `the cursor is where the registers say, and blinks`() {
        setTextMode()
        var canvas = ScreenCanvas(surface)
        vga.draw(on: &canvas)
        _ = canvas.takeFrame()
        cell(0, 5, 0x20, 0x07)
        write(0x3D4, [0xA: 14, 0xB: 15, 0xE: 0, 0xF: 5])
        vga.draw(on: &canvas)
        let cursor = ScreenRectangle(x: 45, y: 14, width: 9, height: 2)
        #expect(canvas.takeFrame()?.damage == [cursor])
        bench.clock.jump(by: 267_000_000)
        vga.draw(on: &canvas)
        #expect(canvas.takeFrame()?.damage == [cursor] && pixel(canvas, 45, 14) == color(0))
    }

    @Test func `planes make sixteen colours`() {
        write(0x3C4, [1: 1, 4: 6])
        write(0x3CE, [5: 0, 6: 5])
        write(0x3D4, [1: 79, 7: 0x3E, 9: 0x40, 0x12: 0xDF, 0x13: 40, 0x17: 0xE3, 0x18: 0xFF])
        var canvas = ScreenCanvas(surface)
        vga.draw(on: &canvas)
        #expect(canvas.width == 640 && canvas.height == 480)
        _ = canvas.takeFrame()
        vga.memory[planes: (100 * 80 + 1) * 4] = 0x8000_8001
        vga.draw(on: &canvas)
        #expect(pixel(canvas, 8, 100) == color(0xA) && pixel(canvas, 15, 100) == color(1))
        #expect(canvas.takeFrame()?.damage == [ScreenRectangle(x: 8, y: 100, width: 8, height: 1)])
    }

    @Test func `mode 13h has a byte for a pixel, and the split screen begins anew`() {
        write(0x3C4, [1: 1, 4: 0xE])
        write(0x3CE, [5: 0x40, 6: 5])
        write(0x3D4, [1: 79, 7: 0x1F, 9: 0x41, 0x12: 0x8F, 0x13: 40, 0x17: 0xA3, 0x18: 0xFF])
        var canvas = ScreenCanvas(surface)
        vga.write(region: 0, offset: 320 * 7 + 9, width: .byte, value: 200)
        vga.draw(on: &canvas)
        #expect(canvas.width == 320 && canvas.height == 200 && pixel(canvas, 9, 7) == color(200))
        // From line 100 of the monitor on.
        write(0x3D4, [7: 0x0F, 9: 0x01, 0x18: 99])
        vga.draw(on: &canvas)
        #expect(pixel(canvas, 9, 57) == color(200) && pixel(canvas, 9, 7) == color(200))
    }

    @Test func `CGA's modes interleave lines and planes`() {
        write(0x3C4, [1: 9, 2: 3, 4: 2])
        write(0x3CE, [5: 0x30, 6: 0x0F])
        write(0x3D4, [1: 39, 7: 0x1F, 9: 0xC1, 0x12: 0x8F, 0x13: 20, 0x17: 0xA2, 0x18: 0xFF])
        var canvas = ScreenCanvas(surface)
        vga.write(region: 0, offset: 0x1_8000 + 80, width: .byte, value: 0x6C)
        vga.write(region: 0, offset: 0x1_8000 + 0x2000 + 1, width: .byte, value: 0xC0)
        vga.draw(on: &canvas)
        #expect(canvas.width == 320 && canvas.height == 200)
        #expect((0..<4).map { pixel(canvas, $0, 2) } == [1, 2, 3, 0].map(color))
        #expect(pixel(canvas, 4, 1) == color(3) && pixel(canvas, 5, 1) == color(0))
    }

    @Test(
        arguments: [
            (32, [0x33, 0x22, 0x11, 0x00], 0x112233), (24, [0x33, 0x22, 0x11], 0x112233),
            (16, [0x1F, 0xF8], 0xFF00FF), (16, [0xE0, 0x07], 0x00FF00), (15, [0x00, 0x7C], 0xFF0000),
            (15, [0xE0, 0x03], 0x00FF00),
        ] as [(UInt32, [UInt8], UInt32)])
    func `Bochs' modes have true colours`(bits: UInt32, bytes: [UInt8], color: UInt32) {
        bochs([(4, 0), (1, 800), (2, 600), (3, bits), (4, 0x41)])
        var canvas = ScreenCanvas(surface)
        vga.draw(on: &canvas)
        #expect(canvas.takeFrame()?.height == 600 && canvas.width == 800)
        let place = (300 * 800 + 17) * bytes.count
        for (index, byte) in bytes.enumerated() { vga.memory[place + index] = byte }
        vga.draw(on: &canvas)
        #expect(pixel(canvas, 17, 300) == color)
        #expect(canvas.takeFrame()?.damage == [ScreenRectangle(x: 17, y: 300, width: 1, height: 1)])
        // Another part of the virtual screen.
        bochs([(8, 0), (9, 250)])
        vga.draw(on: &canvas)
        #expect(pixel(canvas, 17, 50) == color)
    }

    @Test func `impossible sizes are cut to what a surface has`() {
        bochs([(4, 0), (1, 16_000), (2, 12_000), (3, 8), (4, 0x41)])
        var canvas = ScreenCanvas(surface)
        vga.draw(on: &canvas)
        #expect(canvas.width == 16_000 && canvas.height == SurfaceMemory.mostPixels / 16_000)
    }

    // MARK: The end of memory

    @Test func `planes end at 64 Ki addresses, and begin anew in the middle of a line`() {
        write(0x3C4, [1: 1, 4: 6])
        write(0x3CE, [5: 0, 6: 5])
        // 510 addresses from one line to the next; the first line begins 40 addresses before the end.
        write(0x3D4, [1: 79, 7: 0x3E, 9: 0x40, 0x12: 0xDF, 0x13: 0xFF, 0x17: 0xE3, 0x18: 0xFF])
        write(0x3D4, [0xC: 0xFF, 0xD: 0xD8])
        for place in 0..<0x1_0000 { vga.memory[planes: place * 4] = UInt32(place & 0xFF) &* 0x0101_0101 }
        // Beyond the planes there is memory that only Bochs' modes show.
        for place in 0x1_0000..<0x1_8000 { vga.memory[planes: place * 4] = .max }
        var canvas = ScreenCanvas(surface)
        vga.draw(on: &canvas)
        #expect(canvas.width == 640 && canvas.height == 480)
        for (x, y) in [(0, 0), (319, 0), (320, 0), (639, 0), (7, 1), (8, 129), (633, 300), (200, 479)] {
            let place = (0xFFD8 + y * 510 + x / 8) & 0xFFFF
            let isSet = place >> (7 - x & 7) & 1 != 0
            #expect(pixel(canvas, x, y) == color(isSet ? 0xF : 0), "\(x), \(y)")
        }
        // A store to the beginning is seen in the lines that have come round.
        #expect([(320, 0), (336, 257)].allSatisfy { pixel(canvas, $0.0, $0.1) == color(0) })
        vga.memory[planes: 0] = vga.memory[planes: 0] ^ 0x8080_8080
        vga.draw(on: &canvas)
        #expect([(320, 0), (336, 257)].allSatisfy { pixel(canvas, $0.0, $0.1) == color(0xF) })
    }

    @Test func `bytes of mode X end there too`() {
        write(0x3C4, [1: 1, 4: 6])
        write(0x3CE, [5: 0x40, 6: 5])
        write(0x3D4, [1: 79, 7: 0x1F, 9: 0x41, 0x12: 0x8F, 0x13: 40, 0x17: 0xE3, 0x18: 0xFF])
        write(0x3D4, [0xC: 0xFF, 0xD: 0xE0])
        for place in 0..<0x4_0000 { vga.memory[place] = UInt8(truncatingIfNeeded: place &* 7 >> 3) }
        for place in 0x4_0000..<0x5_0000 { vga.memory[place] = 0xEE }
        var canvas = ScreenCanvas(surface)
        vga.draw(on: &canvas)
        #expect(canvas.width == 320 && canvas.height == 200)
        for (x, y) in [(0, 0), (127, 0), (128, 0), (319, 0), (5, 1), (300, 199)] {
            let place = (0xFFE0 * 4 + y * 320 + x) & 0x3_FFFF
            let byte = UInt8(truncatingIfNeeded: place &* 7 >> 3)
            #expect(pixel(canvas, x, y) == color(Int(byte)), "\(x), \(y)")
        }
    }

    @Test(arguments: [4, 8, 15, 16, 24, 32] as [UInt32])
    func `the farthest corner of the largest virtual screen is memory that has come round`(bits: UInt32) {
        bochs([(4, 0), (1, 640), (2, 480), (3, bits), (4, 0x41), (6, 0xFFFF), (8, 0xFFFF), (9, 0xFFFF)])
        let bytes = Int(bits + 7) / 8, pitch = bits == 4 ? 0xFFFF / 2 : 0xFFFF * bytes
        let offset = bits == 4 ? 0xFFFF / 8 * 4 : 0xFFFF * bytes
        #expect(bits == 4 || (0xFFFF + 479) * pitch + offset > UInt32.max, "more than 32 bits can say")
        var canvas = ScreenCanvas(surface)
        vga.draw(on: &canvas)
        #expect(canvas.width == 640 && canvas.height == 480)
        #expect([(0, 0), (639, 479)].allSatisfy { pixel(canvas, $0.0, $0.1) == 0 }, "black")
        for y in [0, 1, 240, 479] {
            let place = (0xFFFF + y) * pitch + offset
            // White, in any of the modes; planes are left of their first dots.
            if bits == 4 {
                vga.memory[planes: place] = .max
            } else {
                for byte in 0..<bytes { vga.memory[place + byte] = 0xFF }
            }
        }
        vga.draw(on: &canvas)
        let white: UInt32 = bits == 4 ? color(0xF) : bits == 8 ? color(0xFF) : 0xFF_FFFF
        for y in [0, 1, 240, 479] { #expect(pixel(canvas, 0, y) == white, "line \(y)") }
        #expect(pixel(canvas, 100, 100) == 0)
    }

    // MARK: The link

    private func receive(_ socket: ScreenSocket) throws -> ScreenFrame? {
        guard try socket.descriptor.wait(forWriting: false, milliseconds: 10_000),
            case .message(let bytes) = socket.receive()
        else { return nil }
        return ScreenLink.frame(bytes)
    }

    @Test func `frames come when they are asked for, and keys go the other way`() throws {
        let (ours, theirs) = try Descriptor.socketPair(packets: true)
        let file = try Descriptor.sealedMemory("screen", size: UInt64(SurfaceMemory.fileSize))
        let taken = Mutex<[ScreenRequest]>([]), counter = try EventCounter()
        let output = try ScreenOutput(surface: file, link: theirs) { request in
            taken.withLock { $0.append(request) }
            counter.signal()
        }
        output.show([vga])
        try output.start()
        let viewer = try ScreenSocket(ours)
        bochs([(4, 0), (1, 64), (2, 48), (3, 32), (4, 0x41)])
        #expect(viewer.receive() == .nothing, "nobody asked")
        viewer.send(ScreenLink.bytes(.refresh(promptly: false)))
        #expect(try receive(viewer)?.damage == [ScreenRectangle(x: 0, y: 0, width: 64, height: 48)])
        // Nothing has changed, and who wants to know that is told.
        viewer.send(ScreenLink.bytes(.refresh(promptly: true)))
        #expect(try receive(viewer) == ScreenFrame(width: 64, height: 48, damage: []))
        viewer.send(ScreenLink.bytes(.refresh(promptly: false)))
        vga.memory[planes: (5 * 64 + 3) * 4] = 0x00AB_CDEF
        #expect(try receive(viewer)?.damage == [ScreenRectangle(x: 3, y: 5, width: 1, height: 1)])
        let reader = try SurfaceMemory(file, writable: false)
        var pixels: [UInt32] = [0]
        reader.read(5 * 64 + 3, count: 1, into: &pixels, at: 0)
        #expect(pixels == [0xABCDEF])
        viewer.send([99, 1, 2])
        let requests: [ScreenRequest] = [
            .key(0xC8, isDown: true),
            .move(ScreenMovement(right: -5, down: .max, wheel: 1, buttons: 3)),
            .move(ScreenMovement(right: 1, place: ScreenPlace(x: 1, y: .max))),
        ]
        for request in requests { viewer.send(ScreenLink.bytes(request)) }
        while taken.withLock({ $0.count }) < 3 {
            #expect(try counter.descriptor.wait(forWriting: false, milliseconds: 10_000))
            _ = counter.take()
        }
        #expect(taken.withLock { $0 } == requests)
    }

    /// An adapter of one colour that has the screen when it wants to.
    private final class Painter: ScreenSource {
        let state = Mutex((wants: false, size: [Int]()))
        var wantsScreen: Bool { state.withLock { $0.wants } }
        let takesSizes = true
        func requestSize(width: Int, height: Int) { state.withLock { $0.size = [width, height] } }
        func draw(on canvas: inout ScreenCanvas) {
            guard canvas.begin(width: 64, height: 48) else { return }
            for y in 0..<48 { canvas.put([UInt32](repeating: 0x77, count: 64), row: y) }
        }
    }

    @Test func `the first adapter that wants the screen has it, and hears of sizes`() throws {
        let (ours, theirs) = try Descriptor.socketPair(packets: true)
        let file = try Descriptor.sealedMemory("screen", size: UInt64(SurfaceMemory.fileSize))
        let painter = Painter(), hasTablet = Atomic(false), counter = try EventCounter()
        let output = try ScreenOutput(
            surface: file, link: theirs, takesPositions: { hasTablet.load(ordering: .relaxed) },
            input: { _ in counter.signal() })
        output.show([painter, vga])
        try output.start()
        let viewer = try ScreenSocket(ours)
        bochs([(4, 0), (1, 64), (2, 48), (3, 32), (4, 0x41)])
        let whole = ScreenRectangle(x: 0, y: 0, width: 64, height: 48)
        func frame() throws -> ScreenFrame? {
            viewer.send(ScreenLink.bytes(.refresh(promptly: true)))
            return try receive(viewer)
        }
        #expect(try frame() == ScreenFrame(width: 64, height: 48, damage: [whole]))
        painter.state.withLock { $0.wants = true }
        hasTablet.store(true, ordering: .relaxed)
        // Of the same size, and every pixel is another.
        #expect(
            try frame()
                == ScreenFrame(
                    width: 64, height: 48, damage: [whole], abilities: [.takesSizes, .takesPositions]))
        viewer.send(ScreenLink.bytes(.resize(width: 800, height: 600)))
        // Requests are taken in their order.
        viewer.send(ScreenLink.bytes(.key(1, isDown: true)))
        #expect(try counter.descriptor.wait(forWriting: false, milliseconds: 10_000))
        #expect(painter.state.withLock { $0.size } == [800, 600])
        painter.state.withLock { $0.wants = false }
        let back = try frame()
        #expect(back?.damage == [whole] && back?.abilities == .takesPositions)
        viewer.send(ScreenLink.bytes(.resize(width: 1, height: 1)))
        #expect(try frame() != nil)
        #expect(painter.state.withLock { $0.size } == [800, 600], "the VGA has the screen")
    }

    @Test func `a surface cannot be shrunk, nor written by who may only read`() throws {
        let file = try Descriptor.sealedMemory("screen", size: UInt64(SurfaceMemory.fileSize))
        #expect(throws: HostError.self) { try file.resize(to: 0) }
        let small = try Descriptor.memory("small", size: 4096)
        #expect(throws: HostError.self) { try SurfaceMemory(small, writable: false) }
        let readOnly = try file.reopenedForReading()
        #expect(throws: HostError.self) { try SurfaceMemory(readOnly, writable: true) }
    }
}
