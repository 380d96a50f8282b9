/// One decoded x86 instruction: everything that the interpreter, the translator and the fuzzer want to know
/// about the bytes, with nothing left to look at in them.
///
/// Terms as in the Intel SDM vol. 2 §2.1 (instruction format) and appendix A (operand notation).
struct Instruction: BitwiseCopyable, Sendable {
    /// The decoder takes it from the row's recipe as it is.
    struct Identity: BitwiseCopyable, Sendable {
        var mnemonic: Mnemonic
        var row: UInt16
    }
    var identity: Identity
    /// Bytes, 1...15.
    var length: UInt8 = 0
    /// Effective operand size in bytes (2, 4 or 8) that operands of size v, z and y follow.
    var operandSize: UInt8 = 0
    /// Effective address size in bytes: 2, 4 or 8.
    var addressSize: UInt8 = 0
    /// Segment of the memory operand (0 ES ... 5 GS): SS for rSP/rBP based addresses, DS otherwise, or the
    /// override. Also set for implicit memory that an override reaches (rSI of strings, XLAT, MONITOR).
    var segment: UInt8 = SegmentNumber.ds
    var prefixes: Prefixes = []
    var operandCount: UInt8 = 0
    var operand0 = Operand()
    var operand1 = Operand()
    var operand2 = Operand()
    var operand3 = Operand()

    // The memory operand, at most one.

    /// 0...15 is a register, `noRegister` none, `ripBase` RIP: the displacement counts from the next
    /// instruction. 16-bit forms use the same fields (BX+SI is base 3, index 6).
    var base: UInt8 = Instruction.noRegister
    /// 0...15 or `noRegister`. A vector register when the operand's kind is `memoryVectorIndex`.
    var index: UInt8 = Instruction.noRegister
    /// The index counts `1 << scaleShift` times, 0...3.
    var scaleShift: UInt8 = 0
    /// Sign-extended; the whole (zero-extended) address for the moffs forms of MOV.
    var displacement: Int64 = 0

    /// The first immediate, relative offset (sign-extended) or far pointer's offset, extended to 64 bits.
    var immediate: UInt64 = 0
    /// ENTER's level; the far pointer's selector.
    var immediate2: UInt64 { UInt64(selectorOrLevel) }

    // The raw layout, for an emitter that re-encodes the instruction.

    /// 0 one-byte, 1 `0F`, 2 `0F 38`, 3 `0F 3A`.
    var opcodeMap: UInt8 = 0
    /// The last opcode byte.
    var opcode: UInt8 = 0
    /// Where the last opcode byte stands in the instruction.
    var opcodeOffset: UInt8 = 0
    /// 0 when there is no ModRM byte.
    var modRMOffset: UInt8 = 0
    var modRM: UInt8 = 0
    /// 0 when there is no displacement.
    var displacementOffset: UInt8 = 0
    var displacementSize: UInt8 = 0
    /// 0 when there is no immediate, else the first immediate's place.
    var immediateOffset: UInt8 = 0
    /// Bytes of all immediates together.
    var immediateSize: UInt8 = 0
    /// The effective W, R, X, B bits (bit 3...0) of REX or VEX, not inverted.
    var rexBits: UInt8 = 0

    // Most instructions have none of these; side by side they cost the decoder one or two stores.

    /// ENTER's level; the far pointer's selector: `immediate2`.
    var selectorOrLevel: UInt16 = 0
    /// VEX: L in bit 7, vvvv (not inverted) in bits 6...3, pp in bits 1...0 (1 66, 2 F3, 3 F2).
    var vexBits: UInt8 = 0
    /// The prefix that selected the row as an opcode extension: 0, 0x66, 0xF3 or 0xF2.
    var mandatoryPrefix: UInt8 = 0
    /// Bytes of the vector register that VSIB names, 16 or 32; 0 elsewhere.
    var vectorIndexSize: UInt8 = 0

    init(mnemonic: Mnemonic, row: UInt16) { identity = Identity(mnemonic: mnemonic, row: row) }

    @inline(__always) var mnemonic: Mnemonic { identity.mnemonic }
    /// The row of `Instructions.table`; `InstructionRow(index:)` gives its flags, feature and attributes.
    @inline(__always) var row: UInt16 { identity.row }

    static let noRegister: UInt8 = 16
    static let ripBase: UInt8 = 17

    @inline(__always) var vexL: UInt8 { vexBits >> 7 }
    @inline(__always) var vexVVVV: UInt8 { (vexBits >> 3) & 15 }
    @inline(__always) var vexPP: UInt8 { vexBits & 3 }
    @inline(__always) var rexW: Bool { rexBits & 8 != 0 }

    /// Whether the instruction has a ModRM byte that names memory, or a moffs address.
    @inline(__always) var hasMemoryOperand: Bool {
        operand0.isMemory || operand1.isMemory || operand2.isMemory || operand3.isMemory
    }

