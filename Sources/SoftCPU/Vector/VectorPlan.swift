import LinuxHost

/// How to execute one encoding, with registers and addresses left out. At most `ThunkCache.planBytes` bytes.
struct VectorPlan: BitwiseCopyable {
    /// Executes instructions with this encoding.
    var handler: Handler
    /// Address of the emitted code, 0 when the handler needs none.
    var code: UInt
    var traits: Traits
    /// Bytes of the memory operand.
    var memorySize: UInt8 = 0
    /// Alignment that the memory operand needs, less one.
    var alignmentMask: UInt8 = 0
    var operandCount: UInt8 = 0
    /// Operation of the plain Swift bodies.
    var logic = Logic.xor
    var operand0 = PlanOperand(), operand1 = PlanOperand(), operand2 = PlanOperand(), operand3 = PlanOperand()

    struct Traits: OptionSet, BitwiseCopyable {
        let rawValue: UInt32
        static let sse = Traits(rawValue: 1 << 0)
        static let avx = Traits(rawValue: 1 << 1)
        static let mmx = Traits(rawValue: 1 << 2)
        static let mxcsr = Traits(rawValue: 1 << 3)
        static let writesFlags = Traits(rawValue: 1 << 4)
        static let readsMemory = Traits(rawValue: 1 << 6)
        static let writesMemory = Traits(rawValue: 1 << 7)
        /// PCMPESTRI and the like: RAX and RDX are read, RCX or XMM0 written.
        static let stringCompare = Traits(rawValue: 1 << 8)
        static let writesRCX = Traits(rawValue: 1 << 9)
        static let writesXMM0 = Traits(rawValue: 1 << 10)
    }

    enum Logic: UInt8 {
        case xor, or, and, andNot, equal8, equal16, equal32, add8, add16, add32, add64, subtract8, subtract32
        case interleaveLow8, interleaveLow64
    }
}

/// An operand that is copied between the guest's registers and the operand block.
struct PlanOperand: BitwiseCopyable {
    enum Kind: UInt8 { case other = 0, xmm, ymm, mmx, gpr }
    var kind = Kind.other
    var isWritten = false
    /// Where its input goes in the operand block.
    var slot: UInt16 = 0
}

@safe struct PlanView {
    let address: UInt
    @inline(__always) init(_ op: Op) { address = UInt(truncatingIfNeeded: op.o.immediate) }
    init(address: UInt) { self.address = address }
    var p: VectorPlan {
        @inline(__always) unsafeAddress {
            // SAFETY: `VectorLowering.prepare` made the address; plans live as long as the process.
            unsafe UnsafePointer<VectorPlan>(bitPattern: address).unsafelyUnwrapped
        }
    }
}

/// Chooses how a vector or x87 instruction is executed.
enum VectorLowering {
    /// Attributes of rows that need a plan.
    static let attributes: RowAttributes = [.x87, .mmx, .sse, .avx]

    /// Upper bound of different encodings: per row, every last byte, W, L, memory or register form, and for
    /// x87 every ST(i).
    static let mostEncodings: Int = {
        var count = 0
        for index in 0..<InstructionRow.count {
            let row = InstructionRow(index: UInt16(index))
            guard !row.attributes.isDisjoint(with: attributes) else { continue }
            let hasImmediate = sources(row).contains { $0 == .immediate || $0 == .signedImmediate }
            count += (hasImmediate ? 256 : 1) * (row.isVEX ? 8 : 4) * (row.attributes.contains(.x87) ? 8 : 1)
        }
        return count
    }()

    /// Reserves memory for emitted code; call before the first vCPU exists.
    static func start() throws(HostError) { _ = try ThunkCache.shared.get() }

    /// The address of the instruction's `VectorPlan`, for `MicroOp.immediate`; 0 when the host lacks the
    /// instruction, which then is undefined for the guest.
    static func prepare(_ i: Instruction, cpu: CPU) -> UInt64 {
        guard HostFeatures.shared.contains(i.feature, isVEX: i.prefixes.contains(.vex)) else { return 0 }
        guard case .success(let cache) = ThunkCache.shared else { return 0 }
        let key = key(i)
        let address = cache.plan(
            key,
            code: {
                guard VectorBodies.needsCode(i) else { return [] }
                return i.attributes.contains(.x87) ? x87Code(i) : vectorCode(i)
            },
            make: { code in plan(i, code) })
        return UInt64(address)
    }

    /// The handler for a prepared instruction: saves one jump against `VectorBodies.table`.
    static func handler(_ prepared: UInt64) -> Handler {
        guard prepared != 0 else { return VectorBodies.undefined }
        return PlanView(address: UInt(truncatingIfNeeded: prepared)).p.handler
    }

    static func sources(_ row: InstructionRow) -> [OperandSource] {
        let packed = InstructionRows.operands[row.index]
        return (0..<4).map { position in
            OperandSource(rawValue: UInt8(truncatingIfNeeded: packed >> UInt64(position * 14) & 31)) ?? .none
        }
    }

