/// Operands and immediates, as the row lists them.
extension DecodeState {
    mutating func readOperands() throws(DecodeFailure) {
        let count = instruction.operandCount
        if count == 0 { return }
        let packed = InstructionRows.operands[Int(instruction.row)]
        instruction.operand0 = try operand(packed, access: packed >> 56)
        if count == 1 { return }
        instruction.operand1 = try operand(packed >> 14, access: packed >> 58)
        if count == 2 { return }
        instruction.operand2 = try operand(packed >> 28, access: packed >> 60)
        if count == 3 { return }
        instruction.operand3 = try operand(packed >> 42, access: packed >> 62)
    }

    private mutating func operand(_ packed: UInt64, access: UInt64) throws(DecodeFailure) -> Operand {
        let size = bytes(packed >> 5 & 31)
        var result = Operand()
        result.size = size
        result.access = Operand.Access(rawValue: UInt8(truncatingIfNeeded: access & 3))
        // Most operands are general: no jump that cannot be foreseen.
        let number = packed & 31
        guard number == 0 || number > UInt64(OperandSource.fixedGeneral.rawValue) else {
            if number == UInt64(OperandSource.rmGeneral.rawValue), namesMemory {
                result.kind = .memory
            } else {
                general(generalNumber(number, packed), size, &result)
            }
            return result
        }
        try otherOperand(packed, &result)
        return result
    }

    /// The register that a general source names: rmGeneral 1, regGeneral 2, opcodeGeneral 3, vvvvGeneral 4,
    /// fixedGeneral 5.
    @inline(__always) private func generalNumber(_ source: UInt64, _ packed: UInt64) -> UInt8 {
        let modRM = instruction.modRM
        let low = UInt64(modRM & 7 | rexB) << 8 | UInt64(modRM >> 3 & 7 | rexR) << 16
        let high = UInt64(instruction.opcode & 7 | rexB) << 24 | UInt64(instruction.vexVVVV) << 32
        return UInt8(truncatingIfNeeded: (low | high | (packed >> 10 & 15) << 40) &>> (source &* 8))
    }

    private mutating func otherOperand(_ packed: UInt64, _ result: inout Operand) throws(DecodeFailure) {
        let source = OperandSource(rawValue: UInt8(truncatingIfNeeded: packed & 31)) ?? .none
        let size = result.size
        let fixed = UInt8(truncatingIfNeeded: packed >> 10 & 15)
        let reg = instruction.modRM >> 3 & 7
        let rm = instruction.modRM & 7
        switch source {
        // `operand` has done these.
        case .rmGeneral, .regGeneral, .opcodeGeneral, .vvvvGeneral, .fixedGeneral: break
        case .rmVector:
            if namesMemory { result.kind = .memory } else { vector(rm | rexB, size, &result) }
        case .regVector: vector(reg | rexR, size, &result)
        case .vvvvVector: vector(instruction.vexVVVV, size, &result)
        case .fixedVector: vector(fixed, size, &result)
        case .rmMMX:
            if namesMemory { result.kind = .memory } else { (result.kind, result.register) = (.mmx, rm) }
        case .regMMX: (result.kind, result.register) = (.mmx, reg)
        case .fixedST: (result.kind, result.register) = (.st, fixed)
        case .rmST: (result.kind, result.register) = (.st, rm)
        case .one: result.kind = .one
        case .memoryAtRDI:
            result.kind = .memory
            instruction.base = 7
        case .stringSource: result.kind = .stringSource
        case .stringDestination: result.kind = .stringDestination
        case .tableLookup: result.kind = .tableLookup
        case .regSegment: (result.kind, result.register) = (.segment, reg)
        case .fixedSegment: (result.kind, result.register) = (.segment, fixed)
        case .regControl, .regDebug: try special(source, reg | rexR, &result)
        case .memoryIndexXMM, .memoryIndexYMM:
            result.kind = .memoryVectorIndex
            try useVectorIndex(size: source == .memoryIndexXMM ? 16 : 32)
        case .immediate, .signedImmediate, .relative, .moffs, .farPointer, .lastByteVector:
            try readImmediate(source, packed, &result)
        case .none: break
        }
    }

