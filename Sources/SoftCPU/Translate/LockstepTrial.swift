import CGate
import X86Architecture

/// How a trial ended.
struct LockstepEnd {
    enum Kind: Equatable {
        /// In front of an instruction of the block.
        case before
        /// Behind an instruction that ended the block early.
        case after
        /// An instruction raised the exception `fault`.
        case fault
        /// By a branch, or at the block's end.
        case through
        /// In front of an indirect branch whose target is not known.
        case branch
    }
    var kind: Kind
    /// The instruction meant; for `through`, the last one if that is known.
    var index: Int
    var fault: UInt64 = 0
    var state: LockstepState
    /// A call left a frame on the return stack.
    var hasCalled = false

    /// Instructions that were executed as a whole.
    var completed: Int { kind == .before || kind == .branch || kind == .fault ? index : index + 1 }
}

/// What emitted code calls in a trial instead of `TranslatedCalls.escape`.
private let escapeInTrial: @convention(c) (UInt, UInt, UInt32) -> UInt32 = { state, op, block in
    CPU(address: state).escapeInTrial(op, block)
}

extension CPU {
    /// The page at host address `host` as running code sees it: in a trial, a copy.
    @inline(__always) func visiblePage(_ host: UInt) -> UInt { s.inTrial ? copiedPage(host) : host }

    @inline(never) private func copiedPage(_ host: UInt) -> UInt {
        owner.lockstep?.pages.page(host) ?? host
    }

    /// A trial came to a device.
    func refuseDevice() -> UInt64 {
        owner.lockstep?.touchedDevice = true
        return .max
    }

    /// As `TranslatedCalls.escape`: runs the body of `op` if it may be tried, and leaves unless the block
    /// goes on behind it.
    fileprivate func escapeInTrial(_ op: UInt, _ block: UInt32) -> UInt32 {
        guard let lockstep = owner.lockstep else { return 1 }
        loadSavedFlags(s.translated.flags)
        setRegister(UInt16(Register.blockRIP * 8), offset(ofKey: address(ofPlace: block)))
        s.rip = currentRIP(Op(address: op))
        guard let index = lockstep.plan.index(of: op), lockstep.plan.items[index].isTried else {
            lockstep.stop = .before(op)
            return 1
        }
        let result = runInTrial(op)
        s.translated.flags = savedFlags
        switch result {
        case Step.next: return 0
        case Step.fault:
            s.rip = currentRIP(Op(address: op))
            lockstep.stop = .fault(op, s.pendingFault)
        default: lockstep.stop = .after(op)
        }
        return 1
    }

    /// Runs one body.
    fileprivate func runInTrial(_ op: UInt) -> UInt32 {
        s.endBlock = false
        s.codeModified = false
        s.nextBlock = 0
        let result = Op(address: op).o.handler(address, op)
        s.linkSlot = 0
        return result
    }
}

extension SoftVCPU {
    /// Runs `body` with the memory and the caches of a trial, and puts the state back as it was.
    func inTrials<T>(_ lockstep: Lockstep, _ body: () -> T) -> T {
        let cpu = self.cpu
        // Translated 32-bit code relies on it.
        if !cpu.s.isNarrow, !cpu.is64Bit { cpu.narrowRegisters() }
        let before = LockstepState(cpu)
        let tlb = cpu.s.tlb, escape = cpu.s.translated.escape
        cpu.s.inTrial = true
        cpu.s.tlb = cpu.windowBase(StateWindows.trial)
        cpu.s.translated.escape = TranslatedCalls.address(escapeInTrial)
        lockstep.start = before
        lockstep.touchedDevice = false
        defer {
            cpu.flushWindow(StateWindows.trial)
            cpu.s.inTrial = false
            cpu.s.tlb = tlb
            cpu.s.translated.escape = escape
            before.restore(cpu)
            lockstep.pages.clear()
            lockstep.start = nil
        }
        return body()
    }

