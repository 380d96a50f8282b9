/// The address that ModRM, SIB and displacement name (SDM vol. 2 §2.1.5, §2.2.1), but for the displacement's
/// value.
struct AddressForm {
    let base: UInt
    let index: UInt
    let scaleShift: UInt
    /// 1 when there is a SIB, else 0.
    let sibBytes: UInt
    let displacementSize: UInt

    /// 32-bit and 64-bit addresses. `sib` counts where ModRM says that there is one. Without it ModRM means
    /// what a SIB without an index would. Numbers instead of conditions keep it free of jumps.
    @inline(__always)
    init(_ modRM: UInt, _ sib: UInt, _ code: OpcodeBytes, is64Bit: Bool) {
        sibBytes = modRM & 7 == 4 ? 1 : 0
        let form = sibBytes != 0 ? sib : 0b00_100_000 | modRM & 7
        let number = form >> 3 & 7 | code.rexX & (0 &- sibBytes)
        // Index 4 is none, unless it names a vector register; the operands decide that later.
        index = number == 4 ? UInt(Instruction.noRegister) : number
        scaleShift = form >> 6
        // Mod 0 with base 5 is a displacement alone; without a SIB it counts from RIP in 64-bit mode.
        let isBare = modRM & 0xC0 | (form & 7 ^ 5) == 0
        let bare = UInt(Instruction.noRegister) &+ (is64Bit ? 1 &- sibBytes : 0)
        base = isBare ? bare : form & 7 | code.rexB
        // Mod 1 has one byte, mod 2 four.
        displacementSize = modRM >> 6 & 1 | modRM >> 5 & 4 | (isBare ? 4 : 0)
    }

    /// 16-bit addresses: BX+SI, BX+DI, BP+SI, BP+DI, SI, DI, BP, BX.
    @inline(__always)
    init(in16Bit modRM: UInt) {
        let bases: UInt = 0x03_05_07_06_05_05_03_03
        let indices: UInt = 0x10_10_10_10_07_06_07_06
        let shift = (modRM & 7) &* 8
        let isBare = modRM & 0xC7 == 6
        base = isBare ? UInt(Instruction.noRegister) : bases &>> shift & 0xFF
        index = indices &>> shift & 0xFF
        scaleShift = 0
        sibBytes = 0
        displacementSize = modRM >> 6 | (isBare ? 2 : 0)
    }
}

extension DecodeState {
    /// Reads what belongs to the address and writes it into the instruction.
    @inline(__always)
    mutating func readAddress() throws(DecodeFailure) {
        let form =
            code.addressSize == 2
            ? AddressForm(in16Bit: modRM)
            : AddressForm(modRM, UInt(truncatingIfNeeded: window >> 8 & 0xFF), code, is64Bit: size == .bits64)
        let start = end &+ Int(truncatingIfNeeded: form.sibBytes)
        let length = Int(truncatingIfNeeded: form.displacementSize)
        if start &+ length > bytes.count { throw bytes.lack(start > bytes.count ? start : start &+ length) }
        end = start &+ length
        instruction.base = UInt8(truncatingIfNeeded: form.base)
        instruction.index = UInt8(truncatingIfNeeded: form.index)
        instruction.scaleShift = UInt8(truncatingIfNeeded: form.scaleShift)
        // SS is DS - 1.
        let isStack: UInt8 = form.base & ~1 == 4 ? 1 : 0
        instruction.segment = code.rare.segment(orElse: SegmentNumber.ds &- isStack)
        let mask = InstructionBytes.mask(form.displacementSize)
        instruction.displacementOffset = UInt8(
            truncatingIfNeeded: UInt64(truncatingIfNeeded: start) & mask)
        instruction.displacementSize = UInt8(truncatingIfNeeded: form.displacementSize)
        let tail = form.sibBytes != 0 ? window >> 16 : window >> 8
        let displacement = InstructionBytes.extended(tail, mask, sign: .max)
        instruction.displacement = Int64(bitPattern: displacement)
    }
}
