/// What operands may be made of: what a recipe chooses from. Choices are looked up in memory: that takes
/// fewer instructions than to shift them out of a word, and no jumps, which could not be foreseen.
struct OperandMaterial {
    /// In the upper byte the register number, or in the lower one a change of the kind, which makes it
    /// memory: 0 for a fixed register, rm with REX.B for general and for vector registers, rm, reg with
    /// REX.R, reg, the opcode's register, VEX.vvvv.
    let numbers: [8 of UInt]
    /// Where in `sizes` those of this mode and operand size start.
    private let firstSize: Int

    /// Eight each for operands of 2, 4 and 8 bytes, first outside, then in 64-bit mode: 0 for a fixed size,
    /// v, z, y, native.
    private static let sizes: [UInt8] = [
        0, 2, 2, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 8, 4, 8, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 2, 2, 4, 8, 0, 0, 0, 0, 4, 4, 4, 8, 0, 0, 0, 0, 8, 4, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]

    @inline(__always)
    init(_ code: OpcodeBytes, modRM: UInt, namesMemory: Bool, operandSize: UInt, is64Bit: Bool) {
        let memory = Operand.Kind.memory.rawValue
        let rm = (modRM & 7) << 8, reg = (modRM & 0x38) << 5, rexB = code.rexB << 8
        let general = namesMemory ? UInt(Operand.Kind.gpr.rawValue ^ memory) : rm | rexB
        let vector = namesMemory ? UInt(Operand.Kind.xmm.rawValue ^ memory) : rm | rexB
        let other = namesMemory ? UInt(Operand.Kind.mmx.rawValue ^ memory) : rm
        let opcode = (code.opcode & 7) << 8 | rexB
        let vvvv = UInt(code.rare.word & (is64Bit ? 0x78 : 0x38)) << 5
        numbers = [0, general, vector, other, reg | code.rexR << 8, reg, opcode, vvvv]
        firstSize = Int(truncatingIfNeeded: operandSize >> 2) &* 8 &+ (is64Bit ? 32 : 0)
    }

    /// The number of bytes of the size that is chosen, or 0.
    @inline(__always)
    func size(_ choice: UInt64) -> UInt64 { UInt64(Self.sizes[firstSize & 56 | Int(choice & 7)]) }

    /// The operand of the lower half of a recipe's word, as it lies in memory. `numbers` are those of this.
    @inline(__always)
    func operand(_ recipe: UInt64, _ numbers: Span<UInt>) -> Operand {
        let number = UInt64(truncatingIfNeeded: numbers[Int(recipe >> 5 & 7)])
        let word = recipe & 0x3FF_1F1F ^ number ^ size(recipe >> 13) << 16
        // SAFETY: recipes are generated from names of kinds, and the reference decoder's test tries all rows.
        return unsafe unsafeBitCast(UInt32(truncatingIfNeeded: word), to: Operand.self)
    }
}

extension DecodeState {
    /// Writes operands and the first immediate, as the row lists them.
    @inline(__always)
    mutating func readOperands(_ recipe: RowRecipe, _ material: OperandMaterial) throws(DecodeFailure) {
        let numbers = material.numbers.span
        instruction.operand0 = material.operand(recipe.first, numbers)
        instruction.operand1 = material.operand(recipe.first >> 32, numbers)
        instruction.operand2 = Operand()
        instruction.operand3 = Operand()
        if recipe.second != 0 {
            instruction.operand2 = material.operand(recipe.second, numbers)
            instruction.operand3 = material.operand(recipe.second >> 32, numbers)
        }
        let length = recipe.immediateSize | material.size(recipe.immediateChoice)
        let next = end &+ Int(length)
        if next > bytes.count { throw bytes.lack(next) }
        let mask = InstructionBytes.mask(UInt(length))
        instruction.immediate = InstructionBytes.extended(
            bytes.word(at: end), mask, sign: recipe.immediateSign)
        instruction.immediateOffset = UInt8(
            truncatingIfNeeded: UInt64(truncatingIfNeeded: end) & mask)
        instruction.immediateSize = UInt8(truncatingIfNeeded: length)
        end = next
    }

    /// Without REX the byte registers 4...7 are AH, CH, DH and BH; with VEX.L vectors have 32 bytes.
    @inline(never)
    func adjustOperands() {
        let isLong = code.rare.vexBits & 0x80 != 0
        for position in 0..<Int(instruction.operandCount) {
            var operand = instruction.operand(position)
            if code.rex == 0, operand.kind == .gpr, operand.size == 1, operand.register & ~3 == 4 {
                operand.kind = .highByte
                operand.register &= 3
            }
            if isLong {
                let size =
                    InstructionRows.operands[Int(instruction.row)] >> (14 &* UInt64(position) &+ 5)
                let scaled = UInt64(OperandSize.x.rawValue)...UInt64(OperandSize.eighth.rawValue)
                if scaled.contains(size & 31) { operand.size &*= 2 }
                if operand.kind == .xmm, operand.size == 32 { operand.kind = .ymm }
            }
            instruction.setOperand(position, operand)
        }
    }
}
