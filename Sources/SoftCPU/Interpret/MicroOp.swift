/// One instruction lowered for the interpreter: its body and operands, ready to use. 64 bytes, in a block's
/// array in the vCPU's arena.
struct MicroOp: BitwiseCopyable {
    /// The body, a `Handler`.
    var handler: Handler
    /// Sign-extended immediate, or a relative branch's distance from the block's first byte to its target.
    var immediate: UInt64 = 0
    /// Of the memory operand. For RIP-relative ones it counts from the block's first instruction.
    var displacement: Int64 = 0
    /// Address of the block that a direct branch leads to, once known; 0 before.
    var link: UInt = 0
    /// Address of the decoded `Instruction`, for bodies that take it; 0 in ops with a body of their own.
    var instruction: UInt = 0
    /// Address-size mask of the effective address.
    var addressMask: UInt64 = .max
    /// Where the instruction starts, in bytes from the block's first.
    var offset: UInt16 = 0
    /// Byte offsets of registers in `CPUState`.
    var destination: UInt16 = 0
    var source: UInt16 = 0
    var base: UInt16 = UInt16(Register.zero * 8)
    var index: UInt16 = UInt16(Register.zero * 8)
    var scale: UInt8 = 0
    var segment: UInt8 = 3
    var length: UInt8 = 0
    /// Condition code of Jcc, SETcc and CMOVcc.
    var condition: UInt8 = 0
}

/// An instruction's body: given the addresses of the `CPUState` and the `MicroOp`, it says how to go on.
/// C convention, because such a pointer can be stored in a `MicroOp` and called without a context.
typealias Handler = @convention(c) (UInt, UInt) -> UInt32

/// What a body returns.
enum Step {
    /// On to the next op of the block.
    static let next: UInt32 = 0
    /// The block is over and RIP is set.
    static let ended: UInt32 = 1
    /// `pendingFault` was raised by the instruction.
    static let fault: UInt32 = 2
}

/// The face of a `MicroOp` for bodies.
@safe struct Op {
    let address: UInt
    @inline(__always) init(address: UInt) { self.address = address }
    var o: MicroOp {
        @inline(__always) unsafeAddress {
            // SAFETY: the run loop passes addresses of ops in the arena, which lives as long as the vCPU.
            unsafe UnsafePointer<MicroOp>(bitPattern: address).unsafelyUnwrapped
        }
    }
    /// The decoded instruction of an op whose body takes it.
    var instruction: Instruction {
        @inline(__always) unsafeAddress {
            // SAFETY: the builder stores the address of an Instruction in the arena for every such op.
            unsafe UnsafePointer<Instruction>(bitPattern: o.instruction).unsafelyUnwrapped
        }
    }
}

/// Runs a body that only touches registers and reads memory.
@inline(__always)
func step(_ cpu: UInt, _ op: UInt, _ body: (CPU, Op) throws(Fault) -> Void) -> UInt32 {
    let cpu = CPU(address: cpu)
    do throws(Fault) {
        try body(cpu, Op(address: op))
        return Step.next
    } catch {
        cpu.s.pendingFault = error.raw
        return Step.fault
    }
}

/// Runs a body that stores to memory: if that hit decoded code, the block ends after it.
@inline(__always)
func stepStoring(_ cpu: UInt, _ op: UInt, _ body: (CPU, Op) throws(Fault) -> Void) -> UInt32 {
    let result = step(cpu, op, body)
    let cpu = CPU(address: cpu)
    if cpu.s.codeModified, result == Step.next {
        cpu.endBlock(after: Op(address: op))
        return Step.ended
    }
    return result
}

/// Runs a body that sets RIP itself (branches).
@inline(__always)
func stepBranch(_ cpu: UInt, _ op: UInt, _ body: (CPU, Op) throws(Fault) -> Void) -> UInt32 {
    let result = step(cpu, op, body)
    return result == Step.next ? Step.ended : result
}

/// Runs a body that takes the whole decoded instruction and may do anything: change modes, mappings or code
/// (it sets `endBlock`), or set RIP (it must then set `endBlock` and write `rip`, which holds the next
/// instruction's address when the body starts).
@inline(__always)
func stepAny(_ cpu: UInt, _ op: UInt, _ body: (CPU, Instruction) throws(Fault) -> Void) -> UInt32 {
    let cpu = CPU(address: cpu), op = Op(address: op)
    cpu.s.rip = cpu.nextRIP(op)
    do throws(Fault) {
        try body(cpu, op.instruction)
    } catch {
        cpu.s.pendingFault = error.raw
        return Step.fault
    }
    if cpu.s.endBlock || cpu.s.codeModified {
        cpu.s.linkSlot = 0
        cpu.s.nextBlock = 0
        return Step.ended
    }
    return Step.next
}

