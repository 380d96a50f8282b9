import CGate
import GuestMemory
import LinuxHost
import Synchronization
import X86Architecture

/// One vCPU's translated code.
///
/// Confinement: the vCPU's thread.
final class TranslationCache {
    var arena: CodeArena
    let gates: GateCode
    private let gateBytes: Int
    let translator: Translator
    var pages: TranslatedPages
    private(set) var farLinks = FarLinks()
    private let returnStacks: MemoryMapping
    /// RSP of the kernel's and the user's return stack, and of the one for trials.
    var returns: [UInt]
    /// Whether a return stack's addresses are not those of 64-bit code.
    var returnsAreNarrow = [false, false]
    /// What the cache itself counts; `SoftVCPU.translationStatistics` adds the rest.
    var statistics = TranslationStatistics()
    var blocksTranslated: Int { statistics.blocks }
    /// Branches may lead to new translations before those were compared with the interpreter.
    var mayRedirect = true
    /// What a trial enters to return from the call that its block made.
    let comesBack: UInt

    private static let returnStackBytes = 256 << 10
    /// Left free below the limit, for calls out of translated code and signal frames.
    private static let returnStackReserve: UInt = 64 << 10

    init(size: Int, decoder: Decoder, options: TranslationOptions) throws(HostError) {
        var arena = try CodeArena(size: max(size, 1 << 20))
        guard var code = arena.assembler(room: 16 << 10) else {
            preconditionFailure("an arena has room for its gates")
        }
        gates = GateCode(&code, hasAVX: HostFeatures.shared.contains(.avx, isVEX: true))
        // MOV R10, [RSP + 8]; RET
        comesBack = code.here
        code.bytes(0x4C, 0x8B, 0x54, 0x24)
        code.bytes(8, 0xC3)
        arena.commit(code)
        gateBytes = arena.used
        self.arena = arena
        translator = Translator(gates: gates, decoder: decoder, code: code, options: options)
        pages = try TranslatedPages()
        returnStacks = try MemoryMapping(anonymous: 3 * Self.returnStackBytes)
        returns = [0, 0, 0]
        resetReturns()
    }

    /// The address in the frames at a return stack's bottom: any would do that is canonical, since a return
    /// that matches it goes to `GateCode.bottom`.
    private static let bottomAddress: UInt64 = 0x7FFF_FFFF_FFFF

    /// The highest RSP of a return stack; above it are frames without a call.
    func top(_ stack: Int) -> UInt {
        unsafe UInt(bitPattern: returnStacks.base) + UInt((stack + 1) * Self.returnStackBytes) - 128
    }
    /// The lowest RSP at which a call may push.
    func limit(_ stack: Int) -> UInt {
        unsafe UInt(bitPattern: returnStacks.base) + UInt(stack * Self.returnStackBytes)
            + Self.returnStackReserve
    }

    /// Empties a return stack; `address` is the one that its bottom matches.
    func resetReturns(_ stack: Int, address: UInt64? = nil) {
        returns[stack] = top(stack)
        for word in 0..<16 as Range<UInt> {
            // SAFETY: the last 128 bytes of the stack.
            unsafe UnsafeMutablePointer<UInt64>(bitPattern: top(stack) + word * 8).unsafelyUnwrapped.pointee =
                word & 1 == 0 ? UInt64(gates.bottom) : address ?? Self.bottomAddress
        }
    }
    func resetReturns() {
        resetReturns(0)
        resetReturns(1)
    }

    /// Of the block that was translated last.
    var firstMnemonic: Mnemonic? { translator.block.first?.instruction.mnemonic }

    var isFull: Bool { arena.size - arena.used < Translator.mostBlockBytes || pages.isFull }

