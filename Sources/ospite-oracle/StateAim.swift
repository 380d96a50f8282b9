internal import COracle
@testable internal import SoftCPU

/// Chooses register values so that most memory operands hit the window, and patches displacements that no
/// register moves.
struct StateAim {
    let setup: Setup
    var random: Random
    private var values = [UInt64](repeating: 0, count: 16)
    /// Registers whose value is settled.
    private var claimed: UInt32 = 0
    private var usesVectorIndex = false

    init(setup: Setup, random: Random) {
        self.setup = setup
        self.random = random
    }

    mutating func fill(_ made: inout OracleCase) {
        chooseDefaults()
        var offset = made.codeOffset
        for position in made.instructions.indices {
            let start = offset
            offset += made.instructions[position].bytes.count
            guard let decoded = made.instructions[position].decoded else { continue }
            let end = Place.code + UInt64(offset)
            aim(decoded, &made.instructions[position].bytes, end)
            _ = start
        }
        var input = oracle_state()
        withUnsafeMutableBytes(of: &input.gpr) { target in
            for number in 0..<16 {
                let value = setup.mode == .bits64 ? values[number] : values[number] & 0xFFFF_FFFF
                unsafe target.storeBytes(of: value, toByteOffset: number * 8, as: UInt64.self)
            }
        }
        input.rip = (Place.code + UInt64(made.codeOffset)) &- setup.bases[1]
        input.rflags = flags()
        input.fs_base = setup.bases[4]
        input.gs_base = setup.bases[5]
        input.selectors = (
            setup.selectors[0], setup.selectors[1], setup.selectors[2], setup.selectors[3],
            setup.selectors[4],
            setup.selectors[5], 0, 0
        )
        if made.extended {
            var chooser = ExtendedStateChooser(random: random, smallIndices: usesVectorIndex)
            chooser.fill(&input)
        }
        made.input = input
    }

    /// Status flags at random, DF now and then, rarely ID.
    private mutating func flags() -> UInt64 {
        var result = random.next() & 0x8D5 | 2
        if random.chance(percent: 12) { result |= 0x400 }
        if random.chance(percent: 3) { result |= 0x20_0000 }
        return result
    }

    private mutating func chooseDefaults() {
        for number in 0..<16 { values[number] = random.corner() }
        for number in [3, 5, 6, 7, 11, 12, 13, 14, 15] where random.chance(percent: 85) {
            values[number] = address() &- setup.bases[number == 5 ? 2 : number == 7 ? 0 : 3]
        }
        var stack = Place.data + 0x1800 + UInt64(random.below(64)) * 8 &- setup.bases[2]
        if random.chance(percent: 10) { stack = address() &- setup.bases[2] }
        if setup.narrowStack { stack = stack & 0xFFFF | Place.gate & 0xFFFF_0000 }
        values[4] = stack
        claimed = 1 << 4
        for number in [1, 2, 9] where random.chance(percent: 50) { values[number] = UInt64(random.below(20)) }
    }

    /// A linear address: mostly well inside the window, sometimes at an edge.
    private mutating func address() -> UInt64 {
        let start = Place.data, end = Place.data + Place.dataSize
        switch random.below(100) {
        case 0..<50: return start + 0x100 + UInt64(random.below(0x78)) * 64
        case 50..<68: return start + UInt64(random.below(Int(Place.dataSize)))
        case 68..<82: return start + 0x1000 &- UInt64(random.below(34))
        case 82..<88: return end &- UInt64(random.below(34))
        case 88..<91: return end + UInt64(random.below(Int(Place.readOnlySize)))
        case 91..<93: return end + Place.readOnlySize &- UInt64(random.below(34))
        case 93..<96: return start &- UInt64(random.below(34))
        case 96: return Place.code + UInt64(random.below(0x400))
        default: return random.corner()
        }
    }

    private mutating func claim(_ register: UInt8, _ value: UInt64) {
        guard register < 16, claimed >> register & 1 == 0 else { return }
        claimed |= 1 << register
        values[Int(register)] = value
    }

    private mutating func aim(_ instruction: Instruction, _ bytes: inout [UInt8], _ end: UInt64) {
        aimOperands(instruction, &bytes)
        guard instruction.hasMemoryOperand, instruction.mnemonic != .lea || random.chance(percent: 50) else {
            return
        }
        var target = address() &- setup.bases[Int(instruction.segment)]
        if instruction.segment == 4 || instruction.segment == 5, setup.mode == .bits64 {
            target = address() &- (instruction.segment == 4 ? setup.bases[4] : setup.bases[5])
        }
        if instruction.vectorIndexSize != 0 { usesVectorIndex = true }
        let mask =
            instruction.addressSize == 8 ? UInt64.max : instruction.addressSize == 4 ? 0xFFFF_FFFF : 0xFFFF
        if instruction.vectorIndexSize == 0, instruction.index < 16 {
            if instruction.index != instruction.base {
                claim(
                    instruction.index,
                    random.chance(percent: 85) ? UInt64(random.below(17)) &- 4 : random.corner())
            }
            target &-= (values[Int(instruction.index)] & mask) << UInt64(instruction.scaleShift)
        }
        if instruction.base < 16 {
            var value = target &- UInt64(bitPattern: instruction.displacement)
            // What lies above the address size does not count.
            if mask != .max {
                value = value & mask | random.next() & ~mask & (random.chance(percent: 50) ? .max : 0)
            }
            claim(instruction.base, value)
            return
        }
        let isRelative = instruction.base == Instruction.ripBase
        guard instruction.displacementSize >= 2, isRelative || random.chance(percent: 95) else { return }
        if instruction.base == Instruction.ripBase { target &-= end }
        patch(&bytes, Int(instruction.displacementOffset), Int(instruction.displacementSize), target)
    }

