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
            var state = unsafe DecodeState(bytes: bytes, mode: mode, place: place)
            try state.run()
        }
    }
}

/// What is known between two steps of `Decoder.decode`.
@safe struct DecodeState {
    var cursor: CodeCursor
    let size: CodeSize
    private let result: UnsafeMutablePointer<Instruction>
    /// 0 none, 1 66, 2 F3, 3 F2: how the prefix acts as an opcode extension.
    var extensionPrefix = 0
    /// Segment override that counts in this mode, or `noOverride`.
    var segmentOverride = Self.noOverride
    /// REX or VEX bits, 0 outside 64-bit mode (but W as encoded under VEX).
    var rex: UInt8 = 0
    /// Index into `InstructionRows.entries`.
    var place = 0
    var match: UInt64 = 0
    /// A prefix makes it #UD, but only once all of its bytes have been fetched: a page fault or #GP on the
    /// way comes first.
    var isIllegal = false

    private static let noOverride: UInt8 = 0xFF

    /// - Safety: `place` must stay valid as long as this lives.
    @unsafe init(bytes: InstructionBytes, mode: CodeMode, place: UnsafeMutablePointer<Instruction>) {
        cursor = CodeCursor(bytes)
        size = mode.defaultSize
        unsafe result = place
        unsafe place.pointee = Instruction(mnemonic: .nop, row: 0)
    }

    /// What has been decoded so far.
    var instruction: Instruction {
        // SAFETY: whoever made this promised that the place is valid.
        @inline(__always) unsafeAddress { unsafe UnsafePointer(result) }
        @inline(__always) nonmutating unsafeMutableAddress { unsafe result }
    }

    mutating func run() throws(DecodeFailure) {
        try readPrefixes()
        try readOpcode()
        try selectRow()
        try readMemoryOperand()
        try readOperands()
        if isIllegal { throw .undefinedOpcode }
        instruction.length = UInt8(truncatingIfNeeded: cursor.offset)
    }

    var is64Bit: Bool { size == .bits64 }
    var rexB: UInt8 { (rex & 1) << 3 }
    var rexX: UInt8 { (rex & 2) << 2 }
    var rexR: UInt8 { (rex & 4) << 1 }
    var wide: Bool { rex & 8 != 0 }

    // MARK: Prefixes and opcode

    /// Legacy prefixes in any order, then in 64-bit mode REX; a REX that no opcode follows counts for nothing
    /// (SDM vol. 2 §2.2.1).
    mutating func readPrefixes() throws(DecodeFailure) {
        while true {
            let byte = try cursor.peek()
            guard Self.mayBePrefix(byte) else { return }
            switch byte {
            case 0x66: instruction.prefixes.insert(.operandSize)
            case 0x67: instruction.prefixes.insert(.addressSize)
            case 0xF0: instruction.prefixes.insert(.lock)
            case 0xF2:
                instruction.prefixes.insert(.repne)
                instruction.prefixes.remove(.rep)
            case 0xF3:
                instruction.prefixes.insert(.rep)
                instruction.prefixes.remove(.repne)
            case 0x26: override(SegmentNumber.es)
            case 0x2E: override(SegmentNumber.cs)
            case 0x36: override(SegmentNumber.ss)
            case 0x3E: override(SegmentNumber.ds)
            case 0x64: override(SegmentNumber.fs)
            case 0x65: override(SegmentNumber.gs)
            case 0x40...0x4F where is64Bit:
                _ = try cursor.next()
                rex = byte
                continue
            default: return
            }
            rex = 0
            _ = try cursor.next()
        }
    }

    /// Whether `byte` is a prefix or a REX prefix in some mode: most opcodes are not.
    @inline(__always) private static func mayBePrefix(_ byte: UInt8) -> Bool {
        let bits: UInt64 =
            switch byte >> 6 {
            case 0: 1 << 0x26 | 1 << 0x2E | 1 << 0x36 | 1 << 0x3E
            case 1: 0xFFFF | 0xF << 0x24
            case 2: 0
            default: 1 << 0x30 | 1 << 0x32 | 1 << 0x33
            }
        return bits >> UInt64(byte & 63) & 1 != 0
    }

    /// ES, CS, SS and DS overrides are ignored in 64-bit mode (AMD APM vol. 3 §1.2.4).
    private mutating func override(_ segment: UInt8) {
        if is64Bit && segment < SegmentNumber.fs { return }
        segmentOverride = segment
        instruction.prefixes.insert(.segmentOverride)
    }

    mutating func readOpcode() throws(DecodeFailure) {
        if rex != 0 {
            instruction.prefixes.insert(.rex)
            if wide { instruction.prefixes.insert(.rexW) }
        }
        let first = try cursor.next()
        if first == 0xC4 || first == 0xC5 {
            let second = try cursor.peek()
            if is64Bit || second >= 0xC0 { return try readVEX(first) }
        }
        var map: UInt8 = 0
        var opcode = first
        if first == 0x0F {
            map = 1
            opcode = try cursor.next()
            if opcode == 0x38 || opcode == 0x3A {
                map = opcode == 0x38 ? 2 : 3
                opcode = try cursor.next()
            }
        }
        if instruction.prefixes.contains(.rep) {
            extensionPrefix = 2
        } else if instruction.prefixes.contains(.repne) {
            extensionPrefix = 3
        } else if instruction.prefixes.contains(.operandSize) {
            extensionPrefix = 1
        }
        setOpcode(opcode, map: map, place: Int(map) &* 256)
        setSizes()
    }

