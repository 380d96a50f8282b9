/// Near branches. At every way out of a block the flags are in AX if anybody may read them.
extension Translator {
    /// Whether a branch from `item` to `target` in the same page goes back, so that it must be bounded.
    private func isBackward(_ from: Int, _ target: Int) -> Bool { target <= from }

    /// Leaves when something wants attention, or the return stack is full; goes on at `pageOffset` later.
    mutating func emitPoll(_ pageOffset: Int) {
        code.encode(wide: true, 0x3B, HostRegister.rsp, .state(layout.callLimit))
        stubs.append(Stub(kind: .goOn, from: code.pendingJumpIf(2), pageOffset: pageOffset))
    }

    /// A jump to `pageOffset`: direct in the page, else by the table of targets.
    mutating func emitLink(_ pageOffset: Int) {
        if (0..<4096).contains(pageOffset) {
            let site = code.pendingJump()
            stubs.append(Stub(kind: .link(site: site), from: site, pageOffset: pageOffset))
        } else {
            emitTargetAddress(pageOffset)
            emitTargetJump(.target, 0)
        }
    }

    /// Goes to the code for R10; `miss` says what happens when the table does not know it.
    private mutating func emitTargetJump(_ miss: Stub.Kind, _ pageOffset: Int) {
        let site = gates.emitTargetProbe(&code)
        stubs.append(Stub(kind: miss, from: site, pageOffset: pageOffset))
        gates.emitTargetJump(&code)
    }

    /// R10 = linear address of `pageOffset`.
    private mutating func emitTargetAddress(_ pageOffset: Int) {
        code.load(HostRegister.address, .state(layout.codePage))
        code.lea(
            HostRegister.address, base: HostRegister.address, index: HostRegister.none, scaleShift: 0,
            Int32(truncatingIfNeeded: pageOffset), wide: true)
    }

    /// The end of a block that goes on elsewhere.
    mutating func emitDirect(to pageOffset: Int, live: UInt16) {
        saveFlagsIfLive(live)
        let from = block.last?.pageOffset ?? pageOffset
        if isBackward(from, pageOffset) { emitPoll(pageOffset) }
        emitLink(pageOffset)
    }

    mutating func emitJump(_ item: BlockInstruction) {
        let i = item.instruction
        if i.operand0.kind == .relative {
            emitDirect(to: targetOffset(item), live: item.liveAtTarget)
        } else {
            saveFlagsIfLive(Self.status)
            loadTarget(item)
            emitPollForTarget(item)
            emitTargetJump(.branch, item.pageOffset)
        }
        flags = .dead
    }

    /// R10 = the operand of an indirect branch.
    private mutating func loadTarget(_ item: BlockInstruction) {
        let i = item.instruction
        if i.hasMemoryOperand {
            let source = emitMemoryOperand(item, size: 8, write: false)
            code.load(HostRegister.address, source)
        } else {
            code.move(HostRegister.address, inRegister(i.operand0.register))
        }
    }

    /// Before a call or an indirect jump: it has to wait when something wants attention.
    private mutating func emitPollForTarget(_ item: BlockInstruction) {
        code.encode(wide: true, 0x3B, HostRegister.rsp, .state(layout.callLimit))
        stubs.append(Stub(kind: .goOn, from: code.pendingJumpIf(2), pageOffset: item.pageOffset))
    }

    mutating func emitConditionalJump(_ item: BlockInstruction) {
        let target = targetOffset(item), live = item.liveAtTarget
        let condition = item.instruction.condition
        restoreFlags()
        let saves = live != 0
        let poll = isBackward(item.pageOffset, target)
        if !(0..<4096).contains(target) {
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
            let site = code.pendingJumpIf(condition)
            stubs.append(Stub(kind: .link(site: site), from: site, pageOffset: target))
        }
        flags = .host
    }

    // MARK: Calls and returns

    /// Pushes the return address on the guest's stack and, with where it is translated, on the return stack.
    private mutating func emitReturnAddress(_ item: BlockInstruction) {
        let target = emitStackOperand(-8, write: true, item, folds: true)
        let index = HostRegister.index
        code.load(index, .state(layout.codePage))
        code.lea(
            index, base: index, index: HostRegister.none, scaleShift: 0, Int32(item.nextOffset), wide: true)
        code.store(index, target)
        moveStack(-8)
        // PUSH R11
        code.bytes(0x41, 0x53)
    }

    /// What runs after the host's RET: R10 holds the address, flags are in AX.
    private mutating func emitReturnPoint(_ item: BlockInstruction) {
        code.arithmetic(0, .register(HostRegister.rsp), 8)
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

    mutating func emitCall(_ item: BlockInstruction) {
        let i = item.instruction
        if i.operand0.kind == .relative {
            saveFlagsIfLive(item.liveAtTarget)
            let target = targetOffset(item)
            emitPollForTarget(item)
            emitReturnAddress(item)
            if (0..<4096).contains(target) {
                let site = code.pendingCall()
                stubs.append(Stub(kind: .link(site: site), from: site, pageOffset: target))
            } else {
                let thunk = code.pendingCall()
                let over = code.pendingJump()
                code.resolve(thunk, to: code.here)
                emitTargetAddress(target)
                emitTargetJump(.target, 0)
                code.resolve(over, to: code.here)
            }
        } else {
            saveFlagsIfLive(Self.status)
            loadTarget(item)
            emitPollForTarget(item)
            // The table only has addresses that may be called.
            let miss = gates.emitTargetProbe(&code)
            stubs.append(Stub(kind: .branch, from: miss, pageOffset: item.pageOffset))
            code.load(HostRegister.index, .cache(HostRegister.index, BranchTargets.offset + 8))
            code.store(HostRegister.index, .state(layout.spill))
            code.arithmetic(4, .register(HostRegister.address), -4096)
            code.store(HostRegister.address, .state(layout.targetPage))
            emitReturnAddress(item)
            code.load(HostRegister.address, .state(layout.targetPage))
            code.store(HostRegister.address, .state(layout.codePage))
            // CALL gs:[spill]
            code.encode(wide: false, 0xFF, 2, .state(layout.spill))
        }
        emitReturnPoint(item)
        flags = .dead
    }

    mutating func emitReturn(_ item: BlockInstruction) {
        saveFlagsIfLive(Self.status)
        let source = emitStackOperand(0, write: false, item)
        code.load(HostRegister.address, source)
        // CMP R10, [RSP + 8]
        code.bytes(0x4C, 0x3B, 0x54, 0x24)
        code.byte(8)
        let miss = code.shortJumpIf(5)
        let change = 8 + Int32(truncatingIfNeeded: item.instruction.immediate & 0xFFFF)
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
