@testable internal import SoftCPU

/// What a row of the instruction table accepts, unpacked from its integers.
struct RowShape {
    let number: UInt16
    let row: InstructionRow
    private let match: UInt64

    init(_ number: UInt16) {
        self.number = number
        row = InstructionRow(index: number)
        match = InstructionRows.match[Int(number)]
    }

    /// 1 none, 2 66, 4 F3, 8 F2
    var prefixes: UInt64 { match & 15 }
    var allowsMemory: Bool { match >> 4 & 1 != 0 && match >> 40 & 1 == 0 }
    var allowsRegister: Bool { match >> 5 & 1 != 0 }
    var regFields: UInt64 { match >> 6 & 0xFF }
    var rmFields: UInt64 { match >> 14 & 0xFF }
    var outside64: Bool { match >> 22 & 1 != 0 }
    var inside64: Bool { match >> 23 & 1 != 0 }
    /// 1 W clear, 2 W set
    var wide: UInt64 { match >> 24 & 3 }
    var long: UInt64 { match >> 26 & 3 }
    /// 1 B clear, 2 B set
    var extensionB: UInt64 { match >> 31 & 3 }
    var fixedVVVV: Bool { match >> 42 & 1 != 0 }

    func exists(in mode: OracleMode) -> Bool { mode == .bits64 ? inside64 : outside64 }

    /// Whether it touches state outside the general registers.
    var isExtended: Bool {
        !row.attributes.isDisjoint(with: [.x87, .mmx, .sse, .avx, .fxState, .xState, .waitsForX87])
    }
}

/// One encoded instruction of a case.
struct EncodedInstruction {
    var bytes: [UInt8]
    /// What the decoder makes of the bytes, or nil when they must raise #UD or #GP.
    var decoded: Instruction?
    /// The same without a LOCK that makes it undefined.
    var known: Instruction?
    var row: UInt16
    /// Status flags that are undefined once it has run.
    var undefinedFlags: UInt64 = 0
}

/// Makes random encodings of a row.
struct RowEncoder {
    let mode: OracleMode
    private let decoder = Decoder()

    init(mode: OracleMode) { self.mode = mode }

    /// A random encoding that decodes to `shape`'s row, or nil when some tries did not find one.
    func encode(_ shape: RowShape, _ random: inout Random) -> EncodedInstruction? {
        guard shape.exists(in: mode) else { return nil }
        for _ in 0..<24 {
            var bytes = shape.row.isVEX ? vexBytes(shape, &random) : legacyBytes(shape, &random)
            appendOperands(shape, &bytes, &random)
            appendImmediates(&bytes, &random)
            guard let decoded = try? decoder.decode(InstructionBytes(bytes), mode: mode.codeMode),
                decoded.row == shape.number, !Exclusions.isForbidden(decoded)
            else { continue }
            return EncodedInstruction(
                bytes: Array(bytes[..<Int(decoded.length)]), decoded: decoded, known: decoded,
                row: shape.number)
        }
        return nil
    }

    // MARK: Prefixes and opcode

    private func legacyBytes(_ shape: RowShape, _ random: inout Random) -> [UInt8] {
        var bytes: [UInt8] = []
        let plain = shape.prefixes & 1 != 0 && random.chance(percent: 65)
        switch plain ? 0 : random.bit(of: shape.prefixes) {
        case 1: bytes.append(0x66)
        case 2:
            bytes.append(0xF3)
            if random.chance(percent: 10) { bytes.insert(0x66, at: random.below(2)) }
        case 3:
            bytes.append(0xF2)
            if random.chance(percent: 10) { bytes.insert(0x66, at: random.below(2)) }
        default: break
        }
        addLoosePrefixes(shape, &bytes, &random)
        if mode == .bits64 { appendREX(shape, &bytes, &random) }
        if shape.row.opcodeMap != 0 { bytes.append(0x0F) }
        if shape.row.opcodeMap == 2 { bytes.append(0x38) }
        if shape.row.opcodeMap == 3 { bytes.append(0x3A) }
        var opcode = shape.row.opcode
        if shape.row.coversEightOpcodes { opcode = opcode & 0xF8 | UInt8(random.below(8)) }
        bytes.append(opcode)
        return bytes
    }

    /// 67, segment overrides, LOCK, and now and then more prefixes than there is room for.
    private func addLoosePrefixes(_ shape: RowShape, _ bytes: inout [UInt8], _ random: inout Random) {
        if random.chance(percent: 10) { bytes.insert(0x67, at: random.below(bytes.count + 1)) }
        if random.chance(percent: 15) {
            let override: UInt8 = random.pick([0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x64, 0x65])
            bytes.insert(override, at: random.below(bytes.count + 1))
        }
        if shape.row.attributes.contains(.lockable), random.chance(percent: 30) {
            bytes.insert(0xF0, at: random.below(bytes.count + 1))
        }
        if random.chance(percent: 1) {
            for _ in 0..<random.below(11) { bytes.insert(random.pick([0x2E, 0x3E, 0x67]), at: 0) }
        }
    }