    /// Translates `block`, which is met in the page at `linear`; false when it cannot be. The arena must not
    /// be full. `linksPages`: branches to other pages may be linked.
    func translate(_ block: BlockView, _ source: CodeSource, linear: UInt64, linksPages: Bool) -> Bool {
        let isSegmented = block.b.mode & CPU.segmented != 0
        guard let code = arena.assembler(room: Translator.mostBlockBytes) else {
            preconditionFailure("the arena is full")
        }
        let start = code.here, began = ospite_rdtsc()
        translator.code = code
        let place = pages.place(
            block.b.pageWord, physical: block.b.physical & TLB.pageMask, linear: linear,
            linksPages: linksPages, isSegmented: isSegmented)
        translator.linksPages = linksPages && place.linear != CodePlace.anywhere
        guard
            let entry = translator.translate(block, source, place: place.number, linear: place.linear)
        else { return false }
        if block.b.former != 0 {
            // A block that goes on in the next page is found by the table of targets only: branches within
            // the page that led to what was here must come out.
            if mayRedirect, block.b.secondWord == 0, block.b.formerPlace == place.number,
                block.b.linksPages == translator.linksPages
            {
                arena.patchJump(block.b.former, target: entry)
            }
            block.b.former = 0
            block.b.sleeps = false
        }
        block.b.code = entry
        block.b.flagLooks = translator.looks
        block.b.checks = 0
        block.b.linear = place.linear
        block.b.linksPages = translator.linksPages
        precondition(
            translator.code.here - start <= Translator.mostBlockBytes, "a translated block is too long")
        arena.commit(translator.code)
        statistics.blocks += 1
        statistics.guestBytes += Int(block.b.byteLength)
        statistics.lineBytes += translator.lineBytes
        statistics.stubBytes +=
            Int(translator.code.here - start) - translator.lineBytes - translator.countingBytes
        pages.list(block)
        statistics.ticks &+= ospite_rdtsc() &- began
        return true
    }

    /// Makes the entries of all blocks of a page lead out.
    func invalidate(pageWord: UInt, _ change: TranslatedPages.Change) {
        // Branches from other pages would find the old entries for ever.
        if let linear = pages.linear(pageWord) { farLinks.cut(linear, arena) }
        let place = pages.number(pageWord)
        pages.remove(pageWord, change) { block, word in
            if change == .stored, block.b.pageWord == pageWord, block.b.maySleep, let place {
                block.b.former = block.b.code
                block.b.formerPlace = place
                block.b.entryBytes = arena.entry(at: block.b.code)
                block.b.sleeps = true
            }
            forget(block, word: word)
        }
    }

    /// A block whose translation sleeps holds again: wakes that. False: it is of no use any more.
    func wake(_ block: BlockView, _ source: CodeSource?) -> Bool {
        guard let source, pages.number(block.b.pageWord) == block.b.formerPlace,
            translator.passesFlags(block, source)
        else {
            block.b.sleeps = false
            return false
        }
        arena.restore(block.b.entryBytes, at: block.b.former)
        block.b.code = block.b.former
        block.b.former = 0
        block.b.sleeps = false
        pages.list(block)
        statistics.woken += 1
        return true
    }

    /// Makes the entry of a translated block lead out.
    func forget(_ block: BlockView) { forget(block, word: pages.word(of: block)) }

    private func forget(_ block: BlockView, word: Int32) {
        // CALL exitStale, and the word behind it, in the place of the first instructions. Nothing but the
        // entry leads there: a place to come back to lies behind a call and what prepares it, nine bytes or
        // more.
        arena.patchCall(block.b.code, target: gates.exitStale, word: word)
        block.b.code = 0
        statistics.invalidations += 1
    }

    /// Makes the `entry` of a forgotten translation lead to the one of `block` that took its place: branches
    /// that were linked to it would come out each time, and never be linked anew.
    func redirect(_ entry: UInt, to block: BlockView) { arena.patchJump(entry, target: block.b.code) }

    /// Links the branch at `site`, which led to `stub`, to the block in another page. False: other links say
    /// that another page is there.
    func linkFar(_ site: UInt, _ stub: UInt, to block: BlockView) -> Bool {
        let physical = block.b.physical & TLB.pageMask
        guard farLinks.agrees(linear: block.b.linear, physical: physical) else { return false }
        arena.patch(site, target: block.b.code)
        farLinks.add(site: site, stub: stub, linear: block.b.linear, physical: physical)
        return true
    }
    func cutFarLinks(to linear: UInt64) { farLinks.cut(linear & TLB.pageMask, arena) }
    func checkFarLinks(_ place: (UInt64) -> UInt64?) { farLinks.check(arena, place) }

    func clear() {
        arena.clear(keeping: gateBytes)
        pages.clear()
        farLinks.forgetAll()
        resetReturns()
        statistics.flushes += 1
    }
}

extension SoftVCPU {
    /// What the last exit from translated code left to do.
    struct TranslatedFollowUp {
        /// The branch that leads to the next block and can be linked; 0 none.
        var site: UInt = 0
        /// It is a CALL yet.
        var isCall = false
        /// The word behind the exit: the place of its block.
        var place: UInt32 = 0
        /// What the branch led to, when it goes to another page; else 0.
        var farStub: UInt = 0
        /// The next block is the target of an indirect branch.
        var isTarget = false
        /// The next block must do without memory groups.
        var isUngrouped = false
        /// The interpreter has to execute the next block.
        var interpretsNext = false
    }