    private func rewind(_ lockstep: Lockstep) {
        lockstep.start?.restore(cpu)
        lockstep.pages.rewind()
        cpu.flushWindow(StateWindows.trial)
    }

    // MARK: Translated

    /// Where an indirect branch of the block is known to lead, and which of the two ways there is tried.
    struct TrialTarget {
        var address: UInt64
        /// By the return stack; else by the table of targets.
        var byReturnStack: Bool
    }

    /// Runs the translation at `code` from the start of the trials. Nothing that it leads to is known, but
    /// `target`.
    func tryTranslated(
        _ code: UInt, _ cache: TranslationCache, _ lockstep: Lockstep, target: TrialTarget?
    ) -> Result<LockstepEnd, LockstepFailure> {
        rewind(lockstep)
        lockstep.stop = .none
        let cpu = self.cpu
        let stack = 2
        if let target, target.byReturnStack {
            cache.resetReturns(stack, address: cpu.targetKey(of: target.address))
        } else {
            cache.resetReturns(stack)
        }
        if let target, !target.byReturnStack {
            cpu.enterTarget(cpu.targetKey(of: target.address), cache.gates.exitTarget)
        }
        cpu.s.translated.stackIndex = UInt32(stack)
        cpu.s.translated.returnStack = cache.returns[stack]
        _ = unsafe cpu.callLimit.pointee.exchange(cache.limit(stack), ordering: .sequentiallyConsistent)
        // Whoever wants attention raises the limit last.
        guard !cpu.hasAttention else { return .failure(.attention) }
        let codePage = cpu.linearRIP & TLB.pageMask
        cpu.s.near.codePage = cpu.targetKey & TLB.pageMask
        cpu.s.translated.flags = cpu.savedFlags
        // SAFETY: as in `enterTranslated`.
        let exit = unsafe ospite_call2(
            UnsafeRawPointer(bitPattern: cache.gates.enter).unsafelyUnwrapped, cpu.address, code)
        cpu.loadSavedFlags(cpu.s.translated.flags)
        if exit == TranslatedExit.target { cpu.s.rip = cpu.offset(ofKey: cpu.s.rip) }
        return end(exit, codePage, cache, lockstep)
    }

    private func end(
        _ exit: UInt64, _ codePage: UInt64, _ cache: TranslationCache, _ lockstep: Lockstep
    ) -> Result<LockstepEnd, LockstepFailure> {
        let cpu = self.cpu, plan = lockstep.plan, last = plan.items.count - 1
        func ended(_ kind: LockstepEnd.Kind, _ index: Int?, fault: UInt64 = 0)
            -> Result<LockstepEnd, LockstepFailure>
        {
            guard let index else {
                return .failure(.strange("exit \(exit) at an instruction that is not in the block"))
            }
            let hasCalled = kind == .through && cpu.s.translated.returnStack < cache.top(2)
            return .success(
                LockstepEnd(
                    kind: kind, index: index, fault: fault, state: LockstepState(cpu), hasCalled: hasCalled))
        }
        if exit != TranslatedExit.target, exit != TranslatedExit.done { setPlace(exit, cache) }
        // The block's instructions are counted from its page.
        let offset = Int(truncatingIfNeeded: cpu.linearRIP &- codePage)
        switch exit {
        case TranslatedExit.target, TranslatedExit.link, TranslatedExit.here, TranslatedExit.far:
            return ended(.through, last)
        case TranslatedExit.interpret, TranslatedExit.split: return ended(.before, plan.index(at: offset))
        case TranslatedExit.branch: return ended(.branch, plan.index(at: offset))
        case TranslatedExit.goOn:
            if cpu.hasAttention { return .failure(.attention) }
            // Only a body that was expected to end the block, and did not.
            guard last >= 0, offset == plan.items[last].nextOffset else {
                return .failure(.strange("it goes on at \(offset) for no reason"))
            }
            return ended(.through, last)
        case TranslatedExit.done:
            switch lockstep.stop {
            case .before(let op): return ended(.before, plan.index(of: op))
            case .after(let op): return ended(.after, plan.index(of: op))
            case .fault(let op, let raw): return ended(.fault, plan.index(of: op), fault: raw)
            case .none: return .failure(.strange("it ended with no body that ended it"))
            }
        default: return .failure(.strange("exit \(exit)"))
        }
    }

