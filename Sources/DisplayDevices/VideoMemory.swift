public import DeviceModel
public import LinuxHost
internal import Synchronization

/// The memory of a display adapter: bytes that the guest's processors store to and the host's viewers read,
/// at any time. Every access is inside, whatever the index.
///
/// Confinement: any thread; a viewer may see a pixel half drawn.
@safe public final class VideoMemory: DirectMemory {
    /// In bytes, a power of two.
    public let size: Int
    private let mapping: MemoryMapping
    /// One byte for each page, not zero when it was stored to since somebody asked.
    private let changes: MemoryMapping
    private enum Mark {
        static let stored: UInt8 = 1
        /// Processors store to it without a word.
        static let direct: UInt8 = 2
        /// They have been asked to say so again.
        static let ending: UInt8 = 4
    }
    /// The processors' accesses, and the request that they were asked with last.
    private let direct = Mutex<(access: DirectAccess, request: UInt64)?>(nil)
    static let pageSize = 4096
    var pageCount: Int { size / Self.pageSize }

    public init(size: Int) throws(HostError) {
        precondition(size.nonzeroBitCount == 1 && size >= Self.pageSize, "whole pages, a power of two")
        self.size = size
        mapping = try MemoryMapping(anonymous: size)
        changes = try MemoryMapping(anonymous: max(size / Self.pageSize, Self.pageSize))
    }

    /// After the store: who finds the mark sees the bytes. It is stored even where it is set already, since
    /// the one who takes it may be about to.
    private func mark(page: Int, _ value: UInt8 = Mark.stored) {
        // SAFETY: there is a byte for each page; Atomic<UInt8> has UInt8's layout.
        _ = unsafe (changes.base.assumingMemoryBound(to: Atomic<UInt8>.self) + page).pointee
            .bitwiseOr(value, ordering: .acquiringAndReleasing)
    }

    /// Sets `pages[n]` for each page that was stored to since the last call; whether there is one.
    ///
    /// A page that processors reach directly counts as stored to until they have given that up, for which
    /// they are asked each time: what they stored before that is in the last look at it.
    func takeChanges(into pages: inout [Bool]) -> Bool {
        precondition(pages.count == pageCount, "a flag for each page")
        var isChanged = false, asks = false
        let isSettled = direct.withLock { $0.map { $0.access.isSettled($0.request) } ?? true }
        for page in 0..<pageCount {
            // SAFETY: as above.
            let mark = unsafe changes.base.assumingMemoryBound(to: Atomic<UInt8>.self) + page
            let old = unsafe mark.pointee.load(ordering: .relaxed)
            guard old != 0 else { continue }
            let isDirect = old & Mark.direct != 0
            asks = asks || isDirect
            let new = isDirect || old & Mark.ending != 0 && !isSettled ? Mark.ending : 0
            // Should it be another by now, it is looked at again the next time.
            unsafe _ = mark.pointee.compareExchange(
                expected: old, desired: new, ordering: .acquiringAndReleasing)
            pages[page] = true
            isChanged = true
        }
        if asks { direct.withLock { if let access = $0?.access { $0?.request = access.revoke() } } }
        return isChanged
    }

    // MARK: Processors that do not ask

    public func hostPage(_ number: Int) -> UInt {
        precondition((0..<pageCount).contains(number), "a page of the memory")
        return unsafe UInt(bitPattern: mapping.base) + UInt(number * Self.pageSize)
    }

    public func noteDirectStores(page number: Int, by access: DirectAccess) {
        direct.withLock { if $0 == nil { $0 = (access, 0) } }
        mark(page: number, Mark.direct)
    }

    /// The byte at `index`, which wraps at the end of the memory.
    subscript(_ index: Int) -> UInt8 {
        get {
            // SAFETY: masked to the mapping's size.
            unsafe mapping.base.load(fromByteOffset: index & (size - 1), as: UInt8.self)
        }
        set {
            // SAFETY: as above.
            unsafe mapping.base.storeBytes(
                of: newValue, toByteOffset: index & (size - 1), as: UInt8.self)
            mark(page: (index & (size - 1)) / Self.pageSize)
        }
    }

    /// The four bytes from `index` on, which is a multiple of four: one of each plane.
    subscript(planes index: Int) -> UInt32 {
        get {
            // SAFETY: masked to an aligned place inside the mapping.
            unsafe mapping.base.load(fromByteOffset: index & (size - 4), as: UInt32.self)
        }
        set {
            // SAFETY: as above.
            unsafe mapping.base.storeBytes(
                of: newValue, toByteOffset: index & (size - 4), as: UInt32.self)
            mark(page: (index & (size - 4)) / Self.pageSize)
        }
    }

    /// A load by the guest; bytes beyond the end are those from the beginning.
    func load(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
        let index = Int(truncatingIfNeeded: offset) & (size - 1)
        guard width == .dword, index & 3 == 0 else {
            var value: UInt64 = 0
            for byte in 0..<width.bytes { value |= UInt64(self[index + byte]) << UInt64(8 * byte) }
            return value
        }
        return UInt64(self[planes: index])
    }

    func store(_ value: UInt64, _ offset: UInt64, _ width: AccessWidth) {
        let index = Int(truncatingIfNeeded: offset) & (size - 1)
        guard width == .dword, index & 3 == 0 else {
            for byte in 0..<width.bytes {
                self[index + byte] = UInt8(truncatingIfNeeded: value >> UInt64(8 * byte))
            }
            return
        }
        self[planes: index] = UInt32(truncatingIfNeeded: value)
    }

    /// Zeroes everything.
    func clear() {
        mapping.discard(offset: 0, count: size)
        for page in 0..<pageCount { mark(page: page) }
    }

    // MARK: Saved state

    /// One page that is not all zeroes.
    struct SavedPage: Codable, Sendable, Equatable {
        var number: UInt32
        var bytes: [UInt8]
    }

    func savedPages() -> [SavedPage] {
        (0..<size / Self.pageSize).compactMap { page in
            let start = page * Self.pageSize
            let words = stride(from: start, to: start + Self.pageSize, by: 4)
            guard words.contains(where: { self[planes: $0] != 0 }) else { return nil }
            let bytes = (start..<start + Self.pageSize).map { self[$0] }
            return SavedPage(number: UInt32(page), bytes: bytes)
        }
    }

    /// False, and no change, when the pages are not those of a memory of this size.
    func restore(_ pages: [SavedPage]) -> Bool {
        guard
            pages.allSatisfy({ $0.bytes.count == Self.pageSize && Int($0.number) < size / Self.pageSize }),
            Set(pages.map(\.number)).count == pages.count
        else { return false }
        clear()
        for page in pages {
            let start = Int(page.number) * Self.pageSize
            for (index, byte) in page.bytes.enumerated() { self[start + index] = byte }
        }
        return true
    }
}
