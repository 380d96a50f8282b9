/// What stands before ModRM: prefixes, escapes and the opcode. Bytes that the next steps compute with are
/// whole words here: what arithmetic on bytes costs is to cut them out again.
struct OpcodeBytes {
    var prefixes: Prefixes = []
    /// REX with its upper half, or VEX's W, R, X and B as in REX. 0 without, and outside 64-bit mode but for
    /// VEX.W.
    var rex: UInt = 0
    var operandSize: UInt
    var addressSize: UInt
    var map: UInt = 0
    var opcode: UInt = 0
    /// Where the bytes after the opcode start.
    var end = 0
    var rare = Rare()

    /// What legacy prefixes and VEX say, in one word: with most instructions it is 0.
    struct Rare {
        private(set) var word: UInt32 = 0

        /// L in bit 7, vvvv (not inverted) in bits 6...3, pp in bits 1...0.
        @inline(__always) var vexBits: UInt8 { UInt8(truncatingIfNeeded: word) }
        @inline(__always) var isVEX: Bool { word >> 8 & 1 != 0 }
        @inline(__always) var isLocked: Bool { word >> 9 & 1 != 0 }
        /// A prefix makes it #UD, but only once all of its bytes have been fetched: a page fault or #GP on
        /// the way comes first.
        @inline(__always) var isIllegal: Bool { word >> 10 & 1 != 0 }
        /// 0 none, 1 66, 2 F3, 3 F2: how the prefix acts as an opcode extension.
        @inline(__always) var extensionPrefix: UInt32 { word >> 16 & 3 }
        /// The segment override that counts in this mode, or the segment that counts without one.
        @inline(__always) func segment(orElse segment: UInt8) -> UInt8 {
            word >> 24 == 0 ? segment : UInt8(truncatingIfNeeded: word >> 24 &- 1)
        }

        mutating func setVEX(_ bits: UInt8) { word |= UInt32(bits) | 1 << 8 }
        mutating func setLocked() { word |= 1 << 9 }
        mutating func setIllegal() { word |= 1 << 10 }
        mutating func setExtensionPrefix(_ number: UInt8) { word |= UInt32(number) << 16 }
        mutating func setOverride(_ segment: UInt8) { word = word & 0xFF_FFFF | UInt32(segment &+ 1) << 24 }
    }

    var isWide: Bool { rex & 8 != 0 }
    var rexB: UInt { (rex & 1) << 3 }
    var rexX: UInt { (rex & 2) << 2 }
    var rexR: UInt { (rex & 4) << 1 }

    private init(_ size: CodeSize) {
        operandSize = size == .bits16 ? 2 : 4
        addressSize = 2 &<< UInt(size.rawValue)
    }

    /// Most instructions: at most a REX prefix and the opcode in one of the first two maps. When that is no
    /// opcode but a prefix or an escape, it has to be read with `init(all:_:)`. Bytes that are missing are
    /// zero.
    @inline(__always)
    init(usual bytes: InstructionBytes, _ size: CodeSize) {
        self.init(size)
        let low = UInt(truncatingIfNeeded: bytes.low)
        let hasREX = size == .bits64 && low & 0xF0 == 0x40
        rex = hasREX ? low & 0xFF : 0
        prefixes = Prefixes(rawValue: Self.prefixBits(rex))
        if isWide { operandSize = 8 }
        let behindREX = hasREX ? low >> 8 : low
        let isTwoByte = behindREX & 0xFF == 0x0F
        map = isTwoByte ? 1 : 0
        opcode = (isTwoByte ? behindREX >> 8 : behindREX) & 0xFF
        end = 1 &+ (hasREX ? 1 : 0) &+ Int(map)
    }

    /// The bits of `Prefixes` for a REX prefix or none: 4x becomes .rex, W .rexW.
    @inline(__always)
    private static func prefixBits(_ rex: UInt) -> UInt16 {
        UInt16(truncatingIfNeeded: rex & 0x40 | (rex & 8) << 4)
    }

    /// All that there may be, in any order.
    @inline(never)
    init(all bytes: InstructionBytes, _ size: CodeSize) throws(DecodeFailure) {
        self.init(size)
        var cursor = CodeCursor(bytes)
        try readPrefixes(&cursor, size)
        try readOpcode(&cursor, size)
        end = cursor.offset
    }

