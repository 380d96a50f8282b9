import ByteLayout
import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import ChipsetDevices

/// A firmware that asks, as a guest would.
private final class FirmwareClient {
    static let ram: UInt64 = 1 << 20
    let memory: GuestMemory
    let device: FirmwareConfig
    private static let request: UInt64 = 0x8000

    init(_ contents: FirmwareConfigContents = FirmwareClient.sample) throws {
        memory = try GuestMemory([
            .init(start: 0, size: Self.ram, kind: .ram), .init(start: 0x20_0000, size: 4096, kind: .rom),
        ])
        let bench = ChipsetBench()
        let context = DeviceContext(
            memory: memory, clock: bench.clock, msi: bench.messages, lines: bench.lines, report: { _ in })
        device = FirmwareConfig(context, contents)
    }

    static var sample: FirmwareConfigContents {
        var contents = FirmwareConfigContents()
        contents.add(FirmwareConfigKey.processors, number: 3 as UInt16)
        contents.add(file: "etc/second", bytes: Array("two".utf8))
        contents.add(file: "a/first", number: 0x1122_3344 as UInt32)
        contents.add(file: "large", bytes: (0..<3_000).map { UInt8(truncatingIfNeeded: $0 &* 7) })
        return contents
    }

    func select(_ selector: UInt16) { device.write(port: 0x510, width: .word, value: UInt32(selector)) }
    func take(_ count: Int) -> [UInt8] { (0..<count).map { _ in device.input(0x511) } }

    /// One transfer; returns the control field afterwards.
    func transfer(_ control: UInt32, count: UInt32, to target: UInt64, at place: UInt64? = nil) throws
        -> UInt32
    {
        let place = place ?? Self.request
        var bytes: [UInt8] = []
        bytes.append(bigEndian: control)
        bytes.append(bigEndian: count)
        bytes.append(bigEndian: target)
        try memory.write(bytes, at: GuestAddress(place))
        device.write(port: 0x514, width: .dword, value: UInt32(truncatingIfNeeded: place >> 32).byteSwapped)
        device.write(port: 0x518, width: .dword, value: UInt32(truncatingIfNeeded: place).byteSwapped)
        return try memory.load(UInt32.self, at: GuestAddress(place)).byteSwapped
    }

    func selector(of name: String) throws -> (selector: UInt16, size: Int) {
        select(0x19)
        let header = take(4)
        let count = Int(try #require(header.load(littleEndian: UInt32.self, at: 0)).byteSwapped)
        for _ in 0..<count {
            let entry = take(64)
            let text = String(decoding: entry[8...].prefix { $0 != 0 }, as: UTF8.self)
            let size = try #require(entry.load(littleEndian: UInt32.self, at: 0)).byteSwapped
            let selector = try #require(entry.load(littleEndian: UInt16.self, at: 4)).byteSwapped
            if text == name { return (selector, Int(size)) }
        }
        throw RestoreError("fw-cfg", "no file \(name)")
    }
}

@Suite struct FirmwareConfigTests {
    @Test func `the signature, the features and a number are read byte by byte`() throws {
        let client = try FirmwareClient()
        #expect(client.take(6) == Array("QEMU".utf8) + [0, 0])
        client.select(FirmwareConfigKey.features)
        #expect(client.take(4) == [3, 0, 0, 0])
        client.select(FirmwareConfigKey.processors)
        #expect(client.take(3) == [3, 0, 0])
        client.select(0x7777)
        #expect(client.take(2) == [0, 0])
        #expect(client.device.read(port: 0x514, width: .dword) == 0x554D_4551)
        #expect(client.device.read(port: 0x518, width: .dword) == 0x4746_4320)
    }

    @Test func `the directory lists files by name, and their selectors lead to their bytes`() throws {
        let client = try FirmwareClient()
        let first = try client.selector(of: "a/first"), second = try client.selector(of: "etc/second")
        #expect(first == (0x20, 4) && second == (0x21, 3))
        client.select(first.selector)
        #expect(client.take(4) == [0x44, 0x33, 0x22, 0x11])
        client.select(second.selector)
        #expect(client.take(4) == Array("two".utf8) + [0])
    }

