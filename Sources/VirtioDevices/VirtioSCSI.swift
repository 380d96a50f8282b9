public import BlockStorage
internal import ByteLayout
public import DeviceModel
internal import SCSICommands
internal import Synchronization
public import Virtio

/// A SCSI host with disks (VIRTIO 1.3 §5.6): each is unit 0 of a target of its own. Requests complete in any
/// order; as many are in flight as the queue holds. There are no events: disks neither come nor go.
///
/// Confinement: any thread. Notifications come on vCPU threads, completions on the backends'.
public final class VirtioSCSI: VirtioDevice {
    public static let kind = "virtio-scsi"
    static let queueSize: UInt16 = 256
    public static let mostTargets = 64

    public struct Saved: Codable, Sendable, Equatable {
        /// What the driver wants in requests and answers.
        var senseSize: UInt32
        var packetSize: UInt32
    }

    public let link: VirtioLink
    private let disks: [SCSIDisk]
    private let state = Mutex(VirtioSCSI.atReset)
    private static let atReset = Saved(
        senseSize: UInt32(VirtioSCSIRequest.senseSize), packetSize: UInt32(VirtioSCSIRequest.packetSize))
    private static let senseSizes: ClosedRange<UInt32> = 18...252, packetSizes: ClosedRange<UInt32> = 16...255

    /// Serial numbers have at most 20 ASCII characters.
    public init(_ context: DeviceContext, _ disks: [(backend: any BlockBackend, serial: String)]) {
        precondition((1...Self.mostTargets).contains(disks.count), "1 to 64 targets")
        self.disks = disks.map { SCSIDisk($0.backend, serial: $0.serial) }
        link = VirtioLink(context, queueSizes: [64, 64, Self.queueSize])
    }

    public let deviceID: UInt16 = 8
    /// SCSI controller.
    public let classCode: UInt32 = 0x01_00_00
    public var features: UInt64 { 0 }

    public var config: [UInt8] {
        let sizes = state.withLock { $0 }
        var image = [UInt8](repeating: 0, count: VirtioSCSIConfig.size)
        image.store(littleEndian: UInt32(1), at: VirtioSCSIConfig.queues)
        // Request and answer take a descriptor each.
        image.store(littleEndian: UInt32(Self.queueSize - 2), at: VirtioSCSIConfig.segments)
        image.store(littleEndian: UInt32(0xFFFF), at: VirtioSCSIConfig.sectors)
        image.store(littleEndian: UInt32(128), at: VirtioSCSIConfig.commandsPerUnit)
        image.store(littleEndian: UInt32(16), at: VirtioSCSIConfig.eventSize)
        image.store(littleEndian: sizes.senseSize, at: VirtioSCSIConfig.senseSize)
        image.store(littleEndian: sizes.packetSize, at: VirtioSCSIConfig.packetSize)
        image.store(littleEndian: UInt16(disks.count - 1), at: VirtioSCSIConfig.target)
        return image
    }

    /// The driver may change two sizes (§5.6.4); what cannot be is not taken.
    public func writeConfig(offset: Int, bytes: [UInt8]) {
        guard let value = bytes.load(littleEndian: UInt32.self, at: 0) else { return }
        state.withLock { state in
            if offset == VirtioSCSIConfig.senseSize, Self.senseSizes.contains(value) {
                state.senseSize = value
            }
            if offset == VirtioSCSIConfig.packetSize, Self.packetSizes.contains(value) {
                state.packetSize = value
            }
        }
    }

    public func notify(queue index: Int) {
        guard link.queues.indices.contains(index) else { return }
        let queue = link.queues[index]
        switch index {
        case VirtioSCSIQueue.control: queue.service { control($0, queue) }
        // Buffers for events stay where they are.
        case VirtioSCSIQueue.events: break
        default:
            queue.service { begin($0, queue) }
            for disk in disks { disk.backend.commit() }
        }
    }

    // MARK: Requests

    /// A request on its way, and where its answer goes.
    private struct Request: Sendable {
        let chain: DescriptorChain
        let queue: VirtioQueue
        /// Before the data, of each direction.
        let headerSize: Int, answerSize: Int
        var room: Int { chain.writableCount - answerSize }
        var given: Int { chain.readableCount - headerSize }
    }

