/// From a decoded instruction to its `MicroOp`: chooses a specialised body where there is one.
enum Lowering {
    struct Context {
        let is64Bit: Bool
        /// Direct branches inside the page may be linked (no CS limit, no single step).
        let isLinkable: Bool
        /// Where the block starts in its page.
        let pageOffset: Int
    }

    /// Fills `op` for instructions with a body on lowered operands. Nil: the instruction has none and needs
    /// a body that takes it whole. Else: whether the block ends here.
    static func lower(_ i: Instruction, _ context: Context, into op: inout MicroOp) -> Bool? {
        if i.hasMemoryOperand { placeMemory(i, into: &op) }
        switch i.mnemonic {
        case .add, .or, .adc, .sbb, .and, .sub, .xor, .cmp, .test: return binary(i, into: &op)
        case .mov: return move(i, into: &op)
        case .movzx, .movsx, .movsxd: return extend(i, into: &op)
        case .lea:
            op.destination = offset(i.operand0)
            op.handler = FastMoves.effectiveAddress[sizeIndex(i.operand0.size)]
            return false
        case .cmovcc: return conditionalMove(i, into: &op)
        case .setcc:
            guard !i.operand0.isMemory else { return nil }
            op.destination = offset(i.operand0)
            op.condition = i.opcode & 15
            op.handler = FastMoves.setConditionRegister
            return false
        case .push, .pop: return stack(i, into: &op)
        case .shl, .shr, .sar, .rol, .ror, .inc, .dec, .imul: return FastShifts.lower(i, into: &op)
        case .nop, .endbr32, .endbr64, .prefetch, .prefetchw, .prefetchnta, .prefetcht0, .prefetcht1,
            .prefetcht2,
            .lfence, .sfence:
            op.handler = FastMoves.noOperation
            return false
        case .jcc, .jmp, .call, .ret: return branch(i, context, into: &op)
        default: return nil
        }
    }

    // MARK: Operands

    /// 0...3 for 1, 2, 4 and 8 bytes.
    static func sizeIndex(_ size: UInt8) -> Int { size.trailingZeroBitCount & 3 }

    /// Byte offset of a register operand in `CPUState`.
    static func offset(_ operand: Operand) -> UInt16 {
        UInt16(operand.register) * 8 + (operand.kind == .highByte ? 1 : 0)
    }

    static func isRegister(_ operand: Operand) -> Bool { operand.kind == .gpr || operand.kind == .highByte }

    private static func placeMemory(_ i: Instruction, into op: inout MicroOp) {
        op.base = UInt16(i.base) * 8
        op.index = UInt16(i.index) * 8
        op.scale = i.scaleShift
        op.segment = i.segment
        op.addressMask = CPU.addressMask(i.addressSize)
        op.displacement = i.displacement
        // The RIP slot holds the block's start: count from there.
        if i.base == Instruction.ripBase { op.displacement += Int64(op.offset) + Int64(i.length) }
    }

    // MARK: Families

    private static func binary(_ i: Instruction, into op: inout MicroOp) -> Bool? {
        let operation: Int
        switch i.mnemonic {
        case .add: operation = 0
        case .or: operation = 1
        case .adc: operation = 2
        case .sbb: operation = 3
        case .and: operation = 4
        case .sub: operation = 5
        case .xor: operation = 6
        case .cmp: operation = 7
        default: operation = 8
        }
        let first = i.operand0, second = i.operand1
        let size = sizeIndex(first.size)
        op.condition = UInt8(operation)
        op.immediate = i.immediate
        if first.isMemory {
            let locked = i.prefixes.contains(.lock)
            if isRegister(second) {
                op.source = offset(second)
                op.handler =
                    locked ? FastArithmetic.lockedRegister[size] : FastArithmetic.memoryRegister[size]
            } else {
                op.handler =
                    locked ? FastArithmetic.lockedImmediate[size] : FastArithmetic.memoryImmediate[size]
            }
            return false
        }
        op.destination = offset(first)
        if second.isMemory {
            op.handler = FastArithmetic.registerMemory[operation][size]
        } else if isRegister(second) {
            op.source = offset(second)
            op.handler = FastArithmetic.registerRegister[operation][size]
        } else {
            op.handler = FastArithmetic.registerImmediate[operation][size]
        }
        return false
    }

    private static func move(_ i: Instruction, into op: inout MicroOp) -> Bool? {
        let first = i.operand0, second = i.operand1
        let size = sizeIndex(first.size)
        op.immediate = i.immediate
        if first.isMemory {
            if isRegister(second) {
                op.source = offset(second)
                op.handler = FastMoves.memoryRegister[size]
            } else if second.kind == .immediate {
                op.handler = FastMoves.memoryImmediate[size]
            } else {
                return nil
            }
            return false
        }
        guard isRegister(first) else { return nil }
        op.destination = offset(first)
        if second.isMemory {
            op.handler = FastMoves.registerMemory[size]
        } else if isRegister(second) {
            op.source = offset(second)
            op.handler = FastMoves.registerRegister[size]
        } else if second.kind == .immediate {
            op.handler = FastMoves.registerImmediate[size]
        } else {
            return nil
        }
        return false
    }

