/// Near branches. At every way out of a block the flags are in AX if anybody may read them.
extension Translator {
    /// Whether a branch from `item` to `target` in the same page goes back, so that it must be bounded.
    func isBackward(_ from: Int, _ target: Int) -> Bool { target <= from }

    /// Leaves when something wants attention, or the return stack is full; goes on at `pageOffset` later.
    func emitPoll(_ pageOffset: Int) {
        code.encode(wide: true, 0x3B, HostRegister.rsp, .state(layout.callLimit))
        stubs.append(Stub(kind: .goOn, from: code.pendingJumpIf(2), pageOffset: pageOffset))
    }

    /// A jump to `pageOffset`, which may lie outside the page.
    func emitLink(_ pageOffset: Int) {
        keepEntranceFree()
        if isLinkable(pageOffset) {
            // Becomes the jump when it is taken for the first time.
            code.call(gates.exitHere)
            emitPlace(pageOffset)
        } else if isDirect(pageOffset) {
            addLink(code.pendingJump(), pageOffset)
        } else {
            emitTargetAddress(pageOffset)
            emitTargetJump(.target, 0)
        }
    }

    /// Puts no branch that may be linked where `TranslationCache.forget` writes: a branch of a forgotten
    /// block may still be cut from its target.
    func keepEntranceFree() {
        while code.here &- entrance < CodeArena.callBytes { code.byte(0x90) }
    }

    /// Whether a branch to `pageOffset` needs no address: its target is in the page, or at a known address.
    func isDirect(_ pageOffset: Int) -> Bool { linear != nil || isLinkable(pageOffset) }
    private func isInPage(_ pageOffset: Int) -> Bool { (0..<4096).contains(pageOffset) }

    /// Whether a branch to `pageOffset` may lead there without a look at a table. What lies there may go on
    /// in the next page, which is not always mapped where it was: the table of targets forgets it then.
    private func isLinkable(_ pageOffset: Int) -> Bool {
        !isAtEdge && isInPage(pageOffset) && (pageOffset <= 4096 - 15 || look(at: pageOffset) != nil)
    }

    /// The branch at `site` leads to `pageOffset`.
    func addLink(_ site: Assembler.Site, _ pageOffset: Int) {
        let kind = isLinkable(pageOffset) ? Stub.Kind.link(site: site) : .far(site: site)
        stubs.append(Stub(kind: kind, from: site, pageOffset: pageOffset))
    }

    /// What a branch to another page, or to an instruction that goes on there, leads to as long as it is not
    /// linked: the table of targets, at an entry that is known now. Branches that may be linked are, the
    /// first time.
    func emitFar(_ pageOffset: Int, _ site: Assembler.Site) {
        guard let linear else { preconditionFailure("code for anywhere has no far branches") }
        let target = address(linear, pageOffset)
        if !(linksPages && target >> 63 != 0) || isInPage(pageOffset) {
            let entry = BranchTargets.offset + Int32(target & UInt64(BranchTargets.mask))
            code.constant(HostRegister.address, target)
            code.encode(wide: true, 0x3B, HostRegister.address, .state(entry))
            let miss = code.shortJumpIf(5)
            code.encode(wide: false, 0xFF, 4, .state(entry + 8))
            code.land(miss)
        }
        code.call(gates.exitFar)
        emitPlace(0)
        emitSite(site)
        code.word32(Int32(truncatingIfNeeded: target))
    }

    /// Lets the vCPU look for what it is wanted for, then go on at `pageOffset`.
    func emitGoOn(_ pageOffset: Int) {
        guard isInPage(pageOffset) else {
            emitTargetAddress(pageOffset)
            code.jump(gates.exitTarget)
            return
        }
        code.call(gates.exitGoOn)
        emitPlace(pageOffset)
    }

    /// Goes to the code for R10; `miss` says what happens when the table does not know it.
    private func emitTargetJump(_ miss: Stub.Kind, _ pageOffset: Int) {
        let site = gates.emitTargetProbe(&code)
        stubs.append(Stub(kind: miss, from: site, pageOffset: pageOffset))
        gates.emitTargetJump(&code)
    }

    /// Linear address of `pageOffset` of the page at `linear`.
    private func address(_ linear: UInt64, _ pageOffset: Int) -> UInt64 {
        let sum = linear &+ UInt64(bitPattern: Int64(pageOffset))
        return is32 ? sum & 0xFFFF_FFFF : sum
    }

    /// R10 = key of `pageOffset`.
    private func emitTargetAddress(_ pageOffset: Int) {
        if isSegmented { return emitSegmentedTarget(pageOffset, wraps: false) }
        if let linear {
            code.constant(HostRegister.address, address(linear, pageOffset))
            return
        }
        code.load(HostRegister.address, .state(layout.codePage))
        code.lea(
            HostRegister.address, base: HostRegister.address, index: HostRegister.none, scaleShift: 0,
            Int32(truncatingIfNeeded: pageOffset), wide: !is32)
    }

