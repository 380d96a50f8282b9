/// How translated code does a row of the instruction table.
enum Treatment: UInt8 {
    /// The interpreter's body, called from translated code.
    case escape = 0
    /// The same instruction on host registers and host addresses.
    case copy
    case push, pop, leave, jump, conditionalJump, loop, call, ret
    case lea, moveImmediate, exchangeShort, byteSwap, shortIncrement
    /// MOV between the accumulator and an address in the instruction.
    case absolute
    /// Names RAX (and RDX) implicitly: MUL, IMUL, CMPXCHG, CMPXCHG8B/16B, CWD and relatives.
    case accumulator
    case divide, signedDivide
    case convert
    case loadFlags, storeFlags
    case fence
    case clearInterrupts, setInterrupts, pushFlags, swapGS
    /// MOVS and STOS, with REP.
    case repeatMove, repeatStore
    case nothing
}

/// What the translator asks of a row, from its operands.
struct RowShape: BitwiseCopyable {
    enum Field: UInt8 { case none, general, vector, stack }
    var treatment = Treatment.escape
    /// What ModRM.reg, ModRM.rm (as a register) and VEX.vvvv name; `none`: part of the opcode.
    var reg = Field.none
    var rm = Field.none
    var vvvv = Field.none
    /// Positions of these operands.
    var regOperand: UInt8 = 4
    var rmOperand: UInt8 = 4
    var vvvvOperand: UInt8 = 4
    /// Vector state that must be in the registers: 0 none, 1 SSE, 2 AVX, 3 x87 or MMX.
    var level: UInt8 = 0
    /// The operand that the last byte's bits 7...4 name.
    var lastByteOperand: UInt8?
    /// The accumulator is an explicit operand of a form without ModRM (ADD AL, imm8).
    var hasFixedAccumulator = false
    /// Copied, with no more than ModRM and immediates to look at.
    var isUsual = false
    var traits: RowTraits = []
    /// Status flags that it reads or, for some inputs, leaves alone.
    var flagsNeeded: UInt16 = 0
    /// Status flags that it always replaces.
    var flagsReplaced: UInt16 = 0
    /// Status flags that it reads or touches in any way.
    var flagsTouched: UInt16 = 0
    /// General registers that it changes without naming them, one bit each.
    var impliedRegisters: UInt16 = 0

    static let all = RowShapes()

    fileprivate init(_ row: InstructionRow) {
        var isPlain = true
        let sources = VectorLowering.sources(row)
        for (position, source) in sources.enumerated() {
            switch source {
            case .regGeneral: (reg, regOperand) = (.general, UInt8(position))
            case .regVector: (reg, regOperand) = (.vector, UInt8(position))
            case .rmGeneral: (rm, rmOperand) = (.general, UInt8(position))
            case .rmVector: (rm, rmOperand) = (.vector, UInt8(position))
            case .rmST: (rm, rmOperand) = (.stack, UInt8(position))
            case .vvvvGeneral: (vvvv, vvvvOperand) = (.general, UInt8(position))
            case .vvvvVector: (vvvv, vvvvOperand) = (.vector, UInt8(position))
            case .fixedGeneral: hasFixedAccumulator = !row.hasModRM
            case .lastByteVector: lastByteOperand = UInt8(position)
            case .none, .immediate, .signedImmediate, .one, .fixedVector, .fixedST: break
            default: isPlain = false
            }
        }
        let attributes = row.attributes
        if attributes.contains(.avx) {
            level = 2
        } else if attributes.contains(.sse) {
            level = 1
        }
        if !attributes.isDisjoint(with: [.x87, .mmx]) { level = 3 }
        if sources.contains(.opcodeGeneral), let short = Self.short(row.mnemonic) {
            treatment = short
        } else if row.mnemonic == .mov, sources.contains(.moffs) {
            treatment = .absolute
        } else if row.mnemonic == .imul, row.opcodeMap == 0, row.opcode == 0xF6 || row.opcode == 0xF7 {
            treatment = .accumulator
        } else {
            treatment = Self.special(row.mnemonic) ?? (isPlain ? Self.plain(row) : .escape)
        }
        traits = RowTraits(row)
        isUsual =
            treatment == .copy && row.hasModRM && rm == .general && reg != .vector && vvvv == .none
            && level == 0 && lastByteOperand == nil && !hasFixedAccumulator && !row.isVEX
            && !traits.contains(.bitString)
        setFlags(row)
        switch row.mnemonic {
        case .push, .pop: impliedRegisters = 1 << 4
        case .cbw, .cwde, .cdqe: impliedRegisters = 1 << 0
        case .vpcmpistri, .pcmpistri: impliedRegisters = 1 << 1
        default: break
        }
    }

    private mutating func setFlags(_ row: InstructionRow) {
        let changed = row.flagsWritten | row.flagsUndefined
        flagsTouched = (row.flagsRead | changed) & Translator.status
        flagsNeeded = row.flagsRead & Translator.status
        if row.attributes.contains(.mayKeepFlags) {
            flagsNeeded |= changed & Translator.status
        } else {
            flagsReplaced = changed & Translator.status
        }
    }

    /// Forms with a register in the opcode.
    private static func short(_ mnemonic: Mnemonic) -> Treatment? {
        switch mnemonic {
        case .mov: .moveImmediate
        case .xchg: .exchangeShort
        case .inc, .dec: .shortIncrement
        default: nil
        }
    }