    private static func extend(_ i: Instruction, into op: inout MicroOp) -> Bool? {
        let first = i.operand0, second = i.operand1
        let from = sizeIndex(second.size), to = sizeIndex(first.size)
        guard to >= 2, from < to || (from == 2 && to == 2) else { return nil }
        let signed = i.mnemonic == .movzx ? 0 : 1
        op.destination = offset(first)
        if second.isMemory {
            op.handler = FastMoves.extendMemory[signed][from][to - 2]
        } else {
            op.source = offset(second)
            op.handler = FastMoves.extendRegister[signed][from][to - 2]
        }
        return false
    }

    private static func conditionalMove(_ i: Instruction, into op: inout MicroOp) -> Bool? {
        let size = sizeIndex(i.operand0.size)
        op.destination = offset(i.operand0)
        op.condition = i.opcode & 15
        if i.operand1.isMemory {
            op.handler = FastMoves.conditionalMemory[size]
        } else {
            op.source = offset(i.operand1)
            op.handler = FastMoves.conditionalRegister[size]
        }
        return false
    }

    private static func stack(_ i: Instruction, into op: inout MicroOp) -> Bool? {
        let size = sizeIndex(i.operandSize)
        if i.mnemonic == .pop {
            guard i.operand0.kind == .gpr else { return nil }
            op.destination = offset(i.operand0)
            op.handler = FastMoves.popRegister[size]
            return false
        }
        if i.operand0.kind == .gpr {
            op.source = offset(i.operand0)
            op.handler = FastMoves.pushRegister[size]
        } else if i.operand0.kind == .immediate {
            op.immediate = i.immediate
            op.handler = FastMoves.pushImmediate[size]
        } else {
            return nil
        }
        return false
    }

    private static func branch(_ i: Instruction, _ context: Context, into op: inout MicroOp) -> Bool? {
        let size = sizeIndex(i.operandSize)
        if i.mnemonic == .ret {
            op.immediate = i.immediate
            op.handler = FastBranches.returns[size]
            return true
        }
        if i.operand0.kind == .relative {
            // Outside flat code the target is checked against CS first, by the whole-instruction body.
            guard context.isLinkable || context.is64Bit else { return nil }
            let distance = Int64(op.offset) + Int64(i.length) + Int64(bitPattern: i.immediate)
            op.immediate = UInt64(bitPattern: distance)
            op.addressMask = i.operandSize == 8 ? .max : i.operandSize == 4 ? 0xFFFF_FFFF : 0xFFFF
            let target = Int64(context.pageOffset) + distance
            let linked = context.isLinkable && (0..<4096).contains(target) && i.operandSize != 2
            switch i.mnemonic {
            case .jcc:
                let code = Int(i.opcode & 15)
                op.handler = linked ? FastBranches.conditionalLinked[code] : FastBranches.conditional[code]
                return false
            case .jmp: op.handler = linked ? FastBranches.jumpLinked : FastBranches.jump
            default: op.handler = linked ? FastBranches.callLinked[size] : FastBranches.call[size]
            }
            return true
        }
        let isCall = i.mnemonic == .call
        if i.operand0.isMemory {
            op.handler = isCall ? FastBranches.callMemory[size] : FastBranches.jumpMemory[size]
        } else {
            op.source = offset(i.operand0)
            op.handler = isCall ? FastBranches.callRegister[size] : FastBranches.jumpRegister[size]
        }
        return true
    }

    // MARK: Bodies of what is no instruction

    static let undefined: Handler = { c, _ in
        CPU(address: c).s.pendingFault = Fault.undefinedOpcode.raw
        return Step.fault
    }
    static let tooLong: Handler = { c, _ in
        CPU(address: c).s.pendingFault = Fault.protection().raw
        return Step.fault
    }
    /// The end of a block that no branch ended. Not an instruction, so it is not counted.
    static let fallThrough: Handler = { c, o in
        let cpu = CPU(address: c)
        cpu.s.instructionCount &-= 1
        cpu.endBlock(after: Op(address: o))
        return Step.ended
    }
    static let fallThroughLinked: Handler = { c, o in
        let cpu = CPU(address: c), op = Op(address: o)
        cpu.s.instructionCount &-= 1
        cpu.s.rip = cpu.nextRIP(op)
        cpu.s.nextBlock = op.o.link
        let slot = MemoryLayout<MicroOp>.offset(of: \.link).unsafelyUnwrapped
        cpu.s.linkSlot = op.o.link == 0 ? op.address &+ UInt(slot) : 0
        return Step.ended
    }
    /// The arena filled up while the block was built: decode again from this instruction.
    static let restart: Handler = { c, o in
        let cpu = CPU(address: c)
        cpu.s.instructionCount &-= 1
        cpu.s.rip = cpu.currentRIP(Op(address: o))
        cpu.s.linkSlot = 0
        cpu.s.nextBlock = 0
        cpu.owner.clearCode()
        return Step.ended
    }
    /// In front of an instruction that a debugger may want to stop at (DebuggerStops.swift).
    static let breakpoint: Handler = { c, o in
        let cpu = CPU(address: c)
        cpu.s.instructionCount &-= 1
        guard cpu.owner.debugging.reaches(cpu.linearRIP) else { return Step.next }
        cpu.s.linkSlot = 0
        cpu.s.nextBlock = 0
        cpu.setAttention(SoftVCPU.Attention.debugger)
        return Step.ended
    }
}
