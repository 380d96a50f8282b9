/// Instructions that are copied: registers renamed, memory operands replaced by host addresses.
extension Translator {
    func emitCopy(_ item: BlockInstruction) {
        let i = item.instruction, shape = item.shape
        if shape.isUsual, emitUsual(item) { return }
        guard isCopyable(item) else { return emitEscape(item) }
        if emitPlainMove(item) { return }
        var rm = HostOperand.register(i.modRM & 7)
        if item.hasMemoryOperand {
            let memory = item.memoryOperand
            rm = emitMemoryOperand(
                item, size: Int(memory.size), write: memory.isWritten,
                alignmentMask: alignmentMask(item, memory),
                folds: shape.vvvv == .general)
        }
        var copy = CopyPlan(reg: i.modRM >> 3 & 7, rm: rm)
        chooseRegisters(item, &copy)
        placeFlags(item, needsRAX: copy.usesRAX)
        run(copy.before)
        emitInstruction(item, copy)
        run(copy.after)
    }

    /// Most instructions: general registers that have host registers, and at most one operand in memory.
    /// False, and nothing is emitted, when something else is among them.
    private func emitUsual(_ item: BlockInstruction) -> Bool {
        let i = item.instruction, shape = item.shape
        var reg = i.modRM >> 3 & 7, forceREX = false
        var other = Operand()
        if shape.reg == .general {
            other = item.operand(Int(shape.regOperand))
            reg = HostRegister.of(other.register)
            guard other.kind == .gpr, reg != HostRegister.none else { return false }
            forceREX = other.size == 1 && reg & 12 == 4
        }
        let rm: HostOperand
        if item.hasMemoryOperand {
            let memory = item.memoryOperand
            guard memory.kind == .memory, (1...32).contains(memory.size) else { return false }
            rm = emitMemoryOperand(item, size: Int(memory.size), write: memory.isWritten)
        } else {
            let operand = item.operand(Int(shape.rmOperand)), host = HostRegister.of(operand.register)
            guard operand.kind == .gpr, host != HostRegister.none, !(operand.isWritten && other.isWritten)
            else { return false }
            rm = .register(host)
            forceREX = forceREX || operand.size == 1 && host & 12 == 4
        }
        placeFlags(item)
        emitSizeAndLock(item)
        encodeAgain(item, reg, rm, forceREX: forceREX)
        emitImmediate(item)
        return true
    }

    private func emitSizeAndLock(_ item: BlockInstruction) {
        if takesWordPrefix(item) { code.byte(0x66) }
        if item.instruction.prefixes.contains(.lock) { code.byte(0xF0) }
    }

    /// The instruction's own opcode on other registers.
    private func encodeAgain(_ item: BlockInstruction, _ reg: UInt8, _ rm: HostOperand, forceREX: Bool) {
        let i = item.instruction
        code.encode(
            prefix: i.mandatoryPrefix, wide: i.rexW, map: i.opcodeMap, i.opcode, reg, rm, forceREX: forceREX)
    }

    /// MOV between a register and a guest register in memory is a load or a store.
    private func emitPlainMove(_ item: BlockInstruction) -> Bool {
        guard item.instruction.mnemonic == .mov, !item.hasMemoryOperand, item.shape.reg == .general,
            item.shape.rm == .general
        else { return false }
        let target = item.operand(0), source = item.operand(1)
        let to = HostRegister.of(target.register), from = HostRegister.of(source.register)
        if target.size >= 4, to != HostRegister.none, from == HostRegister.none {
            code.load(to, layout.register(source.register), wide: target.size == 8)
        } else if target.size == 8, to == HostRegister.none, from != HostRegister.none {
            code.store(from, layout.register(target.register))
        } else {
            return false
        }
        return true
    }

    /// What has to happen around the copied instruction.
    struct CopyPlan {
        var reg: UInt8
        var rm: HostOperand
        var vvvv: UInt8 = 0
        var forceREX = false
        var usesRAX = false
        var before = Steps()
        var after = Steps()
    }

    /// At most one for each field of an encoding.
    struct Steps {
        var count = 0
        var steps: InlineArray<3, Step> = .init(repeating: .load(0, guest: 0))
        mutating func append(_ step: Step) {
            steps[count] = step
            count += 1
        }
    }

