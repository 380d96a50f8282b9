import GuestMemory
import LinuxHost
import X86Architecture

/// Finding and decoding blocks.
extension SoftVCPU {
    /// Most instructions in one block: bounds the time between looks at `attention`.
    static let longestBlock = 48
    /// Bytes for the ops of a block in the making, with the one that ends it.
    private static let draftOpBytes = (longestBlock + 1) * MemoryLayout<MicroOp>.stride
    /// The same for the code that they were decoded from, which is written in pieces of sixteen bytes.
    private static let draftCodeBytes = longestBlock * InstructionBytes.longest + 16
    static let draftBytes = draftOpBytes + draftCodeBytes

    /// The block at the next instruction, decoded if need be.
    /// - Throws: what fetching raises: #PF, #GP.
    @inline(__always)
    func findBlock(singleStep: Bool) throws(Fault) -> UInt {
        let linear = cpu.linearRIP
        let entry = unsafe cpu.executionEntry(linear)
        let tag = linear & TLB.pageMask | (cpu.s.cpl == 3 ? cpu.s.userTag : 0)
        let physical: UInt64
        if unsafe entry.pointee.tag == tag {
            physical = unsafe entry.pointee.physical | linear & 0xFFF
        } else {
            if cpu.s.modeKey & 8 == 0, cpu.s.rip > UInt64(cpu.s.segments[Segment.cs].limit) {
                throw .protection()
            }
            physical = try fetchTranslate(linear) | linear & 0xFFF
        }
        var mode = cpu.s.modeKey | (singleStep ? 4 : 0)
        if mode & CPU.segmented != 0 { mode |= cpu.edgeBit(linear) }
        let found = BlockCache.find(cpu.s.blockTable, physical, mode)
        if found != 0 {
            let block = BlockView(address: found)
            if CPU.pageWord(block.b.pageWord) == block.b.generation || revive(block) {
                if mode & 8 != 0, block.b.secondWord == 0 { return found }
                if try isCurrent(block) { return found }
            }
        }
        return try buildBlock(linear, physical, mode, before: found)
    }

    /// A store reached the block's page since it was decoded. If it changed other bytes, the block holds
    /// again, with its translation.
    @inline(never)
    private func revive(_ block: BlockView) -> Bool {
        guard block.b.hasCopy else { return false }
        let physical = block.b.physical
        let page = openCodePage(physical & TLB.pageMask)
        guard page.host != 0 else { return false }
        let code = page.host &+ UInt(physical & 0xFFF), length = UInt(block.b.byteLength)
        var place: UInt = 0
        while place < length {
            let size = length - place >= 8 ? 8 : 1
            guard CPU.loadHost(code &+ place, size) == CPU.loadHost(block.copy &+ place, size) else {
                return false
            }
            place += UInt(size)
        }
        block.b.generation = page.generation
        page.mark(codeLines, Int(physical & 0xFFF), Int(length))
        return true
    }

    /// Translates a fetch and remembers it.
    private func fetchTranslate(_ linear: UInt64) throws(Fault) -> UInt64 {
        if cpu.is64Bit {
            // Indirect branches do not get here: SYSRET does, and code that runs up to the hole.
            let high = Int64(bitPattern: linear) >> 47
            if high != 0, high != -1 { throw .protection() }
        }
        let user = cpu.s.cpl == 3
        let found = try cpu.translate(linear, user ? [.fetch, .user] : [.fetch])
        let entry = unsafe cpu.executionEntry(linear)
        cpu.noteExecutionUse(linear)
        if found.sizeShift > 12 { largeCode.insert(linear, sizeShift: found.sizeShift) }
        unsafe entry.pointee = ExecutionTLBEntry(
            tag: linear & TLB.pageMask | (user ? cpu.s.userTag : 0), physical: found.page)
        if !user, !found.isGlobal {
            cpu.noteLocalKernel(linear)
            if !cpu.s.codeIsLocal {
                cpu.s.codeIsLocal = true
                cpu.s.staleReturns |= 4
            }
        }
        return found.page
    }

