import ByteLayout
import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import PCIBus
@testable import StorageDevices

@Suite struct AHCITests {
    private typealias Command = AHCITestDriver.Command
    private let driver: AHCITestDriver
    private static let data = AHCITestDriver.data
    init() throws { driver = try AHCITestDriver() }

    // MARK: The adapter

    @Test func `the adapter has six ports, of which two have devices that say what they are`() {
        #expect(driver.read(HBARegister.capabilities) & 0x1F == 5)
        #expect(driver.read(HBARegister.portsImplemented) == 0x3F)
        #expect(driver.read(HBARegister.control) & HBAControl.ahciEnable != 0)
        #expect((0..<6).map { driver.read($0, PortRegister.status) } == [0x113, 0x113, 0, 0, 0, 0])
        #expect(driver.read(0, PortRegister.signature) == 0x101)
        #expect(driver.read(1, PortRegister.signature) == 0xEB14_0101)
        #expect(driver.read(0, PortRegister.taskFile) == 0x150)
        // A register FIS with the signature came when there was a place for it.
        #expect(driver.fis(1, ReceivedFIS.register, count: 7) == [0x34, 0x40, 0x50, 1, 1, 0x14, 0xEB])
    }

    @Test func `an interrupt stays until the port and the adapter are told`() throws {
        #expect(!driver.interrupts)
        try driver.run(0, Command(code: 0xE7))
        #expect(driver.interrupts && driver.read(HBARegister.interruptStatus) == 1)
        driver.write(HBARegister.interruptStatus, 1)
        #expect(driver.interrupts, "the port still has something to say")
        driver.write(0, PortRegister.interruptStatus, ~0)
        driver.write(HBARegister.interruptStatus, 1)
        #expect(!driver.interrupts)
        driver.write(HBARegister.control, 0)
        try driver.run(0, Command(code: 0xE7))
        #expect(!driver.interrupts)
        driver.write(HBARegister.control, HBAControl.interruptEnable)
        #expect(driver.interrupts)
        driver.write(HBARegister.control, HBAControl.reset)
        #expect(!driver.interrupts && driver.read(0, PortRegister.command) == 0)
    }

    @Test func `a link reset brings the signature back and says that the device was exchanged`() {
        driver.write(1, PortRegister.control, 0x301)
        driver.write(1, PortRegister.control, 0x300)
        #expect(driver.read(1, PortRegister.error) == PortLink.exchanged)
        #expect(driver.read(1, PortRegister.interruptStatus) & PortInterrupt.connectChange != 0)
        #expect(driver.read(1, PortRegister.signature) == 0xEB14_0101)
        driver.write(1, PortRegister.error, ~0)
        #expect(driver.read(1, PortRegister.error) == 0)
    }

    @Test func `a software reset by two FISes ends with the signature`() throws {
        try driver.run(0, Command(code: 0, isControl: true, control: 4))
        try driver.memory.write([UInt8](repeating: 0, count: 20), at: GuestAddress(0x2_0040))
        try driver.run(0, Command(code: 0, isControl: true, control: 0))
        #expect(driver.read(0, PortRegister.issue) == 0)
        #expect(driver.fis(0, ReceivedFIS.register, count: 5) == [0x34, 0x40, 0x50, 1, 1])
    }

    // MARK: The disk

    @Test func `the disk says its size, its serial number and a sum that is right`() throws {
        #expect(try driver.run(0, Command(code: 0xEC, regions: [(Self.data, 512)])) == 0x50)
        let data = try driver.dataBytes(512)
        #expect(data.reduce(0, &+) == 0 && data[510] == 0xA5)
        #expect(data.load(littleEndian: UInt32.self, at: 120) == 4096)
        #expect(data.load(littleEndian: UInt64.self, at: 200) == 4096)
        #expect(Array(data[20..<28]) == Array("esirla1-".utf8))
        #expect(driver.moved(0) == 512)
        #expect(driver.fis(0, ReceivedFIS.pioSetup, count: 3) == [0x5F, 0x60, 0x50])
    }