    /// The end of a block that goes on elsewhere.
    func emitDirect(to pageOffset: Int, live: UInt16) {
        saveFlagsIfLive(live)
        let from = block.last?.pageOffset ?? pageOffset
        if isBackward(from, pageOffset) { emitPoll(pageOffset) }
        emitLink(pageOffset)
    }

    func emitJump(_ item: BlockInstruction) {
        if item.operand(0).kind == .relative {
            let target = targetOffset(item)
            if !isSegmented || isDirect(target) {
                emitDirect(to: target, live: item.liveAtTarget)
            } else {
                saveFlagsIfLive(Self.status)
                emitSegmentedTarget(target, wraps: true)
                emitPollForTarget(item)
                emitTargetJump(.branch, item.pageOffset)
            }
        } else {
            saveFlagsIfLive(Self.status)
            loadTarget(item)
            emitPollForTarget(item)
            emitTargetJump(.branch, item.pageOffset)
        }
        flags = .dead
    }

    /// R10 = the key of an indirect branch's operand.
    private func loadTarget(_ item: BlockInstruction) {
        if item.hasMemoryOperand {
            let source = emitMemoryOperand(item, size: Int(slot), write: false)
            code.load(HostRegister.address, source, size: slot)
        } else if slot == 2 {
            code.extend16(HostRegister.address, inRegister(item.operand(0).register))
        } else {
            code.move(HostRegister.address, inRegister(item.operand(0).register))
        }
        if isSegmented { emitKey() }
    }

    /// Before a call or an indirect jump: it has to wait when something wants attention.
    func emitPollForTarget(_ item: BlockInstruction) {
        code.encode(wide: true, 0x3B, HostRegister.rsp, .state(layout.callLimit))
        stubs.append(Stub(kind: .goOn, from: code.pendingJumpIf(2), pageOffset: item.pageOffset))
    }

    func emitConditionalJump(_ index: Int) {
        let item = block[index]
        let target = targetOffset(item), live = item.liveAtTarget
        let condition = item.instruction.condition
        restoreFlags()
        keepEntranceFree()
        let saves = live != 0
        let poll = isBackward(item.pageOffset, target)
        if isSegmented, !isDirect(target) {
            stubs.append(
                Stub(
                    kind: .segmentedEdge(index: index), from: code.pendingJumpIf(condition),
                    pageOffset: item.pageOffset))
        } else if !isDirect(target) {
            stubs.append(
                Stub(
                    kind: .edge(saves: saves, poll: poll), from: code.pendingJumpIf(condition),
                    pageOffset: target))
        } else if poll, !saves {
            // The end of a loop: the way back stays in line.
            let over = code.pendingJumpIf(condition ^ 1)
            emitPoll(target)
            emitLink(target)
            code.resolve(over, to: code.here)
        } else if saves || poll {
            stubs.append(
                Stub(
                    kind: .edge(saves: saves, poll: poll), from: code.pendingJumpIf(condition),
                    pageOffset: target))
        } else {
            addLink(code.pendingJumpIf(condition), target)
        }
        flags = .host
    }

    // MARK: Calls and returns

    /// Pushes the return address on the guest's stack and, with where it is translated, on the return stack.
    private func emitReturnAddress(_ item: BlockInstruction) {
        if let linear { return pushKnownAddress(address(linear, item.nextOffset), item) }
        if isSegmented { return emitSegmentedReturnAddress(item) }
        let target = emitStackOperand(-slot, write: true, item, folds: true)
        let index = HostRegister.index
        code.load(index, .state(layout.codePage))
        code.lea(
            index, base: index, index: HostRegister.none, scaleShift: 0, Int32(item.nextOffset), wide: !is32)
        code.store(index, target, wide: !is32)
        moveStack(-slot)
        // PUSH R11
        code.bytes(0x41, 0x53)
    }

    private func pushKnownAddress(_ address: UInt64, _ item: BlockInstruction) {
        _ = emitStackOperand(-slot, write: true, item)
        let target = HostOperand.indexed(HostRegister.guestRSP, HostRegister.index, -slot)
        if let short = Int32(exactly: Int64(bitPattern: address)) {
            code.encode(wide: !is32, 0xC7, 0, target)
            code.word32(short)
            moveStack(-slot)
            // PUSH imm32
            code.byte(0x68)
            code.word32(short)
        } else {
            code.constant(HostRegister.address, address)
            code.store(HostRegister.address, target, wide: !is32)
            moveStack(-slot)
            // PUSH R10
            code.bytes(0x41, 0x52)
        }
    }

    /// What runs after the host's RET: R10 holds the address, flags are in AX.
    private func emitReturnPoint(_ item: BlockInstruction) {
        code.arithmetic(0, .register(HostRegister.rsp), 8)
        if linear != nil { return emitLink(item.nextOffset) }
        code.arithmetic(4, .register(HostRegister.address), -4096)
        code.store(HostRegister.address, .state(layout.codePage))
        let next = item.nextOffset
        if next < 4096 {
            emitLink(next)
        } else {
            // The return address is in the next page: the page base is right, the offset wraps.
            code.load(HostRegister.address, .state(layout.codePage))
            if next > 4096 { code.arithmetic(0, .register(HostRegister.address), Int32(next - 4096)) }
            emitTargetJump(.target, 0)
        }
    }

