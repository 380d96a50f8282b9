import Synchronization
import X86Architecture

/// What addressing and decoding derive from segments, control registers and privilege.
extension CPU {
    /// Bit of `modeKey`: no limit of CS needs a check.
    static let unlimitedCode: UInt32 = 8
    /// Bit of `modeKey`: 32-bit protected mode in which code, stack, DS and ES are the linear space.
    static let flatData: UInt32 = 16
    /// Bit of `modeKey`: 16- or 32-bit code in segments that are not the linear space.
    static let segmented: UInt32 = 32
    /// Bit of `modeKey`: such code with a stack pointer of 32 bits.
    static let wideStack: UInt32 = 64
    /// Not in `modeKey` but in `Block.mode`: segmented code in a page that is not all inside its segment.
    static let segmentEdge: UInt32 = 128

    /// Recomputes everything that hangs on segments, CR0.PE, EFER.LMA, CS.L, CS.D, SS.B and VM. Call after
    /// any change of them; the running block ends then.
    func modeChanged() {
        if !isProtected { s.cpl = 0 } else if isVirtual8086 { s.cpl = 3 }
        let code = s.segments[Segment.cs].attributes
        let before = s.modeKey
        if isLongMode, code & SegmentAttributes.long != 0 {
            enter64BitAddressing()
        } else {
            enterSegmentedAddressing(code)
        }
        if s.modeKey & 3 != before & 3 { s.isNarrow = false }
        updateTLBContext()
        s.endBlock = true
    }

    /// Upper halves of registers do not outlive 64-bit mode for sure (AMD APM vol. 1 §3.1.2). Translated code
    /// of 32 bits wants them to be zero.
    func narrowRegisters() {
        s.isNarrow = true
        for number in 0..<8 as Range<UInt16> {
            setRegister(number * 8, register(UInt64.self, number * 8) & 0xFFFF_FFFF)
        }
    }

    /// 64-bit mode ignores ES, CS, SS and DS, and checks no limits (SDM vol. 3 §3.2.4).
    private func enter64BitAddressing() {
        s.modeKey = s.modeKey & 4 | UInt32(CodeSize.bits64.rawValue) | Self.unlimitedCode
        s.codeSegment = 0
        s.linearMask = .max
        s.stackMask = .max
        s.flatSegments = 0x7F
        s.effectiveBase[Segment.es] = 0
        s.effectiveBase[Segment.cs] = 0
        s.effectiveBase[Segment.ss] = 0
        s.effectiveBase[Segment.ds] = 0
        s.effectiveBase[Segment.fs] = s.segments[Segment.fs].base
        s.effectiveBase[Segment.gs] = s.segments[Segment.gs].base
        s.effectiveBase[6] = 0
        s.effectiveBase[7] = 0
    }

    private func enterSegmentedAddressing(_ code: UInt32) {
        let size: CodeSize = code & SegmentAttributes.big != 0 ? .bits32 : .bits16
        let unlimited = s.segments[Segment.cs].limit == 0xFFFF_FFFF ? Self.unlimitedCode : 0
        s.modeKey = s.modeKey & 4 | UInt32(size.rawValue) | unlimited
        s.linearMask = 0xFFFF_FFFF
        s.stackMask = s.segments[Segment.ss].attributes & SegmentAttributes.big != 0 ? 0xFFFF_FFFF : 0xFFFF
        // Slot 6, "no segment", always is flat.
        s.flatSegments = 1 << 6
        for segment in 0..<6 { deriveSegment(segment) }
        let flat = s.flatSegments
        let plain: UInt32 = 1 << UInt32(Segment.es) | 1 << UInt32(Segment.ss) | 1 << UInt32(Segment.ds)
        if size == .bits32, unlimited != 0, s.segments[Segment.cs].base == 0, flat & plain == plain,
            s.stackMask == 0xFFFF_FFFF, !isRealLike
        {
            s.modeKey |= Self.flatData
            s.codeSegment = 0
        } else {
            s.modeKey |= Self.segmented | (s.stackMask == 0xFFFF ? 0 : Self.wideStack)
            numberCodeSegment()
        }
        s.effectiveBase[6] = 0
        s.effectiveBase[7] = 0
    }

    /// Recomputes what addressing outside 64-bit mode takes from a segment.
    private func deriveSegment(_ segment: Int) {
        let cache = s.segments[segment]
        s.effectiveBase[segment] = cache.base
        if segment != Segment.cs, isFlat(cache) {
            s.flatSegments |= 1 << UInt32(segment)
        } else {
            s.flatSegments &= ~(1 << UInt32(segment))
        }
        (s.readLimits[segment], s.writeLimits[segment]) = limits(cache)
    }

    /// The last offset that may be read, and written, by a look at the limit alone; -1: there is none.
    private func limits(_ cache: SegmentCache) -> (read: Int64, write: Int64) {
        let limit = Int64(cache.limit)
        if isRealLike { return (limit, limit) }
        typealias A = SegmentAttributes
        let attributes = cache.attributes
        guard attributes & (A.present | A.unusable) == A.present else { return (-1, -1) }
        let hasRight = attributes & A.readWrite != 0
        if attributes & A.code != 0 { return (hasRight ? limit : -1, -1) }
        if attributes & A.expandDown != 0 { return (-1, -1) }
        return (limit, hasRight ? limit : -1)
    }

    /// ES, DS, FS or GS was loaded outside 64-bit mode. The running block ends if decoded code depends on it.
    func dataSegmentChanged(_ segment: Int) {
        if s.modeKey & Self.segmented != 0, s.modeKey & 3 == UInt32(CodeSize.bits16.rawValue) {
            return deriveSegment(segment)
        }
        let before = s.modeKey, ended = s.endBlock
        modeChanged()
        if s.modeKey == before { s.endBlock = ended }
    }

    /// Whether no access through the segment can fail a limit or type check.
    private func isFlat(_ cache: SegmentCache) -> Bool {
        // With a base, an access may leave the segment without leaving the linear space.
        guard cache.limit == 0xFFFF_FFFF, cache.base == 0 else { return false }
        if isRealLike { return true }
        typealias A = SegmentAttributes
        let mask = A.present | A.unusable | A.codeOrData | A.code | A.expandDown | A.readWrite
        return cache.attributes & mask == A.present | A.codeOrData | A.readWrite
    }

    /// RFLAGS.IF, once delivery may have become possible: makes the run loop look at interrupts.
    func interruptsMayHaveOpened(was before: Bool) {
        if interruptFlag, !before, s.interruptHeld { requestAttention() }
    }
}
