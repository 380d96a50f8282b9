import LinuxHost

/// Memory for emitted code: mapped twice, once writable and once executable, so that no page is ever both.
/// Filled from the bottom and emptied as a whole.
///
/// Confinement: its owner's thread.
@safe struct CodeArena: ~Copyable {
    private let writable: MemoryMapping
    private let executable: MemoryMapping
    /// Bytes in use.
    private(set) var used = 0
    /// Huge pages from the bottom that are in one piece, or were refused.
    private var collapsed = 0
    /// Bytes of a huge page that are used before it is made one piece.
    private static let worthwhile = 512 << 10
    /// Bytes from the bottom that the host was asked to have ready for writing.
    private var populated = 0
    /// How much at once: a page of its own for each fault takes the host longer.
    private static let populatedAtOnce = 64 << 10
    let size: Int

    init(size: Int) throws(HostError) {
        let rounded = (size + 4095) & ~4095
        let executable = try MemoryMapping(executable: rounded)
        let writable = try MemoryMapping(writableAlias: executable)
        self.writable = writable
        self.executable = executable
        self.size = rounded
    }

    /// Executable address less writable address.
    var distance: Int { unsafe executable.base - writable.base }
    /// Executable address of the first byte.
    var start: UInt { unsafe UInt(bitPattern: executable.base) }

    func contains(_ address: UInt) -> Bool { address &- start < UInt(size) }

    /// An assembler at the first free byte, or nil when fewer than `room` bytes are left.
    func assembler(room: Int) -> Assembler? {
        guard size - used >= room else { return nil }
        // SAFETY: `room` bytes are free there.
        return unsafe Assembler(
            at: (writable.base + used).assumingMemoryBound(to: UInt8.self), executableDistance: distance)
    }

    /// Keeps what `assembler` wrote.
    mutating func commit(_ assembler: Assembler) {
        used = Int(assembler.here &- start)
        precondition(used <= size, "emitted code left its arena")
        while used + Self.populatedAtOnce / 2 > populated, populated < size {
            let count = min(Self.populatedAtOnce, size - populated)
            writable.populate(offset: populated, count: count)
            populated += count
        }
        // Translated code is spread over megabytes: with small pages the host looks for their addresses all
        // the time.
        while used >= collapsed * MemoryMapping.hugePage + Self.worthwhile {
            executable.collapse(hugePage: collapsed)
            collapsed += 1
        }
    }

    /// Forgets all code from `offset` on.
    mutating func clear(keeping offset: Int) { used = offset }

    /// Writes the four bytes of a branch displacement at executable address `site`, at once.
    func patch(_ site: UInt, target: UInt) {
        precondition(contains(site) && contains(target), "a branch outside the arena")
        let value = Int32(truncatingIfNeeded: Int(bitPattern: target &- (site &+ 4)))
        // SAFETY: inside the writable mapping.
        unsafe (writable.base + Int(site &- start)).storeBytes(of: value, as: Int32.self)
    }

    /// Bytes of a CALL with a word behind it.
    static let callBytes: UInt = 9

    /// Writes a CALL with a word behind it over the code at executable address `site`.
    func patchCall(_ site: UInt, target: UInt, word: Int32) {
        precondition(contains(site) && contains(site + 8) && contains(target), "a call outside the arena")
        // SAFETY: nine bytes inside the writable mapping.
        unsafe (writable.base + Int(site &- start)).storeBytes(of: 0xE8, as: UInt8.self)
        patch(site + 1, target: target)
        // SAFETY: as above.
        unsafe (writable.base + Int(site &- start) + 5).storeBytes(of: word, as: Int32.self)
    }

    /// What a CALL with a word behind it takes the place of.
    struct Entry: BitwiseCopyable {
        var low: UInt64 = 0
        var high: UInt8 = 0
    }

    func entry(at site: UInt) -> Entry {
        precondition(contains(site) && contains(site + 8), "an entry outside the arena")
        let place = unsafe UnsafeRawPointer(writable.base) + Int(site &- start)
        // SAFETY: nine bytes inside the writable mapping.
        return unsafe Entry(
            low: place.loadUnaligned(as: UInt64.self), high: place.load(fromByteOffset: 8, as: UInt8.self))
    }

    /// Writes back what was there.
    func restore(_ entry: Entry, at site: UInt) {
        precondition(contains(site) && contains(site + 8), "an entry outside the arena")
        let place = unsafe writable.base + Int(site &- start)
        // SAFETY: nine bytes inside the writable mapping.
        unsafe place.storeBytes(of: entry.low, as: UInt64.self)
        unsafe place.storeBytes(of: entry.high, toByteOffset: 8, as: UInt8.self)
    }

    /// Writes a JMP over the code at executable address `site`.
    func patchJump(_ site: UInt, target: UInt) {
        precondition(contains(site) && contains(site + 4) && contains(target), "a jump outside the arena")
        // SAFETY: five bytes inside the writable mapping.
        unsafe (writable.base + Int(site &- start)).storeBytes(of: 0xE9, as: UInt8.self)
        patch(site + 1, target: target)
    }

    /// A 32-bit word that emitted code carries for us.
    func word(_ address: UInt) -> Int32 {
        precondition(contains(address), "a word outside the arena")
        // SAFETY: inside the mapping.
        return unsafe (writable.base + Int(address &- start)).loadUnaligned(as: Int32.self)
    }
}