    private func patch(_ bytes: inout [UInt8], _ offset: Int, _ size: Int, _ value: UInt64) {
        // LOCK may have been put in front.
        guard offset + size <= bytes.count else { return }
        for index in 0..<size {
            bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
        }
    }

    /// Branch targets, bit offsets and selectors.
    private mutating func aimOperands(_ instruction: Instruction, _ bytes: inout [UInt8]) {
        let attributes = instruction.attributes
        for position in 0..<Int(instruction.operandCount) {
            let operand = instruction.operand(position)
            if operand.kind == .relative {
                var distance = UInt64(random.below(9))
                let size = Int(instruction.immediateSize)
                if size >= 2, random.chance(percent: 10) { distance = 0x900 + UInt64(random.below(64)) }
                patch(&bytes, Int(instruction.immediateOffset), size, distance)
            }
            guard operand.kind == .gpr else { continue }
            if attributes.contains(.branch), operand.isRead {
                let target = Place.landing + UInt64(random.below(Int(Place.landingSize)))
                claim(
                    operand.register, random.chance(percent: 90) ? target &- setup.bases[1] : random.corner())
            }
            if attributes.contains(.bitString), position == 1, random.chance(percent: 70) {
                claim(operand.register, UInt64(random.below(2048)) &- 512)
            }
            let takesSelector =
                attributes.contains(.loadsSegment) || Self.selectorReaders.contains(instruction.mnemonic)
            if takesSelector, operand.isRead, random.chance(percent: 75) {
                claim(operand.register, UInt64(Self.selector(&random)))
            }
        }
    }

    private static let selectorReaders: Set<Mnemonic> = [.lar, .lsl, .verr, .verw, .arpl]

    static func selector(_ random: inout Random) -> UInt16 {
        switch random.below(8) {
        case 0: return random.pick([0, 1, 2, 3])
        case 1: return random.pick([0x23, 0x2B, 0x33, 0x2A, 0x20, 0x30])
        case 2: return UInt16(random.below(14)) << 3 | 3
        case 3: return UInt16(random.below(20)) << 3 | 4 | UInt16(random.below(4))
        default: return UInt16(random.below(DescriptorPlan.table.count)) << 3 | 7
        }
    }
}

/// x87, SSE and AVX registers with values near where something changes.
struct ExtendedStateChooser {
    var random: Random
    /// Vector registers hold small integers: they index memory.
    let smallIndices: Bool

    mutating func fill(_ input: inout oracle_state) {
        var image = [UInt64](repeating: 0, count: 104)
        let controls: [UInt64] = [0x37F, 0x37F, 0x37F, 0x27F, 0x7F, 0xF7F, 0xB7F, 0x77F, 0x37F]
        var control = random.pick(controls)
        if random.chance(percent: 3) { control &= ~UInt64(random.below(64)) }
        var status = UInt64(random.below(8)) << 11 | random.next() & 0x4700
        if random.chance(percent: 20) { status |= random.next() & 0x7F }
        if random.chance(percent: 97) { status &= control & 0x3F | ~0x3F }
        if status & ~control & 0x3F != 0 { status |= 0x8080 }
        let tags: UInt64 =
            random.chance(percent: 55) ? 0xFF : random.chance(percent: 50) ? 0 : random.next() & 0xFF
        image[0] = control | status << 16 | tags << 32
        var mxcsr: UInt64 = 0x1F80
        if random.chance(percent: 25) { mxcsr = 0x1F80 | random.next() & 0xE07F }
        if random.chance(percent: 3) { mxcsr &= ~(random.next() & 0x1F80) }
        image[3] = mxcsr | 0xFFFF << 32
        for slot in 0..<8 {
            image[4 + slot * 2] = extendedSignificand()
            image[5 + slot * 2] = extendedExponent()
        }
        let style = random.below(4)
        for word in 20..<52 { image[word] = vectorWord(style) }
        for word in 72..<104 { image[word] = vectorWord(style) }
        image[64] = 7
        withUnsafeMutableBytes(of: &input.xsave) { target in
            image.withUnsafeBytes { unsafe target.copyMemory(from: $0) }
        }
    }

    private mutating func extendedSignificand() -> UInt64 {
        switch random.below(4) {
        case 0: return 0x8000_0000_0000_0000
        case 1: return random.corner()
        case 2: return random.next() | 1 << 63
        default: return random.next() << 32 | 1 << 63
        }
    }

    private mutating func extendedExponent() -> UInt64 {
        switch random.below(6) {
        case 0: return random.pick([0, 0x7FFF, 1, 0x7FFE, 0x3FFF, 0x8000, 0xFFFF, 0xBFFF])
        case 1, 2, 3: return 0x3FC0 + UInt64(random.below(128)) | random.next() & 0x8000
        default: return random.next() & 0xFFFF
        }
    }

    private mutating func vectorWord(_ style: Int) -> UInt64 {
        if smallIndices && random.chance(percent: 70) {
            return UInt64(random.below(32)) | UInt64(random.below(32)) << 32 | random.next() & 0x8000_0000
        }
        switch style {
        case 0: return random.next()
        case 1: return random.corner()
        default: return random.floating()
        }
    }
}