    @Test func `a transfer selects, skips and copies, and fills with zeroes`() throws {
        let client = try FirmwareClient()
        let (selector, size) = try client.selector(of: "large")
        let select = UInt32(selector) << 16 | 8
        #expect(try client.transfer(select | 2, count: UInt32(size) + 8, to: 0x1_0000) == 0)
        let expected = (0..<3_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let copied = try client.memory.bytes(GuestAddress(0x1_0000), count: size + 8)
        #expect(copied == expected + [UInt8](repeating: 0, count: 8))
        #expect(try client.transfer(select | 4, count: 1000, to: 0) == 0)
        #expect(client.take(2) == Array(expected[1000..<1002]))
        #expect(try client.transfer(2, count: 5, to: 0x2_0000) == 0)
        #expect(try client.memory.bytes(GuestAddress(0x2_0000), count: 5) == Array(expected[1002..<1007]))
    }

    @Test(
        arguments: [
            (2, 4, FirmwareClient.ram - 2), (2, 4, 0x20_0000), (2, 4, .max - 1), (2, .max, 0),
            (0x10, 4, 0x1000),
            (0x12, 4, FirmwareClient.ram),
        ] as [(UInt32, UInt32, UInt64)])
    func `a transfer that cannot be done says so and moves nothing`(
        control: UInt32, count: UInt32, target: UInt64
    ) throws {
        let client = try FirmwareClient()
        client.select(FirmwareConfigKey.signature)
        #expect(try client.transfer(control, count: count, to: target) == 1)
        #expect(client.take(4) == Array("QEMU".utf8))
        #expect(try client.memory.bytes(GuestAddress(0x1000), count: 4) == [0, 0, 0, 0])
    }

    /// Where the request is itself among what the transfer stores to: before, over all of it, and at its end.
    @Test(arguments: [0x7FF8, 0x8000, 0x8004, 0x800C] as [UInt64])
    func `a transfer over its own request does what that said when it came`(target: UInt64) throws {
        let client = try FirmwareClient()
        let (selector, _) = try client.selector(of: "large")
        let control = UInt32(selector) << 16 | 8 | 2
        #expect(try client.transfer(control, count: 64, to: target) == 0)
        let bytes = (0..<64).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let copied = try client.memory.bytes(GuestAddress(target), count: 80)
        for place in 0..<64 as Range<UInt64> {
            // The outcome is stored last, over the control field.
            let isOutcome = (0x8000..<0x8004).contains(target + place)
            #expect(copied[Int(place)] == (isOutcome ? 0 : bytes[Int(place)]), "\(place)")
        }
        #expect(copied[64...].allSatisfy { $0 == 0 })
        #expect(client.take(2) == [0xC0, 0xC7], "the place in the item moved once")
        #expect(try client.transfer(control, count: 3, to: 0x1_0000) == 0)
        #expect(try client.memory.bytes(GuestAddress(0x1_0000), count: 3) == [0, 7, 14])
    }

    @Test(arguments: [0xFFFF, 0x23, 0x7FFF, 0x8003] as [UInt16])
    func `an item that is not there is nothing but zeroes, and has an end`(selector: UInt16) throws {
        let client = try FirmwareClient()
        #expect(try client.selector(of: "large").selector == 0x22, "the last file")
        let select = UInt32(selector) << 16 | 8
        try client.memory.write([UInt8](repeating: 0xAA, count: 40), at: GuestAddress(0x1_0000))
        #expect(try client.transfer(select | 2, count: 32, to: 0x1_0000) == 0)
        let expected = [UInt8](repeating: 0, count: 32) + [UInt8](repeating: 0xAA, count: 8)
        #expect(try client.memory.bytes(GuestAddress(0x1_0000), count: 40) == expected)
        #expect(try client.transfer(select | 2, count: 65_537, to: 0x1_0000) == 1)
        #expect(try client.transfer(select | 2, count: .max, to: 0x1_0000) == 1)
        #expect(try client.memory.bytes(GuestAddress(0x1_0000), count: 40) == expected)
        #expect(try client.transfer(select | 4, count: .max, to: 0) == 0)
        #expect(client.take(2) == [0, 0] && client.device.save().offset == 0)
        #expect(try client.transfer(select | 0x10, count: 4, to: 0x1_0000) == 1, "nothing can be written")
    }

    @Test(arguments: [FirmwareClient.ram - 15, 0x20_0001, 0xFFFF_FFFF_FFFF_FFF8] as [UInt64])
    func `a request outside of memory asks for nothing`(place: UInt64) throws {
        let client = try FirmwareClient()
        client.device.write(
            port: 0x514, width: .dword, value: UInt32(truncatingIfNeeded: place >> 32).byteSwapped)
        client.device.write(port: 0x518, width: .dword, value: UInt32(truncatingIfNeeded: place).byteSwapped)
        #expect(client.take(4) == Array("QEMU".utf8))
    }

    @Test func `a computed file is asked for anew, and has its size whatever is computed`() throws {
        let answers = Recorder<Int>()
        var contents = FirmwareConfigContents()
        contents.add(file: "now", size: 3) {
            answers.record(1)
            return [UInt8](repeating: UInt8(answers.all.count), count: answers.all.count * 2)
        }
        let client = try FirmwareClient(contents)
        let (selector, size) = try client.selector(of: "now")
        #expect(size == 3 && answers.all.isEmpty)
        client.select(selector)
        #expect(client.take(4) == [1, 1, 0, 0])
        client.select(selector)
        #expect(client.take(4) == [2, 2, 2, 0])
    }

    @Test func `a place in an item survives, and one beyond its end is refused`() throws {
        let client = try FirmwareClient(), twin = try FirmwareClient()
        client.select(FirmwareConfigKey.signature)
        _ = client.take(2)
        try twin.device.restore(client.device.save())
        #expect(twin.take(3) == Array("MU".utf8) + [0])
        let beyond = FirmwareConfig.Saved(selector: 0, offset: 5, addressHigh: 0)
        #expect(throws: RestoreError.self) { try twin.device.restore(beyond) }
    }

    @Test func `the log gives whole lines, and what is longer in parts`() {
        let lines = Recorder<[UInt8]>()
        let log = FirmwareLog { lines.record($0) }
        #expect(log.input(0x402) == 0xE9)
        for byte in Array("one\ntwo".utf8) { log.output(0x402, byte) }
        #expect(lines.take() == [Array("one\n".utf8)])
        for _ in 0..<300 { log.output(0x402, 0x2E) }
        #expect(lines.take().map(\.count) == [256])
    }
}