    private func appendREX(_ shape: RowShape, _ bytes: inout [UInt8], _ random: inout Random) {
        var rex = UInt8(random.below(8))
        if shape.wide == 2 || shape.wide == 3 && random.chance(percent: 40) { rex |= 8 }
        if shape.extensionB == 1 { rex &= ~1 }
        if shape.extensionB == 2 { rex |= 1 }
        let isNeeded = shape.wide == 2 || shape.extensionB == 2
        if isNeeded || random.chance(percent: 60) { bytes.append(0x40 | rex) }
    }

    private func vexBytes(_ shape: RowShape, _ random: inout Random) -> [UInt8] {
        var bytes: [UInt8] = []
        if random.chance(percent: 8) { bytes.append(0x67) }
        if random.chance(percent: 10) { bytes.append(random.pick([0x26, 0x3E, 0x64, 0x65])) }
        let inLong = mode == .bits64
        var extensions: UInt8 = inLong ? UInt8(random.below(8)) << 5 : 0xE0
        if random.chance(percent: 40) { extensions = 0xE0 }
        if shape.extensionB == 1 { extensions |= 0x20 }
        let wide: UInt8 = random.bit(of: shape.wide) == 1 ? 0x80 : 0
        let long: UInt8 = random.bit(of: shape.long) == 1 ? 4 : 0
        var vvvv: UInt8 = shape.fixedVVVV ? 0x78 : UInt8(random.below(16)) << 3
        if !inLong { vvvv |= 0x40 }
        let last = vvvv | long | UInt8(random.bit(of: shape.prefixes))
        let isShort = shape.row.opcodeMap == 1 && wide == 0 && extensions & 0x60 == 0x60
        if isShort && random.chance(percent: 60) {
            bytes += [0xC5, last | extensions & 0x80, shape.row.opcode]
        } else {
            bytes += [0xC4, extensions | shape.row.opcodeMap, last | wide, shape.row.opcode]
        }
        return bytes
    }

    // MARK: Operands

    private func appendOperands(_ shape: RowShape, _ bytes: inout [UInt8], _ random: inout Random) {
        guard shape.row.hasModRM else { return }
        let memory = shape.allowsMemory && (!shape.allowsRegister || random.chance(percent: 55))
        var reg = UInt8(random.bit(of: shape.regFields))
        // Mostly leave the registers alone that hold addresses.
        if shape.regFields == 0xFF, random.chance(percent: 70) { reg = random.pick([0, 1, 2]) }
        var rm = UInt8(random.bit(of: shape.rmFields))
        guard memory else {
            if shape.rmFields == 0xFF, random.chance(percent: 70) { rm = random.pick([0, 1, 2]) }
            bytes.append(0xC0 | reg << 3 | rm)
            return
        }
        let narrow = addressIsNarrow(bytes)
        if !narrow, random.chance(percent: 80) { rm = random.pick([3, 5, 6, 7, 4]) }
        let mod = UInt8(random.pick([0, 1, 1, 2]))
        bytes.append(mod << 6 | reg << 3 | rm)
        if narrow {
            if mod == 1 { bytes.append(smallDisplacement(&random)) }
            if mod == 2 || mod == 0 && rm == 6 { appendDisplacement(2, &bytes, &random) }
            return
        }
        var base = rm
        if rm == 4 {
            base = random.chance(percent: 80) ? random.pick([3, 5, 6, 7, 4]) : UInt8(random.below(8))
            let index = random.chance(percent: 80) ? random.pick([0, 1, 2, 4]) : UInt8(random.below(8))
            bytes.append(UInt8(random.below(4)) << 6 | index << 3 | base)
        }
        if mod == 1 { bytes.append(smallDisplacement(&random)) }
        if mod == 2 || mod == 0 && base == 5 { appendDisplacement(4, &bytes, &random) }
    }

    private func addressIsNarrow(_ bytes: [UInt8]) -> Bool {
        guard mode != .bits64 else { return false }
        // Only a prefix is 67 here, for no opcode is 67.
        return bytes.contains(0x67) == (mode == .bits32)
    }

    private func smallDisplacement(_ random: inout Random) -> UInt8 {
        let byte = UInt8(truncatingIfNeeded: random.next())
        return random.chance(percent: 70) ? byte & 0xF0 : byte
    }

    private func appendDisplacement(_ size: Int, _ bytes: inout [UInt8], _ random: inout Random) {
        var value = random.chance(percent: 60) ? UInt64(random.below(1024)) & ~15 &- 512 : random.next()
        for _ in 0..<size {
            bytes.append(UInt8(truncatingIfNeeded: value))
            value >>= 8
        }
    }

    /// More bytes than any row has immediates; the decoder says how many count.
    private func appendImmediates(_ bytes: inout [UInt8], _ random: inout Random) {
        var value = random.corner()
        if random.chance(percent: 20) { value = value & 0xFF | random.corner() << 8 }
        for _ in 0..<10 {
            bytes.append(UInt8(truncatingIfNeeded: value))
            value = value >> 8 | (random.next() & 1) << 63
        }
    }
}
