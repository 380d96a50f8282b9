import Testing
import X86Architecture

@testable import SoftCPU

/// Every vector and x87 row against the host's own execution of the same bytes.
@Suite(.serialized) struct VectorTests {
    /// One instruction with everything it reads.
    struct Case {
        var bytes: [UInt8]
        var instruction: Instruction
        var state: NativeState
        var memory: [UInt8]
    }

    @Test func `the table's encodings cover every row`() {
        let rows = VectorRowCases.all
        let missing = rows.filter { $0.shapes.isEmpty }.map { "\($0.mnemonic) row \($0.row)" }
        print("vector and x87 rows: \(rows.count), encodings: \(rows.reduce(0) { $0 + $1.shapes.count })")
        print("most encodings: \(VectorLowering.mostEncodings)")
        #expect(missing == [])
        #expect(rows.count > 900)
    }

    @Test(arguments: [0x5EED_0001, 0x5EED_0002] as [UInt64])
    func `bodies do what the host does`(seed: UInt64) throws {
        var random = VectorRandom(seed: seed)
        let native = NativeMachine()
        let machine = try VectorMachine(memory: native.memory, size: NativeMachine.memorySize)
        var failures: [String] = [], total = 0, faults = 0, failedRows = Set<UInt16>()
        for row in VectorRowCases.all {
            for shape in row.shapes {
                for round in 0..<(shape.lastBytes > 0 ? 12 : 8) {
                    guard let test = makeCase(row, shape, round, native, &random) else { continue }
                    // A host without the instruction has nothing to say of it. Cases are the same everywhere.
                    let i = test.instruction
                    guard HostFeatures.shared.contains(i.feature, isVEX: i.prefixes.contains(.vex)) else {
                        continue
                    }
                    total += 1
                    for handler in handlers(test.instruction) {
                        let problem = compare(test, native, machine, handler, &faults)
                        if let problem, failedRows.insert(row.row).inserted {
                            failures.append("\(row.mnemonic) \(hex(test.bytes)): \(problem)")
                        }
                    }
                }
            }
        }
        print("seed \(seed): \(total) cases, \(faults) faults, \(failedRows.count) rows differ")
        for failure in failures.prefix(60) { print(failure) }
        #expect(failures.isEmpty)
        #expect(faults > 500)
    }

    /// The registered body; for plain Swift bodies also the thunk.
    private func handlers(_ i: Instruction) -> [Handler?] {
        FastVector.handler(i) != nil ? [nil, VectorBodies.vector] : [nil]
    }

    private func hex(_ bytes: [UInt8]) -> String {
        bytes.map { String($0, radix: 16) }.joined(separator: " ")
    }

    // MARK: Cases

    private func makeCase(
        _ row: VectorRowCases, _ shape: VectorRowCases.Shape, _ round: Int, _ native: NativeMachine,
        _ random: inout VectorRandom
    ) -> Case? {
        for _ in 0..<40 {
            let reg = UInt8.random(in: 0..<16, using: &random), rm = UInt8.random(in: 0..<16, using: &random)
            let vvvv = UInt8.random(in: 0..<16, using: &random),
                last = UInt8.random(in: 0...255, using: &random)
            let bytes = VectorRowCases.bytes(shape, reg: reg, rm: rm, vvvv: vvvv, last: last)
            guard let i = VectorRowCases.decode(bytes), i.row == row.row, Int(i.length) == bytes.count else {
                continue
            }
            if (0..<4).contains(where: { i.operand($0).kind == .gpr && i.operand($0).register == 4 }) {
                continue
            }
            if i.operand1.kind == .memoryVectorIndex,
                i.index == i.operand0.register || i.index == i.operand2.register
                    || i.operand0.register == i.operand2.register
            {
                continue
            }
            var state = VectorStates.random(round, &random)
            let middle = UInt64(UInt(bitPattern: native.memory)) + 4096 + 0x100
            state.gpr[3] = middle
            state.gpr[11] = middle
            state.gpr[7] = middle + 0x300
            if VectorLowering.isStringCompare(i) {
                for register in [0, 2] {
                    state.gpr[register] = UInt64(bitPattern: Int64.random(in: -20...20, using: &random))
                }
            }
            if i.operand1.kind == .memoryVectorIndex { VectorStates.setIndices(&state, i, &random) }
            var memory = [UInt8](repeating: 0, count: NativeMachine.memorySize)
            for offset in stride(from: 4096, to: 4096 + 2048, by: 8) {
                let word = VectorStates.lane(&random)
                for byte in 0..<8 {
                    memory[offset + byte] = UInt8(truncatingIfNeeded: word >> UInt64(byte * 8))
                }
            }
            if i.mnemonic == .ldmxcsr || row.mnemonic == .vldmxcsr {
                memory[4096 + 0x142] = 0
                memory[4096 + 0x143] = 0
            }
            if i.mnemonic == .fbld {
                for byte in 0..<9 {
                    memory[4096 + 0x140 + byte] =
                        .random(in: 0...9, using: &random) | .random(in: 0...9, using: &random) << 4
                }
            }
            return Case(bytes: bytes, instruction: i, state: state, memory: memory)
        }
        return nil
    }

