internal import ByteLayout
public import DeviceModel
internal import GuestMemory
internal import Synchronization
public import Virtio

/// The memory balloon (VIRTIO 1.3 §5.5): the guest gives pages back to the host and takes them again by
/// touching them, reports free pages, and tells statistics.
///
/// Confinement: any thread.
public final class VirtioBalloon: VirtioDevice {
    public static let kind = "virtio-balloon"
    static let queueSize: UInt16 = 128
    /// Bytes of page numbers read from one buffer: four times what Linux sends. Each page may cost a system
    /// call, and a notification serves up to 512 buffers.
    static let longestPageList = 4096
    private static let pageSize = 4096
    private static let inflateQueue = 0
    private static let deflateQueue = 1
    private static let statisticsQueue = 2

    private enum Feature {
        static let statistics: UInt64 = 1 << 1
        static let deflateOnOOM: UInt64 = 1 << 2
        static let reporting: UInt64 = 1 << 5
    }

    /// Statistics tags of §5.5.6.4 that we keep; a guest's other tags are dropped.
    public enum Statistic: UInt16, CaseIterable, Sendable {
        case swapIn, swapOut, majorFaults, minorFaults, freeMemory, totalMemory, availableMemory, diskCaches
        case hugePageAllocations, hugePageFailures, oomKills, allocationStalls, asyncScans, directScans
        case asyncReclaims, directReclaims
    }

    public struct Saved: Codable, Sendable, Equatable {
        public var target: UInt32
        public var actual: UInt32
    }

    private struct State {
        var features: UInt64 = 0
        /// Pages that the host wants back.
        var target: UInt32 = 0
        /// Pages that the guest says it gave; its word, for what it is worth.
        var actual: UInt32 = 0
        var statistics: [Statistic: UInt64] = [:]
        /// The statistics buffer, which the device keeps until it wants new figures (§5.5.6.3).
        var held: DescriptorChain?
        var rejectedPages: UInt64 = 0
    }

    public let link: VirtioLink
    private let state = Mutex(State())

    public init(_ context: DeviceContext) {
        link = VirtioLink(context, queueSizes: [UInt16](repeating: Self.queueSize, count: 4))
    }

    public let deviceID: UInt16 = 5
    /// "Other" device without a class of its own.
    public let classCode: UInt32 = 0xFF_00_00
    public var features: UInt64 { Feature.statistics | Feature.deflateOnOOM | Feature.reporting }

    // MARK: The host's side

    /// 4 KiB pages of RAM of the machine.
    private var ramPages: UInt32 { UInt32(clamping: link.memory.ramSize / UInt64(Self.pageSize)) }

    /// Asks the guest to have `pages` 4 KiB pages in the balloon; never more than it has RAM.
    public func setTarget(pages: UInt32) {
        state.withLock { $0.target = min(pages, ramPages) }
        link.signals.configurationChanged()
    }

    /// Pages in the balloon as the guest tells it, never more than it has RAM.
    public var actualPages: UInt32 { state.withLock { min($0.actual, ramPages) } }

    /// Page numbers outside RAM that the guest tried to give away.
    public var rejectedPages: UInt64 { state.withLock { $0.rejectedPages } }

    /// The last figures of the guest.
    public var statistics: [Statistic: UInt64] { state.withLock { $0.statistics } }

    /// Asks the guest for new figures; they arrive later, if the driver has the feature.
    public func requestStatistics() {
        let held = state.withLock { state in
            defer { state.held = nil }
            return state.held
        }
        if let held { link.queues[Self.statisticsQueue].complete(held, written: 0) }
    }

    // MARK: Configuration: le32 num_pages, le32 actual

    public var config: [UInt8] {
        let (target, actual) = state.withLock { ($0.target, $0.actual) }
        var image: [UInt8] = []
        image.append(littleEndian: target)
        image.append(littleEndian: actual)
        return image
    }

    public func writeConfig(offset: Int, bytes: [UInt8]) {
        state.withLock { state in
            for (index, byte) in bytes.enumerated() where (4..<8).contains(offset + index) {
                let shift = UInt32(8 * (offset + index - 4))
                state.actual = (state.actual & ~(0xFF << shift)) | UInt32(byte) << shift
            }
        }
    }

    // MARK: Queues

    /// Drivers number the queues of the features that were negotiated without gaps.
    private func reportingQueue(_ features: UInt64) -> Int? {
        guard features & Feature.reporting != 0 else { return nil }
        return features & Feature.statistics != 0 ? 3 : 2
    }

    public func activate(features: UInt64) { state.withLock { $0.features = features } }

