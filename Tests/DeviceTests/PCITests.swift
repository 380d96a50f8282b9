import DeviceModel
import PCIBus
import Testing

@Suite struct PCITests {
    let bench: PCIBench
    let function: PCIFunction
    let registers = BenchRegisters()
    let interrupts: PCIInterrupts
    static let slot = 3

    init() throws {
        bench = try PCIBench()
        interrupts = PCIInterrupts(vectors: 5, target: bench.interrupts)
        function = PCIFunction(.bench, interrupts: interrupts, handler: registers)
        bench.bridge.insert(function, slot: Self.slot)
    }

    @Test func `functions show who they are through both mechanisms`() {
        #expect(bench.readConfig(0, 0) == 0x0008_1B36)
        #expect(bench.readConfig(Self.slot, 0) == 0x5678_1234)
        #expect(bench.mmio.read(PCIBench.ecam(Self.slot, 0), width: .dword) == 0x5678_1234)
        #expect(bench.mmio.read(PCIBench.ecam(Self.slot, 8), width: .dword) == 0x0200_0007)
        #expect(bench.mmio.read(PCIBench.ecam(Self.slot, 0), width: .qword) & 0xFFFF_FFFF == 0x5678_1234)
    }

    @Test(arguments: [(1, 0), (31, 7), (3, 1)])
    func `absent functions read as ones and ignore writes`(slot: Int, number: Int) {
        bench.writeConfig(slot, 4, 0xFFFF, function: number)
        #expect(bench.readConfig(slot, 0, function: number) == ~0)
        #expect(bench.mmio.read(PCIBench.ecam(slot, 0, function: number), width: .dword) == 0xFFFF_FFFF)
    }

