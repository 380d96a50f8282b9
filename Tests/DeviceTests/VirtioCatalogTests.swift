import DeviceModel
import Foundation
import GuestMemory
import PCIBus
import Testing
@testable import Virtio
@testable import VirtioDevices

extension VirtioEntry: CustomTestStringConvertible {
    public var testDescription: String { kind }
}

/// What holds for every row of the catalog.
@Suite struct VirtioCatalogTests {
    /// A board with one device of the catalog.
    struct Rig {
        let bench: PCIBench
        let device: any VirtioFunction
        let driver: VirtioTestDriver

        init(_ entry: VirtioEntry, mode: MemoryDisk.Mode = .immediate) throws {
            bench = try PCIBench()
            let backends = VirtioBackends(
                block: MemoryDisk(mode: mode), sink: MemorySink(), network: RecordingCable(hasLink: true)
            ) {
                [UInt8](repeating: 7, count: $0)
            }
            device = entry.build(bench.context, backends)
            bench.bridge.insert(device.function, slot: 4)
            try bench.assignResources()
            driver = VirtioTestDriver(bench, slot: 4)
        }
    }

    @Test func `kinds are unique`() {
        #expect(Set(virtioCatalog.map(\.kind)).count == virtioCatalog.count)
    }

    @Test(arguments: virtioCatalog)
    func `the handshake works and kicks of every queue are harmless`(entry: VirtioEntry) throws {
        let rig = try Rig(entry)
        for queue in rig.driver.start() { queue.kick() }
        #expect(rig.driver.deviceStatus == 15)
        #expect(rig.device.signals.faults == 0)
    }

    /// Saves through JSON, restores into `other`, and returns whether both save alike.
    private func copies<F: VirtioFunction>(_ device: F, into other: any VirtioFunction) throws -> Bool {
        let saved = device.save()
        let decoded = try JSONDecoder().decode(F.Saved.self, from: JSONEncoder().encode(saved))
        let target = try #require(other as? F)
        try target.restore(decoded)
        return target.save() == saved
    }

    @Test(arguments: virtioCatalog)
    func `saved between requests and restored, the queues go on where they were`(entry: VirtioEntry) throws {
        let rig = try Rig(entry)
        let queues = rig.driver.start()
        for (queue, count) in zip(queues, 3...) {
            for _ in 0..<count { queue.add([.out(0x20_0000, 64), .into(0x21_0000, 128)]) }
            queue.kick()
        }
        rig.device.pause()
        let other = try Rig(entry)
        #expect(try copies(rig.device, into: other.device))
        try other.bench.memory.write(
            rig.bench.memory.bytes(GuestAddress(0), count: 4 << 20), at: GuestAddress(0))
        #expect(other.driver.deviceStatus == 15)
        other.device.resume()
        for queue in queues {
            let index = queue.load(UInt16.self, queue.used + 2)
            let restored = try other.bench.memory.load(UInt16.self, at: GuestAddress(queue.used + 2))
            #expect(restored == index)
        }
        #expect(other.driver.deviceStatus == 15)
        #expect(other.device.signals.faults == 0)
    }

    @Test(arguments: virtioCatalog)
    func `state of another device is refused`(entry: VirtioEntry) throws {
        let rig = try Rig(entry)
        _ = rig.driver.start()
        try refusesForeign(rig.device)
    }

