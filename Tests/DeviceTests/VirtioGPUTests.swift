import ByteLayout
import DeviceModel
import Foundation
import GuestMemory
import LinuxHost
import ScreenSurface
import Testing

@testable import DisplayDevices
@testable import PCIBus
@testable import Virtio
@testable import VirtioDevices

/// A virtio display with a driver that does what Linux's does, and a surface.
final class GPURig {
    static let request: UInt64 = 0x20_0000, answer: UInt64 = 0x28_0000, pages: UInt64 = 0x30_0000
    let bench: PCIBench
    let device: VirtioPCI<VirtioGPU>
    let driver: VirtioTestDriver
    let surface: SurfaceMemory
    private(set) var control: VirtioTestQueue
    private(set) var cursor: VirtioTestQueue
    var gpu: VirtioGPU { device.device }

    init(beside companion: VirtioCompanion? = nil, on bench: PCIBench? = nil) throws {
        self.bench = try bench ?? PCIBench()
        device = VirtioPCI(VirtioGPU(self.bench.context), beside: companion)
        self.bench.bridge.insert(device.function, slot: 4)
        try self.bench.assignResources()
        driver = VirtioTestDriver(self.bench, slot: 4)
        let queues = driver.start()
        (control, cursor) = (queues[0], queues[1])
        surface = try SurfaceMemory(
            Descriptor.sealedMemory("screen", size: UInt64(SurfaceMemory.fileSize)), writable: true)
    }

    func place(_ words: [UInt32], at address: UInt64 = request) {
        var bytes: [UInt8] = []
        for word in words { bytes.append(littleEndian: word) }
        try! bench.memory.write(bytes, at: GuestAddress(address))
    }

    /// Sends a command with an empty header; the answer.
    func send(_ command: GPUCommand, _ words: [UInt32], flags: UInt32 = 0, fence: UInt32 = 0) -> [UInt8] {
        place([command.rawValue, flags, fence, 0, 0, 0] + words)
        let length = UInt32(24 + words.count * 4)
        let used = control.send([.out(Self.request, length), .into(Self.answer, 2048)])
        let count = Int(used?.length ?? 0)
        return try! bench.memory.bytes(GuestAddress(Self.answer), count: count)
    }

    func type(_ command: GPUCommand, _ words: [UInt32]) -> GPUAnswer? {
        send(command, words).load(littleEndian: UInt32.self, at: 0).flatMap { GPUAnswer(rawValue: $0) }
    }

    func sendCursor(_ command: GPUCommand, x: UInt32, y: UInt32, _ words: [UInt32] = [0, 0, 0, 0]) {
        place([command.rawValue, 0, 0, 0, 0, 0, 0, x, y, 0] + words)
        #expect(cursor.send([.out(Self.request, 56)])?.length == 0)
    }

    /// A picture of the pixels in `pages`, which the guest shows.
    func show(_ id: UInt32 = 1, width: UInt32 = 64, height: UInt32 = 32, format: GPUFormat = .bgrx) {
        #expect(type(.createResource, [id, format.rawValue, width, height]) == .ok)
        #expect(type(.attachBacking, [id, 1, UInt32(Self.pages), 0, width * height * 4, 0]) == .ok)
        #expect(type(.setScanout, [0, 0, width, height, 0, id]) == .ok)
    }

    func paint(_ x: UInt32, _ y: UInt32, _ value: UInt32, width: UInt32 = 64) {
        try! bench.memory.store(value, at: GuestAddress(Self.pages + UInt64(4 * (y * width + x))))
    }

    func update(_ id: UInt32 = 1, _ part: [UInt32] = [0, 0, 64, 32], offset: UInt32 = 0) {
        #expect(type(.transferToHost, part + [offset, 0, id, 0]) == .ok)
        #expect(type(.flushResource, part + [id, 0]) == .ok)
    }

    func pixel(_ canvas: ScreenCanvas, _ x: Int, _ y: Int) -> UInt32 {
        var pixels: [UInt32] = [0]
        surface.read(y * canvas.width + x, count: 1, into: &pixels, at: 0)
        return pixels[0]
    }

