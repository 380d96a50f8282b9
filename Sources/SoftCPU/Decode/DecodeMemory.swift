/// ModRM, SIB and displacement (SDM vol. 2 §2.1.5, §2.2.1).
extension DecodeState {
    mutating func readMemoryOperand() throws(DecodeFailure) {
        let modRM = instruction.modRM
        if instruction.modRMOffset == 0 || modRM >= 0xC0 || match >> 40 & 1 != 0 { return }
        if instruction.addressSize == 2 { return try read16BitAddress(mod: modRM >> 6, rm: modRM & 7) }
        let mod = modRM >> 6
        var base = modRM & 7
        var displacementSize = mod == 1 ? 1 : mod == 2 ? 4 : 0
        if base == 4 {
            let sib = try cursor.next()
            instruction.scaleShift = sib >> 6
            let index = sib >> 3 & 7 | rexX
            // Index 4 is none, unless it names a vector register; the operands decide that later.
            instruction.index = index == 4 ? Instruction.noRegister : index
            base = sib & 7
            if base == 5 && mod == 0 {
                displacementSize = 4
                instruction.base = Instruction.noRegister
            } else {
                instruction.base = base | rexB
            }
        } else if base == 5 && mod == 0 {
            displacementSize = 4
            instruction.base = is64Bit ? Instruction.ripBase : Instruction.noRegister
        } else {
            instruction.base = base | rexB
        }
        if instruction.base == 4 || instruction.base == 5 { useStackSegment() }
        try readDisplacement(displacementSize)
    }

    /// BX+SI, BX+DI, BP+SI, BP+DI, SI, DI, BP, BX.
    private mutating func read16BitAddress(mod: UInt8, rm: UInt8) throws(DecodeFailure) {
        let none = Instruction.noRegister
        if mod == 0 && rm == 6 { return try readDisplacement(2) }
        switch rm {
        case 0: (instruction.base, instruction.index) = (3, 6)
        case 1: (instruction.base, instruction.index) = (3, 7)
        case 2: (instruction.base, instruction.index) = (5, 6)
        case 3: (instruction.base, instruction.index) = (5, 7)
        case 4: (instruction.base, instruction.index) = (6, none)
        case 5: (instruction.base, instruction.index) = (7, none)
        case 6: (instruction.base, instruction.index) = (5, none)
        default: (instruction.base, instruction.index) = (3, none)
        }
        if instruction.base == 5 { useStackSegment() }
        try readDisplacement(mod == 1 ? 1 : mod == 2 ? 2 : 0)
    }

    private mutating func readDisplacement(_ size: Int) throws(DecodeFailure) {
        if size == 0 { return }
        instruction.displacementOffset = UInt8(truncatingIfNeeded: cursor.offset)
        instruction.displacementSize = UInt8(truncatingIfNeeded: size)
        instruction.displacement = try cursor.signed(size)
    }

    /// MOV's direct address: as many bytes as the address size.
    mutating func readDirectAddress() throws(DecodeFailure) {
        instruction.displacementOffset = UInt8(truncatingIfNeeded: cursor.offset)
        instruction.displacementSize = instruction.addressSize
        instruction.displacement = Int64(bitPattern: try cursor.unsigned(Int(instruction.addressSize)))
    }

    /// VSIB (SDM vol. 2 §2.3.12): needs a SIB byte; index 4 is XMM4 or YMM4. Destination, index and mask must
    /// be three different registers.
    mutating func useVectorIndex(size: UInt8) throws(DecodeFailure) {
        if instruction.modRM & 7 != 4 || instruction.addressSize == 2 { throw .undefinedOpcode }
        if instruction.index == Instruction.noRegister { instruction.index = 4 }
        instruction.vectorIndexSize = size
        let destination = instruction.modRM >> 3 & 7 | rexR
        let index = instruction.index, mask = instruction.vexVVVV
        if destination == index || destination == mask || index == mask { throw .undefinedOpcode }
    }
}