    /// SDM vol. 2 §2.3.5: 66, F2, F3, LOCK and REX before VEX are #UD.
    private mutating func readVEX(_ first: UInt8) throws(DecodeFailure) {
        isIllegal = !instruction.prefixes.isDisjoint(with: [.operandSize, .rep, .repne, .lock, .rex])
        instruction.prefixes.insert(.vex)
        let second = try cursor.next()
        var map: UInt8 = 1
        var last = second
        if first == 0xC4 {
            map = second & 31
            last = try cursor.next()
            rex = (~second >> 5) & 7 | (last & 0x80) >> 4
        } else {
            rex = (~second >> 5) & 4
        }
        // Outside 64-bit mode there are eight registers; W still selects opcodes.
        if !is64Bit { rex &= 8 }
        if map == 0 || map > 3 { throw .undefinedOpcode }
        if wide { instruction.prefixes.insert(.rexW) }
        instruction.vexBits = (last & 4) << 5 | (~last & 0x78) | last & 3
        extensionPrefix = Int(last & 3)
        setOpcode(try cursor.next(), map: map, place: (Int(map) &+ 4) &* 256)
        setSizes()
        instruction.operandSize = is64Bit && wide ? 8 : 4
    }

    private mutating func setOpcode(_ opcode: UInt8, map: UInt8, place: Int) {
        instruction.opcode = opcode
        instruction.opcodeMap = map
        instruction.opcodeOffset = UInt8(truncatingIfNeeded: cursor.offset &- 1)
        instruction.rexBits = rex & 15
        self.place = place &+ Int(opcode)
    }

    private mutating func setSizes() {
        let narrow = instruction.prefixes.contains(.operandSize)
        let otherAddress = instruction.prefixes.contains(.addressSize)
        switch size {
        case .bits16:
            instruction.operandSize = narrow ? 4 : 2
            instruction.addressSize = otherAddress ? 4 : 2
        case .bits32:
            instruction.operandSize = narrow ? 2 : 4
            instruction.addressSize = otherAddress ? 2 : 4
        case .bits64:
            instruction.operandSize = wide ? 8 : narrow ? 2 : 4
            instruction.addressSize = otherAddress ? 4 : 8
        }
    }

    // MARK: Row

    /// The first row of the opcode that accepts everything we know; bit places as in `InstructionRows`.
    mutating func selectRow() throws(DecodeFailure) {
        let entry = InstructionRows.entries[place]
        var count = Int(entry >> 16 & 0xFF)
        if count == 0 { throw .undefinedOpcode }
        var situation: UInt64 = 1 << UInt64(extensionPrefix)
        if entry >> 24 != 0 {
            instruction.modRMOffset = UInt8(truncatingIfNeeded: cursor.offset)
            let modRM = try cursor.next()
            instruction.modRM = modRM
            situation |= modRM >= 0xC0 ? 1 << 5 : 1 << 4
            situation |= 1 << (6 &+ UInt64(modRM >> 3 & 7)) | 1 << (14 &+ UInt64(modRM & 7))
        }
        situation |= is64Bit ? 1 << 23 : 1 << 22
        situation |= wide ? 1 << 25 : 1 << 24
        situation |= instruction.vexBits & 0x80 != 0 ? 1 << 27 : 1 << 26
        situation |= instruction.operandSize == 2 ? 1 << 28 : instruction.operandSize == 4 ? 1 << 29 : 1 << 30
        situation |= rex & 1 != 0 ? 1 << 32 : 1 << 31
        var next = Int(entry & 0xFFFF)
        while count > 0 {
            let row = InstructionRows.candidates[next]
            let accepted = InstructionRows.match[Int(row)]
            if situation & ~accepted == 0 {
                match = accepted
                instruction.row = row
                return try applyRow()
            }
            next &+= 1
            count &-= 1
        }
        throw .undefinedOpcode
    }

    private mutating func applyRow() throws(DecodeFailure) {
        instruction.mnemonic = InstructionRow.mnemonic(match)
        instruction.operandCount = UInt8(truncatingIfNeeded: match >> 36 & 7)
        if match >> 39 & 1 != 0, is64Bit, instruction.operandSize == 4 { instruction.operandSize = 8 }
        if match >> 41 & 1 != 0 {
            let prefixes: UInt32 = 0xF2F3_6600
            instruction.mandatoryPrefix = UInt8(truncatingIfNeeded: prefixes >> UInt32(extensionPrefix &* 8))
            if extensionPrefix == 1 && !instruction.prefixes.contains(.vex) {
                instruction.operandSize = wide ? 8 : size == .bits16 ? 2 : 4
            }
        }
        if match >> 42 & 1 != 0, instruction.vexVVVV != 0 { throw .undefinedOpcode }
        if !is64Bit { instruction.vexBits &= 0b1011_1111 }
        if instruction.prefixes.contains(.lock) {
            let lockable = InstructionRow(index: instruction.row).attributes.contains(.lockable)
            if !lockable || instruction.modRM >= 0xC0 { isIllegal = true }
        }
        instruction.segment = segmentOverride != Self.noOverride ? segmentOverride : SegmentNumber.ds
    }

    /// Sets SS for stack-based addresses that no override moves.
    mutating func useStackSegment() {
        if segmentOverride == Self.noOverride { instruction.segment = SegmentNumber.ss }
    }
}
