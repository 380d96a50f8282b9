internal import Glibc
public import LinuxHost
internal import Synchronization

/// A disk whose content is the bytes of a file or a block device.
public final class RawImage: DiskImage {
    public let size: UInt64
    public let isReadOnly: Bool
    public let requestLimit: Int
    /// Bytes at the end of the file that the disk does not show, because its size is not a multiple of the
    /// sector size; worth a warning.
    public let hiddenBytes: UInt64
    /// How requests run on this host.
    public var method: AsyncFileQueue.Method { queue.method }

    private let descriptor: Descriptor
    private let queue: AsyncFileQueue
    private let underWay = Atomic<Int>(0)
    /// Requests whose completion has not returned: a little more than `underWay`.
    private let notReturned = Atomic<Int>(0)
    private let isClosed = Atomic(false)
    /// Whether transfers may first be tried on the caller's thread, from the page cache.
    private let readsInline: Atomic<Bool>
    private let writesInline: Atomic<Bool>
    /// Bytes that may be copied on the caller's thread, a vCPU's perhaps: some 20 us.
    private static let inlineLimit = 128 << 10
    /// Set when the file cannot zero ranges by itself.
    private let writesZeroesByHand = Atomic(false)

    /// Takes over an open file or block device and locks it: for writing against everybody, read-only against
    /// writers.
    /// - Throws: EAGAIN when another machine or tool has the image locked; EINVAL for what is no disk.
    public init(
        _ descriptor: Descriptor, readOnly: Bool, name: String = "disk", requestLimit: Int = 1024,
        prefer method: AsyncFileQueue.Method = .ring, triesInline: Bool = true
    ) throws(HostError) {
        let facts = try descriptor.facts()
        guard facts.kind != .other else {
            throw HostError("a disk image must be a file or block device", code: EINVAL)
        }
        guard facts.isReadable, readOnly || facts.isWritable else {
            throw HostError("opening a disk image for writing", code: EACCES)
        }
        do throws(HostError) {
            try Self.lock(descriptor, exclusive: !readOnly)
        } catch {
            guard error.code != EAGAIN else {
                throw HostError("the disk image is in use by another machine or program", code: EAGAIN)
            }
            // Some file systems have no locks: better an unlocked disk than none.
            guard error.code == ENOLCK || error.code == EOPNOTSUPP || error.code == EINVAL else {
                throw error
            }
        }
        size = facts.size & ~(Self.sectorSize - 1)
        hiddenBytes = facts.size - size
        isReadOnly = readOnly
        self.requestLimit = requestLimit
        self.descriptor = descriptor
        // Around the cache, trying would wait for the disk.
        readsInline = Atomic(triesInline && !facts.bypassesCache)
        writesInline = Atomic(triesInline && !facts.bypassesCache)
        // Twice, because a request that goes on after a partial transfer overlaps its own completion.
        queue = try AsyncFileQueue(name: name, file: descriptor, limit: 2 * requestLimit, prefer: method)
    }

    /// The kernel takes the ring of a process that was killed apart a little after its end, and the lock with
    /// it: a lock that is held gets that time to go.
    private static func lock(_ descriptor: Descriptor, exclusive: Bool) throws(HostError) {
        let pause = Semaphore()
        for _ in 0..<lockAttempts {
            do throws(HostError) {
                return try descriptor.lock(exclusive: exclusive)
            } catch {
                guard error.code == EAGAIN else { throw error }
                pause.wait(until: HostTime.monotonic &+ lockPause)
            }
        }
        try descriptor.lock(exclusive: exclusive)
    }

    /// Half a second in all.
    private static let lockAttempts = 50, lockPause: UInt64 = 10_000_000

