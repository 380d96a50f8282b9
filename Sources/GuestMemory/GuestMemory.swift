public import LinuxHost
public import Synchronization

/// The memory of one machine: RAM and ROM regions in the guest-physical address space, backed by host
/// mappings. Everything that is not in a region is a device's or nobody's.
///
/// Devices use the checked copies below: a guest address or length that does not fit throws and never
/// touches host memory outside the regions. Engines use `hostPointer`, which is unsafe and says so.
///
/// Confinement: any thread. The set of regions is fixed before the first guest instruction; the bytes belong
/// to the guest, which may change them at any time: copy once, check the copy.
@safe public final class GuestMemory: Sendable {
    public enum Kind: Sendable { case ram, rom }

    /// A run of whole pages that is contiguous in guest and host addresses.
    public struct Region: Sendable {
        public let start: UInt64
        public let size: UInt64
        public let kind: Kind
        /// Index of its first page in the `PageMap`.
        public let firstPage: Int
        @usableFromInline nonisolated(unsafe) let host: UnsafeMutableRawPointer
        @usableFromInline let mapping: MemoryMapping
        @inlinable public var end: UInt64 { start + size }
    }

    /// In ascending order of start address, disjoint.
    public let regions: [Region]
    public let pages: PageMap
    /// Bytes of RAM, ROM not counted.
    public let ramSize: UInt64

    /// What to put where; `size` and `start` must be multiples of 4096 and must not overlap.
    public struct Layout: Sendable {
        public var start: UInt64
        public var size: UInt64
        public var kind: Kind
        public init(start: UInt64, size: UInt64, kind: Kind) {
            self.start = start
            self.size = size
            self.kind = kind
        }
    }

    /// The PC's split: RAM up to `hole` (3 GiB) below the PCI hole, the rest from 4 GiB.
    public static func pcLayout(ram: UInt64, hole: UInt64 = 0xC000_0000) -> [Layout] {
        if ram <= hole { return [Layout(start: 0, size: ram, kind: .ram)] }
        return [
            Layout(start: 0, size: hole, kind: .ram),
            Layout(start: 0x1_0000_0000, size: ram - hole, kind: .ram),
        ]
    }

    /// Maps zeroed memory for every entry of `layout`.
    /// - Throws: `HostError` when the host cannot give that much memory.
    public init(_ layout: [Layout]) throws(HostError) {
        var regions: [Region] = []
        var page = 0
        var ram: UInt64 = 0
        for entry in layout.sorted(by: { $0.start < $1.start }) {
            precondition(entry.start % 4096 == 0 && entry.size % 4096 == 0, "regions are whole pages")
            precondition(
                entry.size > 0 && (regions.last?.end ?? 0) <= entry.start
                    && entry.start + entry.size > entry.start,
                "regions overlap or wrap")
            let mapping = try MemoryMapping(anonymous: Int(entry.size), hugePages: entry.kind == .ram)
            // SAFETY: the region keeps the mapping alive for as long as the pointer is used.
            unsafe regions.append(
                Region(
                    start: entry.start, size: entry.size, kind: entry.kind, firstPage: page,
                    host: mapping.base, mapping: mapping))
            page += Int(entry.size / 4096)
            if entry.kind == .ram { ram += entry.size }
        }
        self.regions = regions
        self.pages = PageMap(pages: page)
        self.ramSize = ram
    }

    /// The region that holds `address`, if any.
    @inlinable
    public func region(at address: UInt64) -> Region? {
        for region in regions where address &- region.start < region.size { return region }
        return nil
    }

    /// The region and offset of `count` bytes at `address`; all of them must be in one region.
    @inlinable
    func locate(_ address: GuestAddress, _ count: Int) throws(GuestMemoryFault) -> (Region, Int) {
        for region in regions {
            let offset = address.raw &- region.start
            if offset < region.size, UInt64(count) <= region.size - offset {
                return (region, Int(offset))
            }
        }
        throw .notMemory(address: address.raw, count: UInt64(count))
    }

