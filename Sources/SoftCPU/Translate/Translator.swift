import X86Architecture

/// Where the code of a block is in the host's memory.
struct CodeSource {
    /// The page that it starts in.
    var page: UInt = 0
    /// The page that its only instruction goes on in, 0 if it ends in its own.
    var secondPage: UInt = 0
    /// The decoded blocks of the page: the vCPU's table, and what they must agree with.
    var table: UInt = 0
    var physicalPage: UInt64 = 0
    var generation: UInt32 = 0

    /// The block that starts at `offset` of the page, if one was decoded from what the page holds now.
    func block(at offset: Int, mode: UInt32) -> BlockView? {
        guard table != 0 else { return nil }
        let found = BlockCache.find(table, physicalPage | UInt64(offset), mode)
        guard found != 0 else { return nil }
        let block = BlockView(address: found)
        return block.b.generation == generation ? block : nil
    }
}

/// How blocks are translated.
public struct TranslationOptions: OptionSet, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Count what every block does (BlockCounts.swift).
    public static let counts = TranslationOptions(rawValue: 1)
    /// Status flags are right at every instruction that may fault, also those that nobody reads any more.
    public static let exactFlags = TranslationOptions(rawValue: 2)
}

/// Where the guest's status flags are while a block is emitted.
enum FlagsPlace { case host, saved, dead }

/// Turns one block of guest code into host code, in one pass and without an intermediate form: most
/// instructions are copied with their registers renamed and their memory operands replaced.
///
/// At a block's entry the guest's flags are in AX (`Assembler.saveFlags`) if the block reads any, and nowhere
/// if not. Inside they are in the host's flags, or in AX when something of ours needs those.
///
/// A class, since a struct of this size is copied for each call of a function that does not change it.
///
/// Confinement: the vCPU's thread.
final class Translator {
    static let status: UInt16 = 0x8D5
    /// Upper bound of what one block takes.
    static let mostBlockBytes = 64 << 10
    let layout = StateLayout.shared
    let shapes = RowShape.all
    let gates: GateCode
    let decoder: Decoder
    let options: TranslationOptions
    let flagUse: FlagUse
    var code: Assembler
    var flags = FlagsPlace.dead
    var block = BlockInstructions()
    /// Status flags that are live behind a block that no branch ends.
    var liveOut: UInt16 = 0
    /// Blocks that it may lead to.
    var ahead = BlocksAhead()
    /// What the block relies on behind it.
    var looks = FlagLooks()
    /// Lines of the page that were looked at.
    var lines: UInt64 = 0
    var source = CodeSource()
    /// The number of the page's place, and its linear address if the code is for that address only.
    var place: UInt32 = 0
    var linear: UInt64?
    /// Executable address of the block's entry.
    var entrance: UInt = 0
    /// `Block.mode` of the block.
    var mode: UInt32 = 0
    /// The block is 16- or 32-bit code, else 64-bit code.
    var is32 = false
    /// Such code in segments that are not the linear space (TranslateSegments.swift), always for anywhere.
    var isSegmented = false
    /// Its size of code, and what its stack pointer has.
    var codeSize = CodeSize.bits64
    var hasWideStack = false
    /// Segmented code in a page that is not all in its segment.
    var isAtEdge = false
    /// Bytes of a stack slot: what the instruction pushes or pops.
    var slot: Int32 = 8
    /// Size of addresses that needs no prefix, in flat code.
    var nativeAddress: UInt8 { is32 ? 4 : 8 }
    /// Branches to other pages may be linked: supervisor code that user code cannot execute.
    var linksPages = false
    var stubs: [Stub] = []
    /// Vector state that is in the registers for sure: 0 none, 1 SSE, 2 AVX; and x87.
    var level: UInt8 = 0
    var hasX87 = false
    /// The group of memory operands whose probe was emitted last.
    var group: MemoryGroup?
    var isUngrouped = false
    /// Of the last block: what counts, and the straight way without it (BlockCounts.swift).
    var countingBytes = 0
    var lineBytes = 0
    /// Of the code that counts probes: the number's place, and how many there were since.
    var probeSite: Assembler.Site = 0
    var probeCount = 0