    /// Moves between a guest register and the host register that stands in for it.
    enum Step {
        case load(UInt8, guest: UInt8), store(UInt8, guest: UInt8)
        /// The second byte of a guest register becomes the first of the stand-in, and back.
        case loadHigh(UInt8, host: UInt8), storeHigh(UInt8, host: UInt8)
    }

    private func run(_ steps: Steps) {
        for position in 0..<steps.count {
            switch steps.steps[position] {
            case .load(let register, let guest): code.load(register, layout.register(guest))
            case .store(let register, let guest): code.store(register, layout.register(guest))
            case .loadHigh(let register, let host): code.rotateRight(register, host, 8)
            case .storeHigh(let register, let host): code.rotateRight(host, register, 56)
            }
        }
    }

    func isCopyable(_ item: BlockInstruction) -> Bool {
        if item.hasMemoryOperand {
            let memory = item.memoryOperand
            guard memory.kind == .memory, (1...32).contains(memory.size) else { return false }
        } else if item.shape.reg == .general, item.shape.rm == .general {
            // Two stand-ins for one register that the instruction writes twice would not agree.
            let a = item.operand(Int(item.shape.regOperand)), b = item.operand(Int(item.shape.rmOperand))
            if a.register == b.register, a.kind != b.kind || a.isWritten && b.isWritten { return false }
        }
        return true
    }

    private func alignmentMask(_ item: BlockInstruction, _ memory: Operand) -> UInt8 {
        guard memory.size >= 16, VectorLowering.needsAlignment(item.instruction) else { return 0 }
        return memory.size - 1
    }

    private func chooseRegisters(_ item: BlockInstruction, _ copy: inout CopyPlan) {
        let shape = item.shape
        if !item.hasMemoryOperand {
            switch shape.rm {
            case .general: copy.rm = registerOperand(item, item.operand(Int(shape.rmOperand)), &copy)
            case .vector: copy.rm = .register(item.operand(Int(shape.rmOperand)).register)
            default: break
            }
        }
        switch shape.reg {
        case .general:
            // RAX would first have to give the flags back.
            let isFree = shape.vvvv != .general && !copy.rm.names(HostRegister.address)
            let spare = isFree ? HostRegister.address : HostRegister.rax
            copy.reg = standIn(item, item.operand(Int(shape.regOperand)), spare, &copy)
            copy.usesRAX = copy.reg == HostRegister.rax
        case .vector: copy.reg = item.operand(Int(shape.regOperand)).register
        default: break
        }
        switch shape.vvvv {
        case .general:
            let operand = item.operand(Int(shape.vvvvOperand))
            // MULX may name one register twice.
            let isSame = copy.usesRAX && operand.register == item.operand(Int(shape.regOperand)).register
            copy.vvvv = isSame ? copy.reg : standIn(item, operand, HostRegister.index, &copy)
        case .vector: copy.vvvv = item.operand(Int(shape.vvvvOperand)).register
        default: break
        }
        if shape.hasFixedAccumulator {
            copy.rm = .register(HostRegister.guestRAX)
            copy.reg = item.instruction.opcode >> 3 & 7
        }
    }

    /// The host register for a general operand; `spare` when the guest's is in memory or in the middle of a
    /// register.
    private func standIn(
        _ item: BlockInstruction, _ operand: Operand, _ spare: UInt8, _ copy: inout CopyPlan
    ) -> UInt8 {
        let host = HostRegister.of(operand.register)
        if operand.kind == .highByte {
            copy.before.append(.loadHigh(spare, host: host))
            if operand.isWritten { copy.after.append(.storeHigh(spare, host: host)) }
            return spare
        }
        if host != HostRegister.none {
            if operand.size == 1, host >= 4, host < 8 { copy.forceREX = true }
            return host
        }
        if !replaces(item, operand) { copy.before.append(.load(spare, guest: operand.register)) }
        if operand.isWritten { copy.after.append(.store(spare, guest: operand.register)) }
        return spare
    }

    /// Whether nothing of the register's old value stays.
    private func replaces(_ item: BlockInstruction, _ operand: Operand) -> Bool {
        guard operand.isWritten, !operand.isRead, operand.size >= 4 else { return false }
        switch item.instruction.mnemonic {
        case .mov, .movzx, .movsx, .movsxd, .movbe: return true
        default: return false
        }
    }