    @inlinable
    func locateWritable(_ address: GuestAddress, _ count: Int) throws(GuestMemoryFault) -> (Region, Int) {
        let (region, offset) = try locate(address, count)
        guard region.kind == .ram else { throw .readOnly(address: address.raw) }
        return (region, offset)
    }

    /// Tells engines that `count` bytes at `offset` of `region` changed. Called by every store below.
    @inlinable
    func recordStore(_ region: Region, _ offset: Int, _ count: Int) {
        guard count > 0 else { return }
        for page in (offset >> 12)...((offset + count - 1) >> 12) {
            pages.recordStore(region.firstPage + page)
        }
    }

    // MARK: Checked access for devices

    /// Loads one value; not atomic, and tearing is the guest's problem.
    @inlinable
    public func load<T: BitwiseCopyable>(_: T.Type, at address: GuestAddress) throws(GuestMemoryFault) -> T {
        let (region, offset) = try locate(address, MemoryLayout<T>.size)
        // SAFETY: `locate` proved the bytes are in the region; T is bitwise copyable.
        return unsafe (region.host + offset).loadUnaligned(as: T.self)
    }

    @inlinable
    public func store<T: BitwiseCopyable>(_ value: T, at address: GuestAddress) throws(GuestMemoryFault) {
        let (region, offset) = try locateWritable(address, MemoryLayout<T>.size)
        // SAFETY: `locateWritable` proved the bytes are in a RAM region.
        unsafe (region.host + offset).storeBytes(of: value, as: T.self)
        recordStore(region, offset, MemoryLayout<T>.size)
    }

    /// A naturally aligned 16-bit load with acquire ordering (virtqueue indices).
    @inlinable
    public func loadAcquire(at address: GuestAddress) throws(GuestMemoryFault) -> UInt16 {
        guard address.raw % 2 == 0 else { throw .misaligned(address: address.raw) }
        let (region, offset) = try locate(address, 2)
        // SAFETY: in range and aligned; Atomic<UInt16> has UInt16's layout.
        return unsafe (region.host + offset).assumingMemoryBound(to: Atomic<UInt16>.self)
            .pointee.load(ordering: .acquiring)
    }

    /// A naturally aligned 16-bit store with release ordering (virtqueue indices).
    @inlinable
    public func storeRelease(_ value: UInt16, at address: GuestAddress) throws(GuestMemoryFault) {
        guard address.raw % 2 == 0 else { throw .misaligned(address: address.raw) }
        let (region, offset) = try locateWritable(address, 2)
        // SAFETY: in range and aligned; Atomic<UInt16> has UInt16's layout.
        unsafe (region.host + offset).assumingMemoryBound(to: Atomic<UInt16>.self)
            .pointee.store(value, ordering: .releasing)
        recordStore(region, offset, 2)
    }

