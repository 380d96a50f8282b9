import DeviceModel
import GuestMemory
import StateCodec
import TestKit
import Testing

@testable import ChipsetDevices
@testable import StorageDevices

/// Controllers that are saved in the middle of their work, and go on with it in another machine.
@Suite struct StorageRestoreTests {
    /// As a file has it.
    private func copy<State: Codable>(_ state: State) throws -> State {
        try StateDecoder().decode(State.self, from: StateEncoder().encode(state))
    }

    private func copyMemory(_ first: GuestMemory, to second: GuestMemory, count: Int) throws {
        try second.write(first.bytes(GuestAddress(0), count: count), at: GuestAddress(0))
    }

    @Test func `SATA commands that wait for another go on elsewhere, each once`() throws {
        let held = MemoryDisk(sectors: 4096, mode: .held)
        let driver = try AHCITestDriver(disk: held), data = AHCITestDriver.data
        held.bytes = driver.disk.bytes
        for slot in 0..<3 {
            let regions = [(data + UInt64(slot) * 512, 512)]
            try driver.prepare(
                0, slot, .init(code: 0xC8, address: UInt64(slot) * 8, count: 1, regions: regions))
        }
        driver.write(0, PortRegister.issue, 7)
        driver.controller.pause()
        #expect(driver.read(0, PortRegister.issue) == 6 && held.operations == [.read])

        let other = try AHCITestDriver()
        other.controller.reset()
        other.controller.pause()
        try copyMemory(driver.memory, to: other.memory, count: Int(AHCITestDriver.ram))
        let saved = driver.controller.save()
        try other.controller.restore(copy(saved))
        #expect(other.controller.save() == saved && other.disk.operations.isEmpty)
        #expect(other.read(0, PortRegister.issue) == 6, "its BAR is where it was")
        other.controller.resume()
        #expect(other.read(0, PortRegister.issue) == 0 && other.disk.operations == [.read, .read])
        #expect(other.read(0, PortRegister.interruptStatus) & PortInterrupt.register != 0)
        for slot in 0..<3 {
            let bytes = try other.memory.bytes(GuestAddress(data + UInt64(slot) * 512), count: 512)
            #expect(bytes == Array(driver.disk.bytes[slot * 4096..<slot * 4096 + 512]), "slot \(slot)")
        }
    }

    @Test func `NVMe commands that nobody has fetched go on elsewhere`() throws {
        let held = MemoryDisk(sectors: 4096, mode: .held), data = NVMeTestDriver.data
        let driver = try NVMeTestDriver(held), other = try NVMeTestDriver()
        try driver.start()
        try driver.createQueues(1)
        for number in 0..<3 as Range<UInt64> {
            try driver.send(1, .blocks(2, number * 8, 1, (data + number * 0x1000, 0)))
        }
        driver.controller.pause()
        try driver.send(1, .blocks(2, 99, 1, (data + 0x5000, 0)))
        #expect(held.operations == [.read, .read, .read])

        other.controller.pause()
        try copyMemory(driver.memory, to: other.memory, count: Int(NVMeTestDriver.ram))
        let saved = driver.controller.save()
        try other.controller.restore(copy(saved))
        #expect(other.controller.save() == saved && other.disk.operations.isEmpty)
        other.controller.resume()
        #expect(other.disk.operations == [.read])
        #expect(try other.dataBytes(512, at: data + 0x5000) == Array(other.disk.bytes[99 * 512..<100 * 512]))
    }

    @Test func `a sector that is half read, and one that is half written, go on elsewhere`() throws {
        let driver = try IDETestDriver(), other = try IDETestDriver()
        driver.command(0x20, address: 9, count: 200)
        let first = driver.readData(70_000)
        driver.command(0x34, address: 2000, count: 2, isExtended: true, base: 0x1F0)
        let bytes = (0..<1024).map { UInt8(truncatingIfNeeded: $0 &* 11 >> 2) }
        driver.writeData(Array(bytes[..<700]))
        // The second channel reads meanwhile.
        driver.command(0x20, address: 3, count: 4, base: 0x170)
        driver.controller.pause()
        let saved = driver.controller.save()
        #expect(first == Array(driver.disk.bytes[9 * 512..<9 * 512 + 70_000]))

        other.controller.reset()
        try other.controller.restore(copy(saved))
        #expect(other.controller.save() == saved && other.status == 0x58)
        #expect(other.lines.isHigh(15), "the other channel's interrupt")
        other.writeData(Array(bytes[700...]))
        #expect(other.status == 0x50)
        #expect(Array(other.disk.bytes[2000 * 512..<2002 * 512]) == bytes)
        #expect(driver.disk.operations.allSatisfy { $0 == .read }, "nothing was written here")
    }

    @Test func `a command that waits for the bus master goes on elsewhere`() throws {
        let driver = try IDETestDriver(), other = try IDETestDriver()
        driver.command(0xC8, address: 40, count: 8)
        driver.controller.pause()
        try other.controller.restore(copy(driver.controller.save()))
        try other.startMaster([(IDETestDriver.data, 4096)], toMemory: true)
        #expect(other.status == 0x50 && other.read(IDETestDriver.master + 2) == 4)
        let read = try other.memory.bytes(GuestAddress(IDETestDriver.data), count: 4096)
        #expect(read == Array(other.disk.bytes[40 * 512..<48 * 512]))
    }

    @Test func `a floppy command of which half is there goes on elsewhere`() throws {
        let driver = try FloppyTestDriver(), other = try FloppyTestDriver()
        #expect(driver.seek(0, 5) == [0x20, 5])
        driver.program(toMemory: true, count: 1024)
        for byte in [0x46, 0, 5, 0, 2] as [UInt8] { driver.write(0x3F5, byte) }
        driver.controller.pause()
        try other.controller.restore(copy(driver.controller.save()))
        try other.dma.restore(copy(driver.dma.save()))
        #expect(other.controller.save() == driver.controller.save() && other.dma.save() == driver.dma.save())
        #expect(other.run([2, 18, 0x1B, 0xFF]) == [0, 0, 0, 5, 0, 4, 2])
        let read = try other.memory.bytes(GuestAddress(FloppyTestDriver.data), count: 1024)
        let first = (5 * 2 * 18 + 1) * 512
        #expect(read == Array(other.disk.bytes[first..<first + 1024]) && driver.disk.operations.isEmpty)
    }

    @Test func `a floppy result of which half was read goes on elsewhere`() throws {
        let driver = try FloppyTestDriver(), other = try FloppyTestDriver()
        driver.write(0x3F5, 0x0E)
        let whole = try FloppyTestDriver().run([0x0E])
        let first = (0..<4).map { _ in driver.read(0x3F5) }
        try other.controller.restore(copy(driver.controller.save()))
        #expect(first + other.result() == whole && other.run([0x10]) == [0x90])
    }
}
