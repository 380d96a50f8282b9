import BlockStorage
import ByteLayout
import DeviceModel
import GuestMemory
import TestKit

@testable import PCIBus
@testable import USBDevices

/// A guest's driver of an xHCI controller with a stick in socket 1, a tablet in 2 and a keyboard in 3: rings
/// and contexts in four megabytes of memory, registers through BAR 0.
final class XHCITestDriver {
    static let ram: UInt64 = 4 << 20
    static let bar: UInt64 = 0xF000_0000
    static let data: UInt64 = 0x20_0000
    static let stick = 1, tablet = 10, keyboard = 11
    /// Device context indices of the stick's endpoints.
    static let bulkIn = 3, bulkOut = 4
    static let ringEntries = 32
    private static let contexts: UInt64 = 0x1000, input: UInt64 = 0x2000, table: UInt64 = 0x3000
    static let commands: UInt64 = 0x4000, events: UInt64 = 0x8000
    static let eventEntries = 64

    struct Event: Equatable {
        var type: UInt32
        var code: UInt32
        var slot: Int
        var endpoint: Int
        var parameter: UInt64
        var length: UInt32
    }

    let memory: GuestMemory
    let clock = FakeClock(now: 0)
    let lines = RecordingInterruptSink(), messages = RecordingMSITarget()
    let disk: MemoryDisk
    let controller: XHCIController
    private let mmio = MMIOBus()
    private let bridge: PCIHostBridge
    private var places: [UInt64: (index: Int, cycle: Bool)] = [:]
    private var eventIndex = 0, eventCycle = true, entries = eventEntries

    init(_ disk: MemoryDisk = MemoryDisk(sectors: 4096)) throws {
        memory = try GuestMemory([.init(start: 0, size: Self.ram, kind: .ram)])
        let context = DeviceContext(
            memory: memory, clock: clock, msi: messages, lines: lines, report: { _ in })
        self.disk = disk
        disk.bytes = (0..<Int(disk.capacity) * 512).map { UInt8(truncatingIfNeeded: $0 >> 9 ^ $0) }
        controller = XHCIController(context, [.storage(disk, serial: "serial-1"), .tablet, .keyboard])
        bridge = PCIHostBridge(context: context, mmio: mmio, portBus: PortBus())
        bridge.insert(controller.function, slot: 4)
        controller.function.writeConfig(offset: 0x10, count: 4, value: UInt32(Self.bar))
        controller.function.writeConfig(offset: 4, count: 2, value: 6)
    }

