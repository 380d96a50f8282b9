internal import CLinux
internal import Glibc

/// Memory mapped from the host, unmapped when the last reference goes.
@safe public final class MemoryMapping: Sendable {
    nonisolated(unsafe) public let base: UnsafeMutableRawPointer
    /// Bytes mapped, a multiple of the page size.
    public let size: Int

    /// Private zeroed memory; `hugePages` asks for transparent huge pages.
    public init(anonymous size: Int, hugePages: Bool = false) throws(HostError) {
        // SAFETY: a fresh mapping; the result is checked.
        let address = unsafe mmap(
            nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            throw .last("mapping \(size >> 20) MiB of memory")
        }
        // MADV_HUGEPAGE (14): a refusal only costs speed.
        if hugePages { _ = unsafe madvise(address, size, 14) }
        unsafe base = address
        self.size = size
    }

    /// Maps `size` bytes of a file or memfd, shared.
    public init(file: Int32, offset: Int = 0, size: Int, writable: Bool, executable: Bool = false)
        throws(HostError)
    {
        let protection = PROT_READ | (writable ? PROT_WRITE : 0) | (executable ? PROT_EXEC : 0)
        // SAFETY: a fresh mapping; the result is checked.
        let address = unsafe mmap(nil, size, protection, MAP_SHARED, file, offset)
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            throw .last("mapping \(size) bytes of a file")
        }
        unsafe base = address
        self.size = size
    }

    /// Shared zeroed memory without a file, readable and executable. It reads as "/dev/zero" in
    /// /proc/PID/maps, which is where `perf` looks for the names of emitted code; in a memfd it does not.
    public init(executable size: Int) throws(HostError) {
        // SAFETY: a fresh mapping of addresses only, a huge page longer than needed; the result is checked.
        let reserved = unsafe mmap(
            nil, size + Self.hugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let reserved = unsafe reserved, unsafe reserved != MAP_FAILED else {
            throw .last("finding room for \(size >> 20) MiB of code")
        }
        let before = unsafe (Self.hugePage - Int(bitPattern: reserved) % Self.hugePage) % Self.hugePage
        // SAFETY: inside what was just reserved; what is left over at both ends is given back.
        unsafe munmap(reserved, before)
        unsafe munmap(reserved + before + size, Self.hugePage - before)
        let address = unsafe mmap(
            reserved + before, size, PROT_READ | PROT_EXEC,
            MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            let error = HostError.last("mapping \(size >> 20) MiB of memory for code")
            _ = unsafe munmap(reserved + before, size)
            throw error
        }
        unsafe base = address
        self.size = size
    }

    /// Bytes of a huge page.
    public static let hugePage = 2 << 20

    /// Puts the huge page number `number` of a shared mapping, which starts at a multiple of them, into one
    /// piece. What the host refuses only costs speed.
    public func collapse(hugePage number: Int) {
        let offset = number * Self.hugePage
        guard number >= 0, offset <= size - Self.hugePage else { return }
        // SAFETY: inside this mapping; its contents stay. MADV_COLLAPSE (25), since Linux 6.1.
        _ = unsafe madvise(base + offset, Self.hugePage, 25)
    }

    /// The memory of `other`, which is shared, once more: readable and writable.
    public init(writableAlias other: MemoryMapping) throws(HostError) {
        // SAFETY: an old size of 0 leaves the old mapping and makes a second one (mremap(2)), wherever the
        // kernel finds room; the result is checked.
        let address = unsafe ospite_alias_memory(other.base, other.size)
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            throw .last("mapping \(other.size >> 20) MiB of memory again")
        }
        guard unsafe mprotect(address, other.size, PROT_READ | PROT_WRITE) == 0 else {
            let error = HostError.last("making a second mapping writable")
            _ = unsafe munmap(address, other.size)
            throw error
        }
        unsafe base = address
        size = other.size
    }

    /// Maps the first `size` bytes of a file over those at `offset`, shared and writable.
    public func replace(offset: Int, byFile file: Int32, size: Int) throws(HostError) {
        precondition(offset >= 0 && size >= 0 && offset <= self.size - size, "outside the mapping")
        // SAFETY: inside this mapping, which nobody else manages.
        let address = unsafe mmap(
            base + offset, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0)
        guard unsafe address != MAP_FAILED else { throw .last("mapping \(size) bytes of a file") }
    }

    /// Has the host give the pages of a range that are not there yet, as if each was written to; what is in
    /// them stays. Any thread, also while others use the memory. What the host refuses only costs speed.
    public func populate(offset: Int, count: Int) {
        precondition(offset >= 0 && count >= 0 && offset <= size - count, "populate outside the mapping")
        // SAFETY: inside this mapping, whole pages of it. MADV_POPULATE_WRITE (23), since Linux 5.14.
        _ = unsafe madvise(base + (offset & ~4095), (offset & 4095) + count, 23)
    }

    /// Drops the pages of a range; private memory then reads as zero.
    public func discard(offset: Int, count: Int) {
        precondition(offset >= 0 && count >= 0 && offset <= size - count, "discard outside the mapping")
        // SAFETY: inside this mapping. MADV_DONTNEED (4).
        _ = unsafe madvise(base + offset, count, 4)
    }

    deinit {
        // SAFETY: mapped in init with this size; no other owner.
        _ = unsafe munmap(base, size)
    }
}
