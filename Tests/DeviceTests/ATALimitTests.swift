import BlockStorage
import ByteLayout
import DeviceModel
import GuestMemory
import Synchronization
import TestKit
import Testing

@testable import StorageDevices

/// A disk of any size that holds the sectors that were written.
final class SparseDisk: BlockBackend {
    private struct State {
        var sectors: [UInt64: [UInt8]] = [:]
        var requests: [ClosedRange<UInt64>] = []
    }
    private let state = Mutex(State())
    let capacity: UInt64
    let isReadOnly = false
    init(capacity: UInt64) { self.capacity = capacity }

    /// First and last sector of every request so far.
    var requests: [ClosedRange<UInt64>] { state.withLock { $0.requests } }

    func submit(_ request: BlockRequest, completion: @escaping @Sendable (Bool) -> Void) {
        state.withLock { state in
            guard request.sectorCount > 0 else { return }
            let last = request.sector + request.sectorCount - 1
            // The device promised a range inside the capacity: this traps if it lied.
            precondition(last < capacity)
            state.requests.append(request.sector...last)
            let zeroes = [UInt8](repeating: 0, count: 512)
            if request.operation == .read {
                let bytes = (request.sector...last).flatMap { state.sectors[$0] ?? zeroes }
                var place = 0
                for buffer in request.buffers {
                    buffer.store(bytes[place..<place + buffer.count])
                    place += buffer.count
                }
            } else {
                let bytes = request.buffers.flatMap { Array($0.bytes) }
                for (index, sector) in (request.sector...last).enumerated() {
                    state.sectors[sector] = Array(bytes[index * 512..<(index + 1) * 512])
                }
            }
        }
        completion(true)
    }

    func drain() {}
}

/// The last sectors that addresses of 28 and 48 bits reach.
@Suite struct ATALimitTests {
    private typealias Command = AHCITestDriver.Command
    private static let data = AHCITestDriver.data
    /// Of sectors that 28 bits reach, as the identification can say it.
    private static let short: UInt64 = 0xFFF_FFFF
    private static let sizes: [UInt64] = [
        4096, 1 << 24, short - 1, short, short + 1, 1 << 32, 1 << 48 - 1, 1 << 48,
    ]

    @Test(arguments: sizes)
    func `a disk says its size in 28 and in 48 bits`(capacity: UInt64) throws {
        let driver = try AHCITestDriver(disk: SparseDisk(capacity: capacity))
        #expect(try driver.run(0, Command(code: 0xEC, regions: [(Self.data, 512)])) == 0x50)
        let data = try driver.dataBytes(512)
        #expect(data.load(littleEndian: UInt32.self, at: 120) == UInt32(min(capacity, Self.short)))
        #expect(data.load(littleEndian: UInt64.self, at: 200) == capacity)
    }

    @Test(arguments: sizes)
    func `the last address is told in the registers of the command's size`(capacity: UInt64) throws {
        let disk = SparseDisk(capacity: capacity), last = capacity - 1
        let shortLast = min(last, Self.short - 1)
        let driver = try AHCITestDriver(disk: disk)
        #expect(try driver.run(0, Command(code: 0xF8)) == 0x50)
        let short = driver.fis(0, ReceivedFIS.register)
        #expect(short.load(littleEndian: UInt32.self, at: 4)! & 0xF00_0000 == shortLast & 0xF00_0000)
        #expect(short.load(littleEndian: UInt32.self, at: 4)! & 0xFF_FFFF == shortLast & 0xFF_FFFF)
        #expect(Array(short[8...10]) == [0, 0, 0], "those are of 48-bit commands")
        #expect(try driver.run(0, Command(code: 0x27)) == 0x50)
        let long = ATATaskFile(driver.fis(0, ReceivedFIS.register))
        #expect(long.address == last)

        let ide = try IDETestDriver(replacement: disk)
        func registers() -> UInt64 {
            ([0x1F5, 0x1F4, 0x1F3] as [UInt16]).reduce(0) { $0 << 8 | UInt64(ide.read($1)) }
        }
        ide.command(0xF8)
        #expect(ide.status == 0x50)
        #expect(UInt64(ide.read(0x1F6) & 0xF) << 24 | registers() == shortLast)
        ide.command(0x27, isExtended: true)
        let low = registers()
        ide.write(0x3F6, IDEControl.highOrder)
        #expect(registers() << 24 | low == last)
        #expect(disk.requests.isEmpty)
    }

    struct Reach: Sendable, CustomTestStringConvertible {
        let capacity: UInt64, code: UInt8, address: UInt64, count: UInt16
        var testDescription: String {
            "\(String(code, radix: 16)) of \(count) at \(String(address, radix: 16)) of \(capacity)"
        }
        var isExtended: Bool { [0x24, 0x25, 0x34, 0x35, 0x42].contains(code) }
    }
    static let beyond: [Reach] =
        ([0x20, 0xC8, 0x30, 0xCA, 0x40] as [UInt8]).flatMap(Self.beyondShort)
        + ([0x24, 0x25, 0x34, 0x35, 0x42] as [UInt8]).flatMap(Self.beyondExtended)

