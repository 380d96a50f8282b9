/// Bodies of shifts by a constant, multiplication and increments on registers, the ones that ciphers and
/// hashes live on. The count is not zero and less than the size: the lowering sees to it.

@inline(__always) func shiftLeft<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let count = T(truncatingIfNeeded: op.o.immediate), value = cpu.register(T.self, op.o.destination)
    let result = value &<< count
    cpu.setRegister(op.o.destination, result)
    cpu.setLogicFlags(result)
    let carry = (value &>> (T(T.bitWidth) &- count)) & 1 != 0
    cpu.setCarry(carry, overflow: carry != (result >> T(T.bitWidth - 1) != 0))
    return Step.next
}

@inline(__always) func shiftRight<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let count = T(truncatingIfNeeded: op.o.immediate), value = cpu.register(T.self, op.o.destination)
    let result = value &>> count
    cpu.setRegister(op.o.destination, result)
    cpu.setLogicFlags(result)
    let top = result >> T(T.bitWidth - 1) != 0
    cpu.setCarry((value &>> (count &- 1)) & 1 != 0, overflow: top != ((result >> T(T.bitWidth - 2)) & 1 != 0))
    return Step.next
}

@inline(__always) func shiftArithmeticRight<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let wide = Int64(bitPattern: CPU.extended(cpu.register(T.self, op.o.destination)))
    let count = Int64(truncatingIfNeeded: op.o.immediate)
    let result = T(truncatingIfNeeded: wide &>> count)
    cpu.setRegister(op.o.destination, result)
    cpu.setLogicFlags(result)
    cpu.setCarry((wide &>> (count &- 1)) & 1 != 0, overflow: false)
    return Step.next
}

/// ROL and ROR, the latter by the complement; only CF and OF change.
@inline(__always) func rotateLeft<T: Word>(_: T.Type, right: Bool, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let count = T(truncatingIfNeeded: op.o.immediate), value = cpu.register(T.self, op.o.destination)
    let back = T(T.bitWidth) &- count
    let result = right ? value &>> count | value &<< back : value &<< count | value &>> back
    cpu.setRegister(op.o.destination, result)
    let top = result >> T(T.bitWidth - 1) != 0
    if right {
        cpu.setCarry(top, overflow: top != ((result >> T(T.bitWidth - 2)) & 1 != 0))
    } else {
        let carry = result & 1 != 0
        cpu.setCarry(carry, overflow: carry != top)
    }
    return Step.next
}

@inline(__always) func increment<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let carry = cpu.carryFlag, value = cpu.register(T.self, op.o.destination)
    cpu.setRegister(op.o.destination, value &+ 1)
    cpu.setAddFlags(value, 1, value &+ 1)
    cpu.setCarry(carry)
    return Step.next
}
@inline(__always) func decrement<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let carry = cpu.carryFlag, value = cpu.register(T.self, op.o.destination)
    cpu.setRegister(op.o.destination, value &- 1)
    cpu.setSubtractFlags(value, 1, value &- 1)
    cpu.setCarry(carry)
    return Step.next
}

/// The low half of a signed product, with CF and OF when it does not hold all.
@inline(__always) func product<T: Word>(_ cpu: CPU, _ a: T, _ b: T) -> T {
    let (wide, overflowed) = Int64(bitPattern: CPU.extended(a))
        .multipliedReportingOverflow(by: Int64(bitPattern: CPU.extended(b)))
    let low = T(truncatingIfNeeded: wide)
    cpu.setLogicFlags(low)
    let lost = overflowed || CPU.extended(low) != UInt64(bitPattern: wide)
    cpu.setCarry(lost, overflow: lost)
    return low
}
@inline(__always) func multiplyRR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let result = product(cpu, cpu.register(T.self, op.o.destination), cpu.register(T.self, op.o.source))
    cpu.setRegister(op.o.destination, result)
    return Step.next
}
@inline(__always) func multiplyRM<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    step(c, o) { cpu, op throws(Fault) in
        let value = try cpu.load(T.self, cpu.address(op, MemoryLayout<T>.size), op.o.segment)
        cpu.setRegister(op.o.destination, product(cpu, cpu.register(T.self, op.o.destination), value))
    }
}
@inline(__always) func multiplyRRI<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let result = product(cpu, cpu.register(T.self, op.o.source), T(truncatingIfNeeded: op.o.immediate))
    cpu.setRegister(op.o.destination, result)
    return Step.next
}