    private func refusesForeign<F: VirtioFunction>(_ device: F) throws {
        let text = String(decoding: try JSONEncoder().encode(device.save()), as: UTF8.self)
        let changes: [(String, String)] = [
            (#""queues":\[.*?\]"#, #""queues":[]"#),
            (#""driverFeatures":[0-9]+"#, #""driverFeatures":0"#),
            (#""driverFeatures":[0-9]+"#, #""driverFeatures":18446744073709551615"#),
            (#""size":16"#, #""size":15"#),
            (#""used":[0-9]+"#, #""used":3"#),
            (#""descriptors":[0-9]+"#, #""descriptors":18446744073709551600"#),
            (#""table":\[.*?\]"#, #""table":[1,2]"#),
            (#""config":\[.*?\]"#, #""config":[]"#),
        ]
        for (pattern, replacement) in changes {
            let bad = text.replacingOccurrences(of: pattern, with: replacement, options: .regularExpression)
            #expect(bad != text)
            let decoded = try JSONDecoder().decode(F.Saved.self, from: Data(bad.utf8))
            #expect(throws: RestoreError.self) { try device.restore(decoded) }
        }
    }

    // MARK: Fuzzing

    /// One random act of a hostile guest.
    private func act(_ rig: Rig, _ random: inout BenchRandom) {
        let width = AccessWidth.allCases.randomElement(using: &random)!
        let value = [0, 1, 15, ~0, random.next()].randomElement(using: &random)!
        let registers = rig.driver.common.address
        switch UInt8.random(in: 0..<32, using: &random) {
        case 0:
            rig.bench.mmio.write(
                PCIBench.ecam(4, .random(in: 0x40...0xFF, using: &random)), width: width, value: value)
        case 1: _ = rig.bench.mmio.read(PCIBench.ecam(4, .random(in: 0...0xFF, using: &random)), width: width)
        case 2...4:
            rig.bench.mmio.write(
                registers &+ .random(in: 0..<0x40, using: &random), width: width, value: value)
        case 5, 6: _ = rig.bench.mmio.read(registers &+ .random(in: 0..<0x4000, using: &random), width: width)
        case 7:
            rig.bench.mmio.write(
                rig.driver.device.address &+ .random(in: 0..<80, using: &random), width: width, value: value)
        case 8: rig.driver.write(CommonRegister.queueSelect, .word, .random(in: 0...5, using: &random))
        case 9...20: scribble(rig, &random)
        default:
            let queue = UInt64.random(in: 0..<5, using: &random)
            rig.bench.mmio.write(rig.driver.notify.address + 4 * queue, width: .word, value: queue)
        }
    }

    /// Writes into the rings, mostly something that a device would look at.
    private func scribble(_ rig: Rig, _ random: inout BenchRandom) {
        let base = 0x10_0000 + UInt64.random(in: 0..<4, using: &random) * 0x1_0000
        let memory = rig.bench.memory
        switch UInt8.random(in: 0..<6, using: &random) {
        case 0...2:
            let addresses: [UInt64] = [
                0x20_0000, 0x21_0000, 0, PCIBench.ramSize - 8, PCIBench.rom, random.next(),
            ]
            let lengths: [UInt32] = [0, 1, 16, 32, 512, 513, 4096, 70_000, ~0]
            let descriptor = QueueDescriptor(
                address: addresses.randomElement(using: &random)!,
                length: lengths.randomElement(using: &random)!,
                flags: .random(in: 0...7, using: &random), next: .random(in: 0...17, using: &random))
            try! memory.store(descriptor, at: GuestAddress(base + 16 * .random(in: 0..<16, using: &random)))
        case 3:
            let slot = UInt64.random(in: 0..<18, using: &random)
            try! memory.store(
                UInt16.random(in: 0...16, using: &random), at: GuestAddress(base + 0x4004 + 2 * slot))
        case 4:
            let index = (try! memory.load(UInt16.self, at: GuestAddress(base + 0x4002)))
            try! memory.store(index &+ .random(in: 0...9, using: &random), at: GuestAddress(base + 0x4002))
        default:
            // Something like a block header, or a list of pages.
            try! memory.store(UInt32.random(in: 0...14, using: &random), at: GuestAddress(0x20_0000))
            try! memory.store(UInt64.random(in: 0...200, using: &random), at: GuestAddress(0x20_0008))
        }
    }

    @Test(arguments: virtioCatalog)
    func `two hundred thousand random acts neither trap nor break the device`(entry: VirtioEntry) throws {
        let rig = try Rig(entry, mode: entry.kind == VirtioBlock.kind ? .held : .immediate)
        var random = BenchRandom(seed: 2026)
        for turn in 0..<200_000 {
            if turn % 500 == 0 {
                rig.device.function.reset()
                try rig.bench.assignResources()
                _ = rig.driver.start()
            }
            act(rig, &random)
            if turn % 64 == 0 { rig.bench.clock.fireTimers() }
        }
        // The acts were neither all refused nor all harmless.
        #expect(rig.device.signals.faults > 100)
        #expect(rig.bench.interrupts.count > 100)
        rig.device.reset()
        try rig.bench.assignResources()
        for queue in rig.driver.start() { queue.kick() }
        #expect(rig.driver.deviceStatus == 15)
    }

    @Test(arguments: virtioCatalog)
    func `two processors and a worker at once, with resets, neither trap nor hang`(entry: VirtioEntry) throws
    {
        nonisolated(unsafe) let rig = try Rig(entry, mode: .threaded)
        _ = rig.driver.start()
        DispatchQueue.concurrentPerform(iterations: 2) { processor in
            var random = BenchRandom(seed: UInt64(processor) + 99)
            for turn in 0..<20_000 {
                if turn % 200 == 0 { _ = rig.driver.start() }
                act(rig, &random)
            }
        }
        rig.device.function.reset()
        try rig.bench.assignResources()
        for queue in rig.driver.start() { queue.kick() }
        #expect(rig.driver.deviceStatus == 15)
    }

    @Test(arguments: virtioCatalog)
    func `a save at any time restores to the same state`(entry: VirtioEntry) throws {
        let rig = try Rig(entry)
        var random = BenchRandom(seed: 7)
        for turn in 0..<2000 {
            if turn % 100 == 0 {
                rig.device.function.reset()
                try rig.bench.assignResources()
                _ = rig.driver.start()
            }
            act(rig, &random)
            guard turn % 10 == 9 else { continue }
            rig.device.pause()
            let other = try Rig(entry)
            #expect(try copies(rig.device, into: other.device))
            rig.device.resume()
        }
    }
}
