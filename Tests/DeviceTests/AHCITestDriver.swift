import BlockStorage
import ByteLayout
import DeviceModel
import GuestMemory
import TestKit

@testable import PCIBus
@testable import StorageDevices

/// A guest's driver of the SATA controller: command lists in a megabyte of memory, registers through BAR 5.
final class AHCITestDriver {
    static let ram: UInt64 = 1 << 20
    static let abar: UInt64 = 0xF000_0000
    private static let list: UInt64 = 0x1_0000, received: UInt64 = 0x2_0000, tables: UInt64 = 0x3_0000
    static let data: UInt64 = 0x8_0000

    let memory: GuestMemory
    let lines = RecordingInterruptSink()
    let disk = MemoryDisk(sectors: 4096), disc = MemoryDisk(sectors: 400, readOnly: true)
    let tray: CDTray
    let controller: AHCIController
    private let mmio = MMIOBus()
    private let bridge: PCIHostBridge

    /// The disk is in port 0, the drive in port 1.
    init(disk replacement: (any BlockBackend)? = nil, ram: UInt64 = ram) throws {
        memory = try GuestMemory([.init(start: 0, size: ram, kind: .ram)])
        let context = DeviceContext(
            memory: memory, clock: FakeClock(now: 0), msi: RecordingMSITarget(), lines: lines,
            report: { _ in })
        tray = CDTray(disc)
        disk.bytes = (0..<4096 * 512).map { UInt8(truncatingIfNeeded: $0 >> 9 ^ $0) }
        disc.bytes = (0..<400 * 512).map { UInt8(truncatingIfNeeded: $0 >> 11 &+ 3 &* $0) }
        controller = AHCIController(
            context, [.disk(replacement ?? disk, serial: "serial-1"), .drive(tray)])
        bridge = PCIHostBridge(context: context, mmio: mmio, portBus: PortBus())
        bridge.insert(controller.function, slot: 31, function: 2)
        controller.function.writeConfig(offset: 0x24, count: 4, value: UInt32(Self.abar))
        controller.function.writeConfig(offset: 4, count: 2, value: 7)
        for port in 0..<2 { start(port) }
        write(HBARegister.control, HBAControl.interruptEnable)
    }

    func read(_ offset: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: mmio.read(Self.abar + offset, width: .dword))
    }
    func write(_ offset: UInt64, _ value: UInt32) {
        mmio.write(Self.abar + offset, width: .dword, value: UInt64(value))
    }
    private func place(_ port: Int, _ register: UInt64) -> UInt64 {
        HBARegister.firstPort + UInt64(port) * HBARegister.portSize + register
    }
    func read(_ port: Int, _ register: UInt64) -> UInt32 { read(place(port, register)) }
    func write(_ port: Int, _ register: UInt64, _ value: UInt32) { write(place(port, register), value) }

    func start(_ port: Int) {
        write(port, PortRegister.commandList, UInt32(Self.list + UInt64(port) * 0x400))
        write(port, PortRegister.received, UInt32(Self.received + UInt64(port) * 0x100))
        write(port, PortRegister.command, PortCommand.receive)
        write(port, PortRegister.command, PortCommand.receive | PortCommand.start)
        write(port, PortRegister.interruptEnable, PortInterrupt.enableMask)
    }

    var interrupts: Bool { lines.isHigh(19) }

    func fis(_ port: Int, _ place: UInt64, count: Int = 20) -> [UInt8] {
        (try? memory.bytes(GuestAddress(Self.received + UInt64(port) * 0x100 + place), count: count)) ?? []
    }

    struct Command {
        var code: UInt8
        var address: UInt64 = 0
        var count: UInt16 = 0
        var features: UInt16 = 0
        var device: UInt8 = 0x40
        var packet: [UInt8] = []
        /// Address and size of each region.
        var regions: [(UInt64, Int)] = []
        var isControl = false
        var control: UInt8 = 0
        var type = ReceivedFIS.toDevice
        /// Of the FIS, in dwords.
        var length: UInt32 = 5
        /// Instead of the number of `regions`, when these are in a table elsewhere.
        var table: (address: UInt64, entries: UInt32)?
    }

    /// Puts a command into its slot, without issuing it.
    func prepare(_ port: Int, _ slot: Int, _ command: Command) throws {
        var fis: [UInt8] = [
            command.type, command.isControl ? 0 : 0x80, command.code, UInt8(command.features & 0xFF),
        ]
        for shift in [0, 8, 16] as [UInt64] {
            fis.append(UInt8(truncatingIfNeeded: command.address >> shift))
        }
        fis.append(command.device)
        for shift in [24, 32, 40] as [UInt64] {
            fis.append(UInt8(truncatingIfNeeded: command.address >> shift))
        }
        fis.append(UInt8(command.features >> 8))
        fis.append(littleEndian: command.count)
        fis += [0, command.control]
        let table = command.table?.address ?? Self.tables + UInt64(port * 32 + slot) * 0x800
        try memory.write(fis, at: GuestAddress(table))
        try memory.write(command.packet, at: GuestAddress(table + 0x40))
        for (index, region) in command.regions.enumerated() {
            var entry: [UInt8] = []
            entry.append(littleEndian: region.0)
            entry.append(littleEndian: UInt32(0))
            entry.append(littleEndian: UInt32(truncatingIfNeeded: region.1 - 1))
            try memory.write(entry, at: GuestAddress(table + 0x80 + UInt64(index) * 16))
        }
        var header: [UInt8] = []
        let entries = command.table?.entries ?? UInt32(command.regions.count)
        let flags = command.length | (command.packet.isEmpty ? 0 : 0x20) | entries << 16
        header.append(littleEndian: flags)
        header.append(littleEndian: UInt32(0))
        header.append(littleEndian: table)
        try memory.write(header, at: GuestAddress(headerAddress(port, slot)))
    }

    func headerAddress(_ port: Int, _ slot: Int) -> UInt64 {
        Self.list + UInt64(port) * 0x400 + UInt64(slot) * 32
    }

    /// Bytes that the adapter says it moved.
    func moved(_ port: Int, _ slot: Int = 0) -> UInt32 {
        (try? memory.load(UInt32.self, at: GuestAddress(headerAddress(port, slot) + 4))) ?? 0
    }

    /// One command in slot 0, to its end. Returns the task file: status, and the error above it.
    @discardableResult func run(_ port: Int, _ command: Command) throws -> UInt32 {
        try prepare(port, 0, command)
        write(port, PortRegister.interruptStatus, ~0)
        write(port, PortRegister.issue, 1)
        return read(port, PortRegister.taskFile)
    }

    /// Stops and starts the port, as a driver does after an error.
    func recover(_ port: Int) {
        write(port, PortRegister.command, PortCommand.receive)
        write(port, PortRegister.interruptStatus, ~0)
        write(port, PortRegister.command, PortCommand.receive | PortCommand.start)
    }

    /// An ATAPI command of the drive with data to `Self.data`.
    @discardableResult func packet(_ bytes: [UInt8], room: Int = 0x1000) throws -> UInt32 {
        let packet = bytes + [UInt8](repeating: 0, count: 16 - bytes.count)
        return try run(
            1, Command(code: 0xA0, features: 1, packet: packet, regions: [(Self.data, room)]))
    }

    func dataBytes(_ count: Int) throws -> [UInt8] {
        try memory.bytes(GuestAddress(Self.data), count: count)
    }
}
