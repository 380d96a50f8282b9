/// Integer instructions with a form of their own in translated code.
extension Translator {
    // MARK: Stack

    func emitPush(_ item: BlockInstruction) {
        let i = item.instruction, operand = i.operand0
        if operand.isMemory {
            let source = emitMemoryOperand(item, size: Int(slot), write: false)
            code.load(HostRegister.address, source, size: slot)
            code.store(HostRegister.address, .state(layout.spill))
            let target = emitStackOperand(-slot, write: true, item, folds: true)
            code.load(HostRegister.index, .state(layout.spill))
            code.store(HostRegister.index, target, size: slot)
        } else if operand.kind == .segment {
            let target = emitStackOperand(-slot, write: true, item, folds: true)
            code.load(HostRegister.index, layout.selector(operand.register), size: 2)
            code.store(HostRegister.index, target, size: slot)
        } else {
            let host = operand.kind == .immediate ? 0 : HostRegister.of(operand.register)
            let isInMemory = host == HostRegister.none
            let target = emitStackOperand(-slot, write: true, item, folds: isInMemory)
            if operand.kind == .immediate {
                if slot == 2 { code.byte(0x66) }
                code.encode(wide: !is32, 0xC7, 0, target)
                if slot == 2 {
                    code.bytes(
                        UInt8(truncatingIfNeeded: i.immediate), UInt8(truncatingIfNeeded: i.immediate >> 8))
                } else {
                    code.word32(Int32(truncatingIfNeeded: i.immediate))
                }
            } else if isInMemory {
                // In a group R11 is taken, else R10.
                let spare = isInGroup ? HostRegister.address : HostRegister.index
                code.load(spare, layout.register(operand.register))
                code.store(spare, target)
            } else {
                code.store(host, target, size: slot)
            }
        }
        moveStack(-slot)
    }

    /// The host register of a guest register, or R11 with its value.
    func inRegister(_ guest: UInt8) -> UInt8 {
        let host = HostRegister.of(guest)
        guard host == HostRegister.none else { return host }
        code.load(HostRegister.index, layout.register(guest))
        return HostRegister.index
    }

    func emitPop(_ item: BlockInstruction) {
        let source = emitStackOperand(0, write: false, item)
        let guest = item.instruction.operand0.register
        let host = HostRegister.of(guest)
        if host == HostRegister.guestRSP {
            code.load(host, source, wide: !is32)
            return
        }
        if host == HostRegister.none {
            code.load(HostRegister.address, source)
            code.store(HostRegister.address, layout.register(guest))
        } else {
            if slot == 2 { code.byte(0x66) }
            code.load(host, source, wide: slot == 8)
        }
        moveStack(slot)
    }

    func emitLeave(_ item: BlockInstruction) {
        let rbp = HostRegister.of(5)
        if isSegmented { return emitSegmentedLeave(item) }
        saveFlagsIfLive(item.liveBefore)
        emitProbe(Probe(linear: rbp, size: Int(slot), write: false), item)
        code.lea(
            HostRegister.guestRSP, base: rbp, index: HostRegister.none, scaleShift: 0, slot, wide: !is32)
        code.load(rbp, .indexed(rbp, HostRegister.index, 0), wide: !is32)
    }

    // MARK: Moves

    /// MOV between the accumulator and memory at an address in the instruction.
    func emitAbsolute(_ item: BlockInstruction) {
        let memory = item.memoryOperand
        let operand = emitMemoryOperand(item, size: Int(memory.size), write: memory.isWritten)
        if memory.size == 2 { code.byte(0x66) }
        let opcode: UInt8 = (memory.isWritten ? 0x88 : 0x8A) | (memory.size == 1 ? 0 : 1)
        code.encode(wide: memory.size == 8, opcode, HostRegister.guestRAX, operand)
    }

    func emitLea(_ item: BlockInstruction) {
        let i = item.instruction
        let host = HostRegister.of(i.operand0.register)
        if i.operandSize != 2, host != HostRegister.none, let known = knownOffset(item) {
            code.constant(host, i.operandSize == 8 ? known : known & 0xFFFF_FFFF)
            return
        }
        if i.operandSize != 2, host != HostRegister.none, i.addressSize >= i.operandSize,
            i.base != Instruction.ripBase,
            i.base >= 16 || HostRegister.of(i.base) != HostRegister.none,
            i.index >= 16 || HostRegister.of(i.index) != HostRegister.none,
            Int32(exactly: i.displacement) != nil
        {
            // The result's size cuts the address: the same as computing in that size.
            emitOffset32Safe(item, into: host)
            return
        }
        emitOffset(item, into: HostRegister.address)
        storeResult(HostRegister.address, i.operand0.register, size: i.operandSize)
    }