    /// The same with the cursor over it.
    func shown(_ canvas: ScreenCanvas, _ x: Int, _ y: Int) -> UInt32 {
        var pixels = [pixel(canvas, x, y)]
        canvas.cursor?.blend(into: &pixels, of: ScreenRectangle(x: x, y: y, width: 1, height: 1))
        return pixels[0]
    }
}

@Suite struct VirtioGPUTests {
    let rig: GPURig
    init() throws { rig = try GPURig() }

    @Test func `there is one screen, and its monitor prefers the same size`() {
        let info = rig.send(.getDisplayInfo, [])
        #expect(info.count == 24 + 16 * 24 && info.gpuField(0) == 0x1101)
        #expect((0..<6).map { info.gpuField(24 + 4 * $0) } == [0, 0, 1280, 800, 1, 0])
        #expect(info[48...].allSatisfy { $0 == 0 })
        let answer = rig.send(.getEDID, [0, 0])
        #expect(answer.count == 24 + 8 + 1024 && answer.gpuField(0) == 0x1104 && answer.gpuField(24) == 128)
        #expect(Array(answer[32..<160]) == EDID(width: 1280, height: 800).bytes)
        #expect(rig.type(.getEDID, [1, 0]) == .invalidScanout)
        #expect(rig.driver.readConfig(8, .dword) == 1)
    }

    @Test(arguments: [(16, 16), (640, 480), (1280, 800), (1921, 1083), (4095, 4095)])
    func `a monitor's description adds up, whatever its size`(width: Int, height: Int) {
        let bytes = EDID(width: width, height: height).bytes
        #expect(bytes.count == 128 && bytes.reduce(0, &+) == 0)
        #expect(Array(bytes[..<8]) == [0, 255, 255, 255, 255, 255, 255, 0])
        // The first detailed timing.
        let timing = Array(bytes[54..<72])
        #expect(Int(timing[2]) | Int(timing[4] & 0xF0) << 4 == width)
        #expect(Int(timing[5]) | Int(timing[7] & 0xF0) << 4 == height)
        let clock = (Int(timing[0]) | Int(timing[1]) << 8) * 10_000
        let lines = (width + 160) * (height + 45)
        #expect(clock / lines <= 60 && clock / lines >= 25)
    }

    @Test func `what is transferred and flushed is drawn, and nothing else`() {
        rig.show()
        var canvas = ScreenCanvas(rig.surface)
        rig.gpu.draw(on: &canvas)
        #expect(canvas.width == 64 && canvas.height == 32 && rig.pixel(canvas, 3, 3) == 0)
        _ = canvas.takeFrame()
        rig.paint(3, 3, 0xFF12_3456)
        rig.paint(40, 20, 0x0065_4321)
        rig.gpu.draw(on: &canvas)
        #expect(canvas.takeFrame() == nil, "the guest said nothing")
        rig.update()
        rig.gpu.draw(on: &canvas)
        #expect(rig.pixel(canvas, 3, 3) == 0x12_3456 && rig.pixel(canvas, 40, 20) == 0x65_4321)
        _ = canvas.takeFrame()
        rig.paint(0, 0, 0x11)
        rig.paint(10, 5, 0x22)
        rig.update(1, [10, 5, 2, 2], offset: 4 * (5 * 64 + 10))
        rig.gpu.draw(on: &canvas)
        #expect(canvas.takeFrame()?.damage == [ScreenRectangle(x: 10, y: 5, width: 1, height: 1)])
    }

    @Test func `a screen that is a part of a picture shows that part`() {
        rig.show()
        rig.paint(20, 10, 0xABCDEF)
        #expect(rig.type(.setScanout, [16, 8, 32, 16, 0, 1]) == .ok)
        rig.update()
        var canvas = ScreenCanvas(rig.surface)
        rig.gpu.draw(on: &canvas)
        #expect(canvas.width == 32 && canvas.height == 16 && rig.pixel(canvas, 4, 2) == 0xABCDEF)
        _ = canvas.takeFrame()
        // A flush of what is not shown.
        rig.update(1, [0, 0, 16, 32])
        rig.gpu.draw(on: &canvas)
        #expect(canvas.takeFrame() == nil)
    }

