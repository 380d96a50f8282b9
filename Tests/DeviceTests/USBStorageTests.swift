import BlockStorage
import GuestMemory
import TestKit
import Testing

@testable import PCIBus
@testable import USBDevices

/// A stick behind the controller, and what hostile rings do to it.
@Suite struct USBStorageTests {
    private typealias Driver = XHCITestDriver
    private let driver: XHCITestDriver
    private let slot: Int

    init() throws {
        driver = try XHCITestDriver()
        try driver.start()
        slot = try driver.startStick()
    }

    private static func read10(_ first: UInt8, _ count: UInt8) -> [UInt8] {
        [0x28, 0, 0, 0, 0, first, 0, 0, count, 0]
    }
    private static func write10(_ first: UInt8, _ count: UInt8, durable: Bool = false) -> [UInt8] {
        [0x2A, durable ? 8 : 0, 0, 0, 0, first, 0, 0, count, 0]
    }

    @Test func `the stick is a SCSI disk`() throws {
        #expect(try driver.control(slot, 0xA1, BulkOnly.getMaximumUnit, length: 1).data == [0])
        let inquiry = try #require(try driver.scsi(slot, [0x12, 0, 0, 0, 36, 0], 36, isIn: true))
        #expect(inquiry == (0, 0))
        #expect(Array(try driver.dataBytes(16)[8...]) == Array("OSPITE  ".utf8))
        let ask: [UInt8] = [0x25] + [UInt8](repeating: 0, count: 9)
        let capacity = try #require(try driver.scsi(slot, ask, 8, isIn: true))
        #expect(capacity == (0, 0))
        #expect(try driver.dataBytes(8) == [0, 0, 0x0F, 0xFF, 0, 0, 2, 0])
        #expect(try driver.scsi(slot, [0, 0, 0, 0, 0, 0], 0, isIn: false)! == (0, 0))
    }

    @Test(arguments: [1, 2, 17]) func `sectors are read into any buffers, in any number of transfers`(
        parts: Int
    ) throws {
        try driver.sendCommand(slot, Self.read10(5, 34), length: 34 * 512, isIn: true)
        let size = 34 * 512 / parts
        for part in 0..<parts {
            let place = Driver.data + UInt64(part * size)
            // Two chained blocks, the second one of an odd length.
            try driver.transfer(slot, Driver.bulkIn, size - 17, at: place, rings: false, flags: TRBFlag.chain)
            try driver.transfer(slot, Driver.bulkIn, 17, at: place + UInt64(size - 17))
        }
        #expect(try driver.takeStatus(slot)! == (0, 0))
        #expect(try driver.dataBytes(34 * 512) == Array(driver.disk.bytes[5 * 512..<39 * 512]))
    }

    @Test func `sectors are written, and durable when the command says so`() throws {
        let bytes = (0..<1024).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        try driver.memory.write(bytes, at: GuestAddress(Driver.data))
        #expect(try driver.scsi(slot, Self.write10(9, 2), 1024, isIn: false)! == (0, 0))
        #expect(Array(driver.disk.bytes[9 * 512..<11 * 512]) == bytes)
        #expect(try driver.scsi(slot, Self.write10(9, 2, durable: true), 1024, isIn: false)! == (0, 0))
        #expect(driver.disk.operations == [.write, .write, .flush])
        let synchronize: [UInt8] = [0x35] + [UInt8](repeating: 0, count: 9)
        #expect(try driver.scsi(slot, synchronize, 0, isIn: false)! == (0, 0))
        #expect(driver.disk.operations.last == .flush)
    }