    struct Transfer: Sendable, CustomTestStringConvertible {
        let name: String, code: UInt8, address: UInt64, device: UInt8, count: UInt16, features: UInt16
        let sectors: Int
        var testDescription: String { name }
    }
    static let reads = [
        Transfer(
            name: "READ DMA", code: 0xC8, address: 100, device: 0x40, count: 3, features: 0, sectors: 3),
        Transfer(
            name: "READ DMA EXT", code: 0x25, address: 4000, device: 0x40, count: 96, features: 0, sectors: 96
        ),
        Transfer(
            name: "READ SECTORS", code: 0x20, address: 0, device: 0x40, count: 1, features: 0, sectors: 1),
        Transfer(
            name: "READ DMA of 256", code: 0xC8, address: 1, device: 0x40, count: 0, features: 0, sectors: 256
        ),
    ]

    @Test(arguments: reads)
    func `a read brings the disk's bytes into all regions`(read: Transfer) throws {
        let bytes = read.sectors * 512
        let regions = [(Self.data, 100), (Self.data + 0x1000, 2), (Self.data + 0x2000, bytes - 102)]
        let status = try driver.run(
            0, Command(code: read.code, address: read.address, count: read.count, regions: regions))
        #expect(status == 0x50 && Int(driver.moved(0)) == bytes)
        let first = Int(read.address) * 512
        let expected = Array(driver.disk.bytes[first..<first + bytes])
        var read: [UInt8] = []
        for region in regions {
            read += try driver.memory.bytes(GuestAddress(region.0), count: region.1)
        }
        #expect(read == expected)
        #expect(driver.read(0, PortRegister.issue) == 0)
    }

    @Test func `a write goes to the disk, and with forced unit access is durable before it ends`() throws {
        let bytes = (0..<1024).map { UInt8(truncatingIfNeeded: $0 &* 5) }
        try driver.memory.write(bytes, at: GuestAddress(Self.data))
        let regions = [(Self.data, 1024)]
        #expect(try driver.run(0, Command(code: 0x35, address: 7, count: 2, regions: regions)) == 0x50)
        #expect(Array(driver.disk.bytes[7 * 512..<9 * 512]) == bytes)
        #expect(driver.disk.operations == [.write])
        #expect(try driver.run(0, Command(code: 0x3D, address: 9, count: 2, regions: regions)) == 0x50)
        #expect(driver.disk.operations == [.write, .write, .flush])
        #expect(try driver.run(0, Command(code: 0xEA)) == 0x50)
        #expect(driver.disk.operations.last == .flush)
    }

    @Test func `queued commands are under way together and end in any order`() throws {
        let held = MemoryDisk(sectors: 4096, mode: .held)
        let driver = try AHCITestDriver(disk: held)
        for slot in 0..<4 {
            try driver.prepare(
                0, slot,
                Command(
                    code: 0x60, address: UInt64(slot), count: UInt16(slot) << 3, features: 1,
                    regions: [(Self.data + UInt64(slot) * 512, 512)]))
        }
        driver.write(0, PortRegister.active, 0xF)
        driver.write(0, PortRegister.issue, 0xF)
        #expect(held.heldCount == 4)
        #expect(driver.read(0, PortRegister.issue) == 0 && driver.read(0, PortRegister.active) == 0xF)
        held.release()
        #expect(driver.read(0, PortRegister.active) == 0x7)
        #expect(driver.read(0, PortRegister.interruptStatus) & PortInterrupt.setDeviceBits != 0)
        held.drain()
        #expect(driver.read(0, PortRegister.active) == 0)
    }

