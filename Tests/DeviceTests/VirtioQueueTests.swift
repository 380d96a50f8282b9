import DeviceModel
import GuestMemory
import PCIBus
import Testing
@testable import Virtio
@testable import VirtioDevices

/// Wrong rings and chains, on the queue of a disk: always DEVICE_NEEDS_RESET with a configuration interrupt,
/// nothing executed, and a reset heals.
@Suite struct VirtioQueueTests {
    typealias Buffer = VirtioTestQueue.Buffer
    static let header: UInt64 = 0x20_0000
    static let data: UInt64 = 0x20_1000
    static let statusByte: UInt64 = 0x20_0100
    static let hole: UInt64 = 0x8000_0000
    static let indirectTable: UInt64 = 0x21_0000

    let disk = MemoryDisk()
    let bench: PCIBench
    let driver: VirtioTestDriver

    init() throws {
        let disk = disk
        let parts = try VirtioBench { VirtioPCI(VirtioBlock($0.context, backend: disk)) }
        bench = parts.bench
        driver = parts.driver
    }

    struct Malformed: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let build: @Sendable (VirtioTestQueue) -> Void
        init(_ name: String, _ build: @escaping @Sendable (VirtioTestQueue) -> Void) {
            testDescription = name
            self.build = build
        }
    }

    static let malformed: [Malformed] = [
        Malformed("head index at the queue size") { $0.makeAvailable($0.size) },
        Malformed("head index 65535") { $0.makeAvailable(65535) },
        Malformed("next index out of range") {
            $0.describe(0, header, 16, flags: 1, next: 99)
            $0.makeAvailable(0)
        },
        Malformed("a descriptor that is its own next") {
            $0.describe(0, header, 16, flags: 1, next: 0)
            $0.makeAvailable(0)
        },
        Malformed("a loop of three") {
            for slot in 0..<3 as Range<UInt16> {
                $0.describe(slot, header, 16, flags: 1, next: (slot + 1) % 3)
            }
            $0.makeAvailable(0)
        },
        Malformed("a loop of empty descriptors") {
            $0.describe(0, header, 0, flags: 1, next: 1)
            $0.describe(1, header, 0, flags: 1, next: 0)
            $0.makeAvailable(0)
        },
        Malformed("address plus length beyond 2^64") {
            $0.describe(0, ~0 - 8, 0x1000)
            $0.makeAvailable(0)
        },
        Malformed("address in a hole") {
            $0.describe(0, hole, 16)
            $0.makeAvailable(0)
        },
        Malformed("address in MMIO") {
            $0.describe(0, PCIHostBridge.ecamAddress, 16)
            $0.makeAvailable(0)
        },
        Malformed("address in the device's own registers") {
            $0.describe(0, $0.driver.common.address, 16, flags: 2)
            $0.makeAvailable(0)
        },
        Malformed("indirect table in the device's own registers") {
            $0.describe(0, $0.driver.common.address, 32, flags: 4)
            $0.makeAvailable(0)
        },
        Malformed("writable buffer in ROM") {
            $0.describe(0, PCIBench.rom, 16, flags: 2)
            $0.makeAvailable(0)
        },
        Malformed("buffer from RAM into the hole") {
            $0.describe(0, PCIBench.ramSize - 8, 16)
            $0.makeAvailable(0)
        },
        Malformed("buffer from ROM across 4 GiB into RAM") {
            $0.describe(0, 0xFFFF_FFF8, 16)
            $0.makeAvailable(0)
        },
        Malformed("buffer of 4 GiB less one byte") {
            $0.describe(0, 0, ~0)
            $0.makeAvailable(0)
        },
        Malformed("readable after writable") {
            $0.describe(0, header, 16, flags: 3, next: 1)
            $0.describe(1, header, 16)
            $0.makeAvailable(0)
        },
        Malformed("available index jump") {
            $0.store(UInt16($0.size + 1), $0.available + 2)
        },
        Malformed("available index going back") {
            $0.store(UInt16(0xFFFF), $0.available + 2)
        },
        Malformed("indirect table of length 0") {
            $0.describe(0, indirectTable, 0, flags: 4)
            $0.makeAvailable(0)
        },
        Malformed("indirect table not a multiple of 16") {
            $0.describe(0, indirectTable, 17, flags: 4)
            $0.makeAvailable(0)
        },
        Malformed("indirect table of 4 GiB") {
            $0.describe(0, 0, 0xFFFF_FFF0, flags: 4)
            $0.makeAvailable(0)
        },
        Malformed("indirect table above the largest") {
            $0.describe(0, 0, 32_769 * 16, flags: 4)
            $0.makeAvailable(0)
        },
        Malformed("indirect table in a hole") {
            $0.describe(0, hole, 32, flags: 4)
            $0.makeAvailable(0)
        },
        Malformed("indirect table wrapping 2^64") {
            $0.describe(0, ~0 - 15, 32, flags: 4)
            $0.makeAvailable(0)
        },
        Malformed("indirect with next") {
            $0.describe(0, indirectTable, 32, flags: 5, next: 1)
            $0.makeAvailable(0)
        },
        Malformed("indirect in indirect") {
            $0.describe(0, indirectTable, 32, flags: 4)
            $0.describe(0, indirectTable, 32, flags: 4, table: indirectTable)
            $0.makeAvailable(0)
        },
        Malformed("indirect next beyond its table") {
            $0.describe(0, indirectTable, 32, flags: 4)
            $0.describe(0, header, 16, flags: 1, next: 2, table: indirectTable)
            $0.makeAvailable(0)
        },
        Malformed("indirect loop") {
            $0.describe(0, indirectTable, 32, flags: 4)
            $0.describe(0, header, 16, flags: 1, next: 0, table: indirectTable)
            $0.makeAvailable(0)
        },
        Malformed("chains of more than 4 GiB together") {
            $0.describe(0, indirectTable, 16 * 1024, flags: 4)
            for slot in 0..<1024 as Range<UInt16> {
                $0.describe(slot, 0, 8 << 20, flags: 1, next: slot + 1, table: indirectTable)
            }
            $0.makeAvailable(0)
        },
        Malformed("no writable byte for the status") {
            $0.add([.out(header, 16)])
        },
        Malformed("a chain without any byte") {
            $0.add([.out(header, 0)])
        },
    ]

    @Test(arguments: malformed)
    func `a malformed chain asks for a reset, and a reset heals`(_ malformed: Malformed) {
        let queue = driver.start()[0]
        _ = bench.interrupts.take()
        malformed.build(queue)
        queue.kick()
        #expect(driver.needsReset)
        #expect(bench.interrupts.take().map(\.data) == [0x40])
        #expect(queue.poll() == nil)
        #expect(disk.operations.isEmpty)
        // A broken device stays quiet.
        queue.kick()
        #expect(bench.interrupts.take().isEmpty)
        expectWorking(driver.start()[0])
    }

    private func expectWorking(_ queue: VirtioTestQueue) {
        #expect(!driver.needsReset)
        queue.store(UInt8(0xEE), Self.statusByte)
        queue.store(UInt32(4), Self.header)
        queue.store(UInt64(0), Self.header + 8)
        let used = queue.send([.out(Self.header, 16), .into(Self.statusByte, 1)])
        #expect(used?.length == 1)
        #expect(queue.load(UInt8.self, Self.statusByte) == 0)
    }

    @Test func `indirect descriptors are refused without the feature`() {
        let queue = driver.start(without: VirtioFeature.indirectDescriptors)[0]
        queue.describe(0, Self.indirectTable, 32, flags: 4)
        queue.describe(0, Self.header, 16, flags: 1, next: 1, table: Self.indirectTable)
        queue.describe(1, Self.statusByte, 1, flags: 2, table: Self.indirectTable)
        queue.makeAvailable(0)
        queue.kick()
        #expect(driver.needsReset)
    }

    @Test func `a chain that ends in an indirect table is one request`() {
        let queue = driver.start()[0]
        queue.store(UInt32(4), Self.header)
        queue.describe(0, Self.header, 8, flags: 1, next: 1)
        queue.describe(1, Self.indirectTable, 48, flags: 4)
        queue.describe(0, Self.header + 8, 8, flags: 1, next: 2, table: Self.indirectTable)
        queue.describe(2, Self.statusByte, 1, flags: 2, table: Self.indirectTable)
        queue.makeAvailable(0)
        queue.kick()
        #expect(queue.poll()?.length == 1)
        #expect(disk.operations == [.flush])
    }

    struct BadRings: Sendable, CustomTestStringConvertible {
        let testDescription: String
        var size: UInt16 = 16
        var descriptors: UInt64 = 0x10_0000
        var available: UInt64 = 0x10_4000
        var used: UInt64 = 0x10_8000
    }

    @Test(arguments: [
        BadRings(testDescription: "size 0", size: 0),
        BadRings(testDescription: "size not a power of two", size: 3),
        BadRings(testDescription: "size above the maximum", size: 512),
        BadRings(testDescription: "size 65535", size: 65535),
        BadRings(testDescription: "size 32768", size: 32768),
        BadRings(testDescription: "descriptors unaligned", descriptors: 0x10_0008),
        BadRings(testDescription: "available unaligned", available: 0x10_4001),
        BadRings(testDescription: "used unaligned", used: 0x10_8002),
        BadRings(testDescription: "descriptors in a hole", descriptors: hole),
        BadRings(testDescription: "available at the end of RAM", available: PCIBench.ramSize - 32),
        BadRings(testDescription: "used at 2^64", used: ~3),
        BadRings(testDescription: "used ring in ROM", used: PCIBench.rom),
        BadRings(testDescription: "descriptors in MMIO", descriptors: 0xE000_0000),
    ])
    func `impossible rings are not enabled`(_ rings: BadRings) {
        driver.negotiate(driver.offeredFeatures)
        driver.write(CommonRegister.queueSelect, .word, 0)
        driver.write(CommonRegister.queueSize, .word, UInt64(rings.size))
        driver.write(CommonRegister.queueDescriptors, .qword, rings.descriptors)
        driver.write(CommonRegister.queueDriver, .qword, rings.available)
        driver.write(CommonRegister.queueDevice, .qword, rings.used)
        driver.write(CommonRegister.queueEnable, .word, 1)
        #expect(driver.read(CommonRegister.queueEnable, .word) == 0)
        driver.deviceStatus = 15
        #expect(driver.needsReset)
        bench.mmio.write(driver.notify.address, width: .word, value: 0)
        expectWorking(driver.start()[0])
    }

    @Test func `overlapping rings are the driver's own trouble`() {
        driver.negotiate(driver.offeredFeatures)
        let queue = VirtioTestQueue(driver, index: 0, size: 16, base: 0x10_0000)
        driver.write(CommonRegister.queueSize, .word, 16)
        for register in [
            CommonRegister.queueDescriptors, CommonRegister.queueDriver, CommonRegister.queueDevice,
        ] {
            driver.write(register, .qword, 0x10_0000)
        }
        driver.write(CommonRegister.queueEnable, .word, 1)
        driver.deviceStatus = 15
        for word in 0..<64 as Range<UInt64> {
            queue.store(UInt32(truncatingIfNeeded: word &* 0x9E37_79B9), 0x10_0000 + 4 * word)
        }
        queue.kick()
        queue.store(UInt16(1), 0x10_0002)
        queue.kick()
        expectWorking(driver.start()[0])
    }

    @Test func `addresses and size do not change after enable`() {
        let queue = driver.start()[0]
        driver.write(CommonRegister.queueSelect, .word, 0)
        driver.write(CommonRegister.queueSize, .word, 8)
        driver.write(CommonRegister.queueDescriptors, .qword, Self.hole)
        driver.write(CommonRegister.queueEnable, .word, 0)
        #expect(driver.read(CommonRegister.queueSize, .word) == 16)
        #expect(driver.read(CommonRegister.queueDescriptors, .qword) == queue.descriptors)
        #expect(driver.read(CommonRegister.queueEnable, .word) == 1)
        expectWorking(queue)
    }

    @Test func `rings at the last bytes of RAM work`() {
        driver.negotiate(driver.offeredFeatures)
        driver.enableMSIX()
        driver.write(CommonRegister.queueSelect, .word, 0)
        driver.write(CommonRegister.queueSize, .word, 1)
        driver.write(CommonRegister.queueDescriptors, .qword, PCIBench.highRAM + (1 << 20) - 16)
        driver.write(CommonRegister.queueDriver, .qword, 0x10_4000)
        driver.write(CommonRegister.queueDevice, .qword, PCIBench.ramSize - 16)
        driver.write(CommonRegister.queueEnable, .word, 1)
        driver.deviceStatus = 15
        #expect(driver.read(CommonRegister.queueEnable, .word) == 1)
        bench.mmio.write(driver.notify.address, width: .word, value: 0)
        #expect(!driver.needsReset)
    }

    @Test func `a kick before enable and before DRIVER_OK does nothing`() {
        driver.negotiate(driver.offeredFeatures)
        bench.mmio.write(driver.notify.address, width: .word, value: 0)
        let queue = driver.setUp(queue: 0, at: 0x10_0000)
        queue.store(UInt32(4), Self.header)
        queue.send([.out(Self.header, 16), .into(Self.statusByte, 1)])
        #expect(disk.operations.isEmpty)
        #expect(queue.poll() == nil)
        driver.deviceStatus = 15
        #expect(queue.poll()?.length == 1)
    }

    @Test func `the table may be rewritten while a request is in flight`() throws {
        let held = MemoryDisk(mode: .held)
        let parts = try VirtioBench { VirtioPCI(VirtioBlock($0.context, backend: held)) }
        let queue = parts.driver.start()[0]
        queue.store(UInt32(0), Self.header)
        queue.send([.out(Self.header, 16), .into(Self.data, 512), .into(Self.statusByte, 1)])
        for slot in 0..<16 as Range<UInt16> { queue.describe(slot, Self.hole, ~0, flags: 7, next: 99) }
        queue.store(UInt8(0xEE), Self.statusByte)
        #expect(held.release())
        #expect(queue.poll()?.length == 513)
        #expect(queue.load(UInt8.self, Self.statusByte) == 0)
        #expect(!parts.driver.needsReset)
    }

    @Test func `the same head again and again is bounded by the queue size`() throws {
        let held = MemoryDisk(mode: .held)
        let parts = try VirtioBench { VirtioPCI(VirtioBlock($0.context, backend: held)) }
        let queue = parts.driver.start()[0]
        queue.store(UInt32(4), Self.header)
        queue.describe(0, Self.header, 16, flags: 1, next: 1)
        queue.describe(1, Self.statusByte, 1, flags: 2)
        for _ in 0..<16 { queue.makeAvailable(0) }
        queue.kick()
        for _ in 0..<16 { queue.makeAvailable(0) }
        for _ in 0..<1000 { queue.kick() }
        #expect(held.heldCount == 16)
        // The rest is taken without a further kick, as requests complete.
        while held.release() {}
        var completed = 0
        while queue.poll() != nil { completed += 1 }
        #expect(completed == 32)
        #expect(held.largestHeld == 16)
    }

    @Test func `a queue that feeds itself is left, and visited again from the timer`() {
        let queue = driver.start()[0]
        queue.store(UInt32(4), Self.header)
        queue.describe(0, Self.header, 16, flags: 1, next: 1)
        queue.describe(1, Self.statusByte, 1, flags: 2)
        let memory = bench.memory
        let index = GuestAddress(queue.available + 2)
        // Every request makes another one available, as one that reads into its own ring can.
        disk.setAfterwards { try! memory.store(memory.load(UInt16.self, at: index) &+ 1, at: index) }
        queue.makeAvailable(0)
        queue.kick()
        #expect(disk.performed == 1024)
        #expect(bench.clock.fireTimers() == 1)
        #expect(disk.performed == 2048)
        disk.setAfterwards(nil)
        #expect(bench.clock.fireTimers() == 1)
        #expect(disk.performed == 2049)
        #expect(bench.clock.fireTimers() == 0)
        #expect(!driver.needsReset)
    }

    // MARK: Notifications and interrupts

    private func addFlush(_ queue: VirtioTestQueue) {
        queue.store(UInt32(4), Self.header)
        queue.add([.out(Self.header, 16), .into(Self.statusByte, 1)])
    }

    @Test func `a batch is published at once with one interrupt`() {
        let queue = driver.start()[0]
        _ = bench.interrupts.take()
        for _ in 0..<8 { addFlush(queue) }
        queue.kick()
        #expect(queue.load(UInt16.self, queue.used + 2) == 8)
        #expect(bench.interrupts.take().map(\.data) == [0x41])
    }

    @Test func `the used event suppresses interrupts until it is passed`() {
        let queue = driver.start()[0]
        _ = bench.interrupts.take()
        queue.store(UInt16(2), queue.available + 4 + 2 * UInt64(queue.size))
        var counts: [Int] = []
        for _ in 0..<4 {
            addFlush(queue)
            queue.kick()
            counts.append(bench.interrupts.take().count)
        }
        #expect(counts == [0, 0, 1, 0])
    }

    @Test func `the available event asks for the next chain`() {
        let queue = driver.start()[0]
        for turn in 1...3 as ClosedRange<UInt16> {
            addFlush(queue)
            queue.kick()
            #expect(queue.load(UInt16.self, queue.used + 4 + 8 * UInt64(queue.size)) == turn)
        }
    }

    @Test func `without event indices the flags decide`() {
        let queue = driver.start(without: VirtioFeature.eventIndex)[0]
        _ = bench.interrupts.take()
        queue.store(UInt16(1), queue.available)
        addFlush(queue)
        queue.kick()
        #expect(bench.interrupts.take().isEmpty)
        queue.store(UInt16(0), queue.available)
        addFlush(queue)
        queue.kick()
        #expect(bench.interrupts.take().map(\.data) == [0x41])
        #expect(queue.load(UInt16.self, queue.used) == 0)
    }

    @Test func `event index storms change nothing but interrupts`() {
        let queue = driver.start()[0]
        var random = BenchRandom(seed: 5)
        for _ in 0..<2000 {
            queue.store(
                UInt16.random(in: 0...65535, using: &random), queue.available + 4 + 2 * UInt64(queue.size))
            addFlush(queue)
            queue.kick()
            #expect(queue.poll()?.length == 1)
        }
        #expect(!driver.needsReset)
    }

    @Test func `ring indices wrap`() {
        let queue = driver.start()[0]
        for _ in 0..<65_600 {
            addFlush(queue)
            queue.kick()
            guard queue.poll() != nil else {
                Issue.record("stopped at \(queue.availableIndex)")
                return
            }
        }
        #expect(queue.availableIndex == 64)
    }
}
