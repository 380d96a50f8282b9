import ByteLayout
import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import StorageDevices

/// What a guest says of the length of things: of command FISes, and of the tables of its regions.
@Suite struct CommandTableTests {
    private typealias Command = AHCITestDriver.Command
    private static let data = AHCITestDriver.data

    // MARK: The command FIS

    private func identify(length: UInt32 = 5, type: UInt8 = 0x27) -> Command {
        Command(code: 0xEC, regions: [(Self.data, 512)], type: type, length: length)
    }

    @Test(arguments: [0, 1, 17, 31] as [UInt32])
    func `a command FIS of an illegal length is the host bus's error`(length: UInt32) throws {
        let driver = try AHCITestDriver()
        try driver.run(0, identify(length: length))
        #expect(driver.read(0, PortRegister.interruptStatus) == PortInterrupt.hostError)
        #expect(driver.interrupts && driver.read(0, PortRegister.issue) == 1)
        #expect(try driver.dataBytes(512).allSatisfy { $0 == 0 } && driver.moved(0) == 0)
        driver.recover(0)
        #expect(try driver.run(0, identify()) == 0x50 && driver.moved(0) == 512)
    }

    @Test(
        arguments: [(2, 0x27), (4, 0x27), (5, 0), (5, 0x34), (5, 0x46), (5, 0x58), (16, 0xFF)]
            as [(UInt32, UInt8)])
    func `a FIS that is too short for a command, or is none, is refused by the disk`(
        length: UInt32, type: UInt8
    ) throws {
        let driver = try AHCITestDriver()
        #expect(try driver.run(0, identify(length: length, type: type)) == 0x451)
        let status = driver.read(0, PortRegister.interruptStatus)
        #expect(status == PortInterrupt.taskFileError | PortInterrupt.register)
        #expect(driver.fis(0, ReceivedFIS.register, count: 4) == [0x34, 0x40, 0x51, 4])
        #expect(try driver.dataBytes(512).allSatisfy { $0 == 0 } && driver.moved(0) == 0)
        driver.recover(0)
        #expect(try driver.run(0, identify()) == 0x50)
    }

    @Test(arguments: [5, 6, 16] as [UInt32])
    func `a FIS may be as long as its place, of which a command has five`(length: UInt32) throws {
        let driver = try AHCITestDriver()
        #expect(try driver.run(0, identify(length: length)) == 0x50 && driver.moved(0) == 512)
    }

    // MARK: The table of an AHCI command

    /// Entries of `bytes` each, all of them at `data`.
    private static func entries(_ count: Int, of bytes: Int) -> [UInt8] {
        var entry: [UInt8] = []
        entry.append(littleEndian: data)
        entry.append(littleEndian: UInt32(0))
        entry.append(littleEndian: UInt32(bytes - 1))
        var table: [UInt8] = []
        table.reserveCapacity(count * 16)
        for _ in 0..<count { table += entry }
        return table
    }

    @Test func `a table of 65,535 entries moves as many sectors`() throws {
        let disk = MemoryDisk(sectors: 65_536)
        let driver = try AHCITestDriver(disk: disk, ram: 4 << 20)
        let table: UInt64 = 1 << 20
        try driver.memory.write(Self.entries(65_535, of: 512), at: GuestAddress(table + 0x80))
        try driver.memory.write([UInt8](repeating: 0xA7, count: 512), at: GuestAddress(Self.data))
        let most = (address: table, entries: UInt32(65_535))
        let write = Command(code: 0x35, address: 1, count: 65_535, table: most)
        #expect(try driver.run(0, write) == 0x50 && driver.moved(0) == 65_535 * 512)
        #expect(disk.bytes[..<512].allSatisfy { $0 == 0 } && disk.bytes[512...].allSatisfy { $0 == 0xA7 })
        #expect(disk.operations == [.write])
        // One sector more than the table has room for.
        #expect(try driver.run(0, Command(code: 0x25, count: 0, table: most)) == 0x451)
        #expect(driver.moved(0) == 0 && disk.operations == [.write])
    }

