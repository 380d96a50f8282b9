public import BlockStorage
internal import ByteLayout
public import DeviceModel
internal import Synchronization
public import Virtio

/// A disk (VIRTIO 1.3 §5.2). Requests go to the backend as lists of guest buffers and complete in any order;
/// as many are in flight as the queues hold.
///
/// Confinement: any thread. Notifications come on vCPU threads, completions on the backend's.
public final class VirtioBlock: VirtioDevice {
    public static let kind = "virtio-blk"
    public static let sectorSize = 512
    /// Sectors that one discard or write-zeroes request may cover: 2 GiB, so that one request stays short.
    static let largestRange: UInt32 = 4 << 20
    private static let headerSize = 16
    private static let identifierSize = 20

    public struct Options: Sendable {
        /// What GET_ID answers; the first 20 bytes count.
        public var serial: String
        public var queueCount: Int
        /// A power of two.
        public var queueSize: UInt16
        public init(serial: String = "", queueCount: Int = 1, queueSize: UInt16 = 256) {
            self.serial = serial
            self.queueCount = queueCount
            self.queueSize = queueSize
        }
    }

    public struct Saved: Codable, Sendable, Equatable {
        public var isWriteback: Bool
    }

    private struct State {
        var features: UInt64 = 0
        /// The `writeback` field of the configuration.
        var isWriteback = true
        /// Whether a write is only complete when it is durable.
        var isWriteThrough: Bool {
            features & BlockFeature.flush == 0
                || (features & BlockFeature.configWriteCache != 0 && !isWriteback)
        }
    }

    public let link: VirtioLink
    private let backend: any BlockBackend
    private let options: Options
    private let state = Mutex(State())

    public init(_ context: DeviceContext, backend: any BlockBackend, options: Options = Options()) {
        precondition((1...64).contains(options.queueCount), "a disk has 1 to 64 queues")
        self.backend = backend
        self.options = options
        link = VirtioLink(
            context, queueSizes: [UInt16](repeating: options.queueSize, count: options.queueCount))
    }

    public let deviceID: UInt16 = 2
    /// Mass storage controller, other.
    public let classCode: UInt32 = 0x01_80_00

    public var features: UInt64 {
        var features =
            BlockFeature.segmentLimit | BlockFeature.blockSize | BlockFeature.flush | BlockFeature.topology
            | BlockFeature.configWriteCache
        if options.queueCount > 1 { features |= BlockFeature.multiqueue }
        features |=
            backend.isReadOnly ? BlockFeature.readOnly : BlockFeature.discard | BlockFeature.writeZeroes
        return features
    }

    public var config: [UInt8] {
        var image = [UInt8](repeating: 0, count: BlockConfigField.size)
        image.store(littleEndian: backend.capacity, at: BlockConfigField.capacity)
        // Header and status take a descriptor each.
        image.store(littleEndian: UInt32(max(options.queueSize, 3) - 2), at: BlockConfigField.segmentLimit)
        image.store(littleEndian: UInt32(Self.sectorSize), at: BlockConfigField.blockSize)
        // 4 KiB physical blocks (2^3 sectors); 64 KiB is a good transfer.
        image[BlockConfigField.physicalBlockExponent] = 3
        image.store(littleEndian: UInt32(128), at: BlockConfigField.optimalTransfer)
        image[BlockConfigField.writeback] = state.withLock { $0.isWriteback } ? 1 : 0
        image.store(littleEndian: UInt16(options.queueCount), at: BlockConfigField.queueCount)
        guard !backend.isReadOnly else { return image }
        image.store(littleEndian: Self.largestRange, at: BlockConfigField.discardSectors)
        image.store(littleEndian: UInt32(1), at: BlockConfigField.discardSegments)
        image.store(littleEndian: UInt32(8), at: BlockConfigField.discardAlignment)
        image.store(littleEndian: Self.largestRange, at: BlockConfigField.writeZeroesSectors)
        image.store(littleEndian: UInt32(1), at: BlockConfigField.writeZeroesSegments)
        image[BlockConfigField.writeZeroesMayUnmap] = 1
        return image
    }

    /// Only `writeback` is writable, and only with CONFIG_WCE (§5.2.5.2).
    public func writeConfig(offset: Int, bytes: [UInt8]) {
        let index = BlockConfigField.writeback - offset
        guard bytes.indices.contains(index) else { return }
        state.withLock { state in
            if state.features & BlockFeature.configWriteCache != 0 {
                state.isWriteback = bytes[index] & 1 != 0
            }
        }
    }

    /// The backend has another capacity now.
    public func capacityChanged() { link.signals.configurationChanged() }

    public func activate(features: UInt64) { state.withLock { $0.features = features } }

    // MARK: Requests

    public func notify(queue: Int) {
        guard link.queues.indices.contains(queue) else { return }
        let queue = link.queues[queue]
        queue.service { handle($0, queue) }
        backend.commit()
    }

    private func handle(_ chain: DescriptorChain, _ queue: VirtioQueue) {
        // Without a byte for the status there is no way to answer.
        guard chain.writableCount > 0 else { return queue.fail(chain, .badRequest) }
        let header = chain.read(link.memory, offset: 0, count: Self.headerSize)
        guard let type = header.load(littleEndian: UInt32.self, at: 0),
            let sector = header.load(littleEndian: UInt64.self, at: 8)
        else { return finish(chain, queue, .ioError) }
        switch type {
        case BlockRequestType.read: transfer(.read, sector, chain, queue)
        case BlockRequestType.write: transfer(.write, sector, chain, queue)
        case BlockRequestType.flush: submit(BlockRequest(.flush), chain, queue)
        case BlockRequestType.identify: identify(chain, queue)
        case BlockRequestType.discard, BlockRequestType.writeZeroes:
            changeRange(isDiscard: type == BlockRequestType.discard, chain, queue)
        default: finish(chain, queue, .unsupported)
        }
    }