    /// The condition of JCC, SETCC and CMOVCC: 0 O, 1 NO, 2 B, 3 AE, 4 E, 5 NE, 6 BE, 7 A, 8 S, 9 NS, 10 P,
    /// 11 NP, 12 L, 13 GE, 14 LE, 15 G (SDM vol. 1 appendix B).
    @inline(__always) var condition: UInt8 { opcode & 15 }

    /// The operand at `position`; one of kind `none` beyond the last.
    @inline(__always) func operand(_ position: Int) -> Operand {
        switch position {
        case 0: operand0
        case 1: operand1
        case 2: operand2
        case 3: operand3
        default: Operand()
        }
    }

    /// - Precondition: `position` is 0...3.
    mutating func setOperand(_ position: Int, _ operand: Operand) {
        switch position {
        case 0: operand0 = operand
        case 1: operand1 = operand
        case 2: operand2 = operand
        default: operand3 = operand
        }
    }
}

/// Segment register numbers as the encoding counts them.
enum SegmentNumber {
    static let es: UInt8 = 0, cs: UInt8 = 1, ss: UInt8 = 2, ds: UInt8 = 3, fs: UInt8 = 4, gs: UInt8 = 5
}

/// The prefixes that were present, used or not.
struct Prefixes: OptionSet, BitwiseCopyable, Sendable {
    let rawValue: UInt16
    static let lock = Prefixes(rawValue: 1 << 0)
    /// F3 is the last of F2 and F3.
    static let rep = Prefixes(rawValue: 1 << 1)
    /// F2 is the last of F2 and F3.
    static let repne = Prefixes(rawValue: 1 << 2)
    /// 66
    static let operandSize = Prefixes(rawValue: 1 << 3)
    /// 67
    static let addressSize = Prefixes(rawValue: 1 << 4)
    /// An override that counts in this mode; `Instruction.segment` says which.
    static let segmentOverride = Prefixes(rawValue: 1 << 5)
    /// A REX prefix directly before the opcode.
    static let rex = Prefixes(rawValue: 1 << 6)
    /// W of REX or VEX.
    static let rexW = Prefixes(rawValue: 1 << 7)
    static let vex = Prefixes(rawValue: 1 << 8)
}

/// One explicit operand. The table generator counts on its layout, a byte for each property (`RowRecipe`).
struct Operand: BitwiseCopyable, Equatable, Sendable {
    /// The table generator counts on the order (`OperandNotation.kinds`).
    enum Kind: UInt8, Sendable {
        case none = 0
        /// General register 0...15, `size` bytes of it.
        case gpr
        /// AH, CH, DH or BH: `register` is 0...3, the register whose bits 15...8 are meant.
        case highByte
        /// The memory operand in `base`, `index`, `scaleShift`, `displacement`, `segment`.
        case memory
        /// As `memory`, with a vector register of `vectorIndexSize` bytes as index (VSIB).
        case memoryVectorIndex
        /// segment:[rSI] of a string instruction.
        case stringSource
        /// ES:[rDI] of a string instruction.
        case stringDestination
        /// segment:[rBX + AL] of XLAT.
        case tableLookup
        /// `immediate`.
        case immediate
        /// `immediate2`.
        case immediate2
        /// The constant 1 of the short shift forms, with no immediate byte.
        case one
        /// `immediate` bytes after the next instruction.
        case relative
        /// `immediate2`:`immediate`
        case farPointer
        case xmm
        case ymm
        case mmx
        /// ST(`register`).
        case st
        case segment
        case control
        case debug
    }
    var kind = Kind.none
    /// 0...15.
    var register: UInt8 = 0
    /// Bytes that the operand has; 0 when the instruction itself says (FXSAVE, LEA, INVLPG ...).
    var size: UInt8 = 0
    var access = Access()

    struct Access: OptionSet, BitwiseCopyable, Sendable {
        let rawValue: UInt8
        static let read = Access(rawValue: 1)
        static let write = Access(rawValue: 2)
    }

    @inline(__always) var isMemory: Bool { kind == .memory || kind == .memoryVectorIndex }
    @inline(__always) var isRead: Bool { access.contains(.read) }
    @inline(__always) var isWritten: Bool { access.contains(.write) }
}

/// The code segment's default size: CS.D, or CS.L in long mode.
enum CodeSize: UInt8, Sendable { case bits16 = 0, bits32, bits64 }

/// What besides the bytes decides how they decode. Real and virtual-8086 mode do not matter here.
struct CodeMode: BitwiseCopyable, Sendable {
    var defaultSize: CodeSize
    static let bits16 = CodeMode(defaultSize: .bits16)
    static let bits32 = CodeMode(defaultSize: .bits32)
    static let bits64 = CodeMode(defaultSize: .bits64)
}

enum DecodeFailure: Error, Equatable {
    /// The instruction goes on after the bytes that were given.
    case truncated
    /// #UD
    case undefinedOpcode
    /// More than 15 bytes: #GP(0).
    case tooLong
}