    /// RIP = what the words behind an exit say.
    private func setPlace(_ exit: UInt64, _ cache: TranslationCache) {
        if exit == TranslatedExit.far {
            cpu.s.rip = farTarget(cache)
            return
        }
        let place = UInt32(bitPattern: cache.arena.word(cpu.s.translated.exitData))
        cpu.s.rip = cpu.offset(ofKey: cpu.address(ofPlace: place))
    }

    /// After a trial that ended with a call, returns from it at once; says what is wrong with where that
    /// leads: to the next instruction, with everything as the call left it.
    func tryReturn(_ ours: LockstepEnd, _ cache: TranslationCache, _ lockstep: Lockstep) -> [String] {
        let cpu = self.cpu
        guard let last = lockstep.plan.items.last, last.isCall, let start = lockstep.start else {
            return ["a frame on the return stack without a call"]
        }
        cpu.s.translated.flags = cpu.savedFlags
        // SAFETY: as in `enterTranslated`; the return stack holds the frame.
        let exit = unsafe ospite_call2(
            UnsafeRawPointer(bitPattern: cache.gates.enter).unsafelyUnwrapped, cpu.address, cache.comesBack)
        cpu.loadSavedFlags(cpu.s.translated.flags)
        let distance = last.nextOffset - lockstep.plan.items[0].pageOffset
        let next = (start.rip &+ UInt64(distance)) & cpu.s.linearMask
        switch exit {
        case TranslatedExit.link, TranslatedExit.here, TranslatedExit.far: setPlace(exit, cache)
        case TranslatedExit.target: cpu.s.rip = cpu.offset(ofKey: cpu.s.rip)
        default: return ["the return leaves by exit \(exit)"]
        }
        var expected = ours.state
        expected.rip = next
        return LockstepState(cpu).differences(expected, flags: UInt64(Translator.status), withCR2: false)
            .map { "after the return, \($0)" }
    }

    // MARK: Interpreted

    /// Interprets the block's first instructions from the start of the trials: `limit` of them, unless a
    /// branch or an exception comes first.
    func tryInterpreted(_ limit: Int, _ lockstep: Lockstep) -> LockstepEnd {
        rewind(lockstep)
        let cpu = self.cpu, items = lockstep.plan.items, start = cpu.s.rip
        cpu.setRegister(UInt16(Register.blockRIP * 8), start)
        func sequential(_ index: Int) -> UInt64 {
            (start &+ UInt64(items[index].nextOffset - items[0].pageOffset)) & cpu.s.linearMask
        }
        for index in 0..<limit {
            let result = cpu.runInTrial(items[index].op)
            if result == Step.fault {
                cpu.s.rip = cpu.currentRIP(Op(address: items[index].op))
                return LockstepEnd(
                    kind: .fault, index: index, fault: cpu.s.pendingFault, state: LockstepState(cpu))
            }
            // What ends the block without a branch leads to the next instruction, where translated code goes
            // on at once.
            let branches = items[index].instruction.attributes.contains(.branch)
            if result == Step.ended, branches || cpu.s.rip != sequential(index) {
                return LockstepEnd(kind: .through, index: index, state: LockstepState(cpu))
            }
        }
        cpu.s.rip = limit == 0 ? start : sequential(limit - 1)
        return LockstepEnd(kind: .through, index: limit - 1, state: LockstepState(cpu))
    }
}

/// Why a trial of translated code has no end to compare.
enum LockstepFailure: Error {
    case attention
    /// Nothing that correct code does.
    case strange(String)
}
