import X86Architecture

/// System instructions that kernels execute all the time.
extension Translator {
    /// Lets the interpreter do what ring 0 alone may.
    private func requireKernel(_ item: BlockInstruction) {
        saveFlagsIfLive(item.liveBefore)
        // CMP BYTE [cpl], 0
        code.encode(wide: false, 0x80, 7, .state(layout.privilege))
        code.byte(0)
        addInterpretStub(code.pendingJumpIf(5), item)
    }

    func emitClearInterrupts(_ item: BlockInstruction) {
        requireKernel(item)
        code.arithmetic(4, .state(layout.otherFlags), ~Int32(RFlags.interrupt.rawValue))
    }

    /// Without a waiting interrupt STI is done here. One that comes now is only looked for where translated
    /// code leaves; `SoftVCPU.holdAfterSTI` sees to it that the instruction behind STI is executed before.
    func emitSetInterrupts(_ item: BlockInstruction) {
        requireKernel(item)
        code.encode(wide: false, 0x80, 7, .state(layout.interruptHeld))
        code.byte(0)
        addInterpretStub(code.pendingJumpIf(5), item)
        code.arithmetic(1, .state(layout.otherFlags), Int32(RFlags.interrupt.rawValue))
        code.encode(wide: false, 0xC7, 0, .state(layout.shadowOffset))
        code.word32(Int32(item.nextOffset & 0xFFF))
    }

    func emitSwapGS(_ item: BlockInstruction) {
        requireKernel(item)
        let other = HostOperand.state(layout.kernelGSBase)
        let visible = HostOperand.state(layout.gsBase)
        code.load(HostRegister.address, other)
        code.load(HostRegister.index, visible)
        code.store(HostRegister.index, other)
        code.store(HostRegister.address, visible)
        code.store(HostRegister.address, .state(layout.effectiveBase + Int32(SegmentNumber.gs) * 8))
    }

    /// PUSHFQ: the image is put together from AX and `otherFlags`; VM and RF are pushed as zeros.
    func emitPushFlags(_ item: BlockInstruction) {
        let image = HostRegister.address, overflow = HostRegister.index
        // Virtual-8086 mode may fault.
        if isSegmented { requireKernel(item) }
        if flags == .host {
            code.saveFlags()
            flags = .saved
        }
        code.move(image, HostRegister.rax, wide: false)
        // SHR image, 8; MOVZX overflow, AL; SHL overflow, 11
        code.encode(wide: false, 0xC1, 5, .register(image))
        code.byte(8)
        code.arithmetic(4, .register(image), 0xD5, wide: false)
        code.encode(wide: false, map: 1, 0xB6, overflow, .register(HostRegister.rax))
        code.encode(wide: false, 0xC1, 4, .register(overflow))
        code.byte(11)
        code.encode(wide: false, 0x0B, image, .register(overflow))
        code.encode(wide: true, 0x0B, image, .state(layout.otherFlags))
        let hidden = RFlags.virtual8086.rawValue | RFlags.resume.rawValue
        code.arithmetic(4, .register(image), ~Int32(hidden))
        code.store(image, .state(layout.spill))
        let target = emitStackOperand(-slot, write: true, item, folds: true)
        code.load(overflow, .state(layout.spill))
        code.store(overflow, target, size: slot)
        moveStack(-slot)
    }

    /// REP MOVS and REP STOS: at once when all of it lies in one page, else by the interpreter's body.
    func emitRepeat(_ item: BlockInstruction) {
        saveFlagsIfLive(item.liveBefore)
        let isMove = item.treatment == .repeatMove
        let size = item.instruction.operand0.size.trailingZeroBitCount
        code.call(isMove ? gates.moves[size] : gates.stores[size])
        let over = code.pendingJump()
        let before = flags
        emitEscape(item)
        code.resolve(over, to: code.here)
        flags = before == .dead ? .dead : .saved
    }
}
