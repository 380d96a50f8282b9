import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import PCIBus
@testable import Q35Chipset

/// The chipset's bridges on buses of their own, over a megabyte of memory and a firmware of 128 KiB.
private final class ChipsetBoard {
    let memory: GuestMemory
    let mmio = MMIOBus(), ports = PortBus()
    let shadow: ShadowMemory
    let bridge: PCIHostBridge
    let isa: LPCBridge

    init() throws {
        memory = try GuestMemory([
            .init(start: 0, size: 0xA_0000, kind: .ram), .init(start: 0xC_0000, size: 0x14_0000, kind: .ram),
        ])
        let clock = FakeClock(now: 0), sink = RecordingInterruptSink()
        let context = DeviceContext(
            memory: memory, clock: clock, msi: RecordingMSITarget(), lines: sink, report: { _ in })
        shadow = ShadowMemory(memory, firmware: (0..<0x2_0000).map { UInt8(truncatingIfNeeded: $0 >> 8) })
        bridge = MemoryControllerHub.makeBridge(
            context: context, mmio: mmio, portBus: ports, shadow: shadow)
        isa = LPCBridge(context, mmio: mmio)
        bridge.insert(isa.function, slot: LPCBridge.slot)
        reset()
    }

    func reset() {
        shadow.reset()
        bridge.reset()
        isa.reset()
    }

    func byte(_ address: UInt64) -> UInt8 {
        (try? memory.load(UInt8.self, at: GuestAddress(address))) ?? 0
    }
    func set(_ address: UInt64, _ value: UInt8) { try? memory.store(value, at: GuestAddress(address)) }
    /// PAM register `index`.
    func allow(_ index: Int, _ value: UInt8) {
        bridge.bridge.writeConfig(offset: 0x90 + index, count: 1, value: UInt32(value))
    }
}

@Suite struct Q35Tests {
    private let board: ChipsetBoard
    init() throws { board = try ChipsetBoard() }

    @Test func `after a reset the end of the firmware is below one megabyte, and nothing before it`() {
        #expect(board.byte(0xC_0000) == 0xFF && board.byte(0xD_FFFF) == 0xFF)
        #expect(board.byte(0xE_0100) == 0x01 && board.byte(0xF_FFFF) == 0xFF && board.byte(0xF_FF00) == 0xFF)
        #expect(board.byte(0xF_0000) == 0x00 && board.byte(0xE_FF00) == 0xFF)
    }

    @Test func `a segment that becomes RAM shows the RAM's own bytes, also after it showed the bus`() {
        board.allow(0, 0x30)
        #expect(board.byte(0xF_1234) == 0)
        board.set(0xF_1234, 0x5A)
        board.allow(0, 0x00)
        #expect(board.byte(0xF_1234) == 0x12)
        // Not to be seen again.
        board.set(0xF_1234, 0x77)
        board.allow(0, 0x10)
        #expect(board.byte(0xF_1234) == 0x5A)
        #expect(board.byte(0xE_FF00) == 0xFF, "its neighbour did not change")
    }

    @Test func `a firmware that copies itself in place finds itself in RAM`() {
        board.allow(6, 0x20)
        #expect(board.byte(0xE_C300) == 0xC3 && board.byte(0xE_8100) == 0x81)
        for address in 0xE_C000..<0xF_0000 as Range<UInt64> { board.set(address, board.byte(address)) }
        board.allow(6, 0x10)
        #expect(board.byte(0xE_C300) == 0xC3)
    }

    @Test(arguments: 0..<12)
    func `each half of a register governs its segment alone`(segment: Int) {
        let start = 0xC_0000 + UInt64(segment) * 0x4000
        board.allow(1 + segment / 2, segment % 2 == 0 ? 0x03 : 0x30)
        for other in 0..<12 {
            let address = 0xC_0000 + UInt64(other) * 0x4000 + 0x100
            let bus: UInt8 = other < 8 ? 0xFF : UInt8((address - 0xE_0000) >> 8)
            #expect(board.byte(address) == (other == segment ? 0 : bus))
        }
        #expect(board.byte(start) == 0)
    }

    @Test func `a reset shows the firmware again as it was`() {
        board.set(0xF_2000, 1)
        board.reset()
        #expect(board.byte(0xF_2000) == 0x20)
        board.allow(0, 0x30)
        board.reset()
        #expect(board.byte(0xF_2000) == 0x20)
    }