/// Bodies for 32-bit (index 0) and 64-bit (1) registers.
enum FastShifts {
    static let left: [Handler] = [{ shiftLeft(UInt32.self, $0, $1) }, { shiftLeft(UInt64.self, $0, $1) }]
    static let right: [Handler] = [{ shiftRight(UInt32.self, $0, $1) }, { shiftRight(UInt64.self, $0, $1) }]
    static let arithmeticRight: [Handler] = [
        { shiftArithmeticRight(UInt32.self, $0, $1) }, { shiftArithmeticRight(UInt64.self, $0, $1) },
    ]
    static let rotateLeft: [Handler] = [
        { SoftCPU.rotateLeft(UInt32.self, right: false, $0, $1) },
        { SoftCPU.rotateLeft(UInt64.self, right: false, $0, $1) },
    ]
    static let rotateRight: [Handler] = [
        { SoftCPU.rotateLeft(UInt32.self, right: true, $0, $1) },
        { SoftCPU.rotateLeft(UInt64.self, right: true, $0, $1) },
    ]
    static let increment: [Handler] = [
        { SoftCPU.increment(UInt32.self, $0, $1) }, { SoftCPU.increment(UInt64.self, $0, $1) },
    ]
    static let decrement: [Handler] = [
        { SoftCPU.decrement(UInt32.self, $0, $1) }, { SoftCPU.decrement(UInt64.self, $0, $1) },
    ]
    static let multiplyRegister: [Handler] = [
        { multiplyRR(UInt32.self, $0, $1) }, { multiplyRR(UInt64.self, $0, $1) },
    ]
    static let multiplyMemory: [Handler] = [
        { multiplyRM(UInt32.self, $0, $1) }, { multiplyRM(UInt64.self, $0, $1) },
    ]
    static let multiplyImmediate: [Handler] = [
        { multiplyRRI(UInt32.self, $0, $1) }, { multiplyRRI(UInt64.self, $0, $1) },
    ]

    /// Chooses a body for `i`, when its operands are 32 or 64-bit registers; nil otherwise.
    static func lower(_ i: Instruction, into op: inout MicroOp) -> Bool? {
        let first = i.operand0
        guard first.kind == .gpr, first.size >= 4 else { return nil }
        let width = first.size == 8 ? 1 : 0
        op.destination = Lowering.offset(first)
        switch i.mnemonic {
        case .inc: op.handler = increment[width]
        case .dec: op.handler = decrement[width]
        case .imul: return multiply(i, width, into: &op)
        default: return shift(i, width, into: &op)
        }
        return false
    }

    private static func shift(_ i: Instruction, _ width: Int, into op: inout MicroOp) -> Bool? {
        let count: UInt64
        switch i.operand1.kind {
        case .one: count = 1
        case .immediate: count = i.immediate & (width == 1 ? 63 : 31)
        default: return nil
        }
        guard count != 0 else { return nil }
        op.immediate = count
        switch i.mnemonic {
        case .shl: op.handler = left[width]
        case .shr: op.handler = right[width]
        case .sar: op.handler = arithmeticRight[width]
        case .rol: op.handler = rotateLeft[width]
        default: op.handler = rotateRight[width]
        }
        return false
    }

    private static func multiply(_ i: Instruction, _ width: Int, into op: inout MicroOp) -> Bool? {
        let second = i.operand1
        if i.operandCount == 2 {
            if second.isMemory {
                op.handler = multiplyMemory[width]
            } else {
                op.source = Lowering.offset(second)
                op.handler = multiplyRegister[width]
            }
            return false
        }
        guard i.operandCount == 3, !second.isMemory else { return nil }
        op.source = Lowering.offset(second)
        op.immediate = i.immediate
        op.handler = multiplyImmediate[width]
        return false
    }
}
