import DeviceModel
import GuestMemory
import Testing
@testable import Virtio
@testable import VirtioDevices

/// A disk with its registers in memory, driven as Linux's virtio_mmio does it.
@Suite struct VirtioMMIOTests {
    typealias Disk = VirtioMMIO<VirtioBlock>
    private static let line = 21
    private static let rings: UInt64 = 0x10_0000
    private static let header: UInt64 = 0x20_0000
    private static let data: UInt64 = 0x21_0000
    private static let status: UInt64 = 0x20_0100

    let bench: PCIBench
    let backend = MemoryDisk(mode: .immediate)
    let device: Disk

    init() throws {
        bench = try PCIBench()
        device = Disk(VirtioBlock(bench.context, backend: backend), line: bench.context.line(Self.line))
    }

    private func read(_ register: UInt64, _ width: AccessWidth = .dword) -> UInt64 {
        device.read(region: 0, offset: register, width: width)
    }
    private func write(_ register: UInt64, _ value: UInt64, _ width: AccessWidth = .dword) {
        device.write(region: 0, offset: register, width: width, value: value)
    }

    private var offered: UInt64 {
        (0..<2 as Range<UInt64>).reduce(0) { features, half in
            write(MMIORegister.deviceFeatureSelect, half)
            return features | read(MMIORegister.deviceFeatures) << (32 * half)
        }
    }

    private func negotiate(_ features: UInt64) -> Bool {
        for value in [0, 1, 3] as [UInt64] { write(MMIORegister.status, value) }
        for half in 0..<2 as Range<UInt64> {
            write(MMIORegister.driverFeatureSelect, half)
            write(MMIORegister.driverFeatures, features >> (32 * half) & 0xFFFF_FFFF)
        }
        write(MMIORegister.status, 11)
        return read(MMIORegister.status) & UInt64(DeviceStatus.featuresOK) != 0
    }

    private func enableQueue(size: UInt64 = 8) throws {
        try bench.memory.zero(GuestAddress(Self.rings), count: 0x1_0000)
        write(MMIORegister.queueSelect, 0)
        write(MMIORegister.queueSize, size)
        for (register, address) in [
            (MMIORegister.queueDescriptorsLow, Self.rings),
            (MMIORegister.queueDriverLow, Self.rings + 0x4000),
            (MMIORegister.queueDeviceLow, Self.rings + 0x8000),
        ] {
            write(register, address & 0xFFFF_FFFF)
            write(register + 4, address >> 32)
        }
        write(MMIORegister.queueReady, 1)
    }

    private func start() throws {
        #expect(negotiate(offered))
        try enableQueue()
        write(MMIORegister.status, 15)
    }

    /// One request of 512 bytes at sector 0; `turn` counts the requests of this life of the queue from 0.
    private func transfer(_ type: UInt32, turn: UInt16) throws -> UInt8 {
        let memory = bench.memory
        try memory.store(type, at: GuestAddress(Self.header))
        try memory.store(UInt64(0), at: GuestAddress(Self.header + 8))
        try memory.store(UInt8(0xFF), at: GuestAddress(Self.status))
        let isRead = type == BlockRequestType.read
        let chain = [
            QueueDescriptor(address: Self.header, length: 16, flags: 1, next: 1),
            QueueDescriptor(address: Self.data, length: 512, flags: isRead ? 3 : 1, next: 2),
            QueueDescriptor(address: Self.status, length: 1, flags: 2, next: 0),
        ]
        for (index, descriptor) in chain.enumerated() {
            try memory.store(descriptor, at: GuestAddress(Self.rings + 16 * UInt64(index)))
        }
        try memory.store(UInt16(0), at: GuestAddress(Self.rings + 0x4004 + 2 * UInt64(turn % 8)))
        try memory.storeRelease(turn &+ 1, at: GuestAddress(Self.rings + 0x4002))
        write(MMIORegister.queueNotify, 0)
        return try memory.load(UInt8.self, at: GuestAddress(Self.status))
    }

    private func usedIndex() throws -> UInt16 {
        try bench.memory.load(UInt16.self, at: GuestAddress(Self.rings + 0x8002))
    }