    /// Legacy prefixes in any order, then in 64-bit mode REX; a REX that no opcode follows counts for nothing
    /// (SDM vol. 2 §2.2.1).
    private mutating func readPrefixes(_ cursor: inout CodeCursor, _ size: CodeSize) throws(DecodeFailure) {
        while true {
            let byte = try cursor.peek()
            switch byte {
            case 0x66: prefixes.insert(.operandSize)
            case 0x67: prefixes.insert(.addressSize)
            case 0xF0: prefixes.insert(.lock)
            case 0xF2:
                prefixes.insert(.repne)
                prefixes.remove(.rep)
            case 0xF3:
                prefixes.insert(.rep)
                prefixes.remove(.repne)
            case 0x26: override(SegmentNumber.es, size)
            case 0x2E: override(SegmentNumber.cs, size)
            case 0x36: override(SegmentNumber.ss, size)
            case 0x3E: override(SegmentNumber.ds, size)
            case 0x64: override(SegmentNumber.fs, size)
            case 0x65: override(SegmentNumber.gs, size)
            case 0x40...0x4F where size == .bits64:
                _ = try cursor.next()
                rex = UInt(byte)
                continue
            default: return
            }
            rex = 0
            _ = try cursor.next()
        }
    }

    /// ES, CS, SS and DS overrides are ignored in 64-bit mode (AMD APM vol. 3 §1.2.4).
    private mutating func override(_ segment: UInt8, _ size: CodeSize) {
        if size == .bits64 && segment < SegmentNumber.fs { return }
        rare.setOverride(segment)
        prefixes.insert(.segmentOverride)
    }

    private mutating func readOpcode(_ cursor: inout CodeCursor, _ size: CodeSize) throws(DecodeFailure) {
        prefixes.formUnion(Prefixes(rawValue: Self.prefixBits(rex)))
        if prefixes.contains(.lock) { rare.setLocked() }
        if prefixes.contains(.addressSize) { addressSize = size == .bits32 ? 2 : 4 }
        let first = try cursor.next()
        if first == 0xC4 || first == 0xC5 {
            let second = try cursor.peek()
            if size == .bits64 || second >= 0xC0 { return try readVEX(first, &cursor, size) }
        }
        opcode = UInt(first)
        if first == 0x0F {
            map = 1
            opcode = UInt(try cursor.next())
            if opcode == 0x38 || opcode == 0x3A {
                map = opcode == 0x38 ? 2 : 3
                opcode = UInt(try cursor.next())
            }
        }
        let isNarrow = prefixes.contains(.operandSize)
        rare.setExtensionPrefix(
            prefixes.contains(.rep) ? 2 : prefixes.contains(.repne) ? 3 : isNarrow ? 1 : 0)
        operandSize = isWide ? 8 : isNarrow == (size == .bits16) ? 4 : 2
    }

    /// SDM vol. 2 §2.3.5: 66, F2, F3, LOCK and REX before VEX are #UD.
    private mutating func readVEX(
        _ first: UInt8, _ cursor: inout CodeCursor, _ size: CodeSize
    ) throws(DecodeFailure) {
        if !prefixes.isDisjoint(with: [.operandSize, .rep, .repne, .lock, .rex]) { rare.setIllegal() }
        prefixes.insert(.vex)
        let second = try cursor.next()
        map = 1
        var last = second
        if first == 0xC4 {
            map = UInt(second & 31)
            last = try cursor.next()
            rex = UInt((~second >> 5) & 7 | (last & 0x80) >> 4)
        } else {
            rex = UInt((~second >> 5) & 4)
        }
        // Outside 64-bit mode there are eight registers; W still selects opcodes.
        if size != .bits64 { rex &= 8 }
        if map == 0 || map > 3 { throw .undefinedOpcode }
        if isWide { prefixes.insert(.rexW) }
        rare.setVEX((last & 4) << 5 | (~last & 0x78) | last & 3)
        rare.setExtensionPrefix(last & 3)
        opcode = UInt(try cursor.next())
        operandSize = size == .bits64 && isWide ? 8 : 4
    }
}
