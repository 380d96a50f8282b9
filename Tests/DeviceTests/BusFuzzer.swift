import ChipsetDevices
import DeviceModel
import GuestMemory
import LinuxHost
import VCPUEngine
@testable import Machine
@testable import PCIBus
@testable import Virtio
@testable import VirtioDevices

/// A hostile guest: a random walk over everything that a guest can reach. The same seed gives the same walk,
/// but for what timers and workers do meanwhile.
struct BusFuzzer {
    /// Where most of the steps go.
    enum Aim: Sendable { case buses, queues }

    let target: FuzzedBoard
    let aim: Aim
    var random: ChipsetRandom
    /// What the last step was about.
    var place = ""
    /// Kicks, and those that a device answered before they returned: most walks must arrive somewhere.
    var kicks = 0, answeredKicks = 0
    private let ports: [ClosedRange<UInt16>]

    init(_ target: FuzzedBoard, aim: Aim, seed: UInt64) {
        self.target = target
        self.aim = aim
        random = ChipsetRandom(seed: seed)
        ports = target.devices.compactMap { $0 as? any PortDevice }.flatMap(\.ports)
    }

    var memory: GuestMemory { target.board.memory }

    /// Values that hurt, and addresses among them.
    mutating func hostileValue() -> UInt64 { random.chance(4) ? hostileAddress() : random.value() }

    mutating func width() -> AccessWidth { AccessWidth.allCases[random.below(4)] }

    mutating func step() {
        let queueSteps = aim == .queues ? 90 : 20
        guard random.below(100) >= queueSteps else { return fuzzQueues() }
        place = "bus"
        switch random.below(100) {
        case 0..<30: accessPort()
        case 30..<50: accessMemory()
        case 50..<75: configurePCI()
        case 75..<95: useAPIC()
        case 95..<98: scribble()
        default: disturbFromHost()
        }
    }

    // MARK: Ports

    private mutating func accessPort() {
        let width = [AccessWidth.byte, .byte, .word, .dword][random.below(4)]
        var port = UInt16(truncatingIfNeeded: random.next())
        if random.chance(6), let moved = movablePort() {
            port = moved
        } else if !random.chance(8), !ports.isEmpty {
            let range = ports[random.below(ports.count)]
            port = range.lowerBound &+ UInt16(random.below(range.count))
            // Accesses that begin before a range or end behind it.
            if random.chance(16) { port = range.upperBound &+ 1 &- UInt16(random.below(8)) }
        }
        if random.chance(3) {
            _ = target.board.platform.portRead(port, width: width)
        } else {
            target.board.platform.portWrite(
                port, width: width, value: UInt32(truncatingIfNeeded: hostileValue()))
        }
    }

    /// A port of a function whose ports may be anywhere; they have a place most of the time.
    private mutating func movablePort() -> UInt16? {
        let all = target.board.bridge?.functions.map(\.function) ?? []
        let owners = all.filter { $0.layout.bars.contains { $0?.kind == .io } }
        guard !owners.isEmpty else { return nil }
        let owner = random.below(owners.count), function = owners[owner]
        guard let bar = function.layout.bars.firstIndex(where: { $0?.kind == .io }) else { return nil }
        if function.decodedAddress(ofBAR: bar) ?? 0x1_0000 > 0xFF00 {
            function.writeConfig(
                offset: ConfigRegister.firstBAR + 4 * bar, count: 4, value: 0xC000 + UInt32(owner) << 8)
            function.writeConfig(offset: ConfigRegister.command, count: 2, value: 7)
            // What decides whether the SMBus runs commands, and its likes.
            function.writeConfig(offset: 0x40, count: 1, value: 1)
        }
        let address = function.decodedAddress(ofBAR: bar) ?? 0
        return UInt16(truncatingIfNeeded: address) &+ UInt16(random.below(20))
    }

    // MARK: Device memory

