import DeviceModel
import GuestMemory
import PCIBus
import Testing
@testable import Virtio

/// The guest's side of a virtio-pci device, as a kernel driver does it: capabilities, negotiation, rings.
final class VirtioTestDriver {
    struct Region {
        var address: UInt64 = 0
        var length: UInt64 = 0
    }

    let bench: PCIBench
    let slot: Int
    private(set) var common = Region()
    private(set) var notify = Region()
    private(set) var status = Region()
    private(set) var device = Region()
    private(set) var notifyMultiplier: UInt64 = 0
    private(set) var accessCapability = 0
    private(set) var msixCapability = 0

    /// Finds the register structures; the BARs must be assigned.
    init(_ bench: PCIBench, slot: Int) {
        self.bench = bench
        self.slot = slot
        var at = Int(bench.readConfig(slot, 0x34, .byte))
        while at != 0 {
            let id = bench.readConfig(slot, at, .byte)
            if id == 0x11 { msixCapability = at }
            if id == 0x09 { read(capability: at) }
            at = Int(bench.readConfig(slot, at + 1, .byte))
        }
    }

    private func read(capability at: Int) {
        let bar = Int(bench.readConfig(slot, at + 4, .byte))
        let base = UInt64(bench.readConfig(slot, 0x10 + 4 * bar) & ~0xF)
        let region = Region(
            address: base + UInt64(bench.readConfig(slot, at + 8)),
            length: UInt64(bench.readConfig(slot, at + 12)))
        switch bench.readConfig(slot, at + 3, .byte) {
        case 1: common = region
        case 2:
            notify = region
            notifyMultiplier = UInt64(bench.readConfig(slot, at + 16))
        case 3: status = region
        case 4: device = region
        default: accessCapability = at
        }
    }

    func read(_ register: Int, _ width: AccessWidth) -> UInt64 {
        bench.mmio.read(common.address + UInt64(register), width: width)
    }
    func write(_ register: Int, _ width: AccessWidth, _ value: UInt64) {
        bench.mmio.write(common.address + UInt64(register), width: width, value: value)
    }
    var deviceStatus: UInt8 {
        get { UInt8(read(CommonRegister.deviceStatus, .byte)) }
        set { write(CommonRegister.deviceStatus, .byte, UInt64(newValue)) }
    }
    var needsReset: Bool { deviceStatus & DeviceStatus.needsReset != 0 }
    func readConfig(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
        bench.mmio.read(device.address + offset, width: width)
    }

    func writeConfig(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
        bench.mmio.write(device.address + offset, width: width, value: value)
    }

    var offeredFeatures: UInt64 {
        (0..<2 as Range<UInt64>).reduce(0) { features, half in
            write(CommonRegister.deviceFeatureSelect, .dword, half)
            return features | read(CommonRegister.deviceFeature, .dword) << (32 * half)
        }
    }

    /// Steps 1 to 6 of §3.1.1; returns whether the device accepted the features.
    @discardableResult
    func negotiate(_ features: UInt64) -> Bool {
        deviceStatus = 0
        deviceStatus = 1
        deviceStatus = 3
        for half in 0..<2 as Range<UInt64> {
            write(CommonRegister.driverFeatureSelect, .dword, half)
            write(CommonRegister.driverFeature, .dword, features >> (32 * half) & 0xFFFF_FFFF)
        }
        deviceStatus = 11
        return deviceStatus & DeviceStatus.featuresOK != 0
    }

    /// Vector 0 for configuration, n + 1 for queue n, with data 0x40 + vector.
    func enableMSIX() {
        let table = UInt64(bench.readConfig(slot, 0x10 + 4 * VirtioBAR.msix) & ~0xF)
        let vectors = UInt64(bench.readConfig(slot, msixCapability + 2, .word) & 0x7FF) + 1
        for vector in 0..<vectors {
            bench.mmio.write(table + vector * 16, width: .dword, value: 0xFEE0_0000)
            bench.mmio.write(table + vector * 16 + 4, width: .dword, value: 0)
            bench.mmio.write(table + vector * 16 + 8, width: .dword, value: 0x40 + vector)
            bench.mmio.write(table + vector * 16 + 12, width: .dword, value: 0)
        }
        bench.writeConfig(slot, msixCapability + 2, 0x8000, .word)
        write(CommonRegister.configVector, .word, 0)
    }