    // swift-format-ignore
    @Test(arguments: [
        (.bgra, 0xFF11_2233), (.bgrx, 0x0011_2233), (.argb, 0x3322_11FF), (.xrgb, 0x3322_1100),
        (.rgba, 0xFF33_2211), (.rgbx, 0x0033_2211), (.abgr, 0x1122_33FF), (.xbgr, 0x1122_3300),
    ] as [(GPUFormat, UInt32)])
    func `every format has its colours`(format: GPUFormat, pixel: UInt32) {
        rig.show(format: format)
        rig.paint(1, 1, pixel)
        rig.update()
        var canvas = ScreenCanvas(rig.surface)
        rig.gpu.draw(on: &canvas)
        #expect(rig.pixel(canvas, 1, 1) == 0x11_2233)
    }

    @Test func `pieces of any length and order make up a picture`() {
        #expect(rig.type(.createResource, [7, GPUFormat.bgrx.rawValue, 16, 4]) == .ok)
        // Bytes 0 to 2, 3 to 130, and the rest, from three places.
        let pages = UInt32(GPURig.pages)
        let entries: [UInt32] = [
            pages + 0x5001, 0, 3, 0, pages, 0, 0, 0, pages + 0x103, 0, 128, 0, pages + 0x3000, 0, 125, 0,
        ]
        #expect(rig.type(.attachBacking, [7, 4] + entries) == .ok)
        let bytes = (0..<256).map { UInt8($0) }
        try! rig.bench.memory.write(Array(bytes[..<3]), at: GuestAddress(UInt64(pages) + 0x5001))
        try! rig.bench.memory.write(Array(bytes[3..<131]), at: GuestAddress(UInt64(pages) + 0x103))
        try! rig.bench.memory.write(Array(bytes[131...]), at: GuestAddress(UInt64(pages) + 0x3000))
        #expect(rig.type(.setScanout, [0, 0, 16, 4, 0, 7]) == .ok)
        rig.update(7, [0, 0, 16, 4])
        var canvas = ScreenCanvas(rig.surface)
        rig.gpu.draw(on: &canvas)
        for place in 0..<64 {
            let expected = UInt32(4 * place) | UInt32(4 * place + 1) << 8 | UInt32(4 * place + 2) << 16
            #expect(rig.pixel(canvas, place % 16, place / 16) == expected)
        }
    }

    @Test func `fences come back, and other flags do not`() {
        let answer = rig.send(.getDisplayInfo, [], flags: 0xFFFF_FFFF, fence: 0x1234)
        #expect(answer.gpuField(4) == 1 && answer.gpuField(8) == 0x1234)
        let plain = rig.send(.getDisplayInfo, [], fence: 0x1234)
        #expect(plain.gpuField(4) == 0 && plain.gpuField(8) == 0)
    }

