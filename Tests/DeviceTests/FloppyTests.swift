import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import ChipsetDevices
@testable import StorageDevices

/// A guest's driver of a floppy controller with a disk of 1440 KiB and one of 720 KiB, and of DMA channel 2.
final class FloppyTestDriver {
    static let ram: UInt64 = 1 << 20
    static let data: UInt64 = 0x8_0000

    let memory: GuestMemory
    let lines = RecordingInterruptSink()
    let disk: MemoryDisk, second: MemoryDisk
    let dma: DMA8237
    let controller: FloppyController
    private let ports = PortBus()

    init(_ disk: MemoryDisk = MemoryDisk(sectors: 2880), secondReadOnly: Bool = true) throws {
        memory = try GuestMemory([.init(start: 0, size: Self.ram, kind: .ram)])
        let context = DeviceContext(
            memory: memory, clock: FakeClock(now: 0), msi: RecordingMSITarget(), lines: lines,
            report: { _ in })
        self.disk = disk
        second = MemoryDisk(sectors: 1440, readOnly: secondReadOnly)
        disk.bytes = (0..<Int(disk.capacity) * 512).map { UInt8(truncatingIfNeeded: $0 >> 9 ^ $0) }
        dma = DMA8237(context)
        let drives = [disk, second].compactMap { FloppyController.Drive($0) }
        controller = try FloppyController(context, drives, channel: dma.channel(2))
        ports.attach(dma)
        ports.attach(controller)
        start()
    }

    func read(_ port: UInt16) -> UInt8 { UInt8(truncatingIfNeeded: ports.read(port: port, width: .byte)) }
    func write(_ port: UInt16, _ value: UInt8) { ports.write(port: port, width: .byte, value: UInt32(value)) }

    /// Ends a reset, and asks what every drive has to say.
    func start() {
        write(0x3F2, 0)
        write(0x3F2, 0x3C)
        for _ in 0..<4 { _ = run([0x08]) }
        _ = run([0x03, 0xAF, 0x02])
    }

    var interrupts: Bool { lines.isHigh(6) }

    /// A command and what it answers.
    func run(_ command: [UInt8]) -> [UInt8] {
        for byte in command where read(0x3F4) & 0xC0 == 0x80 { write(0x3F5, byte) }
        return result()
    }

    func result() -> [UInt8] {
        var result: [UInt8] = []
        while read(0x3F4) & 0xC0 == 0xC0, result.count < 20 { result.append(read(0x3F5)) }
        return result
    }

    func program(toMemory: Bool, address: UInt64 = data, count: Int, reloads: Bool = false) {
        write(0x0A, 6)
        write(0x0C, 0)
        write(0x0B, (toMemory ? 0x46 : 0x4A) | (reloads ? 0x10 : 0))
        write(0x04, UInt8(address & 0xFF))
        write(0x04, UInt8(address >> 8 & 0xFF))
        write(0x81, UInt8(address >> 16 & 0xFF))
        write(0x05, UInt8((count - 1) & 0xFF))
        write(0x05, UInt8((count - 1) >> 8 & 0xFF))
        write(0x0A, 2)
    }

    func seek(_ drive: UInt8, _ cylinder: UInt8) -> [UInt8] {
        _ = run([0x0F, drive, cylinder])
        return run([0x08])
    }

    /// READ or WRITE DATA from a sector to the end of the track; of 1440 KiB unless it is the second drive.
    func move(
        _ code: UInt8, _ cylinder: UInt8, _ head: UInt8, _ sector: UInt8, drive: UInt8 = 0, last: UInt8 = 18
    ) -> [UInt8] {
        run([code, head << 2 | drive, cylinder, head, sector, 2, last, 0x1B, 0xFF])
    }
}

@Suite struct FloppyTests {
    private let driver: FloppyTestDriver
    private static let data = FloppyTestDriver.data
    init() throws { driver = try FloppyTestDriver() }

    @Test(arguments: [(720, 1), (2400, 2), (1440, 3), (2880, 4), (5760, 5)] as [(UInt64, UInt8)])
    func `the size of a disk is its kind`(sectors: UInt64, type: UInt8) {
        #expect(FloppyGeometry(sectorCount: sectors)?.driveType == type)
        #expect(FloppyGeometry(sectorCount: sectors + 1) == nil)
    }

