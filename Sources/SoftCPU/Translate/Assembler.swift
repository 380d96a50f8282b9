/// The r/m operand of a host instruction.
enum HostOperand {
    case register(UInt8)
    /// [base + displacement]; never RSP.
    case memory(UInt8, Int32)
    /// [base + index + displacement]; the index is never RSP.
    case indexed(UInt8, UInt8, Int32)
    /// [window + index + displacement]: of the translation cache, or of what lies behind it.
    case cache(UInt8, Int32)
    /// [window + displacement]: a field of the CPUState, see `StateLayout`.
    case state(Int32)

    /// Whether it is, or its address takes, `register`, which is not the window.
    func names(_ register: UInt8) -> Bool {
        switch self {
        case .register(let number), .memory(let number, _): number == register
        case .indexed(let number, let index, _): number == register || index == register
        case .cache(let index, _): index == register
        case .state: false
        }
    }
}

extension HostOperand {
    /// What ModRM, SIB and REX are made of.
    struct Parts {
        /// The register itself, or the base.
        var base: UInt8
        /// 0 if there is none: no index has that number.
        var index: UInt8 = 0
        var displacement: Int32 = 0
        var isMemory = true

        /// ModRM, SIB and displacement, at most six bytes, and how many.
        @inline(__always) func modRM(_ reg: UInt8) -> (word: UInt64, count: Int) {
            let low = base & 7
            guard isMemory else { return (UInt64(0xC0 | reg << 3 | low), 1) }
            let hasSIB = index != 0 || low == 4
            let isNone = displacement == 0 && low != 5
            let isShort = displacement >= -128 && displacement < 128
            let mode: UInt8 = isNone ? 0 : isShort ? 0x40 : 0x80
            var word = UInt64(UInt32(bitPattern: displacement))
            if hasSIB {
                // Index 4 is none.
                word = word << 8 | UInt64((index == 0 ? 4 : index & 7) << 3 | low)
            }
            word = word << 8 | UInt64(mode | reg << 3 | (hasSIB ? 4 : low))
            return (word, 1 + (hasSIB ? 1 : 0) + (isNone ? 0 : isShort ? 1 : 4))
        }
    }

    @inline(__always) var parts: Parts {
        switch self {
        case .register(let number): Parts(base: number, isMemory: false)
        case .memory(let number, let displacement): Parts(base: number, displacement: displacement)
        case .indexed(let number, let index, let displacement):
            Parts(base: number, index: index, displacement: displacement)
        case .cache(let index, let displacement):
            Parts(base: HostRegister.window, index: index, displacement: displacement)
        case .state(let displacement): Parts(base: HostRegister.window, displacement: displacement)
        }
    }
}

/// Writes host instructions to a buffer. Names are the Intel SDM's; sizes are 32 or 64 bits.
///
/// The writer never stops at the end of its space: the caller leaves `Translator.mostBlockBytes` free.
struct Assembler {
    /// Where the next byte goes, through the writable mapping.
    private(set) var cursor: UnsafeMutablePointer<UInt8>
    /// Executable address of a byte less its writable address.
    let distance: Int

    /// - Safety: `start` must have room for all that is written.
    init(at start: UnsafeMutablePointer<UInt8>, executableDistance: Int) {
        unsafe cursor = start
        distance = executableDistance
    }

    /// The address at which the next byte will be executed.
    var here: UInt { unsafe UInt(bitPattern: cursor) &+ UInt(bitPattern: distance) }

    // MARK: Raw

    @inline(__always) mutating func byte(_ value: UInt8) {
        // SAFETY: the caller of init promised the room.
        unsafe cursor.pointee = value
        unsafe cursor += 1
    }
    @inline(__always) mutating func bytes(_ a: UInt8, _ b: UInt8) {
        byte(a)
        byte(b)
    }
    @inline(__always) mutating func bytes(_ a: UInt8, _ b: UInt8, _ c: UInt8) {
        byte(a)
        byte(b)
        byte(c)
    }
    @inline(__always) mutating func bytes(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
        bytes(a, b)
        bytes(c, d)
    }
    /// The low `count` bytes of `value`, 1...8. Writes eight.
    @inline(__always) mutating func put(_ value: UInt64, _ count: Int) {
        // SAFETY: as for `byte`; the room that the caller of init promised has eight bytes more than needed.
        unsafe UnsafeMutableRawPointer(cursor).storeBytes(of: value, as: UInt64.self)
        unsafe cursor += count
    }
    @inline(__always) mutating func word16(_ value: UInt16) {
        // SAFETY: as for `byte`.
        unsafe UnsafeMutableRawPointer(cursor).storeBytes(of: value, as: UInt16.self)
        unsafe cursor += 2
    }
    @inline(__always) mutating func word32(_ value: Int32) {
        // SAFETY: as for `byte`.
        unsafe UnsafeMutableRawPointer(cursor).storeBytes(of: value, as: Int32.self)
        unsafe cursor += 4
    }
    @inline(__always) mutating func word64(_ value: UInt64) {
        // SAFETY: as for `byte`.
        unsafe UnsafeMutableRawPointer(cursor).storeBytes(of: value, as: UInt64.self)
        unsafe cursor += 8
    }
    /// Fills up to a multiple of 16 with breakpoints.
    mutating func align16() {
        let rest = Int((0 &- here) & 15)
        // SAFETY: as for `byte`.
        unsafe UnsafeMutableRawPointer(cursor).storeBytes(
            of: SIMD16<UInt8>(repeating: 0xCC), as: SIMD16<UInt8>.self)
        unsafe cursor += rest
    }

