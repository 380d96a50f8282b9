import X86Architecture

/// Which blocks are checked when, and what a check compares.
extension SoftVCPU {
    /// Checks the translation of `block` if it is its turn. True: the interpreter must execute it this time.
    func holdsBack(_ block: BlockView, _ cache: TranslationCache, _ lockstep: Lockstep) -> Bool {
        if block.b.checks < Lockstep.firstChecks {
            let isFirst = block.b.checks == 0
            block.b.checks += 1
            // Nothing leads to this code yet, and none of its branches was linked.
            if check(block, cache, lockstep, code: block.b.code, variant: Int(block.b.checks)), isFirst {
                lockstep.counts.blocks += 1
            }
            return true
        }
        block.b.entries &+= 1
        guard block.b.entries & (block.b.entries &- 1) == 0 else { return false }
        // By now its branches lead to other code: it is translated once more, aside.
        guard let code = translateAside(block, cache) else {
            lockstep.counts.doubts[LockstepDoubt.changed.rawValue] += 1
            return false
        }
        _ = check(block, cache, lockstep, code: code, variant: Int(block.b.entries.trailingZeroBitCount))
        return failure != nil
    }

    /// A translation in the part of the arena that is still free, good until the next one.
    private func translateAside(_ block: BlockView, _ cache: TranslationCache) -> UInt? {
        guard let source = source(of: block),
            let code = cache.arena.assembler(room: Translator.mostBlockBytes)
        else { return nil }
        guard cache.pages.linear(block.b.pageWord) == block.b.linear else { return nil }
        let place = cache.pages.place(
            block.b.pageWord, physical: block.b.physical & TLB.pageMask, linear: block.b.linear,
            linksPages: block.b.linksPages, isSegmented: block.b.mode & CPU.segmented != 0)
        cache.translator.code = code
        cache.translator.linksPages = block.b.linksPages
        return cache.translator.translate(block, source, place: place.number, linear: place.linear)
    }

    /// One check; true when it had a conclusion. A difference that stays becomes `failure`.
    private func check(
        _ block: BlockView, _ cache: TranslationCache, _ lockstep: Lockstep, code: UInt, variant: Int
    ) -> Bool {
        var verdict = LockstepVerdict.doubt(.changed)
        if let source = source(of: block) {
            lockstep.plan = cache.translator.plan(block, source)
            for _ in 0..<Lockstep.attempts {
                verdict = inTrials(lockstep) { compare(cache, lockstep, code: code, variant: variant) }
                guard case .differs = verdict else { break }
            }
        }
        switch verdict {
        case .agrees(let instructions, let isPartial):
            lockstep.counts.checks += 1
            lockstep.counts.instructions += instructions
            if isPartial { lockstep.counts.partial += 1 }
            return true
        case .doubt(let reason):
            lockstep.counts.doubts[reason.rawValue] += 1
            return false
        case .differs(let how, let lines):
            lockstep.counts.differences += 1
            failure = report(lockstep.plan, how, lines)
            cpu.requestAttention()
            return true
        }
    }

    private func compare(
        _ cache: TranslationCache, _ lockstep: Lockstep, code: UInt, variant: Int
    ) -> LockstepVerdict {
        let plan = lockstep.plan
        guard let first = plan.items.first, !plan.isOutOfReach, first.isTried else {
            return .doubt(.instruction)
        }
        var ours: LockstepEnd
        switch tryTranslated(code, cache, lockstep, target: nil) {
        case .success(let end): ours = end
        case .failure(let failure): return LockstepVerdict(failure)
        }
        if ours.kind == .branch, let target = indirectTarget(ours.index, lockstep) {
            let byReturnStack = plan.items[ours.index].instruction.mnemonic == .ret && variant & 1 == 0
            let known = TrialTarget(address: target, byReturnStack: byReturnStack)
            switch tryTranslated(code, cache, lockstep, target: known) {
            case .success(let end): ours = end
            case .failure(let failure): return LockstepVerdict(failure)
            }
        }
        if ours.hasCalled {
            let problems = tryReturn(ours, cache, lockstep)
            guard problems.isEmpty else { return .differs("through a call", problems) }
        }
        lockstep.pages.keep()
        guard ours.completed > 0 || ours.kind == .fault else { return .doubt(.nothingDone) }
        let wanted = ours.kind == .fault ? ours.index + 1 : ours.completed
        let theirs = tryInterpreted(wanted, lockstep)
        if lockstep.touchedDevice { return .doubt(.device) }
        if lockstep.pages.overflowed { return .doubt(.pages) }
        let reached = min(theirs.index, plan.items.count - 1)
        if reached >= 0, plan.items[0...reached].contains(where: \.isUndefined) {
            return .doubt(.undefined)
        }
        return verdict(ours, theirs, cache, lockstep)
    }

    /// Where the interpreter says that the indirect branch leads; nil when it raises an exception.
    private func indirectTarget(_ index: Int, _ lockstep: Lockstep) -> UInt64? {
        let end = tryInterpreted(index + 1, lockstep)
        return end.kind == .through && end.index == index ? end.state.rip : nil
    }