    /// The checks of a cached block that most blocks do not need: CS limit, second page.
    private func isCurrent(_ block: BlockView) throws(Fault) -> Bool {
        if cpu.s.modeKey & 8 == 0 {
            let last = cpu.s.rip &+ UInt64(block.b.byteLength) &- 1
            if last > UInt64(cpu.s.segments[Segment.cs].limit) { return false }
        }
        guard block.b.secondWord != 0 else { return true }
        guard CPU.pageWord(block.b.secondWord) == block.b.secondGeneration else { return false }
        let second = (cpu.linearRIP &+ 0x1000) & cpu.s.linearMask & TLB.pageMask
        return try translatedPage(second) == block.b.secondPhysical
    }

    private func translatedPage(_ linear: UInt64) throws(Fault) -> UInt64 {
        let entry = unsafe cpu.executionEntry(linear)
        if unsafe entry.pointee.tag == linear & TLB.pageMask | (cpu.s.cpl == 3 ? cpu.s.userTag : 0) {
            return unsafe entry.pointee.physical
        }
        return try fetchTranslate(linear)
    }

    // MARK: Building

    /// A page of code being read.
    private struct CodePage {
        var physical: UInt64
        /// Host address, 0 when the page is not memory.
        var host: UInt
        var word: UInt
        var generation: UInt32
        /// Its number in the page map.
        var index = 0

        /// What is decoded relies on `count` bytes at `offset`.
        @inline(__always) func mark(_ lines: borrowing CodeLines, _ offset: Int, _ count: Int) {
            if host != 0 { lines.mark(index, CodeLines.lines(offset, count)) }
        }
    }

    /// Marks the page as code, so that stores to it are noticed from now on.
    private func openCodePage(_ physical: UInt64) -> CodePage {
        guard let region = region(at: physical) else {
            return CodePage(physical: physical, host: 0, word: 0, generation: 0)
        }
        let index = region.firstPage + Int((physical &- region.start) >> 12)
        let word = markCode(index, physical, region)
        return CodePage(
            physical: physical, host: region.host &+ UInt(physical &- region.start),
            word: unsafe UInt(bitPattern: pages.address(index)), generation: word, index: index)
    }

    /// Marks a page as code; returns its word. From then on this vCPU has no permission to store to it:
    /// another one that marked it first may not have come to telling us.
    private func markCode(_ index: Int, _ physical: UInt64, _ region: MemoryMapEntry) -> UInt32 {
        while true {
            let (word, isNew) = engine.markCode(index, physical, from: self.index)
            if isNew {
                cpu.flushWrites(toPhysicalPage: physical)
            } else if vcpuCount > 1, markedPages[index] != word,
                cpu.flushWrites(toPhysicalPage: physical)
            {
                // What we stored since then counts now.
                cpu.noteStore(physical, region)
                continue
            }
            if vcpuCount > 1 { markedPages[index] = word }
            return word
        }
    }

    /// Up to `count` bytes at `offset` of a page; ones where there is no memory.
    private func appendCode(_ bytes: inout [UInt8], _ page: CodePage, _ offset: Int, _ count: Int) {
        for position in offset..<min(offset + count, 4096) {
            bytes.append(page.host == 0 ? 0xFF : UInt8(CPU.loadHost(page.host &+ UInt(position), 1)))
        }
    }

    private func codeBytes(_ page: CodePage, _ offset: Int) -> InstructionBytes {
        let count = min(15, 4096 - offset)
        if page.host != 0, count == 15, offset <= 4096 - 16 {
            return InstructionBytes(
                low: CPU.loadHost(page.host &+ UInt(offset), 8),
                high: CPU.loadHost(page.host &+ UInt(offset + 8), 8), count: 15)
        }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(16)
        appendCode(&bytes, page, offset, count)
        return InstructionBytes(bytes)
    }

    /// A block in the making. Its ops stand in `draftOps` until their number is known.
    private struct Draft {
        let ops: UInt
        var count = 0
        var length = 0
        var second: CodePage?
        var ended = false
        /// More than the bytes of `length` decides what it is.
        var isUndefined = false
        var live = LiveFlags()
    }