    // swift-format-ignore
    @Test(arguments: [
        (.createResource, [0, 2, 8, 8], .invalidResource), (.createResource, [1, 2, 8, 8], .invalidResource),
        (.createResource, [2, 5, 8, 8], .invalidParameter),
        (.createResource, [2, 2, 0, 8], .invalidParameter),
        (.createResource, [2, 2, 0x8000_0000, 2], .invalidParameter),
        (.createResource, [2, 2, .max, .max], .invalidParameter),
        (.createResource, [2, 2, 16_384, 16_384], .invalidParameter),
        (.unrefResource, [9, 0], .invalidResource), (.detachBacking, [9, 0], .invalidResource),
        (.attachBacking, [1, 1, 0, 0, 4096, 0], .unspecified),
        (.attachBacking, [9, 1, 0, 0, 4096, 0], .invalidResource),
        (.attachBacking, [1, 0], .invalidParameter), (.attachBacking, [1, .max], .invalidParameter),
        (.attachBacking, [1, 2, 0, 0, 4096, 0], .invalidParameter),
        (.setScanout, [0, 0, 64, 32, 1, 1], .invalidScanout),
        (.setScanout, [0, 0, 64, 32, 0, 9], .invalidResource),
        (.setScanout, [0, 0, 65, 32, 0, 1], .invalidParameter),
        (.setScanout, [1, 0, .max, 32, 0, 1], .invalidParameter),
        (.setScanout, [0, 0, 0, 0, 0, 1], .invalidParameter),
        (.flushResource, [0, 1, 64, 32, 1, 0], .invalidParameter),
        (.flushResource, [0, 0, 1, 1, 0, 0], .invalidResource),
        (.transferToHost, [0, 0, 64, 32, 1, 0, 1, 0], .invalidParameter),
        (.transferToHost, [0, 0, 64, 32, 0, 1, 1, 0], .invalidParameter),
        (.transferToHost, [0, 0, 64, 32, .max, .max, 1, 0], .invalidParameter),
        (.transferToHost, [.max, .max, .max, .max, 0, 0, 1, 0], .invalidParameter),
        (.transferToHost, [0, 0, 1, 1, 0, 0, 9, 0], .invalidResource),
        (.transferToHost, [], .invalidResource), (.createResource, [], .invalidResource),
        (.updateCursor, [0], .unspecified),
    ] as [(GPUCommand, [UInt32], GPUAnswer)])
    func `what cannot be is answered with an error, and changes nothing`(
        command: GPUCommand, words: [UInt32], answer: GPUAnswer
    ) {
        rig.show()
        rig.paint(5, 5, 0x77)
        rig.update()
        let before = rig.gpu.save()
        #expect(rig.type(command, words) == answer)
        #expect(rig.gpu.save() == before && !rig.driver.needsReset)
    }

    @Test func `backing must be memory`() {
        #expect(rig.type(.createResource, [1, 2, 64, 64]) == .ok)
        for (low, high, length) in [
            (UInt32(PCIBench.ramSize - 4096), 0, 8192), (0xD000_0000, 0, 4096), (.max, .max, .max),
            (0, 9, 16),
        ] as [(UInt32, UInt32, UInt32)] {
            #expect(rig.type(.attachBacking, [1, 1, low, high, length, 0]) == .invalidParameter)
        }
    }

    @Test func `requests that are cut off and answers without room harm nobody`() {
        rig.place([GPUCommand.getDisplayInfo.rawValue, 0, 0, 0, 0, 0])
        #expect(rig.control.send([.out(GPURig.request, 3), .into(GPURig.answer, 64)])?.length == 24)
        #expect(rig.control.send([.out(GPURig.request, 24), .into(GPURig.answer, 10)])?.length == 10)
        #expect(rig.control.send([.out(GPURig.request, 24)])?.length == 0)
        #expect(rig.control.send([.into(GPURig.answer, 64)])?.length == 24)
        #expect(rig.cursor.send([.into(GPURig.answer, 64)])?.length == 0)
        #expect(!rig.driver.needsReset)
    }

    @Test func `a guest cannot make more pictures than the host gives memory to`() {
        // 64 MiB each.
        for id in 1...4 as ClosedRange<UInt32> {
            #expect(rig.type(.createResource, [id, 1, 4096, 4096]) == .ok)
        }
        #expect(rig.type(.createResource, [5, 1, 1, 1]) == .outOfMemory)
        #expect(rig.type(.unrefResource, [2, 0]) == .ok)
        #expect(rig.type(.createResource, [5, 1, 1, 1]) == .ok)
        rig.gpu.reset()
        for id in 1...UInt32(GPUState.mostResources) {
            guard rig.type(.createResource, [id, 1, 1, 1]) == .ok else {
                Issue.record("no picture \(id)")
                return
            }
        }
        #expect(rig.type(.createResource, [99_999, 1, 1, 1]) == .outOfMemory)
    }

