/// Operands that take more than a recipe: `OperandNotation` in table-generator calls them rare.
@safe struct RareOperands {
    private var cursor: CodeCursor
    private let code: OpcodeBytes
    private let size: CodeSize
    private let place: UnsafeMutablePointer<Instruction>

    /// - Safety: `place` must stay valid as long as this lives.
    @unsafe init(_ state: DecodeState) {
        cursor = CodeCursor(state.bytes, at: state.end)
        code = state.code
        size = state.size
        unsafe place = state.place
    }

    /// Completes what the recipe gave; returns where the instruction ends.
    @inline(never)
    @unsafe static func read(_ state: DecodeState) throws(DecodeFailure) -> Int {
        var rare = unsafe RareOperands(state)
        for position in 0..<Int(rare.instruction.operandCount) { try rare.read(position) }
        return rare.cursor.offset
    }

    private var instruction: Instruction {
        // SAFETY: whoever made this promised that the place is valid.
        @inline(__always) unsafeAddress { unsafe UnsafePointer(place) }
        @inline(__always) nonmutating unsafeMutableAddress { unsafe place }
    }

    private mutating func read(_ position: Int) throws(DecodeFailure) {
        let packed = InstructionRows.operands[Int(instruction.row)] >> (14 &* UInt64(position))
        let source = OperandSource(rawValue: UInt8(truncatingIfNeeded: packed & 31)) ?? .none
        var operand = instruction.operand(position)
        switch OperandSize(rawValue: UInt8(truncatingIfNeeded: packed >> 5 & 31)) {
        case .far: operand.size = min(instruction.operandSize, 4) &+ 2
        case .pair: operand.size = instruction.operandSize &* 2
        case .descriptorTable: operand.size = size == .bits64 ? 10 : 6
        default: break
        }
        switch source {
        // CR1, CR5...CR7 and those above CR8 do not exist, nor do DR8...DR15.
        case .regControl: if 0b1_0001_1101 >> UInt16(operand.register) & 1 == 0 { throw .undefinedOpcode }
        case .regDebug: if operand.register > 7 { throw .undefinedOpcode }
        case .memoryAtRDI: instruction.base = 7
        case .memoryIndexXMM: try useVectorIndex(size: 16)
        case .memoryIndexYMM: try useVectorIndex(size: 32)
        case .moffs: try readDirectAddress()
        case .farPointer: try readSecond(size: 2)
        case .immediate where operand.kind == .immediate2: try readSecond(size: Int(operand.size))
        case .lastByteVector:
            instruction.immediateOffset = UInt8(truncatingIfNeeded: cursor.offset)
            instruction.immediateSize = 1
            operand.register = try cursor.next() >> 4 & (size == .bits64 ? 15 : 7)
        default: break
        }
        instruction.setOperand(position, operand)
    }

    /// MOV's direct address: as many bytes as the address size.
    private mutating func readDirectAddress() throws(DecodeFailure) {
        instruction.displacementOffset = UInt8(truncatingIfNeeded: cursor.offset)
        instruction.displacementSize = instruction.addressSize
        instruction.displacement = Int64(bitPattern: try cursor.unsigned(Int(instruction.addressSize)))
    }

    /// The far pointer's selector, ENTER's level.
    private mutating func readSecond(size: Int) throws(DecodeFailure) {
        instruction.selectorOrLevel = UInt16(truncatingIfNeeded: try cursor.unsigned(size))
        instruction.immediateSize &+= UInt8(truncatingIfNeeded: size)
    }

    /// VSIB (SDM vol. 2 §2.3.12): needs a SIB byte; index 4 is XMM4 or YMM4. Destination, index and mask must
    /// be three different registers.
    private mutating func useVectorIndex(size: UInt8) throws(DecodeFailure) {
        if instruction.modRM & 7 != 4 || instruction.addressSize == 2 { throw .undefinedOpcode }
        if instruction.index == Instruction.noRegister { instruction.index = 4 }
        instruction.vectorIndexSize = size
        let destination = instruction.modRM >> 3 & 7 | UInt8(truncatingIfNeeded: code.rexR)
        let index = instruction.index, mask = instruction.vexVVVV
        if destination == index || destination == mask || index == mask { throw .undefinedOpcode }
    }
}
