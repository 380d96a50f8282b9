/// Assembles the body of one thunk: RDI holds the address of the `OperandBlock`; every other register that
/// it touches is caller-saved in the System V ABI.
struct ThunkCode {
    private(set) var bytes: [UInt8] = []

    /// Fixed host registers of operands by their place in the encoding. XMM0 stays free for the implicit one.
    static let reg: UInt8 = 4, vvvv: UInt8 = 1, rm: UInt8 = 2, lastByte: UInt8 = 3
    /// General operands are all RAX.
    static let general: UInt8 = 0

    mutating func emit(_ code: UInt8...) { bytes += code }

    /// ModRM and displacement for [RDI + offset].
    private mutating func memory(_ reg: UInt8, _ offset: Int) {
        bytes.append(0x87 | reg << 3)
        let offset = UInt32(truncatingIfNeeded: offset)
        for shift in [0, 8, 16, 24] as [UInt32] { bytes.append(UInt8(truncatingIfNeeded: offset >> shift)) }
    }

    mutating func loadXMM(_ register: UInt8, _ offset: Int) {
        emit(0x0F, 0x10)
        memory(register, offset)
    }
    mutating func storeXMM(_ register: UInt8, _ offset: Int) {
        emit(0x0F, 0x11)
        memory(register, offset)
    }
    mutating func loadYMM(_ register: UInt8, _ offset: Int) {
        emit(0xC5, 0xFC, 0x10)
        memory(register, offset)
    }
    mutating func storeYMM(_ register: UInt8, _ offset: Int) {
        emit(0xC5, 0xFC, 0x11)
        memory(register, offset)
    }
    mutating func loadMMX(_ register: UInt8, _ offset: Int) {
        emit(0x0F, 0x6F)
        memory(register, offset)
    }
    mutating func storeMMX(_ register: UInt8, _ offset: Int) {
        emit(0x0F, 0x7F)
        memory(register, offset)
    }
    /// RAX 0, RCX 1, RDX 2.
    mutating func loadGeneral(_ register: UInt8, _ offset: Int) {
        emit(0x48, 0x8B)
        memory(register, offset)
    }
    mutating func storeGeneral(_ register: UInt8, _ offset: Int) {
        emit(0x48, 0x89)
        memory(register, offset)
    }
    mutating func loadMXCSR(_ offset: Int) {
        emit(0x0F, 0xAE)
        memory(2, offset)
    }
    mutating func storeMXCSR(_ offset: Int) {
        emit(0x0F, 0xAE)
        memory(3, offset)
    }
    /// PUSH [..]; POPFQ
    mutating func loadFlags(_ offset: Int) {
        emit(0xFF)
        memory(6, offset)
        emit(0x9D)
    }
    /// PUSHFQ; POP [..]
    mutating func storeFlags(_ offset: Int) {
        emit(0x9C, 0x8F)
        memory(0, offset)
    }
    mutating func returnToCaller() { emit(0xC3) }

    /// The instruction itself with normalised registers. `memoryOffset`: the memory operand's place, or nil.
    mutating func instruction(_ i: borrowing Instruction, _ shape: EncodingShape) {
        if i.prefixes.contains(.vex) {
            let inverted: UInt8 = 0x78 & ~((shape.vvvvUsed ? Self.vvvv : 0) << 3)
            emit(0xC4, 0xE0 | i.opcodeMap)
            emit((shape.wide ? 0x80 : 0) | inverted | (shape.long ? 4 : 0) | i.vexPP)
        } else {
            if i.mandatoryPrefix != 0 { emit(i.mandatoryPrefix) }
            if shape.wide { emit(0x48) }
            if i.opcodeMap != 0 { emit(0x0F) }
            if i.opcodeMap == 2 { emit(0x38) } else if i.opcodeMap == 3 { emit(0x3A) }
        }
        emit(i.opcode)
        if i.modRMOffset != 0 {
            if shape.namesMemory {
                memory(shape.reg, OperandBlock.memory)
            } else {
                emit(0xC0 | shape.reg << 3 | shape.rm)
            }
        }
        if let last = shape.lastByte { emit(last) }
    }
}

/// How an instruction is encoded in its thunk.
struct EncodingShape {
    var wide = false
    var long = false
    var vvvvUsed = false
    var namesMemory = false
    /// ModRM.reg: a register number or an opcode extension.
    var reg: UInt8 = 0
    var rm: UInt8 = 0
    /// An immediate, or the register in bits 7...4.
    var lastByte: UInt8?
}
