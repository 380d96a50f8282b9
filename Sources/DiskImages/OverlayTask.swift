internal import Synchronization

/// One request to an overlay on its way: which step comes next.
///
/// Confinement: one thread at a time; the meeting after each step hands it over.
final class OverlayTask: @unchecked Sendable {
    enum Kind: Sendable {
        case read(DiskBuffers)
        case write(DiskBuffers)
        case zero
        case discard
    }
    enum Step: Sendable {
        case image(DiskRequest)
        case overlay(DiskRequest)
    }
    private enum Phase {
        /// Reads and discards: the bytes that are left. Changes: clusters to be completed come first.
        case going(Range<UInt64>)
        case fetching([Int])
        case storing([Int])
        case changing
        case done
    }

    let bytes: Range<UInt64>
    let finish: @Sendable (Int32) -> Void
    /// Clusters that it brings into the overlay.
    var holds: Range<Int>?
    /// 0 or the first error.
    private(set) var code: Int32 = 0
    private let kind: Kind
    private var phase: Phase?
    private var cluster: ClusterBuffer?
    private var pieces = 0
    private let meeting = Atomic(false)

    init(_ kind: Kind, bytes: Range<UInt64>, _ finish: @escaping @Sendable (Int32) -> Void) {
        self.kind = kind
        self.bytes = bytes
        self.finish = finish
    }

    func note(_ code: Int32) { if self.code == 0 { self.code = code } }

    /// The submitter and the completion of a step both come here; true for the second.
    func isSecondAtMeeting() -> Bool {
        guard meeting.exchange(true, ordering: .acquiringAndReleasing) else { return false }
        meeting.store(false, ordering: .releasing)
        return true
    }

    /// What to do now; nil at the end, or after an error.
    func nextStep(_ disk: OverlayImage) -> Step? {
        guard code == 0 else { return nil }
        switch phase ?? firstPhase(disk) {
        case .going(let rest):
            if case .discard = kind { return discardStep(rest, disk) }
            return readStep(rest, disk)
        case .fetching(let clusters): return fetchStep(clusters, disk)
        case .storing(let clusters): return storeStep(clusters, disk)
        case .changing:
            phase = .done
            return change
        case .done: return nil
        }
    }

    private func firstPhase(_ disk: OverlayImage) -> Phase {
        switch kind {
        case .read, .discard: return .going(bytes)
        case .write, .zero:
            guard let holds else { return .changing }
            // Only the first and the last cluster can be changed in part.
            let size = OverlayImage.clusterSize
            var partial: [Int] = []
            if bytes.lowerBound % size != 0 { partial.append(holds.lowerBound) }
            let last = holds.upperBound - 1
            if bytes.upperBound % size != 0, bytes.upperBound != disk.size, partial.last != last {
                partial.append(last)
            }
            return .fetching(partial.filter { !disk.isInOverlay($0) })
        }
    }

    // MARK: Reads and discards, piece by piece

    private func readStep(_ rest: Range<UInt64>, _ disk: OverlayImage) -> Step? {
        guard !rest.isEmpty, case .read(let buffers) = kind else { return nil }
        let (isInOverlay, piece) = disk.place(of: rest)
        phase = .going(piece.upperBound..<rest.upperBound)
        let part = buffers.part(
            from: Int(piece.lowerBound - bytes.lowerBound), count: Int(piece.upperBound - piece.lowerBound))
        let request = DiskRequest.read(offset: piece.lowerBound, into: part)
        return isInOverlay ? .overlay(request) : .image(request)
    }

    /// Gives back storage of the overlay; what is in the image stays visible, as a discard allows.
    private func discardStep(_ rest: Range<UInt64>, _ disk: OverlayImage) -> Step? {
        var rest = rest
        while !rest.isEmpty, pieces < OverlayImage.discardLimit {
            pieces += 1
            let (isInOverlay, piece) = disk.place(of: rest)
            rest = piece.upperBound..<rest.upperBound
            phase = .going(rest)
            if isInOverlay {
                return .overlay(
                    .discard(offset: piece.lowerBound, count: piece.upperBound - piece.lowerBound))
            }
        }
        return nil
    }

    // MARK: Changes

    private func fetchStep(_ clusters: [Int], _ disk: OverlayImage) -> Step? {
        guard let first = clusters.first else {
            cluster = nil
            phase = .done
            return change
        }
        phase = .storing(clusters)
        let buffer = cluster ?? ClusterBuffer()
        cluster = buffer
        return .image(.read(offset: start(first), into: buffer.buffers(extent(first, disk))))
    }

    private func storeStep(_ clusters: [Int], _ disk: OverlayImage) -> Step? {
        guard let first = clusters.first, let cluster else { return nil }
        phase = .fetching(Array(clusters.dropFirst()))
        return .overlay(.write(offset: start(first), from: cluster.buffers(extent(first, disk))))
    }

    private func start(_ cluster: Int) -> UInt64 { UInt64(cluster) * OverlayImage.clusterSize }

    /// Bytes of the cluster: the disk may end inside the last one.
    private func extent(_ cluster: Int, _ disk: OverlayImage) -> Int {
        Int(min(OverlayImage.clusterSize, disk.size - start(cluster)))
    }

    private var change: Step? {
        switch kind {
        case .write(let buffers): return .overlay(.write(offset: bytes.lowerBound, from: buffers))
        case .zero:
            return .overlay(
                .writeZeroes(
                    offset: bytes.lowerBound, count: bytes.upperBound - bytes.lowerBound, mayUnmap: true))
        case .read, .discard: return nil
        }
    }
}

extension DiskBuffers {
    /// `count` bytes from `offset` on, which are inside.
    func part(from offset: Int, count: Int) -> DiskBuffers {
        precondition(offset >= 0 && count >= 0 && offset <= self.count - count, "outside the buffers")
        if offset == 0, count == self.count { return self }
        var skip = offset, left = count
        var result: [UnsafeMutableRawBufferPointer] = unsafe []
        // SAFETY: cut from our own parts, which stay valid as long as this value's.
        for index in unsafe parts.indices where left > 0 {
            let part = unsafe parts[index]
            guard part.count > skip else {
                skip -= part.count
                continue
            }
            let bytes = min(part.count - skip, left)
            unsafe result.append(UnsafeMutableRawBufferPointer(rebasing: part[skip..<skip + bytes]))
            skip = 0
            left -= bytes
        }
        return unsafe DiskBuffers(result)
    }
}

/// Memory for one cluster between image and overlay.
@safe final class ClusterBuffer: @unchecked Sendable {
    private let bytes: UnsafeMutableRawBufferPointer

    init() {
        // SAFETY: allocated here, freed in deinit; filled by a read before it is written from.
        unsafe bytes = .allocate(byteCount: Int(OverlayImage.clusterSize), alignment: 4096)
    }

    deinit { unsafe bytes.deallocate() }

    /// The first `count` bytes. The caller keeps this object while they are used.
    func buffers(_ count: Int) -> DiskBuffers {
        precondition(count <= Int(OverlayImage.clusterSize), "more than a cluster")
        return unsafe DiskBuffers([UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])])
    }
}
