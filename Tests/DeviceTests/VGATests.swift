import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import DisplayDevices
@testable import PCIBus

@Suite struct VGATests {
    private let bench = ChipsetBench()
    private let vga: VGA
    init() throws { vga = try VGA(bench.context, rom: [0x55, 0xAA]) }

    private func sequencer(_ index: UInt8, _ value: UInt8) {
        vga.output(0x3C4, index)
        vga.output(0x3C5, value)
    }
    private func graphics(_ index: UInt8, _ value: UInt8) {
        vga.output(0x3CE, index)
        vga.output(0x3CF, value)
    }
    private func controller(_ index: UInt8, _ value: UInt8) {
        vga.output(0x3D4, index)
        vga.output(0x3D5, value)
    }
    private func bochs(_ index: UInt32, _ value: UInt32) {
        vga.write(port: 0x1CE, width: .word, value: index)
        vga.write(port: 0x1CF, width: .word, value: value)
    }
    private func bochs(_ index: UInt32) -> UInt32 {
        vga.write(port: 0x1CE, width: .word, value: index)
        return vga.read(port: 0x1D0, width: .word) & 0xFFFF
    }
    private func store(_ offset: UInt64, _ value: UInt8) {
        vga.write(region: 0, offset: offset, width: .byte, value: UInt64(value))
    }
    private func load(_ offset: UInt64) -> UInt8 {
        UInt8(truncatingIfNeeded: vga.read(region: 0, offset: offset, width: .byte))
    }
    private func planes(_ index: Int) -> UInt32 { vga.memory[planes: index * 4] }

    /// Mode 3: 80 columns, 25 rows of 16 lines.
    private func setTextMode() {
        vga.output(0x3C2, 0x67)
        sequencer(2, 3)
        sequencer(4, 2)
        graphics(5, 0x10)
        graphics(6, 0x0E)
        for (index, value) in [(1, 79), (7, 0x1F), (9, 0x4F), (0x12, 0x8F), (0x13, 40)] as [(UInt8, UInt8)] {
            controller(index, value)
        }
    }

    @Test func `text that is stored at B8000h is on the screen`() throws {
        #expect(vga.textScreen == nil)
        setTextMode()
        for (index, byte) in "Hello, world!".utf8.enumerated() {
            vga.write(
                region: 0, offset: 0x1_8000 + UInt64(160 + 2 * index), width: .word,
                value: 0x1F00 | UInt64(byte))
        }
        store(0x1_8000, 0xDA)
        let screen = try #require(vga.textScreen)
        #expect(screen.columns == 80 && screen.rows.count == 25)
        #expect(screen.rows[0] == "┌" && screen.rows[1] == "Hello, world!" && screen.rows[2].isEmpty)
        #expect(screen.attributes[1][0] == 0x1F)
        #expect(load(0x1_8000 + 160) == 0x48 && load(0x1_8000 + 161) == 0x1F)
        // The screen begins one row later.
        controller(0x0C, 0)
        controller(0x0D, 80)
        #expect(vga.textScreen?.rows[0] == "Hello, world!")
        // The other windows are shut.
        #expect(load(0) == 0xFF && load(0x1_0000) == 0xFF)
    }

    @Test func `planes, set and reset, bit mask and rotation make a byte of each plane`() {
        vga.output(0x3C2, 0x01)
        sequencer(4, 6)
        graphics(6, 0x05)
        graphics(8, 0xFF)
        sequencer(2, 0x5)
        store(3, 0xA5)
        #expect(planes(3) == 0x00A5_00A5)
        // Write mode 0 with set/reset for plane 1, bits 3..0 only.
        sequencer(2, 0xF)
        graphics(0, 0x2)
        graphics(1, 0x2)
        graphics(8, 0x0F)
        _ = load(3)
        store(3, 0x33)
        #expect(planes(3) == 0x03A3_0FA3)
        // The logical function XOR, rotated by four.
        graphics(1, 0)
        graphics(8, 0xFF)
        graphics(3, 0x1C)
        _ = load(3)
        store(3, 0xF0)
        #expect(planes(3) == 0x0CAC_00AC)
    }

    @Test func `write modes 1, 2 and 3, and the colour compare of reads`() {
        vga.output(0x3C2, 0x01)
        sequencer(2, 0xF)
        sequencer(4, 6)
        graphics(6, 0x05)
        graphics(8, 0xFF)
        graphics(5, 2)
        store(0, 0x9)
        #expect(planes(0) == 0xFF00_00FF)
        graphics(5, 1)
        _ = load(0)
        store(1, 0x00)
        #expect(planes(1) == 0xFF00_00FF)
        graphics(5, 3)
        graphics(0, 0x6)
        store(1, 0x0F)
        #expect(planes(1) == 0xF00F_0FF0)
        graphics(5, 0x08)
        graphics(2, 0x9)
        graphics(7, 0xF)
        #expect(load(1) == 0xF0)
        graphics(7, 0)
        #expect(load(1) == 0xFF)
        graphics(5, 0)
        graphics(4, 1)
        #expect(load(1) == 0x0F)
    }

