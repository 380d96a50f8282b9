import X86Architecture

/// A stack that a control transfer pushes to or pops from before it is committed to it: the current one, or
/// that of the privilege it goes to.
struct StackCursor {
    let cpu: CPU
    let segment: SegmentCache
    var pointer: UInt64
    /// Bits of `pointer` that move.
    let mask: UInt64
    /// The TLB context whose rights apply.
    let context: UInt32
    /// Flat 64-bit addressing without limits.
    let is64: Bool
    /// Whether the segment's type matters (not in real and virtual-8086 mode).
    let isTyped: Bool
    /// Error code of #SS when a push does not fit: the selector of a stack that is not yet the current one.
    let errorCode: UInt32

    /// Linear address of `size` bytes at `offset`.
    private func linear(_ offset: UInt64, _ size: UInt8) throws(Fault) -> UInt64 {
        if is64 { return offset }
        let last = offset &+ UInt64(size) &- 1
        if isTyped, segment.attributes & SegmentAttributes.expandDown != 0 {
            let top: UInt64 = segment.attributes & SegmentAttributes.big != 0 ? 0xFFFF_FFFF : 0xFFFF
            guard offset > UInt64(segment.limit), last <= top else { throw .stack(errorCode) }
        } else {
            guard last <= UInt64(segment.limit) else { throw .stack(errorCode) }
        }
        return (segment.base &+ offset) & 0xFFFF_FFFF
    }

    private mutating func move(_ distance: UInt64) {
        pointer = pointer & ~mask | (pointer &+ distance) & mask
    }

    mutating func push(_ value: UInt64, _ size: UInt8) throws(Fault) {
        var next = self
        next.move(0 &- UInt64(size))
        let address = try linear(next.pointer & mask, size)
        let addressing = cpu.s.linearMask
        defer { cpu.s.linearMask = addressing }
        if is64 { cpu.s.linearMask = .max }
        try cpu.store(value & CPU.sizeMask(size), address, size, UInt8(Segment.ss), context: context)
        self = next
    }

    mutating func pop(_ size: UInt8) throws(Fault) -> UInt64 {
        let value = try peek(size, at: 0)
        move(UInt64(size))
        return value
    }

    /// A selector takes a whole slot, and AMD's processors read all of it.
    mutating func popSelector(_ size: UInt8) throws(Fault) -> UInt64 {
        try pop(size) & 0xFFFF
    }

    /// Skips `count` bytes upwards.
    mutating func release(_ count: UInt64) { move(count) }

    func peek(_ size: UInt8, at distance: UInt64) throws(Fault) -> UInt64 {
        let address = try linear((pointer &+ distance) & mask, size)
        return try cpu.load(address, size, UInt8(Segment.ss), context: context)
    }
}

extension CPU {
    /// The stack that SS and RSP name.
    func currentStack() -> StackCursor {
        StackCursor(
            cpu: self, segment: s.segments[Segment.ss], pointer: gpr(Register.rsp), mask: s.stackMask,
            context: s.tlbContext, is64: is64Bit, isTyped: !isRealLike, errorCode: 0)
    }

    /// A stack of an inner privilege: its accesses are implicit supervisor ones (SDM vol. 3 §4.6).
    func innerStack(_ segment: SegmentCache, _ pointer: UInt64, is64: Bool = false) -> StackCursor {
        let isBig = segment.attributes & SegmentAttributes.big != 0
        return StackCursor(
            cpu: self, segment: segment, pointer: pointer,
            mask: is64 ? .max : isBig ? 0xFFFF_FFFF : 0xFFFF, context: supervisorContext, is64: is64,
            isTyped: true, errorCode: UInt32(segment.selector & 0xFFFC))
    }

    /// Loads RSP, ESP or SP, whichever the stack uses.
    func setStackPointer(_ pointer: UInt64, mask: UInt64? = nil) {
        let mask = mask ?? s.stackMask
        let kept = mask == 0xFFFF ? gpr(Register.rsp) & ~mask : 0
        setGPR(Register.rsp, kept | pointer & mask)
    }
}