    @Test func `a turn that moves much is followed by another`() {
        rig.show(1, width: 2048, height: 1024)
        rig.place([GPUCommand.transferToHost.rawValue, 0, 0, 0, 0, 0, 0, 0, 2048, 1024, 0, 0, 1, 0])
        for _ in 0..<8 { rig.control.add([.out(GPURig.request, 56), .into(GPURig.answer, 24)]) }
        rig.control.kick()
        // 8 MiB each: all in one turn; then more than that.
        var done = 0
        while rig.control.poll() != nil { done += 1 }
        #expect(done == 8)
        for turn in 0..<3 {
            for _ in 0..<4 { rig.control.add([.out(GPURig.request, 56), .into(GPURig.answer, 24)]) }
            if turn == 2 { rig.control.kick() }
        }
        while rig.control.poll() != nil { done += 1 }
        #expect(done == 16, "64 MiB and no more")
        rig.bench.clock.fireTimers()
        while rig.control.poll() != nil { done += 1 }
        #expect(done == 20)
    }

    @Test func `another size is told by the configuration, the screen and the monitor`() {
        _ = rig.bench.interrupts.take()
        let generation = rig.driver.read(CommonRegister.configGeneration, .byte)
        #expect(rig.gpu.takesSizes)
        rig.gpu.requestSize(width: 1000, height: 700)
        #expect(rig.bench.interrupts.take().map(\.data) == [0x40])
        #expect(rig.driver.readConfig(0, .dword) == 1)
        #expect(rig.driver.read(CommonRegister.configGeneration, .byte) != generation)
        rig.bench.mmio.write(rig.driver.device.address + 4, width: .dword, value: 1)
        #expect(rig.driver.readConfig(0, .dword) == 0)
        #expect((2..<4).map { rig.send(.getDisplayInfo, []).gpuField(24 + 4 * $0) } == [1000, 700])
        #expect(Array(rig.send(.getEDID, [0, 0])[32..<160]) == EDID(width: 1000, height: 700).bytes)
        // The same again is no news, and what cannot be is cut.
        _ = rig.bench.interrupts.take()
        rig.gpu.requestSize(width: 1000, height: 700)
        #expect(rig.bench.interrupts.take().isEmpty)
        rig.gpu.requestSize(width: 0, height: .max)
        #expect((2..<4).map { rig.send(.getDisplayInfo, []).gpuField(24 + 4 * $0) } == [16, 4095])
        // A wish outlives the driver.
        rig.device.reset()
        #expect(!rig.gpu.takesSizes && rig.gpu.save().state.width == 16)
    }

    @Test func `the screen is the display's while a picture is set`() {
        #expect(!rig.gpu.wantsScreen)
        rig.show()
        #expect(rig.gpu.wantsScreen)
        #expect(rig.type(.setScanout, [0, 0, 0, 0, 0, 0]) == .ok)
        #expect(!rig.gpu.wantsScreen)
        #expect(rig.type(.setScanout, [0, 0, 64, 32, 0, 1]) == .ok)
        #expect(rig.type(.unrefResource, [1, 0]) == .ok)
        #expect(!rig.gpu.wantsScreen)
        rig.show()
        rig.driver.deviceStatus = 0
        #expect(!rig.gpu.wantsScreen)
    }

    // MARK: Cursor

    /// A cursor that is red and half transparent, and white at its hot spot (2, 1).
    private func makeCursor(_ format: GPUFormat = .bgra) {
        #expect(rig.type(.createResource, [9, format.rawValue, 64, 64]) == .ok)
        #expect(rig.type(.attachBacking, [9, 1, UInt32(GPURig.pages) + 0x8000, 0, 64 * 64 * 4, 0]) == .ok)
        for place in 0..<64 * 64 as Range<UInt64> {
            let value: UInt32 = place == 66 ? 0xFFFF_FFFF : 0x8080_0000
            try! rig.bench.memory.store(value, at: GuestAddress(GPURig.pages + 0x8000 + 4 * place))
        }
        #expect(rig.type(.transferToHost, [0, 0, 64, 64, 0, 0, 9, 0]) == .ok)
    }