    /// Programs and enables queue `index` with its rings at `base` (64 KiB apart from other queues).
    @discardableResult
    func setUp(queue index: Int, size: UInt16 = 16, at base: UInt64) -> VirtioTestQueue {
        let queue = VirtioTestQueue(self, index: index, size: size, base: base)
        write(CommonRegister.queueSelect, .word, UInt64(index))
        write(CommonRegister.queueSize, .word, UInt64(size))
        write(CommonRegister.queueVector, .word, UInt64(index + 1))
        write(CommonRegister.queueDescriptors, .qword, queue.descriptors)
        write(CommonRegister.queueDriver, .dword, queue.available & 0xFFFF_FFFF)
        write(CommonRegister.queueDriver + 4, .dword, queue.available >> 32)
        write(CommonRegister.queueDevice, .dword, queue.used & 0xFFFF_FFFF)
        write(CommonRegister.queueDevice + 4, .dword, queue.used >> 32)
        write(CommonRegister.queueEnable, .word, 1)
        return queue
    }

    /// The whole handshake with all features but `without`, MSI-X, and every queue of 16 entries from
    /// 0x10_0000 on.
    func start(without: UInt64 = 0) -> [VirtioTestQueue] {
        negotiate(offeredFeatures & ~without)
        enableMSIX()
        let count = Int(read(CommonRegister.queueCount, .word))
        let queues = (0..<count).map { setUp(queue: $0, at: 0x10_0000 + UInt64($0) * 0x1_0000) }
        deviceStatus = 15
        return queues
    }
}

/// One virtqueue from the driver's side.
final class VirtioTestQueue {
    struct Buffer {
        var address: UInt64
        var length: UInt32
        var isWritable: Bool
        static func out(_ address: UInt64, _ length: UInt32) -> Buffer {
            Buffer(address: address, length: length, isWritable: false)
        }
        static func into(_ address: UInt64, _ length: UInt32) -> Buffer {
            Buffer(address: address, length: length, isWritable: true)
        }
    }

    let driver: VirtioTestDriver
    let index: Int
    let size: UInt16
    let descriptors: UInt64
    let available: UInt64
    let used: UInt64
    var availableIndex: UInt16 = 0
    var usedIndex: UInt16 = 0
    private var nextDescriptor: UInt16 = 0
    var memory: GuestMemory { driver.bench.memory }

    init(_ driver: VirtioTestDriver, index: Int, size: UInt16, base: UInt64) {
        self.driver = driver
        self.index = index
        self.size = size
        descriptors = base
        available = base + 0x4000
        used = base + 0x8000
        try! memory.zero(GuestAddress(base), count: 0x1_0000)
    }

    func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, _ address: UInt64) {
        try! memory.store(value, at: GuestAddress(address))
    }
    func load<T: BitwiseCopyable>(_ type: T.Type, _ address: UInt64) -> T {
        try! memory.load(type, at: GuestAddress(address))
    }

    func describe(
        _ slot: UInt16, _ address: UInt64, _ length: UInt32, flags: UInt16 = 0, next: UInt16 = 0,
        table: UInt64? = nil
    ) {
        let at = (table ?? descriptors) + 16 * UInt64(slot)
        store(address, at)
        store(length, at + 8)
        store(flags, at + 12)
        store(next, at + 14)
    }

    func makeAvailable(_ head: UInt16) {
        store(head, available + 4 + 2 * UInt64(availableIndex % size))
        availableIndex &+= 1
        store(availableIndex, available + 2)
    }

    func kick() {
        driver.bench.mmio.write(
            driver.notify.address + UInt64(index) * driver.notifyMultiplier, width: .word,
            value: UInt64(index))
    }

    /// Makes a chain available without a kick; returns its head.
    @discardableResult
    func add(_ buffers: [Buffer]) -> UInt16 {
        let head = nextDescriptor
        for (position, buffer) in buffers.enumerated() {
            let slot = (head + UInt16(position)) % size
            let isLast = position == buffers.count - 1
            describe(
                slot, buffer.address, buffer.length, flags: (buffer.isWritable ? 2 : 0) | (isLast ? 0 : 1),
                next: (slot + 1) % size)
        }
        nextDescriptor = (head + UInt16(buffers.count)) % size
        makeAvailable(head)
        return head
    }

    /// The next used element, if there is one.
    func poll() -> UsedElement? {
        guard load(UInt16.self, used + 2) != usedIndex else { return nil }
        defer { usedIndex &+= 1 }
        return load(UsedElement.self, used + 4 + 8 * UInt64(usedIndex % size))
    }

    @discardableResult
    func send(_ buffers: [Buffer]) -> UsedElement? {
        add(buffers)
        kick()
        return poll()
    }
}