    @Test func `what is shown and hidden survives`() throws {
        board.allow(0, 0x30)
        board.set(0xF_0005, 9)
        board.allow(0, 0)
        board.allow(1, 0x33)
        let twin = try ChipsetBoard()
        try twin.memory.write(
            board.memory.bytes(GuestAddress(0xC_0000), count: 0x4_0000), at: GuestAddress(0xC_0000))
        try twin.shadow.restore(board.shadow.save())
        try twin.bridge.restore(board.bridge.save())
        #expect(twin.byte(0xF_0500) == 5 && twin.byte(0xC_0000) == 0)
        twin.allow(0, 0x10)
        #expect(twin.byte(0xF_0005) == 9)
        var damaged = board.shadow.save()
        damaged.hidden[12] = [1, 2, 3]
        #expect(throws: RestoreError.self) { try twin.shadow.restore(damaged) }
        damaged = board.shadow.save()
        damaged.modes[3] = 7
        #expect(throws: RestoreError.self) { try twin.shadow.restore(damaged) }
    }

    // MARK: The bridges

    @Test(
        arguments: [
            (0xB000_0001, 0, 0xB000_0000, 256), (0xE800_0003, 0, 0xE800_0000, 128),
            (0xBC00_0005, 0, 0xBC00_0000, 64), (0xB400_0001, 0xF, 0xF_B000_0000, 256),
        ] as [(UInt32, UInt32, UInt64, UInt64)])
    func `ECAM is where the register says`(low: UInt32, high: UInt32, start: UInt64, buses: UInt64) {
        board.bridge.bridge.writeConfig(offset: 0x64, count: 4, value: high)
        board.bridge.bridge.writeConfig(offset: 0x60, count: 4, value: low)
        #expect(board.bridge.ecamWindow == start..<start + buses << 20)
        #expect(board.mmio.read(start, width: .dword) == 0x29C0_8086)
        #expect(board.mmio.read(start + 31 << 15, width: .dword) == 0x2918_8086)
        board.bridge.bridge.writeConfig(offset: 0x60, count: 4, value: low & ~1)
        #expect(board.mmio.read(start, width: .dword) == 0xFFFF_FFFF)
    }

    @Test func `after a reset, and with a reserved size, there is no ECAM`() {
        #expect(board.bridge.ecamWindow == nil)
        board.bridge.bridge.writeConfig(offset: 0x60, count: 4, value: 0xB000_0007)
        #expect(board.bridge.ecamWindow == nil)
        board.bridge.bridge.writeConfig(offset: 0x60, count: 4, value: 0xB000_0001)
        board.reset()
        #expect(board.bridge.ecamWindow == nil && board.mmio.read(0xB000_0000, width: .word) == 0xFFFF)
    }

    @Test func `the root complex registers are where the ISA bridge says`() {
        board.isa.function.writeConfig(offset: 0xF0, count: 4, value: 0xFED1_C001)
        #expect(board.mmio.read(0xFED1_C000 + 0x3410, width: .dword) == 0x20)
        board.isa.function.writeConfig(offset: 0xF0, count: 4, value: 0xFED2_0000)
        #expect(board.mmio.read(0xFED1_C000 + 0x3410, width: .dword) == 0xFFFF_FFFF)
        #expect(board.isa.function.readConfig(offset: 0x60, count: 4) == 0x8080_8080)
        board.isa.function.writeConfig(offset: 0x60, count: 1, value: 0x0A)
        #expect(board.isa.function.readConfig(offset: 0x60, count: 4) == 0x8080_800A)
    }

    @Test func `an expansion ROM is sized, shown and switched off`() {
        let rom = (0..<5000).map { UInt8(truncatingIfNeeded: $0) }
        let layout = PCIFunctionLayout(
            identity: PCIIdentity(vendor: 1, device: 2, classCode: 0x03_00_00), rom: rom)
        let function = PCIFunction(
            layout, interrupts: PCIInterrupts(vectors: 0, target: RecordingMSITarget()),
            handler: RootComplexRegisters(board.mmio))
        board.bridge.insert(function, slot: 3)
        function.writeConfig(offset: 0x30, count: 4, value: ~0)
        #expect(function.readConfig(offset: 0x30, count: 4) == 0xFFFF_E001)
        function.writeConfig(offset: 0x30, count: 4, value: 0xF000_0001)
        #expect(board.mmio.read(0xF000_0000, width: .byte) == 0xFF)
        function.writeConfig(offset: 4, count: 2, value: 2)
        #expect(board.mmio.read(0xF000_0001, width: .dword) == 0x0403_0201)
        #expect(board.mmio.read(0xF000_0000 + 4998, width: .dword) == 0xFFFF_8786)
        board.mmio.write(0xF000_0001, width: .dword, value: 0)
        #expect(board.mmio.read(0xF000_0001, width: .dword) == 0x0403_0201)
        function.writeConfig(offset: 0x30, count: 4, value: 0xF000_0000)
        #expect(board.mmio.read(0xF000_0001, width: .dword) == 0xFFFF_FFFF)
    }
}