    private func verdict(
        _ ours: LockstepEnd, _ theirs: LockstepEnd, _ cache: TranslationCache, _ lockstep: Lockstep
    ) -> LockstepVerdict {
        var lines: [String] = []
        if (ours.kind == .fault) != (theirs.kind == .fault) || ours.fault != theirs.fault {
            lines.append("exception: \(name(ours)), interpreter \(name(theirs))")
        }
        let isPart = ours.kind == .before || ours.kind == .branch
        if isPart, theirs.index != ours.index - 1 {
            lines.append("the interpreter leaves the block at its instruction \(theirs.index + 1)")
        }
        if ours.kind == .through, theirs.kind == .through, theirs.index == lockstep.plan.items.count - 1,
            lockstep.plan.items[theirs.index].isCall != ours.hasCalled
        {
            lines.append("frame on the return stack: \(ours.hasCalled)")
        }
        lines += ours.state.differences(
            theirs.state, flags: flags(ours, theirs, cache, lockstep), withCR2: ours.kind == .fault)
        if let change = lockstep.pages.difference() {
            let address = physicalAddress(change.host) + UInt64(change.offset)
            lines.append(
                "byte at physical \(String(address, radix: 16)): \(String(change.kept, radix: 16)),"
                    + " interpreter \(String(change.current, radix: 16))")
        }
        guard !lines.isEmpty else { return .agrees(theirs.completed, isPartial: isPart) }
        return .differs("\(ours.kind), \(ours.completed) of \(lockstep.plan.items.count) instructions", lines)
    }

    private func name(_ end: LockstepEnd) -> String {
        guard end.kind == .fault else { return "none" }
        let fault = Fault(raw: end.fault)
        return "\(fault.vector), code \(String(fault.errorCode, radix: 16))"
    }

    /// The status flags that are defined and that somebody may read.
    private func flags(
        _ ours: LockstepEnd, _ theirs: LockstepEnd, _ cache: TranslationCache, _ lockstep: Lockstep
    ) -> UInt64 {
        let items = lockstep.plan.items
        let item = items[max(0, min(ours.index, items.count - 1))]
        let live: UInt16
        let undefined: UInt16
        switch ours.kind {
        case .before, .branch, .fault: (live, undefined) = (item.liveBefore, item.undefinedBefore)
        case .after: (live, undefined) = (item.liveAfter, item.undefinedAfter)
        case .through:
            // Where it leads, counted from the page of the block.
            let distance =
                ours.state.rip &- (lockstep.start?.rip ?? 0) &+ UInt64(items.first?.pageOffset ?? 0)
            live = distance < 4096 ? cache.translator.liveIn(at: Int(distance)) : Translator.status
            undefined = items[max(0, min(theirs.index, items.count - 1))].undefinedAfter
        }
        return UInt64(live & ~undefined & Translator.status)
    }

    private func physicalAddress(_ host: UInt) -> UInt64 {
        // SAFETY: the map lives as long as the vCPU.
        let map = unsafe memoryMap
        guard let region = unsafe map.first(where: { host &- $0.host < UInt($0.size) }) else { return .max }
        return region.start + UInt64(host &- region.host)
    }

    /// What is wrong, for people.
    private func report(_ plan: LockstepPlan, _ how: String, _ lines: [String]) -> String {
        var text = "translated code does not do what the interpreter does"
        text += "\n  RIP \(String(cpu.s.rip, radix: 16)), privilege \(cpu.s.cpl), left \(how)"
        let page = cpu.linearRIP & TLB.pageMask
        for item in plan.items {
            let bytes = codeBytes(page &+ UInt64(item.pageOffset), Int(item.instruction.length))
            let place = String(page &+ UInt64(item.pageOffset), radix: 16)
            text += "\n  \(place): \(bytes) \(item.instruction.mnemonic.name)"
        }
        for line in lines.prefix(16) { text += "\n  \(line)" }
        return text
    }

    private func codeBytes(_ linear: UInt64, _ count: Int) -> String {
        let entry = unsafe cpu.executionEntry(linear).pointee
        let host = entry.tag & TLB.pageMask == linear & TLB.pageMask ? cpu.hostPage(entry.physical) : 0
        guard host != 0 else { return "?" }
        let offset = Int(linear & 0xFFF)
        return (0..<min(count, 4096 - offset)).map { index in
            let byte = String(CPU.loadHost(host &+ UInt(offset + index), 1), radix: 16)
            return byte.count == 1 ? "0" + byte : byte
        }.joined(separator: " ")
    }
}

/// What one comparison came to.
enum LockstepVerdict {
    /// So many instructions did the same; `isPartial`: not the whole block.
    case agrees(Int, isPartial: Bool)
    case doubt(LockstepDoubt)
    /// How the translated code ended, and what differs, one line each.
    case differs(String, [String])

    init(_ failure: LockstepFailure) {
        switch failure {
        case .attention: self = .doubt(.attention)
        case .strange(let what): self = .differs("strangely", [what])
        }
    }
}