    func startTranslation(_ cache: TranslationCache) {
        nameGates(of: cache)
        cpu.s.translated.state = cpu.address
        cpu.s.translated.places = cache.pages.tableAddress
        cpu.s.translated.fill = TranslatedCalls.address(TranslatedCalls.fill)
        cpu.s.translated.escape = TranslatedCalls.address(TranslatedCalls.escape)
        cpu.s.translated.prepareVectors = TranslatedCalls.address(TranslatedCalls.prepareVectors)
    }

    /// Whether code of the current mode can be translated and run now.
    @inline(__always) var runsTranslated: Bool { !cpu.directionFlag }

    /// Translates `block` again, without memory groups. Returns whether it has code now.
    func ungroup(_ block: BlockView, _ cache: TranslationCache) -> Bool {
        block.b.isUngrouped = true
        let entry = block.b.code, linear = block.b.linear, linksPages = block.b.linksPages
        cache.forget(block)
        guard translate(block, cache) else { return false }
        // Nothing may lead to code that is still being compared.
        if lockstep == nil, block.b.linear == linear, block.b.linksPages == linksPages {
            cache.redirect(entry, to: block)
        }
        return true
    }

    /// Where the code of `block` is; nil when it is not in memory.
    func source(of block: BlockView) -> CodeSource? {
        guard block.b.physical != .max else { return nil }
        var source = CodeSource(
            page: cpu.hostPage(block.b.physical & TLB.pageMask), table: cpu.s.blockTable,
            physicalPage: block.b.physical & TLB.pageMask, generation: block.b.generation)
        guard source.page != 0 else { return nil }
        if block.b.secondWord != 0 {
            source.secondPage = cpu.hostPage(block.b.secondPhysical)
            guard source.secondPage != 0 else { return nil }
        }
        return source
    }

    /// The block has run often enough: translates it. Returns whether it has code now.
    func translate(_ block: BlockView, _ cache: TranslationCache) -> Bool {
        guard let source = source(of: block) else { return false }
        if cache.isFull {
            // The block's own memory goes too.
            clearCode()
            return false
        }
        let linear = cpu.linearRIP & TLB.pageMask
        let linksPages = mayLinkPages(linear)
        cache.translator.ahead.removeAll()
        if block.b.mode & CPU.segmented != 0 {
            if cache.pages.isPlaced(block.b.pageWord) { moveCode(block, cache, .segmented) }
        } else if cache.pages.isElsewhere(block.b.pageWord, linear) {
            moveCode(block, cache)
        } else if linksPages, cache.pages.isUnlinkable(block.b.pageWord) {
            moveCode(block, cache, .linkable)
        }
        guard cache.translate(block, source, linear: linear, linksPages: linksPages) else { return false }
        markLines(block, cache.translator.lines)
        nameCode(of: block, cache)
        if lockstep == nil { translateAhead(source, cache, linear, linksPages) }
        return true
    }

    /// Translates the blocks of the page to which those lead that were just translated, when they have run
    /// often enough to be next: the translator is in the host's caches now.
    private func translateAhead(
        _ source: CodeSource, _ cache: TranslationCache, _ linear: UInt64, _ linksPages: Bool
    ) {
        while let block = cache.translator.ahead.takeLast() {
            guard block.b.code == 0, block.b.runs >= threshold / 8, block.b.secondWord == 0, !block.b.sleeps,
                block.b.physical != .max, !cache.isFull
            else { continue }
            block.b.runs = 0
            guard cache.translate(block, source, linear: linear, linksPages: linksPages) else { continue }
            markLines(block, cache.translator.lines)
            nameCode(of: block, cache)
        }
    }

    /// A block whose translation sleeps holds again: wakes that, if what it relies on holds, too.
    func wake(_ block: BlockView, _ cache: TranslationCache) {
        if cache.wake(block, source(of: block)) { markLines(block, cache.translator.lines) }
    }

    /// The translation of the block relies on these lines of its page.
    private func markLines(_ block: BlockView, _ lines: UInt64) {
        let first = unsafe UInt(bitPattern: pages.address(0))
        codeLines.mark(Int(block.b.pageWord &- first) / MemoryLayout<UInt32>.stride, lines)
    }

    /// Whether branches from supervisor code at `linear` to other pages may be linked: with SMEP no code that
    /// runs here runs in user mode too.
    private func mayLinkPages(_ linear: UInt64) -> Bool {
        linear >> 63 != 0 && cpu.s.cpl == 0 && !cpu.s.codeIsLocal
            && cpu.s.cr4 & CR4.supervisorExecutionPrevention != 0
    }

