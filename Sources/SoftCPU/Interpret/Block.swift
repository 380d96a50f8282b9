import LinuxHost

/// A run of instructions from one page, lowered. Valid while the page's word in the `PageMap` still equals
/// `generation`.
struct Block: BitwiseCopyable {
    /// Guest-physical address of the first byte.
    var physical: UInt64
    var mode: UInt32
    /// The page word when it was decoded, dirty bit cleared.
    var generation: UInt32
    /// Address of the page's atomic word.
    var pageWord: UInt
    /// When the last instruction crosses into another page: that page, its word and generation; else 0.
    var secondPhysical: UInt64
    var secondWord: UInt
    var secondGeneration: UInt32
    /// Bytes that the instructions take.
    var byteLength: UInt16
    var instructionCount: UInt16
    /// Address of the first `MicroOp`; the last one ends the block.
    var ops: UInt
    /// Address of its translation, 0 before and while it sleeps.
    var code: UInt = 0
    /// Linear page address that it was translated for, or `CodePlace.anywhere`.
    var linear: UInt64 = CodePlace.anywhere
    /// The next translated block of the page.
    var nextOnPage: UInt = 0
    /// Runs by the interpreter, until it is translated.
    var runs: UInt16 = 0
    /// Status flags that its first instructions may read (`LiveFlags`), if they say so.
    var liveFlags: UInt16?
    /// What its translation relies on behind it.
    var flagLooks = FlagLooks()
    /// Its memory operands did not lie in one page: they are translated one by one.
    var isUngrouped = false
    /// Its translation has branches that may be linked to other pages.
    var linksPages = false
    /// It is in the list of its page's translated blocks.
    var isListed = false
    /// Checks of its translation before anything may lead to it, with `--verify`.
    var checks: UInt8 = 0
    /// Entries from the run loop since then.
    var entries: UInt32 = 0
    /// The bytes that it was decoded from lie behind it (`copy`).
    var hasCopy = false
    /// `former` is its own translation, asleep, which `entryBytes` wake.
    var sleeps = false
    /// Where the place of its page was when it fell asleep.
    var formerPlace: UInt32 = 0
    /// The entry, which leads out, of a translation that branches may still be linked to: of this block, or
    /// of the one that had its key before; else 0.
    var former: UInt = 0
    var entryBytes = CodeArena.Entry()

    /// Whether it can be told later that its translation holds.
    var maySleep: Bool { hasCopy && !flagLooks.areTooMany }
    /// Where indirect branches enter the translation.
    var targetEntry: UInt { linear == CodePlace.anywhere ? code &- Translator.pageStoreBytes : code }
}

/// A vCPU's decoded blocks: an arena filled from the bottom and emptied as a whole when full, with an open
/// hash table by physical address and mode in front of it.
///
/// Confinement: the vCPU's thread.
@safe struct BlockCache: ~Copyable {
    private let arena: MemoryMapping
    private let table: MemoryMapping
    private var used = 0
    private(set) var flushes = 0
    private(set) var blocksBuilt = 0
    static let tableBits = 18
    static let tableEntries = 1 << tableBits
    /// Slots in use. One in four stays free, so that a search ends soon.
    private var filled = 0
    /// Bits of a slot that hold a block's address: all that programs have (SDM vol. 3 §4.5).
    private static let addressBits: UInt = 48
    private static let addressMask: UInt = (1 << addressBits) - 1

    init(size: Int) throws(HostError) {
        let arena = try MemoryMapping(anonymous: max(size, 1 << 20), hugePages: true)
        let table = try MemoryMapping(anonymous: Self.tableEntries * 8, hugePages: true)
        self.arena = arena
        self.table = table
    }

    /// Address of the table, for `CPUState.blockTable`.
    var tableAddress: UInt { unsafe UInt(bitPattern: table.base) }

