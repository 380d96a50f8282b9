import LinuxHost

/// Copies of the pages that a trial touches: as they were at first, as the running trial sees them, and as
/// the one before left them.
///
/// Confinement: the vCPU's thread.
@safe struct LockstepPages: ~Copyable {
    /// Pages that one check may touch: a REP MOVS visits 64 KiB twice.
    static let capacity = 40
    private static let pageSize = 4096
    /// One more page than `capacity`, which stands in for all that are too many.
    private let memory: MemoryMapping
    private var hosts = [UInt](repeating: 0, count: capacity)
    private var count = 0
    private var keptCount = 0
    /// A trial touched more pages than there is room for.
    private(set) var overflowed = false

    init() throws(HostError) {
        memory = try MemoryMapping(anonymous: (Self.capacity + 1) * 3 * Self.pageSize)
    }

    private enum Version: Int { case original = 0, current, kept }

    private func address(_ slot: Int, _ version: Version) -> UnsafeMutableRawPointer {
        // SAFETY: slots are 0...capacity, and there is room for three versions of each.
        unsafe memory.base + (slot * 3 + version.rawValue) * Self.pageSize
    }

    private func copy(_ slot: Int, from: Version, to: Version) {
        // SAFETY: both are whole pages of ours.
        unsafe address(slot, to).copyMemory(from: address(slot, from), byteCount: Self.pageSize)
    }

    /// Address of the running trial's copy of the page at host address `host`.
    mutating func page(_ host: UInt) -> UInt {
        for slot in 0..<count where hosts[slot] == host {
            return unsafe UInt(bitPattern: address(slot, .current))
        }
        guard count < Self.capacity else {
            overflowed = true
            return unsafe UInt(bitPattern: address(Self.capacity, .current))
        }
        hosts[count] = host
        // SAFETY: the caller found a whole page of guest memory there. Others may be writing to it: any mix
        // of old and new bytes will do, as both trials start from this copy.
        unsafe address(count, .original).copyMemory(
            from: UnsafeRawPointer(bitPattern: host).unsafelyUnwrapped, byteCount: Self.pageSize)
        copy(count, from: .original, to: .current)
        count += 1
        return unsafe UInt(bitPattern: address(count - 1, .current))
    }

    /// Forgets all pages.
    mutating func clear() {
        count = 0
        keptCount = 0
        overflowed = false
    }

    /// Makes all pages what they were at first.
    mutating func rewind() {
        for slot in 0..<count { copy(slot, from: .original, to: .current) }
    }

    /// Keeps the pages as they are now, for `difference`.
    mutating func keep() {
        for slot in 0..<count { copy(slot, from: .current, to: .kept) }
        keptCount = count
    }

    /// The first byte in which the kept pages and those of the running trial differ.
    struct Difference {
        /// Host address of the guest's page.
        var host: UInt
        var offset: Int
        var kept: UInt8
        var current: UInt8
    }
    func difference() -> Difference? {
        for slot in 0..<count {
            let current = unsafe address(slot, .current)
            // Pages that only the second trial touched are unchanged as far as the first is concerned.
            let before = unsafe address(slot, slot < keptCount ? .kept : .original)
            for offset in stride(from: 0, to: Self.pageSize, by: 8) {
                // SAFETY: inside the page.
                let word = unsafe current.load(fromByteOffset: offset, as: UInt64.self)
                let other = unsafe before.load(fromByteOffset: offset, as: UInt64.self)
                if word == other { continue }
                let byte = (word ^ other).trailingZeroBitCount / 8
                return Difference(
                    host: hosts[slot], offset: offset + byte,
                    kept: UInt8(truncatingIfNeeded: other >> UInt64(byte * 8)),
                    current: UInt8(truncatingIfNeeded: word >> UInt64(byte * 8)))
            }
        }
        return nil
    }
}
