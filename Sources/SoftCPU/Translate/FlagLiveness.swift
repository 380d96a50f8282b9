/// What of an instruction decides about flags: the whole is too large to be handed on.
struct FlagSubject {
    let row: UInt16
    let mnemonic: Mnemonic
    let condition: UInt8
    let hasMemoryOperand: Bool
    /// Where a direct branch leads, from the next instruction.
    let distance: Int64?

    @inline(__always) init(_ i: Instruction) {
        row = i.row
        mnemonic = i.mnemonic
        condition = i.condition
        hasMemoryOperand = i.hasMemoryOperand
        distance = i.operand0.kind == .relative ? Int64(bitPattern: i.immediate) : nil
    }
}

/// The status flags that an instruction reads and replaces, as far as translated code is concerned.
struct FlagUse: Sendable {
    let options: TranslationOptions
    private let shapes = RowShape.all

    init(_ options: TranslationOptions) { self.options = options }

    /// Status flags that each pair of conditions reads: O, C, Z, C Z, S, P, S O, Z S O.
    private static let conditionFlags: [UInt16] = [0x800, 0x001, 0x040, 0x041, 0x080, 0x004, 0x880, 0x8C0]

    /// Flags that the instruction reads, or that it passes on for some inputs.
    func needed(_ i: FlagSubject, _ treatment: Treatment) -> UInt16 {
        switch i.mnemonic {
        case .jcc, .setcc, .cmovcc:
            if options.contains(.exactFlags), i.hasMemoryOperand { return Translator.status }
            return Self.conditionFlags[Int(i.condition >> 1)]
        default: break
        }
        let row = InstructionRow(index: i.row)
        var needed = row.flagsRead
        if row.attributes.contains(.mayKeepFlags) { needed |= row.flagsWritten | row.flagsUndefined }
        // Whoever leaves the block shows the flags to somebody.
        if treatment == .escape, row.endsBlock || !row.attributes.isDisjoint(with: [.string, .branch]) {
            needed = Translator.status
        }
        if options.contains(.exactFlags), mayFault(i, treatment) { needed = Translator.status }
        return needed & Translator.status
    }

    private func mayFault(_ i: FlagSubject, _ treatment: Treatment) -> Bool {
        switch treatment {
        case .escape, .divide, .signedDivide, .push, .pop, .leave, .jump, .call, .ret, .loop,
            .repeatMove, .repeatStore, .pushFlags, .clearInterrupts, .setInterrupts, .swapGS:
            true
        case .lea, .nothing: false
        default: i.hasMemoryOperand || shapes[Int(i.row)].level != 0
        }
    }

    func replaced(_ i: FlagSubject) -> UInt16 {
        let row = InstructionRow(index: i.row)
        if row.attributes.contains(.mayKeepFlags) { return 0 }
        return (row.flagsWritten | row.flagsUndefined) & Translator.status
    }

    /// What the row of `i` says how it is done.
    func treatment(_ i: FlagSubject) -> Treatment { shapes[Int(i.row)].treatment }
}

/// The status flags that code may read, by a look at its first instructions.
struct LiveFlags: BitwiseCopyable {
    /// Those that are read, and those that are neither read nor replaced so far.
    private var needed: UInt16 = 0
    private var open = Translator.status
    private var left: UInt8 = 6
    /// Where it goes on after a jump; nil: at the next instruction.
    private(set) var jump: Int64?
    private(set) var isDone = false

    var flags: UInt16 { needed | open }

    /// The next instruction is `i`.
    mutating func add(_ i: FlagSubject, _ use: FlagUse) {
        let treatment = use.treatment(i)
        needed |= use.needed(i, treatment) & open
        open &= ~use.replaced(i)
        left -= 1
        jump = nil
        if open == 0 || left == 0 {
            isDone = true
            return
        }
        let row = InstructionRow(index: i.row)
        guard row.endsBlock || row.attributes.contains(.branch) else { return }
        jump = treatment == .jump ? i.distance : nil
        isDone = jump == nil
    }
}

