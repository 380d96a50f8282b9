import DeviceModel
import StateCodec
import Testing

@testable import PCIBus

/// Two root ports in one slot, with a function behind the first one.
private final class PortBoard {
    static let slot = 28
    let bench: PCIBench
    let ports: [PCIRootPort]
    let function: PCIFunction
    let interrupts: PCIInterrupts

    init() throws {
        bench = try PCIBench()
        let context = bench.context
        ports = [1, 2].map { PCIRootPort(context, number: $0, isOccupied: $0 == 1) }
        interrupts = PCIInterrupts(vectors: 5, target: bench.interrupts)
        function = PCIFunction(.bench, interrupts: interrupts, handler: BenchRegisters())
        for (number, port) in ports.enumerated() {
            bench.bridge.insert(port, slot: Self.slot, function: number)
        }
        bench.bridge.insert(function, behind: ports[0])
    }

    /// Writes a register of port `number`, 0 or 1.
    func set(_ offset: Int, _ value: UInt32, _ width: AccessWidth = .dword, port number: Int = 0) {
        bench.writeConfig(Self.slot, offset, value, width, function: number)
    }

    static func ecam(bus: Int, device: Int = 0, function: Int = 0, _ offset: Int = 0) -> UInt64 {
        PCIHostBridge.ecamAddress + UInt64(bus << 20 | device << 15 | function << 12 | offset)
    }

    func identity(bus: Int, device: Int = 0, function: Int = 0) -> UInt32 {
        let address = Self.ecam(bus: bus, device: device, function: function)
        let mapped = UInt32(truncatingIfNeeded: bench.mmio.read(address, width: .dword))
        bench.portBus.write(
            port: 0xCF8, width: .dword,
            value: 0x8000_0000 | UInt32(bus << 16 | device << 11 | function << 8))
        // Both ways see the same.
        #expect(bench.portBus.read(port: 0xCFC, width: .dword) == mapped)
        return mapped
    }

    /// Numbers, memory at D0000000h, ports at C000h, and all of the function's decoding.
    func open() {
        set(0x18, 0x00_01_01_00)
        set(0x20, 0xD000_D000)
        set(0x1C, 0xC0C0, .word)
        set(0x04, 7, .word)
        function.writeConfig(offset: 0x10, count: 4, value: 0xC100)
        function.writeConfig(offset: 0x14, count: 4, value: 0xD000_0000)
        function.writeConfig(offset: 0x04, count: 2, value: 7)
    }

    func memory(_ address: UInt64) -> UInt64 { bench.mmio.read(address, width: .byte) }
}

@Suite struct RootPortTests {
    private let board: PortBoard
    private static let here: UInt32 = 0x5678_1234
    init() throws { board = try PortBoard() }

    @Test func `a port is a bridge with the capabilities of a root port and a slot`() {
        #expect(board.bench.readConfig(PortBoard.slot, 0) == 0x000C_1B36)
        #expect(board.bench.readConfig(PortBoard.slot, 0x0A, .word) == 0x0604)
        #expect(board.bench.readConfig(PortBoard.slot, 0x0E, .byte) == 0x81)
        #expect(board.bench.readConfig(PortBoard.slot, 0x0E, .byte, function: 1) == 0x81)
        var found: [UInt32] = [], place = Int(board.bench.readConfig(PortBoard.slot, 0x34, .byte))
        while place != 0, found.count < 10 {
            found.append(board.bench.readConfig(PortBoard.slot, place, .byte))
            if found.last == 0x10 {
                #expect(board.bench.readConfig(PortBoard.slot, place + 2, .word) == 0x0142)
                // Something is in the slot of the first port only.
                let status = [0, 1].map {
                    board.bench.readConfig(PortBoard.slot, place + 0x1A, .word, function: $0)
                }
                #expect(status == [0x40, 0])
            }
            place = Int(board.bench.readConfig(PortBoard.slot, place + 1, .byte))
        }
        #expect(found == [0x10, 0x05, 0x0D])
    }