    @Test func `commands that are not queued run one after the other`() throws {
        let held = MemoryDisk(sectors: 4096, mode: .held)
        let driver = try AHCITestDriver(disk: held)
        for slot in 0..<3 {
            try driver.prepare(0, slot, Command(code: 0xC8, count: 1, regions: [(Self.data, 512)]))
        }
        driver.write(0, PortRegister.issue, 7)
        #expect(held.heldCount == 1 && driver.read(0, PortRegister.taskFile) & 0x80 != 0)
        held.release()
        #expect(held.heldCount == 1 && driver.read(0, PortRegister.issue) == 6)
        driver.controller.pause()
        #expect(held.heldCount == 0 && driver.read(0, PortRegister.issue) == 4, "the last one has to wait")
        driver.controller.resume()
        #expect(held.heldCount == 1)
        held.drain()
        #expect(driver.read(0, PortRegister.issue) == 0)
    }

    @Test func `an error stops the port until it is started again`() throws {
        let status = try driver.run(
            0, Command(code: 0x25, address: 4095, count: 2, regions: [(Self.data, 1024)]))
        #expect(status == 0x1051)
        #expect(driver.read(0, PortRegister.interruptStatus) & PortInterrupt.taskFileError != 0)
        #expect(driver.read(0, PortRegister.issue) == 1)
        try driver.prepare(0, 1, Command(code: 0xE7))
        driver.write(0, PortRegister.issue, 2)
        #expect(driver.read(0, PortRegister.issue) == 3 && driver.disk.operations.isEmpty)
        driver.recover(0)
        #expect(driver.read(0, PortRegister.issue) == 0)
        #expect(try driver.run(0, Command(code: 0xE7)) == 0x50)
    }

    @Test func `a failing disk is an uncorrectable error`() throws {
        driver.disk.isFailing = true
        #expect(try driver.run(0, Command(code: 0xC8, count: 1, regions: [(Self.data, 512)])) == 0x4051)
        driver.recover(0)
        driver.disk.isFailing = false
        #expect(try driver.run(0, Command(code: 0xC8, count: 1, regions: [(Self.data, 512)])) == 0x50)
    }

    // MARK: What a hostile guest may try

    @Test(
        arguments: [
            [(AHCITestDriver.ram - 256, 512)], [(0xFFFF_FFFF_FFFF_FFFE, 512)], [],
            [(AHCITestDriver.data, 511)],
            [(0xF000_0000, 512)],
        ] as [[(UInt64, Int)]])
    func `regions that are no memory, or too small, fail the command`(regions: [(UInt64, Int)]) throws {
        #expect(try driver.run(0, Command(code: 0xC8, count: 1, regions: regions)) == 0x451)
        driver.recover(0)
        #expect(try driver.run(0, Command(code: 0xEC, regions: [(Self.data, 512)])) == 0x50)
    }

    @Test(arguments: [AHCITestDriver.ram, 0xFFFF_FC00] as [UInt64])
    func `a command list outside of memory is the host bus's error`(list: UInt64) {
        driver.write(0, PortRegister.commandList, UInt32(list))
        driver.write(0, PortRegister.commandListHigh, .max)
        driver.write(0, PortRegister.received, .max)
        driver.write(0, PortRegister.receivedHigh, .max)
        driver.write(0, PortRegister.issue, ~0)
        #expect(driver.read(0, PortRegister.interruptStatus) & PortInterrupt.hostError != 0)
        driver.recover(0)
        driver.start(0)
        driver.write(0, PortRegister.commandListHigh, 0)
        driver.write(0, PortRegister.receivedHigh, 0)
        #expect((try? driver.run(0, Command(code: 0xE7))) == 0x50)
    }