    private func begin(_ chain: DescriptorChain, _ queue: VirtioQueue) {
        let sizes = state.withLock { $0 }
        let request = Request(
            chain: chain, queue: queue, headerSize: VirtioSCSIRequest.packet + Int(sizes.packetSize),
            answerSize: VirtioSCSIRequest.answerSize + Int(sizes.senseSize))
        // Without room for the answer there is no way to answer.
        guard request.room >= 0 else { return queue.fail(chain, .badRequest) }
        guard request.given >= 0 else { return finish(request, response: VirtioSCSIResponse.failure) }
        let header = chain.read(link.memory, offset: 0, count: request.headerSize)
        guard let disk = disk(header) else {
            return finish(request, response: VirtioSCSIResponse.badTarget)
        }
        let packet = Array(header[VirtioSCSIRequest.packet...])
        guard Self.unit(header) == 0 else {
            // No unit, and none can be there.
            let isInquiry = packet[0] == SCSIOperation.inquiry
            return isInquiry
                ? answer([0x7F, 0, 6, 2, 31] + [UInt8](repeating: 0, count: 31), request)
                : refuse(.noUnit, request)
        }
        perform(disk.understand(packet), packet, disk, request)
    }

    /// The target that the first bytes of a request name (§5.6.6.1): 1, target, unit.
    private func disk(_ address: [UInt8]) -> SCSIDisk? {
        guard address.count >= 8, address[0] == 1, disks.indices.contains(Int(address[1])) else { return nil }
        return disks[Int(address[1])]
    }
    private static func unit(_ address: [UInt8]) -> Int { Int(address[2] & 0x3F) << 8 | Int(address[3]) }

    private func perform(_ action: SCSIAction, _ packet: [UInt8], _ disk: SCSIDisk, _ request: Request) {
        switch action {
        case .data(let bytes): answer(bytes, request)
        case .failure(let sense): refuse(sense, request)
        case .flush: submit(BlockRequest(.flush), disk, request)
        case .read(let first, let count): transfer(.read, first, count, false, disk, request)
        case .write(let first, let count, let isDurable):
            transfer(.write, first, count, isDurable, disk, request)
        case .writeSame(let first, let count, let unmaps):
            // The block that is repeated, unless there is none. Only zeroes are offered.
            let hasBlock = packet[1] & 1 == 0
            let block = outgoing(request, hasBlock ? SCSIDisk.blockSize : 0)
            guard !hasBlock || block.count == SCSIDisk.blockSize else {
                return finish(request, response: VirtioSCSIResponse.overrun)
            }
            guard block.allSatisfy({ $0 == 0 }) else { return refuse(.badField, request) }
            guard count > 0 else { return answer([], request) }
            submit(
                BlockRequest(.writeZeroes(mayUnmap: unmaps), sector: first, sectorCount: count), disk, request
            )
        case .unmap(let size):
            do throws(SCSISense) {
                discard(try disk.ranges(outgoing(request, size))[...], disk, request)
            } catch {
                refuse(error, request)
            }
        }
    }

    private func outgoing(_ request: Request, _ count: Int) -> [UInt8] {
        request.chain.read(link.memory, offset: request.headerSize, count: min(count, request.given))
    }

    private func transfer(
        _ operation: BlockRequest.Operation, _ first: UInt64, _ count: UInt64, _ isDurable: Bool,
        _ disk: SCSIDisk, _ request: Request
    ) {
        let isRead = operation == .read, bytes = Int(count) * SCSIDisk.blockSize
        guard bytes <= (isRead ? request.room : request.given) else {
            return finish(request, response: VirtioSCSIResponse.overrun)
        }
        guard count > 0 else { return answer([], request) }
        let data = DescriptorChain.slice(
            isRead ? request.chain.writable : request.chain.readable,
            offset: isRead ? request.answerSize : request.headerSize, count: bytes)
        var buffers: [HostBuffer] = []
        for buffer in data {
            guard
                let host = try? HostBuffer(
                    link.memory, buffer.address, count: buffer.count, forWriting: isRead)
            else { return finish(request, response: VirtioSCSIResponse.failure) }
            if buffers.isEmpty || !buffers[buffers.count - 1].merge(host) { buffers.append(host) }
        }
        let blocks = BlockRequest(operation, sector: first, sectorCount: count, buffers: buffers)
        disk.backend.submit(blocks) { [self] succeeded in
            guard succeeded else { return refuse(isRead ? .unreadable : .unwritable, request) }
            if isRead { for buffer in data { link.memory.noteStore(buffer.address, count: buffer.count) } }
            guard !isDurable else {
                submit(BlockRequest(.flush), disk, request, moved: bytes)
                return disk.backend.commit()
            }
            finish(request, moved: bytes)
        }
    }