    /// Code out of the way, emitted after the block.
    struct Stub {
        enum Kind {
            /// Fill the TLB, then go back.
            case fill(Miss)
            /// Have vector state loaded, then go back.
            case ensure(level: UInt8, back: UInt)
            /// Let the interpreter do the instruction.
            case interpret
            /// The same, for an indirect branch.
            case branch
            /// The address in R10 that a RET found is not that of the last call.
            case returnMiss
            /// Look for the target in R10 in Swift.
            case target
            /// A branch to another page.
            case far(site: UInt)
            /// A conditional branch of segmented code that is not linked, in instruction `index`.
            case segmentedEdge(index: Int)
            /// A branch to `pageOffset` that is taken for the first time.
            case link(site: UInt)
            /// The same, with flags saved on the way; `poll`: ask for attention too.
            case edge(saves: Bool, poll: Bool)
            case goOn
        }
        var kind: Kind
        /// The branch that leads here.
        var from: Assembler.Site
        var pageOffset: Int
    }

    init(gates: GateCode, decoder: Decoder, code: Assembler, options: TranslationOptions) {
        self.gates = gates
        self.decoder = decoder
        self.code = code
        self.options = options
        flagUse = FlagUse(options)
    }

    // MARK: A whole block

    /// Bytes in front of the entry of code for anywhere: an indirect branch comes with its target in R10.
    static let pageStoreBytes: UInt = 11

    /// Translates the block at `view` for place number `place`; returns its entry, or nil when its first
    /// instruction is undefined.
    func translate(_ view: BlockView, _ source: CodeSource, place: UInt32, linear: UInt64) -> UInt? {
        self.source = source
        self.place = place
        self.linear = linear == CodePlace.anywhere ? nil : linear
        lines = 0
        isUngrouped = view.b.isUngrouped
        stubs.removeAll(keepingCapacity: true)
        decodeBlock(view)
        guard !block.isEmpty else { return nil }
        analyseFlags()
        let start = Int(view.b.physical & 0xFFF)
        code.align16()
        if self.linear == nil {
            let first = code.here
            code.arithmetic(4, .register(HostRegister.address), -4096)
            code.store(HostRegister.address, .state(layout.codePage))
            precondition(code.here - first == Self.pageStoreBytes, "indirect branches enter elsewhere")
        }
        let entry = code.here
        entrance = entry
        beginCounts()
        level = 0
        hasX87 = false
        group = nil
        flags = block[0].liveBefore != 0 ? .saved : .dead
        for index in block.indices {
            emit(index)
            goOnCounting(index)
        }
        if !endsWithBranch { emitDirect(to: block.last?.nextOffset ?? start, live: liveOut) }
        finishCounts(entry: entry)
        emitStubs()
        return entry
    }

    /// The instruction at `offset` of the page, until the next look; nil when it is undefined or does not end
    /// in the page.
    func look(at offset: Int) -> BlockInstruction? {
        lines |= CodeLines.lines(offset, InstructionBytes.longest)
        guard offset > 4096 - 16 else {
            return look(
                InstructionBytes(
                    low: CPU.loadHost(source.page &+ UInt(offset), 8),
                    high: CPU.loadHost(source.page &+ UInt(offset + 8), 8), count: 15))
        }
        return look(InstructionBytes(bytes(source.page, offset..<4096)))
    }

    /// The one that starts at `offset` of the page and ends in the second one.
    private func look(crossing offset: Int) -> BlockInstruction? {
        var all = bytes(source.page, offset..<4096)
        all.append(contentsOf: bytes(source.secondPage, 0..<max(15 - all.count, 0)))
        return look(InstructionBytes(all))
    }