    private func transfer(
        _ operation: BlockRequest.Operation, _ sector: UInt64, _ chain: DescriptorChain, _ queue: VirtioQueue
    ) {
        let isRead = operation == .read
        let count = isRead ? chain.writableCount - 1 : chain.readableCount - Self.headerSize
        let data =
            isRead
            ? DescriptorChain.slice(chain.writable, offset: 0, count: count)
            : DescriptorChain.slice(chain.readable, offset: Self.headerSize, count: count)
        guard count % Self.sectorSize == 0, isRead || !backend.isReadOnly,
            isInside(sector, UInt64(count / Self.sectorSize)),
            let buffers = hostBuffers(data, forWriting: isRead)
        else { return finish(chain, queue, .ioError) }
        guard count > 0 else { return finish(chain, queue, .ok) }
        let request = BlockRequest(
            operation, sector: sector, sectorCount: UInt64(count / Self.sectorSize), buffers: buffers)
        if isRead {
            submit(request, chain, queue, stored: data)
        } else if state.withLock({ $0.isWriteThrough }) {
            submitDurably(request, chain, queue)
        } else {
            submit(request, chain, queue)
        }
    }

    private func isInside(_ sector: UInt64, _ count: UInt64) -> Bool {
        let capacity = backend.capacity
        return sector <= capacity && count <= capacity - sector
    }

    private func hostBuffers(_ buffers: [GuestBuffer], forWriting: Bool) -> [HostBuffer]? {
        var result: [HostBuffer] = []
        result.reserveCapacity(buffers.count)
        for buffer in buffers {
            guard
                let host = try? HostBuffer(
                    link.memory, buffer.address, count: buffer.count, forWriting: forWriting)
            else { return nil }
            if result.isEmpty || !result[result.count - 1].merge(host) { result.append(host) }
        }
        return result
    }

    /// `stored` is what the backend fills, for the engines to notice.
    private func submit(
        _ request: BlockRequest, _ chain: DescriptorChain, _ queue: VirtioQueue, stored: [GuestBuffer] = []
    ) {
        backend.submit(request) { [self] succeeded in
            for buffer in stored { link.memory.noteStore(buffer.address, count: buffer.count) }
            finish(chain, queue, succeeded ? .ok : .ioError)
        }
    }

    /// A write without a volatile cache: flushed before it completes.
    private func submitDurably(_ request: BlockRequest, _ chain: DescriptorChain, _ queue: VirtioQueue) {
        backend.submit(request) { [self] succeeded in
            guard succeeded else { return finish(chain, queue, .ioError) }
            submit(BlockRequest(.flush), chain, queue)
            backend.commit()
        }
    }

    private func identify(_ chain: DescriptorChain, _ queue: VirtioQueue) {
        var serial = Array(options.serial.utf8.prefix(Self.identifierSize))
        serial += [UInt8](repeating: 0, count: Self.identifierSize - serial.count)
        // A shorter buffer gets the beginning; the last byte is the status.
        chain.write(Array(serial.prefix(chain.writableCount - 1)), link.memory)
        finish(chain, queue, .ok)
    }

    /// DISCARD and WRITE_ZEROES carry one segment: le64 sector, le32 num_sectors, le32 flags (§5.2.6).
    private func changeRange(isDiscard: Bool, _ chain: DescriptorChain, _ queue: VirtioQueue) {
        let segment = chain.read(link.memory, offset: Self.headerSize, count: 16)
        guard !backend.isReadOnly, chain.readableCount == Self.headerSize + 16,
            let sector = segment.load(littleEndian: UInt64.self, at: 0),
            let count = segment.load(littleEndian: UInt32.self, at: 8),
            let flags = segment.load(littleEndian: UInt32.self, at: 12)
        else { return finish(chain, queue, .ioError) }
        // Bit 0 is "unmap", which means something for WRITE_ZEROES only; the others are reserved.
        guard flags & (isDiscard ? ~0 : ~1) == 0 else { return finish(chain, queue, .unsupported) }
        guard count <= Self.largestRange, isInside(sector, UInt64(count)) else {
            return finish(chain, queue, .ioError)
        }
        guard count > 0 else { return finish(chain, queue, .ok) }
        let operation: BlockRequest.Operation = isDiscard ? .discard : .writeZeroes(mayUnmap: flags & 1 != 0)
        let request = BlockRequest(operation, sector: sector, sectorCount: UInt64(count))
        if !isDiscard, state.withLock({ $0.isWriteThrough }) {
            submitDurably(request, chain, queue)
        } else {
            submit(request, chain, queue)
        }
    }

    /// The status is the last writable byte (§5.2.6).
    private func finish(_ chain: DescriptorChain, _ queue: VirtioQueue, _ status: BlockStatus) {
        chain.write([status.rawValue], link.memory, offset: chain.writableCount - 1)
        if queue.complete(chain, written: chain.writableCount) { notify(queue: queue.index) }
    }

    // MARK: Lifecycle

    /// A chain may be between two backend requests, so one drain need not be the last.
    public func settle(_ queue: VirtioQueue) {
        waitUntilSettled(queue) { backend.drain() }
    }

    public func reset() { state.withLock { $0 = State() } }

    public func save() -> Saved { Saved(isWriteback: state.withLock { $0.isWriteback }) }

    public func restore(_ saved: Saved) throws(RestoreError) {
        state.withLock { $0.isWriteback = saved.isWriteback }
    }
}
