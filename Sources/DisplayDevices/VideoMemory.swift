internal import DeviceModel
public import LinuxHost
internal import Synchronization

/// The memory of a display adapter: bytes that the guest's processors store to and the host's viewers read,
/// at any time. Every access is inside, whatever the index.
///
/// Confinement: any thread; a viewer may see a pixel half drawn.
@safe public final class VideoMemory: Sendable {
    /// In bytes, a power of two.
    public let size: Int
    private let mapping: MemoryMapping
    /// One byte for each page, not zero when it was stored to since somebody asked.
    private let changes: MemoryMapping
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
    private func mark(page: Int) {
        // SAFETY: there is a byte for each page; Atomic<UInt8> has UInt8's layout.
        unsafe (changes.base.assumingMemoryBound(to: Atomic<UInt8>.self) + page).pointee
            .store(1, ordering: .releasing)
    }

    /// Sets `pages[n]` for each page that was stored to since the last call; whether there is one.
    func takeChanges(into pages: inout [Bool]) -> Bool {
        precondition(pages.count == pageCount, "a flag for each page")
        var isChanged = false
        for page in 0..<pageCount {
            // SAFETY: as above.
            let mark = unsafe changes.base.assumingMemoryBound(to: Atomic<UInt8>.self) + page
            guard unsafe mark.pointee.load(ordering: .relaxed) != 0 else { continue }
            unsafe _ = mark.pointee.exchange(0, ordering: .acquiringAndReleasing)
            pages[page] = true
            isChanged = true
        }
        return isChanged
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
