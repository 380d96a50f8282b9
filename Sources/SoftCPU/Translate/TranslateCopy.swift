/// Instructions that are copied: registers renamed, memory operands replaced by host addresses.
extension Translator {
    mutating func emitCopy(_ item: BlockInstruction) {
        let i = item.instruction, shape = item.shape
        guard isCopyable(i, shape) else { return emitEscape(item) }
        var rm = HostOperand.register(i.modRM & 7)
        if i.hasMemoryOperand {
            let memory = memoryOperand(i)
            rm = emitMemoryOperand(
                item, size: Int(memory.size), write: memory.isWritten,
                alignmentMask: alignmentMask(i, memory),
                folds: shape.vvvv == .general)
        }
        var copy = CopyPlan(reg: i.modRM >> 3 & 7, rm: rm)
        chooseRegisters(item, &copy)
        placeFlags(item, needsRAX: copy.usesRAX)
        run(copy.before)
        emitInstruction(i, shape, copy)
        run(copy.after)
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

    private mutating func run(_ steps: Steps) {
        for position in 0..<steps.count {
            switch steps.steps[position] {
            case .load(let register, let guest): code.load(register, layout.register(guest))
            case .store(let register, let guest): code.store(register, layout.register(guest))
            case .loadHigh(let register, let host): code.rotateRight(register, host, 8)
            case .storeHigh(let register, let host): code.rotateRight(host, register, 56)
            }
        }
    }

    func memoryOperand(_ i: Instruction) -> Operand {
        for position in 0..<4 where i.operand(position).isMemory { return i.operand(position) }
        preconditionFailure("an instruction with a memory operand")
    }

    func isCopyable(_ i: Instruction, _ shape: RowShape) -> Bool {
        if i.hasMemoryOperand {
            let memory = memoryOperand(i)
            guard memory.kind == .memory, (1...32).contains(memory.size) else { return false }
        } else if shape.reg == .general, shape.rm == .general {
            // Two stand-ins for one register that the instruction writes twice would not agree.
            let a = i.operand(Int(shape.regOperand)), b = i.operand(Int(shape.rmOperand))
            if a.register == b.register, a.kind != b.kind || a.isWritten && b.isWritten { return false }
        }
        return true
    }

    private func alignmentMask(_ i: Instruction, _ memory: Operand) -> UInt8 {
        guard memory.size >= 16, VectorLowering.needsAlignment(i) else { return 0 }
        return memory.size - 1
    }

    private func chooseRegisters(_ item: BlockInstruction, _ copy: inout CopyPlan) {
        let i = item.instruction, shape = item.shape
        switch shape.reg {
        case .general:
            let operand = i.operand(Int(shape.regOperand))
            copy.reg = standIn(operand, HostRegister.rax, &copy)
            if copy.reg == HostRegister.rax { copy.usesRAX = true }
        case .vector: copy.reg = i.operand(Int(shape.regOperand)).register
        default: break
        }
        if !i.hasMemoryOperand {
            switch shape.rm {
            case .general: copy.rm = registerOperand(i, i.operand(Int(shape.rmOperand)), &copy)
            case .vector: copy.rm = .register(i.operand(Int(shape.rmOperand)).register)
            default: break
            }
        }
        switch shape.vvvv {
        case .general:
            let operand = i.operand(Int(shape.vvvvOperand))
            // MULX may name one register twice.
            let isSame = copy.usesRAX && operand.register == i.operand(Int(shape.regOperand)).register
            copy.vvvv = isSame ? copy.reg : standIn(operand, HostRegister.index, &copy)
        case .vector: copy.vvvv = i.operand(Int(shape.vvvvOperand)).register
        default: break
        }
        if shape.hasFixedAccumulator {
            copy.rm = .register(HostRegister.guestRAX)
            copy.reg = i.opcode >> 3 & 7
        }
    }

    /// The host register for a general operand; `spare` when the guest's is in memory or in the middle of a
    /// register.
    private func standIn(_ operand: Operand, _ spare: UInt8, _ copy: inout CopyPlan) -> UInt8 {
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
        copy.before.append(.load(spare, guest: operand.register))
        if operand.isWritten { copy.after.append(.store(spare, guest: operand.register)) }
        return spare
    }

    /// The same for ModRM.rm, which may name the guest register's place in memory.
    private func registerOperand(
        _ i: Instruction, _ operand: Operand, _ copy: inout CopyPlan
    ) -> HostOperand {
        // The bit offset of BT and its relatives would reach out of a memory operand.
        if !i.attributes.contains(.bitString), operand.kind == .gpr,
            HostRegister.of(operand.register) == HostRegister.none,
            !operand.isWritten || operand.size != 4
        {
            return layout.register(operand.register)
        }
        return .register(standIn(operand, HostRegister.address, &copy))
    }

    // MARK: Encoding

    private mutating func emitInstruction(_ i: Instruction, _ shape: RowShape, _ copy: CopyPlan) {
        if i.prefixes.contains(.vex) { return emitVEX(i, shape, copy) }
        let row = InstructionRow(index: i.row)
        if row.attributes.contains(.x87) { return emitX87(i, copy) }
        if i.operandSize == 2, i.mandatoryPrefix != 0x66 { code.byte(0x66) }
        if i.prefixes.contains(.lock) { code.byte(0xF0) }
        let wide = i.rexW
        if shape.hasFixedAccumulator {
            // The short forms for the accumulator; TEST's are not in the row of the others.
            let isByte = i.opcode & 1 == 0
            let isTest = i.mnemonic == .test
            code.encode(
                wide: wide, (isTest ? 0xF6 : 0x80) | (isByte ? 0 : 1), isTest ? 0 : copy.reg, copy.rm)
        } else if i.modRMOffset == 0 {
            if i.mandatoryPrefix != 0 { code.byte(i.mandatoryPrefix) }
            if i.opcodeMap != 0 { code.byte(0x0F) }
            code.byte(i.opcode)
        } else {
            code.encode(
                prefix: i.mandatoryPrefix, wide: wide, map: i.opcodeMap, i.opcode, copy.reg, copy.rm,
                forceREX: copy.forceREX)
        }
        emitImmediate(i)
    }

    mutating func emitImmediate(_ i: Instruction) {
        if let last = shapes[Int(i.row)].lastByteOperand {
            code.byte(i.operand(Int(last)).register << 4)
            return
        }
        switch i.immediateSize {
        case 0: break
        case 1: code.byte(UInt8(truncatingIfNeeded: i.immediate))
        case 2:
            code.bytes(UInt8(truncatingIfNeeded: i.immediate), UInt8(truncatingIfNeeded: i.immediate >> 8))
        default: code.word32(Int32(truncatingIfNeeded: i.immediate))
        }
    }

    private mutating func emitX87(_ i: Instruction, _ copy: CopyPlan) {
        if case .register = copy.rm {
            code.bytes(i.opcode, i.modRM)
        } else {
            code.encode(wide: false, i.opcode, i.modRM >> 3 & 7, copy.rm)
        }
    }

    /// A VEX instruction, always with the three-byte prefix.
    private mutating func emitVEX(_ i: Instruction, _ shape: RowShape, _ copy: CopyPlan) {
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
        emitImmediate(i)
    }
}