    func emitCall(_ item: BlockInstruction) {
        if item.operand(0).kind == .relative {
            saveFlagsIfLive(item.liveAtTarget)
            let target = targetOffset(item)
            if isSegmented, !isDirect(target) {
                emitSegmentedTarget(target, wraps: true)
                emitCallByTable(item, held: nil)
                emitReturnPoint(item)
                flags = .dead
                return
            }
            emitPollForTarget(item)
            emitReturnAddress(item)
            if isDirect(target) {
                addLink(code.pendingCall(), target)
            } else {
                let thunk = code.pendingCall()
                let over = code.pendingJump()
                code.resolve(thunk, to: code.here)
                emitTargetAddress(target)
                emitTargetJump(.target, 0)
                code.resolve(over, to: code.here)
            }
        } else {
            emitIndirectCall(item)
        }
        emitReturnPoint(item)
        flags = .dead
    }

    private func emitIndirectCall(_ item: BlockInstruction) {
        saveFlagsIfLive(Self.status)
        let held = heldTarget(item)
        if isInGroup, let held { return emitGroupedCall(item, held) }
        loadTarget(item)
        emitCallByTable(item, held: held)
    }

    /// Calls the code for R10. `held`: the register that has the target, too.
    private func emitCallByTable(_ item: BlockInstruction, held: UInt8?) {
        emitPollForTarget(item)
        // The table only has addresses that may be called.
        let miss = gates.emitTargetProbe(&code)
        stubs.append(Stub(kind: .branch, from: miss, pageOffset: item.pageOffset))
        if let held {
            emitReturnAddress(item)
            code.move(HostRegister.address, held)
            gates.emitTargetIndex(&code)
            code.encode(
                wide: false, 0xFF, 2, .cache(HostRegister.index, BranchTargets.offset + 8))
            return
        }
        code.load(HostRegister.index, .cache(HostRegister.index, BranchTargets.offset + 8))
        code.store(HostRegister.index, .state(layout.spill))
        code.store(HostRegister.address, .state(layout.targetAddress))
        emitReturnAddress(item)
        code.load(HostRegister.address, .state(layout.targetAddress))
        // CALL [spill]
        code.encode(wide: false, 0xFF, 2, .state(layout.spill))
    }

    /// The host register of an indirect call's target, if that is still in it when the return address is
    /// pushed.
    func heldTarget(_ item: BlockInstruction) -> UInt8? {
        guard !isSegmented, !item.hasMemoryOperand, item.operand(0).kind == .gpr else { return nil }
        let held = HostRegister.of(item.operand(0).register)
        return held == HostRegister.none || held == HostRegister.guestRSP ? nil : held
    }

    /// An indirect call at the end of a group: R11 is taken until the return address is pushed.
    private func emitGroupedCall(_ item: BlockInstruction, _ held: UInt8) {
        let entry = HostRegister.address
        emitPollForTarget(item)
        code.move(entry, held, wide: false)
        code.arithmetic(4, .register(entry), BranchTargets.mask, wide: false)
        code.encode(wide: true, 0x3B, held, .cache(entry, BranchTargets.offset))
        stubs.append(Stub(kind: .branch, from: code.pendingJumpIf(5), pageOffset: item.pageOffset))
        emitReturnAddress(item)
        code.move(HostRegister.address, held)
        gates.emitTargetIndex(&code)
        code.encode(wide: false, 0xFF, 2, .cache(HostRegister.index, BranchTargets.offset + 8))
    }

    func emitReturn(_ item: BlockInstruction) {
        saveFlagsIfLive(Self.status)
        let source = emitStackOperand(0, write: false, item)
        code.load(HostRegister.address, source, size: slot)
        if isSegmented { emitKey() }
        // CMP R10, [RSP + 8]
        code.bytes(0x4C, 0x3B, 0x54, 0x24)
        code.byte(8)
        let change = slot + Int32(truncatingIfNeeded: item.instruction.immediate & 0xFFFF)
        if change == slot {
            stubs.append(
                Stub(kind: .returnMiss, from: code.pendingJumpIf(5), pageOffset: item.pageOffset))
            moveStack(slot)
            code.byte(0xC3)
            flags = .dead
            return
        }
        let miss = code.shortJumpIf(5)
        moveStack(change)
        code.byte(0xC3)
        code.land(miss)
        // One level further out, as after a call that never returned: CMP R10, [RSP + 24].
        code.bytes(0x4C, 0x3B, 0x54, 0x24)
        code.byte(24)
        let over = code.shortJumpIf(5)
        moveStack(change)
        code.arithmetic(0, .register(HostRegister.rsp), 16)
        code.byte(0xC3)
        code.land(over)
        emitPollForTarget(item)
        let unknown = gates.emitTargetProbe(&code)
        stubs.append(Stub(kind: .branch, from: unknown, pageOffset: item.pageOffset))
        moveStack(change)
        gates.emitTargetJump(&code)
        flags = .dead
    }
}
