/// How the row of an instruction is found: see `Dispatch` in table-generator for the words.
extension InstructionRows {
    /// What is known of an opcode before ModRM is read.
    struct Entry {
        fileprivate let word: UInt32

        @inline(__always) init(_ code: OpcodeBytes, _ size: CodeSize) {
            let map =
                Int(truncatingIfNeeded: code.map & 3) | (code.rare.isVEX ? 4 : 0) | (size == .bits64 ? 8 : 0)
            word = InstructionRows.entries[map &<< 8 | Int(truncatingIfNeeded: code.opcode & 0xFF)]
        }

        /// It has to be read with `OpcodeBytes.init(all:_:)`.
        @inline(__always) var isEscape: Bool { word >> 29 & 1 != 0 }
        /// 1 when ModRM follows, else 0.
        @inline(__always) var modRMBytes: UInt { UInt(word >> 28 & 1) }
    }

    /// The row that takes an opcode with its ModRM byte (0 when there is none).
    @inline(__always)
    static func row(
        _ entry: Entry, _ code: OpcodeBytes, _ modRM: UInt, _ size: CodeSize
    ) throws(DecodeFailure) -> UInt16 {
        if entry.word >> 30 != 0 { return UInt16(truncatingIfNeeded: entry.word) }
        let rare = code.rare
        let prefixes = rare.extensionPrefix << 5 | (rare.word & 0x80) << 1
        let key = UInt32(truncatingIfNeeded: modRM >> 3 | (code.rex & 8) << 4) | prefixes
        let chosen = key &>> (entry.word >> 16 & 7) & (entry.word >> 19 & 0x1FF)
        let slot = slots[Int(entry.word & 0xFFFF &+ chosen)]
        if slot & 0x8000 != 0 { return slot & 0x7FFF }
        return try tried(from: slot, Situation(entry, code, modRM, size))
    }

    /// The first of the candidates that accepts everything we know.
    @inline(never)
    private static func tried(from first: UInt16, _ situation: Situation) throws(DecodeFailure) -> UInt16 {
        var place = Int(first)
        while true {
            let row = candidates[place]
            if row == .max { throw .undefinedOpcode }
            if situation.bits & ~match[Int(row)] == 0 { return row }
            place &+= 1
        }
    }

    /// Everything we know, in the bits of `match`.
    private struct Situation {
        let bits: UInt64

        @inline(__always)
        init(_ entry: Entry, _ code: OpcodeBytes, _ modRM: UInt, _ size: CodeSize) {
            var bits: UInt64 = 1 &<< UInt64(code.rare.extensionPrefix)
            if entry.modRMBytes != 0 {
                bits |= modRM >= 0xC0 ? 1 << 5 : 1 << 4
                bits |= 1 &<< (6 &+ UInt64(modRM >> 3 & 7)) | 1 &<< (14 &+ UInt64(modRM & 7))
            }
            bits |= size == .bits64 ? 1 << 23 : 1 << 22
            bits |= code.isWide ? 1 << 25 : 1 << 24
            bits |= code.rare.word & 0x80 != 0 ? 1 << 27 : 1 << 26
            bits |= code.operandSize == 2 ? 1 << 28 : code.operandSize == 4 ? 1 << 29 : 1 << 30
            bits |= code.rex & 1 != 0 ? 1 << 32 : 1 << 31
            self.bits = bits
        }
    }
}

/// What the decoder does for a row: see `RowRecipe` in table-generator for the words.
struct RowRecipe {
    /// Operands 0 and 1, operands 2 and 3.
    let first: UInt64
    let second: UInt64
    private let facts: UInt64

    @inline(__always) init(_ row: UInt16) {
        let place = Int(row) &* 3
        first = InstructionRows.recipes[place]
        second = InstructionRows.recipes[place &+ 1]
        facts = InstructionRows.recipes[place &+ 2]
    }

    @inline(__always) private func has(_ bit: UInt64) -> Bool { facts >> bit & 1 != 0 }

    @inline(__always) var identity: Instruction.Identity {
        // SAFETY: mnemonics are generated with the recipes.
        unsafe unsafeBitCast(UInt32(truncatingIfNeeded: facts), to: Instruction.Identity.self)
    }
    @inline(__always) var operandCount: UInt8 { UInt8(truncatingIfNeeded: facts >> 32 & 7) }
    /// What the size of the immediate depends on: a choice of `OperandMaterial.size`, in the lowest bits.
    @inline(__always) var immediateChoice: UInt64 { facts >> 35 }
    /// The immediate's size when it is fixed.
    @inline(__always) var immediateSize: UInt64 { facts >> 40 & 15 }
    /// All bits set when the immediate's sign counts, else 0.
    @inline(__always) var immediateSign: UInt64 { 0 &- (facts >> 38 & 1) }
    /// 4 when operands of 4 bytes have 8 in 64-bit mode, else 0.
    @inline(__always) var default64: UInt { UInt(truncatingIfNeeded: facts >> 42 & 4) }
    /// What to set in ModRM so that it names a register where it does not name memory.
    @inline(__always) var registerMod: UInt { UInt(truncatingIfNeeded: facts >> 48 & 0xC0) }
    /// A prefix is part of the opcode.
    @inline(__always) var hasMandatoryPrefix: Bool { has(45) }
    /// VEX.vvvv must be 1111.
    @inline(__always) var hasNoVVVV: Bool { has(46) }
    @inline(__always) var isLockable: Bool { has(47) }
    @inline(__always) var hasRareOperands: Bool { has(62) }
    /// Rare operands, or some that may be AH, CH, DH or BH.
    @inline(__always) var isSpecial: Bool { facts >> 62 != 0 }
}