    /// Where to look for a key, and what its slot holds above the block's address.
    @inline(__always)
    private static func place(_ physical: UInt64, _ mode: UInt32) -> (index: UInt, tag: UInt) {
        // The blocks of a page lie in 64 slots next to each other, which are a few lines of the host's cache.
        // Fibonacci hashing: the product's top bits depend on every bit of the key.
        let mixed = (physical >> 12 ^ UInt64(mode) << 56) &* 0x9E37_79B9_7F4A_7C15
        let group = UInt(truncatingIfNeeded: mixed >> UInt64(64 - tableBits + 6)) << 6
        let index = group | UInt(truncatingIfNeeded: physical ^ physical >> 6) & 63
        return (index, UInt(truncatingIfNeeded: mixed >> 32 ^ physical << 4) << addressBits)
    }

    @inline(__always)
    private static func slot(_ table: UInt, _ index: UInt) -> UnsafeMutablePointer<UInt> {
        // SAFETY: the mapping holds `tableEntries` words; the index is masked to that.
        unsafe UnsafeMutablePointer<UInt>(bitPattern: table &+ (index & UInt(tableEntries - 1)) &* 8)
            .unsafelyUnwrapped
    }

    /// Index of the slot of a key, and the address of its block; 0 and the slot where it would go when there
    /// is none. Blocks of other keys are hardly ever touched: their tags differ.
    @inline(__always)
    private static func locate(_ table: UInt, _ physical: UInt64, _ mode: UInt32) -> (
        index: UInt, block: UInt
    ) {
        var (index, tag) = place(physical, mode)
        while true {
            let entry = unsafe slot(table, index).pointee
            if entry == 0 { return (index, 0) }
            if entry & ~addressMask == tag {
                let block = BlockView(address: entry & addressMask)
                if block.b.physical == physical, block.b.mode == mode { return (index, block.address) }
            }
            index &+= 1
        }
    }

    /// Address of the cached block for a key, whether still valid or not; 0 when there is none.
    @inline(__always)
    static func find(_ table: UInt, _ physical: UInt64, _ mode: UInt32) -> UInt {
        locate(table, physical, mode).block
    }

    /// Puts a block in the table, in the place of the one that had its key.
    mutating func enter(_ address: UInt) {
        let block = BlockView(address: address)
        let (index, before) = Self.locate(tableAddress, block.b.physical, block.b.mode)
        let (_, tag) = Self.place(block.b.physical, block.b.mode)
        unsafe Self.slot(tableAddress, index).pointee = address | tag
        if before == 0 { filled += 1 }
        blocksBuilt += 1
    }

    /// `size` bytes of arena, 64-byte aligned; nil when it or the table is full.
    mutating func allocate(_ size: Int) -> UInt? {
        let rounded = (size + 63) & ~63
        guard rounded <= arena.size - used, filled < Self.tableEntries / 4 * 3 else { return nil }
        defer { used += rounded }
        return unsafe UInt(bitPattern: arena.base) + UInt(used)
    }

    /// Forgets everything.
    mutating func clear() {
        used = 0
        filled = 0
        flushes += 1
        table.discard(offset: 0, count: table.size)
    }
}

@safe struct BlockView {
    let address: UInt
    @inline(__always) init(address: UInt) { self.address = address }
    /// Space of a `Block` in front of what belongs to it.
    static let bytes = (MemoryLayout<Block>.size + 63) & ~63
    /// Where the bytes are that the block was decoded from, `byteLength` of them.
    var copy: UInt { address &+ UInt(Self.bytes) }
    var b: Block {
        @inline(__always) unsafeAddress {
            // SAFETY: addresses come from the arena, which lives as long as the vCPU.
            unsafe UnsafePointer<Block>(bitPattern: address).unsafelyUnwrapped
        }
        @inline(__always) nonmutating unsafeMutableAddress {
            unsafe UnsafeMutablePointer<Block>(bitPattern: address).unsafelyUnwrapped
        }
    }
}