extension CPU {
    /// Offset in CS of the running instruction.
    @inline(__always) func currentRIP(_ op: Op) -> UInt64 {
        register(UInt64.self, UInt16(Register.blockRIP * 8)) &+ UInt64(op.o.offset)
    }
    /// Offset in CS of the instruction after it. Code of 16 and 32 bits wraps at 32 bits.
    @inline(__always) func nextRIP(_ op: Op) -> UInt64 {
        let next = currentRIP(op) &+ UInt64(op.o.length)
        return is64Bit ? next : next & 0xFFFF_FFFF
    }

    @inline(__always) func endBlock(after op: Op) {
        s.rip = nextRIP(op)
        s.linkSlot = 0
        s.nextBlock = 0
    }

    /// The memory operand's offset in its segment.
    @inline(__always) func effectiveOffset(_ op: Op) -> UInt64 {
        let base = register(UInt64.self, op.o.base)
        let index = register(UInt64.self, op.o.index) &<< UInt64(op.o.scale)
        return (base &+ index &+ UInt64(bitPattern: op.o.displacement)) & op.o.addressMask
    }

    /// The memory operand's linear address, checked against its segment for `size` bytes.
    @inline(__always) func address(_ op: Op, _ size: Int, write: Bool = false) throws(Fault) -> UInt64 {
        try linear(op.o.segment, effectiveOffset(op), size, write: write)
    }

    /// Adds the segment's base to `offset`, after limit and type checks where the segment needs them.
    @inline(__always)
    func linear(_ segment: UInt8, _ offset: UInt64, _ size: Int, write: Bool = false) throws(Fault) -> UInt64
    {
        if s.flatSegments & (1 &<< UInt32(segment)) == 0 {
            try checkSegment(segment, offset, size, write: write)
        }
        // SAFETY: segment numbers are 0..6.
        return unsafe (s.effectiveBase[unchecked: Int(segment)] &+ offset) & s.linearMask
    }

    /// Limit and type checks of a data access outside 64-bit mode (SDM vol. 3 §5.3 to §5.5).
    @inline(never)
    func checkSegment(_ segment: UInt8, _ offset: UInt64, _ size: Int, write: Bool) throws(Fault) {
        let cache = s.segments[Int(segment)]
        let fault: Fault = segment == UInt8(Segment.ss) ? .stack() : .protection()
        let attributes = cache.attributes
        let last = offset &+ UInt64(size &- 1)
        if !isRealLike {
            guard
                attributes & (SegmentAttributes.unusable | SegmentAttributes.present)
                    == SegmentAttributes.present
            else { throw fault }
            if attributes & SegmentAttributes.code != 0 {
                guard !write, attributes & SegmentAttributes.readWrite != 0 else { throw fault }
            } else {
                guard !write || attributes & SegmentAttributes.readWrite != 0 else { throw fault }
                if attributes & SegmentAttributes.expandDown != 0 {
                    let top: UInt64 = attributes & SegmentAttributes.big != 0 ? 0xFFFF_FFFF : 0xFFFF
                    guard offset > UInt64(cache.limit), last <= top else { throw fault }
                    return
                }
            }
        }
        guard last <= UInt64(cache.limit) else { throw fault }
    }
}

/// Bits of `SegmentState.attributes`.
enum SegmentAttributes {
    static let accessed: UInt32 = 1 << 0
    /// Data: writable. Code: readable.
    static let readWrite: UInt32 = 1 << 1
    static let expandDown: UInt32 = 1 << 2
    static let conforming: UInt32 = 1 << 2
    static let code: UInt32 = 1 << 3
    /// S: code or data, not a system descriptor.
    static let codeOrData: UInt32 = 1 << 4
    static let present: UInt32 = 1 << 7
    static let long: UInt32 = 1 << 13
    /// D/B
    static let big: UInt32 = 1 << 14
    static let granularity: UInt32 = 1 << 15
    static let unusable: UInt32 = 1 << 16
    static func privilege(_ attributes: UInt32) -> UInt8 { UInt8(truncatingIfNeeded: (attributes >> 5) & 3) }
}