    private func emitOffset32Safe(_ item: BlockInstruction, into target: UInt8) {
        let i = item.instruction
        let base = i.base < 16 ? HostRegister.of(i.base) : HostRegister.none
        let index = i.index < 16 ? HostRegister.of(i.index) : HostRegister.none
        let displacement = Int32(truncatingIfNeeded: i.displacement)
        code.lea(
            target, base: base, index: index, scaleShift: i.scaleShift, displacement, wide: i.operandSize == 8
        )
    }

    /// Writes `register` to a guest register as x86 does.
    func storeResult(_ register: UInt8, _ guest: UInt8, size: UInt8) {
        let host = HostRegister.of(guest)
        if host != HostRegister.none {
            if size == 2 { code.byte(0x66) }
            code.encode(wide: size == 8, 0x8B, host, .register(register))
            return
        }
        if size == 2 {
            code.byte(0x66)
        } else if size == 4 {
            code.move(register, register, wide: false)
        }
        code.store(register, layout.register(guest), wide: size != 2)
    }

    /// MOV register, immediate.
    func emitMoveImmediate(_ item: BlockInstruction) {
        let i = item.instruction
        let operand = i.operand0
        var host = HostRegister.of(operand.register)
        if operand.kind == .highByte {
            code.rotateRight(HostRegister.address, host, 8)
            code.encode(wide: false, 0xC6, 0, .register(HostRegister.address))
            code.byte(UInt8(truncatingIfNeeded: i.immediate))
            code.rotateRight(host, HostRegister.address, 56)
            return
        }
        if operand.size < 4 {
            let place: HostOperand =
                host == HostRegister.none ? layout.register(operand.register) : .register(host)
            if operand.size == 2 { code.byte(0x66) }
            code.encode(
                wide: false, operand.size == 1 ? 0xC6 : 0xC7, 0, place, forceREX: host >= 4 && host < 8)
            code.byte(UInt8(truncatingIfNeeded: i.immediate))
            if operand.size == 2 { code.byte(UInt8(truncatingIfNeeded: i.immediate >> 8)) }
            return
        }
        let isInMemory = host == HostRegister.none
        if isInMemory { host = HostRegister.address }
        code.constant(host, operand.size == 4 ? i.immediate & 0xFFFF_FFFF : i.immediate)
        if isInMemory { code.store(host, layout.register(operand.register)) }
    }

    /// XCHG rAX, register.
    func emitExchangeShort(_ item: BlockInstruction) {
        let i = item.instruction
        let other = i.operand0.register
        let wide = i.operandSize == 8
        let rax = HostRegister.guestRAX
        if i.operandSize == 2 {
            let host = HostRegister.of(other)
            guard host != HostRegister.none else { return emitEscape(item) }
            code.move(HostRegister.address, host, wide: false)
            for (target, source) in [(host, rax), (rax, HostRegister.address)] {
                code.byte(0x66)
                code.move(target, source, wide: false)
            }
            return
        }
        let host = inRegister(other)
        code.move(HostRegister.address, host, wide: wide)
        let isInMemory = HostRegister.of(other) == HostRegister.none
        code.move(isInMemory ? HostRegister.index : host, rax, wide: wide)
        if isInMemory { code.store(HostRegister.index, layout.register(other)) }
        code.move(rax, HostRegister.address, wide: wide)
    }

    /// INC and DEC of 32-bit code, with the register in the opcode: as in FE and FF.
    func emitShortIncrement(_ item: BlockInstruction) {
        let i = item.instruction
        placeFlags(item)
        if i.operandSize == 2 { code.byte(0x66) }
        code.encode(
            wide: false, 0xFF, i.mnemonic == .inc ? 0 : 1, .register(HostRegister.of(i.operand0.register)))
    }

    func emitByteSwap(_ item: BlockInstruction) {
        let i = item.instruction
        let guest = i.operand0.register
        let wide = i.operandSize == 8
        let host = inRegister(guest)
        // BSWAP
        let rex: UInt8 = (wide ? 8 : 0) | host >> 3
        if rex != 0 { code.byte(0x40 | rex) }
        code.bytes(0x0F, 0xC8 | host & 7)
        if HostRegister.of(guest) == HostRegister.none { code.store(host, layout.register(guest)) }
    }

    // MARK: The accumulator

    /// Instructions that name RAX: it is in its own place for them.
    func emitAccumulator(_ item: BlockInstruction) {
        let i = item.instruction
        let row = InstructionRow(index: i.row)
        guard let operand = emitSource(item, write: i.mnemonic != .mul && i.mnemonic != .imul) else {
            return emitEscape(item)
        }
        placeFlags(item, needsRAX: true)
        var reg = i.modRM >> 3 & 7
        if item.shape.reg == .general {
            // CMPXCHG: R11 is free after the probe.
            reg = inRegister(item.operand(Int(item.shape.regOperand)).register)
        }
        code.move(HostRegister.rax, HostRegister.guestRAX)
        if takesWordPrefix(item) || !row.hasModRM && i.operandSize == 2 { code.byte(0x66) }
        if i.prefixes.contains(.lock) { code.byte(0xF0) }
        if !row.hasModRM {
            if i.rexW { code.byte(0x48) }
            code.byte(i.opcode)
        } else {
            let isByte = i.operand0.size == 1
            var force = isByte && reg >= 4 && reg < 8 && item.shape.reg == .general
            if isByte, case .register(let number) = operand, number >= 4, number < 8 { force = true }
            code.encode(wide: i.rexW, map: i.opcodeMap, i.opcode, reg, operand, forceREX: force)
        }
        code.move(HostRegister.guestRAX, HostRegister.rax)
    }

