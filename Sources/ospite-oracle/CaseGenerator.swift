internal import COracle
@testable internal import SoftCPU

/// Some instructions, where they stand, and the state that they start from.
struct OracleCase {
    var setup: Int
    var instructions: [EncodedInstruction]
    /// Of the first instruction, from the start of the code pages.
    var codeOffset: Int
    var input: oracle_state
    /// x87, SSE and AVX state matter.
    var extended: Bool
    /// The row that the case is for.
    var primaryRow: UInt16

    var bytes: [UInt8] { instructions.flatMap(\.bytes) }
}

/// Makes case number `index` of a seed and mode; the same numbers give the same case.
struct CaseGenerator {
    let seed: UInt64
    let mode: OracleMode
    let rows: [RowShape]
    private let plainRows: [RowShape]
    private let encoder: RowEncoder
    private let setups: [Int]

    /// - Parameter only: nil, or the one row to make cases for.
    init(seed: UInt64, mode: OracleMode, only: UInt16? = nil) {
        self.seed = seed
        self.mode = mode
        let all = (0..<UInt16(InstructionRow.count)).map { RowShape($0) }
            .filter { $0.exists(in: mode) && Exclusions.reason($0.row.mnemonic) == nil }
        rows = only.map { wanted in all.filter { $0.number == wanted } } ?? all
        plainRows = all.filter {
            !$0.isExtended
                && $0.row.attributes.isDisjoint(with: [
                    .branch, .privileged, .undefinedUnlessPrivileged, .iopl,
                ])
        }
        encoder = RowEncoder(mode: mode)
        setups = Setup.all.indices.filter { Setup.all[$0].mode == mode }
    }

    /// nil when no encoding was found.
    func make(_ index: UInt64) -> OracleCase? {
        var random = Random(seed: seed, UInt64(mode.rawValue), index)
        let primary = rows[Int(index % UInt64(rows.count))]
        let setup = random.pick(setups)
        var instructions: [EncodedInstruction] = []
        var undefined: UInt64 = 0
        let before = random.chance(percent: 50) ? 0 : random.below(4)
        for _ in 0..<before { append(filler(primary, &random), &instructions, &undefined, &random) }
        if UInt64(primary.row.flagsRead) & undefined != 0 {
            instructions = []
            undefined = 0
        }
        let count = instructions.count
        append(primary, &instructions, &undefined, &random)
        guard instructions.count > count else { return nil }
        let after = random.chance(percent: 60) ? 0 : 1 + random.below(2)
        for _ in 0..<after { append(filler(primary, &random), &instructions, &undefined, &random) }

        var made = OracleCase(
            setup: setup, instructions: instructions, codeOffset: 0, input: oracle_state(),
            extended: instructions.contains { RowShape($0.row).isExtended }, primaryRow: primary.number)
        place(&made, &random)
        var aim = StateAim(setup: Setup.all[setup], random: random)
        aim.fill(&made)
        return made
    }

    private func filler(_ primary: RowShape, _ random: inout Random) -> RowShape {
        if primary.isExtended && random.chance(percent: 50) { return random.pick(rows) }
        return random.pick(plainRows)
    }

    /// Adds an encoding of `shape`, unless it would read flags that are undefined by then.
    private func append(
        _ shape: RowShape, _ instructions: inout [EncodedInstruction], _ undefined: inout UInt64,
        _ random: inout Random
    ) {
        let row = shape.row
        // A loaded SS may take ESP's upper half from the gate, where the sides differ.
        let last = instructions.last.map { InstructionRow(index: $0.row).attributes } ?? []
        if last.contains(.loadsSegment), mode != .bits64 { return }
        guard UInt64(row.flagsRead) & undefined == 0, var made = encoder.encode(shape, &random) else {
            return
        }
        let keeps = row.attributes.contains(.mayKeepFlags)
        if !keeps { undefined &= ~UInt64(row.flagsWritten) }
        undefined |= UInt64(row.flagsUndefined)
        made.undefinedFlags = undefined
        if random.chance(percent: 1), made.bytes.count < 15, let decoded = made.decoded,
            !decoded.prefixes.contains(.lock),
            row.attributes.isDisjoint(with: [.privileged, .protectedModeOnly])
        {
            // LOCK where it may not be; with control registers AMD gives it a meaning.
            made.bytes.insert(0xF0, at: 0)
            made.decoded = try? Decoder().decode(InstructionBytes(made.bytes), mode: mode.codeMode)
        }
        // PUSH rAX as room for short forward branches, so that the stack shows how far they went, and for the single-step trap that POPF may switch on.
        if row.attributes.contains(.branch) { made.bytes += [UInt8](repeating: 0x50, count: 8) }
        if row.mnemonic == .popf { made.bytes.append(0x90) }
        instructions.append(made)
    }

    /// Chooses where the code stands: mostly in the first page, sometimes across a page boundary or the end.
    private func place(_ made: inout OracleCase, _ random: inout Random) {
        let length = made.instructions.reduce(0) { $0 + $1.bytes.count }
        switch random.below(20) {
        case 0...2: made.codeOffset = 0x1000 - 1 - random.below(length)
        case 3: made.codeOffset = 0x2000 - 1 - random.below(length)
        default: made.codeOffset = 0x480 + random.below(0x100)
        }
    }
}