    /// Linux's driver makes cursors in a format that has no alpha, and means alpha.
    @Test(arguments: [GPUFormat.bgra, .bgrx])
    func `the cursor lies over the picture, and leaves it as it was`(format: GPUFormat) {
        rig.show()
        rig.paint(10, 10, 0x0000_00FF)
        rig.update()
        makeCursor(format)
        rig.sendCursor(.updateCursor, x: 10, y: 10, [9, 2, 1, 0])
        var canvas = ScreenCanvas(rig.surface)
        rig.gpu.draw(on: &canvas)
        let first = canvas.takeFrame()
        #expect(first?.cursor?.hotX == 2 && first?.cursor?.hotY == 1 && first?.cursor?.left == 10)
        #expect(rig.pixel(canvas, 10, 10) == 0xFF, "it is no part of the picture")
        #expect(rig.shown(canvas, 12, 11) == 0xFF_FFFF && rig.shown(canvas, 10, 10) == 0x80_007F)
        #expect(rig.shown(canvas, 9, 10) == 0)
        rig.sendCursor(.moveCursor, x: 11, y: 10)
        rig.gpu.draw(on: &canvas)
        let moved = canvas.takeFrame()
        #expect(moved?.damage == [] && moved?.cursor?.left == 11)
        #expect(moved?.cursor?.shape == first?.cursor?.shape)
        #expect(rig.shown(canvas, 13, 11) == 0xFF_FFFF && rig.shown(canvas, 10, 10) == 0xFF)
        #expect(rig.shown(canvas, 12, 11) == 0x80_0000)
        // A driver's hot spot may be anywhere.
        rig.sendCursor(.updateCursor, x: 0x8000_0000, y: 11, [9, 0xFFFF_FFFF, 64, 0])
        rig.gpu.draw(on: &canvas)
        let far = canvas.takeFrame()
        #expect(far?.cursor?.hotX == 63 && far?.cursor?.hotY == 63)
        #expect(far.flatMap { ScreenLink.frame(ScreenLink.bytes($0)) }?.cursor?.left == -32768)
        rig.sendCursor(.updateCursor, x: 11, y: 10, [9, 2, 1, 0])
        // Half outside, and far outside.
        rig.sendCursor(.moveCursor, x: UInt32(bitPattern: -32), y: UInt32(bitPattern: -63))
        rig.gpu.draw(on: &canvas)
        #expect(rig.shown(canvas, 0, 0) == 0x80_0000 && rig.shown(canvas, 31, 0) == 0x80_0000)
        #expect(rig.shown(canvas, 32, 0) == 0 && rig.shown(canvas, 0, 1) == 0)
        for far in [0x7FFF_FFFF, 0x8000_0000, 64] as [UInt32] {
            rig.sendCursor(.moveCursor, x: far, y: far)
            rig.gpu.draw(on: &canvas)
            #expect(rig.shown(canvas, 0, 0) == 0)
        }
        rig.sendCursor(.moveCursor, x: 10, y: 10)
        rig.sendCursor(.updateCursor, x: 0, y: 0, [0, 0, 0, 0])
        rig.gpu.draw(on: &canvas)
        #expect(rig.shown(canvas, 12, 11) == 0 && rig.shown(canvas, 10, 10) == 0xFF)
        #expect(canvas.takeFrame()?.cursor == nil)
        // Of another size, of nothing, of another screen.
        for words in [[1, 0, 0, 0], [77, 0, 0, 0]] as [[UInt32]] {
            rig.sendCursor(.updateCursor, x: 1, y: 1, words)
            #expect(rig.gpu.save().state.cursor == nil)
        }
    }

    // MARK: Saved state

    private func copy(_ saved: VirtioGPU.Saved) throws -> VirtioGPU.Saved {
        try JSONDecoder().decode(VirtioGPU.Saved.self, from: JSONEncoder().encode(saved))
    }

