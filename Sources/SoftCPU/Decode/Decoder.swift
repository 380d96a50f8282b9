/// Turns bytes into `Instruction`s by the rows of Instructions.table.
///
/// Odd encodings follow a present AMD processor (tried on Zen 4): near branches obey 66 in 64-bit mode, REX.W
/// does not widen far pointers, 0F 0D needs memory, SYSCALL exists in every mode. Whether the mode (real,
/// V86, CR0, CPUID) allows the instruction at all is the interpreter's business.
///
/// Confinement: none, it has no state.
struct Decoder: Sendable {
    init() {}

    func decode(_ bytes: InstructionBytes, mode: CodeMode) throws(DecodeFailure) -> Instruction {
        var result = Instruction(mnemonic: .nop, row: 0)
        try decode(bytes, mode: mode, into: &result)
        return result
    }

    /// The same where the result is to stay: it is large. After a failure it is of no use.
    func decode(
        _ bytes: InstructionBytes, mode: CodeMode, into result: inout Instruction
    ) throws(DecodeFailure) {
        // SAFETY: the pointer stays valid during the call that it is made for, and is not kept.
        try unsafe withUnsafeMutablePointer(to: &result) { place throws(DecodeFailure) in
            if mode.defaultSize == .bits64 {
                let code = OpcodeBytes(usual: bytes, .bits64)
                let entry = InstructionRows.Entry(code, .bits64)
                if !entry.isEscape {
                    var state = try unsafe DecodeState(bytes, .bits64, code, entry, place: place)
                    return try state.run(entry)
                }
            }
            try unsafe decodeOther(bytes, mode.defaultSize, place)
        }
    }

    /// The same code once more, for other modes, and for 64-bit mode with prefixes that `decode` does not
    /// take: there it is compiled for what most instructions are.
    @inline(never)
    @unsafe private func decodeOther(
        _ bytes: InstructionBytes, _ size: CodeSize, _ place: UnsafeMutablePointer<Instruction>
    ) throws(DecodeFailure) {
        var code: OpcodeBytes
        var entry: InstructionRows.Entry
        if size == .bits64 {
            code = try OpcodeBytes(all: bytes, size)
            entry = InstructionRows.Entry(code, size)
        } else {
            code = OpcodeBytes(usual: bytes, size)
            entry = InstructionRows.Entry(code, size)
            if entry.isEscape {
                code = try OpcodeBytes(all: bytes, size)
                entry = InstructionRows.Entry(code, size)
            }
        }
        var state = try unsafe DecodeState(bytes, size, code, entry, place: place)
        try state.run(entry)
    }
}

/// Decodes what follows the opcode. Its steps are inlined into one function without calls, but for what is
/// rare, so that this stays in registers; and they avoid jumps that depend on the instruction, which a
/// processor cannot foresee.
@safe struct DecodeState {
    let bytes: InstructionBytes
    let size: CodeSize
    let code: OpcodeBytes
    /// The bytes from ModRM on: it, SIB and displacement, as far as they are there.
    let window: UInt64
    /// 0 when there is none.
    let modRM: UInt
    /// Where the next step goes on.
    var end: Int
    /// Where the result goes.
    let place: UnsafeMutablePointer<Instruction>

    /// What has been decoded so far.
    var instruction: Instruction {
        // SAFETY: whoever made this promised that the place is valid.
        @inline(__always) unsafeAddress { unsafe UnsafePointer(place) }
        @inline(__always) nonmutating unsafeMutableAddress { unsafe place }
    }

