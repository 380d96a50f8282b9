import X86Architecture

/// Segmented code: 16-bit code, and 32-bit code in segments that are not the linear space. Operands have
/// a limit and a base, stack pointers 16 or 32 bits, branches an offset that may wrap.
///
/// All of it is code for anywhere: bases and limits are looked up when it runs. An offset in CS is the linear
/// address less the base; the table of targets and the return stack hold keys (`CPU.targetKey`).
extension Translator {
    // MARK: Memory

    /// Whether the operand's segment matters: its base, limit and rights, or that the offset wraps.
    func usesSegment(_ item: BlockInstruction) -> Bool {
        guard !isSegmented else { return true }
        let i = item.instruction
        return is32 && (i.segment >= SegmentNumber.fs || i.segment == SegmentNumber.cs || i.addressSize == 2)
    }

    /// The probe for a memory operand; R10 holds its linear address.
    func emitSegmentedProbe(
        _ item: BlockInstruction, size: Int, write: Bool, alignmentMask: UInt8
    ) -> Probe {
        emitOffset(item, into: HostRegister.address)
        return emitInSegment(
            item.instruction.segment, Probe(linear: HostRegister.address, size: size, write: write),
            alignmentMask, item)
    }

    /// The same for a slot of the stack, at `displacement` from the stack pointer or frame pointer in `base`.
    func emitSegmentedStack(
        _ base: UInt8, _ displacement: Int32, write: Bool, _ item: BlockInstruction
    ) -> Probe {
        let address = HostRegister.address
        saveFlagsIfLive(item.liveBefore)
        let isShort = displacement == 0 && !hasWideStack
        if !isShort {
            code.lea(
                address, base: base, index: HostRegister.none, scaleShift: 0, displacement, wide: false)
        }
        if !hasWideStack { code.extend16(address, isShort ? base : address) }
        return emitInSegment(
            SegmentNumber.ss, Probe(linear: address, size: Int(slot), write: write), 0, item)
    }

    /// R10, an offset in `segment`, becomes a linear address and is probed for. What the segment's limit or
    /// type does not allow goes to the interpreter.
    private func emitInSegment(
        _ segment: UInt8, _ probe: Probe, _ alignmentMask: UInt8, _ item: BlockInstruction
    ) -> Probe {
        let address = HostRegister.address
        var last = address
        if probe.size > 1 {
            last = HostRegister.index
            code.lea(
                last, base: address, index: HostRegister.none, scaleShift: 0, Int32(probe.size - 1),
                wide: true)
        }
        let limits = probe.write ? layout.writeLimits : layout.readLimits
        code.encode(wide: true, 0x3B, last, .state(limits + Int32(segment) * 8))
        addInterpretStub(code.pendingJumpIf(15), item)
        code.encode(wide: false, 0x03, address, .state(layout.effectiveBase + Int32(segment) * 8))
        var probe = probe
        probe.alignmentMask = alignmentMask
        emitProbe(probe, item)
        return probe
    }

    func emitSegmentedLeave(_ item: BlockInstruction) {
        let rbp = HostRegister.of(5)
        let probe = emitSegmentedStack(rbp, 0, write: false, item)
        if !hasWideStack { code.byte(0x66) }
        code.lea(
            HostRegister.guestRSP, base: rbp, index: HostRegister.none, scaleShift: 0, slot, wide: false)
        if slot == 2 { code.byte(0x66) }
        code.load(rbp, operand(of: probe, folds: false), wide: false)
    }

    // MARK: Branches

    /// What a RET of this block pops.
    var frame: ReturnFrame {
        guard is32 else { return .quad }
        let isNarrow = isSegmented && !hasWideStack
        return codeSize == .bits16 ? isNarrow ? .wordNarrow : .word : isNarrow ? .doubleNarrow : .double
    }

    /// R10, an offset in CS, becomes a key. Destroys the host's flags.
    func emitKey() {
        code.encode(wide: false, 0x03, HostRegister.address, .state(layout.codeBase))
        code.encode(wide: true, 0x0B, HostRegister.address, .state(layout.codeSegment))
    }

