/// Where indirect branches lead: per translation context a direct-mapped table from linear addresses to
/// translated code, behind the context's TLB.
///
/// Translated code compares the tag and jumps; a miss ends in Swift, which fills the entry. Addresses of
/// segmented code have the number of its segment above them (CodeSegments.swift). 64-bit code never shares
/// a table with other code: `CPU.selectTargets` empties a table when that changes.
enum BranchTargets {
    static let entries = 16384
    static let bytes = entries * MemoryLayout<BranchTarget>.stride
    /// From the window.
    static let offset = Int32(TLB.contextBytes)
    /// Mask of the byte offset of an entry: bits 4...17 of the address choose it.
    static let mask: Int32 = 0x3FFF0

    /// A tag that no address with the entry of `linear` has.
    static func invalidTag(_ linear: UInt64) -> UInt64 { (linear &+ 16) & UInt64(mask) }
}

struct BranchTarget: BitwiseCopyable {
    /// Linear address, below a code segment's number.
    var tag: UInt64
    /// Address of translated code.
    var code: UInt
}

extension CPU {
    private static func target(_ tlb: UInt, _ linear: UInt64) -> UnsafeMutablePointer<BranchTarget> {
        let offset = UInt(TLB.contextBytes) &+ UInt(truncatingIfNeeded: linear) & UInt(BranchTargets.mask)
        // SAFETY: the table lies behind the context's TLB; the offset is masked to its size.
        return unsafe UnsafeMutablePointer<BranchTarget>(bitPattern: tlb &+ offset).unsafelyUnwrapped
    }

    /// Remembers that code for `key` (`targetKey`) in the current context starts at `code`.
    func enterTarget(_ key: UInt64, _ code: UInt) {
        unsafe Self.target(s.tlb, key).pointee = BranchTarget(tag: key, code: code)
        s.targetsUsed[window(s.tlbContext)] |= 1 &<< (key >> 12 & 63)
    }

    /// Empties the table of window `number`, or of it the 64ths that are set in `chunks`.
    func flushTargets(_ number: Int, _ chunks: UInt64 = .max) {
        var used = s.targetsUsed[number] & chunks
        s.targetsUsed[number] &= ~used
        let base = windowBase(number)
        while used != 0 {
            let first = UInt64(used.trailingZeroBitCount) << 12
            used &= used &- 1
            for slot in 0..<256 as Range<UInt64> {
                let linear = first | slot << 4
                unsafe Self.target(base, linear).pointee.tag = BranchTargets.invalidTag(linear)
            }
        }
    }

    /// Forgets the targets in one page, and those at the end of the page in front of it, which may go on
    /// there. Others with the same entries stay: INVLPG is for data most of the time.
    func flushTargets(ofPage linear: UInt64) {
        let page = linear & TLB.pageMask, before = page &- 16
        for number in 0..<StateWindows.count {
            if s.targetsUsed[number] >> (page >> 12 & 63) & 1 != 0 {
                for slot in 0..<256 as Range<UInt64> { forgetTarget(number, page | slot << 4) }
            }
            if s.targetsUsed[number] >> (before >> 12 & 63) & 1 != 0 { forgetTarget(number, before) }
        }
    }

    /// Empties the entry of `linear` in window `number` if it is for an address in that page.
    @inline(__always) private func forgetTarget(_ number: Int, _ linear: UInt64) {
        let target = unsafe Self.target(windowBase(number), linear)
        // Whatever the code segment.
        let page = s.targetsAreNarrow >> UInt32(number) & 1 != 0 ? 0xFFFF_F000 : TLB.pageMask
        if unsafe (target.pointee.tag ^ linear) & page == 0 {
            unsafe target.pointee.tag = BranchTargets.invalidTag(linear)
        }
    }

    /// Window `number` is the current one: its targets must be code of the current mode.
    @inline(__always) func selectTargets(_ number: Int) {
        guard (s.targetsAreNarrow >> UInt32(number) & 1 != 0) == is64Bit else { return }
        flushTargets(number)
        s.targetsAreNarrow ^= 1 << UInt32(number)
    }

    func flushTargets() { for number in 0..<StateWindows.count { flushTargets(number) } }
}