    @Test func `blocks are given up and zeroed`() throws {
        // Two ranges: 4 sectors from 16, 2 from 32.
        let list: [UInt8] =
            [0, 38, 0, 32, 0, 0, 0, 0] + [0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 4, 0, 0, 0, 0]
            + [0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0, 0, 0]
        try driver.memory.write(list, at: GuestAddress(Driver.data))
        let unmap: [UInt8] = [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0]
        #expect(try driver.scsi(slot, unmap, 40, isIn: false)! == (0, 0))
        #expect(driver.disk.operations == [.discard, .discard])
        try driver.memory.zero(GuestAddress(Driver.data), count: 512)
        let same: [UInt8] = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0]
        #expect(try driver.scsi(slot, same, 512, isIn: false)! == (0, 0))
        #expect(driver.disk.operations.last == .writeZeroes(mayUnmap: false))
        try driver.memory.write([1], at: GuestAddress(Driver.data))
        #expect(try driver.scsi(slot, same, 512, isIn: false)! == (0, 1))
    }

    /// BOT §6.7: what the host expects and what the command moves need not agree.
    @Test func `residues and statuses tell of failures and disagreements`() throws {
        #expect(try driver.scsi(slot, [0x12, 0, 0, 0, 36, 0], 100, isIn: true)! == (64, 0), "Hi > Di")
        #expect(try driver.scsi(slot, Self.read10(0, 2), 512, isIn: true)! == (0, 2), "Hi < Di")
        #expect(try driver.scsi(slot, Self.read10(0, 2), 0, isIn: true)! == (0, 2), "Hn < Di")
        #expect(try driver.scsi(slot, Self.read10(0, 1), 512, isIn: false)! == (0, 2), "Ho <> Di")
        #expect(try driver.scsi(slot, [0xEE, 0, 0, 0, 0, 0], 512, isIn: true)! == (512, 1))
        #expect(try driver.scsi(slot, [3, 0, 0, 0, 18, 0], 18, isIn: true)! == (0, 0))
        #expect(try driver.dataBytes(13)[2] == 5 && driver.dataBytes(13)[12] == 0x20)
        #expect(try driver.scsi(slot, [3, 0, 0, 0, 18, 0], 18, isIn: true)! == (0, 0))
        #expect(try driver.dataBytes(3)[2] == 0, "it is told once")
        driver.disk.isFailing = true
        #expect(try driver.scsi(slot, Self.read10(0, 1), 512, isIn: true)! == (512, 1))
        #expect(try driver.scsi(slot, Self.write10(0, 1), 512, isIn: false)! == (0, 1))
        driver.disk.isFailing = false
        #expect(try driver.scsi(slot, Self.read10(0, 1), 512, isIn: true)! == (0, 0))
    }

    @Test func `what is no command stalls until the stick is reset`() throws {
        try driver.memory.write([UInt8](repeating: 0x55, count: 31), at: GuestAddress(Driver.data))
        _ = try driver.takeEvents()
        try driver.transfer(slot, Driver.bulkOut, 31)
        #expect(try driver.takeEvent()?.code == TRBCompletion.stall)
        try driver.transfer(slot, Driver.bulkIn, 13)
        #expect(try driver.takeEvent()?.code == TRBCompletion.stall)
        #expect(try driver.control(slot, 0x21, BulkOnly.reset).code == TRBCompletion.success)
        for (endpoint, address) in [(Driver.bulkIn, UInt16(0x81)), (Driver.bulkOut, 2)] {
            #expect(try driver.command(TRBType.resetEndpoint, slot: slot, endpoint: endpoint)?.code == 1)
            let next = try driver.put(Driver.ring(slot, endpoint), 0, 0, TRBType.noOperation << 10)
            let moved = try driver.command(
                TRBType.setDequeuePointer, next | 1, slot: slot, endpoint: endpoint)
            #expect(moved?.code == 1)
            #expect(try driver.control(slot, 2, USBRequest.clearFeature, 0, address).code == 1)
        }
        #expect(try driver.scsi(slot, Self.read10(0, 1), 512, isIn: true)! == (0, 0))
    }

    @Test func `a stop waits for the disk, and a reset of the controller too`() throws {
        for isReset in [false, true] {
            let driver = try XHCITestDriver(MemoryDisk(sectors: 64, mode: .held))
            try driver.start()
            let slot = try driver.startStick()
            try driver.sendCommand(slot, Self.read10(1, 1), length: 512, isIn: true)
            _ = try driver.takeEvents()
            try driver.transfer(slot, Driver.bulkIn, 512)
            #expect(driver.disk.heldCount == 1)
            #expect(try driver.takeEvent() == nil)
            if isReset {
                driver.write(XHCIRegister.command, XHCICommandRegister.reset)
            } else {
                try driver.put(
                    Driver.commands, 0, 0, TRBType.stopEndpoint << 10 | UInt32(slot) << 24 | 3 << 16)
                driver.write(XHCIRegister.doorbells, 0)
                #expect(try driver.takeEvents().map(\.code) == [1, 1])
            }
            #expect(driver.disk.heldCount == 0)
            #expect(try driver.dataBytes(512) == Array(driver.disk.bytes[512..<1024]))
        }
    }

    // MARK: Hostile rings

    @Test func `links that lead in a circle are an error, not a circle`() throws {
        let place = Driver.ring(slot, Driver.bulkOut)
        let loop = TRB(parameter: place, status: 0, control: TRBType.link << 10 | 1)
        try driver.memory.store(loop, at: GuestAddress(place))
        _ = try driver.takeEvents()
        driver.ring(slot, Driver.bulkOut)
        #expect(try driver.takeEvent()?.code == TRBCompletion.blockError)
        #expect(try driver.contextWord(slot, Driver.bulkOut, 0) & 7 == 4)
        try driver.memory.store(
            TRB(parameter: Driver.commands, status: 0, control: TRBType.link << 10 | 1),
            at: GuestAddress(Driver.commands))
        driver.writeLong(XHCIRegister.command, 0)
        driver.writeLong(XHCIRegister.commandRing, Driver.commands | 1)
        driver.write(XHCIRegister.command, 1)
        driver.write(XHCIRegister.doorbells, 0)
        #expect(driver.read(XHCIRegister.status) & XHCIStatus.controllerError != 0)
    }

    @Test(arguments: [
        (XHCITestDriver.ram - 8, UInt32(31), TRBType.normal), (0xFFFF_FFFF_FFFF_FFF0, 31, TRBType.normal),
        (0x1000, 0x1_FFFF, TRBType.normal), (0x1000, 31, 60),
    ]) func `bad blocks stop an endpoint`(address: UInt64, length: UInt32, type: UInt32) throws {
        _ = try driver.takeEvents()
        try driver.put(Driver.ring(slot, Driver.bulkOut), address, length, type << 10 | TRBFlag.onCompletion)
        driver.ring(slot, Driver.bulkOut)
        let code = try driver.takeEvent()?.code
        #expect(code == TRBCompletion.blockError || code == TRBCompletion.stall)
        let state = try driver.contextWord(slot, Driver.bulkOut, 0) & 7
        #expect(state == (code == TRBCompletion.stall ? 2 : 4))
    }

    @Test func `a ring without end goes on later, and the rest of the machine meanwhile`() throws {
        let place = Driver.ring(slot, 1)
        // A block that asks for nothing, and a link back that keeps the cycle.
        try driver.memory.store(
            TRB(parameter: 0, status: 0, control: TRBType.noOperation << 10 | 1), at: GuestAddress(place))
        try driver.memory.store(
            TRB(parameter: place, status: 0, control: TRBType.link << 10 | 1), at: GuestAddress(place + 16))
        #expect(try driver.command(TRBType.stopEndpoint, slot: slot, endpoint: 1)?.code == 1)
        let moved = try driver.command(TRBType.setDequeuePointer, place | 1, slot: slot, endpoint: 1)
        #expect(moved?.code == 1)
        driver.ring(slot, 1)
        #expect(driver.clock.armedCount == 1)
        let before = driver.clock.firedCount
        driver.clock.advance(by: 10_000_000)
        #expect(driver.clock.firedCount - before == 10, "a bounded part each millisecond")
        #expect(try driver.command(TRBType.stopEndpoint, slot: slot, endpoint: 1)?.code == 1)
        driver.clock.advance(by: 10_000_000)
        #expect(driver.clock.armedCount == 0)
    }

    @Test func `a disk that answers at once makes no chain of calls`() throws {
        // Commands, data and statuses that go on by themselves: one after the other, for as long as there is.
        for _ in 0..<8 {
            try driver.transfer(slot, Driver.bulkIn, 512, flags: 0)
            try driver.transfer(slot, Driver.bulkIn, 13, at: Driver.data + 0x1000, flags: 0)
        }
        #expect(driver.disk.performed == 0)
        for _ in 0..<8 { try driver.sendCommand(slot, Self.read10(0, 1), length: 512, isIn: true) }
        #expect(driver.disk.performed == 8)
        #expect(try driver.dataBytes(13, at: Driver.data + 0x1000)[12] == 0)
    }

    @Test func `an event ring that is no memory breaks the controller, and a reset mends it`() throws {
        try driver.memory.store(XHCITestDriver.ram, at: GuestAddress(0x3000))
        driver.writeLong(XHCIRegister.interrupters + 0x10, 0x3000)
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.reset)
        #expect(driver.read(XHCIRegister.status) & XHCIStatus.controllerError != 0)
        try driver.start()
        #expect(driver.read(XHCIRegister.status) & XHCIStatus.controllerError == 0)
        #expect(try driver.command(TRBType.noOperationCommand)?.code == TRBCompletion.success)
    }
}
