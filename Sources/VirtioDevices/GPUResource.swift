internal import ByteLayout
internal import GuestMemory
internal import ScreenSurface
internal import Virtio

/// The guest's pages behind a resource (VIRTIO 1.3 §5.7.6.8, ATTACH_BACKING), in the order of their bytes.
struct GuestBacking {
    /// For a picture of the largest size in single pages.
    static let mostPieces = 16_384

    private(set) var pieces: [GuestBuffer] = []
    /// Where in the resource each piece begins.
    private var starts: [Int] = []
    /// Bytes of all pieces.
    private(set) var count = 0

    /// Nil when a piece is not wholly in memory, or when there are too many.
    init?(_ list: [(address: UInt64, count: UInt32)], _ memory: GuestMemory) {
        guard list.count <= Self.mostPieces else { return nil }
        for (address, length) in list where length > 0 {
            guard let region = memory.region(at: address), UInt64(length) <= region.end - address else {
                return nil
            }
            append(GuestBuffer(address: GuestAddress(address), count: Int(length)), in: region)
        }
    }

    /// Neighbours in one region become one.
    private mutating func append(_ piece: GuestBuffer, in region: GuestMemory.Region) {
        if let last = pieces.last, last.address.raw >= region.start,
            last.address.raw + UInt64(last.count) == piece.address.raw
        {
            pieces[pieces.count - 1].count += piece.count
        } else {
            starts.append(count)
            pieces.append(piece)
        }
        count += piece.count
    }

    /// Copies bytes into `words` from byte `place` on. The caller has checked both ranges.
    func copy(
        _ offset: Int, count wanted: Int, _ memory: GuestMemory, into words: inout [UInt32],
        atByte place: Int
    ) {
        var done = 0
        var index = firstPiece(at: offset)
        while done < wanted, index < pieces.count {
            let skip = offset + done - starts[index]
            let part = min(pieces[index].count - skip, wanted - done)
            // Every piece was found in memory, and regions are fixed: a fault here cannot happen.
            try? memory.read(
                pieces[index].address + UInt64(skip), count: part, into: &words, atByte: place + done)
            done += part
            index += 1
        }
    }

    /// The last piece that begins at `offset` or before.
    private func firstPiece(at offset: Int) -> Int {
        var low = 0, high = starts.count
        while low < high {
            let middle = (low + high) / 2
            if starts[middle] <= offset { low = middle + 1 } else { high = middle }
        }
        return max(low - 1, 0)
    }
}

/// A picture that the guest made (VIRTIO 1.3 §5.7.6.8, RESOURCE_CREATE_2D): its pixels as the last transfers
/// left them, and the guest's pages that they come from. A value; its owner locks.
struct GPUResource {
    let format: GPUFormat
    let width: Int, height: Int
    private(set) var backing: GuestBacking?
    /// Alpha, red, green, blue. Empty until something is transferred: most of what a guest makes is never
    /// shown, and everything is black until then.
    private var pixels: [UInt32] = []
    private(set) var hasContents = false
    /// Restored without its pixels, which are in the guest's pages.
    private var isStale = false

    /// Nil for a size that no screen has.
    init?(_ format: GPUFormat, width: UInt32, height: UInt32) {
        let (width, height) = (Int(width), Int(height))
        guard SurfaceMemory.fits(width: width, height: height) else { return nil }
        self.format = format
        self.width = width
        self.height = height
    }

    /// What it may cost the host.
    var byteCount: Int { width * height * 4 }
    var bounds: ScreenRectangle { ScreenRectangle(x: 0, y: 0, width: width, height: height) }

    mutating func attach(_ new: GuestBacking, _ memory: GuestMemory) {
        refresh(memory)
        backing = new
    }

    mutating func detach(_ memory: GuestMemory) {
        refresh(memory)
        backing = nil
    }

