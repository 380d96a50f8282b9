import DeviceModel
import GuestMemory
@testable import PCIBus
@testable import Virtio

/// A virtqueue in guest memory as the fuzzer's driver lays it out. Registers are reached through the
/// transport, wherever its BARs are.
struct FuzzedQueue {
    let device: FuzzedFunction
    let queue: VirtioQueue
    let index: Int
    /// Descriptor table; the available ring is 0x4000 and the used ring 0x8000 behind it.
    let base: UInt64
    static let areaSize: UInt64 = 0x1_0000
    static let firstArea: UInt64 = 0x40_0000
    /// Buffers of requests.
    static let data: Range<UInt64> = 0x80_0000..<0x100_0000

    init(_ device: FuzzedFunction, function number: Int, queue index: Int) {
        self.device = device
        queue = device.link.queues[index]
        self.index = index
        base = Self.firstArea + UInt64(number * 4 + index) * Self.areaSize
    }

    var size: UInt16 { max(queue.registers.size, 1) }
    var available: UInt64 { base + 0x4000 }
    var used: UInt64 { base + 0x8000 }

    /// Whether the driver accepted indirect descriptors, as far as it can tell.
    var usesIndirect: Bool {
        // In memory what was accepted cannot be read.
        guard let function = device.function else { return true }
        write(CommonRegister.driverFeatureSelect, .dword, 0)
        let accepted = function.read(
            region: VirtioBAR.registers, offset: UInt64(CommonRegister.driverFeature), width: .dword)
        return accepted & VirtioFeature.indirectDescriptors != 0
    }

    func write(_ register: Int, _ width: AccessWidth, _ value: UInt64) {
        device.write(register, width, value)
    }

    func negotiate(_ features: UInt64) {
        for status in [0, 1, 3] as [UInt64] { write(CommonRegister.deviceStatus, .byte, status) }
        for half in 0..<2 as Range<UInt64> {
            write(CommonRegister.driverFeatureSelect, .dword, half)
            write(CommonRegister.driverFeature, .dword, features >> (32 * half) & 0xFFFF_FFFF)
        }
        write(CommonRegister.deviceStatus, .byte, 11)
    }

    func program(size: UInt16, descriptors: UInt64, available: UInt64, used: UInt64) {
        write(CommonRegister.queueSelect, .word, UInt64(index))
        write(CommonRegister.queueSize, .word, UInt64(size))
        write(CommonRegister.queueVector, .word, UInt64(index + 1))
        write(CommonRegister.queueDescriptors, .qword, descriptors)
        write(CommonRegister.queueDriver, .qword, available)
        write(CommonRegister.queueDevice, .qword, used)
        write(CommonRegister.queueEnable, .word, 1)
    }

    /// What a good driver does, with an empty ring of 16 entries.
    func start(_ features: UInt64, memory: GuestMemory) {
        negotiate(features)
        try? memory.zero(GuestAddress(base), count: Int(Self.areaSize))
        program(size: 16, descriptors: base, available: available, used: used)
        write(CommonRegister.deviceStatus, .byte, 15)
    }

    func describe(
        _ slot: UInt16, _ address: UInt64, _ length: UInt32, flags: UInt16, next: UInt16,
        table: UInt64? = nil,
        memory: GuestMemory
    ) {
        let at = GuestAddress((table ?? base) &+ 16 * UInt64(slot))
        try? memory.store(QueueDescriptor(address: address, length: length, flags: flags, next: next), at: at)
    }

    /// The available index moves on by `step`; more than one is a lie.
    func makeAvailable(_ head: UInt16, step: UInt16 = 1, memory: GuestMemory) {
        let index = (try? memory.load(UInt16.self, at: GuestAddress(available + 2))) ?? 0
        try? memory.store(head, at: GuestAddress(available + 4 + 2 * UInt64(index % size)))
        try? memory.storeRelease(index &+ step, at: GuestAddress(available + 2))
    }

    func kick() {
        device.kick(index)
    }
}