    /// Whether the block's translation relies on an address or a privilege that is not the current one.
    @inline(__always) func isMisplaced(_ block: BlockView) -> Bool {
        guard block.b.linear != CodePlace.anywhere else { return false }
        return block.b.linear != cpu.s.rip & TLB.pageMask || block.b.linksPages && cpu.s.cpl == 3
    }

    /// The page of `block` turned up at a second address, or in another role: what is translated of it is of
    /// no use.
    func moveCode(
        _ block: BlockView, _ cache: TranslationCache, _ change: TranslatedPages.Change = .moved
    ) {
        cache.invalidate(pageWord: block.b.pageWord, change)
        cpu.s.staleReturns |= 3
        followUp.site = 0
    }

    /// Forgets all decoded and translated code.
    func clearCode() {
        cache.clear()
        cpu.flushTargets()
        translations?.clear()
        // A body called from translated code may have asked for this: that code still has its return stack.
        cpu.s.staleReturns |= 3
        followUp = TranslatedFollowUp()
        cpu.s.linkSlot = 0
    }

    /// Runs translated code from the block at RIP on.
    func enterTranslated(_ code: UInt, _ cache: TranslationCache) {
        let cpu = self.cpu
        guard selectReturns(cache) else { return }
        cpu.s.interruptShadow = false
        cpu.s.near.codePage = cpu.targetKey & TLB.pageMask
        cpu.s.translated.flags = cpu.savedFlags
        // SAFETY: gate and code are emitted code of this vCPU; it keeps to its state and guest memory.
        let exit = unsafe ospite_call2(
            UnsafeRawPointer(bitPattern: cache.gates.enter).unsafelyUnwrapped, cpu.address, code)
        cache.returns[Int(cpu.s.translated.stackIndex)] = cpu.s.translated.returnStack
        cpu.loadSavedFlags(cpu.s.translated.flags)
        cache.statistics.exits[Int(exit)] &+= 1
        leaveTranslated(exit, cache)
        if cpu.s.near.shadowOffset != .max { holdAfterSTI() }
    }

    /// Translated code executed STI. When it left in front of the next instruction, interrupts and NMIs wait
    /// for that (SDM vol. 3 §6.8.3): a kernel that sleeps by STI and HLT would miss them. The same offset in
    /// another page makes them wait for one instruction, too, which is allowed.
    private func holdAfterSTI() {
        if cpu.linearRIP & 0xFFF == UInt64(cpu.s.near.shadowOffset), cpu.s.activity == .running {
            cpu.s.interruptShadow = true
        }
        cpu.s.near.shadowOffset = .max
    }

    /// Prepares the return stack of the current privilege. False when something wants attention.
    private func selectReturns(_ cache: TranslationCache) -> Bool {
        let stack = cpu.s.cpl == 3 ? 1 : 0
        if cache.returnsAreNarrow[stack] == cpu.is64Bit {
            // Return addresses of the other mode may look the same.
            cache.returnsAreNarrow[stack].toggle()
            cpu.s.staleReturns |= 1 << UInt8(stack)
        }
        if !cpu.s.isNarrow, !cpu.is64Bit { cpu.narrowRegisters() }
        if cpu.s.staleReturns != 0 {
            if cpu.s.staleReturns & 1 != 0 { cache.resetReturns(0) }
            if cpu.s.staleReturns & 2 != 0 { cache.resetReturns(1) }
            if cpu.s.staleReturns & 4 != 0 { checkFarLinks(cache) }
            cpu.s.staleReturns = 0
        }
        let limit = cache.limit(stack)
        if cache.returns[stack] < limit || cache.returns[stack] > cache.top(stack) {
            cache.resetReturns(stack)
        }
        cpu.s.translated.stackIndex = UInt32(stack)
        cpu.s.translated.returnStack = cache.returns[stack]
        if unsafe cpu.callLimit.pointee.load(ordering: .relaxed) != limit {
            _ = unsafe cpu.callLimit.pointee.exchange(limit, ordering: .sequentiallyConsistent)
            // Whoever wants attention raises the limit last.
            return !cpu.hasAttention
        }
        return true
    }

    /// An instruction that ended its block was executed by a body, called from translated code: whether the
    /// next one may run without a way back through the run loop. Its return address is still on the stack.
    func staysTranslated() -> Bool {
        guard let translations, runsTranslated, !cpu.hasAttention, !needsSingleStep, !cpu.s.shutdown,
            cpu.s.activity == .running
        else { return false }
        let before = cpu.s.translated.returnStack
        translations.returns[Int(cpu.s.translated.stackIndex)] = before &+ 8
        let index = cpu.s.translated.stackIndex
        guard selectReturns(translations) else {
            // Leaving pops the return address itself.
            cpu.s.translated.stackIndex = index
            cpu.s.translated.returnStack = before
            cpu.s.staleReturns |= 3
            return false
        }
        cpu.s.otherFlags &= ~RFlags.resume.rawValue
        cpu.s.near.targetAddress = cpu.targetKey
        return true
    }

