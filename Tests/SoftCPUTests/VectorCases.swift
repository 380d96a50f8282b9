@testable import SoftCPU

/// A small generator of reproducible numbers (xorshift64*).
struct VectorRandom: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed | 1 }
    mutating func next() -> UInt64 {
        state ^= state >> 12
        state ^= state << 25
        state ^= state >> 27
        return state &* 0x2545_F491_4F6C_DD1D
    }
}

/// Encodings of one table row.
struct VectorRowCases {
    let row: UInt16
    let mnemonic: Mnemonic
    /// Different prefixes, W, L, ModRM forms and extensions; registers and immediates are still to be chosen.
    var shapes: [Shape] = []

    struct Shape {
        var isVEX: Bool
        var map: UInt8
        var opcode: UInt8
        var prefix: UInt8
        var wide: Bool
        var long: Bool
        /// Mod and, for extensions, reg; nil when there is no ModRM.
        var modRM: UInt8?
        var regIsFixed: Bool
        var rmIsFixed: Bool
        var usesVVVV: Bool
        var hasVectorIndex: Bool
        var lastBytes: Int
    }

    /// All rows with vector or x87 attributes, by decoding every plausible encoding.
    static let all: [VectorRowCases] = {
        var rows: [UInt16: VectorRowCases] = [:]
        for index in 0..<InstructionRow.count {
            let row = InstructionRow(index: UInt16(index))
            guard !row.attributes.isDisjoint(with: VectorLowering.attributes) else { continue }
            rows[UInt16(index)] = VectorRowCases(row: UInt16(index), mnemonic: row.mnemonic)
        }
        var seen = Set<UInt64>()
        for isVEX in [false, true] {
            for map: UInt8 in (isVEX ? 1 : 0)...3 {
                for opcode: UInt8 in (map == 0 ? 0x9B : 0)...(map == 0 ? 0xDF : 0xFF) {
                    for prefix in [0, 0x66, 0xF3, 0xF2] as [UInt8] where map != 0 || prefix == 0 {
                        for bits in 0..<(isVEX ? 4 : 2) as Range<UInt8> {
                            for modRM in candidates(map, opcode) {
                                add(isVEX, map, opcode, prefix, bits, modRM, &rows, &seen)
                            }
                        }
                    }
                }
            }
        }
        return rows.values.sorted { $0.row < $1.row }
    }()

    private static func candidates(_ map: UInt8, _ opcode: UInt8) -> [UInt8] {
        var result = (0..<8 as Range<UInt8>).map { 0x43 | $0 << 3 }
        // A vector index needs a SIB byte.
        result.append(0x44)
        if map == 0 {
            result += Array(0xC0...0xFF as ClosedRange<UInt8>)
        } else {
            result += (0..<8).map { 0xC0 | $0 << 3 | 1 }
        }
        return result
    }

    private static func add(
        _ isVEX: Bool, _ map: UInt8, _ opcode: UInt8, _ prefix: UInt8, _ bits: UInt8, _ modRM: UInt8,
        _ rows: inout [UInt16: VectorRowCases], _ seen: inout Set<UInt64>
    ) {
        var shape = Shape(
            isVEX: isVEX, map: map, opcode: opcode, prefix: prefix, wide: bits & 1 != 0, long: bits & 2 != 0,
            modRM: modRM, regIsFixed: true, rmIsFixed: true, usesVVVV: false, hasVectorIndex: modRM == 0x44,
            lastBytes: 0)
        // The registers of a gather must differ.
        var probe = shape
        probe.usesVVVV = shape.hasVectorIndex
        guard let instruction = decode(bytes(probe, reg: 0, rm: 1, vvvv: 2, last: 0)),
            rows[instruction.row] != nil
        else { return }
        let isX87 = instruction.attributes.contains(.x87)
        let sources = VectorLowering.sources(InstructionRow(index: instruction.row))
        shape.regIsFixed = !sources.contains { [.regVector, .regMMX, .regGeneral].contains($0) }
        shape.rmIsFixed = isX87 || !sources.contains { [.rmVector, .rmMMX, .rmGeneral].contains($0) }
        shape.usesVVVV = sources.contains(.vvvvVector)
        shape.lastBytes = Int(instruction.immediateSize)
        if instruction.modRMOffset == 0 { shape.modRM = nil }
        if shape.hasVectorIndex != (instruction.operand1.kind == .memoryVectorIndex) { return }
        var key = UInt64(instruction.row) << 32 | UInt64(prefix) << 8 | UInt64(bits)
        if let modRM = shape.modRM {
            key |= UInt64(shape.regIsFixed ? modRM & 0x38 : 0) << 16 | UInt64(modRM & 0xC0) << 24
        }
        if isX87, let modRM = shape.modRM { key |= UInt64(modRM) << 16 }
        guard seen.insert(key).inserted else { return }
        rows[instruction.row]?.shapes.append(shape)
    }

    static func decode(_ bytes: [UInt8]) -> Instruction? {
        try? Decoder().decode(
            InstructionBytes(bytes + [UInt8](repeating: 0x90, count: max(0, 15 - bytes.count))), mode: .bits64
        )
    }

    /// The bytes for chosen registers. Memory operands are [RBX + 0x40] or [R11 + 0x40] (`rm` bit 3), with a
    /// vector index [RBX + index * scale + 0x40].
    static func bytes(_ shape: Shape, reg: UInt8, rm: UInt8, vvvv: UInt8, last: UInt8) -> [UInt8] {
        var result: [UInt8] = []
        var modRM = shape.modRM ?? 0
        let isMemory = modRM < 0xC0
        var r: UInt8 = 0, b: UInt8 = 0, x: UInt8 = 0
        if !shape.regIsFixed {
            modRM = modRM & 0xC7 | (reg & 7) << 3
            r = reg >> 3
        }
        if isMemory, shape.modRM != nil {
            if shape.hasVectorIndex { x = rm >> 3 & 1 } else { b = rm >> 3 & 1 }
        } else if !shape.rmIsFixed {
            modRM = modRM & 0xF8 | rm & 7
            b = rm >> 3 & 1
        }
        if shape.isVEX {
            let pp: UInt8 = shape.prefix == 0x66 ? 1 : shape.prefix == 0xF3 ? 2 : shape.prefix == 0xF2 ? 3 : 0
            result += [0xC4, ~(r << 7 | x << 6 | b << 5) & 0xE0 | shape.map]
            result.append(
                (shape.wide ? 0x80 : 0) | (~(shape.usesVVVV ? vvvv : 0) & 15) << 3 | (shape.long ? 4 : 0) | pp
            )
        } else {
            if shape.prefix != 0 { result.append(shape.prefix) }
            let rex = (shape.wide ? 8 : 0) | r << 2 | x << 1 | b
            if rex != 0 { result.append(0x40 | rex) }
            if shape.map > 0 { result.append(0x0F) }
            if shape.map == 2 { result.append(0x38) } else if shape.map == 3 { result.append(0x3A) }
        }
        result.append(shape.opcode)
        if shape.modRM != nil {
            result.append(modRM)
            if shape.hasVectorIndex { result.append((last & 3) << 6 | (rm & 7) << 3 | 3) }
            if isMemory { result.append(0x40) }
        }
        if !shape.hasVectorIndex { for _ in 0..<max(shape.lastBytes, 0) { result.append(last) } }
        return result
    }
}