    private func submit(_ blocks: BlockRequest, _ disk: SCSIDisk, _ request: Request, moved: Int = 0) {
        disk.backend.submit(blocks) { [self] succeeded in
            guard succeeded else { return refuse(.unwritable, request) }
            finish(request, moved: moved)
        }
    }

    /// One after the other, so that a request of the guest's is never more than one of ours at a time.
    private func discard(_ ranges: ArraySlice<BlockRequest>, _ disk: SCSIDisk, _ request: Request) {
        guard let first = ranges.first else { return answer([], request) }
        disk.backend.submit(first) { [self] succeeded in
            guard succeeded else { return refuse(.unwritable, request) }
            discard(ranges.dropFirst(), disk, request)
        }
        disk.backend.commit()
    }

    // MARK: Answers

    private func answer(_ bytes: [UInt8], _ request: Request) {
        let stored = request.chain.write(bytes, link.memory, offset: request.answerSize)
        finish(request, moved: stored)
    }

    private func refuse(_ sense: SCSISense, _ request: Request) { finish(request, sense: sense) }

    private func finish(
        _ request: Request, moved: Int = 0, sense: SCSISense? = nil, response: UInt8 = VirtioSCSIResponse.ok
    ) {
        var bytes = [UInt8](repeating: 0, count: request.answerSize)
        let asked = max(request.room, request.given, 0)
        bytes.store(
            littleEndian: UInt32(clamping: asked - min(moved, asked)), at: VirtioSCSIRequest.residual)
        bytes[VirtioSCSIRequest.response] = response
        if let sense {
            bytes[VirtioSCSIRequest.status] = SCSIStatus.checkCondition
            bytes.store(littleEndian: UInt32(sense.bytes.count), at: 0)
            for (index, byte) in sense.bytes.enumerated() { bytes[VirtioSCSIRequest.sense + index] = byte }
        }
        request.chain.write(bytes, link.memory)
        let written = request.answerSize + (request.room > 0 ? moved : 0)
        if request.queue.complete(request.chain, written: written) { notify(queue: request.queue.index) }
    }

    // MARK: Control

    private func control(_ chain: DescriptorChain, _ queue: VirtioQueue) {
        let request = chain.read(link.memory, offset: 0, count: VirtioSCSIControl.taskManagementSize)
        guard let type = request.load(littleEndian: UInt32.self, at: 0), chain.writableCount > 0 else {
            return queue.fail(chain, .badRequest)
        }
        let answer: [UInt8]
        switch type {
        case VirtioSCSIControl.taskManagement: answer = [manageTasks(request)]
        case VirtioSCSIControl.query, VirtioSCSIControl.subscribe:
            // None of the events is there.
            answer = [0, 0, 0, 0, VirtioSCSIResponse.ok]
        default: answer = [VirtioSCSIResponse.functionRejected]
        }
        queue.complete(chain, written: chain.write(answer, link.memory))
    }

    /// Nothing can be taken back: what a function shall end has ended when it is answered.
    private func manageTasks(_ request: [UInt8]) -> UInt8 {
        guard request.count >= VirtioSCSIControl.taskManagementSize,
            let function = request.load(littleEndian: UInt32.self, at: 4),
            function <= VirtioSCSIControl.last, function != VirtioSCSIControl.clearACA
        else { return VirtioSCSIResponse.functionRejected }
        let address = Array(request[8..<16])
        guard let disk = disk(address), Self.unit(address) == 0 else {
            return VirtioSCSIResponse.incorrectUnit
        }
        disk.backend.drain()
        return VirtioSCSIResponse.functionComplete
    }

    // MARK: Lifecycle

    /// A request may be between two of the backend's, so one drain need not be the last.
    public func settle(_ queue: VirtioQueue) {
        waitUntilSettled(queue) { for disk in disks { disk.backend.drain() } }
    }

    public func reset() { state.withLock { $0 = Self.atReset } }
    public func save() -> Saved { state.withLock { $0 } }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard Self.senseSizes.contains(saved.senseSize), Self.packetSizes.contains(saved.packetSize) else {
            throw RestoreError(Self.kind, "a size of requests")
        }
        state.withLock { $0 = saved }
    }
}