    func read(_ offset: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: mmio.read(Self.bar + offset, width: .dword))
    }
    func write(_ offset: UInt64, _ value: UInt32) {
        mmio.write(Self.bar + offset, width: .dword, value: UInt64(value))
    }
    func writeLong(_ offset: UInt64, _ value: UInt64) {
        mmio.write(Self.bar + offset, width: .qword, value: value)
    }

    // MARK: The controller

    func start(eventEntries: Int = eventEntries) throws {
        write(XHCIRegister.command, XHCICommandRegister.reset)
        places = [:]
        (eventIndex, eventCycle, entries) = (0, true, eventEntries)
        try memory.zero(GuestAddress(0x1000), count: 0x10_0000)
        write(XHCIRegister.configuration, 8)
        writeLong(XHCIRegister.contextArray, Self.contexts)
        writeLong(XHCIRegister.commandRing, Self.commands | 1)
        try memory.store(Self.events, at: GuestAddress(Self.table))
        try memory.store(UInt32(eventEntries), at: GuestAddress(Self.table + 8))
        write(XHCIRegister.interrupters + 8, 1)
        writeLong(XHCIRegister.interrupters + 0x18, Self.events)
        writeLong(XHCIRegister.interrupters + 0x10, Self.table)
        write(XHCIRegister.interrupters, 2)
        write(XHCIRegister.command, 5)
    }

    static func port(_ number: Int) -> UInt64 { XHCIRegister.ports + UInt64(number - 1) * 0x10 }

    /// Puts a block at the end of a ring of 32, whose last block is a link to the first.
    @discardableResult
    func put(_ ring: UInt64, _ parameter: UInt64, _ status: UInt32, _ control: UInt32) throws -> UInt64 {
        var (index, cycle) = places[ring] ?? (0, true)
        if index == Self.ringEntries - 1 {
            let link = TRB(
                parameter: ring, status: 0,
                control: TRBType.link << 10 | TRBFlag.toggleCycle | (cycle ? 1 : 0))
            try memory.store(link, at: GuestAddress(ring + UInt64(index) * 16))
            (index, cycle) = (0, !cycle)
        }
        let place = ring + UInt64(index) * 16
        let block = TRB(parameter: parameter, status: status, control: control | (cycle ? 1 : 0))
        try memory.store(block, at: GuestAddress(place))
        places[ring] = (index + 1, cycle)
        return place
    }

    /// The next event, which it takes out of the ring unless software shall seem busy.
    func takeEvent(acknowledges: Bool = true) throws -> Event? {
        let place = Self.events + UInt64(eventIndex) * 16
        let block = try memory.load(TRB.self, at: GuestAddress(place))
        guard block.isOfCycle == eventCycle else { return nil }
        eventIndex += 1
        if eventIndex == entries { (eventIndex, eventCycle) = (0, !eventCycle) }
        if acknowledges { acknowledge() }
        return Event(
            type: block.type, code: block.status >> 24, slot: block.slot, endpoint: block.endpoint,
            parameter: block.parameter, length: block.status & 0xFF_FFFF)
    }

    func acknowledge() {
        writeLong(XHCIRegister.interrupters + 0x18, Self.events + UInt64(eventIndex) * 16 | 8)
    }

    func takeEvents() throws -> [Event] {
        var events: [Event] = []
        while let event = try takeEvent() { events.append(event) }
        return events
    }

    /// A command to its end; what it said before is forgotten.
    func command(
        _ type: UInt32, _ parameter: UInt64 = 0, slot: Int = 0, endpoint: Int = 0, flags: UInt32 = 0
    ) throws -> Event? {
        _ = try takeEvents()
        let place = try put(
            Self.commands, parameter, 0, type << 10 | UInt32(slot) << 24 | UInt32(endpoint) << 16 | flags)
        write(XHCIRegister.doorbells, 0)
        return try takeEvents().last { $0.type == TRBType.commandCompletion && $0.parameter == place }
    }

    // MARK: Devices

    static func ring(_ slot: Int, _ endpoint: Int) -> UInt64 {
        0x1_0000 + UInt64(slot) * 0x8000 + UInt64(endpoint) * 0x400
    }
    static func context(_ slot: Int) -> UInt64 { 0x8_0000 + UInt64(slot) * 0x800 }

    func contextWord(_ slot: Int, _ index: Int, _ word: UInt64) throws -> UInt32 {
        try memory.load(UInt32.self, at: GuestAddress(Self.context(slot) + UInt64(index) * 32 + word * 4))
    }

    private func writeInput(_ index: Int, _ words: [UInt32]) throws {
        for (word, value) in words.enumerated() {
            try memory.store(value, at: GuestAddress(Self.input + UInt64(index * 32 + word * 4)))
        }
    }

    private func endpointWords(_ slot: Int, _ index: Int, type: UInt32, packet: UInt32) -> [UInt32] {
        places[Self.ring(slot, index)] = nil
        return [0, packet << 16 | type << 3 | 3 << 1, UInt32(Self.ring(slot, index)) | 1, 0, packet]
    }

    /// Resets the port, enables a slot and gives the device its address. Returns the slot.
    func connect(port: Int) throws -> Int? {
        write(Self.port(port), XHCIPortStatus.reset | XHCIPortStatus.power)
        guard let slot = try command(TRBType.enableSlot)?.slot, slot > 0 else { return nil }
        try memory.store(Self.context(slot), at: GuestAddress(Self.contexts + UInt64(slot) * 8))
        guard try address(slot: slot, port: port)?.code == TRBCompletion.success else { return nil }
        return slot
    }

    func address(slot: Int, port: Int, flags: UInt32 = 0) throws -> Event? {
        try memory.zero(GuestAddress(Self.input), count: 0x800)
        try memory.zero(GuestAddress(Self.ring(slot, 1)), count: 0x400)
        try writeInput(0, [0, 3])
        try writeInput(1, [1 << 27 | 3 << 20, UInt32(port) << 16])
        try writeInput(2, endpointWords(slot, 1, type: 4, packet: 64))
        return try command(TRBType.addressDevice, Self.input, slot: slot, flags: flags)
    }

    /// Adds endpoints by device context index.
    func configure(
        _ slot: Int, _ endpoints: [(index: Int, type: UInt32)], drop: UInt32 = 0
    ) throws -> Event? {
        try memory.zero(GuestAddress(Self.input), count: 0x800)
        try writeInput(0, [drop, endpoints.reduce(1) { $0 | 1 << UInt32($1.index) }])
        try writeInput(1, [31 << 27, 0])
        for (index, type) in endpoints {
            try memory.zero(GuestAddress(Self.ring(slot, index)), count: 0x400)
            try writeInput(index + 1, endpointWords(slot, index, type: type, packet: 512))
        }
        return try command(TRBType.configureEndpoint, Self.input, slot: slot)
    }

    func ring(_ slot: Int, _ endpoint: Int) {
        write(XHCIRegister.doorbells + UInt64(slot) * 4, UInt32(endpoint))
    }

    /// A control transfer; the events of its stages, and what came.
    @discardableResult
    func control(
        _ slot: Int, _ type: UInt8, _ request: UInt8, _ value: UInt16 = 0, _ index: UInt16 = 0,
        length: Int = 0, sends: [UInt8] = []
    ) throws -> (code: UInt32?, data: [UInt8]) {
        _ = try takeEvents()
        let ring = Self.ring(slot, 1), isIn = type & 0x80 != 0, count = isIn ? length : sends.count
        let packet =
            UInt64(type) | UInt64(request) << 8 | UInt64(value) << 16 | UInt64(index) << 32
            | UInt64(count) << 48
        let kind: UInt32 = count == 0 ? 0 : isIn ? 3 : 2
        try put(ring, packet, 8, TRBType.setup << 10 | TRBFlag.immediate | kind << 16)
        if count > 0 {
            if !isIn { try memory.write(sends, at: GuestAddress(Self.data)) }
            try put(
                ring, Self.data, UInt32(count),
                TRBType.data << 10 | TRBFlag.shortPacket | (isIn ? 1 << 16 : 0))
        }
        try put(ring, 0, 0, TRBType.status << 10 | TRBFlag.onCompletion | (isIn ? 0 : 1 << 16))
        self.ring(slot, 1)
        let events = try takeEvents().filter { $0.type == TRBType.transferEvent }
        let missing = events.first { $0.code == TRBCompletion.shortPacket }?.length ?? 0
        let bytes = isIn ? try memory.bytes(GuestAddress(Self.data), count: count - Int(missing)) : []
        return (events.last?.code, bytes)
    }

    /// A buffer for an endpoint, with an event at its end.
    @discardableResult
    func transfer(
        _ slot: Int, _ endpoint: Int, _ count: Int, at address: UInt64 = data, rings: Bool = true,
        flags: UInt32 = TRBFlag.onCompletion | TRBFlag.shortPacket
    ) throws -> UInt64 {
        let place = try put(
            Self.ring(slot, endpoint), address, UInt32(count), TRBType.normal << 10 | flags)
        if rings { ring(slot, endpoint) }
        return place
    }

    /// The stick, ready for commands.
    func startStick() throws -> Int {
        guard let slot = try connect(port: Self.stick),
            try configure(slot, [(Self.bulkIn, 6), (Self.bulkOut, 2)])?.code == TRBCompletion.success,
            try control(slot, 0, USBRequest.setConfiguration, 1).code == TRBCompletion.success
        else { throw StoppedError() }
        return slot
    }
    /// The tablet or the keyboard, whose reports are asked for.
    func startHuman(_ port: Int) throws -> Int {
        guard let slot = try connect(port: port),
            try configure(slot, [(3, 7)])?.code == TRBCompletion.success,
            try control(slot, 0, USBRequest.setConfiguration, 1).code == TRBCompletion.success
        else { throw StoppedError() }
        return slot
    }
    struct StoppedError: Error {}

    /// Sends a command wrapper.
    func sendCommand(_ slot: Int, _ packet: [UInt8], length: Int, isIn: Bool) throws {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: BulkOnly.commandSignature)
        bytes.append(littleEndian: UInt32(0x1234))
        bytes.append(littleEndian: UInt32(length))
        bytes += [isIn ? 0x80 : 0, 0, UInt8(packet.count)] + packet
        bytes += [UInt8](repeating: 0, count: 31 - bytes.count)
        try memory.write(bytes, at: GuestAddress(Self.data + 0x10_0000))
        try transfer(slot, Self.bulkOut, 31, at: Self.data + 0x10_0000)
    }

    /// The status wrapper: residue and status.
    func takeStatus(_ slot: Int) throws -> (residue: UInt32, status: UInt8)? {
        let place = Self.data + 0x11_0000
        try memory.zero(GuestAddress(place), count: 16)
        try transfer(slot, Self.bulkIn, 13, at: place)
        let bytes = try memory.bytes(GuestAddress(place), count: 13)
        guard bytes.load(littleEndian: UInt32.self, at: 0) == BulkOnly.statusSignature,
            bytes.load(littleEndian: UInt32.self, at: 4) == 0x1234
        else { return nil }
        return (bytes.load(littleEndian: UInt32.self, at: 8) ?? 0, bytes[12])
    }

    /// A whole command with data to or from `data`.
    func scsi(_ slot: Int, _ packet: [UInt8], _ count: Int, isIn: Bool) throws -> (
        residue: UInt32, status: UInt8
    )? {
        try sendCommand(slot, packet, length: count, isIn: isIn)
        if count > 0 { try transfer(slot, isIn ? Self.bulkIn : Self.bulkOut, count) }
        return try takeStatus(slot)
    }

    func dataBytes(_ count: Int, at place: UInt64 = data) throws -> [UInt8] {
        try memory.bytes(GuestAddress(place), count: count)
    }
}