    @Test(arguments: [1, 4] as [UInt8])
    func `a table that runs out of memory in the middle moves nothing`(pieces: UInt8) throws {
        let driver = try AHCITestDriver()
        let table = AHCITestDriver.ram - 0x80 - 128 * UInt64(pieces)
        try driver.memory.write(
            Self.entries(8 * Int(pieces), of: 512), at: GuestAddress(table + 0x80))
        let read = Command(code: 0xC8, count: 1, table: (table, 65_535))
        try driver.run(0, read)
        #expect(driver.read(0, PortRegister.interruptStatus) == PortInterrupt.hostError)
        #expect(driver.disk.operations.isEmpty && driver.moved(0) == 0)
        driver.recover(0)
        #expect(try driver.run(0, identify()) == 0x50)
    }

    @Test func `a table is read as far as a command can use it`() throws {
        let driver = try AHCITestDriver()
        // Eight entries of 4 MiB, then the end of memory.
        let table = AHCITestDriver.ram - 0x80 - 8 * 16
        try driver.memory.write(Self.entries(8, of: 4 << 20), at: GuestAddress(table + 0x80))
        let read = Command(code: 0xC8, address: 3, count: 2, table: (table, 65_535))
        #expect(try driver.run(0, read) == 0x50 && driver.moved(0) == 1024)
        #expect(try driver.dataBytes(1024) == Array(driver.disk.bytes[3 * 512..<5 * 512]))
    }

    // MARK: The table of an IDE bus master

    private static let master = IDETestDriver.master

    /// Entries of two bytes, at neighbouring places, none of which is the last.
    private static func endless(_ count: Int) -> [UInt8] {
        var table: [UInt8] = []
        for index in 0..<UInt32(count) {
            table.append(littleEndian: UInt32(data) + 2 * index)
            table.append(littleEndian: UInt32(2))
        }
        return table
    }

    @Test func `a bus master's table without an end ends at 64 KiB`() throws {
        let driver = try IDETestDriver()
        // Twice as many as a table has.
        try driver.memory.write(Self.endless(16_384), at: GuestAddress(IDETestDriver.table))
        func read(_ sectors: UInt16) throws -> UInt8 {
            driver.command(0xC8, address: 8, count: sectors)
            driver.stopMaster()
            driver.ports.write(port: Self.master + 4, width: .dword, value: UInt32(IDETestDriver.table))
            driver.write(Self.master + 2, 6)
            driver.write(Self.master, 9)
            return driver.status
        }
        #expect(try read(33) == 0x51 && driver.read(Self.master + 2) == 6)
        #expect(driver.disk.operations.isEmpty)
        #expect(try driver.memory.bytes(GuestAddress(Self.data), count: 32_768).allSatisfy { $0 == 0 })
        #expect(try read(32) == 0x50 && driver.read(Self.master + 2) == 4)
        let moved = try driver.memory.bytes(GuestAddress(Self.data), count: 32_768)
        #expect(Array(moved[..<16_384]) == Array(driver.disk.bytes[8 * 512..<40 * 512]))
        #expect(moved[16_384...].allSatisfy { $0 == 0 })
    }

    @Test func `a bus master's table without an end runs out of memory, and moves nothing`() throws {
        let driver = try IDETestDriver()
        let table = IDETestDriver.ram - 0x1000
        try driver.memory.write(Self.endless(512), at: GuestAddress(table))
        driver.command(0xC8)
        driver.stopMaster()
        driver.ports.write(port: Self.master + 4, width: .dword, value: UInt32(table))
        driver.write(Self.master, 9)
        #expect(driver.read(Self.master + 2) == 6 && driver.status == 0x51)
        #expect(driver.disk.operations.isEmpty)
        driver.command(0xC8)
        try driver.startMaster([(Self.data, 512)], toMemory: true)
        #expect(driver.status == 0x50)
    }
}