    @Test func `a command that is given up ends unseen`() throws {
        let held = MemoryDisk(sectors: 4096, mode: .held)
        let driver = try AHCITestDriver(disk: held)
        try driver.prepare(0, 0, Command(code: 0xC8, count: 1, regions: [(Self.data, 512)]))
        driver.write(0, PortRegister.issue, 1)
        driver.recover(0)
        try driver.prepare(0, 0, Command(code: 0xEC, regions: [(Self.data, 512)]))
        held.drain()
        #expect(driver.read(0, PortRegister.interruptStatus) == 0)
        driver.write(0, PortRegister.issue, 1)
        #expect(driver.read(0, PortRegister.issue) == 0)
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `random commands and registers neither trap nor hang, and the disk works afterwards`(seed: UInt64)
        throws
    {
        var random = ChipsetRandom(seed: seed)
        for _ in 0..<6000 {
            let port = random.below(3), slot = random.below(32)
            var command = Command(code: UInt8(truncatingIfNeeded: random.next()))
            if random.chance(2) { command.code = [0xA0, 0x25, 0x60, 0xC8, 0xEC, 0xA1][random.below(6)] }
            command.address = random.chance(2) ? random.value() : UInt64(random.below(5000))
            command.count = UInt16(random.below(300))
            command.features = UInt16(truncatingIfNeeded: random.value())
            if random.chance(2) {
                command.packet = (0..<16).map { _ in UInt8(truncatingIfNeeded: random.value()) }
                if random.chance(2) { command.packet[0] = [0x28, 0x43, 0x46, 0x5A, 0x12][random.below(5)] }
            }
            command.isControl = random.chance(10)
            command.control = UInt8(truncatingIfNeeded: random.next())
            command.regions = (0..<random.below(6)).map { _ in
                (
                    random.chance(4) ? random.value() : Self.data + UInt64(random.below(0x1_0000)),
                    1 + random.below(random.chance(4) ? 1 << 22 : 4096)
                )
            }
            try driver.prepare(port, slot, command)
            if random.chance(3) { driver.write(port, PortRegister.active, 1 << UInt32(slot)) }
            driver.write(port, PortRegister.issue, 1 << UInt32(slot))
            if random.chance(2) { driver.recover(port) }
            if random.chance(8) {
                let offset = UInt64(random.below(0x500)), value = UInt32(truncatingIfNeeded: random.value())
                driver.write(offset & (random.chance(8) ? ~0 : ~3), value)
                _ = driver.read(offset)
            }
            if random.chance(64) { for port in 0..<2 { driver.start(port) } }
        }
        let saved = driver.controller.save()
        try driver.controller.restore(saved)
        #expect(driver.controller.save() == saved)
        driver.write(HBARegister.control, HBAControl.reset)
        for port in 0..<2 {
            driver.write(port, PortRegister.commandListHigh, 0)
            driver.write(port, PortRegister.receivedHigh, 0)
            driver.start(port)
        }
        #expect(try driver.run(0, Command(code: 0xEC, regions: [(Self.data, 512)])) == 0x50)
    }

    @Test func `a state with impossible registers is refused`() throws {
        let good = driver.controller.save()
        var saved = good
        saved.ports[0].commandList = 1
        #expect(throws: RestoreError.self) { try driver.controller.restore(saved) }
        saved = good
        saved.ports[3].control = 0x1000
        #expect(throws: RestoreError.self) { try driver.controller.restore(saved) }
        saved = good
        saved.ports.removeLast()
        #expect(throws: RestoreError.self) { try driver.controller.restore(saved) }
        saved = good
        saved.trays[0] = saved.trays[1]
        #expect(throws: RestoreError.self) { try driver.controller.restore(saved) }
        try driver.controller.restore(good)
    }

    // MARK: The drive

    @Test func `a disk's identification is refused with the drive's signature`() throws {
        #expect(try driver.run(1, Command(code: 0xEC, regions: [(Self.data, 512)])) == 0x451)
        #expect(Array(driver.fis(1, ReceivedFIS.register)[4..<7]) == [1, 0x14, 0xEB])
        driver.recover(1)
        #expect(try driver.run(1, Command(code: 0xA1, regions: [(Self.data, 512)])) == 0x50)
        #expect(try driver.dataBytes(2) == [0xC0, 0x85])
    }

    @Test func `the drive reads its disc`() throws {
        #expect(try driver.packet([0x25]) == 0x50)
        #expect(try driver.dataBytes(8) == [0, 0, 0, 99, 0, 0, 8, 0])
        #expect(driver.moved(1) == 8)
        #expect(try driver.packet([0x28, 0, 0, 0, 0, 98, 0, 0, 2], room: 4096) == 0x50)
        #expect(try driver.dataBytes(4096) == Array(driver.disc.bytes[98 * 2048..<100 * 2048]))
        #expect(try driver.packet([0xA8, 0, 0, 0, 0, 5, 0, 0, 0, 1], room: 2048) == 0x50)
        #expect(try driver.dataBytes(2048) == Array(driver.disc.bytes[5 * 2048..<6 * 2048]))
        #expect(try driver.packet([0x12, 0, 0, 0, 36]) == 0x50)
        #expect(try driver.dataBytes(2) == [5, 0x80])
        #expect(String(decoding: try driver.dataBytes(36)[16..<22], as: UTF8.self) == "CD-ROM")
    }

    /// Runs a command that fails, and asks why: key, code, qualifier.
    private func reason(_ packet: [UInt8], room: Int = 2048) throws -> [UInt8] {
        #expect(try driver.packet(packet, room: room) & 1 != 0)
        driver.recover(1)
        #expect(try driver.packet([3, 0, 0, 0, 18]) == 0x50)
        let sense = try driver.dataBytes(18)
        return [sense[2], sense[12], sense[13]]
    }

    @Test func `what the drive refuses, it explains once`() throws {
        #expect(try reason([0x28, 0, 0, 0, 0, 99, 0, 0, 2], room: 4096) == [5, 0x21, 0])
        #expect(try reason([0x28, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF]) == [5, 0x21, 0])
        #expect(try reason([0xDE]) == [5, 0x20, 0])
        #expect(try reason([0x28, 0, 0, 0, 0, 0, 0, 0, 2], room: 2048) == [5, 0x24, 0])
        #expect(try driver.packet([3, 0, 0, 0, 18]) == 0x50)
        #expect(try driver.dataBytes(3)[2] == 0)
        driver.disc.isFailing = true
        #expect(try reason([0x28, 0, 0, 0, 0, 0, 0, 0, 1]) == [3, 0x11, 0])
    }

    @Test func `a locked tray stays shut, an open one has no disc, and a new disc is told`() throws {
        #expect(try driver.packet([0x1E, 0, 0, 0, 1]) == 0x50)
        #expect(try reason([0x1B, 0, 0, 0, 2]) == [5, 0x53, 2])
        // For the host, too.
        #expect(!driver.tray.insert(nil) && !driver.tray.insert(MemoryDisk(sectors: 40, readOnly: true)))
        #expect(try driver.packet([0x25]) == 0x50)
        #expect(try driver.packet([0x1E, 0, 0, 0, 0]) == 0x50)
        #expect(try driver.packet([0x1B, 0, 0, 0, 2]) == 0x50)
        #expect(try reason([0]) == [2, 0x3A, 0])
        driver.tray.insert(MemoryDisk(sectors: 40, readOnly: true))
        #expect(try reason([0]) == [6, 0x28, 0])
        #expect(try driver.packet([0x25]) == 0x50)
        #expect(try driver.dataBytes(4) == [0, 0, 0, 9])
        driver.tray.insert(nil)
        #expect(try reason([0x25]) == [6, 0x28, 0])
        #expect(try reason([0x25]) == [2, 0x3A, 0])
    }

    @Test func `the table of contents has one data track, in blocks and in time`() throws {
        #expect(try driver.packet([0x43, 0, 0, 0, 0, 0, 0, 0, 20]) == 0x50)
        #expect(
            try driver.dataBytes(20) == [
                0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 0, 100,
            ])
        #expect(try driver.packet([0x43, 2, 0, 0, 0, 0, 0xAA, 0, 12]) == 0x50)
        #expect(try driver.dataBytes(12) == [0, 10, 1, 1, 0, 0x14, 0xAA, 0, 0, 0, 3, 25])
        #expect(try driver.packet([0x43, 0, 0, 0, 0, 0, 0, 0, 4]) == 0x50)
        #expect(driver.moved(1) == 4)
    }
}