    @Test func `after a reset every drive is found once`() {
        driver.write(0x3F2, 0)
        #expect(driver.read(0x3F4) == 0 && !driver.interrupts)
        driver.write(0x3F2, 0x0C)
        #expect(driver.interrupts && driver.read(0x3F4) == 0x80)
        for drive in 0..<4 as Range<UInt8> { #expect(driver.run([0x08]) == [0xC0 | drive, 0]) }
        #expect(!driver.interrupts && driver.run([0x08]) == [0x80])
        driver.write(0x3F4, 0x80)
        #expect(driver.interrupts)
        driver.write(0x3F2, 0x04)
        #expect(!driver.interrupts, "the gate is shut")
    }

    @Test func `the controller says what it is`() {
        #expect(driver.run([0x10]) == [0x90])
        #expect(driver.run([0x13, 0, 0x57, 0]) == [] && driver.run([0x12, 0]) == [])
        let dump = driver.run([0x0E])
        #expect(dump.count == 10 && dump[4] == 0xAF && dump[8] == 0x57)
        #expect(driver.run([0x94]) == [0x10] && driver.run([0x14]) == [0])
        for code in [0x18, 0x00, 0x1F, 0x02] as [UInt8] { #expect(driver.run([code]) == [0x80]) }
        #expect(driver.run([0x04, 1]) == [0x79], "the second disk cannot be written")
        #expect(driver.run([0x04, 0]) == [0x38])
    }

    @Test func `heads move, and the sign of another disk goes away with it`() {
        #expect(driver.read(0x3F7) == 0x80)
        #expect(driver.seek(0, 7) == [0x20, 7] && driver.interrupts == false)
        #expect(driver.read(0x3F7) == 0)
        #expect(driver.seek(0, 200) == [0x20, 79])
        _ = driver.run([0x8F, 0, 9])
        #expect(driver.run([0x08]) == [0x20, 70])
        _ = driver.run([0x07, 0])
        #expect(driver.run([0x08]) == [0x20, 0])
        _ = driver.run([0x07, 2])
        #expect(driver.run([0x08]) == [0x72, 0], "there is no such drive")
        #expect(driver.run([0x4A, 0]) == [0, 0, 0, 0, 0, 1, 2])
        #expect(driver.run([0x4A, 3]) == [0x43, 1, 0, 0, 0, 1, 2])
    }

    // MARK: Data

    @Test(
        arguments: [
            (0xE6, 0, 0, 1, 36, [0, 0, 0, 1, 0, 1, 2]), (0x46, 5, 1, 18, 1, [4, 0, 0, 6, 1, 1, 2]),
            (0xE6, 79, 0, 17, 4, [0, 0, 0, 79, 1, 3, 2]),
        ] as [(UInt8, UInt8, UInt8, UInt8, Int, [UInt8])])
    func `sectors are read as far as the count goes`(
        code: UInt8, cylinder: UInt8, head: UInt8, sector: UInt8, count: Int, result: [UInt8]
    ) throws {
        _ = driver.seek(0, cylinder)
        driver.program(toMemory: true, count: count * 512)
        #expect(driver.move(code, cylinder, head, sector) == result)
        let first = ((Int(cylinder) * 2 + Int(head)) * 18 + Int(sector) - 1) * 512
        let bytes = try driver.memory.bytes(GuestAddress(Self.data), count: count * 512)
        #expect(bytes == Array(driver.disk.bytes[first..<first + count * 512]))
        // The count has run out.
        #expect(driver.read(0x08) & 4 == 4 && driver.read(0x08) == 0)
        #expect(driver.move(code, cylinder, head, sector)[1] == 0x10, "the channel is masked now")
    }

    @Test func `counts that are no sectors, and addresses at the end of a page`() throws {
        driver.program(toMemory: true, address: 0x8_FF00, count: 700)
        #expect(driver.move(0x46, 0, 0, 2) == [0, 0, 0, 0, 0, 4, 2])
        let read =
            try driver.memory.bytes(GuestAddress(0x8_FF00), count: 256)
            + driver.memory.bytes(GuestAddress(0x8_0000), count: 700 - 256)
        #expect(read == Array(driver.disk.bytes[512..<1212]))
        driver.program(toMemory: true, count: 0x1_0000, reloads: true)
        #expect(driver.move(0x46, 0, 0, 1) == [0x40, 0x80, 0, 1, 0, 1, 2], "the track ended first")
    }

    @Test func `sectors are written, and tracks formatted`() throws {
        let bytes = (0..<1536).map { UInt8(truncatingIfNeeded: $0 &* 5) }
        try driver.memory.write(bytes, at: GuestAddress(Self.data))
        driver.program(toMemory: false, count: 1300)
        #expect(driver.move(0x45, 0, 1, 3) == [4, 0, 0, 0, 1, 6, 2])
        #expect(driver.interrupts == false)
        let first = 20 * 512
        #expect(Array(driver.disk.bytes[first..<first + 1300]) == Array(bytes[0..<1300]))
        #expect(driver.disk.bytes[first + 1300..<first + 1536].allSatisfy { $0 == 0 })
        driver.program(toMemory: false, count: 18 * 4)
        #expect(driver.run([0x4D, 4, 2, 18, 0x1B, 0xF6])[0] == 4)
        #expect(driver.disk.bytes[18 * 512..<36 * 512].allSatisfy { $0 == 0xF6 })
        driver.program(toMemory: false, count: 512)
        #expect(driver.move(0x45, 0, 0, 1, drive: 1, last: 9)[0...1] == [0x41, 2], "it is write-protected")
        driver.program(toMemory: true, count: 512)
        #expect(driver.move(0x46, 0, 0, 1, drive: 1, last: 9)[0...1] == [1, 0])
    }

    // MARK: What a hostile guest may try

    @Test func `places that are not on the disk, and wrong programs, fail`() {
        driver.program(toMemory: true, count: 512)
        for (command, status) in [
            ([0x46, 0, 1, 0, 1, 2, 18, 0, 0], 4), ([0x46, 0, 0, 0, 0, 2, 18, 0, 0], 4),
            ([0x46, 0, 0, 0, 19, 2, 18, 0, 0], 4), ([0x46, 0, 0, 0, 1, 2, 19, 0, 0], 4),
            ([0x46, 0, 0, 9, 1, 2, 18, 0, 0], 4), ([0x46, 0, 0, 0, 1, 7, 18, 0, 0], 4),
            ([0x46, 2, 0, 0, 1, 2, 18, 0, 0], 1), ([0x45, 0, 0, 0, 1, 2, 18, 0, 0], 0x10),
            ([0x4D, 0, 2, 200, 0, 0], 4), ([0x4D, 0, 2, 0, 0, 0], 4),
        ] as [([UInt8], UInt8)] {
            let result = driver.run(command)
            #expect(result.count == 7 && result[0] & 0x40 != 0 && result[1] == status, "\(command)")
        }
        // Transfers by program.
        _ = driver.run([0x03, 0, 1])
        #expect(driver.move(0x46, 0, 0, 1)[1] == 0x10)
        #expect(driver.disk.operations.isEmpty)
    }

    @Test func `a command of any length stays inside its nine bytes`() {
        for _ in 0..<10_000 { driver.write(0x3F5, 0x46) }
        #expect(driver.controller.save().command.count <= 9)
        for _ in 0..<10_000 { _ = driver.read(0x3F5) }
        driver.start()
        for _ in 0..<10_000 { driver.write(0x3F5, 0x0E) }
        #expect(driver.result().count == 10)
        #expect(driver.run([0x10]) == [0x90])
    }

    @Test func `whatever byte follows whatever command, a reset ends it`() throws {
        let driver = try FloppyTestDriver(MemoryDisk(sectors: 720), secondReadOnly: false)
        for code in 0...255 as ClosedRange<UInt8> {
            for byte in 0...255 as ClosedRange<UInt8> {
                driver.write(0x3F5, code)
                for _ in 0..<12 { driver.write(0x3F5, byte) }
                let saved = driver.controller.save()
                guard saved.command.count <= 8, saved.result.count <= 10 else {
                    Issue.record("\(code) and \(byte): \(saved)")
                    return
                }
                driver.write(0x3F4, 0x80)
                guard driver.read(0x3F4) == 0x80, driver.controller.save().command.isEmpty else {
                    Issue.record("\(code) and \(byte): \(driver.read(0x3F4))")
                    return
                }
            }
        }
        driver.start()
        #expect(driver.run([0x10]) == [0x90])
        #expect(driver.disk.operations.isEmpty, "no such bytes are a transfer")
    }

    @Test func `a reset in the middle of a command forgets it`() throws {
        let held = MemoryDisk(sectors: 2880, mode: .held)
        let driver = try FloppyTestDriver(held)
        driver.program(toMemory: true, count: 512)
        #expect(driver.move(0x46, 0, 0, 1).isEmpty && held.heldCount == 1 && driver.read(0x3F4) == 0x10)
        driver.write(0x3F5, 0x10)
        driver.start()
        #expect(held.heldCount == 0 && driver.run([0x10]) == [0x90])
        #expect(driver.disk.operations == [.read])
        driver.disk.isFailing = true
        driver.program(toMemory: true, count: 512)
        _ = driver.move(0x46, 0, 0, 1)
        driver.controller.pause()
        #expect(driver.result() == [0x40, 0x20, 0x20, 0, 0, 1, 2])
    }

    @Test func `a state is saved in the middle of a command, and a damaged one is refused`() throws {
        for byte in [0x46, 0, 0, 0, 1] as [UInt8] { driver.write(0x3F5, byte) }
        driver.program(toMemory: true, count: 512)
        let saved = driver.controller.save(), channels = driver.dma.save()
        driver.controller.reset()
        driver.dma.reset()
        try driver.controller.restore(saved)
        try driver.dma.restore(channels)
        #expect(driver.controller.save() == saved && driver.dma.save() == channels)
        #expect(driver.run([2, 18, 0x1B, 0xFF])[0] == 0)
        for damage in [
            { $0.command = [0x46] + [UInt8](repeating: 0, count: 9) }, { $0.command = [0x1F, 0] },
            { $0.result = [UInt8](repeating: 0, count: 11) }, { $0.position = 1 }, { $0.cylinders = [] },
            { $0.interrupts = [] },
        ] as [(inout FloppyController.Saved) -> Void] {
            var broken = saved
            damage(&broken)
            #expect(throws: RestoreError.self) { try driver.controller.restore(broken) }
        }
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func `whatever a guest does at the ports, the disk answers afterwards`(seed: UInt64) throws {
        var random = ChipsetRandom(seed: seed)
        let mode = seed % 2 == 0 ? MemoryDisk.Mode.immediate : .threaded
        let driver = try FloppyTestDriver(MemoryDisk(sectors: 2880, mode: mode), secondReadOnly: false)
        let codes = Array(FloppyCommand.parameters.keys).sorted()
        for step in 0..<40_000 {
            switch random.below(12) {
            case 0: driver.write(0x3F0 + UInt16(random.below(8)), UInt8(random.below(256)))
            case 1: _ = driver.read(0x3F0 + UInt16(random.below(8)))
            case 2: driver.write(UInt16(random.below(16)), UInt8(random.below(256)))
            case 3: driver.write(0x81 + UInt16(random.below(15)), UInt8(random.below(256)))
            case 4: _ = driver.read(UInt16(random.below(16)))
            case 5: driver.program(toMemory: random.chance(2), count: random.below(0x1_0000) + 1)
            case 6 where step % 20 == 0: driver.start()
            case 7:
                driver.controller.pause()
                let saved = driver.controller.save()
                try driver.controller.restore(saved)
                #expect(driver.controller.save() == saved)
            case 8: _ = driver.result()
            default:
                var command = [codes[random.below(codes.count)] | UInt8(random.below(8)) << 5]
                command += (0..<8).map { _ in UInt8(random.chance(8) ? random.below(256) : random.below(20)) }
                if random.chance(2) { (command[5], command[6]) = (2, 9) }
                _ = driver.run(command)
            }
        }
        driver.controller.pause()
        driver.write(0x3F4, 0x80)
        driver.start()
        driver.write(0x08, 0)
        driver.program(toMemory: true, count: 512)
        _ = driver.seek(0, 0)
        let early = driver.move(0x46, 0, 0, 1)
        driver.controller.pause()
        #expect((early + driver.result()).first == 0)
    }
}
