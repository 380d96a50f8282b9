@testable import SoftCPU

/// SplitMix64 (Steele, Lea, Flood 2014): the same strings in every run.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
        return word ^ word >> 31
    }
}

/// Code strings of 15 bytes, drawn from the table's rows or from nothing but chance.
struct DecoderCorpus {
    var random: SeededGenerator

    init(seed: UInt64) { random = SeededGenerator(state: seed) }

    private mutating func oneIn(_ count: UInt64) -> Bool { random.next() % count == 0 }
    private mutating func byte() -> UInt8 { UInt8(truncatingIfNeeded: random.next()) }

    /// Mostly legal bytes of `row` with random prefixes, registers, addresses and immediates.
    mutating func string(of row: InstructionRow, mode: CodeMode) -> [UInt8] {
        let match = InstructionRows.match[row.index]
        var bytes: [UInt8] = []
        while oneIn(4) { bytes.append(Self.prefixes[Int(random.next() % UInt64(Self.prefixes.count))]) }
        let opcode = row.opcode | (row.coversEightOpcodes ? byte() & 7 : 0)
        var extended = mode.defaultSize == .bits64 ? byte() & 15 : 0
        if match >> 24 & 3 == 1 { extended &= 7 }
        if match >> 24 & 3 == 2 { extended |= 8 }
        if match >> 31 & 3 == 1 { extended &= 14 }
        if row.isVEX {
            appendVEX(row, match, opcode, extended, mode, &bytes)
        } else {
            switch match & 15 {
            case 2: bytes.append(0x66)
            case 4: bytes.append(0xF3)
            case 8: bytes.append(0xF2)
            default: break
            }
            if mode.defaultSize == .bits64, !oneIn(4) || extended & 8 != 0 { bytes.append(0x40 | extended) }
            bytes += [[], [0x0F], [0x0F, 0x38], [0x0F, 0x3A]][Int(row.opcodeMap)] + [opcode]
        }
        if row.hasModRM { bytes.append(modRM(match)) }
        while bytes.count < 15 { bytes.append(byte()) }
        return Array(bytes.prefix(15))
    }

    private mutating func modRM(_ match: UInt64) -> UInt8 {
        var result = byte()
        for _ in 0..<256 {
            let isRegister = result >= 0xC0
            if match >> (isRegister ? 5 : 4) & 1 != 0, match >> (6 + UInt64(result >> 3 & 7)) & 1 != 0,
                match >> (14 + UInt64(result & 7)) & 1 != 0
            {
                return result
            }
            result &+= 1
        }
        return result
    }

    private mutating func appendVEX(
        _ row: InstructionRow, _ match: UInt64, _ opcode: UInt8, _ extended: UInt8, _ mode: CodeMode,
        _ bytes: inout [UInt8]
    ) {
        let pp = UInt8((match & 15).trailingZeroBitCount)
        var vvvv = match >> 42 & 1 != 0 && !oneIn(16) ? 0 : byte() & 15
        if mode.defaultSize != .bits64, !oneIn(16) { vvvv &= 7 }
        var length: UInt8 = match >> 26 & 3 == 1 ? 0 : 4
        if match >> 26 & 3 == 3 { length = byte() & 4 }
        let last = (~vvvv & 15) << 3 | length | pp
        if row.opcodeMap == 1, extended & 11 == 0, oneIn(2) {
            bytes += [0xC5, (~extended & 4) << 5 | last, opcode]
        } else {
            bytes += [0xC4, (~extended & 7) << 5 | row.opcodeMap, (extended & 8) << 4 | last, opcode]
        }
    }

    private static let prefixes: [UInt8] = [
        0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x48, 0x41,
    ]

    /// Any bytes: some prefixes, any opcode of any map, anything after it.
    mutating func randomString() -> [UInt8] {
        var bytes: [UInt8] = []
        while oneIn(2), bytes.count < 14 {
            bytes.append(Self.prefixes[Int(random.next() % UInt64(Self.prefixes.count))])
        }
        if oneIn(3) { bytes.append(0x40 | byte() & 15) }
        switch random.next() % 8 {
        case 0, 1: bytes.append(0x0F)
        case 2: bytes += [0x0F, 0x38]
        case 3: bytes += [0x0F, 0x3A]
        case 4: bytes += [0xC4, byte() & 0xE0 | byte() & 3, byte()]
        case 5: bytes += [0xC5, byte()]
        default: break
        }
        while bytes.count < 15 { bytes.append(byte()) }
        return Array(bytes.prefix(15))
    }
}
