import BlockStorage
import ByteLayout
import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import PCIBus
@testable import StorageDevices

/// A guest's driver of an IDE controller: a disk as the first drive of the first channel, a CD drive as the
/// second, and a disk alone on the second channel.
final class IDETestDriver {
    static let ram: UInt64 = 1 << 20
    static let data: UInt64 = 0x8_0000
    static let table: UInt64 = 0x1_0000
    static let master: UInt16 = 0xC000

    let memory: GuestMemory
    let lines = RecordingInterruptSink()
    let disk: MemoryDisk, other = MemoryDisk(sectors: 64)
    let disc = MemoryDisk(sectors: 4000, readOnly: true)
    let tray: CDTray
    let controller: IDEController
    let ports = PortBus()
    private let bridge: PCIHostBridge

    /// `replacement` takes the place of `disk`.
    init(
        _ disk: MemoryDisk = MemoryDisk(sectors: 4096), replacement: (any BlockBackend)? = nil
    ) throws {
        memory = try GuestMemory([.init(start: 0, size: Self.ram, kind: .ram)])
        let context = DeviceContext(
            memory: memory, clock: FakeClock(now: 0), msi: RecordingMSITarget(), lines: lines,
            report: { _ in })
        self.disk = disk
        disk.bytes = (0..<Int(disk.capacity) * 512).map { UInt8(truncatingIfNeeded: $0 >> 9 ^ $0) }
        disc.bytes = (0..<4000 * 512).map { UInt8(truncatingIfNeeded: $0 >> 11 &+ 3 &* $0) }
        tray = CDTray(disc)
        controller = try IDEController(
            context,
            [
                .disk(replacement ?? disk, serial: "serial-1"), .drive(tray),
                .disk(other, serial: "serial-2"),
            ])
        bridge = PCIHostBridge(context: context, mmio: MMIOBus(), portBus: ports)
        ports.attach(controller)
        bridge.insert(controller.function, slot: 5)
        controller.function.writeConfig(offset: 0x20, count: 4, value: UInt32(Self.master))
        controller.function.writeConfig(offset: 4, count: 2, value: 5)
    }

    func read(_ port: UInt16) -> UInt8 { UInt8(truncatingIfNeeded: ports.read(port: port, width: .byte)) }
    func write(_ port: UInt16, _ value: UInt8) { ports.write(port: port, width: .byte, value: UInt32(value)) }

    /// Selects a drive of the first channel and writes a command; two bytes of `address` and `count` each
    /// when it is an extended one.
    func command(
        _ code: UInt8, drive: UInt8 = 0, address: UInt64 = 0, count: UInt16 = 1, features: UInt8 = 0,
        isExtended: Bool = false, base: UInt16 = 0x1F0
    ) {
        let head = isExtended ? 0 : UInt8(address >> 24 & 0xF)
        write(base + 6, 0xE0 | drive << 4 | head)
        write(base + 1, features)
        if isExtended {
            write(base + 2, UInt8(count >> 8))
            for place in 0..<3 as Range<UInt16> {
                write(base + 3 + place, UInt8(address >> (24 + 8 * UInt64(place)) & 0xFF))
            }
        }
        write(base + 2, UInt8(count & 0xFF))
        for place in 0..<3 as Range<UInt16> {
            write(base + 3 + place, UInt8(address >> (8 * UInt64(place)) & 0xFF))
        }
        write(base + 7, code)
    }

    var status: UInt8 { read(0x1F7) }
    var interrupts: Bool { lines.isHigh(14) }

    /// Reads `count` bytes by words, as long as there is data.
    func readData(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count, read(0x3F6) & 8 != 0 {
            let word = ports.read(port: 0x1F0, width: bytes.count % 1024 == 0 ? .dword : .word)
            let width = bytes.count % 1024 == 0 ? 4 : 2
            for index in 0..<width { bytes.append(UInt8(truncatingIfNeeded: word >> UInt32(8 * index))) }
        }
        return bytes
    }

    func writeData(_ bytes: [UInt8]) {
        for place in stride(from: 0, to: bytes.count, by: 2) {
            ports.write(
                port: 0x1F0, width: .word, value: UInt32(bytes[place]) | UInt32(bytes[place + 1]) << 8)
        }
    }

    /// Puts regions into the table of the bus master, and starts that.
    func startMaster(_ regions: [(UInt64, Int)], toMemory: Bool, table: UInt64 = table) throws {
        for (index, region) in regions.enumerated() {
            var entry: [UInt8] = []
            entry.append(littleEndian: UInt32(truncatingIfNeeded: region.0))
            entry.append(littleEndian: UInt16(truncatingIfNeeded: region.1))
            entry.append(littleEndian: UInt16(index == regions.count - 1 ? 0x8000 : 0))
            try memory.write(entry, at: GuestAddress(table + UInt64(index) * 8))
        }
        ports.write(port: Self.master + 4, width: .dword, value: UInt32(truncatingIfNeeded: table))
        write(Self.master + 2, 6)
        write(Self.master, toMemory ? 9 : 1)
    }

