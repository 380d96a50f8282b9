import X86Architecture

/// A code segment that translated code has a number for.
struct CodeSegment: BitwiseCopyable {
    var base: UInt32 = 0
    var limit: UInt32 = 0
    /// `CPUState.modeKey` without the bit for a single step.
    var mode: UInt32 = 0
    /// 0: none yet.
    var number: UInt32 = 0
}

/// Addresses of segmented code as translated code compares them: the table of branch targets and the return
/// stack hold linear addresses below the number of the code segment. One number means one base, one limit,
/// one size of code and of the stack pointer, so that an address with it needs no further check.
extension CPU {
    /// Finds the current code segment's number, or gives it one. No number is given twice: what was
    /// remembered with a forgotten one is never found.
    func numberCodeSegment() {
        let base = UInt32(truncatingIfNeeded: s.segments[Segment.cs].base)
        let limit = s.segments[Segment.cs].limit, mode = s.modeKey & ~4
        let slot = Int(((base >> 4) ^ (base >> 10) ^ (base >> 16) ^ mode) & 63)
        let known = s.codeSegments[slot]
        if known.number != 0, known.base == base, known.limit == limit, known.mode == mode {
            s.codeSegment = UInt64(known.number) << 32
            return
        }
        if s.lastCodeSegment == .max {
            // All over again, with nothing that remembers the numbers.
            flushTargets()
            s.staleReturns |= 3
            s.codeSegments = .init(repeating: CodeSegment())
            s.lastCodeSegment = 0
        }
        s.lastCodeSegment += 1
        s.codeSegments[slot] = CodeSegment(base: base, limit: limit, mode: mode, number: s.lastCodeSegment)
        s.codeSegment = UInt64(s.lastCodeSegment) << 32
    }

    /// What the table of branch targets and the return stack know the next instruction by.
    @inline(__always) var targetKey: UInt64 { targetKey(of: s.rip) }

    /// The same for the instruction at `offset` in CS.
    @inline(__always) func targetKey(of offset: UInt64) -> UInt64 {
        is64Bit ? offset : s.codeSegment | (s.effectiveBase[Segment.cs] &+ offset) & 0xFFFF_FFFF
    }

    /// The offset in CS of a key of the current code segment, or of a linear address.
    @inline(__always) func offset(ofKey key: UInt64) -> UInt64 {
        (key &- s.effectiveBase[Segment.cs]) & s.linearMask
    }

    /// `segmentEdge` if the page at `linear` is not all inside the segment of segmented code, as far as near
    /// branches reach: there, a branch may wrap or fault although its target is in the page.
    @inline(__always) func edgeBit(_ linear: UInt64) -> UInt32 {
        let cs = s.segments[Segment.cs]
        let first = (linear & TLB.pageMask &- cs.base) & 0xFFFF_FFFF
        let last = s.modeKey & 3 == UInt32(CodeSize.bits16.rawValue) ? min(cs.limit, 0xFFFF) : cs.limit
        return first &+ 0xFFF > UInt64(last) ? Self.segmentEdge : 0
    }
}