    /// Decodes the block at `linear`. `before`: the stale block of the same key, or 0.
    @inline(never)
    private func buildBlock(
        _ linear: UInt64, _ physical: UInt64, _ mode: UInt32, before: UInt
    ) throws(Fault) -> UInt {
        let first = openCodePage(physical & TLB.pageMask)
        let most = mode & 4 != 0 ? 1 : Self.longestBlock
        var draft = Draft(ops: draftOps)
        while draft.count < most, !draft.ended {
            let offset = Int(physical & 0xFFF) + draft.length
            guard offset < 4096 else { break }
            if mode & 4 == 0, debugging.mayStop(atPageOffset: offset) {
                // It begins a block, whose first op has a look. No block that has one is translated.
                guard draft.length == 0 else { break }
                store(MicroOp(handler: Lowering.breakpoint), &draft)
            }
            guard try append(&draft, first, offset, linear, mode) else { break }
        }
        let instructions = draft.count
        // Also after a branch: a body that was expected to leave may come back.
        appendFallThrough(&draft, physical, mode)
        let opBytes = draft.count * MemoryLayout<MicroOp>.stride
        first.mark(
            codeLines, Int(physical & 0xFFF),
            draft.length + (draft.isUndefined ? InstructionBytes.longest : 0))
        draft.second?.mark(codeLines, 0, InstructionBytes.longest)
        let hasCopy = draft.second == nil && !draft.isUndefined && first.host != 0
        let copyBytes = hasCopy ? (draft.length + 15) & ~15 : 0
        guard let space = cache.allocate(BlockView.bytes + copyBytes + opBytes) else {
            clearCode()
            return try buildBlock(linear, physical, mode, before: 0)
        }
        let ops = space + UInt(BlockView.bytes + copyBytes)
        // SAFETY: both are `opBytes` long, the target fresh arena space.
        unsafe UnsafeMutableRawPointer(bitPattern: ops).unsafelyUnwrapped
            .copyMemory(from: UnsafeRawPointer(bitPattern: draftOps).unsafelyUnwrapped, byteCount: opBytes)
        let block = BlockView(address: space)
        block.b = Block(
            physical: first.host == 0 ? .max : physical, mode: mode, generation: first.generation,
            pageWord: first.word, secondPhysical: draft.second?.physical ?? 0,
            secondWord: draft.second?.word ?? 0,
            secondGeneration: draft.second?.generation ?? 0, byteLength: UInt16(draft.length),
            instructionCount: UInt16(instructions), ops: ops, hasCopy: hasCopy)
        if draft.live.isDone, hasCopy { block.b.liveFlags = draft.live.flags }
        // SAFETY: the copy's room in front of the ops; the draft's code has as much.
        unsafe UnsafeMutableRawPointer(bitPattern: block.copy).unsafelyUnwrapped
            .copyMemory(from: UnsafeRawPointer(bitPattern: draftCode).unsafelyUnwrapped, byteCount: copyBytes)
        if before != 0 { takePlace(of: BlockView(address: before), block) }
        // Code outside memory is decoded every time.
        if first.host != 0, draft.second.map({ $0.host != 0 }) ?? true { cache.enter(space) }
        return space
    }

    /// Address of the code of the block in the making.
    private var draftCode: UInt { draftOps + UInt(Self.draftOpBytes) }

    /// Branches that are linked to the translation of the stale block `old` shall find that of `new`.
    private func takePlace(of old: BlockView, _ new: BlockView) {
        new.b.former = old.b.former
        new.b.formerPlace = old.b.formerPlace
        new.b.linksPages = old.b.linksPages
    }

