import ByteLayout
import DeviceModel
import GuestMemory
import TestKit

@testable import PCIBus
@testable import StorageDevices

/// A guest's driver of an NVMe controller: the administrator's queues and pairs of others in a megabyte of
/// memory, registers through BAR 0.
final class NVMeTestDriver {
    static let ram: UInt64 = 1 << 20
    static let bar: UInt64 = 0xF000_0000
    static let entries = 8
    static let data: UInt64 = 0x8_0000
    private static let queues: UInt64 = 0x1_0000

    struct Command {
        var opcode: UInt8
        var flags: UInt8 = 0
        var namespace: UInt32 = 1
        var pointers: (UInt64, UInt64) = (NVMeTestDriver.data, 0)
        /// Command dwords 10 to 15.
        var words: [UInt32] = []

        /// A read, a write or write zeroes.
        static func blocks(
            _ opcode: UInt8, _ first: UInt64, _ count: UInt32, _ pointers: (UInt64, UInt64) = (data, 0),
            more: UInt32 = 0
        ) -> Command {
            Command(
                opcode: opcode, pointers: pointers,
                words: [UInt32(truncatingIfNeeded: first), UInt32(first >> 32), count - 1 | more])
        }
    }

    struct Completion: Equatable {
        var result: UInt32
        var head: UInt16
        var queue: UInt16
        var identifier: UInt16
        /// Without "do not retry".
        var status: UInt16
    }

    let memory: GuestMemory
    let lines = RecordingInterruptSink(), messages = RecordingMSITarget()
    let disk: MemoryDisk
    let controller: NVMeController
    private let mmio = MMIOBus()
    private let bridge: PCIHostBridge
    private var tails = [UInt32](repeating: 0, count: NVMeController.queueCount)
    private var heads = [Int](repeating: 0, count: NVMeController.queueCount)
    private var phases = [Bool](repeating: true, count: NVMeController.queueCount)
    private var identifier: UInt16 = 0

    init(_ disk: MemoryDisk = MemoryDisk(sectors: 4096)) throws {
        memory = try GuestMemory([.init(start: 0, size: Self.ram, kind: .ram)])
        let context = DeviceContext(
            memory: memory, clock: FakeClock(now: 0), msi: messages, lines: lines, report: { _ in })
        self.disk = disk
        disk.bytes = (0..<Int(disk.capacity) * 512).map { UInt8(truncatingIfNeeded: $0 >> 9 ^ $0) }
        controller = NVMeController(context, disk, serial: "serial-1")
        bridge = PCIHostBridge(context: context, mmio: mmio, portBus: PortBus())
        bridge.insert(controller.function, slot: 4)
        controller.function.writeConfig(offset: 0x10, count: 4, value: UInt32(Self.bar))
        controller.function.writeConfig(offset: 4, count: 2, value: 6)
    }

    func read(_ offset: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: mmio.read(Self.bar + offset, width: .dword))
    }
    func write(_ offset: UInt64, _ value: UInt32, width: AccessWidth = .dword) {
        mmio.write(Self.bar + offset, width: width, value: UInt64(value))
    }

    static func submission(_ queue: Int) -> UInt64 { queues + UInt64(queue) * 0x2000 }
    static func completion(_ queue: Int) -> UInt64 { submission(queue) + 0x1000 }

    static let enable: UInt32 = 0x46_0001

    /// Enables the controller with its admin queues.
    func start() throws {
        tails = tails.map { _ in 0 }
        heads = heads.map { _ in 0 }
        phases = phases.map { _ in true }
        try memory.zero(GuestAddress(Self.queues), count: 0x4_0000)
        write(NVMeRegister.adminAttributes, UInt32(Self.entries - 1) * 0x1_0001)
        write(NVMeRegister.adminSubmission, UInt32(Self.submission(0)))
        write(NVMeRegister.adminSubmission + 4, 0)
        write(NVMeRegister.adminCompletion, UInt32(Self.completion(0)))
        write(NVMeRegister.adminCompletion + 4, 0)
        write(NVMeRegister.configuration, Self.enable)
    }

    /// A pair of queues of eight entries, which interrupts by its own vector.
    func createQueues(_ queue: Int) throws {
        tails[queue] = 0
        heads[queue] = 0
        phases[queue] = true
        try memory.zero(GuestAddress(Self.submission(queue)), count: 0x2000)
        let size = UInt32(Self.entries - 1) << 16 | UInt32(queue)
        try expectSuccess(
            Command(opcode: 5, pointers: (Self.completion(queue), 0), words: [size, UInt32(queue) << 16 | 3]))
        try expectSuccess(
            Command(opcode: 1, pointers: (Self.submission(queue), 0), words: [size, UInt32(queue) << 16 | 1]))
    }

    private func expectSuccess(_ command: Command) throws {
        let done = try run(0, command)
        precondition(done?.status == 0, "\(command): \(String(describing: done))")
    }

    /// Puts a command into a queue and rings. Returns its identifier.
    @discardableResult func send(_ queue: Int, _ command: Command, rings: Bool = true) throws -> UInt16 {
        identifier &+= 1
        var bytes: [UInt8] = [command.opcode, command.flags]
        bytes.append(littleEndian: identifier)
        bytes.append(littleEndian: command.namespace)
        bytes += [UInt8](repeating: 0, count: 16)
        bytes.append(littleEndian: command.pointers.0)
        bytes.append(littleEndian: command.pointers.1)
        for index in 0..<6 {
            bytes.append(littleEndian: index < command.words.count ? command.words[index] : 0)
        }
        try memory.write(bytes, at: GuestAddress(Self.submission(queue) + UInt64(tails[queue]) * 64))
        tails[queue] = (tails[queue] + 1) % UInt32(Self.entries)
        if rings { ring(queue) }
        return identifier
    }

    func ring(_ queue: Int) { write(NVMeRegister.doorbells + UInt64(queue) * 8, tails[queue]) }

    /// The next completion, which it takes out of the queue unless it shall stay.
    func takeCompletion(_ queue: Int, rings: Bool = true) throws -> Completion? {
        let bytes = try memory.bytes(
            GuestAddress(Self.completion(queue) + UInt64(heads[queue]) * 16), count: 16)
        let status = bytes.load(littleEndian: UInt16.self, at: 14) ?? 0
        guard (status & 1 != 0) == phases[queue] else { return nil }
        heads[queue] += 1
        if heads[queue] == Self.entries {
            heads[queue] = 0
            phases[queue].toggle()
        }
        if rings { ringCompletion(queue) }
        return Completion(
            result: bytes.load(littleEndian: UInt32.self, at: 0) ?? 0,
            head: bytes.load(littleEndian: UInt16.self, at: 8) ?? 0,
            queue: bytes.load(littleEndian: UInt16.self, at: 10) ?? 0,
            identifier: bytes.load(littleEndian: UInt16.self, at: 12) ?? 0, status: status >> 1 & 0x3FFF)
    }

    func ringCompletion(_ queue: Int) {
        write(NVMeRegister.doorbells + UInt64(queue) * 8 + 4, UInt32(heads[queue]))
    }

    /// One command to its end, when it ends at once.
    func run(_ queue: Int, _ command: Command) throws -> Completion? {
        try send(queue, command)
        return try takeCompletion(queue)
    }

    func dataBytes(_ count: Int, at place: UInt64 = data) throws -> [UInt8] {
        try memory.bytes(GuestAddress(place), count: count)
    }
}