    private var namesMemory: Bool { instruction.modRM < 0xC0 && match >> 40 & 1 == 0 }

    /// Without REX the byte registers 4...7 are AH, CH, DH and BH.
    private func general(_ number: UInt8, _ size: UInt8, _ result: inout Operand) {
        if size == 1 && number >= 4 && number < 8 && rex == 0 {
            (result.kind, result.register) = (.highByte, number & 3)
        } else {
            (result.kind, result.register) = (.gpr, number)
        }
    }

    private func vector(_ number: UInt8, _ size: UInt8, _ result: inout Operand) {
        (result.kind, result.register) = (size == 32 ? .ymm : .xmm, number)
    }

    /// CR1, CR5...CR7 and those above CR8 do not exist, nor do DR8...DR15.
    private func special(
        _ source: OperandSource, _ number: UInt8, _ result: inout Operand
    ) throws(DecodeFailure) {
        result.register = number
        if source == .regControl {
            result.kind = .control
            if 0b1_0001_1101 >> UInt16(number) & 1 == 0 { throw .undefinedOpcode }
        } else {
            result.kind = .debug
            if number > 7 { throw .undefinedOpcode }
        }
    }

    private mutating func readImmediate(
        _ source: OperandSource, _ packed: UInt64, _ result: inout Operand
    ) throws(DecodeFailure) {
        if source == .moffs {
            result.kind = .memory
            return try readDirectAddress()
        }
        let start = cursor.offset
        let isSecond = instruction.immediateOffset != 0
        let signed = OperandSize(rawValue: UInt8(truncatingIfNeeded: packed >> 5 & 31)) == .z
        switch source {
        case .lastByteVector:
            let number = try cursor.next() >> 4
            vector(is64Bit ? number : number & 7, result.size, &result)
        case .relative:
            result.kind = .relative
            instruction.immediate = UInt64(bitPattern: try cursor.signed(Int(result.size)))
        case .farPointer:
            result.kind = .farPointer
            instruction.immediate = try cursor.unsigned(Int(instruction.operandSize))
            instruction.immediate2 = try cursor.unsigned(2)
        default:
            let value =
                signed || source == .signedImmediate
                ? UInt64(bitPattern: try cursor.signed(Int(result.size)))
                : try cursor.unsigned(Int(result.size))
            result.kind = isSecond ? .immediate2 : .immediate
            if isSecond { instruction.immediate2 = value } else { instruction.immediate = value }
        }
        if !isSecond { instruction.immediateOffset = UInt8(truncatingIfNeeded: start) }
        instruction.immediateSize &+= UInt8(truncatingIfNeeded: cursor.offset &- start)
    }

    /// The bytes that the `OperandSize` with this number stands for here.
    @inline(__always) private func bytes(_ number: UInt64) -> UInt8 {
        // unsized, b, w, d, q, t, dq, qq
        let fixed: UInt64 = 0x20_10_0A_08_04_02_01_00
        if number < 8 { return UInt8(truncatingIfNeeded: fixed &>> (number &* 8)) }
        if number == UInt64(OperandSize.v.rawValue) { return instruction.operandSize }
        if number == UInt64(OperandSize.z.rawValue) { return min(instruction.operandSize, 4) }
        return bytes(OperandSize(rawValue: UInt8(truncatingIfNeeded: number)) ?? .unsized)
    }

    /// The bytes that a size letter stands for here.
    private func bytes(_ size: OperandSize) -> UInt8 {
        let operandSize = instruction.operandSize
        let vectorSize: UInt8 = instruction.vexBits & 0x80 != 0 ? 32 : 16
        return switch size {
        case .unsized: 0
        case .b: 1
        case .w: 2
        case .d: 4
        case .q: 8
        case .t: 10
        case .dq: 16
        case .qq: 32
        case .x: vectorSize
        case .half: vectorSize / 2
        case .quarter: vectorSize / 4
        case .eighth: vectorSize / 8
        case .v: operandSize
        case .z: min(operandSize, 4)
        case .y: is64Bit && wide ? 8 : 4
        case .native: is64Bit ? 8 : 4
        case .far: min(operandSize, 4) &+ 2
        case .pair: operandSize &* 2
        case .descriptorTable: is64Bit ? 10 : 6
        }
    }
}