    @Test func `registers read as they were written, and protected ones stay`() {
        vga.output(0x3C2, 0x01)
        controller(0x00, 0x5F)
        controller(0x11, 0x8E)
        controller(0x00, 0x11)
        controller(0x07, 0xFF)
        vga.output(0x3D4, 0)
        #expect(vga.input(0x3D5) == 0x5F)
        vga.output(0x3D4, 7)
        #expect(vga.input(0x3D5) == 0x10)
        // The attribute controller: index and data through one port.
        _ = vga.input(0x3DA)
        vga.output(0x3C0, 0x10)
        vga.output(0x3C0, 0x41)
        vga.output(0x3C0, 0x10)
        #expect(vga.input(0x3C1) == 0x41)
        // Two looks at the status differ in the retrace.
        #expect(vga.input(0x3DA) ^ vga.input(0x3DA) == 9)
        // With monochrome emulation the ports of colour are nobody's.
        vga.output(0x3C2, 0x00)
        #expect(vga.input(0x3D5) == 0xFF && vga.input(0x3B5) == 0x10)
    }

    @Test func `the palette is written and read by threes`() {
        vga.output(0x3C8, 0xFF)
        for byte in [0x3F, 0x7F, 0x01, 0x02] as [UInt8] { vga.output(0x3C9, byte) }
        vga.output(0x3C7, 0xFF)
        #expect((0..<4).map { _ in vga.input(0x3C9) } == [0x3F, 0x3F, 0x01, 0x02])
    }

    @Test func `Bochs' registers set a mode, clear its memory and move its window`() {
        #expect(bochs(0) == 0xB0C5 && bochs(0x0A) == 256)
        vga.memory[5] = 1
        for (index, value) in [(4, 0), (1, 1027), (2, 768), (3, 32), (4, 0x41)] as [(UInt32, UInt32)] {
            bochs(index, value)
        }
        #expect(bochs(1) == 1024 && bochs(6) == 1024 && bochs(7) == 4096 && vga.memory[5] == 0)
        bochs(5, 3)
        store(0x10, 0x42)
        #expect(vga.memory[0x3_0010] == 0x42)
        bochs(5, 256)
        #expect(bochs(5) == 3, "there is no such bank")
        bochs(4, 2)
        #expect(bochs(1) == 16_000 && bochs(3) == 32)
        bochs(4, 0)
        bochs(1, 16_001)
        bochs(3, 7)
        #expect(bochs(1) == 1024 && bochs(3) == 32)
        bochs(4, 0xC1)
        #expect(vga.memory[0x3_0010] == 0x42, "the guest wanted to keep it")
    }

    @Test func `the BARs are video memory and the registers`() throws {
        let mmio = MMIOBus()
        let bridge = PCIHostBridge(context: bench.context, mmio: mmio, portBus: PortBus())
        let function = try #require(vga.function)
        bridge.insert(function, slot: 1)
        function.writeConfig(offset: 0x10, count: 4, value: 0xF000_0008)
        function.writeConfig(offset: 0x18, count: 4, value: 0xF100_0000)
        function.writeConfig(offset: 4, count: 2, value: 2)
        mmio.write(0xF000_1001, width: .qword, value: 0x0807_0605_0403_0201)
        #expect(vga.memory[0x1001] == 1 && vga.memory[0x1008] == 8)
        #expect(mmio.read(0xF000_1004, width: .dword) == 0x0706_0504)
        mmio.write(0xF0FF_FFFF, width: .byte, value: 9)
        #expect(mmio.read(0xF0FF_FFFE, width: .word) == 0x0900)
        #expect(mmio.read(0xF100_0500, width: .word) == 0xB0C5)
        mmio.write(0xF100_0502, width: .word, value: 640)
        #expect(bochs(1) == 640)
        mmio.write(0xF100_0402, width: .byte, value: 0x67)
        #expect(vga.input(0x3CC) == 0x67)
    }

    @Test func `its state survives with the pages of memory that are used`() throws {
        setTextMode()
        store(0x1_8000, 0x41)
        bochs(1, 800)
        vga.memory[0xFF_FFFF] = 7
        let saved = vga.save()
        #expect(saved.memory.map(\.number) == [0, 4095])
        let twin = try VGA(bench.context, rom: [0x55, 0xAA])
        twin.memory[0x5_0000] = 1
        try twin.restore(saved)
        #expect(twin.save() == saved && twin.textScreen?.rows[0] == "A" && twin.memory[0x5_0000] == 0)
        for damage in 0..<5 {
            var damaged = saved
            switch damage {
            case 0: damaged.registers.controller.removeLast()
            case 1: damaged.registers.paletteComponent = 3
            case 2: damaged.memory[0].bytes.removeLast()
            case 3: damaged.memory[0].number = 4096
            default: damaged.registers.bochs[1] = 65_535
            }
            #expect(throws: RestoreError.self, "damage \(damage)") { try twin.restore(damaged) }
        }
    }

    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `random registers and memory neither trap nor leave what cannot be drawn`(seed: UInt64) throws {
        var random = ChipsetRandom(seed: seed)
        for _ in 0..<30_000 {
            let port =
                random.chance(4) ? 0x1CE + UInt16(random.below(4)) : 0x3B0 + UInt16(random.below(0x30))
            let width = AccessWidth.allCases[random.below(3)]
            switch random.below(4) {
            case 0: _ = vga.read(port: port, width: width)
            case 1, 2: vga.write(port: port, width: width, value: UInt32(truncatingIfNeeded: random.value()))
            default:
                let width = AccessWidth.allCases[random.below(4)]
                let offset = UInt64(random.below(0x2_0000 - 8))
                vga.write(region: 0, offset: offset, width: width, value: random.value())
                _ = vga.read(region: 0, offset: offset, width: width)
            }
            if random.chance(500) { _ = vga.textScreen }
        }
        #expect(vga.registers.isSound)
        let twin = try VGA(bench.context, rom: [])
        try twin.restore(vga.save())
        #expect(twin.registers == vga.registers)
    }
}
