import ByteLayout
import DeviceModel
import GuestMemory
import Testing
@testable import Virtio
@testable import VirtioDevices

@Suite struct VirtioBlockTests {
    typealias Buffer = VirtioTestQueue.Buffer
    static let header: UInt64 = 0x20_0000
    static let data: UInt64 = 0x20_1000
    static let statusByte: UInt64 = 0x20_0100

    /// A disk with its driver, started.
    struct Rig {
        let disk: MemoryDisk
        let device: VirtioPCI<VirtioBlock>
        let bench: PCIBench
        let driver: VirtioTestDriver
        let queue: VirtioTestQueue

        init(_ disk: MemoryDisk = MemoryDisk(), serial: String = "ospite-disk-0", without: UInt64 = 0) throws
        {
            self.disk = disk
            let bench = try PCIBench()
            device = VirtioPCI(
                VirtioBlock(bench.context, backend: disk, options: VirtioBlock.Options(serial: serial)))
            bench.bridge.insert(device.function, slot: 4)
            try bench.assignResources()
            self.bench = bench
            driver = VirtioTestDriver(bench, slot: 4)
            queue = driver.start(without: without)[0]
        }

        func writeHeader(_ type: UInt32, sector: UInt64 = 0) {
            queue.store(type, header)
            queue.store(UInt32(0), header + 4)
            queue.store(sector, header + 8)
            queue.store(UInt8(0xEE), statusByte)
        }

        /// Sends one request; returns its status byte, or nil when it did not complete.
        func request(_ type: UInt32, sector: UInt64 = 0, _ buffers: [Buffer] = []) -> UInt8? {
            writeHeader(type, sector: sector)
            guard queue.send([.out(header, 16)] + buffers + [.into(statusByte, 1)]) != nil else { return nil }
            return queue.load(UInt8.self, statusByte)
        }

        func range(_ type: UInt32, _ sector: UInt64, _ count: UInt32, flags: UInt32 = 0) -> UInt8? {
            queue.store(sector, data)
            queue.store(count, data + 8)
            queue.store(flags, data + 12)
            return request(type, [.out(data, 16)])
        }
    }