    func stopMaster() { write(Self.master, 0) }

    /// A packet for the CD drive; `limit` bytes at a time.
    func packet(_ bytes: [UInt8], limit: UInt16 = 2048, usesMaster: Bool = false) {
        command(0xA0, drive: 1, address: UInt64(limit) << 8, features: usesMaster ? 1 : 0)
        writeData(bytes + [UInt8](repeating: 0, count: 12 - bytes.count))
    }
}

@Suite struct IDETests {
    private let driver: IDETestDriver
    private static let data = IDETestDriver.data
    init() throws { driver = try IDETestDriver() }

    // MARK: Drives

    @Test func `drives say who they are after a reset, and a place without one is silent`() throws {
        func signature(_ base: UInt16, _ drive: UInt8) -> [UInt8] {
            driver.write(base + 6, 0xA0 | drive << 4)
            return (2...5).map { driver.read(base + $0) } + [driver.read(base + 7)]
        }
        driver.write(0x3F6, 4)
        #expect(driver.status == 0x80)
        driver.write(0x3F6, 0)
        #expect(signature(0x1F0, 0) == [1, 1, 0, 0, 0x50])
        #expect(signature(0x1F0, 1) == [1, 1, 0x14, 0xEB, 0])
        #expect(signature(0x170, 0) == [1, 1, 0, 0, 0x50])
        #expect(signature(0x170, 1) == [0, 0, 0, 0, 0])
        driver.write(0x177, 0xEC)
        #expect(driver.read(0x177) == 0)
        let context = DeviceContext(
            memory: driver.memory, clock: FakeClock(now: 0), msi: RecordingMSITarget(),
            lines: RecordingInterruptSink(), report: { _ in })
        let alone = try IDEController(context, [.drive(CDTray(nil))])
        for port in [0x177, 0x376] as [UInt16] {
            #expect(alone.read(port: port, width: .byte) & 0xFF == 0, "not busy: there is no drive")
        }
    }

    @Test func `identification is read by words, and its interrupt ends with the status`() {
        driver.command(0xEC)
        #expect(driver.interrupts && driver.read(0x3F6) == 0x58)
        #expect(driver.status == 0x58 && !driver.interrupts)
        let data = driver.readData(512)
        #expect(data.count == 512 && data.reduce(0, &+) == 0)
        #expect(data.load(littleEndian: UInt32.self, at: 120) == 4096)
        #expect(driver.status == 0x50 && !driver.interrupts)
        driver.command(0xA1, drive: 1)
        #expect(driver.readData(512).prefix(2) == [0xC0, 0x85])
        driver.command(0xEC, drive: 1)
        #expect(driver.status & 1 != 0 && driver.read(0x1F4) == 0x14 && driver.read(0x1F5) == 0xEB)
        driver.command(0xEC, base: 0x170)
        #expect(driver.lines.isHigh(15) && !driver.interrupts)
    }

    @Test func `without interrupts there are none`() {
        driver.write(0x3F6, 2)
        driver.command(0xEC)
        #expect(!driver.interrupts)
        driver.write(0x3F6, 0)
        #expect(driver.interrupts)
    }

    // MARK: Data

    @Test(
        arguments: [(0x20, 1, false), (0x20, 0, false), (0xC4, 3, false), (0x24, 300, true)]
            as [(UInt8, UInt16, Bool)])
    func `sectors are read one by one`(code: UInt8, count: UInt16, isExtended: Bool) {
        let sectors = count == 0 ? 256 : Int(count)
        driver.command(code, address: 1000, count: count, isExtended: isExtended)
        #expect(driver.interrupts)
        let bytes = driver.readData(sectors * 512)
        #expect(bytes == Array(driver.disk.bytes[1000 * 512..<(1000 + sectors) * 512]))
        #expect(driver.status == 0x50)
    }

    @Test(arguments: [(0x30, 1, false), (0x30, 0, false), (0x34, 129, true)] as [(UInt8, UInt16, Bool)])
    func `sectors are written one by one`(code: UInt8, count: UInt16, isExtended: Bool) {
        let sectors = count == 0 ? 256 : Int(count)
        let bytes = (0..<sectors * 512).map { UInt8(truncatingIfNeeded: $0 &* 7 >> 3) }
        driver.command(code, address: 2000, count: count, isExtended: isExtended)
        #expect(!driver.interrupts && driver.status == 0x58)
        for sector in 0..<sectors {
            driver.writeData(Array(bytes[sector * 512..<(sector + 1) * 512]))
            #expect(driver.interrupts)
            #expect(driver.status == (sector == sectors - 1 ? 0x50 : 0x58))
        }
        #expect(Array(driver.disk.bytes[2000 * 512..<(2000 + sectors) * 512]) == bytes)
    }

