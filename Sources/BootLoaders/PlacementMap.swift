internal import GuestMemory

/// Hands out guest addresses: nothing outside RAM, nothing twice.
struct PlacementMap {
    /// The low structures of all protocols. They avoid 0x9D000..0x9FBFF, where Linux's decompressor puts its
    /// trampoline while our page tables are still in use, and 0..0x7FFFF, where small multiboot kernels live.
    enum LowMemory {
        static let commandLine: UInt64 = 0x8_0000
        static let commandLineLimit = 0xF000
        static let descriptorTable: UInt64 = 0x9_0000
        /// Zero page, hvm_start_info or multiboot information.
        static let information: UInt64 = 0x9_1000
        static let pageTables: UInt64 = 0x9_2000
        /// Memory map and module list of PVH and multiboot; their strings.
        static let tables: UInt64 = 0x9_8000
        static let tablesLimit: UInt64 = 0x4000
        /// Below the command line; no protocol promises a stack, but a kernel that pushes first survives.
        static let stackTop: UInt64 = 0x8_0000
    }

    let memory: GuestMemory
    let map: MemoryMap
    private(set) var placements: [BootPlan.Placement] = []

    private let announce: (@Sendable (GuestAddress, Int) -> Void)?
    /// In bytes: what is smaller is there before anybody could help.
    private static let worthAnnouncing: UInt64 = 4 << 20

    init(_ memory: GuestMemory, _ map: MemoryMap, for request: BootRequest) {
        self.memory = memory
        self.map = map
        announce = request.announce
    }

    /// `size` bytes from `start` on, which are claimed, are about to be filled.
    func announce(_ start: UInt64, size: UInt64) {
        if size >= Self.worthAnnouncing { announce?(GuestAddress(start), Int(size)) }
    }

    /// Takes `size` bytes at `start` for `part`.
    mutating func claim(_ part: String, at start: UInt64, size: UInt64) throws(BootError) {
        guard size > 0 else { return }
        guard map.isRAM(start, size: size) else {
            throw .outsideRAM(part: part, start: start, size: size)
        }
        if let other = overlapping(start, size) {
            throw .overlap(part: part, other: other.part, start: start, size: size)
        }
        placements.append(BootPlan.Placement(part: part, start: GuestAddress(start), size: size))
    }

    /// Gives back what begins at `start`.
    mutating func release(at start: UInt64) { placements.removeAll { $0.start.raw == start } }

    /// Takes the highest free `size` bytes below `limit` but above 1 MiB: kernels use the first MiB as they
    /// like, and take address 0 for "none". `alignment` is a power of two.
    mutating func claimHighest(
        _ part: String, size: UInt64, alignment: UInt64 = 4096, below limit: UInt64
    ) throws(BootError) -> UInt64 {
        for run in map.entries.reversed() where run.kind == .ram {
            var top = min(run.end, limit)
            let bottom = max(run.start, 0x10_0000)
            // Every round steps below one more placement, so there are at most `placements.count + 1`.
            while top > bottom, size <= top - bottom {
                let start = (top - size) & ~(alignment - 1)
                guard start >= bottom else { break }
                guard let other = overlapping(start, max(size, 1)) else {
                    try claim(part, at: start, size: size)
                    return start
                }
                top = other.start.raw
            }
        }
        throw .noRoom(part: part, size: size, below: limit)
    }

    private func overlapping(_ start: UInt64, _ size: UInt64) -> BootPlan.Placement? {
        placements.first { start < $0.end && $0.start.raw < start &+ size }
    }

    /// Claims and fills.
    mutating func place(_ part: String, _ bytes: [UInt8], at start: UInt64) throws(BootError) {
        try claim(part, at: start, size: UInt64(bytes.count))
        try install(part, bytes[...], at: start)
    }

    /// Fills what is already claimed.
    func install(_ part: String, _ bytes: ArraySlice<UInt8>, at start: UInt64) throws(BootError) {
        do throws(GuestMemoryFault) {
            try memory.install(bytes, at: GuestAddress(start))
        } catch {
            throw .outsideRAM(part: part, start: start, size: UInt64(bytes.count))
        }
    }

    /// Zeroes what is already claimed; whole pages are given back to the host instead of written.
    func zero(_ part: String, at start: UInt64, size: UInt64) throws(BootError) {
        let end = start + size
        let firstPage = min((start + 4095) & ~4095, end), lastPage = max(end & ~4095, firstPage)
        do throws(GuestMemoryFault) {
            // Empty pieces are skipped: one may begin where RAM ends.
            if firstPage > start { try memory.zero(GuestAddress(start), count: Int(firstPage - start)) }
            if lastPage > firstPage {
                try memory.release(GuestAddress(firstPage), count: Int(lastPage - firstPage))
            }
            if end > lastPage { try memory.zero(GuestAddress(lastPage), count: Int(end - lastPage)) }
        } catch {
            throw .outsideRAM(part: part, start: start, size: size)
        }
    }

    /// Places the NUL-terminated command line; `limit` is in bytes without the NUL.
    mutating func placeCommandLine(_ text: String, limit: Int) throws(BootError) {
        let bytes = Array(text.utf8)
        let limit = min(limit, LowMemory.commandLineLimit)
        guard bytes.count <= limit else { throw .commandLineTooLong(length: bytes.count, limit: limit) }
        guard !bytes.contains(0) else { throw .commandLineHasNUL }
        try place("command line", bytes + [0], at: LowMemory.commandLine)
    }
}