    @Test func `what is written is read back, split over buffers of any length`() throws {
        let rig = try Rig()
        let pattern = (0..<2048).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
        try rig.bench.memory.write(pattern, at: GuestAddress(Self.data))
        #expect(
            rig.request(
                1, sector: 5, [.out(Self.data, 1), .out(Self.data + 1, 600), .out(Self.data + 601, 1447)])
                == 0)
        #expect(Array(rig.disk.bytes[2560..<4608]) == pattern)
        let target = Self.data + 0x3003
        #expect(rig.request(0, sector: 5, [.into(target, 513), .into(target + 513, 1535)]) == 0)
        #expect(try rig.bench.memory.bytes(GuestAddress(target), count: 2048) == pattern)
    }

    @Test func `neighbouring buffers become one, others do not`() throws {
        let rig = try Rig()
        let pieces: [Buffer] = [
            .into(Self.data, 512), .into(Self.data + 512, 512), .into(Self.data + 2048, 512),
        ]
        #expect(rig.request(0, pieces) == 0)
        #expect(rig.disk.lastBufferCount == 2)
        #expect(rig.request(0, pieces.reversed()) == 0)
        #expect(rig.disk.lastBufferCount == 3)
        // The last bytes of low RAM and the first above 4 GiB.
        rig.disk.bytes[0] = 0x12
        rig.disk.bytes[512] = 0x34
        #expect(rig.request(0, [.into(PCIBench.ramSize - 512, 512), .into(PCIBench.highRAM, 512)]) == 0)
        #expect(rig.queue.load(UInt8.self, PCIBench.ramSize - 512) == 0x12)
        #expect(rig.queue.load(UInt8.self, PCIBench.highRAM) == 0x34)
    }

    @Test func `a read reports its length and marks the pages`() throws {
        let rig = try Rig()
        rig.writeHeader(0)
        let page = Int(Self.data >> 12)
        _ = rig.bench.memory.pages.markCode(page)
        let used = rig.queue.send([.out(Self.header, 16), .into(Self.data, 1024), .into(Self.statusByte, 1)])
        #expect(used?.length == 1025)
        #expect(rig.bench.memory.pages.word(page) & 1 == 0)
    }

    @Test func `header and status may lie anywhere in their buffers`() throws {
        let rig = try Rig()
        rig.disk.bytes[512] = 0x77
        rig.writeHeader(0, sector: 1)
        // The header over three descriptors, and the status at the end of the data buffer.
        let used = rig.queue.send([
            .out(Self.header, 3), .out(Self.header + 3, 0), .out(Self.header + 3, 13), .into(Self.data, 513),
        ])
        #expect(used?.length == 513)
        #expect(rig.queue.load(UInt8.self, Self.data) == 0x77)
        #expect(rig.queue.load(UInt8.self, Self.data + 512) == 0)
        // A write whose data shares the header's buffer.
        rig.writeHeader(1, sector: 2)
        rig.queue.store(UInt8(0x55), Self.header + 16)
        #expect(rig.queue.send([.out(Self.header, 528), .into(Self.statusByte, 1)]) != nil)
        #expect(rig.disk.bytes[1024] == 0x55)
    }

    @Test(arguments: [0, 1, 15] as [UInt32])
    func `a short header is an error with a status`(length: UInt32) throws {
        let rig = try Rig()
        rig.writeHeader(0)
        #expect(rig.queue.send([.out(Self.header, length), .into(Self.statusByte, 1)])?.length == 1)
        #expect(rig.queue.load(UInt8.self, Self.statusByte) == 1)
        #expect(!rig.driver.needsReset)
    }

    @Test(
        arguments: [(128, 512), (127, 1024), (~0, 512), (~0 - 1, 1024), (1 << 63, 512), (0, 128 * 512 + 512)]
            as [(UInt64, UInt32)])
    func `ranges beyond the end are errors`(sector: UInt64, length: UInt32) throws {
        let rig = try Rig()
        #expect(rig.request(0, sector: sector, [.into(Self.data, length)]) == 1)
        #expect(rig.request(1, sector: sector, [.out(Self.data, length)]) == 1)
        #expect(rig.disk.operations.isEmpty)
    }

    @Test(arguments: [1, 511, 513, 1000] as [UInt32])
    func `lengths that are no multiple of 512 are errors`(length: UInt32) throws {
        let rig = try Rig()
        #expect(rig.request(0, [.into(Self.data, length)]) == 1)
        #expect(rig.request(1, [.out(Self.data, length)]) == 1)
        #expect(rig.disk.operations.isEmpty)
    }

    @Test func `the last sector is readable and an empty transfer succeeds`() throws {
        let rig = try Rig()
        #expect(rig.request(0, sector: 127, [.into(Self.data, 512)]) == 0)
        #expect(rig.request(0, sector: 128) == 0)
        #expect(rig.request(1, sector: 0) == 0)
    }

    @Test(arguments: [2, 3, 5, 7, 9, 10, 12, 14, 15, 0x8000_0000, 0xFFFF_FFFF] as [UInt32])
    func `unknown types are unsupported`(type: UInt32) throws {
        let rig = try Rig()
        #expect(rig.request(type, [.into(Self.data, 512)]) == 2)
    }

    @Test func `the identifier fits its buffer`() throws {
        let rig = try Rig(serial: "a-serial-number-that-is-too-long")
        #expect(rig.request(8, [.into(Self.data, 20)]) == 0)
        #expect(
            try rig.bench.memory.bytes(GuestAddress(Self.data), count: 20)
                == Array("a-serial-number-that".utf8))
        rig.queue.store(UInt64.max, Self.data)
        #expect(rig.request(8, [.into(Self.data, 3)]) == 0)
        #expect(rig.queue.load(UInt32.self, Self.data) == 0xFF_73_2D_61)
        #expect(rig.request(8) == 0)
    }

    @Test func `ranges are discarded and zeroed`() throws {
        let rig = try Rig()
        rig.disk.bytes = [UInt8](repeating: 1, count: 128 * 512)
        #expect(rig.range(11, 2, 3) == 0)
        #expect(rig.range(13, 8, 2, flags: 1) == 0)
        #expect(rig.range(13, 20, 1) == 0)
        #expect(
            rig.disk.operations == [.discard, .writeZeroes(mayUnmap: true), .writeZeroes(mayUnmap: false)])
        #expect(rig.disk.bytes.filter { $0 == 0 }.count == 6 * 512)
    }

    struct Range: Sendable {
        var sector: UInt64
        var count: UInt32
        var flags: UInt32 = 0
        var status: UInt8 = 1
    }

    @Test(
        arguments: [11, 13] as [UInt32],
        [
            Range(sector: ~0, count: 2), Range(sector: 127, count: 2), Range(sector: 0, count: ~0),
            Range(sector: 129, count: 0), Range(sector: 0, count: 1, flags: 2, status: 2),
            Range(sector: 0, count: 0, status: 0), Range(sector: 128, count: 0, status: 0),
        ])
    func `wrong ranges have their status`(type: UInt32, range: Range) throws {
        let rig = try Rig()
        #expect(rig.range(type, range.sector, range.count, flags: range.flags) == range.status)
        #expect(rig.disk.operations.isEmpty)
    }

    @Test func `discard knows no unmap flag`() throws {
        let rig = try Rig()
        #expect(rig.range(11, 0, 1, flags: 1) == 2)
    }

    @Test(arguments: [0, 1, 15, 17, 32, 0x8_0000] as [UInt32])
    func `range requests have exactly one segment`(length: UInt32) throws {
        let rig = try Rig()
        #expect(rig.request(11, [.out(Self.data, length)]) == 1)
        #expect(rig.request(13, [.out(Self.data, length)]) == 1)
        #expect(rig.disk.operations.isEmpty)
    }

    @Test func `a read-only disk offers no writes and refuses them`() throws {
        let rig = try Rig(MemoryDisk(readOnly: true))
        #expect(
            rig.driver.offeredFeatures & (BlockFeature.readOnly | BlockFeature.discard)
                == BlockFeature.readOnly)
        #expect(rig.request(1, [.out(Self.data, 512)]) == 1)
        #expect(rig.range(11, 0, 1) == 1)
        #expect(rig.range(13, 0, 1) == 1)
        #expect(rig.request(0, [.into(Self.data, 512)]) == 0)
        #expect(rig.disk.operations == [.read])
    }

    @Test func `an error of the backend is an I/O error`() throws {
        let rig = try Rig()
        rig.disk.isFailing = true
        #expect(rig.request(0, [.into(Self.data, 512)]) == 1)
        #expect(rig.request(1, [.out(Self.data, 512)]) == 1)
        #expect(rig.request(4) == 1)
        rig.disk.isFailing = false
        #expect(rig.request(4) == 0)
    }

    @Test func `the configuration says what the device can`() throws {
        let rig = try Rig()
        #expect(rig.driver.readConfig(0, .qword) == 128)
        #expect(rig.driver.readConfig(12, .dword) == 254)
        #expect(rig.driver.readConfig(20, .dword) == 512)
        #expect(rig.driver.readConfig(36, .qword) == 1 << 32 | UInt64(VirtioBlock.largestRange))
        #expect(rig.driver.readConfig(56, .byte) == 1)
        // Writes elsewhere, of any width, change nothing.
        for offset in 0..<80 as Swift.Range<UInt64> where offset != 32 {
            for width in AccessWidth.allCases where offset + UInt64(width.bytes) <= 32 || offset > 32 {
                rig.bench.mmio.write(rig.driver.device.address + offset, width: width, value: 0)
            }
        }
        #expect(rig.driver.readConfig(0, .qword) == 128)
        #expect(rig.driver.readConfig(32, .byte) == 1)
    }

    @Test func `write-through flushes every write`() throws {
        let rig = try Rig()
        rig.bench.mmio.write(rig.driver.device.address + 32, width: .byte, value: 0)
        #expect(rig.request(1, [.out(Self.data, 512)]) == 0)
        #expect(rig.disk.operations == [.write, .flush])
        rig.bench.mmio.write(rig.driver.device.address + 32, width: .byte, value: 1)
        #expect(rig.request(1, [.out(Self.data, 512)]) == 0)
        #expect(rig.disk.operations == [.write, .flush, .write])
    }

    @Test func `a driver that cannot flush gets durable writes`() throws {
        let rig = try Rig(without: BlockFeature.flush)
        #expect(rig.request(1, [.out(Self.data, 512)]) == 0)
        #expect(rig.range(13, 0, 1) == 0)
        #expect(rig.disk.operations == [.write, .flush, .writeZeroes(mayUnmap: false), .flush])
    }

    @Test func `a change of the capacity reaches the driver`() throws {
        let rig = try Rig()
        let generation = rig.driver.read(CommonRegister.configGeneration, .byte)
        _ = rig.bench.interrupts.take()
        rig.device.device.capacityChanged()
        #expect(rig.bench.interrupts.take().map(\.data) == [0x40])
        #expect(rig.driver.read(CommonRegister.configGeneration, .byte) == generation + 1)
    }

    @Test func `requests complete in any order`() throws {
        let rig = try Rig(MemoryDisk(mode: .held))
        rig.writeHeader(4)
        let heads = (0..<4).map { UInt16($0) }.map { index in
            rig.queue.add([.out(Self.header, 16), .into(Self.statusByte + UInt64(index), 1)])
        }
        rig.queue.kick()
        #expect(rig.disk.heldCount == 4)
        var order: [UInt32] = []
        while rig.disk.release() { order += rig.queue.poll().map { [$0.id] } ?? [] }
        #expect(order == heads.reversed().map(UInt32.init))
    }

    @Test func `a backend that never completes is asked no more than the queue holds`() throws {
        let rig = try Rig(MemoryDisk(mode: .held))
        rig.writeHeader(4)
        for count in 1...100_000 {
            rig.queue.add([.out(Self.header, 16), .into(Self.statusByte, 1)])
            rig.queue.kick()
            guard rig.disk.heldCount <= 16, rig.device.device.link.queues[0].inFlight <= 16 else {
                Issue.record("\(rig.disk.heldCount) after \(count)")
                return
            }
        }
        #expect((1...16).contains(rig.disk.largestHeld))
        #expect(rig.queue.poll() == nil && rig.disk.performed == 0)
        let queue = rig.driver.start()[0]
        #expect(rig.disk.heldCount == 0, "the reset has ended what was under way")
        rig.writeHeader(4)
        queue.add([.out(Self.header, 16), .into(Self.statusByte, 1)])
        queue.kick()
        #expect(rig.disk.heldCount == 1 && rig.disk.release() && queue.poll() != nil)
    }

    @Test func `every queue of several works on its own`() throws {
        let disk = MemoryDisk()
        let parts = try VirtioBench {
            VirtioPCI(VirtioBlock($0.context, backend: disk, options: .init(queueCount: 4, queueSize: 64)))
        }
        let queues = parts.driver.start()
        #expect(queues.count == 4)
        #expect(parts.driver.readConfig(34, .word) == 4)
        _ = parts.bench.interrupts.take()
        for queue in queues.reversed() {
            queue.store(UInt32(4), Self.header)
            #expect(queue.send([.out(Self.header, 16), .into(Self.statusByte, 1)]) != nil)
        }
        #expect(parts.bench.interrupts.take().map(\.data) == [0x44, 0x43, 0x42, 0x41])
    }

    @Test func `pause finishes what is in flight, and resume goes on`() throws {
        let rig = try Rig(MemoryDisk(mode: .held))
        rig.writeHeader(4)
        rig.queue.send([.out(Self.header, 16), .into(Self.statusByte, 1)])
        rig.device.pause()
        #expect(rig.queue.poll() != nil)
        rig.queue.send([.out(Self.header, 16), .into(Self.statusByte, 1)])
        #expect(rig.disk.heldCount == 0)
        rig.device.resume()
        #expect(rig.disk.heldCount == 1)
        #expect(rig.disk.release())
        #expect(rig.queue.poll() != nil)
    }

    @Test func `completions on another thread lose nothing`() throws {
        let rig = try Rig(MemoryDisk(mode: .threaded))
        rig.writeHeader(4)
        var sent = 0
        var received = 0
        var turns = 0
        while received < 20_000, turns < 500_000_000 {
            turns += 1
            if sent - received < 7, sent < 20_000 {
                rig.queue.add([.out(Self.header, 16), .into(Self.statusByte, 1)])
                rig.queue.kick()
                sent += 1
            }
            while rig.queue.poll() != nil { received += 1 }
        }
        #expect(received == 20_000)
        rig.device.pause()
        #expect(rig.device.device.link.queues[0].inFlight == 0)
    }

    @Test func `saved in mid-traffic, restored elsewhere, nothing is lost or done twice`() throws {
        let rig = try Rig(MemoryDisk(mode: .held))
        rig.writeHeader(4)
        for index in 0..<3 as Swift.Range<UInt64> {
            rig.queue.add([.out(Self.header, 16), .into(Self.statusByte + index, 1)])
        }
        rig.queue.kick()
        rig.device.pause()
        // Made available but never announced before the save.
        rig.queue.add([.out(Self.header, 16), .into(Self.statusByte + 3, 1)])
        let saved = rig.device.save()

        let other = try Rig(MemoryDisk(mode: .held))
        try other.bench.memory.write(
            rig.bench.memory.bytes(GuestAddress(0), count: 4 << 20), at: GuestAddress(0))
        try other.device.restore(saved)
        #expect(other.device.save() == saved)
        other.queue.availableIndex = rig.queue.availableIndex
        other.device.resume()
        #expect(other.disk.heldCount == 1)
        #expect(other.disk.release())
        let ids = (0..<4).compactMap { _ in other.queue.poll()?.id }
        #expect(ids.count == 4 && Set(ids).count == 4)
        #expect(other.queue.poll() == nil)
        #expect(other.bench.interrupts.take().last?.data == 0x41)
    }
}