    public func notify(queue index: Int) {
        guard link.queues.indices.contains(index) else { return }
        let queue = link.queues[index]
        let features = state.withLock { $0.features }
        let handle: (DescriptorChain) -> Void
        switch index {
        case Self.inflateQueue: handle = inflate
        case Self.deflateQueue:
            // The pages come back when the guest touches them.
            handle = { _ in }
        case reportingQueue(features): handle = discardReported
        case Self.statisticsQueue: return queue.service { takeStatistics($0, queue) }
        default: return
        }
        queue.service { chain in
            handle(chain)
            queue.complete(chain, written: 0)
        }
    }

    /// le32 page frame numbers (§5.5.6).
    private func inflate(_ chain: DescriptorChain) {
        let list = chain.read(link.memory, offset: 0, count: min(chain.readableCount, Self.longestPageList))
        var run = PageRun()
        var rejected: UInt64 = 0
        for offset in stride(from: 0, to: list.count - 3, by: 4) {
            guard let page = list.load(littleEndian: UInt32.self, at: offset) else { break }
            let address = UInt64(page) * UInt64(Self.pageSize)
            guard let region = link.memory.region(at: address), region.kind == .ram else {
                rejected += 1
                continue
            }
            if !run.extend(by: UInt64(page), regionStart: region.start) {
                release(run)
                run = PageRun(first: UInt64(page), count: 1, regionStart: region.start)
            }
        }
        release(run)
        if rejected > 0 { state.withLock { $0.rejectedPages &+= rejected } }
    }

    private func release(_ run: PageRun) {
        guard run.count > 0 else { return }
        // Every page of the run was found in the one region, so this cannot fail.
        try? link.memory.release(
            GuestAddress(run.first * UInt64(Self.pageSize)), count: Int(run.count) * Self.pageSize)
    }

    /// §5.5.6.7: the buffers themselves are free pages. Partial pages at their ends stay.
    private func discardReported(_ chain: DescriptorChain) {
        for buffer in chain.writable {
            let mask = UInt64(Self.pageSize - 1)
            let start = (buffer.address.raw &+ mask) & ~mask
            let end = (buffer.address.raw &+ UInt64(buffer.count)) & ~mask
            guard start < end else { continue }
            // The chain's buffers are RAM, checked when it was read.
            try? link.memory.release(GuestAddress(start), count: Int(end - start))
        }
    }

    /// Packed le16 tag, le64 value (§5.5.6.4).
    private func takeStatistics(_ chain: DescriptorChain, _ queue: VirtioQueue) {
        let bytes = chain.read(link.memory, offset: 0, count: min(chain.readableCount, 640))
        let old = state.withLock { state in
            for offset in stride(from: 0, to: bytes.count - 9, by: 10) {
                guard let tag = bytes.load(littleEndian: UInt16.self, at: offset),
                    let statistic = Statistic(rawValue: tag),
                    let value = bytes.load(littleEndian: UInt64.self, at: offset + 2)
                else { continue }
                state.statistics[statistic] = value
            }
            defer { state.held = chain }
            return state.held
        }
        // A driver has one buffer; of several, all but the last go back.
        if let old { queue.complete(old, written: 0) }
    }

    // MARK: Lifecycle

    /// The held statistics buffer goes back to the ring, to be read again when the queue goes on.
    public func settle(_ queue: VirtioQueue) {
        waitUntilSettled(queue) {
            guard queue.index == Self.statisticsQueue else { return }
            let held = state.withLock { state in
                defer { state.held = nil }
                return state.held
            }
            if let held { queue.unpop(held) }
        }
    }

    public func reset() {
        state.withLock { state in
            // The host's wish outlives the driver.
            state = State(target: state.target, rejectedPages: state.rejectedPages)
        }
    }

    public func save() -> Saved { state.withLock { Saved(target: $0.target, actual: $0.actual) } }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.target <= ramPages else { throw RestoreError(Self.kind, "target above the RAM size") }
        state.withLock { state in
            state.target = saved.target
            state.actual = saved.actual
        }
    }
}

/// Consecutive pages of one region, grown at either end, so that a list costs few system calls.
private struct PageRun {
    var first: UInt64 = 0
    var count: UInt64 = 0
    var regionStart: UInt64 = 0

    /// False when `page` is not next to the run or belongs to another region.
    mutating func extend(by page: UInt64, regionStart: UInt64) -> Bool {
        guard count > 0, regionStart == self.regionStart else { return false }
        if page == first + count {
            count += 1
        } else if page + 1 == first {
            first -= 1
            count += 1
        } else {
            return page >= first && page < first + count
        }
        return true
    }
}
