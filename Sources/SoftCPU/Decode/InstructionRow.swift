/// The generated integers, one array per column.
///
/// `match` holds in bits 0...32 the situations that a row accepts, one bit each; `Situation` is the
/// counterpart. Bits 36...38 count the operands, 39 d64, 40 ModRM never names memory, 41 a prefix
/// is part of the opcode, 42 VEX.vvvv must be 1111; 48...63 are the mnemonic.
enum InstructionRows {}

/// One row of Instructions.table: a view of its integers.
struct InstructionRow: BitwiseCopyable, Sendable {
    let index: Int
    /// - Precondition: `index` is a row number, as `Instruction.row` is.
    init(index: UInt16) { self.index = Int(index) }

    static var count: Int { InstructionRows.match.count }

    /// RFLAGS bits in their positions that the instruction reads.
    @inline(__always) var flagsRead: UInt16 { UInt16(truncatingIfNeeded: InstructionRows.flags[index]) }
    /// RFLAGS bits that it sets to defined values (with `mayKeepFlags`: for some inputs).
    @inline(__always) var flagsWritten: UInt16 {
        UInt16(truncatingIfNeeded: InstructionRows.flags[index] >> 16)
    }
    /// RFLAGS bits that it leaves undefined.
    @inline(__always) var flagsUndefined: UInt16 {
        UInt16(truncatingIfNeeded: InstructionRows.flags[index] >> 32)
    }
    var feature: InstructionFeature {
        InstructionFeature(rawValue: UInt8(truncatingIfNeeded: InstructionRows.flags[index] >> 48)) ?? .always
    }
    @inline(__always) var attributes: RowAttributes {
        RowAttributes(rawValue: InstructionRows.attributes[index] & ((1 << 48) - 1))
    }
    var mnemonic: Mnemonic { Self.mnemonic(InstructionRows.match[index]) }

    /// 0 one-byte, 1 `0F`, 2 `0F 38`, 3 `0F 3A`.
    var opcodeMap: UInt8 { UInt8(truncatingIfNeeded: InstructionRows.attributes[index] >> 56) & 3 }
    var isVEX: Bool { InstructionRows.attributes[index] >> 58 & 1 != 0 }
    var opcode: UInt8 { UInt8(truncatingIfNeeded: InstructionRows.flags[index] >> 56) }
    /// The low three opcode bits name a register.
    var coversEightOpcodes: Bool { InstructionRows.attributes[index] >> 60 & 1 != 0 }
    var hasModRM: Bool { InstructionRows.attributes[index] >> 61 & 1 != 0 }

    @inline(__always)
    static func mnemonic(_ match: UInt64) -> Mnemonic {
        // SAFETY: the rows are generated with the mnemonics, which are numbered from 0 on without gaps; a
        // test asks for each.
        unsafe unsafeBitCast(UInt16(truncatingIfNeeded: match >> 48), to: Mnemonic.self)
    }
}

extension Instruction {
    @inline(__always) var flagsRead: UInt16 { InstructionRow(index: row).flagsRead }
    @inline(__always) var flagsWritten: UInt16 { InstructionRow(index: row).flagsWritten }
    @inline(__always) var flagsUndefined: UInt16 { InstructionRow(index: row).flagsUndefined }
    @inline(__always) var feature: InstructionFeature { InstructionRow(index: row).feature }
    @inline(__always) var attributes: RowAttributes { InstructionRow(index: row).attributes }
}