    /// The same for ModRM.rm, which may name the guest register's place in memory.
    private func registerOperand(
        _ item: BlockInstruction, _ operand: Operand, _ copy: inout CopyPlan
    ) -> HostOperand {
        // The bit offset of BT and its relatives would reach out of a memory operand.
        if !item.traits.contains(.bitString), operand.kind == .gpr,
            HostRegister.of(operand.register) == HostRegister.none,
            !operand.isWritten || operand.size != 4
        {
            return layout.register(operand.register)
        }
        return .register(standIn(item, operand, HostRegister.address, &copy))
    }

    // MARK: Encoding

    /// Whether 64-bit mode needs 66 for the size of the operands. In 16-bit code words are the default, also
    /// of instructions that have none, which the prefix would change.
    func takesWordPrefix(_ item: BlockInstruction) -> Bool {
        let i = item.instruction
        guard i.operandSize == 2, i.mandatoryPrefix != 0x66 else { return false }
        return codeSize != .bits16 || item.operand(0).size == 2 || item.operand(1).size == 2
    }

    private func emitInstruction(_ item: BlockInstruction, _ copy: CopyPlan) {
        let i = item.instruction, shape = item.shape
        if i.prefixes.contains(.vex) { return emitVEX(item, copy) }
        if item.traits.contains(.x87) { return emitX87(item, copy) }
        emitSizeAndLock(item)
        if shape.hasFixedAccumulator {
            // The short forms for the accumulator; TEST's are not in the row of the others.
            let isByte = i.opcode & 1 == 0
            let isTest = i.mnemonic == .test
            code.encode(
                wide: i.rexW, (isTest ? 0xF6 : 0x80) | (isByte ? 0 : 1), isTest ? 0 : copy.reg, copy.rm)
        } else if i.modRMOffset == 0 {
            if i.mandatoryPrefix != 0 { code.byte(i.mandatoryPrefix) }
            if i.opcodeMap != 0 { code.byte(0x0F) }
            code.byte(i.opcode)
        } else {
            encodeAgain(item, copy.reg, copy.rm, forceREX: copy.forceREX)
        }
        emitImmediate(item)
    }

    func emitImmediate(_ item: BlockInstruction) {
        if let last = item.shape.lastByteOperand {
            code.byte(item.operand(Int(last)).register << 4)
            return
        }
        let i = item.instruction
        switch i.immediateSize {
        case 0: break
        case 1: code.byte(UInt8(truncatingIfNeeded: i.immediate))
        case 2:
            code.bytes(UInt8(truncatingIfNeeded: i.immediate), UInt8(truncatingIfNeeded: i.immediate >> 8))
        default: code.word32(Int32(truncatingIfNeeded: i.immediate))
        }
    }

    private func emitX87(_ item: BlockInstruction, _ copy: CopyPlan) {
        let i = item.instruction
        if case .register = copy.rm {
            code.bytes(i.opcode, i.modRM)
        } else {
            code.encode(wide: false, i.opcode, i.modRM >> 3 & 7, copy.rm)
        }
    }

    /// A VEX instruction, always with the three-byte prefix.
    private func emitVEX(_ item: BlockInstruction, _ copy: CopyPlan) {
        let i = item.instruction, shape = item.shape
        // Outside 64-bit mode W does not widen general operands (SDM vol. 2 §2.3.5.6).
        let wide =
            i.rexW && !(is32 && (shape.reg == .general || shape.rm == .general || shape.vvvv == .general))
        var base: UInt8 = 0, index: UInt8 = 0
        switch copy.rm {
        case .register(let number), .memory(let number, _): base = number
        case .indexed(let number, let other, _): (base, index) = (number, other)
        case .cache(let other, _): (base, index) = (HostRegister.window, other)
        case .state: base = HostRegister.window
        }
        code.byte(0xC4)
        code.byte(
            (copy.reg & 8 == 0 ? 0x80 : 0) | (index & 8 == 0 ? 0x40 : 0) | (base & 8 == 0 ? 0x20 : 0)
                | i.opcodeMap)
        code.byte((wide ? 0x80 : 0) | (~copy.vvvv & 15) << 3 | i.vexL << 2 | i.vexPP)
        code.byte(i.opcode)
        if i.modRMOffset != 0 { code.modRM(copy.reg & 7, copy.rm) }
        emitImmediate(item)
    }
}