    // MARK: Comparison

    private func compare(
        _ test: Case, _ native: NativeMachine, _ machine: VectorMachine, _ handler: Handler?,
        _ faults: inout Int
    ) -> String? {
        let i = test.instruction
        setMemory(native, test.memory)
        native.prepare(test.bytes)
        machine.load(test.state)
        let fault = machine.execute(i, at: native.instructionAddress, by: handler)
        let ours = machine.store(test.state), ourMemory = getMemory(native)
        setMemory(native, test.memory)
        let theirs = native.run(test.bytes, test.state), theirMemory = getMemory(native)
        if fault != nil { faults += 1 }
        guard (fault != nil) == theirs.raisedSIMD else {
            return "fault \(String(describing: fault?.vector)) against \(theirs.raisedSIMD)"
        }
        if let fault, fault.vector != ExceptionVector.simdFloatingPoint.rawValue {
            return "fault \(fault.vector)"
        }
        if ours.gpr != theirs.gpr { return "general registers \(ours.gpr) against \(theirs.gpr)" }
        if ours.ymm != theirs.ymm { return "vector registers \(difference(ours.ymm, theirs.ymm))" }
        if ourMemory != theirMemory { return "memory \(difference(ourMemory, theirMemory))" }
        let flagMask = 0x8D5 & ~UInt64(i.flagsUndefined)
        if fault == nil, (ours.flags ^ theirs.flags) & flagMask != 0 {
            return
                "flags \(String(ours.flags, radix: 16)) against \(String(theirs.flags & flagMask, radix: 16))"
        }
        var ranges = [0..<6, 32..<160]
        let ourMXCSR = mxcsr(ours), theirMXCSR = mxcsr(theirs)
        if (ourMXCSR ^ theirMXCSR) & ~knownMXCSRDifferences(i, theirMXCSR, isFault: fault != nil) != 0 {
            return "MXCSR \(String(ourMXCSR, radix: 16)) against \(String(theirMXCSR, radix: 16))"
        }
        // Pointers show while an exception is pending. FLDENV and FRSTOR load them in ways of their own.
        if theirs.legacy[2] & 0x80 != 0, ![.fldenv, .frstor, .fldcw].contains(i.mnemonic) {
            ranges.append(6..<(i.hasMemoryOperand ? 24 : 16))
        }
        for range in ranges where ours.legacy[range] != theirs.legacy[range] {
            return
                "image at \(range): \(difference(Array(ours.legacy[range]), Array(theirs.legacy[range])))"
                + " from \(hex(Array(test.state.legacy[0..<8])))"
        }
        return nil
    }

    private func mxcsr(_ state: NativeState) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(state.legacy[24 + $1]) << UInt32($1 * 8) }
    }

    /// See `CPU.callWithMXCSR`: after an unmasked underflow or overflow PE may differ, in dot products all.
    private func knownMXCSRDifferences(_ i: Instruction, _ mxcsr: UInt32, isFault: Bool) -> UInt32 {
        guard isFault, mxcsr & 0x810 == 0x10 || mxcsr & 0x408 == 0x08 else { return 0 }
        return [.dpps, .dppd, .vdpps, .vdppd].contains(i.mnemonic) ? 0x3F : 0x20
    }

    private func difference(_ ours: [UInt8], _ theirs: [UInt8]) -> String {
        let first = ours.indices.first { ours[$0] != theirs[$0] } ?? 0
        let range = first..<min(first + 16, ours.count)
        return "at \(first): \(hex(Array(ours[range]))) against \(hex(Array(theirs[range])))"
    }

    private func setMemory(_ native: NativeMachine, _ bytes: [UInt8]) {
        bytes.withUnsafeBytes { native.memory.copyMemory(from: $0.baseAddress!, byteCount: bytes.count) }
    }

    private func getMemory(_ native: NativeMachine) -> [UInt8] {
        [UInt8](UnsafeRawBufferPointer(start: native.memory, count: NativeMachine.memorySize))
    }
}