    /// Reads ModRM.
    ///
    /// - Safety: `place` must stay valid as long as this lives.
    @inline(__always)
    @unsafe init(
        _ bytes: InstructionBytes, _ size: CodeSize, _ code: OpcodeBytes, _ entry: InstructionRows.Entry,
        place: UnsafeMutablePointer<Instruction>
    ) throws(DecodeFailure) {
        self.bytes = bytes
        self.size = size
        self.code = code
        unsafe self.place = place
        window = bytes.word(at: code.end)
        let mask = 0 &- entry.modRMBytes
        modRM = UInt(truncatingIfNeeded: window) & 0xFF & mask
        end = code.end &+ Int(truncatingIfNeeded: entry.modRMBytes)
        // All bytes so far are read one by one, so that the first that is missing is the one at `count`.
        if end > bytes.count { throw bytes.lack(bytes.count &+ 1) }
        instruction.modRM = UInt8(truncatingIfNeeded: modRM)
        instruction.modRMOffset = UInt8(truncatingIfNeeded: UInt(bitPattern: code.end) & mask)
        instruction.addressSize = UInt8(truncatingIfNeeded: code.addressSize)
        instruction.prefixes = code.prefixes
        instruction.opcodeMap = UInt8(truncatingIfNeeded: code.map)
        instruction.opcode = UInt8(truncatingIfNeeded: code.opcode)
        instruction.opcodeOffset = UInt8(truncatingIfNeeded: code.end &- 1)
        instruction.rexBits = UInt8(truncatingIfNeeded: code.rex & 15)
        instruction.vexBits = 0
        instruction.mandatoryPrefix = 0
        instruction.vectorIndexSize = 0
        instruction.selectorOrLevel = 0
    }

    /// Finds the row, and writes the rest of the instruction as the row says.
    @inline(__always)
    mutating func run(_ entry: InstructionRows.Entry) throws(DecodeFailure) {
        let recipe = RowRecipe(try InstructionRows.row(entry, code, modRM, size))
        instruction.identity = recipe.identity
        instruction.operandCount = recipe.operandCount
        var operandSize = code.operandSize
        // 4 bytes become 8.
        if size == .bits64 { operandSize &+= operandSize & recipe.default64 }
        if code.rare.word != 0 { try applyPrefixes(recipe, &operandSize) }
        instruction.operandSize = UInt8(truncatingIfNeeded: operandSize)
        let namesMemory = modRM | recipe.registerMod < 0xC0
        if namesMemory { try readAddress() } else { writeNoAddress() }
        let material = OperandMaterial(
            code, modRM: modRM, namesMemory: namesMemory, operandSize: operandSize, is64Bit: size == .bits64)
        try readOperands(recipe, material)
        if recipe.isSpecial || code.rare.vexBits & 0x80 != 0 {
            adjustOperands()
            // SAFETY: the place is valid during the call.
            if recipe.hasRareOperands { end = try unsafe RareOperands.read(self) }
        }
        if code.rare.word != 0, isIllegal(recipe) { throw .undefinedOpcode }
        instruction.length = UInt8(truncatingIfNeeded: end)
    }

    /// What legacy prefixes and VEX mean to the row.
    @inline(__always)
    private func applyPrefixes(_ recipe: RowRecipe, _ operandSize: inout UInt) throws(DecodeFailure) {
        let rare = code.rare
        if recipe.hasNoVVVV, rare.vexBits & 0x78 != 0 { throw .undefinedOpcode }
        instruction.vexBits = size == .bits64 ? rare.vexBits : rare.vexBits & 0b1011_1111
        if recipe.hasMandatoryPrefix {
            let prefixes: UInt32 = 0xF2F3_6600
            instruction.mandatoryPrefix =
                UInt8(truncatingIfNeeded: prefixes &>> (rare.extensionPrefix &* 8))
            if rare.extensionPrefix == 1 && !rare.isVEX {
                operandSize = code.isWide ? 8 : size == .bits16 ? 2 : 4
            }
        }
    }

    private func isIllegal(_ recipe: RowRecipe) -> Bool {
        code.rare.isIllegal || code.rare.isLocked && (!recipe.isLockable || modRM >= 0xC0)
    }

    /// There is no memory operand, but there may be memory that an override reaches.
    @inline(__always)
    private func writeNoAddress() {
        instruction.segment = code.rare.segment(orElse: SegmentNumber.ds)
        instruction.base = Instruction.noRegister
        instruction.index = Instruction.noRegister
        instruction.scaleShift = 0
        instruction.displacement = 0
        instruction.displacementOffset = 0
        instruction.displacementSize = 0
    }
}