    @Test func `the first registers say what the device is`() {
        #expect(read(MMIORegister.magic) == 0x7472_6976)
        #expect(read(MMIORegister.version) == 2)
        #expect(read(MMIORegister.deviceID) == 2)
        #expect(offered & VirtioFeature.version1 != 0)
        write(MMIORegister.queueSelect, 0)
        #expect(read(MMIORegister.queueSizeMaximum) == 256)
        for queue in [1, 0x8000, 0xFFFF_FFFF] as [UInt64] {
            write(MMIORegister.queueSelect, queue)
            #expect(read(MMIORegister.queueSizeMaximum) == 0)
        }
        // No shared memory region.
        #expect(read(MMIORegister.sharedMemoryLengthLow) == 0xFFFF_FFFF)
    }

    @Test func `registers are 32 bits wide and the configuration is not`() throws {
        #expect(read(MMIORegister.magic, .byte) == 0 && read(MMIORegister.magic, .qword) == 0)
        write(MMIORegister.status, 1, .byte)
        #expect(read(MMIORegister.status) == 0)
        let capacity = read(MMIORegister.config, .qword)
        #expect(capacity == backend.capacity && capacity > 0)
        #expect(read(MMIORegister.config + 1, .byte) == capacity >> 8 & 0xFF)
        #expect(read(MMIORegister.size - 1, .byte) == 0)
    }

    @Test func `features need VERSION_1 and nothing that was not offered`() {
        #expect(!negotiate(0))
        #expect(!negotiate(VirtioFeature.version1 | 1 << 33))
        #expect(negotiate(VirtioFeature.version1))
    }

    @Test func `what is written to a disk can be read from it, and the line is high until acknowledged`()
        throws
    {
        try start()
        #expect(read(MMIORegister.status) == 15)
        let pattern = (0..<512).map { UInt8(truncatingIfNeeded: $0 * 7) }
        try bench.memory.write(pattern, at: GuestAddress(Self.data))
        #expect(!bench.interrupts.isHigh(Self.line))
        #expect(try transfer(BlockRequestType.write, turn: 0) == 0)
        #expect(bench.interrupts.isHigh(Self.line))
        #expect(read(MMIORegister.interruptStatus) == 1)
        // Reading changes nothing, unlike on PCI.
        #expect(read(MMIORegister.interruptStatus) == 1)
        write(MMIORegister.interruptAcknowledge, 2)
        #expect(bench.interrupts.isHigh(Self.line))
        write(MMIORegister.interruptAcknowledge, 1)
        #expect(!bench.interrupts.isHigh(Self.line) && read(MMIORegister.interruptStatus) == 0)
        try bench.memory.zero(GuestAddress(Self.data), count: 512)
        #expect(try transfer(BlockRequestType.read, turn: 1) == 0)
        #expect(try bench.memory.bytes(GuestAddress(Self.data), count: 512) == pattern)
        #expect(try usedIndex() == 2)
    }

    @Test func `a queue that is taken away serves nothing and can be had again`() throws {
        try start()
        #expect(try transfer(BlockRequestType.write, turn: 0) == 0)
        #expect(read(MMIORegister.queueReady) == 1)
        write(MMIORegister.queueReady, 0)
        #expect(read(MMIORegister.queueReady) == 0)
        #expect(try transfer(BlockRequestType.write, turn: 1) == 0xFF)
        try enableQueue()
        #expect(try transfer(BlockRequestType.write, turn: 0) == 0)
        write(MMIORegister.status, 0)
        #expect(read(MMIORegister.queueReady) == 0 && read(MMIORegister.status) == 0)
        #expect(!bench.interrupts.isHigh(Self.line))
    }

    @Test func `impossible rings ask for a reset and raise the line`() throws {
        try start()
        write(MMIORegister.queueReady, 0)
        write(MMIORegister.queueDescriptorsHigh, 0xFFFF_FFFF)
        write(MMIORegister.queueReady, 1)
        #expect(read(MMIORegister.queueReady) == 0)
        #expect(read(MMIORegister.status) & UInt64(DeviceStatus.needsReset) != 0)
        #expect(read(MMIORegister.interruptStatus) == 2 && bench.interrupts.isHigh(Self.line))
    }

    @Test func `saved with an event that nobody acknowledged, the line is high in the copy`() throws {
        try start()
        #expect(try transfer(BlockRequestType.write, turn: 0) == 0)
        device.pause()
        let saved = device.save()
        let other = 22
        let copy = Disk(VirtioBlock(bench.context, backend: backend), line: bench.context.line(other))
        #expect(!bench.interrupts.isHigh(other))
        try copy.restore(saved)
        #expect(copy.save() == saved)
        #expect(bench.interrupts.isHigh(other))
        copy.write(region: 0, offset: MMIORegister.interruptAcknowledge, width: .dword, value: 3)
        #expect(!bench.interrupts.isHigh(other))
    }
}