    /// Ends of regions and of the address space, devices, and where BARs are now.
    mutating func hostileAddress() -> UInt64 {
        switch random.below(17) {
        case 0: return 0
        case 1: return .max &- UInt64(random.below(32))
        case 2: return FuzzedBoard.ram &- UInt64(random.below(64))
        case 3: return FuzzedBoard.ram
        case 4: return 0xFEE0_0000 &+ UInt64(random.below(0x1100))
        case 5: return IOAPIC.address &+ UInt64(random.below(0x1010))
        case 6: return 0xFED0_0000 &+ UInt64(random.below(0x410))
        case 7: return PCIHostBridge.ecamAddress &+ UInt64(random.below(1 << 21))
        case 8: return 0xFFFF_FFFF &- UInt64(random.below(16))
        case 9: return FuzzedQueue.firstArea &+ UInt64(random.below(20)) * 0x1_0000
        case 10, 11:
            guard let function = target.functions[random.below(target.functions.count)].function else {
                return MicroBoard.virtioAddress &+ UInt64(random.below(0x5010))
            }
            let bar = random.chance(2) ? VirtioBAR.msix : VirtioBAR.registers
            return (function.decodedAddress(ofBAR: bar) ?? 0) &+ UInt64(random.below(0x4010))
        case 12, 13:
            guard let bridge = target.board.bridge else {
                return MicroBoard.virtioAddress &+ UInt64(random.below(0x5010))
            }
            let all = bridge.functions.map(\.function) + bridge.rootPorts.compactMap(\.port.deviceFunction)
            let function = all[random.below(all.count)]
            return (function.decodedAddress(ofBAR: random.below(6)) ?? 0) &+ UInt64(random.below(0x1010))
        case 14: return 0xA_0000 &+ UInt64(random.below(0x6_0000))
        case 15:
            let variables = 0x1_0000_0000 - UInt64(FuzzedBoard.firmwareSize) - FuzzedBoard.variablesSize
            return variables &+ UInt64(random.below(Int(FuzzedBoard.variablesSize) + 16))
        default: return random.next() >> UInt64(random.below(64))
        }
    }

    private mutating func accessMemory() {
        let address = hostileAddress(), width = width()
        if random.chance(3) {
            _ = target.board.platform.memoryRead(address, width: width)
        } else {
            target.board.platform.memoryWrite(address, width: width, value: random.value())
        }
    }

    /// The guest's own stores to RAM.
    private mutating func scribble() {
        try? memory.store(random.value(), at: GuestAddress(random.next() % FuzzedBoard.ram & ~7))
    }

    // MARK: PCI configuration

    private mutating func configurePCI() {
        guard let bridge = target.board.bridge else { return accessMemory() }
        if random.chance(6), !bridge.rootPorts.isEmpty { return configureBridges(bridge.rootPorts) }
        let present = bridge.functions
        let place = present[random.below(present.count)]
        let slot = random.chance(10) ? random.below(32) : place.slot
        let number = random.chance(10) ? random.below(8) : place.number
        let bus = random.chance(32) ? random.below(256) : 0
        access(bus: bus, place: slot << 3 | number, register: register())
    }

    /// A register of a function, often one that matters.
    private mutating func register() -> Int {
        switch random.below(4) {
        case 0: ConfigRegister.firstBAR + random.below(24)
        case 1: ConfigRegister.command + random.below(4)
        default: random.below(random.chance(8) ? 4096 : 256)
        }
    }

    /// Root ports, often open as a system would have them, and what is behind them.
    private mutating func configureBridges(_ ports: [(port: PCIRootPort, slot: Int)]) {
        let index = random.below(ports.count), (port, slot) = ports[index]
        switch random.below(3) {
        case 0:
            let first = UInt32(index + 1)
            port.function.writeConfig(offset: 0x18, count: 4, value: first << 8 | first << 16)
            port.open(memory: 0xC800_0000 + UInt64(index) << 24..<0xC900_0000 + UInt64(index) << 24)
            port.open(io: 0xE000..<0xF000)
        case 1:
            let offsets = BridgeRegister.routing
            let register = offsets.lowerBound + random.below(offsets.count)
            access(bus: 0, place: slot << 3 | index, register: register)
        default:
            let bus = port.busNumber ?? random.below(256)
            access(bus: bus, place: random.chance(10) ? random.below(256) : 0, register: register())
        }
    }