    private func look(_ bytes: InstructionBytes) -> BlockInstruction? {
        block.look { place throws(DecodeFailure) in
            try decoder.decode(bytes, mode: CodeMode(defaultSize: codeSize), into: &place)
        }
    }

    private func bytes(_ page: UInt, _ range: Range<Int>) -> [UInt8] {
        range.map { UInt8(CPU.loadHost(page &+ UInt($0), 1)) }
    }

    /// Forgets the instructions of another block.
    func begin(_ view: BlockView) {
        block.removeAll()
        mode = view.b.mode
        codeSize = CodeSize(rawValue: UInt8(mode & 3)) ?? .bits64
        is32 = codeSize != .bits64
        isSegmented = mode & CPU.segmented != 0
        hasWideStack = mode & CPU.wideStack != 0
        isAtEdge = mode & CPU.segmentEdge != 0
        slot = is32 ? 4 : 8
    }

    /// Ends early where the page does not hold any more what the interpreter's block was made from.
    func decodeBlock(_ view: BlockView) {
        begin(view)
        let start = Int(view.b.physical & 0xFFF)
        // The ops say how long the instructions were, but take a line of the host's cache each.
        let isSame = source.secondPage == 0 && holdsCopy(of: view)
        var offset = start
        for position in 0..<Int(view.b.instructionCount) {
            let address = view.b.ops + UInt(position * MemoryLayout<MicroOp>.stride)
            let found = source.secondPage == 0 ? look(at: offset) : look(crossing: offset)
            guard let found else { break }
            let length = found.instruction.length
            // The first one may be a debugger's stop, which no instruction is as short as.
            let isKnown = isSame && position > 0
            guard isKnown || length == Op(address: address).o.length else { break }
            block.append(shapes[Int(found.instruction.row)], op: address, pageOffset: offset)
            offset += Int(length)
            adjustTreatment(position)
            if !isSegmented { block[position].part = isUngrouped ? GroupPart() : groupPart(block[position]) }
            // With DF set nothing is translated: CLD and the string instructions rely on it.
            if block[position].instruction.mnemonic == .std { break }
        }
    }

    /// Whether the page holds what the block was made from, as far as there is a copy to compare with.
    private func holdsCopy(of view: BlockView) -> Bool {
        guard view.b.hasCopy else { return false }
        let code = source.page &+ (UInt(view.b.physical) & 0xFFF), length = UInt(view.b.byteLength)
        // Behind the bytes of the copy there are others up to a multiple of sixteen.
        guard UInt(view.b.physical) & 0xFFF + length <= 4096 - 8 else { return false }
        var differs: UInt64 = 0, place: UInt = 0
        while place < length {
            let mask = length - place >= 8 ? .max : (1 as UInt64) << ((length - place) * 8) - 1
            differs |= (CPU.loadHost(code &+ place, 8) ^ CPU.loadHost(view.copy &+ place, 8)) & mask
            place += 8
        }
        return differs == 0
    }

    /// Forms of an instruction that its row does not tell apart.
    private func adjustTreatment(_ index: Int) {
        let item = block[index], i = item.instruction
        var treatment = item.treatment
        if is32, !fits32(item) { treatment = .escape }
        switch treatment {
        case .copy:
            if item.traits.contains(.bitString), item.hasMemoryOperand { treatment = .escape }
            if item.traits.contains(.vector),
                !HostFeatures.shared.contains(i.feature, isVEX: i.prefixes.contains(.vex))
            {
                treatment = .escape
            }
            if i.mnemonic == .xchg || i.mnemonic == .xadd, usesHighByte(item) { treatment = .escape }
        case .push:
            switch i.operand0.kind {
            case .gpr, .immediate, .memory: break
            // A wider slot keeps what it had above the selector.
            case .segment where isSegmented && i.operandSize == 2: break
            default: treatment = .escape
            }
            if !isSegmented, i.operandSize == 2 { treatment = .escape }
        case .pop:
            let isRegister = i.operand0.kind == .gpr && !(isSegmented && i.operand0.register == 4)
            if !isRegister || !isSegmented && i.operandSize == 2 { treatment = .escape }
        case .leave, .ret, .jump, .call, .conditionalJump, .loop:
            if isSegmented ? i.operandSize != branchSize : i.operandSize == 2 { treatment = .escape }
        case .accumulator, .divide, .signedDivide, .byteSwap, .exchangeShort:
            if usesHighByte(item) || i.mnemonic == .bswap && i.operandSize == 2 { treatment = .escape }
            if treatment == .divide || treatment == .signedDivide, i.operand0.size == 1 {
                treatment = .escape
            }
        case .pushFlags: if i.operandSize != branchSize { treatment = .escape }
        case .repeatMove, .repeatStore:
            if i.prefixes.isDisjoint(with: [.rep, .repne]) || i.addressSize != 8
                || i.segment >= SegmentNumber.fs
            {
                treatment = .escape
            }
        default: break
        }
        item.treatment = treatment
    }