    /// Decodes one instruction into the draft. False: it does not belong to this block any more.
    private func append(
        _ draft: inout Draft, _ page: CodePage, _ offset: Int, _ start: UInt64, _ mode: UInt32
    ) throws(Fault)
        -> Bool
    {
        var bytes = codeBytes(page, offset)
        var failure = decode(bytes)
        if failure == .truncated {
            // It goes on in the next page: alone in its block, so that a fault there comes at its turn.
            guard draft.length == 0 else { return false }
            // The limit counts before the page.
            if cpu.s.modeKey & 8 == 0,
                cpu.s.rip &+ UInt64(4096 - offset) > UInt64(cpu.s.segments[Segment.cs].limit)
            {
                throw .protection()
            }
            let next = ((start & TLB.pageMask) &+ 0x1000) & cpu.s.linearMask
            let second = openCodePage(try translatedPage(next))
            var all: [UInt8] = []
            appendCode(&all, page, offset, 15)
            appendCode(&all, second, 0, 15 - all.count)
            bytes = InstructionBytes(all)
            failure = decode(bytes)
            draft.second = second
        }
        var op = MicroOp(handler: Lowering.undefined)
        op.offset = UInt16(draft.length)
        // What is read again to compare may be newer than what was decoded.
        let copy = draftCode + UInt(draft.length)
        CPU.storeHost(copy, 8, bytes.low)
        CPU.storeHost(copy + 8, 8, bytes.high)
        if let failure {
            if failure == .tooLong || failure == .truncated { op.handler = Lowering.tooLong }
            draft.isUndefined = true
            op.length = 1
            draft.length += 1
            draft.ended = true
        } else {
            let instruction = decoded
            let end = cpu.s.rip &+ UInt64(draft.length) &+ UInt64(instruction.length) &- 1
            if cpu.s.modeKey & 8 == 0, end > UInt64(cpu.s.segments[Segment.cs].limit) {
                guard draft.length == 0 else { return false }
                throw .protection()
            }
            op.length = instruction.length
            if !draft.live.isDone { draft.live.add(FlagSubject(instruction), flagUse) }
            draft.ended = try lower(instruction, &op, pageOffset: offset - draft.length, mode: mode)
            draft.length += Int(instruction.length)
        }
        store(op, &draft)
        if draft.second != nil { draft.ended = true }
        return true
    }

    /// Decodes into `decoded`; nil when that went well.
    private func decode(_ bytes: InstructionBytes) -> DecodeFailure? {
        do throws(DecodeFailure) {
            try decoder.decode(bytes, mode: codeMode, into: &decoded)
            return nil
        } catch {
            return error
        }
    }

    private var codeMode: CodeMode {
        CodeMode(defaultSize: CodeSize(rawValue: UInt8(cpu.s.modeKey & 3)) ?? .bits16)
    }

    private func store(_ op: MicroOp, _ draft: inout Draft) {
        let address = draft.ops + UInt(draft.count * MemoryLayout<MicroOp>.stride)
        // SAFETY: inside the `draftOpBytes` at `draftOps`: at most `longestBlock` ops and one that ends it.
        unsafe UnsafeMutablePointer<MicroOp>(bitPattern: address).unsafelyUnwrapped.initialize(to: op)
        draft.count += 1
    }

    /// Ends a block that no branch ended.
    private func appendFallThrough(_ draft: inout Draft, _ physical: UInt64, _ mode: UInt32) {
        // A single step is never linked.
        let inPage = Int(physical & 0xFFF) + draft.length < 4096 && mode & 12 == 8 && draft.second == nil
        var op = MicroOp(handler: inPage ? Lowering.fallThroughLinked : Lowering.fallThrough)
        op.offset = UInt16(draft.length)
        store(op, &draft)
    }

    /// Lowers one instruction; returns whether the block ends with it. `pageOffset` is the block's first
    /// byte.
    private func lower(_ instruction: Instruction, _ op: inout MicroOp, pageOffset: Int, mode: UInt32)
        throws(Fault)
        -> Bool
    {
        let context = Lowering.Context(
            is64Bit: cpu.is64Bit, isLinkable: mode & 12 == 8, pageOffset: pageOffset)
        if let ended = Lowering.lower(instruction, context, into: &op) { return ended }
        guard let address = cache.allocate(MemoryLayout<Instruction>.size) else {
            // Full in the middle of a block: start over with an empty arena.
            op.handler = Lowering.restart
            return true
        }
        // SAFETY: fresh arena space of an Instruction's size.
        unsafe UnsafeMutablePointer<Instruction>(bitPattern: address).unsafelyUnwrapped.initialize(
            to: instruction)
        op.instruction = address
        if let handler = BodyTable.shared.handler(instruction) { op.handler = handler }
        if InstructionRow(index: instruction.row).isVector {
            op.immediate = VectorLowering.prepare(instruction, cpu: cpu)
            op.handler = VectorLowering.handler(op.immediate)
        }
        return InstructionRow(index: instruction.row).endsBlock
    }
}