    // MARK: Encoding

    /// One instruction with ModRM. Not inlined: what the translator itself takes of the host's caches counts.
    /// - Parameter prefix: a mandatory or LOCK prefix, 0 for none.
    /// - Parameter map: 0 one-byte, 1 `0F`, 2 `0F 38`, 3 `0F 3A`.
    /// - Parameter forceREX: a REX prefix even when it says nothing (SPL, BPL, SIL, DIL).
    @inline(never)
    mutating func encode(
        prefix: UInt8 = 0, wide: Bool, map: UInt8 = 0, _ opcode: UInt8, _ reg: UInt8, _ operand: HostOperand,
        forceREX: Bool = false
    ) {
        if prefix != 0 { byte(prefix) }
        let parts = operand.parts
        let rex = 0x40 | (wide ? 8 : 0) | (reg & 8) >> 1 | (parts.index & 8) >> 2 | parts.base >> 3
        put(UInt64(rex), rex != 0x40 || forceREX ? 1 : 0)
        if map != 0 {
            byte(0x0F)
            if map > 1 { byte(map == 2 ? 0x38 : 0x3A) }
        }
        let (word, count) = parts.modRM(reg & 7)
        put(UInt64(opcode) | word << 8, count + 1)
    }

    /// ModRM, SIB and displacement.
    mutating func modRM(_ reg: UInt8, _ operand: HostOperand) {
        let (word, count) = operand.parts.modRM(reg)
        put(word, count)
    }

    /// LEA with base, index and displacement; base or index may be `HostRegister.none`.
    mutating func lea(
        _ target: UInt8, base: UInt8, index: UInt8, scaleShift: UInt8, _ displacement: Int32, wide: Bool
    ) {
        var rex: UInt8 = (wide ? 8 : 0) | (target & 8) >> 1
        if base != HostRegister.none { rex |= base >> 3 }
        if index != HostRegister.none { rex |= (index >> 3) << 1 }
        if rex != 0 { byte(0x40 | rex) }
        byte(0x8D)
        if index == HostRegister.none, base != HostRegister.none {
            return modRM(target & 7, .memory(base, displacement))
        }
        let reg = (target & 7) << 3
        let scaled = index == HostRegister.none ? 0x20 : scaleShift << 6 | (index & 7) << 3
        if base == HostRegister.none {
            bytes(0x04 | reg, scaled | 5)
            word32(displacement)
        } else {
            let parts = HostOperand.indexed(base, index, displacement).parts
            let (word, count) = parts.modRM(target & 7)
            put(word | UInt64(scaleShift) << 14, count)
        }
    }

    // MARK: What translated code is full of