    /// Operand size of the branches and stack frames that are not left to the interpreter.
    private var branchSize: UInt8 { UInt8(2) << codeSize.rawValue }

    /// Whether 16- and 32-bit code can be done like 64-bit code: no encoding that 64-bit mode lacks (82 is an
    /// alias of 80; SDM vol. 2 §B.1.4), and none that real mode lacks and flat code does not.
    private func fits32(_ item: BlockInstruction) -> Bool {
        let i = item.instruction
        if isSegmented, i.prefixes.contains(.vex) { return false }
        return i.opcodeMap != 0 || i.opcode != 0x82
    }

    private func usesHighByte(_ item: BlockInstruction) -> Bool {
        item.operand(0).kind == .highByte || item.operand(1).kind == .highByte
    }

    /// The block ends with an instruction after which nothing is emitted.
    private var endsWithBranch: Bool {
        guard let last = block.last else { return false }
        switch last.treatment {
        case .jump, .call, .ret: return true
        case .escape: return endsHere(last)
        default: return false
        }
    }

    private func endsHere(_ item: BlockInstruction) -> Bool {
        item.instruction.mnemonic == .std || item.traits.contains(.endsBlock)
    }

    // MARK: One instruction

    private func emit(_ index: Int) {
        let item = block[index]
        if isSegmented { slot = Int32(item.instruction.operandSize) }
        if item.treatment == .copy, item.shape.level != 0 { ensureVectors(item) }
        if !isSegmented { updateGroup(index) }
        switch item.treatment {
        case .escape: emitEscape(item)
        case .copy: emitCopy(item)
        case .push: emitPush(item)
        case .pop: emitPop(item)
        case .leave: emitLeave(item)
        case .jump: emitJump(item)
        case .conditionalJump: emitConditionalJump(index)
        case .loop: emitLoop(index)
        case .absolute: emitAbsolute(item)
        case .call: emitCall(item)
        case .ret: emitReturn(item)
        case .lea: emitLea(item)
        case .moveImmediate: emitMoveImmediate(item)
        case .exchangeShort: emitExchangeShort(item)
        case .byteSwap: emitByteSwap(item)
        case .shortIncrement: emitShortIncrement(item)
        case .accumulator: emitAccumulator(item)
        case .divide, .signedDivide: emitDivide(item)
        case .convert: emitConvert(item)
        case .loadFlags: emitLoadFlags(item)
        case .storeFlags: emitStoreFlags(item)
        case .fence: code.bytes(0x0F, 0xAE, 0xF0)
        case .clearInterrupts: emitClearInterrupts(item)
        case .setInterrupts: emitSetInterrupts(item)
        case .pushFlags: emitPushFlags(item)
        case .swapGS: emitSwapGS(item)
        case .repeatMove, .repeatStore: emitRepeat(item)
        case .nothing: break
        }
        if flags == .host || flags == .saved, item.liveAfter == 0 { flags = .dead }
    }

