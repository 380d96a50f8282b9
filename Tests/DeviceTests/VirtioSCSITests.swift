import ByteLayout
import DeviceModel
import GuestMemory
import Testing

@testable import Virtio
@testable import VirtioDevices

@Suite struct VirtioSCSITests {
    typealias Buffer = VirtioTestQueue.Buffer
    private static let header: UInt64 = 0x20_0000, answer: UInt64 = 0x20_0100, data: UInt64 = 0x20_1000

    /// Two disks with their driver, started.
    private struct Rig {
        let disk: MemoryDisk, second = MemoryDisk(sectors: 64, readOnly: true)
        let device: VirtioPCI<VirtioSCSI>
        let bench: PCIBench
        let driver: VirtioTestDriver
        let queues: [VirtioTestQueue]
        var queue: VirtioTestQueue { queues[2] }

        init(_ disk: MemoryDisk = MemoryDisk(sectors: 4096)) throws {
            self.disk = disk
            disk.bytes = (0..<Int(disk.capacity) * 512).map { UInt8(truncatingIfNeeded: $0 >> 9 ^ $0) }
            let bench = try PCIBench()
            device = VirtioPCI(
                VirtioSCSI(bench.context, [(disk, "serial-1"), (second, "serial-2")]))
            bench.bridge.insert(device.function, slot: 4)
            try bench.assignResources()
            self.bench = bench
            driver = VirtioTestDriver(bench, slot: 4)
            queues = driver.start()
        }

        struct Answer: Equatable {
            var response: UInt8, status: UInt8, residual: UInt32
            /// Key, code and qualifier.
            var sense: [UInt8] = []
            static func good(_ residual: UInt32 = 0) -> Answer {
                Answer(response: 0, status: 0, residual: residual)
            }
            static func failure(_ sense: [UInt8], _ residual: UInt32 = 0) -> Answer {
                Answer(response: 0, status: 2, residual: residual, sense: sense)
            }
            static func response(_ code: UInt8, _ residual: UInt32 = 0) -> Answer {
                Answer(response: code, status: 0, residual: residual)
            }
        }

        /// One command to its end; nil when it does not end at once.
        func run(
            _ packet: [UInt8], target: UInt8 = 0, unit: UInt8 = 0, out: Int = 0, into: Int = 0
        ) throws -> Answer? {
            let address = [1, target, 0x40, unit, 0, 0, 0, 0] + [UInt8](repeating: 0, count: 11)
            let request = address + packet + [UInt8](repeating: 0, count: 32 - packet.count)
            try bench.memory.write(request, at: GuestAddress(header))
            try bench.memory.write([UInt8](repeating: 0xEE, count: 108), at: GuestAddress(answer))
            var buffers: [Buffer] = [.out(header, 51)]
            if out > 0 { buffers.append(.out(data, UInt32(out))) }
            buffers.append(.into(answer, 108))
            if into > 0 { buffers.append(.into(data, UInt32(into))) }
            guard queue.send(buffers) != nil else { return nil }
            return try answered()
        }

        func answered() throws -> Answer {
            let bytes = try bench.memory.bytes(GuestAddress(answer), count: 108)
            var result = Answer(
                response: bytes[11], status: bytes[10],
                residual: bytes.load(littleEndian: UInt32.self, at: 4) ?? 0)
            if bytes[0] > 0 { result.sense = [bytes[14], bytes[24], bytes[25]] }
            return result
        }

        func dataBytes(_ count: Int) throws -> [UInt8] {
            try bench.memory.bytes(GuestAddress(data), count: count)
        }
    }

