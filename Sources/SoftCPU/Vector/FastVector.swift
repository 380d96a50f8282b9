/// Plain Swift bodies for the moves and logic that kernels and C libraries live on. Each computes exactly
/// what its thunk would (VectorTests runs both).
enum FastVector {
    /// The plain body for an instruction, or nil when it goes by its thunk.
    static func handler(_ i: Instruction) -> Handler? {
        guard i.opcodeMap == 1 || i.opcodeMap == 2 && i.opcode == 0x2A, usesVectors(i) else { return nil }
        let prefix = prefixNumber(i), isMemory = i.hasMemoryOperand
        switch (i.opcode, prefix) {
        case (0x10, 0), (0x10, 1), (0x28, 0), (0x28, 1), (0x6F, 1), (0x6F, 2), (0xF0, 3), (0x2A, 1):
            if i.opcodeMap == 1, i.opcode == 0x2A { return nil }
            return isMemory ? loadHandler(i) : moveWhole
        case (0x11, 0), (0x11, 1), (0x29, 0), (0x29, 1), (0x2B, 0), (0x2B, 1), (0x7F, 1), (0x7F, 2),
            (0xE7, 1):
            return isMemory ? storeHandler(i) : moveWhole
        case (0x10, 2), (0x10, 3): return isMemory ? loadHandler(i) : nil
        case (0x11, 2), (0x11, 3): return isMemory ? storeHandler(i) : nil
        case (0x7E, 2): return isMemory ? loadHandler(i) : moveQuad
        case (0xD6, 1): return isMemory ? storeHandler(i) : moveQuad
        case (0x6E, 1): return isMemory ? loadHandler(i) : moveFromGeneral
        case (0x7E, 1): return isMemory ? storeHandler(i) : moveToGeneral
        case (0xD7, 1): return moveMask
        default: return logicNumber(i) == nil ? nil : logic
        }
    }

    static func logic(_ i: Instruction) -> VectorPlan.Logic { logicNumber(i) ?? .xor }

    private static func logicNumber(_ i: Instruction) -> VectorPlan.Logic? {
        guard i.opcodeMap == 1, usesVectors(i) else { return nil }
        switch (i.opcode, prefixNumber(i)) {
        case (0x54, 0), (0x54, 1), (0xDB, 1): return .and
        case (0x55, 0), (0x55, 1), (0xDF, 1): return .andNot
        case (0x56, 0), (0x56, 1), (0xEB, 1): return .or
        case (0x57, 0), (0x57, 1), (0xEF, 1): return .xor
        case (0x74, 1): return .equal8
        case (0x75, 1): return .equal16
        case (0x76, 1): return .equal32
        case (0xFC, 1): return .add8
        case (0xFD, 1): return .add16
        case (0xFE, 1): return .add32
        case (0xD4, 1): return .add64
        case (0xF8, 1): return .subtract8
        case (0xFA, 1): return .subtract32
        case (0x60, 1): return .interleaveLow8
        case (0x6C, 1): return .interleaveLow64
        default: return nil
        }
    }

    /// 0 none, 1 66, 2 F3, 3 F2.
    private static func prefixNumber(_ i: Instruction) -> UInt8 {
        if i.prefixes.contains(.vex) { return i.vexPP }
        switch i.mandatoryPrefix {
        case 0x66: return 1
        case 0xF3: return 2
        case 0xF2: return 3
        default: return 0
        }
    }

    private static func usesVectors(_ i: Instruction) -> Bool {
        !i.attributes.contains(.mmx) && !i.attributes.isDisjoint(with: [.sse, .avx])
    }

    private static func loadHandler(_ i: Instruction) -> Handler? {
        switch i.operand1.size {
        case 4: load4
        case 8: load8
        case 16: load16
        case 32: load32
        default: nil
        }
    }

    private static func storeHandler(_ i: Instruction) -> Handler? {
        switch i.operand0.size {
        case 4: store4
        case 8: store8
        case 16: store16
        case 32: store32
        default: nil
        }
    }

    private typealias Half = ExtendedState.Half

    /// Writes a 128-bit result: VEX clears the upper half.
    @inline(__always)
    private static func write(_ cpu: CPU, _ plan: PlanView, _ register: UInt8, _ value: Half) {
        cpu.extended.setLow(register, value)
        if plan.p.traits.contains(.avx) { cpu.extended.setHigh(register, Half()) }
    }