    @Test func `cylinders, heads and sectors are addresses too`() {
        // Cylinder 2, head 3, sector 4.
        for (port, value) in [(0x1F6, 0xA3), (0x1F2, 1), (0x1F3, 4), (0x1F4, 2), (0x1F5, 0), (0x1F7, 0x20)]
            as [(UInt16, UInt8)]
        { driver.write(port, value) }
        let first = ((2 * 16 + 3) * 63 + 3) * 512
        #expect(driver.readData(512) == Array(driver.disk.bytes[first..<first + 512]))
    }

    @Test(arguments: [true, false])
    func `the bus master reads and writes, whichever is started first`(masterFirst: Bool) throws {
        let regions = [(Self.data, 512), (Self.data + 0x1000, 512), (Self.data + 0x2000, 0x1_0000)]
        if masterFirst { try driver.startMaster(regions, toMemory: true) }
        driver.command(0xC8, address: 16, count: 130)
        if !masterFirst {
            #expect(!driver.interrupts)
            try driver.startMaster(regions, toMemory: true)
        }
        #expect(driver.interrupts && driver.read(IDETestDriver.master + 2) == 4)
        #expect(driver.status == 0x50)
        driver.stopMaster()
        var bytes: [UInt8] = []
        for region in regions { bytes += try driver.memory.bytes(GuestAddress(region.0), count: region.1) }
        #expect(bytes == Array(driver.disk.bytes[16 * 512..<146 * 512]))
        driver.command(0x35, address: 3000, count: 130, isExtended: true)
        try driver.startMaster(regions, toMemory: false)
        #expect(driver.status == 0x50)
        #expect(Array(driver.disk.bytes[3000 * 512..<3130 * 512]) == bytes)
    }

    // MARK: Discs

    @Test func `a disc is read through the data register, a limit at a time`() {
        driver.packet([0x00])
        #expect(driver.status == 0x51 || driver.status == 0x50)
        for limit in [2048, 0xFFFF, 100] as [UInt16] {
            // READ(12), 40 blocks: more than the channel holds.
            driver.packet([0xA8, 0, 0, 0, 0, 5, 0, 0, 0, 40], limit: limit)
            #expect(driver.interrupts && driver.read(0x1F2) & 3 == 2)
            let room = UInt16(driver.read(0x1F4)) | UInt16(driver.read(0x1F5)) << 8
            #expect(room == min(limit & ~1, 0xFFFE))
            let bytes = driver.readData(40 * 2048)
            #expect(bytes == Array(driver.disc.bytes[5 * 2048..<45 * 2048]))
            #expect(driver.read(0x1F2) & 3 == 3 && driver.status == 0x50)
        }
        driver.packet([0x12, 0, 0, 0, 36], limit: 0xFFFE)
        #expect(driver.readData(100).count == 36)
        driver.packet([0xA8, 0, 0, 0, 3, 230, 0, 0, 0, 40])
        #expect(driver.status & 1 != 0 && driver.read(0x1F1) >> 4 == 5)
    }

