/// How the decoder gets from an opcode to the row: an entry per opcode names bits of the key that tell its
/// rows apart, and the slot that these bits choose names the row, or rows to try.
///
///     key     bits 0...2 ModRM.reg, 3...4 ModRM.mod, 5...6 the prefix that extends the opcode (0 none, 1 66,
///             2 F3, 3 F2), 7 REX.W or VEX.W, 8 VEX.L
///     entry   bits 0...15 first slot, 16...18 lowest bit of the key, 19...27 mask of the bits from there on,
///             28 ModRM follows, 29 no opcode of the first two maps: a prefix, an escape, VEX; 30 there is
///             one row for all keys, and bits 0...15 are it
///     slot    bit 15 set: bits 0...14 are the row. Clear: they are the place of its first candidate
struct Dispatch {
    /// First those of 16-bit and 32-bit code, then those of 64-bit code, per map and opcode.
    private(set) var entries: [UInt32] = []
    private(set) var slots: [UInt16] = []
    /// Lists of rows, each ended by `noRow`.
    private(set) var candidates: [UInt16] = []

    static let noRow: UInt16 = 0xFFFF
    private static let isRow: UInt16 = 0x8000
    private var placesOfSlots: [[UInt16]: Int] = [:]
    private var placesOfCandidates: [[UInt16]: Int] = [:]

    /// A field of the key, and the bit that `match` has for each of its values.
    private struct Field {
        let firstBit: Int, places: [Int]
        var width: Int { places.count.trailingZeroBitCount }
        var bits: UInt64 { places.reduce(0) { $0 | 1 << UInt64($1) } }
    }
    private typealias Place = InstructionTable.Row.Place
    private static let fields = [
        Field(firstBit: 0, places: Array(Place.reg..<(Place.reg + 8))),
        Field(firstBit: 3, places: [Place.mod, Place.mod, Place.mod, Place.mod + 1]),
        Field(firstBit: 5, places: Array(Place.prefix..<(Place.prefix + 4))),
        Field(firstBit: 7, places: [Place.wide, Place.wide + 1]),
        Field(firstBit: 8, places: [Place.vectorLength, Place.vectorLength + 1]),
    ]
    private static let prefixes: Set = [
        0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, 0xC4, 0xC5,
    ]

    init(_ rows: [InstructionTable.Row]) {
        for is64Bit in [false, true] {
            for place in 0..<(8 * 256) {
                let (space, opcode) = (place / 256, place % 256)
                let found = rows.enumerated().filter { _, row in
                    row.space == space && row.opcodes.contains(opcode)
                        && row.match >> UInt64(Place.mode + (is64Bit ? 1 : 0)) & 1 != 0
                }
                let entry = enter(
                    found.map { ($0.offset, $0.element.match) }, Self.situations(is64Bit, space))
                let hasModRM = rows.contains {
                    $0.hasModRM && $0.space == space && $0.opcodes.contains(opcode)
                }
                let isEscape =
                    space == 0 && (Self.prefixes.contains(opcode) || is64Bit && opcode >> 4 == 4)
                    || space == 1 && (opcode == 0x38 || opcode == 0x3A)
                entries.append(entry | (hasModRM ? 1 << 28 : 0) | (isEscape ? 1 << 29 : 0))
            }
        }
    }

    /// The bits of `match` that may be asked for in a mode and a map.
    private static func situations(_ is64Bit: Bool, _ space: Int) -> UInt64 {
        var situations: UInt64 = (1 << 33) - 1
        situations &= ~(1 << UInt64(Place.mode + (is64Bit ? 0 : 1)))
        if !is64Bit { situations &= ~(2 << UInt64(Place.extendedB)) }
        if !is64Bit, space < 4 { situations &= ~(2 << UInt64(Place.wide)) }
        return situations
    }

    /// The fewest bits of the key that leave the fewest slots in doubt.
    private mutating func enter(_ rows: [(Int, UInt64)], _ situations: UInt64) -> UInt32 {
        var best: (doubt: Double, slots: [[UInt16]], entry: UInt32)?
        for first in Self.fields.indices {
            for count in 0...(Self.fields.count - first) {
                let used = Self.fields[first..<(first + count)]
                let width = used.map(\.width).reduce(0, +)
                let lists = (0..<(1 << width)).map { value in
                    Self.choose(rows, situations, used, value << Self.fields[first].firstBit)
                }
                let doubt = Double(lists.filter { $0.count > 1 }.count) / Double(lists.count)
                if let best, (best.doubt, best.slots.count) <= (doubt, lists.count) { continue }
                best = (doubt, lists, UInt32(Self.fields[first].firstBit << 16 | (1 << width - 1) << 19))
            }
        }
        guard let best else { return 0 }
        if best.slots.count == 1, best.slots[0].count == 1 { return 1 << 30 | UInt32(best.slots[0][0]) }
        return best.entry | UInt32(place(best.slots.map { slot($0) }))
    }

    /// The rows to try for a key, of which some fields are known, up to the first that accepts all that can
    /// be. A single one needs no trying; an empty list is followed by another one, so that it does.
    private static func choose(
        _ rows: [(Int, UInt64)], _ situations: UInt64, _ known: ArraySlice<Field>, _ key: Int
    ) -> [UInt16] {
        var possible = situations
        for field in known {
            let value = key >> field.firstBit & (field.places.count - 1)
            possible &= ~field.bits | 1 << UInt64(field.places[value])
        }
        var list: [UInt16] = []
        for (row, match) in rows {
            if known.contains(where: { $0.bits & possible & match == 0 }) { continue }
            list.append(UInt16(row))
            if possible & ~match == 0 { return list }
        }
        return list.isEmpty ? [] : list + [noRow]
    }

    private mutating func slot(_ list: [UInt16]) -> UInt16 {
        if list.count == 1 { return Self.isRow | list[0] }
        let ended = list.last == Self.noRow ? list : list + [Self.noRow]
        if let place = placesOfCandidates[ended] { return UInt16(place) }
        placesOfCandidates[ended] = candidates.count
        candidates += ended
        return UInt16(candidates.count - ended.count)
    }

    private mutating func place(_ list: [UInt16]) -> Int {
        if let place = placesOfSlots[list] { return place }
        placesOfSlots[list] = slots.count
        slots += list
        return slots.count - list.count
    }
}

extension InstructionTable.Row {
    fileprivate var opcodes: ClosedRange<Int> { opcode...(opcode + (coversEightOpcodes ? 7 : 0)) }
}