    /// The last 28-bit address with the longest count; what reaches it; and the end of a smaller disk.
    private static func beyondShort(_ code: UInt8) -> [Reach] {
        [
            Reach(capacity: 1 << 32, code: code, address: 0xFFF_FFFF, count: 0),
            Reach(capacity: 1 << 32, code: code, address: 0xFFF_FFFF, count: 1),
            Reach(capacity: 1 << 32, code: code, address: 0xFFF_FFFE, count: 2),
            Reach(capacity: 1 << 32, code: code, address: 0xFFF_FF00, count: 0),
            Reach(capacity: 1 << 20, code: code, address: 0xFFF_FFFF, count: 0),
        ]
    }

    private static func beyondExtended(_ code: UInt8) -> [Reach] {
        let end: UInt64 = 1 << 48
        return [
            Reach(capacity: end, code: code, address: end - 1, count: 0),
            Reach(capacity: end, code: code, address: end - 65_535, count: 0),
            Reach(capacity: end - 1, code: code, address: end - 1, count: 1),
            Reach(capacity: 0x1000_0001, code: code, address: 0x1000_0001, count: 1),
        ]
    }

    @Test(arguments: beyond)
    func `what reaches beyond the end is not found, and nothing moves`(reach: Reach) throws {
        let disk = SparseDisk(capacity: reach.capacity)
        let driver = try AHCITestDriver(disk: disk)
        // A FIS has the upper bits of a short address beside the device.
        let head = reach.isExtended ? 0 : UInt8(reach.address >> 24)
        var command = Command(
            code: reach.code, address: reach.address, count: reach.count, device: 0x40 | head)
        if !reach.isExtended { command.address &= 0xFF_FFFF }
        command.regions = (0..<8).map { _ in (Self.data, 4 << 20) }
        #expect(try driver.run(0, command) == 0x1051)
        #expect(driver.read(0, PortRegister.interruptStatus) & PortInterrupt.taskFileError != 0)
        #expect(driver.moved(0) == 0 && disk.requests.isEmpty)
        #expect(try driver.dataBytes(512).allSatisfy { $0 == 0 })
    }

    /// Without those of which a part is there: through the data register that moves.
    static let whollyBeyond = beyond.filter { reach in
        ![0x24, 0x34].contains(reach.code) || reach.address + 1 >= reach.capacity
    }

    @Test(arguments: whollyBeyond)
    func `nor does it through the ports of an IDE controller`(reach: Reach) throws {
        let disk = SparseDisk(capacity: reach.capacity)
        let driver = try IDETestDriver(replacement: disk)
        driver.command(
            reach.code, address: reach.address, count: reach.count, isExtended: reach.isExtended)
        let isWrite = reach.code == 0x34
        // A 48-bit write hears of it with its first part.
        if isWrite { driver.writeData([UInt8](repeating: 0xEE, count: 64 << 10)) }
        if [0xC8, 0xCA, 0x25, 0x35].contains(reach.code) {
            let regions = (0..<512).map { _ in (Self.data, 0x1_0000) }
            try driver.startMaster(regions, toMemory: [0xC8, 0x25].contains(reach.code))
        }
        #expect(driver.status == 0x51 && driver.read(0x1F1) == 0x10)
        #expect(disk.requests.isEmpty && driver.readData(512).isEmpty)
    }

    @Test func `the last sectors themselves can be written and read`() throws {
        let disk = SparseDisk(capacity: 1 << 48)
        let driver = try AHCITestDriver(disk: disk), regions = [(Self.data, 2 * 512)]
        let bytes = (0..<1024).map { UInt8(truncatingIfNeeded: $0 &* 7 >> 2) }
        for (write, read, address) in [(0xCA, 0xC8, Self.short - 2), (0x35, 0x25, 1 << 48 - 2)]
            as [(UInt8, UInt8, UInt64)]
        {
            let isShort = read == 0xC8
            try driver.memory.write(bytes, at: GuestAddress(Self.data))
            var command = Command(code: write, address: address, count: 2, regions: regions)
            if isShort { (command.device, command.address) = (0x4F, address & 0xFF_FFFF) }
            #expect(try driver.run(0, command) == 0x50)
            try driver.memory.zero(GuestAddress(Self.data), count: 1024)
            command.code = read
            #expect(try driver.run(0, command) == 0x50)
            #expect(try driver.dataBytes(1024) == bytes)
        }
        let last = Self.short - 1, end = UInt64(1) << 48 - 1
        #expect(disk.requests == [last - 1...last, last - 1...last, end - 1...end, end - 1...end])
    }
}