    @Test func `a disc is read by the bus master`() throws {
        driver.packet([0x28, 0, 0, 0, 0, 7, 0, 0, 2], usesMaster: true)
        try driver.startMaster([(Self.data, 4096)], toMemory: true)
        #expect(driver.interrupts && driver.status == 0x50)
        #expect(
            try driver.memory.bytes(GuestAddress(Self.data), count: 4096)
                == Array(driver.disc.bytes[7 * 2048..<9 * 2048]))
    }

    // MARK: What a hostile guest may try

    @Test func `sectors that are not there, and commands that are none, are errors`() {
        driver.command(0x20, address: 4095, count: 2)
        #expect(driver.status == 0x51 && driver.read(0x1F1) == 0x10)
        driver.command(0x30, address: 4096)
        driver.writeData([UInt8](repeating: 0, count: 512))
        #expect(driver.status == 0x51)
        for code in [0x60, 0x61, 0xFF, 0x08, 0xA0] as [UInt8] {
            driver.command(code)
            #expect(driver.status & 1 != 0, "\(code)")
        }
        driver.command(0xC6, count: 16)
        #expect(driver.status & 1 != 0)
        driver.command(0xC6, count: 1)
        #expect(driver.status == 0x50)
    }

    @Test(
        arguments: [
            [(IDETestDriver.ram - 256, 512)], [(0xFFFF_FFFE, 512)], [(IDETestDriver.data, 510)],
        ] as [[(UInt64, Int)]])
    func `regions that are no memory, or too small, fail the command`(regions: [(UInt64, Int)]) throws {
        driver.command(0xC8)
        try driver.startMaster(regions, toMemory: true)
        #expect(driver.read(IDETestDriver.master + 2) == 6 && driver.status == 0x51)
        driver.command(0xC8)
        try driver.startMaster([(Self.data, 512)], toMemory: true)
        #expect(driver.status == 0x50)
    }

    @Test func `a table outside of memory is the bus master's error`() throws {
        driver.command(0xC8)
        driver.stopMaster()
        driver.ports.write(port: IDETestDriver.master + 4, width: .dword, value: UInt32(IDETestDriver.ram))
        driver.write(IDETestDriver.master, 9)
        #expect(driver.read(IDETestDriver.master + 2) == 6 && driver.status == 0x51)
    }

    @Test func `a reset in the middle of a transfer forgets it`() throws {
        let held = MemoryDisk(sectors: 4096, mode: .held)
        let driver = try IDETestDriver(held)
        driver.command(0x20, count: 4)
        #expect(driver.status == 0x80 && held.heldCount == 1)
        driver.command(0xEC)
        #expect(driver.status == 0x80, "nobody hears a command meanwhile")
        driver.write(0x3F6, 4)
        driver.write(0x3F6, 0)
        #expect(held.heldCount == 0 && driver.status == 0x50 && !driver.interrupts)
        #expect(driver.readData(512).isEmpty)
        driver.command(0xEC)
        #expect(driver.readData(512).count == 512)
    }

    @Test func `a state is saved in the middle of a transfer, and a damaged one is refused`() throws {
        driver.command(0x20, address: 9, count: 200)
        let first = driver.readData(700)
        driver.controller.pause()
        let saved = driver.controller.save()
        driver.controller.reset()
        try driver.controller.restore(saved)
        #expect(driver.controller.save() == saved)
        let rest = driver.readData(200 * 512 - first.count)
        #expect(first + rest == Array(driver.disk.bytes[9 * 512..<209 * 512]))
        for damage in [
            { $0.channels[0].position = 70_000 }, { $0.channels[0].blockEnd = 0 },
            { $0.channels[0].phase = .working }, { $0.channels.removeLast() }, { $0.trays = [] },
            { $0.channels[0].drives = [] },
        ] as [(inout IDEController.Saved) -> Void] {
            var broken = saved
            damage(&broken)
            #expect(throws: RestoreError.self) { try driver.controller.restore(broken) }
        }
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func `whatever a guest does at the ports, the disk answers afterwards`(seed: UInt64) throws {
        var random = ChipsetRandom(seed: seed)
        let driver = try IDETestDriver(
            MemoryDisk(sectors: 4096, mode: seed % 2 == 0 ? .immediate : .threaded))
        let codes: [UInt8] = [
            0x20, 0x24, 0x30, 0x34, 0xC8, 0xCA, 0x25, 0x35, 0xEC, 0xA0, 0xA1, 0xE7, 0x90, 0x08, 0xC6, 0x40,
        ]
        for step in 0..<40_000 {
            let base: UInt16 = random.chance(4) ? 0x170 : 0x1F0
            switch random.below(24) {
            case 0: driver.write(base + 0x206, random.chance(8) ? UInt8(random.below(256)) : 0)
            case 1...3: driver.write(base + 7, codes[random.below(codes.count)])
            case 4: driver.write(base + UInt16(random.below(8)), UInt8(random.below(256)))
            case 5: _ = driver.read(base + UInt16(random.below(8)))
            case 6: driver.write(base + 6, UInt8(random.below(32)) | 0xE0)
            case 7:
                let regions = (0..<random.below(4) + 1).map { _ in
                    (
                        random.chance(4) ? random.value() : UInt64(random.below(0x10_0000)),
                        random.below(0x1_0000)
                    )
                }
                try driver.startMaster(
                    regions, toMemory: true,
                    table: random.chance(8) ? random.value() & 0xF_FFC0 : 0x1_0000)
            case 8: driver.write(IDETestDriver.master + UInt16(random.below(16)), UInt8(random.below(256)))
            case 9 where step % 10 == 0:
                driver.controller.pause()
                let saved = driver.controller.save()
                try driver.controller.restore(saved)
                #expect(driver.controller.save() == saved)
            case 10...15:
                for _ in 0..<random.below(300) { _ = driver.ports.read(port: base, width: .dword) }
            default:
                for _ in 0..<random.below(300) {
                    driver.ports.write(
                        port: base, width: .dword, value: UInt32(truncatingIfNeeded: random.value()))
                }
            }
        }
        driver.controller.pause()
        driver.write(0x3F6, 4)
        driver.write(0x3F6, 0)
        driver.command(0xEC)
        driver.controller.pause()
        #expect(driver.readData(512).count == 512)
    }
}