    @inline(__always)
    private static func source(
        _ cpu: CPU, _ op: Op, _ plan: PlanView, _ size: Int, write: Bool = false
    ) throws(Fault) -> UInt64 {
        try cpu.check(plan.p.traits)
        let offset = cpu.effectiveOffset(op)
        // #GP(0) of a misaligned operand comes before the segment's limit, be it 4 GiB.
        let address = cpu.s.effectiveBase[Int(op.o.segment & 7)] &+ offset
        if address & UInt64(plan.p.alignmentMask) != 0 { throw .protection() }
        if offset &+ UInt64(size) > 0x1_0000_0000, !cpu.is64Bit {
            throw op.o.segment == 2 ? .stack() : .protection()
        }
        return try cpu.linear(op.o.segment, offset, size, write: write)
    }

    /// Runs a body whose memory operand is lowered in the op (`Lowering`), so that it needs no RIP.
    @inline(__always)
    private static func run(
        _ cpu: UInt, _ op: UInt, _ body: (CPU, borrowing Instruction, PlanView, Op) throws(Fault) -> Void
    ) -> UInt32 {
        stepStoring(cpu, op) { cpu, op throws(Fault) in try body(cpu, op.instruction, PlanView(op), op) }
    }

    private static let load4: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            let address = try source(cpu, op, plan, 4)
            write(
                cpu, plan, i.operand0.register, Half(UInt64(try cpu.load(UInt32.self, address, i.segment)), 0)
            )
        }
    }
    private static let load8: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            let address = try source(cpu, op, plan, 8)
            write(cpu, plan, i.operand0.register, Half(try cpu.load(UInt64.self, address, i.segment), 0))
        }
    }
    private static let load16: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            let address = try source(cpu, op, plan, 16)
            write(cpu, plan, i.operand0.register, try cpu.loadHalf(address, i.segment))
        }
    }
    private static let load32: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            let address = try source(cpu, op, plan, 32)
            let low = try cpu.loadHalf(address, i.segment)
            cpu.extended.setHigh(
                i.operand0.register, try cpu.loadHalf((address &+ 16) & cpu.s.linearMask, i.segment))
            cpu.extended.setLow(i.operand0.register, low)
        }
    }
    private static let store4: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            let address = try source(cpu, op, plan, 4, write: true)
            try cpu.store(
                UInt32(truncatingIfNeeded: cpu.extended.low(i.operand1.register)[0]), address, i.segment)
        }
    }
    private static let store8: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            let address = try source(cpu, op, plan, 8, write: true)
            try cpu.store(cpu.extended.low(i.operand1.register)[0], address, i.segment)
        }
    }
    private static let store16: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            let address = try source(cpu, op, plan, 16, write: true)
            try cpu.storeHalf(cpu.extended.low(i.operand1.register), address, i.segment)
        }
    }
    private static let store32: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            let address = try source(cpu, op, plan, 32, write: true)
            // Both halves must be writable before either changes.
            _ = try cpu.writableHost(address, 32, i.segment)
            try cpu.storeHalf(cpu.extended.low(i.operand1.register), address, i.segment)
            try cpu.storeHalf(
                cpu.extended.high(i.operand1.register), (address &+ 16) & cpu.s.linearMask, i.segment)
        }
    }
    private static let moveWhole: Handler = {
        run($0, $1) { cpu, i, plan, _ throws(Fault) in
            try cpu.check(plan.p.traits)
            let from = i.operand1.register, to = i.operand0.register
            cpu.extended.setLow(to, cpu.extended.low(from))
            if plan.p.traits.contains(.avx) {
                cpu.extended.setHigh(to, i.operand0.kind == .ymm ? cpu.extended.high(from) : Half())
            }
        }
    }
    private static let moveQuad: Handler = {
        run($0, $1) { cpu, i, plan, _ throws(Fault) in
            try cpu.check(plan.p.traits)
            write(cpu, plan, i.operand0.register, Half(cpu.extended.low(i.operand1.register)[0], 0))
        }
    }
    private static let moveFromGeneral: Handler = {
        run($0, $1) { cpu, i, plan, _ throws(Fault) in
            try cpu.check(plan.p.traits)
            let value = cpu.gpr(Int(i.operand1.register))
            write(cpu, plan, i.operand0.register, Half(i.operand1.size == 8 ? value : value & 0xFFFF_FFFF, 0))
        }
    }
    private static let moveToGeneral: Handler = {
        run($0, $1) { cpu, i, plan, _ throws(Fault) in
            try cpu.check(plan.p.traits)
            let value = cpu.extended.low(i.operand1.register)[0]
            cpu.setGPR(Int(i.operand0.register), i.operand0.size == 8 ? value : value & 0xFFFF_FFFF)
        }
    }
    private static let moveMask: Handler = {
        run($0, $1) { cpu, i, plan, _ throws(Fault) in
            try cpu.check(plan.p.traits)
            let value = cpu.extended.low(i.operand1.register)
            var result = signs(value[0]) | signs(value[1]) << 8
            if i.operand1.kind == .ymm {
                let high = cpu.extended.high(i.operand1.register)
                result |= signs(high[0]) << 16 | signs(high[1]) << 24
            }
            cpu.setGPR(Int(i.operand0.register), result)
        }
    }

    /// The top bits of eight bytes, gathered: the product puts byte k's bit at 56 + k.
    @inline(__always) private static func signs(_ bytes: UInt64) -> UInt64 {
        (((bytes & 0x8080_8080_8080_8080) >> 7) &* 0x0102_0408_1020_4080) >> 56
    }

    private static let logic: Handler = {
        run($0, $1) { cpu, i, plan, op throws(Fault) in
            try cpu.check(plan.p.traits)
            let isVEX = plan.p.traits.contains(.avx)
            let last = isVEX ? i.operand2 : i.operand1
            let first = isVEX ? i.operand1.register : i.operand0.register
            let isWide = i.operand0.kind == .ymm
            let state = cpu.extended
            var low: Half, high = Half()
            if last.kind == .memory {
                let address = try source(cpu, op, plan, Int(last.size))
                low = try cpu.loadHalf(address, i.segment)
                if isWide { high = try cpu.loadHalf((address &+ 16) & cpu.s.linearMask, i.segment) }
            } else {
                low = state.low(last.register)
                if isWide { high = state.high(last.register) }
            }
            let operation = plan.p.logic
            low = combine(operation, state.low(first), low)
            if isVEX {
                state.setHigh(
                    i.operand0.register, isWide ? combine(operation, state.high(first), high) : Half())
            }
            state.setLow(i.operand0.register, low)
        }
    }

    @inline(__always)
    private static func combine(_ operation: VectorPlan.Logic, _ a: Half, _ b: Half) -> Half {
        switch operation {
        case .xor: a ^ b
        case .or: a | b
        case .and: a & b
        case .andNot: ~a & b
        case .add64: a &+ b
        case .interleaveLow64: Half(a[0], b[0])
        case .interleaveLow8:
            Half(spread(a[0]) | spread(b[0]) << 8, spread(a[0] >> 32) | spread(b[0] >> 32) << 8)
        default: Half(lanes(operation, a[0], b[0]), lanes(operation, a[1], b[1]))
        }
    }

    /// Top bits of the lanes of one word.
    private static let tops8: UInt64 = 0x8080_8080_8080_8080, tops16: UInt64 = 0x8000_8000_8000_8000
    private static let tops32: UInt64 = 0x8000_0000_8000_0000

    /// Operations on 8-, 16- or 32-bit lanes of a word.
    @inline(__always)
    private static func lanes(_ operation: VectorPlan.Logic, _ a: UInt64, _ b: UInt64) -> UInt64 {
        switch operation {
        case .equal8: (zeroLanes(a ^ b, tops8) >> 7) &* 0xFF
        case .equal16: (zeroLanes(a ^ b, tops16) >> 15) &* 0xFFFF
        case .equal32: (zeroLanes(a ^ b, tops32) >> 31) &* 0xFFFF_FFFF
        case .add8: sum(a, b, tops8)
        case .add16: sum(a, b, tops16)
        case .add32: sum(a, b, tops32)
        case .subtract8: difference(a, b, tops8)
        default: difference(a, b, tops32)
        }
    }

    /// The top bit of each lane that is zero.
    @inline(__always) private static func zeroLanes(_ value: UInt64, _ tops: UInt64) -> UInt64 {
        ~(((value & ~tops) &+ ~tops) | value) & tops
    }

    /// Lane-wise sum: carries stop below the top bits, which are added without one.
    @inline(__always) private static func sum(_ a: UInt64, _ b: UInt64, _ tops: UInt64) -> UInt64 {
        ((a & ~tops) &+ (b & ~tops)) ^ ((a ^ b) & tops)
    }

    @inline(__always) private static func difference(_ a: UInt64, _ b: UInt64, _ tops: UInt64) -> UInt64 {
        ((a | tops) &- (b & ~tops)) ^ ((a ^ ~b) & tops)
    }

    /// The low four bytes of `value`, each in the low half of a 16-bit lane.
    @inline(__always) private static func spread(_ value: UInt64) -> UInt64 {
        let pairs = (value & 0xFFFF | (value & 0xFFFF_0000) << 16)
        return (pairs | pairs << 8) & 0x00FF_00FF_00FF_00FF
    }
}