    /// TRANSFER_TO_HOST_2D: the rectangle's first row is at byte `offset` of the backing, and rows are as far
    /// apart as in the whole picture. False when the bytes are not all there; the rectangle is inside.
    mutating func transfer(_ part: ScreenRectangle, from offset: UInt64, _ memory: GuestMemory) -> Bool {
        guard let backing else { return false }
        guard !part.isEmpty else { return true }
        let stride = width * 4
        let length = (part.height - 1) * stride + part.width * 4
        guard length <= backing.count, offset <= UInt64(backing.count - length) else { return false }
        refresh(memory)
        take(part, from: Int(offset), backing, memory)
        return true
    }

    private mutating func take(
        _ part: ScreenRectangle, from offset: Int, _ backing: GuestBacking, _ memory: GuestMemory
    ) {
        if pixels.isEmpty { pixels = [UInt32](repeating: 0xFF00_0000, count: width * height) }
        hasContents = true
        for y in 0..<part.height {
            let place = (part.y + y) * width + part.x
            backing.copy(
                offset + y * width * 4, count: part.width * 4, memory, into: &pixels, atByte: place * 4)
            guard format != .bgra, format != .bgrx else { continue }
            for index in place..<place + part.width { pixels[index] = format.standard(pixels[index]) }
        }
    }

    /// After a restore: takes the pixels from the guest's pages, where drivers keep pixel (x, y) at byte
    /// `(y * width + x) * 4`, as far as there are pages.
    private mutating func refresh(_ memory: GuestMemory) {
        guard isStale else { return }
        isStale = false
        guard let backing else { return }
        let rows = min(backing.count / (width * 4), height)
        take(ScreenRectangle(x: 0, y: 0, width: width, height: rows), from: 0, backing, memory)
    }

    /// Pixels of row `y` from `x` on into `row`, which says how many. Inside the picture.
    mutating func copyRow(_ y: Int, from x: Int, into row: inout [UInt32], _ memory: GuestMemory) {
        refresh(memory)
        let start = y * width + x
        for index in row.indices { row[index] = pixels.isEmpty ? 0 : pixels[start + index] }
    }

    // MARK: Saved state

    struct Saved: Codable, Sendable, Equatable {
        struct Piece: Codable, Sendable, Equatable {
            var address: UInt64
            var count: UInt64
        }
        var id: UInt32
        var format: GPUFormat
        var width: UInt32, height: UInt32
        var pieces: [Piece]?
        var hasContents: Bool
        /// Of a picture without backing. The pixels of others come again from the guest's memory, which is
        /// saved anyway: a screen of 4K would be 32 MiB more.
        var pixels: [UInt32]?
    }

    func save(id: UInt32) -> Saved {
        Saved(
            id: id, format: format, width: UInt32(width), height: UInt32(height),
            pieces: backing?.pieces.map { Saved.Piece(address: $0.address.raw, count: UInt64($0.count)) },
            hasContents: hasContents, pixels: backing == nil && hasContents ? pixels : nil)
    }

    /// Nil when no device saves that.
    init?(_ saved: Saved, _ memory: GuestMemory) {
        self.init(saved.format, width: saved.width, height: saved.height)
        if let pieces = saved.pieces {
            guard pieces.count <= GuestBacking.mostPieces else { return nil }
            var list: [(address: UInt64, count: UInt32)] = []
            for piece in pieces {
                // Neighbours may have become more than a descriptor can name.
                var (address, left) = (piece.address, piece.count)
                while left > 0 {
                    guard list.count < GuestBacking.mostPieces else { return nil }
                    let part = min(left, 1 << 31)
                    list.append((address, UInt32(part)))
                    address &+= part
                    left -= part
                }
            }
            guard let backing = GuestBacking(list, memory) else { return nil }
            self.backing = backing
        }
        hasContents = saved.hasContents
        guard hasContents else { return }
        if backing == nil {
            guard let pixels = saved.pixels, pixels.count == width * height else { return nil }
            self.pixels = pixels
        } else {
            isStale = true
        }
    }
}