    public func submit(_ request: DiskRequest, completion: @escaping @Sendable (Int32) -> Void) -> Bool {
        guard !isClosed.load(ordering: .acquiring) else { return false }
        guard underWay.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue <= requestLimit else {
            underWay.wrappingSubtract(1, ordering: .acquiringAndReleasing)
            return false
        }
        let finish: @Sendable (Int32) -> Void = { code in
            // Before the completion, which may submit the next; `drain` waits for the other count.
            self.underWay.wrappingSubtract(1, ordering: .acquiringAndReleasing)
            completion(code)
            self.notReturned.wrappingSubtract(1, ordering: .acquiringAndReleasing)
        }
        notReturned.wrappingAdd(1, ordering: .acquiringAndReleasing)
        start(request, finish)
        return true
    }

    public func drain() {
        let pause = Semaphore()
        while notReturned.load(ordering: .acquiring) > 0 {
            queue.drain()
            pause.wait(until: HostTime.monotonic &+ 20_000)
        }
    }

    public func close() {
        isClosed.store(true, ordering: .releasing)
        drain()
        queue.close()
        // The ring holds the file a little longer than we do.
        descriptor.unlock()
    }

    private func start(_ request: DiskRequest, _ finish: @escaping @Sendable (Int32) -> Void) {
        switch request {
        case .read(let offset, let buffers):
            guard isInside(offset, UInt64(buffers.count)) else { return refuse(EINVAL, finish) }
            move(buffers, at: offset, writing: false, finish)
        case .write(let offset, let buffers):
            guard !isReadOnly else { return refuse(EROFS, finish) }
            guard isInside(offset, UInt64(buffers.count)) else { return refuse(EINVAL, finish) }
            move(buffers, at: offset, writing: true, finish)
        case .flush:
            if isReadOnly { return refuse(0, finish) }
            // SAFETY: no memory is involved; `self` in the closure keeps the descriptor open.
            unsafe run(FileOperation(.synchronize, descriptor: descriptor.number)) {
                finish($0 < 0 ? -$0 : 0)
            }
        case .discard(let offset, let count):
            guard !isReadOnly else { return refuse(EROFS, finish) }
            guard isInside(offset, count) else { return refuse(EINVAL, finish) }
            discard(offset, count, finish)
        case .writeZeroes(let offset, let count, let mayUnmap):
            guard !isReadOnly else { return refuse(EROFS, finish) }
            guard isInside(offset, count) else { return refuse(EINVAL, finish) }
            zero(offset, count, mayUnmap, finish)
        }
    }

    private func isInside(_ offset: UInt64, _ count: UInt64) -> Bool {
        let mask = Self.sectorSize - 1
        return offset & mask == 0 && count & mask == 0 && offset <= size && count <= size - offset
    }

    /// Completes without touching the file.
    private func refuse(_ code: Int32, _ finish: @escaping @Sendable (Int32) -> Void) {
        finish(code)
    }

    /// - Safety: see `FileOperation`.
    @unsafe private func run(_ operation: FileOperation, _ completion: @escaping @Sendable (Int32) -> Void) {
        let isAccepted = unsafe queue.submit(operation) { result in
            withExtendedLifetime(self) { completion(result) }
        }
        // The queue holds more than the request limit: only one that was closed meanwhile refuses.
        if !isAccepted { completion(-ECANCELED) }
    }

    // MARK: Transfers

    private func move(
        _ buffers: DiskBuffers, at offset: UInt64, writing: Bool,
        _ finish: @escaping @Sendable (Int32) -> Void
    ) {
        guard buffers.count > 0 else { return refuse(0, finish) }
        let transfer = VectorTransfer(buffers, offset: offset)
        if buffers.count <= Self.inlineLimit, moveInline(transfer, writing) { return finish(0) }
        step(transfer, writing, finish)
    }