    @inline(__always) mutating func load(_ register: UInt8, _ from: HostOperand, wide: Bool = true) {
        encode(wide: wide, 0x8B, register, from)
    }
    @inline(__always) mutating func store(_ register: UInt8, _ to: HostOperand, wide: Bool = true) {
        encode(wide: wide, 0x89, register, to)
    }
    @inline(__always) mutating func move(_ target: UInt8, _ source: UInt8, wide: Bool = true) {
        encode(wide: wide, 0x8B, target, .register(source))
    }
    /// MOVZX r32, r16.
    @inline(__always) mutating func extend16(_ target: UInt8, _ source: UInt8) {
        encode(wide: false, map: 1, 0xB7, target, .register(source))
    }
    /// Loads 2 bytes with zeros above them, 4 or 8.
    @inline(__always) mutating func load(_ register: UInt8, _ from: HostOperand, size: Int32) {
        if size == 2 {
            encode(wide: false, map: 1, 0xB7, register, from)
        } else {
            encode(wide: size == 8, 0x8B, register, from)
        }
    }
    /// Stores 2, 4 or 8 bytes.
    @inline(__always) mutating func store(_ register: UInt8, _ to: HostOperand, size: Int32) {
        if size == 2 { byte(0x66) }
        encode(wide: size == 8, 0x89, register, to)
    }
    /// ADD 0, OR 1, ADC 2, SBB 3, AND 4, SUB 5, XOR 6, CMP 7 with an immediate.
    @inline(__always)
    mutating func arithmetic(_ operation: UInt8, _ target: HostOperand, _ value: Int32, wide: Bool = true) {
        if value >= -128, value < 128 {
            encode(wide: wide, 0x83, operation, target)
            byte(UInt8(truncatingIfNeeded: value))
        } else if case .register(HostRegister.rax) = target {
            if wide { byte(0x48) }
            byte(operation << 3 | 5)
            word32(value)
        } else {
            encode(wide: wide, 0x81, operation, target)
            word32(value)
        }
    }
    /// MOV r32, imm32 or the shortest form that gives `value`.
    mutating func constant(_ register: UInt8, _ value: UInt64) {
        if value >> 32 == 0 {
            if register >= 8 { byte(0x41) }
            byte(0xB8 | register & 7)
            word32(Int32(truncatingIfNeeded: value))
        } else if Int64(bitPattern: value) >= Int64(Int32.min), Int64(bitPattern: value) < 0 {
            encode(wide: true, 0xC7, 0, .register(register))
            word32(Int32(truncatingIfNeeded: value))
        } else {
            byte(0x48 | register >> 3)
            byte(0xB8 | register & 7)
            word64(value)
        }
    }
    /// RORX target, source, count: no flags. 64 bits.
    mutating func rotateRight(_ target: UInt8, _ source: UInt8, _ count: UInt8) {
        byte(0xC4)
        byte((target & 8 == 0 ? 0x80 : 0) | 0x40 | (source & 8 == 0 ? 0x20 : 0) | 3)
        bytes(0xFB, 0xF0)
        bytes(0xC0 | (target & 7) << 3 | source & 7, count)
    }
    /// LAHF; SETO AL.
    mutating func saveFlags() {
        byte(0x9F)
        bytes(0x0F, 0x90, 0xC0)
    }
    /// ADD AL, 7Fh; SAHF.
    mutating func restoreFlags() {
        bytes(0x04, 0x7F, 0x9E)
    }

    // MARK: Branches

    /// A rel32 at `site` (executable address of its four bytes).
    typealias Site = UInt

    @inline(__always) mutating func jump(_ target: UInt) {
        byte(0xE9)
        relative(target)
    }
    @inline(__always) mutating func call(_ target: UInt) {
        byte(0xE8)
        relative(target)
    }
    @inline(__always) mutating func jumpIf(_ condition: UInt8, _ target: UInt) {
        bytes(0x0F, 0x80 | condition)
        relative(target)
    }
    @inline(__always) private mutating func relative(_ target: UInt) {
        word32(Int32(truncatingIfNeeded: Int(bitPattern: target &- (here &+ 4))))
    }
    /// A branch whose target is not known yet.
    @inline(__always) mutating func pendingJump() -> Site {
        byte(0xE9)
        word32(0)
        return here &- 4
    }
    @inline(__always) mutating func pendingJumpIf(_ condition: UInt8) -> Site {
        bytes(0x0F, 0x80 | condition)
        word32(0)
        return here &- 4
    }
    @inline(__always) mutating func pendingCall() -> Site {
        byte(0xE8)
        word32(0)
        return here &- 4
    }
    /// A short conditional jump over what follows, until `land`.
    @inline(__always) mutating func shortJumpIf(_ condition: UInt8) -> UInt {
        bytes(0x70 | condition, 0)
        return here
    }
    /// Makes the short jump that ended at `from` lead here.
    @inline(__always) mutating func land(_ from: UInt) {
        let count = here &- from
        precondition(count < 128, "a short jump is too long")
        // SAFETY: the displacement byte in front of `from`, which this assembler wrote.
        unsafe (cursor - Int(count) - 1).pointee = UInt8(truncatingIfNeeded: count)
    }
    /// Makes the branch at `site` lead to `target`.
    @inline(__always) mutating func resolve(_ site: Site, to target: UInt) {
        let back = Int(bitPattern: here &- site)
        let value = Int32(truncatingIfNeeded: Int(bitPattern: target &- (site &+ 4)))
        // SAFETY: the four bytes at `site`, which this assembler wrote.
        unsafe UnsafeMutableRawPointer(cursor - back).storeBytes(of: value, as: Int32.self)
    }
}