/// Random register contents with the values that matter.
enum VectorStates {
    private static let doubles: [UInt64] = [
        0, 1 << 63, 0x3FF0_0000_0000_0000, 0xBFF0_0000_0000_0000, 0x7FF0_0000_0000_0000,
        0xFFF0_0000_0000_0000,
        0x7FF8_0000_0000_0001, 0x7FF0_0000_0000_0001, 1, 0x000F_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000,
        0x7FEF_FFFF_FFFF_FFFF, 0x4330_0000_0000_0001, 0x41E0_0000_0000_0000, 0x43E0_0000_0000_0000,
        0x3CA0_0000_0000_0001,
    ]
    private static let singles: [UInt32] = [
        0, 1 << 31, 0x3F80_0000, 0xBF80_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0001, 0x7F80_0001, 1,
        0x007F_FFFF,
        0x0080_0000, 0x7F7F_FFFF, 0x4B00_0001, 0x4F00_0000, 0x3380_0001, 0xC2C8_0000,
    ]

    static func lane(_ random: inout VectorRandom) -> UInt64 {
        switch random.next() % 6 {
        case 0: return doubles[Int(random.next() % 16)]
        case 1:
            return UInt64(singles[Int(random.next() % 16)]) | UInt64(singles[Int(random.next() % 16)]) << 32
        case 2: return Double.random(in: -1000...1000, using: &random).bitPattern
        case 3:
            let low = Float.random(in: -100...100, using: &random).bitPattern
            return UInt64(low) | UInt64(Float.random(in: -1...1, using: &random).bitPattern) << 32
        case 4: return random.next() & 0x0F0F_00FF_80FF_0001
        default: return random.next()
        }
    }

    /// An 80-bit register of one of the classes.
    private static func extended(_ random: inout VectorRandom) -> (UInt64, UInt16) {
        let sign = UInt16(random.next() & 1) << 15
        switch random.next() % 9 {
        case 0: return (0, sign)
        case 1: return (1 << 63, 0x7FFF | sign)
        case 2: return (0xC000_0000_0000_0000 | random.next() >> 2, 0x7FFF | sign)
        case 3: return (0x8000_0000_0000_0001 | random.next() >> 2 & ~(1 << 62), 0x7FFF | sign)
        case 4: return (random.next() >> 1, sign)
        case 5: return (1 << 63 | random.next(), UInt16(0x3FFF - 40 + random.next() % 100) | sign)
        case 6: return (1 << 63 | random.next() << 40, UInt16(0x3FFF + random.next() % 20) | sign)
        case 7: return (random.next(), UInt16(random.next() & 0x7FFF) | sign)
        default: return (1 << 63 | random.next(), UInt16(random.next() % 0x7FFF) | sign)
        }
    }

    static func random(_ round: Int, _ random: inout VectorRandom) -> NativeState {
        var state = NativeState()
        for register in 0..<16 { state.gpr[register] = round & 1 == 0 ? random.next() : random.next() % 200 }
        state.flags = random.next() & 0x8D5 | 2
        func put(_ value: UInt64, _ offset: Int, _ count: Int) {
            for byte in 0..<count {
                state.legacy[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt64(byte * 8))
            }
        }
        let unmasks = round % 3 == 2
        let control = UInt64(unmasks ? random.next() & 0x3F | 0x40 : 0x7F) | random.next() & 0xF00
        put(control, 0, 2)
        // Flags may be set as long as their exceptions are masked.
        let flags = random.next() & control & 0x3F
        put(
            random.next() & 0x4700 | (random.next() & 7) << 11 | flags | (flags & 1) * (random.next() & 0x40),
            2, 2)
        put(random.next() % 4 == 0 ? random.next() & 0xFF : 0xFF, 4, 1)
        let mxcsr = random.next() & 0xE07F | (unmasks ? random.next() & 0x1F80 : 0x1F80)
        put(mxcsr, 24, 4)
        for slot in 0..<8 {
            let value = extended(&random)
            put(value.0, 32 + slot * 16, 8)
            put(UInt64(value.1), 40 + slot * 16, 2)
        }
        for offset in stride(from: 0, to: 512, by: 8) {
            let word = lane(&random)
            for byte in 0..<8 {
                state.ymm[offset + byte] = UInt8(truncatingIfNeeded: word >> UInt64(byte * 8))
            }
        }
        return state
    }

    /// Small indices, so that a gather stays in the test's memory.
    static func setIndices(_ state: inout NativeState, _ i: Instruction, _ random: inout VectorRandom) {
        let size = i.opcode & 1 != 0 ? 8 : 4
        for element in 0..<32 / size {
            let value = UInt64(bitPattern: Int64.random(in: -30...60, using: &random))
            for byte in 0..<size {
                state.ymm[Int(i.index) * 32 + element * size + byte] = UInt8(
                    truncatingIfNeeded: value >> UInt64(byte * 8))
            }
        }
    }
}