    @Test func `what is behind a port is an endpoint, with an empty extended space`() {
        var place = Int(board.function.readConfig(offset: 0x34, count: 1)), found: [UInt32] = []
        while place != 0, found.count < 10 {
            found.append(board.function.readConfig(offset: place, count: 1))
            if found.last == 0x10 { #expect(board.function.readConfig(offset: place + 2, count: 2) == 2) }
            place = Int(board.function.readConfig(offset: place + 1, count: 1))
        }
        #expect(found == [0x11, 0x10])
        board.function.reset()
        #expect(board.function.readConfig(offset: 0x100, count: 4) == 0)
        #expect(board.function.readConfig(offset: 0xFFE, count: 4) == 0xFFFF_0000)
        #expect(board.bench.mmio.read(PCIBench.ecam(PortBoard.slot, 0x100), width: .dword) == 0)
        #expect(board.bench.mmio.read(PCIBench.ecam(0, 0x100), width: .dword) == 0xFFFF_FFFF)
    }

    @Test func `configuration accesses follow the bus numbers`() {
        #expect(board.identity(bus: 1) == ~0)
        board.set(0x18, 0x00_09_07_00)
        #expect(board.identity(bus: 7) == Self.here)
        // One device on the link, and no bus further behind.
        #expect(board.identity(bus: 7, device: 1) == ~0 && board.identity(bus: 7, function: 1) == ~0)
        #expect(board.identity(bus: 8) == ~0 && board.identity(bus: 1) == ~0)
        board.bench.mmio.write(PortBoard.ecam(bus: 7, 0x3C), width: .byte, value: 0x5A)
        #expect(board.function.readConfig(offset: 0x3C, count: 1) == 0x5A)
        board.set(0x18, 0x00_FF_FF_00)
        #expect(board.identity(bus: 255) == Self.here && board.identity(bus: 7) == ~0)
    }

    @Test(arguments: [0x00_05_00_00, 0x00_04_05_00, 0x00_00_01_00, 0] as [UInt32])
    func `numbers that make no sense reach nobody`(numbers: UInt32) {
        board.set(0x18, numbers)
        for bus in 1..<8 { #expect(board.identity(bus: bus) == ~0) }
        #expect(board.identity(bus: 0) == 0x0008_1B36)
    }

    @Test func `of two ports that claim a bus the first one has it`() {
        board.set(0x18, 0x00_05_03_00, port: 1)
        #expect(board.identity(bus: 3) == ~0)
        board.set(0x18, 0x00_FF_03_00)
        #expect(board.identity(bus: 3) == Self.here)
        // The second port's bus lies behind the first one, where there is no bridge.
        board.set(0x18, 0x00_04_04_00, port: 1)
        #expect(board.identity(bus: 4) == ~0)
    }

    // MARK: Windows

    @Test func `memory and ports are reached through windows only`() {
        board.open()
        #expect(board.memory(0xD000_0000) == 0x11)
        #expect(board.bench.portBus.read(port: 0xC104, width: .byte) == 1)
        // Another place of the function, outside.
        board.function.writeConfig(offset: 0x14, count: 4, value: 0xD010_0000)
        board.function.writeConfig(offset: 0x10, count: 4, value: 0xD100)
        #expect(board.memory(0xD010_0000) == 0xFF && board.memory(0xD000_0000) == 0xFF)
        #expect(board.bench.portBus.read(port: 0xD104, width: .byte) == 0xFF)
        // The windows follow.
        board.set(0x20, 0xD010_D000)
        board.set(0x1C, 0xD0C0, .word)
        #expect(board.memory(0xD010_0000) == 0x11)
        #expect(board.bench.portBus.read(port: 0xD104, width: .byte) == 1)
    }

    @Test func `the port's command register gates its windows`() {
        board.open()
        board.set(0x04, 5, .word)
        #expect(board.memory(0xD000_0000) == 0xFF)
        #expect(board.bench.portBus.read(port: 0xC104, width: .byte) == 1)
        board.set(0x04, 6, .word)
        #expect(board.memory(0xD000_0000) == 0x11)
        #expect(board.bench.portBus.read(port: 0xC104, width: .byte) == 0xFF)
    }

    @Test func `a window whose end comes before its beginning is closed`() {
        board.open()
        board.set(0x20, 0xCFF0_D000)
        #expect(board.memory(0xD000_0000) == 0xFF)
        board.bench.bridge.reset()
        board.ports[0].reset()
        board.set(0x04, 7, .word)
        for port in stride(from: 0x1000, to: 0x10000, by: 0x800) as StrideTo<Int> where port != 0xC800 {
            #expect(board.bench.portBus.read(port: UInt16(port), width: .byte) == 0xFF)
        }
        #expect(board.memory(0xD000_0000) == 0xFF)
    }

    @Test func `the prefetchable window reaches beyond 4 GiB`() {
        board.open()
        board.function.writeConfig(offset: 0x18, count: 4, value: 0x4000_0000)
        board.function.writeConfig(offset: 0x1C, count: 4, value: 0x12)
        #expect(board.memory(0x12_4000_0000) == 0xFF)
        board.set(0x24, 0x4000_4000)
        board.set(0x28, 0x12)
        #expect(board.memory(0x12_4000_0000) == 0xFF, "the end is below")
        board.set(0x2C, 0x12)
        #expect(board.memory(0x12_4000_0000) == 0x21 && board.memory(0x12_400F_FFFF) == 0x21)
        #expect(board.memory(0x12_4010_0000) == 0xFF)
        #expect(board.bench.readConfig(PortBoard.slot, 0x24) == 0x4001_4001)
    }

    @Test func `a window over everything is as any device that is mapped last`() {
        board.open()
        board.set(0x20, 0xFFF0_0000)
        board.set(0x24, 0xFFF0_0000)
        board.set(0x28, 0)
        board.set(0x2C, 0xFFFF_FFFF)
        #expect(board.memory(0xD000_0000) == 0x11)
        for address in [0, 0xFEE0_0000, 0x1_0000_0000, UInt64.max, UInt64.max - 7] as [UInt64] {
            for width in AccessWidth.allCases { _ = board.bench.mmio.read(address, width: width) }
        }
        board.ports[0].reset()
        #expect(board.identity(bus: 0) == 0x0008_1B36)
    }

    // MARK: Interrupts

    @Test func `a pin behind a port takes the line of the port's slot`() {
        board.interrupts.setPin(true)
        #expect(board.bench.interrupts.isHigh(PCIHostBridge.line(slot: PortBoard.slot, pin: 0)))
        board.interrupts.setPin(false)
        #expect(!board.bench.interrupts.isHigh(PCIHostBridge.line(slot: PortBoard.slot, pin: 0)))
    }

    @Test func `messages pass while the port is a master`() {
        board.open()
        let table: UInt64 = 0xD000_1000
        board.bench.mmio.write(table, width: .qword, value: 0xFEE0_0000)
        board.bench.mmio.write(table + 8, width: .qword, value: 0x0000_0000_0000_0041)
        let capability = Int(board.function.readConfig(offset: 0x34, count: 1))
        board.function.writeConfig(offset: capability + 2, count: 2, value: 0x8000)
        board.interrupts.signal(vector: 0)
        #expect(board.bench.interrupts.take() == [MSIMessage(address: 0xFEE0_0000, data: 0x41)])
        board.set(0x04, 3, .word)
        board.interrupts.signal(vector: 0)
        #expect(board.bench.interrupts.take() == [])
        board.set(0x04, 7, .word)
        board.interrupts.signal(vector: 0)
        #expect(board.bench.interrupts.take().count == 1)
    }

    // MARK: Resources

    @Test func `without firmware buses get numbers and windows that hold what is behind them`() throws {
        let other = PCIFunction(
            .bench, interrupts: PCIInterrupts(vectors: 5, target: board.bench.interrupts),
            handler: BenchRegisters())
        board.bench.bridge.insert(other, slot: 3)
        try board.bench.assignResources()
        #expect(board.ports.map(\.busNumber) == [1, 2])
        #expect(board.identity(bus: 1) == Self.here)
        var taken: [Range<UInt64>] = []
        for function in [board.function, other] {
            for bar in 0..<3 {
                let address = try #require(function.decodedAddress(ofBAR: bar))
                let size = try #require(function.layout.bars[bar]).size
                #expect(address % size == 0)
                if bar == 0 {
                    #expect(board.bench.portBus.read(port: UInt16(address), width: .byte) == 1)
                } else {
                    #expect(!taken.contains { $0.overlaps(address..<address + size) })
                    taken.append(address..<address + size)
                    #expect(board.memory(address) == UInt64(bar) << 4 | 1)
                    #expect(board.memory(address + size - 1) == UInt64(bar) << 4 | 1)
                }
            }
        }
        #expect(board.function.readConfig(offset: 0x3C, count: 1) == 16)
        // Nothing is behind the second port, whose windows stay closed.
        #expect(board.bench.readConfig(PortBoard.slot, 0x20, .dword, function: 1) == 0x0000_FFF0)
        #expect(throws: PCIResourceError.self) {
            try board.bench.bridge.assignResources(
                memoryWindow: 0xC000_0000..<0xC018_0000, ioWindow: 0xC000..<0x1_0000)
        }
    }

    // MARK: Lifecycle

    @Test func `a port that is restored goes where the other one went`() throws {
        board.open()
        let saved = board.ports[0].save(), inner = board.function.save()
        let twin = try PortBoard()
        let bytes = try StateEncoder().encode(saved)
        try twin.ports[0].restore(StateDecoder().decode(PCIRootPort.Saved.self, from: bytes))
        try twin.function.restore(inner)
        #expect(twin.ports[0].save() == saved)
        #expect(twin.identity(bus: 1) == Self.here && twin.memory(0xD000_0000) == 0x11)
        #expect(throws: RestoreError.self) { try twin.function.restore(saved.function) }
        board.ports[0].reset()
        #expect(board.identity(bus: 1) == ~0 && board.memory(0xD000_0000) == 0xFF)
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func `any values in the ports' registers leave the bus alive`(seed: UInt64) {
        var random = BenchRandom(seed: seed)
        for _ in 0..<20_000 {
            let value = random.next(), port = Int(value & 1)
            let offset = value & 2 == 0 ? 0x18 + Int(value >> 8 & 0x1F) : Int(value >> 8 & 0xFF)
            board.set(offset, UInt32(truncatingIfNeeded: value >> 32), .byte, port: port)
            let bus = Int(value >> 16 & 0xFF)
            _ = board.bench.mmio.read(PortBoard.ecam(bus: bus, Int(value >> 24 & 0xFF)), width: .dword)
            _ = board.bench.mmio.read(random.next() >> (value >> 58), width: .dword)
            _ = board.bench.portBus.read(port: UInt16(truncatingIfNeeded: value >> 40), width: .dword)
        }
        for port in board.ports { port.reset() }
        board.open()
        #expect(board.identity(bus: 1) == Self.here && board.memory(0xD000_0000) == 0x11)
    }
}
