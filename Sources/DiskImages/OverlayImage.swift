internal import Glibc
public import LinuxHost
internal import Synchronization

/// A disk whose changes stay apart from the image under it: copy on write into a file that dies with the
/// machine. The image is only read.
///
/// A cluster of 64 KiB is either still in the image or, from the first change on, in the overlay. A bitmap in
/// memory says which: 2 bytes for each MiB of disk. Requests that bring clusters into the overlay hold them
/// until they are there; others that want to change the same clusters wait in a line meanwhile.
///
/// Confinement: any thread.
public final class OverlayImage: DiskImage {
    public let size: UInt64
    public let isReadOnly = false
    /// As for the image below: both are files of this host.
    public var method: AsyncFileQueue.Method { overlay.method }
    public let requestLimit: Int

    static let clusterSize: UInt64 = 64 << 10
    /// In bytes, 16 TiB: the bitmap then has 32 MiB, and files of ext4 end there.
    public static let largestDisk: UInt64 = 16 << 40
    /// Requests that may be bringing clusters into the overlay; each has a buffer of a cluster.
    private static let copyLimit = 32
    /// Pieces of one discard; the rest of the hint is ignored.
    static let discardLimit = 1024

    let image: any DiskImage
    let overlay: RawImage
    private struct State {
        var map: ClusterMap
        /// Clusters on their way into the overlay.
        var held: [Range<Int>] = []
        /// Changes that wait for held clusters, oldest first.
        var waiting: [OverlayTask] = []
        /// Whether a thread is starting what waited.
        var isStarting = false
    }
    private let state: Mutex<State>
    private let underWay = Atomic<Int>(0)
    private let notReturned = Atomic<Int>(0)
    private let isClosed = Atomic(false)

    /// Puts `overlay`, an empty file of which nobody else knows, over `image`, whose requests nobody else
    /// makes.
    /// - Throws: EFBIG when the disk is too large for an overlay.
    public init(_ image: any DiskImage, overlay: Descriptor, name: String = "overlay") throws(HostError) {
        guard image.size <= Self.largestDisk else {
            throw HostError("keeping the changes of a disk of more than 16 TiB apart", code: EFBIG)
        }
        size = image.size
        self.image = image
        try overlay.resize(to: image.size)
        self.overlay = try RawImage(overlay, readOnly: false, name: name)
        // Each request has at most one under way at either side.
        requestLimit = min(image.requestLimit, self.overlay.requestLimit)
        let clusters = (image.size + Self.clusterSize - 1) / Self.clusterSize
        state = Mutex(State(map: ClusterMap(count: Int(clusters))))
    }

    // MARK: Requests

    public func submit(_ request: DiskRequest, completion: @escaping @Sendable (Int32) -> Void) -> Bool {
        guard !isClosed.load(ordering: .acquiring) else { return false }
        guard underWay.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue <= requestLimit else {
            underWay.wrappingSubtract(1, ordering: .acquiringAndReleasing)
            return false
        }
        notReturned.wrappingAdd(1, ordering: .acquiringAndReleasing)
        let finish: @Sendable (Int32) -> Void = { code in
            // Before the completion, which may submit the next; `drain` waits for the other count.
            self.underWay.wrappingSubtract(1, ordering: .acquiringAndReleasing)
            completion(code)
            self.notReturned.wrappingSubtract(1, ordering: .acquiringAndReleasing)
        }
        switch request {
        case .read(let offset, let buffers):
            start(.read(buffers), offset, UInt64(buffers.count), finish)
        case .write(let offset, let buffers):
            start(.write(buffers), offset, UInt64(buffers.count), finish)
        case .discard(let offset, let count): start(.discard, offset, count, finish)
        case .writeZeroes(let offset, let count, _): start(.zero, offset, count, finish)
        // Nothing of the overlay outlives the machine.
        case .flush: finish(0)
        }
        return true
    }

    private func start(
        _ kind: OverlayTask.Kind, _ offset: UInt64, _ count: UInt64,
        _ finish: @escaping @Sendable (Int32) -> Void
    ) {
        let mask = Self.sectorSize - 1
        guard offset & mask == 0, count & mask == 0, offset <= size, count <= size - offset else {
            return finish(EINVAL)
        }
        guard count > 0 else { return finish(0) }
        let task = OverlayTask(kind, bytes: offset..<offset + count, finish)
        switch kind {
        case .read, .discard: run(task)
        case .write, .zero: if mayStart(task) { run(task) }
        }
    }