    /// Reads or writes a register in one of the two ways.
    private mutating func access(bus: Int, place: Int, register: Int) {
        let width = width()
        // Decoding is on most of the time, or nothing would be reached.
        var value = random.chance(2) ? hostileAddress() : random.value()
        if register == ConfigRegister.command, !random.chance(8) { value |= 6 }
        let isRead = random.chance(3)
        if random.chance(2) {
            let address = PCIHostBridge.ecamAddress + UInt64(bus << 20 | place << 12 | register)
            if isRead {
                _ = target.board.platform.memoryRead(address, width: width)
            } else {
                target.board.platform.memoryWrite(address, width: width, value: value)
            }
        } else {
            let address = UInt32(0x8000_0000) | UInt32(bus << 16 | place << 8 | register & 0xFC)
            target.board.platform.portWrite(0xCF8, width: .dword, value: address)
            let port = 0xCFC + UInt16(register & 3)
            let narrow = width == .qword ? AccessWidth.dword : width
            if isRead {
                _ = target.board.platform.portRead(port, width: narrow)
            } else {
                target.board.platform.portWrite(port, width: narrow, value: UInt32(truncatingIfNeeded: value))
            }
        }
    }

    // MARK: Interrupt controllers

    private mutating func useAPIC() {
        let apic = target.board.apics[random.below(target.board.apics.count)]
        let offset = UInt32(random.chance(4) ? random.below(0x1000) : random.below(0x40) * 0x10)
        let register =
            random.chance(8) ? 0x6E0 : 0x800 + UInt32(random.below(random.chance(4) ? 0x100 : 0x40))
        switch random.below(16) {
        case 0...3:
            apic.writePage(offset: offset, width: width(), value: UInt32(truncatingIfNeeded: hostileValue()))
        case 4: _ = apic.readPage(offset: offset, width: width())
        case 5...7:
            _ = apic.writeMSR(register, random.chance(2) ? hostileValue() & 0xFFFF_FFFF : hostileValue())
        case 8: _ = apic.readMSR(random.chance(16) ? UInt32(truncatingIfNeeded: random.next()) : register)
        case 9:
            // Off, xAPIC, x2APIC, and what is illegal.
            let base = [0xFEE0_0000, 0xFEE0_0800, 0xFEE0_0C00, 0xFEE0_0900, 0xFEE0_0D00, hostileValue()]
            _ = apic.setAPICBase(base[random.below(base.count)])
        case 10: apic.taskPriority = UInt8(truncatingIfNeeded: random.next())
        case 11:
            if target.board.platform.hasExternalInterrupt(vcpu: Int(apic.id)) || random.chance(4) {
                _ = target.board.platform.acknowledgeExternalInterrupt()
            }
        case 12: _ = apic.takeSignal()
        case 13: apic.endOfInterrupt()
        default:
            _ = apic.pendingVector()
            _ = apic.acknowledge()
        }
    }

    // MARK: The host's side

    private mutating func disturbFromHost() {
        switch random.below(5) {
        case 0:
            let bytes = (0..<random.below(200)).map { UInt8(truncatingIfNeeded: $0) }
            _ = try? target.serialInput.write(bytes[...])
        case 1: target.board.power.pressPowerButton()
        case 2: target.balloon.setTarget(pages: UInt32(truncatingIfNeeded: random.value()))
        case 3: target.balloon.requestStatistics()
        default:
            _ = target.console.receive([UInt8](repeating: 0x41, count: random.below(5000)))
            target.console.resize(columns: UInt16(random.below(0x10000)), rows: 1)
            target.console.sinkIsReady()
        }
    }
}
