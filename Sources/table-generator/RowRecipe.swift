/// What the decoder does for a row, in three words that it need not look at in detail.
///
///     operands  two words of two operands each, as the decoder's `Operand` lies in memory, with choices
///               where that has room. Bits 0...4 kind, 5...7 `OperandNotation.Register`, 8...12 register when
///               it is fixed, 13...15 `SizeChoice`, 16...23 bytes when they are fixed, 24...25 access
///     facts     bits 0...15 mnemonic, 16...31 row, 32...34 operands, 35...37 `SizeChoice` of the immediate,
///               38 its sign counts, 40...43 its bytes when they are fixed, 44 d64, 45 a prefix is part of
///               the opcode, 46 VEX.vvvv must be 1111, 47 LOCK is allowed, 54 and 55 no ModRM or one that
///               never names memory, 62 has rare operands, 63 has operands that may be AH, CH, DH or BH
struct RowRecipe {
    private(set) var operands: [UInt64] = [0, 0]
    private(set) var facts: UInt64 = 0

    private typealias Place = InstructionTable.Row.Place

    /// What a size depends on when it is not always the same.
    private enum SizeChoice: UInt64 { case fixed, v, z, y, native }
    /// Vector sizes are those without VEX.L.
    private static let fixedSizes: [String: UInt64] = [
        "b": 1, "w": 2, "d": 4, "q": 8, "t": 10, "dq": 16, "qq": 32, "x": 16, "half": 8, "quarter": 4,
        "eighth": 2,
    ]
    private static let choices: [String: SizeChoice] = ["v": .v, "z": .z, "y": .y, "native": .native]
    private static let rareSizes: Set = ["far", "pair", "descriptorTable"]

    init(_ row: InstructionTable.Row, number: Int) {
        let count = row.match >> UInt64(Place.operandCount) & 7
        func bit(_ word: UInt64, _ place: Int) -> UInt64 { word >> UInt64(place) & 1 }
        let lock = InstructionTable.attributeNames.firstIndex(of: "lock") ?? 0
        facts = row.match >> 48 | UInt64(number) << 16 | count << 32 | bit(row.match, Place.default64) << 44
        facts |= bit(row.match, Place.mandatory) << 45 | bit(row.match, Place.noVVVV) << 46
        facts |= bit(row.attributes, lock) << 47
        if !row.hasModRM || bit(row.match, Place.neverMemory) != 0 { facts |= 3 << 54 }
        var hasImmediate = false
        for position in 0..<Int(count) {
            add(
                position, row.operands >> UInt64(14 * position) & 0x3FFF,
                access: row.operands >> UInt64(56 + 2 * position) & 3, &hasImmediate)
        }
    }

    private mutating func add(_ position: Int, _ packed: UInt64, access: UInt64, _ hasImmediate: inout Bool) {
        let source = OperandNotation.sources[Int(packed & 31)]
        let size = OperandNotation.sizes[Int(packed >> 5 & 31)]
        var kind = source.kind
        if source.isRare || Self.rareSizes.contains(size) { facts |= 1 << 62 }
        if kind == "gpr", size == "b" { facts |= 1 << 63 }
        if ["immediate", "relative", "farPointer"].contains(kind) {
            if hasImmediate {
                kind = "immediate2"
                facts |= 1 << 62
            } else {
                addImmediate(kind == "farPointer" ? "v" : size, isSigned: source.isSigned || size == "z")
            }
            hasImmediate = true
        }
        var word = OperandNotation.kinds.firstIndex(of: kind).map(UInt64.init) ?? 0
        word |= source.register.rawValue << 5
        if source.register == .fixed { word |= (packed >> 10 & 15) << 8 }
        word |= (Self.choices[size] ?? .fixed).rawValue << 13
        word |= (Self.fixedSizes[size] ?? 0) << 16 | access << 24
        operands[position / 2] |= word << UInt64(position % 2 * 32)
    }

    private mutating func addImmediate(_ size: String, isSigned: Bool) {
        facts |= (Self.choices[size] ?? .fixed).rawValue << 35 | (isSigned ? 1 << 38 : 0)
        facts |= (Self.fixedSizes[size] ?? 0) << 40
    }
}