    private func leaveTranslated(_ exit: UInt64, _ cache: TranslationCache) {
        let data = cpu.s.translated.exitData
        switch exit {
        case TranslatedExit.target:
            cpu.s.rip = cpu.offset(ofKey: cpu.s.rip)
            followUp.isTarget = true
        case TranslatedExit.stale:
            setPlace(cache.arena.word(data))
            followUp.isTarget = true
        case TranslatedExit.done: break
        case TranslatedExit.link, TranslatedExit.split:
            setPlace(cache.arena.word(data))
            setSite(data, cache)
            // From then on the group's misses, too, go to the block without groups.
            followUp.isUngrouped = exit == TranslatedExit.split
        case TranslatedExit.here:
            setPlace(cache.arena.word(data))
            followUp.site = data &- 4
            followUp.isCall = true
            followUp.place = UInt32(bitPattern: cache.arena.word(data))
        case TranslatedExit.far:
            cpu.s.rip = farTarget(cache)
            setSite(data, cache)
            followUp.farStub = data &- 5
            followUp.isTarget = true
        default:
            setPlace(cache.arena.word(data))
            followUp.interpretsNext = exit == TranslatedExit.interpret || exit == TranslatedExit.branch
            followUp.isTarget = exit == TranslatedExit.branch
        }
    }

    private func setPlace(_ word: Int32) {
        cpu.s.rip = cpu.offset(ofKey: cpu.address(ofPlace: UInt32(bitPattern: word)))
    }

    /// Where the branch leads that translated code was left by for another page.
    func farTarget(_ cache: TranslationCache) -> UInt64 {
        let data = cpu.s.translated.exitData
        let page = cpu.address(ofPlace: UInt32(bitPattern: cache.arena.word(data)))
        let distance = cache.arena.word(data + 8) &- Int32(truncatingIfNeeded: page)
        return (page &+ UInt64(bitPattern: Int64(distance))) & cpu.s.linearMask
    }

    private func setSite(_ data: UInt, _ cache: TranslationCache) {
        followUp.site = data &+ 4 &+ UInt(bitPattern: Int(cache.arena.word(data + 4)))
        followUp.place = UInt32(bitPattern: cache.arena.word(data))
    }

    /// Does what the last exit left, now that the block at RIP is known and translated.
    func followUp(to block: BlockView, _ cache: TranslationCache) {
        if followUp.site != 0 {
            let place = cpu.place(ofWord: followUp.place)
            if followUp.farStub != 0 {
                linkFar(block, cache, from: place)
            } else if place.physical == block.b.physical & TLB.pageMask, place.linear == block.b.linear,
                block.b.secondWord == 0
            {
                if followUp.isCall {
                    cache.arena.patchJump(followUp.site &- 1, target: block.b.code)
                } else {
                    cache.arena.patch(followUp.site, target: block.b.code)
                }
                cache.statistics.links += 1
            }
        }
        if followUp.isTarget { cpu.enterTarget(cpu.targetKey, block.b.targetEntry) }
        followUp = TranslatedFollowUp()
    }

    /// Makes a branch to another page lead to `block`, if that holds for every address space. When it does
    /// not hold because of the block, the branch goes by the table of targets from now on: code for anywhere
    /// may be what all others call, as a kernel's return thunk is.
    private func linkFar(_ block: BlockView, _ cache: TranslationCache, from place: CodePlace) {
        let linear = cpu.s.rip & TLB.pageMask
        guard mayLinkPages(linear), place.linear >> 63 != 0, place.linear != CodePlace.anywhere else {
            return
        }
        let holds = block.b.linear == linear && block.b.secondWord == 0
        if holds, cache.linkFar(followUp.site, followUp.farStub, to: block) { return }
        if Int32(exactly: Int64(bitPattern: cpu.s.rip)) != nil {
            cache.arena.patch(followUp.farStub &+ 1, target: cache.gates.farByTable)
        }
    }

    /// Supervisor mappings may have changed.
    private func checkFarLinks(_ cache: TranslationCache) {
        let cr2 = cpu.s.cr2
        let holds =
            cpu.s.cr4 & CR4.supervisorExecutionPrevention != 0 && runsTranslated && !cpu.s.codeIsLocal
        cache.checkFarLinks { linear in
            holds ? (try? cpu.translate(linear, [.fetch]))?.page : nil
        }
        cpu.s.cr2 = cr2
    }
}