    /// Moves what the page cache allows at once, on this thread: no wake-up of another. Returns whether that
    /// was all; errors come again, and are reported, on the ordinary way.
    private func moveInline(_ transfer: VectorTransfer, _ writing: Bool) -> Bool {
        guard (writing ? writesInline.load(ordering: .relaxed) : readsInline.load(ordering: .relaxed)) else {
            return false
        }
        // SAFETY: the caller holds `transfer` and with it the vectors.
        let result = unsafe transfer.operation(writing ? .write : .read, on: descriptor)
            .attemptWithoutWaiting()
        if result == -Int(EOPNOTSUPP) || result == -Int(ENOSYS) {
            if writing {
                writesInline.store(false, ordering: .relaxed)
            } else {
                readsInline.store(false, ordering: .relaxed)
            }
        }
        return result > 0 && transfer.advance(by: result)
    }

    /// Moves what is left of `transfer`; the kernel may do only a part, and takes 1024 vectors at once.
    private func step(
        _ transfer: VectorTransfer, _ writing: Bool, _ finish: @escaping @Sendable (Int32) -> Void
    ) {
        // SAFETY: the closure keeps `transfer`, which owns the vectors, until the operation completed.
        unsafe run(transfer.operation(writing ? .write : .read, on: descriptor)) { result in
            if result == -EINTR || result == -EAGAIN { return self.step(transfer, writing, finish) }
            if result < 0 { return finish(-result) }
            // Inside the size that the file had, nothing moves only when somebody made the file shorter.
            if result == 0 { return finish(EIO) }
            if transfer.advance(by: Int(result)) { return finish(0) }
            self.step(transfer, writing, finish)
        }
    }

    // MARK: Ranges

    // fallocate(2) modes.
    private static let keepSize: Int32 = 1, punchHole: Int32 = 2, zeroRange: Int32 = 16

    private func allocate(
        _ mode: Int32, _ offset: UInt64, _ count: UInt64, _ completion: @escaping @Sendable (Int32) -> Void
    ) {
        // SAFETY: no memory is involved.
        unsafe run(
            FileOperation(
                .allocate(mode: mode | Self.keepSize), descriptor: descriptor.number, offset: offset,
                length: count),
            completion)
    }

    /// Discarding is a hint: a file system that cannot do it has done enough.
    private func discard(_ offset: UInt64, _ count: UInt64, _ finish: @escaping @Sendable (Int32) -> Void) {
        guard count > 0 else { return refuse(0, finish) }
        allocate(Self.punchHole, offset, count) { result in
            finish(result >= 0 || result == -EOPNOTSUPP || result == -ENOSYS ? 0 : -result)
        }
    }

    private func zero(
        _ offset: UInt64, _ count: UInt64, _ mayUnmap: Bool, _ finish: @escaping @Sendable (Int32) -> Void
    ) {
        guard count > 0 else { return refuse(0, finish) }
        if writesZeroesByHand.load(ordering: .relaxed) { return zeroByHand(offset, count, finish) }
        allocate(mayUnmap ? Self.punchHole : Self.zeroRange, offset, count) { result in
            if result >= 0 { return finish(0) }
            guard result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL else {
                return finish(-result)
            }
            // tmpfs punches holes, which read as zeroes, but does not zero ranges.
            self.allocate(mayUnmap ? Self.zeroRange : Self.punchHole, offset, count) { result in
                if result >= 0 { return finish(0) }
                self.writesZeroesByHand.store(true, ordering: .relaxed)
                self.zeroByHand(offset, count, finish)
            }
        }
    }

    /// Writes a block of zeroes as often as it takes.
    private func zeroByHand(_ offset: UInt64, _ count: UInt64, _ finish: @escaping @Sendable (Int32) -> Void)
    {
        let block = ZeroBlock(Int(min(count, ZeroBlock.limit)))
        writeBlock(block, offset, count, finish)
    }

    private func writeBlock(
        _ block: ZeroBlock, _ offset: UInt64, _ count: UInt64, _ finish: @escaping @Sendable (Int32) -> Void
    ) {
        let now = min(count, UInt64(block.size))
        step(VectorTransfer(block.buffers(Int(now)), offset: offset), true) { code in
            if code != 0 || now == count { return finish(code) }
            self.writeBlock(block, offset + now, count - now, finish)
        }
    }
}