    /// What distinguishes encodings: the row, W, L, the ModRM form and the immediate.
    static func key(_ i: Instruction) -> UInt64 {
        let shape = shape(i)
        var key = UInt64(i.row)
        if shape.wide { key |= 1 << 16 }
        if shape.long { key |= 1 << 17 }
        if shape.namesMemory { key |= 1 << 18 }
        if i.attributes.contains(.x87), !shape.namesMemory { key |= UInt64(i.modRM) << 24 }
        if let last = shape.lastByte { key |= UInt64(last) << 32 }
        return key
    }

    static func shape(_ i: Instruction) -> EncodingShape {
        var shape = EncodingShape()
        let row = InstructionRow(index: i.row)
        let isX87 = row.attributes.contains(.x87)
        shape.namesMemory = i.modRMOffset != 0 && i.modRM < 0xC0
        shape.reg = i.modRM >> 3 & 7
        shape.rm = isX87 ? i.modRM & 7 : ThunkCode.rm
        for (position, source) in sources(row).enumerated() {
            switch source {
            case .regVector, .regMMX: shape.reg = ThunkCode.reg
            case .regGeneral: shape.reg = ThunkCode.general
            case .rmGeneral: shape.rm = ThunkCode.general
            case .vvvvVector: shape.vvvvUsed = true
            case .lastByteVector: shape.lastByte = ThunkCode.lastByte << 4
            case .immediate, .signedImmediate: shape.lastByte = UInt8(truncatingIfNeeded: i.immediate)
            default: break
            }
            if i.operand(position).kind == .ymm { shape.long = true }
        }
        if i.prefixes.contains(.vex) {
            // Outside 64-bit mode W does not widen general registers, implicit ones included.
            shape.wide = i.rexW && (i.operandSize == 8 || !usesGeneralWidth(row) && !comparesStrings(row))
            // A scalar instruction ignores L, a conversion to or from YMM names YMM in some operand.
            if !shape.long, i.vexL != 0, i.operandCount == 2, shape.namesMemory {
                shape.long = i.operand(1).size == 32
            }
        } else {
            shape.wide = i.rexW && !isX87 && (usesGeneralWidth(row) || comparesStrings(row))
        }
        return shape
    }

    private static func usesGeneralWidth(_ row: InstructionRow) -> Bool {
        let packed = InstructionRows.operands[row.index]
        return (0..<4).contains { packed >> UInt64($0 * 14 + 5) & 31 == UInt64(OperandSize.y.rawValue) }
    }

    /// Instructions whose W is the width of the lengths in EAX and EDX.
    private static func comparesStrings(_ row: InstructionRow) -> Bool {
        switch row.mnemonic {
        case .pcmpestri, .pcmpestrm, .vpcmpestri, .vpcmpestrm: return true
        default: return false
        }
    }

    // MARK: Plans

    private static func plan(_ i: Instruction, _ code: UInt) -> VectorPlan {
        let isVEX = i.prefixes.contains(.vex)
        var plan = VectorPlan(handler: VectorBodies.handler(i), code: code, traits: traits(i))
        plan.operandCount = i.operandCount
        plan.logic = FastVector.logic(i)
        let sources = sources(InstructionRow(index: i.row))
        for position in 0..<4 {
            let operand = i.operand(position)
            let entry = PlanOperand(
                kind: kind(operand, isVEX), isWritten: operand.isWritten, slot: slot(sources[position]))
            switch position {
            case 0: plan.operand0 = entry
            case 1: plan.operand1 = entry
            case 2: plan.operand2 = entry
            default: plan.operand3 = entry
            }
            guard operand.kind == .memory else { continue }
            plan.memorySize = operand.size
            if operand.isRead { plan.traits.insert(.readsMemory) }
            if operand.isWritten { plan.traits.insert(.writesMemory) }
            if needsAlignment(i), operand.size >= 16 { plan.alignmentMask = operand.size - 1 }
        }
        // CVTPI2PS and CVTPI2PD from memory leave the x87 state alone.
        if i.opcodeMap == 1, i.opcode == 0x2A, plan.memorySize != 0 { plan.traits.remove(.mmx) }
        return plan
    }

    private static func traits(_ i: Instruction) -> VectorPlan.Traits {
        let attributes = i.attributes
        var traits: VectorPlan.Traits =
            i.prefixes.contains(.vex) ? .avx : attributes.contains(.sse) ? .sse : []
        if attributes.contains(.mmx) { traits.insert(.mmx) }
        if attributes.contains(.usesMXCSR) { traits.insert(.mxcsr) }
        if i.flagsWritten != 0 { traits.insert(.writesFlags) }
        if isStringCompare(i) {
            traits.formUnion(.stringCompare)
            traits.insert(i.opcode & 1 == 0 ? .writesXMM0 : .writesRCX)
        }
        return traits
    }

