/// One instruction of a block being translated: a view of its place in the translator's list, since the
/// instruction is large and everything asks for it.
@safe struct BlockInstruction {
    fileprivate struct Fields: BitwiseCopyable {
        var instruction: Instruction
        var shape: RowShape
        var op: UInt
        var pageOffset: Int
        /// Position of the operand in memory, 4 if there is none.
        var memoryPosition: UInt8 = 4
        /// General registers that it changes, as far as memory groups ask; one bit each.
        var written: UInt16 = 0
        var part = GroupPart()
        var liveBefore: UInt16 = 0
        var liveAfter: UInt16 = 0
        var liveAtTarget: UInt16 = 0
    }
    fileprivate let fields: UnsafeMutablePointer<Fields>

    // SAFETY: all of them are inside the list, which lives as long as its translator.

    var instruction: Instruction { @inline(__always) get { unsafe fields.pointee.instruction } }
    // What is asked of the instruction as a whole: it is too large to be handed on.
    var hasMemoryOperand: Bool {
        @inline(__always) get { unsafe fields.pointee.memoryPosition < 4 }
    }
    @inline(__always) func operand(_ position: Int) -> Operand {
        unsafe fields.pointee.instruction.operand(position)
    }
    /// - Precondition: it has a memory operand.
    var memoryOperand: Operand {
        @inline(__always) get { operand(Int(unsafe fields.pointee.memoryPosition)) }
    }
    /// Whether it changes general register `number`.
    @inline(__always) func writes(_ number: UInt8) -> Bool {
        unsafe fields.pointee.written >> UInt16(number) & 1 != 0
    }
    /// What it is to a memory group.
    var part: GroupPart {
        @inline(__always) get { unsafe fields.pointee.part }
        nonmutating set { unsafe fields.pointee.part = newValue }
    }
    var traits: RowTraits { @inline(__always) get { unsafe fields.pointee.shape.traits } }
    var shape: RowShape { @inline(__always) get { unsafe fields.pointee.shape } }
    var treatment: Treatment {
        @inline(__always) get { unsafe fields.pointee.shape.treatment }
        nonmutating set { unsafe fields.pointee.shape.treatment = newValue }
    }
    /// Address of the interpreter's `MicroOp`.
    var op: UInt { unsafe fields.pointee.op }
    /// Where it starts in its page.
    var pageOffset: Int { @inline(__always) get { unsafe fields.pointee.pageOffset } }
    var nextOffset: Int {
        @inline(__always) get { unsafe fields.pointee.pageOffset + Int(fields.pointee.instruction.length) }
    }
    /// Status flags that somebody reads before they are written again, before and after the instruction.
    var liveBefore: UInt16 {
        @inline(__always) get { unsafe fields.pointee.liveBefore }
        nonmutating set { unsafe fields.pointee.liveBefore = newValue }
    }
    var liveAfter: UInt16 {
        @inline(__always) get { unsafe fields.pointee.liveAfter }
        nonmutating set { unsafe fields.pointee.liveAfter = newValue }
    }
    /// The same where a direct branch leads.
    var liveAtTarget: UInt16 {
        @inline(__always) get { unsafe fields.pointee.liveAtTarget }
        nonmutating set { unsafe fields.pointee.liveAtTarget = newValue }
    }
}

/// The instructions of the block being translated.
@safe struct BlockInstructions: ~Copyable {
    private var places: UnsafeMutablePointer<BlockInstruction.Fields>
    private var capacity = 64
    private(set) var count = 0

    init() { unsafe places = .allocate(capacity: 64) }
    deinit { unsafe places.deallocate() }

    var isEmpty: Bool { count == 0 }
    var indices: Range<Int> { 0..<count }
    var last: BlockInstruction? { count == 0 ? nil : self[count - 1] }
    var first: BlockInstruction? { count == 0 ? nil : self[0] }

    subscript(index: Int) -> BlockInstruction {
        @inline(__always) get {
            precondition(index >= 0 && index < count, "an instruction beyond the block")
            return unsafe BlockInstruction(fields: places + index)
        }
    }

    mutating func removeAll() { count = 0 }

    /// An instruction that `decode` puts in the place behind the last one: it stays until the next look, or
    /// is kept by `append`. Nil when it throws.
    func look<Failure: Error>(
        _ decode: (inout Instruction) throws(Failure) -> Void
    ) -> BlockInstruction? {
        // SAFETY: there is always one place more than instructions.
        do throws(Failure) {
            try unsafe decode(&(places + count).pointee.instruction)
        } catch {
            return nil
        }
        return unsafe BlockInstruction(fields: places + count)
    }

    /// Adds what the last look found.
    mutating func append(_ shape: RowShape, op: UInt, pageOffset: Int) {
        // SAFETY: as above. The fields about flags are set before they are read.
        let place = unsafe places + count
        unsafe place.pointee.shape = shape
        unsafe place.pointee.op = op
        unsafe place.pointee.pageOffset = pageOffset
        unsafe place.pointee.liveAtTarget = 0
        unsafe summarize(&place.pointee)
        count += 1
        if count == capacity { grow() }
    }

    /// What is asked again and again of an instruction's operands.
    private func summarize(_ fields: inout BlockInstruction.Fields) {
        fields.memoryPosition = 4
        fields.written = fields.shape.impliedRegisters
        for position in 0..<Int(fields.instruction.operandCount) {
            let operand = fields.instruction.operand(position)
            if operand.isMemory {
                fields.memoryPosition = UInt8(truncatingIfNeeded: position)
            } else if operand.isWritten, operand.kind == .gpr || operand.kind == .highByte {
                fields.written |= 1 << UInt16(operand.register & 15)
            }
        }
    }

    private mutating func grow() {
        let larger = unsafe UnsafeMutablePointer<BlockInstruction.Fields>.allocate(capacity: capacity * 2)
        unsafe larger.initialize(from: places, count: count)
        unsafe places.deallocate()
        unsafe places = larger
        capacity *= 2
    }
}