/// Places behind a block where a look at the code said that less than all status flags are read: the block's
/// translation holds as long as that code reads no more.
struct FlagLooks: BitwiseCopyable {
    private var offsets = SIMD4<UInt16>()
    private var flags = SIMD4<UInt16>()
    private var count = 0
    /// There were more places than can be remembered.
    private(set) var areTooMany = false

    /// The code at `offset` of the page reads at most `flags`.
    mutating func add(_ offset: Int, _ flags: UInt16) {
        for index in 0..<count where Int(offsets[index]) == offset { return }
        guard count < offsets.scalarCount else {
            areTooMany = true
            return
        }
        offsets[count] = UInt16(offset)
        self.flags[count] = flags
        count += 1
    }

    /// Whether the code at all places reads at most what it did, by the looks of `liveIn`.
    func agree(_ liveIn: (Int) -> UInt16) -> Bool {
        (0..<count).allSatisfy { liveIn(Int(offsets[$0])) & ~flags[$0] == 0 }
    }
}

/// Which status flags are read before they are written again.
extension Translator {
    /// Fills `liveBefore` and `liveAfter`, from the last instruction to the first.
    func analyseFlags() {
        looks = FlagLooks()
        liveOut = Self.status
        if needsLiveOut, let last = block.last { liveOut = flags(at: last.nextOffset) }
        var live = liveOut
        for index in block.indices.reversed() {
            let item = block[index]
            let i = FlagSubject(item.instruction), treatment = item.treatment
            switch treatment {
            case .conditionalJump, .loop:
                item.liveAtTarget = flags(at: targetOffset(item))
                live |= item.liveAtTarget
            case .jump where i.distance != nil, .call where i.distance != nil:
                live = flags(at: targetOffset(item))
                item.liveAtTarget = live
            case .jump, .call, .ret: live = Self.status
            default: break
            }
            item.liveAfter = live
            live = live & ~flagUse.replaced(i) | flagUse.needed(i, treatment)
            item.liveBefore = live
        }
    }

    /// Whether the block may go on behind its last instruction.
    private var needsLiveOut: Bool {
        switch block.last?.treatment {
        case .jump, .call, .ret: false
        default: true
        }
    }

    /// Page offset of a direct branch's target; may lie outside the page.
    func targetOffset(_ item: BlockInstruction) -> Int {
        item.nextOffset + Int(truncatingIfNeeded: Int64(bitPattern: item.instruction.immediate))
    }

    /// `liveIn`, and remembers that the block relies on it.
    private func flags(at offset: Int) -> UInt16 {
        // At an edge the branch may wrap.
        let live = isAtEdge ? Self.status : liveIn(at: offset)
        if live != Self.status { looks.add(offset, live) }
        return live
    }

    /// Whether the translation of the block at `view`, which holds what it was made from, holds too: what
    /// follows it may have changed.
    func passesFlags(_ view: BlockView, _ source: CodeSource) -> Bool {
        self.source = source
        lines = 0
        begin(view)
        return view.b.flagLooks.agree { liveIn(at: $0) }
    }

    /// Flags that the code at `offset` of the page may read, by a look at a few instructions. Whoever changes
    /// them makes all blocks of the page invalid.
    func liveIn(at offset: Int) -> UInt16 {
        guard (0..<4096).contains(offset) else { return Self.status }
        if let known = source.liveFlags(at: offset, mode: mode) { return known }
        var live = LiveFlags(), place = offset
        while !live.isDone, (0..<4096).contains(place), let item = decoded(at: place) {
            live.add(FlagSubject(item.instruction), flagUse)
            place += Int(item.instruction.length) + Int(truncatingIfNeeded: live.jump ?? 0)
        }
        return live.flags
    }

    /// The instruction at a page offset, from the block itself if it is in there.
    private func decoded(at offset: Int) -> BlockInstruction? {
        if let first = block.first, offset >= first.pageOffset, let last = block.last,
            offset <= last.pageOffset
        {
            for index in block.indices where block[index].pageOffset == offset { return block[index] }
        }
        return look(at: offset)
    }
}