    @Test func `a restored picture comes from the guest's memory, and from the state where it has none`()
        throws
    {
        rig.show()
        rig.paint(4, 4, 0x123456)
        rig.update()
        makeCursor()
        rig.sendCursor(.updateCursor, x: 40, y: 20, [9, 0, 0, 0])
        #expect(rig.type(.createResource, [3, GPUFormat.rgbx.rawValue, 8, 8]) == .ok)
        let other = try GPURig()
        let pages = GuestAddress(GPURig.pages)
        try other.bench.memory.write(rig.bench.memory.bytes(pages, count: 1 << 16), at: pages)
        try other.gpu.restore(try copy(rig.gpu.save()))
        #expect(other.gpu.save() == rig.gpu.save() && other.gpu.wantsScreen)
        var before = ScreenCanvas(rig.surface), after = ScreenCanvas(other.surface)
        rig.gpu.draw(on: &before)
        other.gpu.draw(on: &after)
        for place in 0..<64 * 32 {
            #expect(rig.pixel(before, place % 64, place / 64) == other.pixel(after, place % 64, place / 64))
        }
        #expect(rig.type(.detachBacking, [1, 0]) == .ok)
        rig.paint(4, 4, 0x99)
        try other.gpu.restore(try copy(rig.gpu.save()))
        #expect(other.gpu.save() == rig.gpu.save())
        other.gpu.draw(on: &after)
        #expect(other.pixel(after, 4, 4) == 0x12_3456)
    }

    @Test(arguments: [
        ("\"width\":64", "\"width\":0"), ("\"height\":32", "\"height\":4000000000"), ("\"id\":1", "\"id\":0"),
        ("\"id\":9", "\"id\":1"), ("\"resource\":1", "\"resource\":5"), ("\"x\":0", "\"x\":1"),
        ("\"address\":3145728", "\"address\":3204448256"),
        ("\"count\":8192", "\"count\":18446744073709551615"),
        ("\"width\":1280", "\"width\":1"),
    ])
    func `a state that no guest can have made is refused`(part: String, replacement: String) throws {
        rig.show()
        rig.update()
        makeCursor()
        let text = String(decoding: try JSONEncoder().encode(rig.gpu.save()), as: UTF8.self)
        let bad = text.replacingOccurrences(of: part, with: replacement)
        try #require(bad != text, "\(text)")
        let saved = try JSONDecoder().decode(VirtioGPU.Saved.self, from: Data(bad.utf8))
        #expect(throws: RestoreError.self) { try rig.gpu.restore(saved) }
    }

    // MARK: With a VGA

    @Test func `a display with a VGA is one function that answers as both`() throws {
        let bench = try PCIBench()
        let vga = try VGA(bench.context, rom: [0x55, 0xAA, 1], hasFunction: false)
        let both = try GPURig(
            beside: VirtioCompanion(
                classCode: VGA.classCode, bars: VGA.bars, rom: [0x55, 0xAA, 1], handler: vga.handler),
            on: bench)
        #expect(bench.readConfig(4, 0) == 0x1050_1AF4 && bench.readConfig(4, 8) >> 8 == 0x03_00_00)
        let memory = UInt64(bench.readConfig(4, 0x10) & ~0xF)
        bench.mmio.write(memory + 0x1234, width: .dword, value: 0xCAFE_BABE)
        #expect(bench.mmio.read(memory + 0x1234, width: .dword) == 0xCAFE_BABE)
        #expect(vga.memory[0x1234] == 0xBE)
        let registers = UInt64(bench.readConfig(4, 0x18) & ~0xF)
        #expect(bench.mmio.read(registers + 0x500, width: .word) & 0xFFF0 == 0xB0C0, "Bochs' identifier")
        both.show()
        #expect(both.gpu.wantsScreen)
        let saved = vga.save()
        try vga.restore(saved)
        let alone = try VGA(bench.context, rom: [])
        #expect(throws: RestoreError.self) { try alone.restore(saved) }
    }
}