    private static func kind(_ operand: Operand, _ isVEX: Bool) -> PlanOperand.Kind {
        switch operand.kind {
        case .xmm, .ymm: isVEX ? .ymm : .xmm
        case .mmx: .mmx
        case .gpr: .gpr
        default: .other
        }
    }

    /// What the table says, and VMOVAPS and VMOVAPD.
    @inline(__always) static func needsAlignment(_ i: Instruction) -> Bool {
        // AMD's processors take misaligned operands of the SHA instructions.
        i.attributes.contains(.aligned) && !(CPUModel.isAMD && i.feature == .sha)
            || i.prefixes.contains(.vex) && i.opcodeMap == 1 && (i.opcode == 0x28 || i.opcode == 0x29)
    }

    static func isStringCompare(_ i: Instruction) -> Bool {
        i.opcodeMap == 3 && (0x60...0x63).contains(i.opcode)
    }

    private static func slot(_ source: OperandSource) -> UInt16 {
        switch source {
        case .regVector, .regMMX: UInt16(OperandBlock.reg)
        case .vvvvVector: UInt16(OperandBlock.vvvv)
        case .rmVector, .rmMMX: UInt16(OperandBlock.rm)
        case .lastByteVector: UInt16(OperandBlock.lastByte)
        case .fixedVector: UInt16(OperandBlock.xmm0)
        default: UInt16(OperandBlock.rax)
        }
    }

    // MARK: Code

    /// SSE, AVX and MMX: inputs into registers, the instruction under the given MXCSR, results out.
    private static func vectorCode(_ i: Instruction) -> [UInt8] {
        var code = ThunkCode()
        let shape = shape(i)
        let isVEX = i.prefixes.contains(.vex), isString = isStringCompare(i)
        var usesMMX = false
        for (source, position) in zip(sources(InstructionRow(index: i.row)), 0...) {
            switch i.operand(position).kind {
            case .xmm, .ymm:
                let (register, offset) = place(source)
                if isVEX { code.loadYMM(register, offset) } else { code.loadXMM(register, offset) }
            case .mmx:
                usesMMX = true
                let (register, offset) = place(source)
                code.loadMMX(register, offset)
            case .gpr: code.loadGeneral(0, OperandBlock.rax)
            default: break
            }
        }
        if isString {
            code.loadGeneral(0, OperandBlock.rax)
            code.loadGeneral(2, OperandBlock.rdx)
        }
        let usesMXCSR = i.attributes.contains(.usesMXCSR)
        if usesMXCSR { code.loadMXCSR(OperandBlock.mxcsrIn) }
        code.instruction(i, shape)
        if i.flagsWritten != 0 { code.storeFlags(OperandBlock.flagsOut) }
        if usesMXCSR {
            code.storeMXCSR(OperandBlock.mxcsrOut)
            code.loadMXCSR(OperandBlock.hostMXCSR)
        }
        for (source, position) in zip(sources(InstructionRow(index: i.row)), 0...)
        where i.operand(position).isWritten {
            switch i.operand(position).kind {
            case .xmm, .ymm:
                let register = place(source).register
                if isVEX {
                    code.storeYMM(register, OperandBlock.result)
                } else {
                    code.storeXMM(register, OperandBlock.result)
                }
            case .mmx: code.storeMMX(place(source).register, OperandBlock.result)
            case .gpr: code.storeGeneral(0, OperandBlock.rax)
            default: break
            }
        }
        if isString {
            code.storeGeneral(1, OperandBlock.rcx)
            if isVEX { code.storeYMM(0, OperandBlock.result) } else { code.storeXMM(0, OperandBlock.result) }
        }
        if usesMMX || i.attributes.contains(.mmx) { code.emit(0x0F, 0x77) }
        if isVEX { code.emit(0xC5, 0xF8, 0x77) }
        code.returnToCaller()
        return code.bytes
    }

    /// The host register and input slot of a vector operand.
    private static func place(_ source: OperandSource) -> (register: UInt8, offset: Int) {
        let register: UInt8 =
            switch source {
            case .regVector, .regMMX: ThunkCode.reg
            case .vvvvVector: ThunkCode.vvvv
            case .rmVector, .rmMMX: ThunkCode.rm
            case .lastByteVector: ThunkCode.lastByte
            default: 0
            }
        return (register, Int(slot(source)))
    }

    /// x87: the guest's whole image in, the instruction, the image out, the host's state back.
    private static func x87Code(_ i: Instruction) -> [UInt8] {
        var code = ThunkCode()
        code.loadGeneral(0, OperandBlock.image)
        code.emit(0x48, 0x0F, 0xAE, 0x08)
        if (i.flagsRead | i.flagsWritten) != 0 { code.loadFlags(OperandBlock.flagsIn) }
        code.instruction(i, shape(i))
        if i.flagsWritten != 0 { code.storeFlags(OperandBlock.flagsOut) }
        code.emit(0x48, 0x0F, 0xAE, 0x00)
        code.emit(0xDB, 0xE3)
        code.loadMXCSR(OperandBlock.hostMXCSR)
        code.returnToCaller()
        return code.bytes
    }
}