    private func bigEndian(_ value: UInt64, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * (count - 1 - $0))) }
    }

    // MARK: What a disk says of itself

    @Test func `a disk says what it is`() throws {
        let rig = try Rig()
        #expect(try rig.run([0x12, 0, 0, 0, 36], into: 36) == .good())
        #expect(try rig.dataBytes(16).suffix(8) == Array("OSPITE  ".utf8)[...])
        #expect(try rig.run([0x12, 0, 0, 0, 255], into: 255) == .good(219))
        let pages: [(UInt8, [UInt8])] = [
            (0x00, [0, 0, 0, 6, 0, 0x80, 0x83, 0xB0, 0xB1, 0xB2]),
            (0x80, [0, 0x80, 0, 8] + Array("serial-2".utf8)),
            (0x83, [0, 0x83, 0, 20, 2, 1, 0, 16] + Array("OSPITE  serial-2".utf8)),
            (0xB1, [0, 0xB1, 0, 60, 0, 1]),
            (0xB2, [0, 0xB2, 0, 4, 0, 0, 0, 0]),
        ]
        for (page, expected) in pages {
            #expect(try rig.run([0x12, 1, page, 0, 255], target: 1, into: 255)?.status == 0)
            #expect(try rig.dataBytes(expected.count) == expected)
        }
        #expect(try rig.run([0x12, 1, 0xB0, 0, 64], into: 64) == .good())
        let limits = try rig.dataBytes(64)
        #expect(Array(limits[20..<28]) == bigEndian(4 << 20, 4) + bigEndian(256, 4))
        #expect(try rig.run([0x12, 1, 0x55, 0, 64], into: 64) == .failure([5, 0x24, 0], 64))
        #expect(try rig.run([0x25], into: 8) == .good())
        #expect(try rig.dataBytes(8) == bigEndian(4095, 4) + bigEndian(512, 4))
        #expect(try rig.run([0x9E, 0x10] + [UInt8](repeating: 0, count: 11) + [32], into: 32) == .good())
        #expect(try rig.dataBytes(15).suffix(7) == [0, 0, 2, 0, 0, 3, 0x80])
        #expect(try rig.run([0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16], into: 16) == .good())
        #expect(try rig.dataBytes(4) == [0, 0, 0, 8])
        #expect(try rig.run([0x1A, 0, 0x08, 0, 24], into: 24) == .good())
        #expect(try rig.dataBytes(7) == [23, 0, 0x10, 0, 8, 18, 4])
        #expect(try rig.run([0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 28], target: 1, into: 28) == .good())
        #expect(try rig.dataBytes(4) == [0, 26, 0, 0x90])
        #expect(try rig.run([0x03, 0, 0, 0, 18], into: 18) == .good() && rig.run([0]) == .good())
    }

    // MARK: Blocks

    @Test(arguments: [0x08, 0x28, 0xA8, 0x88] as [UInt8])
    func `blocks are read and written by commands of any length`(code: UInt8) throws {
        let rig = try Rig()
        func packet(_ code: UInt8, _ first: UInt64, _ count: UInt64) -> [UInt8] {
            switch code & 0xF0 {
            case 0x00: [code] + bigEndian(first, 3) + [UInt8(count), 0]
            case 0x20: [code, 0] + bigEndian(first, 4) + [0] + bigEndian(count, 2) + [0]
            case 0xA0: [code, 0] + bigEndian(first, 4) + bigEndian(count, 4) + [0, 0]
            default: [code, 0] + bigEndian(first, 8) + bigEndian(count, 4) + [0, 0]
            }
        }
        #expect(try rig.run(packet(code, 100, 7), into: 3584) == .good())
        let bytes = try rig.dataBytes(3584)
        #expect(bytes == Array(rig.disk.bytes[51_200..<54_784]))
        #expect(try rig.run(packet(code + 2, 2000, 7), out: 3584) == .good())
        #expect(Array(rig.disk.bytes[1_024_000..<1_027_584]) == bytes)
        #expect(rig.disk.operations == [.read, .write])
        #expect(try rig.run(packet(code, 4095, 2), into: 1024) == .failure([5, 0x21, 0], 1024))
        #expect(try rig.run(packet(code + 2, 0, 1), target: 1, out: 512) == .failure([7, 0x27, 0], 512))
        #expect(try rig.run(packet(code, 0, 2), into: 1023) == .response(1, 1023))
        #expect(try rig.run(packet(code + 2, 0, 2), out: 1023) == .response(1, 1023))
    }

    @Test func `writes become durable when they shall`() throws {
        let rig = try Rig()
        #expect(try rig.run([0x2A, 8, 0, 0, 0, 0, 0, 0, 1], out: 512) == .good())
        #expect(rig.disk.operations == [.write, .flush])
        #expect(try rig.run([0x35]) == .good() && rig.run([0x91]) == .good())
        #expect(rig.disk.operations == [.write, .flush, .flush, .flush])
        rig.disk.isFailing = true
        #expect(try rig.run([0x35]) == .failure([3, 0x0C, 0]))
        #expect(try rig.run([0x28, 0, 0, 0, 0, 0, 0, 0, 1], into: 512) == .failure([3, 0x11, 0], 512))
    }

    @Test func `blocks are given up and zeroed`() throws {
        let rig = try Rig()
        func unmap(_ ranges: [(UInt64, UInt64)], length: UInt64? = nil) throws -> Rig.Answer? {
            let body: [UInt8] = ranges.flatMap { bigEndian($0.0, 8) + bigEndian($0.1, 4) + [0, 0, 0, 0] }
            let list = bigEndian(UInt64(body.count + 6), 2) + bigEndian(length ?? UInt64(body.count), 2)
            let bytes: [UInt8] = list + [0, 0, 0, 0] + body
            try rig.bench.memory.write(bytes, at: GuestAddress(Self.data))
            return try rig.run(
                [0x42, 0, 0, 0, 0, 0, 0] + bigEndian(UInt64(bytes.count), 2), out: bytes.count)
        }
        #expect(try unmap([(8, 8), (0, 0), (4095, 1)])?.status == 0)
        #expect(rig.disk.operations == [.discard, .discard])
        #expect(rig.disk.bytes[4096..<8192].allSatisfy { $0 == 0 })
        #expect(try unmap([(8, 8), (4095, 2)])?.sense == [5, 0x21, 0])
        #expect(try unmap([(8, 8)], length: 0xFFFF)?.status == 0, "a length that lies")
        #expect(rig.disk.operations.count == 3)
        func same(_ flags: UInt8, _ first: UInt64, _ count: UInt64, out: Int) throws -> Rig.Answer? {
            try rig.run([0x93, flags] + bigEndian(first, 8) + bigEndian(count, 4), out: out)
        }
        try rig.bench.memory.write([UInt8](repeating: 0, count: 512), at: GuestAddress(Self.data))
        #expect(try same(8, 100, 4, out: 512)?.status == 0)
        #expect(try same(1, 200, 4, out: 0)?.status == 0)
        #expect(
            rig.disk.operations.suffix(2) == [.writeZeroes(mayUnmap: true), .writeZeroes(mayUnmap: false)])
        #expect(try same(8, 4000, 97, out: 512)?.sense == [5, 0x21, 0])
        #expect(try same(8, 0, 1, out: 100)?.response == 1)
        try rig.bench.memory.write([1], at: GuestAddress(Self.data))
        #expect(try same(8, 0, 1, out: 512)?.sense == [5, 0x24, 0], "only zeroes")
    }

    // MARK: Control

    @Test func `tasks are managed when they have ended, and targets that are not there say so`() throws {
        let held = MemoryDisk(sectors: 64, mode: .held)
        let rig = try Rig(held)
        func control(_ type: UInt32, _ function: UInt32, _ address: [UInt8]) throws -> UInt8? {
            var bytes: [UInt8] = []
            bytes.append(littleEndian: type)
            bytes.append(littleEndian: function)
            bytes += address + [UInt8](repeating: 0, count: 16 - address.count)
            try rig.bench.memory.write(bytes, at: GuestAddress(Self.header))
            guard rig.queues[0].send([.out(Self.header, 24), .into(Self.answer, 1)]) != nil else {
                return nil
            }
            return rig.queue.load(UInt8.self, Self.answer)
        }
        #expect(try rig.run([0x28, 0, 0, 0, 0, 0, 0, 0, 1], into: 512) == nil && held.heldCount == 1)
        #expect(try control(0, 5, [1, 0, 0x40, 0]) == 0 && held.heldCount == 0)
        #expect(try control(0, 0, [1, 7, 0x40, 0]) == 12)
        #expect(try control(0, 2, [1, 0, 0x40, 0]) == 11 && control(0, 99, [1, 0, 0x40, 0]) == 11)
        #expect(try control(77, 0, []) == 11)
        #expect(try control(1, 0, [1, 0, 0x40, 0]) == 0)
        #expect(try rig.run([0], target: 2) == .response(3))
        #expect(try rig.run([0], unit: 1) == .failure([5, 0x25, 0]))
        #expect(try rig.run([0x12, 0, 0, 0, 36], unit: 1, into: 36) == .good())
        #expect(try rig.dataBytes(1) == [0x7F])
        #expect(try rig.run([0xFF]) == .failure([5, 0x20, 0]))
    }

    @Test func `a request without room for its answer breaks the queue, one without a packet fails`() throws {
        let rig = try Rig()
        #expect(rig.queue.send([.out(Self.header, 20), .into(Self.answer, 108)]) != nil)
        #expect(try rig.answered().response == 9)
        _ = rig.queue.send([.out(Self.header, 51), .into(Self.answer, 107)])
        #expect(rig.driver.needsReset)
    }

    @Test func `the driver's sizes are kept when they can be`() throws {
        let rig = try Rig()
        #expect(rig.driver.readConfig(30, .word) == 1 && rig.driver.readConfig(20, .dword) == 96)
        for (value, kept) in [(40, 40), (4, 40), (4000, 40)] as [(UInt64, UInt64)] {
            rig.bench.mmio.write(rig.driver.device.address + 24, width: .dword, value: value)
            #expect(rig.driver.readConfig(24, .dword) == kept)
        }
        var saved = rig.device.device.save()
        #expect(saved.packetSize == 40)
        saved.senseSize = 0
        #expect(throws: RestoreError.self) { try rig.device.device.restore(saved) }
    }
}