    /// Calls the interpreter's body.
    func emitEscape(_ item: BlockInstruction) {
        saveFlagsIfLive(item.liveBefore)
        code.constant(HostRegister.address, UInt64(item.op))
        code.constant(
            HostRegister.index, UInt64(UInt32(bitPattern: CodePlace.word(place, block[0].pageOffset))))
        code.call(gates.escape)
        level = 0
        hasX87 = false
        flags = .saved
        if endsHere(item) {
            // A body that was expected to leave came back.
            code.call(gates.exitGoOn)
            emitPlace(item.nextOffset)
        }
    }

    private func ensureVectors(_ item: BlockInstruction) {
        let wanted = item.shape.level
        guard wanted == 3 ? !hasX87 : wanted > level else { return }
        saveFlagsIfLive(item.liveBefore)
        if wanted == 3 {
            code.arithmetic(7, .state(layout.x87Level), 1, wide: false)
            hasX87 = true
            level = max(level, 1)
        } else {
            code.arithmetic(7, .state(layout.vectorLevel), Int32(wanted), wide: false)
            level = wanted
        }
        let from = code.pendingJumpIf(2)
        stubs.append(
            Stub(kind: .ensure(level: wanted, back: code.here), from: from, pageOffset: item.pageOffset))
    }

    // MARK: Flags

    /// Before host instructions that destroy the host's flags: keeps the guest's when they are needed.
    func saveFlagsIfLive(_ live: UInt16) {
        if flags == .host {
            if live != 0 {
                code.saveFlags()
                flags = .saved
            } else {
                flags = .dead
            }
        }
    }

    /// Before a guest instruction that reads flags, or writes some and leaves others.
    func restoreFlags() {
        if flags == .saved {
            code.restoreFlags()
            flags = .host
        }
    }

    /// Has the flags where the instruction needs them; after it they are the host's if it writes any.
    func placeFlags(_ item: BlockInstruction, needsRAX: Bool = false) {
        if item.shape.flagsTouched == 0 {
            if needsRAX, item.liveAfter != 0 { restoreFlags() }
            return
        }
        // Needed: what it reads, and what it leaves alone and somebody reads later.
        if item.liveBefore != 0 { restoreFlags() }
        flags = .host
    }

    // MARK: Stubs

    /// The word behind an exit: where it is in the guest's code.
    func emitPlace(_ pageOffset: Int) { code.word32(CodePlace.word(place, pageOffset)) }

    /// A word behind an exit: where the branch is that may lead on directly, from here.
    func emitSite(_ site: Assembler.Site) {
        code.word32(Int32(truncatingIfNeeded: Int(bitPattern: site &- code.here)))
    }

    private func emitStubs() {
        // Edges add stubs of their own.
        var position = 0
        while position < stubs.count {
            let stub = stubs[position]
            position += 1
            code.resolve(stub.from, to: code.here)
            switch stub.kind {
            case .fill(let miss): emitFillStub(miss, stub)
            case .ensure(let level, let back):
                code.bytes(0x6A, level)
                code.call(gates.ensure)
                code.jump(back)
                emitPlace(stub.pageOffset)
            case .interpret:
                code.call(gates.exitInterpret)
                emitPlace(stub.pageOffset)
            case .branch:
                code.call(gates.exitBranch)
                emitPlace(stub.pageOffset)
            case .returnMiss:
                code.call(gates.returnMiss(frame))
                emitPlace(stub.pageOffset)
            case .target: code.resolve(stub.from, to: gates.exitTarget)
            case .goOn: emitGoOn(stub.pageOffset)
            case .link(let site):
                code.call(gates.exitLink)
                emitPlace(stub.pageOffset)
                emitSite(site)
            case .far(let site): emitFar(stub.pageOffset, site)
            case .segmentedEdge(let index): emitSegmentedEdge(index)
            case .edge(let saves, let poll):
                if saves { code.saveFlags() }
                if poll { emitPoll(stub.pageOffset) }
                emitLink(stub.pageOffset)
            }
        }
    }
}