    public func drain() {
        let pause = Semaphore()
        while notReturned.load(ordering: .acquiring) > 0 {
            image.drain()
            overlay.drain()
            pause.wait(until: HostTime.monotonic &+ 20_000)
        }
    }

    public func close() {
        isClosed.store(true, ordering: .releasing)
        drain()
        overlay.close()
        image.close()
    }

    // MARK: Clusters

    static func clusters(_ bytes: Range<UInt64>) -> Range<Int> {
        Int(bytes.lowerBound / clusterSize)..<Int((bytes.upperBound + clusterSize - 1) / clusterSize)
    }

    /// Where the bytes from the beginning of `bytes` are, and up to where they are there.
    func place(of bytes: Range<UInt64>) -> (isInOverlay: Bool, bytes: Range<UInt64>) {
        let run = state.withLock { $0.map.run(in: Self.clusters(bytes)) }
        let end = min(UInt64(run.clusters.upperBound) * Self.clusterSize, bytes.upperBound)
        return (run.isPresent, bytes.lowerBound..<end)
    }

    func isInOverlay(_ cluster: Int) -> Bool { state.withLock { $0.map.contains(cluster) } }

    /// Whether the change may start; it holds the clusters that it brings. If not, it waits in line.
    private func mayStart(_ task: OverlayTask) -> Bool {
        state.withLock { state in
            if Self.takeHold(task, &state) { return true }
            state.waiting.append(task)
            return false
        }
    }

    private static func takeHold(_ task: OverlayTask, _ state: inout State) -> Bool {
        let clusters = Self.clusters(task.bytes)
        // What is in the overlay stays there: no need to hold it.
        if state.map.containsAll(clusters) { return true }
        guard state.held.count < copyLimit, !state.held.contains(where: { $0.overlaps(clusters) }) else {
            return false
        }
        state.held.append(clusters)
        task.holds = clusters
        return true
    }

    /// The change is over: its clusters are in the overlay if it succeeded, and others may have them. Returns
    /// whether the caller is to start those that waited.
    private func release(_ clusters: Range<Int>, succeeded: Bool) -> Bool {
        state.withLock { state in
            if succeeded { state.map.insert(clusters) }
            if let index = state.held.firstIndex(of: clusters) { state.held.remove(at: index) }
            guard !state.waiting.isEmpty, !state.isStarting else { return false }
            state.isStarting = true
            return true
        }
    }

    /// The oldest change that may start now. Nil: none, and nobody is starting any more.
    private func nextWaiting() -> OverlayTask? {
        state.withLock { state in
            for (index, task) in state.waiting.enumerated() where Self.takeHold(task, &state) {
                return state.waiting.remove(at: index)
            }
            state.isStarting = false
            return nil
        }
    }

    // MARK: Running

    /// Does the task's steps one after the other. A step that completes at once goes on in this loop, so that
    /// the stack stays flat however many there are.
    func run(_ task: OverlayTask) {
        while let step = task.nextStep(self) {
            let isAccepted = submit(step, of: task) { code in
                task.note(code)
                if task.isSecondAtMeeting() { self.run(task) }
            }
            // Both sides have room for one request of each task: only a closed file refuses.
            guard isAccepted else {
                task.note(ECANCELED)
                break
            }
            // Who comes second goes on: this thread, or the one that completed the step.
            guard task.isSecondAtMeeting() else { return }
        }
        let mustStart = task.holds.map { release($0, succeeded: task.code == 0) } ?? false
        task.finish(task.code)
        // One thread starts what waited, in a loop: a start may complete at once and come back here.
        guard mustStart else { return }
        while let next = nextWaiting() { run(next) }
    }

    private func submit(
        _ step: OverlayTask.Step, of task: OverlayTask, _ completion: @escaping @Sendable (Int32) -> Void
    ) -> Bool {
        switch step {
        case .image(let request): image.submit(request, completion: completion)
        case .overlay(let request): overlay.submit(request, completion: completion)
        }
    }
}
