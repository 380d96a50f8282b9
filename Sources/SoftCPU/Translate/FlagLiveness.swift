/// What of an instruction decides about flags: the whole is too large to be handed on.
struct FlagSubject {
    let row: UInt16
    let condition: UInt8
    /// ModRM names memory.
    let namesMemory: Bool
    /// Where a direct branch leads, from the next instruction.
    let distance: Int64?

    @inline(__always) init(_ i: Instruction) {
        row = i.row
        condition = i.condition
        namesMemory = i.modRMOffset != 0 && i.modRM < 0xC0
        distance = i.operand0.kind == .relative ? Int64(bitPattern: i.immediate) : nil
    }
}

/// The status flags that an instruction reads and replaces, as far as translated code is concerned.
struct FlagUse: Sendable {
    let options: TranslationOptions
    private let shapes = RowShape.all

    init(_ options: TranslationOptions) { self.options = options }

    /// Status flags that a condition reads. Each pair of them: O, C, Z, C Z, S, P, S O, Z S O.
    @inline(__always) private static func flags(ofCondition condition: UInt8) -> UInt16 {
        let pairs = SIMD8<UInt16>(0x800, 0x001, 0x040, 0x041, 0x080, 0x004, 0x880, 0x8C0)
        return pairs[Int(condition >> 1)]
    }

    /// Flags that the instruction reads, or that it passes on for some inputs.
    @inline(__always)
    func needed(_ i: FlagSubject, _ shape: RowShape, _ treatment: Treatment) -> UInt16 {
        if options.contains(.exactFlags), mayFault(i, shape, treatment) { return Translator.status }
        // Whoever leaves the block shows the flags to somebody.
        if treatment == .escape, shape.traits.contains(.showsFlags) { return Translator.status }
        if shape.traits.contains(.readsCondition) { return Self.flags(ofCondition: i.condition) }
        return shape.flagsNeeded
    }

    private func mayFault(_ i: FlagSubject, _ shape: RowShape, _ treatment: Treatment) -> Bool {
        switch treatment {
        case .escape, .divide, .signedDivide, .push, .pop, .leave, .jump, .call, .ret, .loop, .absolute,
            .repeatMove, .repeatStore, .pushFlags, .clearInterrupts, .setInterrupts, .swapGS:
            true
        case .lea, .nothing: false
        default: i.namesMemory || shape.level != 0
        }
    }

    @inline(__always) func shape(_ i: FlagSubject) -> RowShape { shapes[Int(i.row)] }
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
        let shape = use.shape(i)
        needed |= use.needed(i, shape, shape.treatment) & open
        open &= ~shape.flagsReplaced
        left -= 1
        jump = nil
        if open == 0 || left == 0 {
            isDone = true
            return
        }
        guard shape.traits.contains(.mayBranch) else { return }
        jump = shape.treatment == .jump ? i.distance : nil
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
            let treatment = item.treatment
            let isDirect = item.operand(0).kind == .relative
            switch treatment {
            case .conditionalJump, .loop:
                item.liveAtTarget = flags(at: targetOffset(item))
                live |= item.liveAtTarget
            case .jump where isDirect, .call where isDirect:
                live = flags(at: targetOffset(item))
                item.liveAtTarget = live
            case .jump, .call, .ret: live = Self.status
            default: break
            }
            item.liveAfter = live
            live =
                live & ~item.shape.flagsReplaced
                | flagUse.needed(FlagSubject(item.instruction), item.shape, treatment)
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
        if let known = source.block(at: offset, mode: mode) {
            if known.b.code == 0 { ahead.add(known) }
            if let flags = known.b.liveFlags { return flags }
        }
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