    /// ModRM.rm as a host operand, probed when in memory; nil when this file cannot have it.
    private func emitSource(_ item: BlockInstruction, write: Bool) -> HostOperand? {
        let i = item.instruction
        if item.hasMemoryOperand {
            let size: Int
            switch i.mnemonic {
            case .cmpxchg8b: size = 8
            case .cmpxchg16b: size = 16
            default: size = Int(item.memoryOperand.size)
            }
            return emitMemoryOperand(
                item, size: size, write: write, alignmentMask: i.mnemonic == .cmpxchg16b ? 15 : 0, folds: true
            )
        }
        guard item.shape.rm == .general else { return .register(0) }
        let operand = item.operand(Int(item.shape.rmOperand))
        let host = HostRegister.of(operand.register)
        // CMPXCHG with RAX as its destination would need it in two places.
        if write, operand.register == 0 { return nil }
        if host != HostRegister.none { return .register(host) }
        // CMPXCHG r32 would have to clear the upper half of a register in memory.
        return write && operand.size == 4 ? nil : layout.register(operand.register)
    }

    /// DIV and IDIV: the host would fault on a quotient that does not fit, so the interpreter gets all cases
    /// in which it might not.
    func emitDivide(_ item: BlockInstruction) {
        let i = item.instruction
        guard let operand = emitSource(item, write: false) else { return emitEscape(item) }
        saveFlagsIfLive(item.liveBefore)
        let wide = i.rexW, isWord = i.operandSize == 2
        let rdx = HostRegister.rdx
        if item.treatment == .divide {
            // The quotient fits when the high half is below the divisor.
            if isWord { code.byte(0x66) }
            code.encode(wide: wide, 0x3B, rdx, operand)
            addInterpretStub(code.pendingJumpIf(3), item)
        } else {
            // Sound when RDX is the sign of RAX, and the divisor is neither 0 nor -1.
            if isWord { return emitEscape(item) }
            code.load(HostRegister.index, operand, wide: wide)
            code.arithmetic(0, .register(HostRegister.index), 1, wide: wide)
            code.arithmetic(7, .register(HostRegister.index), 1, wide: wide)
            addInterpretStub(code.pendingJumpIf(6), item)
            code.move(HostRegister.index, HostRegister.guestRAX, wide: wide)
            // SAR R11, 63 or 31
            code.encode(wide: wide, 0xC1, 7, .register(HostRegister.index))
            code.byte(wide ? 63 : 31)
            code.encode(wide: wide, 0x3B, rdx, .register(HostRegister.index))
            addInterpretStub(code.pendingJumpIf(5), item)
        }
        code.move(HostRegister.rax, HostRegister.guestRAX)
        if isWord { code.byte(0x66) }
        code.encode(wide: wide, 0xF7, i.modRM >> 3 & 7, operand)
        code.move(HostRegister.guestRAX, HostRegister.rax)
        flags = .host
    }

    func addInterpretStub(_ from: Assembler.Site, _ item: BlockInstruction) {
        stubs.append(Stub(kind: .interpret, from: from, pageOffset: item.pageOffset))
    }

    /// CBW, CWDE, CDQE: sign extensions inside RAX.
    func emitConvert(_ item: BlockInstruction) {
        let rax = HostRegister.guestRAX
        switch item.instruction.mnemonic {
        case .cbw:
            code.byte(0x66)
            code.encode(wide: false, map: 1, 0xBE, rax, .register(rax))
        case .cwde: code.encode(wide: false, map: 1, 0xBF, rax, .register(rax))
        default: code.encode(wide: true, 0x63, rax, .register(rax))
        }
    }

    // MARK: LAHF and SAHF

    func emitLoadFlags(_ item: BlockInstruction) {
        placeFlags(item, needsRAX: true)
        code.move(HostRegister.rax, HostRegister.guestRAX)
        code.byte(0x9E)
        flags = .host
    }

    func emitStoreFlags(_ item: BlockInstruction) {
        restoreFlags()
        code.byte(0x9F)
        // MOVZX EAX, AH; the guest's AH = AL
        code.bytes(0x0F, 0xB6, 0xC4)
        let rax = HostRegister.guestRAX
        code.rotateRight(HostRegister.address, rax, 8)
        code.encode(wide: false, 0x8A, HostRegister.address, .register(HostRegister.rax))
        code.rotateRight(rax, HostRegister.address, 56)
    }
}