    private static func plain(_ row: InstructionRow) -> Treatment {
        let attributes = row.attributes
        if !attributes.isDisjoint(with: [
            .privileged, .undefinedUnlessPrivileged, .protectedModeOnly, .umip, .iopl, .portAccess, .stack,
            .string, .branch, .endsBlock, .interruptShadow, .loadsSegment, .fxState, .xState,
        ]) {
            return .escape
        }
        if !attributes.isDisjoint(with: [.sse, .avx, .x87]) {
            return attributes.contains(.mmx) || isVectorEscape(row) ? .escape : .copy
        }
        if attributes.contains(.mmx) { return .escape }
        return copied.contains(row.mnemonic) ? .copy : .escape
    }

    /// Vector rows with implicit memory, masked accesses, or control over exceptions.
    private static func isVectorEscape(_ row: InstructionRow) -> Bool {
        switch (row.opcodeMap, row.opcode) {
        case (1, 0xAE), (1, 0xF7): return true
        case (2, 0x2C...0x2F) where row.isVEX: return true
        case (2, 0x8C) where row.isVEX, (2, 0x8E) where row.isVEX: return true
        case (2, 0x90...0x93) where row.isVEX: return true
        case (3, 0x60), (3, 0x61): return true
        default: break
        }
        switch row.mnemonic {
        case .fldcw, .fldenv, .frstor, .fnsave, .fnstenv, .fbld, .fbstp, .fnstsw, .fwait, .fneni, .fndisi,
            .fnsetpm:
            return true
        default: return false
        }
    }

    private static let copied: Set<Mnemonic> = [
        .add, .or, .adc, .sbb, .and, .sub, .xor, .cmp, .test, .mov, .movzx, .movsx, .movsxd, .inc, .dec, .neg,
        .not, .shl, .shr, .sar, .rol, .ror, .rcl, .rcr, .shld, .shrd, .imul, .cmovcc, .setcc, .bt, .bts, .btr,
        .btc, .bsf, .bsr, .tzcnt, .lzcnt, .popcnt, .xchg, .xadd, .movbe, .crc32, .andn, .bextr, .blsi,
        .blsmsk, .blsr, .bzhi, .mulx, .pdep, .pext, .rorx, .sarx, .shlx, .shrx, .adcx, .adox, .movnti, .clc,
        .stc, .cmc,
    ]

    private static func special(_ mnemonic: Mnemonic) -> Treatment? {
        switch mnemonic {
        case .push: .push
        case .pop: .pop
        case .leave: .leave
        case .jmp: .jump
        case .jcc: .conditionalJump
        case .loop, .jcxz: .loop
        case .call: .call
        case .ret: .ret
        case .lea: .lea
        case .bswap: .byteSwap
        case .mul, .cmpxchg, .cmpxchg8b, .cmpxchg16b, .cwd, .cdq, .cqo: .accumulator
        case .div: .divide
        case .idiv: .signedDivide
        case .cbw, .cwde, .cdqe: .convert
        case .lahf: .storeFlags
        case .sahf: .loadFlags
        case .nop, .endbr32, .endbr64, .prefetch, .prefetchw, .prefetchnta, .prefetcht0, .prefetcht1,
            .prefetcht2, .lfence, .sfence, .cld:
            .nothing
        case .mfence: .fence
        case .cli: .clearInterrupts
        case .sti: .setInterrupts
        case .pushf: .pushFlags
        case .swapgs: .swapGS
        case .movs: .repeatMove
        case .stos: .repeatStore
        default: nil
        }
    }
}

/// What the translator asks of a row's attributes, in one byte.
struct RowTraits: OptionSet, BitwiseCopyable, Sendable {
    let rawValue: UInt8
    static let endsBlock = RowTraits(rawValue: 1 << 0)
    /// Of the interpreter's body: it may leave the block, so that others see the flags.
    static let showsFlags = RowTraits(rawValue: 1 << 1)
    /// Nothing certain follows it.
    static let mayBranch = RowTraits(rawValue: 1 << 2)
    /// Its opcode names a condition: JCC, SETCC, CMOVCC.
    static let readsCondition = RowTraits(rawValue: 1 << 3)
    static let bitString = RowTraits(rawValue: 1 << 4)
    static let vector = RowTraits(rawValue: 1 << 5)
    static let x87 = RowTraits(rawValue: 1 << 6)

    init(rawValue: UInt8) { self.rawValue = rawValue }

    fileprivate init(_ row: InstructionRow) {
        self = []
        let attributes = row.attributes
        if row.endsBlock { insert(.endsBlock) }
        if row.endsBlock || !attributes.isDisjoint(with: [.string, .branch]) { insert(.showsFlags) }
        if row.endsBlock || attributes.contains(.branch) { insert(.mayBranch) }
        if [.jcc, .setcc, .cmovcc].contains(row.mnemonic) { insert(.readsCondition) }
        if attributes.contains(.bitString) { insert(.bitString) }
        if row.isVector { insert(.vector) }
        if attributes.contains(.x87) { insert(.x87) }
    }
}

/// The shapes of all rows. No array: asking for one shall count no reference.
@safe struct RowShapes: Sendable {
    // SAFETY: filled once and never freed.
    nonisolated(unsafe) private let table: UnsafePointer<RowShape>

    private let count: Int

    fileprivate init() {
        count = InstructionRow.count
        // None of them lies in two lines of the host's cache.
        let places = UnsafeMutableRawPointer.allocate(
            byteCount: count * MemoryLayout<RowShape>.stride, alignment: 64
        ).bindMemory(to: RowShape.self, capacity: count)
        for row in 0..<count {
            unsafe (places + row).initialize(to: RowShape(InstructionRow(index: UInt16(row))))
        }
        unsafe table = UnsafePointer(places)
    }

    /// - Precondition: a row number, as `Instruction.row` is.
    @inline(__always) subscript(row: Int) -> RowShape {
        precondition(row >= 0 && row < count, "a row of the table")
        return unsafe table[row]
    }
}
