/// Moves under masks, gathers, and instructions that clear registers.
extension CPU {
    func emptyMMX() throws(Fault) {
        try checkMMX()
        enterMMX()
        extended.store(UInt16(0), ExtendedState.ftw)
    }

    /// VZEROALL and VZEROUPPER; outside 64-bit mode they reach eight registers.
    func zeroVectors(low: Bool) throws(Fault) {
        try checkAVX()
        let registers = is64Bit ? 16 : 8
        if low { extended.initialise(component: 1, registers: registers) }
        extended.initialise(component: 2, registers: registers)
    }

    /// MASKMOVQ and MASKMOVDQU: bytes whose mask byte is negative go to [rDI]. Others are not accessed.
    func storeMaskedBytes(_ i: borrowing Instruction, _ plan: PlanView) throws(Fault) {
        try check(plan.p.traits)
        let isMMX = plan.p.traits.contains(.mmx)
        let size = isMMX ? 8 : 16
        let data = isMMX ? Half(mmx(i.operand1.register), 0) : extended.low(i.operand1.register)
        let mask = isMMX ? Half(mmx(i.operand2.register), 0) : extended.low(i.operand2.register)
        let linear = try memoryAddress(i, size, write: true)
        // Every page that will be written is probed before any byte is.
        for index in 0..<size where Self.byte(mask, index) & 0x80 != 0 {
            _ = try writableHost((linear &+ UInt64(index)) & s.linearMask, 1, i.segment)
        }
        if isMMX { enterMMX() }
        for index in 0..<size where Self.byte(mask, index) & 0x80 != 0 {
            try store(Self.byte(data, index), (linear &+ UInt64(index)) & s.linearMask, i.segment)
        }
    }

    private static func byte(_ value: Half, _ index: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: value[index >> 3 & 1] >> UInt64((index & 7) * 8))
    }

    // MARK: Elements

    /// A YMM register as words.
    private func words(_ register: UInt8) -> [4 of UInt64] {
        let low = extended.low(register), high = extended.high(register)
        return [low[0], low[1], high[0], high[1]]
    }

    private func setWords(_ register: UInt8, _ words: [4 of UInt64]) {
        extended.setLow(register, Half(words[0], words[1]))
        extended.setHigh(register, Half(words[2], words[3]))
    }

    /// Element `index` of `size` bytes (4 or 8).
    private static func element(_ words: [4 of UInt64], _ index: Int, _ size: Int) -> UInt64 {
        if size == 8 { return words[index & 3] }
        return words[index >> 1 & 3] >> UInt64((index & 1) * 32) & 0xFFFF_FFFF
    }

    private static func setElement(_ words: inout [4 of UInt64], _ index: Int, _ size: Int, _ value: UInt64) {
        if size == 8 {
            words[index & 3] = value
        } else {
            let shift = UInt64((index & 1) * 32)
            words[index >> 1 & 3] =
                words[index >> 1 & 3] & ~(0xFFFF_FFFF << shift) | (value & 0xFFFF_FFFF) << shift
        }
    }

    private static func isSelected(_ mask: [4 of UInt64], _ index: Int, _ size: Int) -> Bool {
        element(mask, index, size) >> UInt64(size * 8 - 1) != 0
    }

    /// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ: unselected elements are not accessed and load as zero.
    func moveMaskedElements(_ i: borrowing Instruction) throws(Fault) {
        try checkAVX()
        let isInteger = i.opcode & 0xF0 == 0x80
        let size = isInteger ? (i.rexW ? 8 : 4) : (i.opcode & 1 != 0 ? 8 : 4)
        let isStore = i.operand0.kind == .memory
        let count = (i.vexL != 0 ? 32 : 16) / size
        let mask = words(i.operand1.register)
        let offset = effectiveOffset(i), offsetMask = Self.addressMask(i.addressSize)
        if isStore {
            let data = words(i.operand2.register)
            for index in 0..<count where Self.isSelected(mask, index, size) {
                let linear = try linear(
                    i.segment, (offset &+ UInt64(index * size)) & offsetMask, size, write: true)
                _ = try writableHost(linear, size, i.segment)
            }
            for index in 0..<count where Self.isSelected(mask, index, size) {
                let linear = try linear(
                    i.segment, (offset &+ UInt64(index * size)) & offsetMask, size, write: true)
                try store(size: UInt8(size), Self.element(data, index, size), linear, i.segment)
            }
            return
        }
        var result: [4 of UInt64] = [0, 0, 0, 0]
        for index in 0..<count where Self.isSelected(mask, index, size) {
            let linear = try linear(i.segment, (offset &+ UInt64(index * size)) & offsetMask, size)
            Self.setElement(&result, index, size, try load(size: UInt8(size), linear, i.segment))
        }
        setWords(i.operand0.register, result)
    }

    /// The AVX2 gathers. A fault leaves the elements before it loaded and their masks clear, so that the
    /// instruction goes on where it stopped (SDM vol. 2, VGATHERDPS).
    func gather(_ i: borrowing Instruction) throws(Fault) {
        try checkAVX()
        let destination = i.operand0.register, index = i.index, maskRegister = i.operand2.register
        guard destination != index, destination != maskRegister, index != maskRegister else {
            throw .undefinedOpcode
        }
        let size = i.rexW ? 8 : 4
        let indexSize = i.opcode & 1 != 0 ? 8 : 4
        let count = (i.vexL != 0 ? 32 : 16) / max(size, indexSize)
        let indices = words(index)
        var result = words(destination), mask = words(maskRegister)
        let base = gpr(Int(i.base)) &+ UInt64(bitPattern: i.displacement)
        for element in 0..<count {
            if Self.isSelected(mask, element, size) {
                let raw = Self.element(indices, element, indexSize)
                let wide = indexSize == 8 ? raw : UInt64(bitPattern: Int64(Int32(truncatingIfNeeded: raw)))
                let offset = (base &+ wide << UInt64(i.scaleShift)) & Self.addressMask(i.addressSize)
                do throws(Fault) {
                    let linear = try linear(i.segment, offset, size)
                    Self.setElement(&result, element, size, try load(size: UInt8(size), linear, i.segment))
                } catch {
                    setWords(destination, result)
                    setWords(maskRegister, mask)
                    throw error
                }
            }
            Self.setElement(&mask, element, size, 0)
        }
        // What the elements do not cover is zero.
        for word in (count * size / 8)..<4 { result[word] = 0 }
        setWords(destination, result)
        setWords(maskRegister, [0, 0, 0, 0])
    }
}