    /// R10 = key of `pageOffset`. `wraps`: of a branch, whose offset is cut to the size of the code. Destroys
    /// the host's flags.
    func emitSegmentedTarget(_ pageOffset: Int, wraps: Bool) {
        let address = HostRegister.address
        code.load(address, .state(layout.codePage), wide: false)
        code.lea(
            address, base: address, index: HostRegister.none, scaleShift: 0,
            Int32(truncatingIfNeeded: pageOffset), wide: false)
        guard wraps, codeSize == .bits16 else {
            code.encode(wide: true, 0x0B, address, .state(layout.codeSegment))
            return
        }
        code.encode(wide: false, 0x2B, address, .state(layout.codeBase))
        code.extend16(address, address)
        emitKey()
    }

    /// Pushes the offset of the next instruction on the guest's stack, and its key on the return stack.
    func emitSegmentedReturnAddress(_ item: BlockInstruction) {
        let index = HostRegister.index
        let target = emitStackOperand(-slot, write: true, item, folds: true)
        code.load(index, .state(layout.codePage), wide: false)
        code.lea(
            index, base: index, index: HostRegister.none, scaleShift: 0, Int32(item.nextOffset), wide: false)
        code.encode(wide: false, 0x2B, index, .state(layout.codeBase))
        code.store(index, target, size: slot)
        code.encode(wide: false, 0x03, index, .state(layout.codeBase))
        code.encode(wide: true, 0x0B, index, .state(layout.codeSegment))
        moveStack(-slot)
        // PUSH R11
        code.bytes(0x41, 0x53)
    }

    /// A conditional branch whose target is not known before it runs. One that the table does not know is
    /// done by the interpreter, which checks it.
    func emitSegmentedEdge(_ index: Int) {
        let item = block[index]
        if item.treatment == .conditionalJump { code.saveFlags() }
        emitPollForTarget(item)
        emitSegmentedTarget(targetOffset(item), wraps: true)
        let miss = gates.emitTargetProbe(&code)
        stubs.append(Stub(kind: .branch, from: miss, pageOffset: item.pageOffset))
        if item.instruction.mnemonic == .loop { decrementCounter(HostRegister.of(1), item) }
        gates.emitTargetJump(&code)
    }

    /// LOOP and JCXZ.
    func emitLoop(_ index: Int) {
        let item = block[index]
        let target = targetOffset(item), counter = HostRegister.of(1)
        let counts = item.instruction.mnemonic == .loop
        saveFlagsIfLive(item.liveBefore)
        let isLinked = !isSegmented || isDirect(target)
        // What may be left to the interpreter has not counted yet.
        let tested = counts && !isLinked ? HostRegister.index : counter
        if counts { decrementCounter(tested, item) }
        let size = item.instruction.addressSize
        if size == 2 { code.byte(0x66) }
        // TEST tested, tested
        code.encode(wide: size == 8, 0x85, tested, .register(tested))
        keepEntranceFree()
        let condition: UInt8 = counts ? 5 : 4
        guard isLinked else {
            stubs.append(
                Stub(
                    kind: .segmentedEdge(index: index), from: code.pendingJumpIf(condition),
                    pageOffset: item.pageOffset))
            if counts { decrementCounter(counter, item) }
            return
        }
        let isBack = isBackward(item.pageOffset, target)
        if isDirect(target), isBack {
            let over = code.pendingJumpIf(condition ^ 1)
            emitPoll(target)
            emitLink(target)
            code.resolve(over, to: code.here)
        } else if isDirect(target) {
            addLink(code.pendingJumpIf(condition), target)
        } else {
            stubs.append(
                Stub(
                    kind: .edge(saves: false, poll: isBack), from: code.pendingJumpIf(condition),
                    pageOffset: target))
        }
    }

    /// `target` = RCX, ECX or CX, less one. Leaves flags alone.
    private func decrementCounter(_ target: UInt8, _ item: BlockInstruction) {
        let size = item.instruction.addressSize
        if size == 2 { code.byte(0x66) }
        code.lea(
            target, base: HostRegister.of(1), index: HostRegister.none, scaleShift: 0, -1, wide: size == 8)
    }
}
