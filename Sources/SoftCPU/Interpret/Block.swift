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
    /// Address of its translation, 0 before.
    var code: UInt = 0
    /// Linear page address that it was translated for, or `CodePlace.anywhere`.
    var linear: UInt64 = CodePlace.anywhere
    /// The next block with the same slot in the table.
    var nextInSlot: UInt = 0
    /// The next translated block of the page.
    var nextOnPage: UInt = 0
    /// Runs by the interpreter, until it is translated.
    var runs: UInt16 = 0
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

    /// Where indirect branches enter the translation.
    var targetEntry: UInt { linear == CodePlace.anywhere ? code &- Translator.pageStoreBytes : code }
}

/// A vCPU's decoded blocks: an arena filled from the bottom and emptied as a whole when full, with a hash
/// table by physical address and mode in front of it.
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

    init(size: Int) throws(HostError) {
        let arena = try MemoryMapping(anonymous: max(size, 1 << 20))
        let table = try MemoryMapping(anonymous: Self.tableEntries * 8)
        self.arena = arena
        self.table = table
    }

    /// Address of the table, for `CPUState.blockTable`.
    var tableAddress: UInt { unsafe UInt(bitPattern: table.base) }

    /// The slot for a key in the table at `table`.
    @inline(__always)
    private static func slot(_ table: UInt, _ physical: UInt64, _ mode: UInt32) -> UnsafeMutablePointer<UInt>
    {
        // The blocks of a page lie in 64 slots next to each other, which are a few lines of the host's cache.
        // Fibonacci hashing: the product's top bits depend on every bit of the key.
        let mixed = (physical >> 12 ^ UInt64(mode) << 56) &* 0x9E37_79B9_7F4A_7C15
        let group = UInt(truncatingIfNeeded: mixed >> UInt64(64 - tableBits + 6)) << 6
        let index = group | UInt(truncatingIfNeeded: physical ^ physical >> 6) & 63
        // SAFETY: the mapping holds `tableEntries` words, zero or addresses of blocks in the arena.
        return unsafe UnsafeMutablePointer<UInt>(bitPattern: table &+ index &* 8).unsafelyUnwrapped
    }

    /// Address of the cached block for a key, whether still valid or not; 0 when there is none.
    @inline(__always)
    static func find(_ table: UInt, _ physical: UInt64, _ mode: UInt32) -> UInt {
        var address = unsafe slot(table, physical, mode).pointee
        while address != 0 {
            let block = BlockView(address: address)
            if block.b.physical == physical, block.b.mode == mode { return address }
            address = block.b.nextInSlot
        }
        return 0
    }

    /// Puts a block in the table, in the place of the one that had its key.
    mutating func enter(_ address: UInt) {
        let block = BlockView(address: address)
        let slot = unsafe Self.slot(tableAddress, block.b.physical, block.b.mode)
        let first = unsafe slot.pointee
        unsafe slot.pointee = address
        block.b.nextInSlot = first
        var before = block
        while before.b.nextInSlot != 0 {
            let other = BlockView(address: before.b.nextInSlot)
            if other.b.physical == block.b.physical, other.b.mode == block.b.mode {
                before.b.nextInSlot = other.b.nextInSlot
                break
            }
            before = other
        }
        blocksBuilt += 1
    }

    /// `size` bytes of arena, 64-byte aligned; nil when it is full.
    mutating func allocate(_ size: Int) -> UInt? {
        let rounded = (size + 63) & ~63
        guard rounded <= arena.size - used else { return nil }
        defer { used += rounded }
        return unsafe UInt(bitPattern: arena.base) + UInt(used)
    }

    /// Forgets everything.
    mutating func clear() {
        used = 0
        flushes += 1
        table.discard(offset: 0, count: table.size)
    }
}

@safe struct BlockView {
    let address: UInt
    @inline(__always) init(address: UInt) { self.address = address }
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