    @Test func `absent buses and a switched-off address register read as ones`() {
        bench.portBus.write(port: 0xCF8, width: .dword, value: 0x8001_0000)
        #expect(bench.portBus.read(port: 0xCFC, width: .dword) == ~0)
        bench.portBus.write(port: 0xCF8, width: .dword, value: 0)
        #expect(bench.portBus.read(port: 0xCFC, width: .dword) == ~0)
        #expect(bench.mmio.read(PCIHostBridge.ecamAddress + (1 << 20), width: .dword) == 0xFFFF_FFFF)
        #expect(
            bench.mmio.read(PCIHostBridge.ecamAddress + PCIHostBridge.ecamSize - 4, width: .dword)
                == 0xFFFF_FFFF)
    }

    @Test func `the address register takes whole dwords only`() {
        bench.portBus.write(port: 0xCF8, width: .dword, value: 0xFFFF_FFFF)
        #expect(bench.portBus.read(port: 0xCF8, width: .dword) == 0x80FF_FFFC)
        bench.portBus.write(port: 0xCF8, width: .byte, value: 0)
        #expect(bench.portBus.read(port: 0xCF8, width: .dword) == 0x80FF_FFFC)
        #expect(bench.portBus.read(port: 0xCF8, width: .word) == 0xFFFF)
    }

    @Test func `accesses of every width and alignment see the same bytes`() {
        let image = (0..<256).map { UInt64(bench.mmio.read(PCIBench.ecam(Self.slot, $0), width: .byte)) }
        for offset in 0..<256 {
            for width in AccessWidth.allCases {
                let wanted = (0..<width.bytes).reduce(UInt64(0)) { value, byte in
                    value | (offset + byte < 256 ? image[offset + byte] : 0xFF) << UInt64(8 * byte)
                }
                #expect(bench.mmio.read(PCIBench.ecam(Self.slot, offset), width: width) == wanted)
            }
        }
        // Through the data ports an access ends at port 0xCFF.
        bench.portBus.write(port: 0xCF8, width: .dword, value: 0x8000_0000 | UInt32(Self.slot << 11))
        #expect(bench.portBus.read(port: 0xCFE, width: .dword) == 0xFFFF_5678)
        #expect(bench.portBus.read(port: 0xCFF, width: .word) == 0xFF56)
    }

    @Test func `a straddling write changes the bytes that are writable`() {
        bench.mmio.write(PCIBench.ecam(Self.slot, 0x3A), width: .dword, value: 0xAABB_CCDD)
        #expect(function.readConfig(offset: 0x3C, count: 1) == 0xBB)
        #expect(function.readConfig(offset: 0x3D, count: 1) == 1)
        bench.mmio.write(PCIBench.ecam(Self.slot, 0xFE), width: .qword, value: ~0)
        bench.mmio.write(PCIBench.ecam(Self.slot, 0xFFF), width: .qword, value: ~0)
        #expect(function.readConfig(offset: 0xFC, count: 4) == 0)
    }

    @Test func `sizing a BAR shows its size and type`() {
        for bar in 0..<6 { bench.writeConfig(Self.slot, 0x10 + 4 * bar, ~0) }
        let bars = (0..<6).map { bench.readConfig(Self.slot, 0x10 + 4 * $0) }
        #expect(bars == [0xFFFF_FFE1, 0xFFFF_C000, 0xFFF0_000C, 0xFFFF_FFFF, 0, 0])
    }

    @Test func `identity, pointers and capability headers are read-only`() {
        let before = (0..<64).map { function.readConfig(offset: 4 * $0, count: 4) }
        for offset in [0, 8, 0x2C, 0x30, 0x34, 0x40, 0x44, 0x48] { bench.writeConfig(Self.slot, offset, 0) }
        #expect((0..<64).map { function.readConfig(offset: 4 * $0, count: 4) } == before)
        #expect(function.readConfig(offset: 0x34, count: 1) == 0x40)
    }

    @Test func `the command register gates decoding`() {
        bench.writeConfig(Self.slot, 0x14, 0xD000_0000)
        #expect(bench.mmio.read(0xD000_0000, width: .dword) == 0xFFFF_FFFF)
        bench.writeConfig(Self.slot, 0x04, 2, .word)
        #expect(bench.mmio.read(0xD000_0000, width: .dword) == 0x11)
        bench.writeConfig(Self.slot, 0x04, 0, .word)
        #expect(bench.mmio.read(0xD000_0000, width: .dword) == 0xFFFF_FFFF)
        bench.writeConfig(Self.slot, 0x10, 0xC100)
        bench.writeConfig(Self.slot, 0x04, 1, .word)
        #expect(bench.portBus.read(port: 0xC104, width: .word) == 1)
        bench.portBus.write(port: 0xC104, width: .byte, value: 0x5A)
        #expect(registers.lastWrite == .init(bar: 0, offset: 4, width: .byte, value: 0x5A))
    }

    @Test(
        arguments: [
            0, 0xFFFF_FFFF_FFFF_FFFF, 0x10_0000, 0xFEE0_0000, 0xFEC0_0000, 0xE000_0000, 0xFFFF_0000,
            0x1_0000_0000,
            0x7FFF_FFFF_FFF0_0000, 0xFFFF_FFFF,
        ] as [UInt64])
    func `a BAR survives any address and comes back from it`(address: UInt64) throws {
        bench.writeConfig(Self.slot, 0x04, 7, .word)
        for bar in [0, 1] {
            bench.writeConfig(Self.slot, 0x10 + 4 * bar, UInt32(truncatingIfNeeded: address))
        }
        bench.writeConfig(Self.slot, 0x18, UInt32(truncatingIfNeeded: address))
        bench.writeConfig(Self.slot, 0x1C, UInt32(address >> 32))
        for width in AccessWidth.allCases {
            for offset in [0, 1, 0xFFF, 0x3FFF, 0xF_FFFF] as [UInt64] {
                _ = bench.mmio.read(address &+ offset, width: width)
                bench.mmio.write(address &+ offset, width: width, value: ~0)
            }
        }
        bench.writeConfig(Self.slot, 0x18, 0xD000_0000)
        bench.writeConfig(Self.slot, 0x1C, 0)
        #expect(bench.mmio.read(0xD000_0000, width: .byte) == 0x21)
    }

    @Test func `overlapping BARs uncover each other`() {
        bench.writeConfig(Self.slot, 0x04, 2, .word)
        bench.writeConfig(Self.slot, 0x14, 0xD000_0000)
        bench.writeConfig(Self.slot, 0x18, 0xD000_0000)
        #expect(bench.mmio.read(0xD000_0000, width: .byte) == 0x21)
        bench.writeConfig(Self.slot, 0x18, 0xD100_0000)
        #expect(bench.mmio.read(0xD000_0000, width: .byte) == 0x11)
        #expect(bench.mmio.read(0xD100_0000, width: .byte) == 0x21)
    }

    @Test func `remapping a thousand times leaves one mapping`() {
        bench.writeConfig(Self.slot, 0x04, 3, .word)
        for turn in 0..<1000 as Range<UInt32> {
            bench.writeConfig(Self.slot, 0x14, 0xD000_0000 + turn * 0x4000)
            bench.writeConfig(Self.slot, 0x10, 0x1000 + turn * 32)
        }
        bench.writeConfig(Self.slot, 0x04, 0, .word)
        for turn in 0..<1000 as Range<UInt64> {
            #expect(bench.mmio.read(0xD000_0000 + turn * 0x4000, width: .byte) == 0xFF)
            #expect(bench.portBus.read(port: UInt16(0x1000 + turn * 32), width: .byte) == 0xFF)
        }
    }

    @Test func `resources are aligned, disjoint and inside their windows`() throws {
        try bench.bridge.assignResources(
            memoryWindow: PCIBench.memoryWindow, ioWindow: 0xC000..<0x1_0000,
            memory64Window: 0x80_0000_0000..<0x81_0000_0000)
        #expect(function.decodedAddress(ofBAR: 0) == 0xC000)
        #expect(function.decodedAddress(ofBAR: 1) == 0xC000_0000)
        #expect(function.decodedAddress(ofBAR: 2) == 0x80_0000_0000)
        #expect(function.readConfig(offset: 0x3C, count: 1) == 19)
        #expect(throws: PCIResourceError.self) {
            try bench.bridge.assignResources(
                memoryWindow: 0xC000_0000..<0xC000_1000, ioWindow: 0xC000..<0xC100)
        }
    }

    @Test func `several functions in a slot are announced`() {
        #expect(bench.readConfig(Self.slot, 0x0C) >> 16 & 0x80 == 0)
        let second = PCIFunction(
            .bench, interrupts: PCIInterrupts(vectors: 1, target: bench.interrupts), handler: BenchRegisters()
        )
        bench.bridge.insert(second, slot: Self.slot, function: 2)
        #expect(bench.readConfig(Self.slot, 0x0C) >> 16 & 0x80 == 0x80)
        #expect(bench.readConfig(Self.slot, 0, function: 2) == 0x5678_1234)
        bench.bridge.remove(slot: Self.slot, function: 2)
        #expect(bench.readConfig(Self.slot, 0, function: 2) == ~0)
    }

    @Test func `INTx is level, routed, shared and can be disabled`() {
        let other = PCIInterrupts(vectors: 0, target: bench.interrupts)
        bench.bridge.insert(
            PCIFunction(.bench, interrupts: other, handler: BenchRegisters()), slot: Self.slot + 4)
        let line = PCIHostBridge.line(slot: Self.slot, pin: 0)
        #expect(line == 19)
        interrupts.setPin(true)
        other.setPin(true)
        #expect(bench.interrupts.isHigh(line))
        interrupts.setPin(false)
        #expect(bench.interrupts.isHigh(line))
        other.setPin(false)
        #expect(!bench.interrupts.isHigh(line))
        interrupts.setPin(true)
        #expect(bench.readConfig(Self.slot, 0x04) >> 16 & 8 == 8)
        bench.writeConfig(Self.slot, 0x04, 0x400, .word)
        #expect(!bench.interrupts.isHigh(line))
        #expect(bench.readConfig(Self.slot, 0x06, .byte) & 8 == 8)
        bench.writeConfig(Self.slot, 0x04, 0, .word)
        #expect(bench.interrupts.isHigh(line))
    }

    // MARK: MSI-X

    private func enableMSIX(control: UInt32 = 0x8000) {
        bench.writeConfig(Self.slot, 0x04, 2, .word)
        bench.writeConfig(Self.slot, 0x14, 0xD000_0000)
        for vector in 0..<5 as Range<UInt64> {
            let entry = 0xD000_1000 + vector * 16
            bench.mmio.write(entry, width: .qword, value: 0xFEE0_0000)
            bench.mmio.write(entry + 8, width: .qword, value: 0x40 + vector)
        }
        bench.writeConfig(Self.slot, 0x42, control, .word)
    }

    @Test func `MSI-X delivers per vector`() {
        enableMSIX()
        interrupts.signal(vector: 2)
        interrupts.signal(vector: 5)
        interrupts.signal(vector: -1)
        #expect(bench.interrupts.take() == [MSIMessage(address: 0xFEE0_0000, data: 0x42)])
    }

    @Test func `nothing is sent or pending while MSI-X is off`() {
        enableMSIX(control: 0)
        interrupts.signal(vector: 2)
        #expect(bench.interrupts.take().isEmpty)
        #expect(bench.mmio.read(0xD000_2000, width: .qword) == 0)
    }

    @Test func `masked vectors become pending and are sent when unmasked`() {
        enableMSIX()
        bench.mmio.write(0xD000_100C, width: .dword, value: 0xFFFF_FFFF)
        #expect(bench.mmio.read(0xD000_100C, width: .dword) == 1)
        interrupts.signal(vector: 0)
        interrupts.signal(vector: 0)
        #expect(bench.interrupts.take().isEmpty)
        #expect(bench.mmio.read(0xD000_2000, width: .dword) == 1)
        bench.mmio.write(0xD000_2000, width: .dword, value: 0)
        #expect(bench.mmio.read(0xD000_2000, width: .byte) == 1)
        bench.mmio.write(0xD000_100C, width: .byte, value: 0)
        #expect(bench.interrupts.take() == [MSIMessage(address: 0xFEE0_0000, data: 0x40)])
        #expect(bench.mmio.read(0xD000_2000, width: .dword) == 0)
    }

    @Test func `the function mask holds everything back`() {
        enableMSIX(control: 0xC000)
        for vector in 0..<5 { interrupts.signal(vector: vector) }
        #expect(bench.interrupts.take().isEmpty)
        #expect(bench.mmio.read(0xD000_2000, width: .qword) == 0x1F)
        bench.writeConfig(Self.slot, 0x42, 0x8000, .word)
        #expect(bench.interrupts.take().map(\.data) == [0x40, 0x41, 0x42, 0x43, 0x44])
    }

    @Test func `MSI-X takes over from the pin`() {
        interrupts.setPin(true)
        #expect(bench.interrupts.isHigh(19))
        enableMSIX()
        #expect(!bench.interrupts.isHigh(19))
    }

    @Test func `odd accesses to table and pending bits keep to their bytes`() {
        enableMSIX()
        bench.mmio.write(0xD000_1003, width: .dword, value: 0x1122_3344)
        #expect(bench.mmio.read(0xD000_1000, width: .qword) == 0x0011_2233_44E0_0000)
        for width in AccessWidth.allCases {
            for offset in 0x0FF8...0x1058 as ClosedRange<UInt64> {
                bench.mmio.write(0xD000_0000 + offset, width: width, value: ~0)
                _ = bench.mmio.read(0xD000_0000 + offset, width: width)
            }
            for offset in 0x1FF8...0x2010 as ClosedRange<UInt64> {
                bench.mmio.write(0xD000_0000 + offset, width: width, value: ~0)
                _ = bench.mmio.read(0xD000_0000 + offset, width: width)
            }
            // The last bytes of the BAR, and beyond.
            bench.mmio.write(0xD000_3FFF, width: width, value: ~0)
            _ = bench.mmio.read(0xD000_3FFD, width: width)
        }
        interrupts.signal(vector: 0)
        #expect(bench.interrupts.take().isEmpty)
    }

    @Test func `state survives a save and restore`() throws {
        enableMSIX()
        bench.mmio.write(0xD000_103C, width: .dword, value: 1)
        interrupts.signal(vector: 3)
        let saved = function.save()

        let copy = try PCIBench()
        let otherInterrupts = PCIInterrupts(vectors: 5, target: copy.interrupts)
        let other = PCIFunction(.bench, interrupts: otherInterrupts, handler: BenchRegisters())
        copy.bridge.insert(other, slot: Self.slot)
        try other.restore(saved)
        #expect(other.save() == saved)
        #expect(copy.mmio.read(0xD000_2000, width: .dword) == 8)
        copy.mmio.write(0xD000_103C, width: .dword, value: 0)
        #expect(copy.interrupts.take().map(\.data) == [0x43])
        try bench.bridge.restore(bench.bridge.save())
    }

    @Test func `untrusted state is refused or harmless`() throws {
        let saved = function.save()
        for change in [
            { $0.config = [] }, { $0.config[0] ^= 1 }, { $0.interrupts.table = [1] },
            { $0.interrupts.pending = [] },
        ] as [(inout PCIFunction.Saved) -> Void] {
            var bad = saved
            change(&bad)
            #expect(throws: RestoreError.self) { try function.restore(bad) }
        }
        var wild = saved
        for index in 4..<256 where !(0x2C..<0x30).contains(index) { wild.config[index] = 0xFF }
        wild.interrupts.table = wild.interrupts.table.map { _ in ~0 }
        wild.interrupts.pending = [~0]
        try function.restore(wild)
        #expect(function.readConfig(offset: 0x34, count: 1) == 0x40)
        #expect(function.readConfig(offset: 0x18, count: 4) == 0xFFF0_000C)
    }

    @Test func `reset takes the BARs off the bus`() {
        enableMSIX()
        function.reset()
        #expect(bench.mmio.read(0xD000_0000, width: .byte) == 0xFF)
        #expect(bench.readConfig(Self.slot, 0x14) == 0)
        interrupts.signal(vector: 0)
        #expect(bench.interrupts.take().isEmpty)
    }

    @Test func `random configuration and BAR accesses never trap`() throws {
        var random = BenchRandom(seed: 11)
        for _ in 0..<100_000 {
            let width = AccessWidth.allCases.randomElement(using: &random)!
            let value = Bool.random(using: &random) ? random.next() : ~0
            switch UInt8.random(in: 0..<6, using: &random) {
            case 0:
                bench.portBus.write(
                    port: 0xCF8, width: .dword,
                    value: UInt32.random(in: 0...0x20FF, using: &random) | 0x8000_0000)
            case 1:
                bench.portBus.write(
                    port: .random(in: 0xCF8...0xCFF, using: &random), width: width == .qword ? .byte : width,
                    value: UInt32(truncatingIfNeeded: value))
            case 2:
                bench.mmio.write(
                    PCIBench.ecam(Self.slot, .random(in: 0...255, using: &random)), width: width, value: value
                )
            case 3:
                _ = bench.mmio.read(
                    PCIBench.ecam(.random(in: 0..<5, using: &random), .random(in: 0...4095, using: &random)),
                    width: width)
            case 4:
                bench.mmio.write(
                    (function.decodedAddress(ofBAR: 1) ?? 0) &+ .random(in: 0...0x3FFF, using: &random),
                    width: width, value: value)
            default:
                _ = bench.mmio.read(
                    (function.decodedAddress(ofBAR: 2) ?? 0) &+ .random(in: 0...0xF_FFFF, using: &random),
                    width: width)
                interrupts.signal(vector: Int(value & 7))
            }
        }
        bench.mmio.write(PCIBench.ecam(Self.slot, 4), width: .word, value: 0)
        #expect(bench.readConfig(Self.slot, 0) == 0x5678_1234)
        #expect(function.decodedAddress(ofBAR: 1) == nil)
    }
}