    /// Copies guest bytes into `buffer`.
    @inlinable
    public func read(_ address: GuestAddress, into buffer: inout [UInt8]) throws(GuestMemoryFault) {
        let (region, offset) = try locate(address, buffer.count)
        // SAFETY: both ranges are `buffer.count` bytes long.
        unsafe buffer.withUnsafeMutableBytes {
            unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: region.host + offset, count: $0.count))
        }
    }

    /// Copies `count` guest bytes over those of `words` from byte `place` on, which must be inside.
    public func read(
        _ address: GuestAddress, count: Int, into words: inout [UInt32], atByte place: Int
    ) throws(GuestMemoryFault) {
        precondition(place >= 0 && count >= 0 && place <= words.count * 4 - count, "outside the words")
        let (region, offset) = try locate(address, count)
        guard count > 0 else { return }
        // SAFETY: `locate` proved `count` bytes at `offset`; as many are in `words` from `place` on.
        unsafe words.withUnsafeMutableBytes { target in
            unsafe (target.baseAddress! + place).copyMemory(from: region.host + offset, byteCount: count)
        }
    }

    /// `count` guest bytes. The caller bounds `count`: it comes from the guest.
    @inlinable
    public func bytes(_ address: GuestAddress, count: Int) throws(GuestMemoryFault) -> [UInt8] {
        _ = try locate(address, count)
        var buffer = [UInt8](repeating: 0, count: count)
        try read(address, into: &buffer)
        return buffer
    }

    @inlinable
    public func write(_ bytes: [UInt8], at address: GuestAddress) throws(GuestMemoryFault) {
        let (region, offset) = try locateWritable(address, bytes.count)
        copyIn(bytes, region, offset)
    }

    /// Fills a ROM region too: for boot loaders and firmware, before the guest runs.
    public func install(_ bytes: [UInt8], at address: GuestAddress) throws(GuestMemoryFault) {
        let (region, offset) = try locate(address, bytes.count)
        copyIn(bytes, region, offset)
    }

    /// The same for a part of a larger file, without a copy of it.
    public func install(_ bytes: ArraySlice<UInt8>, at address: GuestAddress) throws(GuestMemoryFault) {
        let (region, offset) = try locate(address, bytes.count)
        guard !bytes.isEmpty else { return }
        // SAFETY: `locate` proved `bytes.count` bytes at `offset`; the slice is not empty.
        unsafe bytes.withUnsafeBytes { source in
            unsafe (region.host + offset).copyMemory(from: source.baseAddress!, byteCount: source.count)
        }
        recordStore(region, offset, bytes.count)
    }

    @inlinable
    func copyIn(_ bytes: [UInt8], _ region: Region, _ offset: Int) {
        guard !bytes.isEmpty else { return }
        // SAFETY: the caller located `bytes.count` bytes at `offset`.
        unsafe bytes.withUnsafeBytes {
            unsafe (region.host + offset).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
        }
        recordStore(region, offset, bytes.count)
    }

    /// Zeroes a range (`count` may span pages, not regions).
    public func zero(_ address: GuestAddress, count: Int) throws(GuestMemoryFault) {
        let (region, offset) = try locateWritable(address, count)
        // SAFETY: located above.
        unsafe (region.host + offset).initializeMemory(as: UInt8.self, repeating: 0, count: count)
        recordStore(region, offset, count)
    }

    // MARK: Unchecked faces

    /// Host address of `count` bytes of guest memory for I/O vectors; call `noteStore` after the host wrote.
    /// - Safety: valid while this object lives; the guest may change the bytes at any time.
    @unsafe
    public func hostPointer(_ address: GuestAddress, count: Int, forWriting: Bool) throws(GuestMemoryFault)
        -> UnsafeMutableRawPointer
    {
        let (region, offset) = forWriting ? try locateWritable(address, count) : try locate(address, count)
        return unsafe region.host + offset
    }

    /// After the host (io_uring, read(2)) stored into a range obtained from `hostPointer`.
    public func noteStore(_ address: GuestAddress, count: Int) {
        guard let (region, offset) = try? locate(address, count) else { return }
        recordStore(region, offset, count)
    }

    /// Gives the host back the pages of a range that the guest declared free (balloon); they read as zero.
    public func release(_ address: GuestAddress, count: Int) throws(GuestMemoryFault) {
        let (region, offset) = try locateWritable(address, count)
        guard offset % 4096 == 0, count % 4096 == 0 else { throw .misaligned(address: address.raw) }
        region.mapping.discard(offset: offset, count: count)
        recordStore(region, offset, count)
    }

    /// Has the host find pages for RAM that the guest is about to use, without changing it. Any thread; takes
    /// about a millisecond for each two MiB. Ranges that are not all RAM are left alone.
    public func populate(_ address: GuestAddress, count: Int) {
        guard count > 0, let (region, start) = try? locateWritable(address, count) else { return }
        var offset = start
        while offset < start + count {
            // By huge pages of the host, so that others wait for one at most.
            let place = unsafe UInt(bitPattern: region.host) + UInt(offset)
            let step = min(
                MemoryMapping.hugePage - Int(place % UInt(MemoryMapping.hugePage)), start + count - offset)
            region.mapping.populate(offset: offset, count: step)
            offset += step
        }
    }

    /// Where a region's bytes are on the host, for engines (KVM memory slots, TLB fills).
    /// - Safety: valid while this object lives.
    @unsafe @inlinable
    public func hostBase(_ region: Region) -> UnsafeMutableRawPointer { unsafe region.host }
}
