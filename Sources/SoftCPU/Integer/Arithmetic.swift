import X86Architecture

/// INC, DEC, NEG, NOT, multiplication, division and the decimal adjustments.
extension CPU {
    /// Sign-extends the low `size` bytes of `value` to 64 bits.
    @inline(__always) static func signExtend(_ value: UInt64, _ size: UInt8) -> UInt64 {
        let shift = UInt64(64 &- UInt64(size) &* 8)
        return UInt64(bitPattern: Int64(bitPattern: value &<< shift) &>> Int64(shift))
    }

    /// Flags of a 1, 2, 4 or 8-byte addition whose operands are zero-extended.
    func setAddFlags(size: UInt8, _ a: UInt64, _ b: UInt64, _ sum: UInt64) {
        switch size {
        case 1:
            setAddFlags(
                UInt8(truncatingIfNeeded: a), UInt8(truncatingIfNeeded: b), UInt8(truncatingIfNeeded: sum))
        case 2:
            setAddFlags(
                UInt16(truncatingIfNeeded: a), UInt16(truncatingIfNeeded: b), UInt16(truncatingIfNeeded: sum))
        case 4:
            setAddFlags(
                UInt32(truncatingIfNeeded: a), UInt32(truncatingIfNeeded: b), UInt32(truncatingIfNeeded: sum))
        default: setAddFlags(a, b, sum)
        }
    }

    func setSubtractFlags(size: UInt8, _ a: UInt64, _ b: UInt64, _ difference: UInt64) {
        switch size {
        case 1:
            setSubtractFlags(
                UInt8(truncatingIfNeeded: a), UInt8(truncatingIfNeeded: b),
                UInt8(truncatingIfNeeded: difference))
        case 2:
            setSubtractFlags(
                UInt16(truncatingIfNeeded: a), UInt16(truncatingIfNeeded: b),
                UInt16(truncatingIfNeeded: difference))
        case 4:
            setSubtractFlags(
                UInt32(truncatingIfNeeded: a), UInt32(truncatingIfNeeded: b),
                UInt32(truncatingIfNeeded: difference))
        default: setSubtractFlags(a, b, difference)
        }
    }

    func setLogicFlags(size: UInt8, _ result: UInt64) {
        s.lazyResult = Self.signExtend(result, size)
        s.lazyCarries = 0
    }

    func increment(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size, carry = carryFlag
        let old = try updateOperand(i, 0) { $0 &+ 1 }
        setAddFlags(size: size, old, 1, old &+ 1)
        setCarry(carry)
    }

    func decrement(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size, carry = carryFlag
        let old = try updateOperand(i, 0) { $0 &- 1 }
        setSubtractFlags(size: size, old, 1, old &- 1)
        setCarry(carry)
    }

    func negate(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let old = try updateOperand(i, 0) { 0 &- $0 }
        setSubtractFlags(size: size, 0, old, 0 &- old)
    }

    func complement(_ i: Instruction) throws(Fault) {
        try updateOperand(i, 0) { ~$0 }
    }

    func moveExtended(_ i: Instruction, signed: Bool) throws(Fault) {
        let value = try readOperand(i, 1)
        try writeOperand(i, 0, signed ? Self.signExtend(value, i.operand(1).size) : value)
    }

    /// CBW, CWDE, CDQE.
    func signExtendAccumulator(_ i: Instruction) {
        let half = i.operandSize / 2
        setGPR(Register.rax, size: i.operandSize, Self.signExtend(gpr(Register.rax), half))
    }

    /// CWD, CDQ, CQO.
    func signIntoData(_ i: Instruction) {
        let sign = Int64(bitPattern: Self.signExtend(gpr(Register.rax), i.operandSize)) >> 63
        setGPR(Register.rdx, size: i.operandSize, UInt64(bitPattern: sign))
    }

    // MARK: Multiplication

    /// CF and OF say that the upper half matters. The AMD manual leaves the others undefined; they follow the
    /// low half here as on the processors we know.
    private func setMultiplyFlags(size: UInt8, _ low: UInt64, overflow: Bool) {
        setLogicFlags(size: size, low)
        setCarry(overflow, overflow: overflow)
    }

    func multiply(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let b = try readOperand(i, 0)
        let a = gpr(Register.rax) & Self.sizeMask(size)
        switch size {
        case 1:
            let product = a * b
            setGPR(Register.rax, size: 2, product)
            setMultiplyFlags(size: 1, product, overflow: product >> 8 != 0)
        case 8:
            let (high, low) = a.multipliedFullWidth(by: b)
            setGPR(Register.rax, low)
            setGPR(Register.rdx, high)
            setMultiplyFlags(size: 8, low, overflow: high != 0)
        default:
            let product = a * b
            let high = product >> (UInt64(size) * 8)
            setGPR(Register.rax, size: size, product)
            setGPR(Register.rdx, size: size, high)
            setMultiplyFlags(size: size, product, overflow: high != 0)
        }
    }

    /// All three forms of IMUL.
    func signedMultiply(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        if i.operandCount == 1 { return try signedMultiplyWide(i, size) }
        let first = i.operandCount == 3 ? try readOperand(i, 1) : try readOperand(i, 0)
        let second = i.operandCount == 3 ? i.immediate : try readOperand(i, 1)
        let a = Int64(bitPattern: Self.signExtend(first, size)),
            b = Int64(bitPattern: Self.signExtend(second, size))
        let (product, overflowed) = a.multipliedReportingOverflow(by: b)
        let low = UInt64(bitPattern: product)
        try writeOperand(i, 0, low)
        setMultiplyFlags(size: size, low, overflow: overflowed || Self.signExtend(low, size) != low)
    }

    private func signedMultiplyWide(_ i: Instruction, _ size: UInt8) throws(Fault) {
        let b = Int64(bitPattern: Self.signExtend(try readOperand(i, 0), size))
        let a = Int64(bitPattern: Self.signExtend(gpr(Register.rax), size))
        if size == 8 {
            let (high, low) = a.multipliedFullWidth(by: b)
            setGPR(Register.rax, low)
            setGPR(Register.rdx, UInt64(bitPattern: high))
            return setMultiplyFlags(size: 8, low, overflow: high != Int64(bitPattern: low) >> 63)
        }
        // 32-bit operands at most: the product fits.
        let product = UInt64(bitPattern: a &* b)
        if size == 1 {
            setGPR(Register.rax, size: 2, product)
        } else {
            setGPR(Register.rax, size: size, product)
            setGPR(Register.rdx, size: size, product >> (UInt64(size) * 8))
        }
        setMultiplyFlags(size: size, product, overflow: Self.signExtend(product, size) != product)
    }

    /// MULX: no flags; the low half is written first, so that equal destinations keep the high half.
    func multiplyNoFlags(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let b = try readOperand(i, 2)
        let a = gpr(Register.rdx) & Self.sizeMask(size)
        let (high, low) = a.multipliedFullWidth(by: b)
        try writeOperand(i, 1, low)
        try writeOperand(i, 0, size == 8 ? high : low >> 32)
    }

    // MARK: Division

    func divide(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let divisor = try readOperand(i, 0)
        guard divisor != 0 else { throw .divide }
        let mask = Self.sizeMask(size)
        if size == 1 {
            let dividend = gpr(Register.rax) & 0xFFFF
            let quotient = dividend / divisor
            guard quotient <= mask else { throw .divide }
            return setGPR(Register.rax, size: 2, quotient | (dividend % divisor) << 8)
        }
        let low = gpr(Register.rax) & mask, high = gpr(Register.rdx) & mask
        // The quotient fits exactly when the upper half is below the divisor.
        guard high < divisor else { throw .divide }
        if size == 8 {
            let (quotient, remainder) = divisor.dividingFullWidth((high, low))
            setGPR(Register.rax, quotient)
            setGPR(Register.rdx, remainder)
        } else {
            let dividend = high << (UInt64(size) * 8) | low
            setGPR(Register.rax, size: size, dividend / divisor)
            setGPR(Register.rdx, size: size, dividend % divisor)
        }
    }

    func signedDivide(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let divisor = Int64(bitPattern: Self.signExtend(try readOperand(i, 0), size))
        guard divisor != 0 else { throw .divide }
        if size == 8 { return try signedDivide128(divisor) }
        let bits = UInt64(size) * 8
        let dividend: Int64
        if size == 1 {
            dividend = Int64(bitPattern: Self.signExtend(gpr(Register.rax), 2))
        } else {
            let joined = (gpr(Register.rdx) << bits) | gpr(Register.rax) & Self.sizeMask(size)
            dividend = Int64(bitPattern: Self.signExtend(joined, size * 2))
        }
        let (quotient, overflowed) = dividend.dividedReportingOverflow(by: divisor)
        guard !overflowed, Int64(bitPattern: Self.signExtend(UInt64(bitPattern: quotient), size)) == quotient
        else {
            throw .divide
        }
        let remainder = UInt64(bitPattern: dividend % divisor)
        if size == 1 {
            setGPR(Register.rax, size: 2, UInt64(bitPattern: quotient) & 0xFF | (remainder & 0xFF) << 8)
        } else {
            setGPR(Register.rax, size: size, UInt64(bitPattern: quotient))
            setGPR(Register.rdx, size: size, remainder)
        }
    }

    private func signedDivide128(_ divisor: Int64) throws(Fault) {
        let negative = gpr(Register.rdx) >> 63 != 0
        var low = gpr(Register.rax), high = gpr(Register.rdx)
        if negative {
            low = 0 &- low
            high = ~high &+ (low == 0 ? 1 : 0)
        }
        let size = divisor.magnitude
        guard high < size else { throw .divide }
        let (quotient, remainder) = size.dividingFullWidth((high, low))
        let negativeQuotient = negative != (divisor < 0)
        // The magnitude may reach 2^63 only when the quotient is negative.
        guard quotient <= (negativeQuotient ? 1 << 63 : (1 << 63) - 1) else { throw .divide }
        setGPR(Register.rax, negativeQuotient ? 0 &- quotient : quotient)
        setGPR(Register.rdx, negative ? 0 &- remainder : remainder)
    }

    // MARK: ADX

    func addCarryOnly(_ i: Instruction) throws(Fault) {
        let (sum, carry) = Self.add(try readOperand(i, 0), try readOperand(i, 1), carryFlag, i.operand0.size)
        try writeOperand(i, 0, sum)
        setCarry(carry)
    }

    func addOverflowOnly(_ i: Instruction) throws(Fault) {
        let (sum, carry) = Self.add(
            try readOperand(i, 0), try readOperand(i, 1), overflowFlag, i.operand0.size)
        try writeOperand(i, 0, sum)
        setCarry(carryFlag, overflow: carry)
    }

    private static func add(_ a: UInt64, _ b: UInt64, _ carry: Bool, _ size: UInt8) -> (UInt64, Bool) {
        let (first, over1) = a.addingReportingOverflow(b)
        let (sum, over2) = first.addingReportingOverflow(carry ? 1 : 0)
        return (sum, size == 8 ? over1 || over2 : sum >> 32 != 0)
    }

    // MARK: Decimal (SDM vol. 2, AAA ... DAS)

    func asciiAdjust(subtract: Bool) {
        let al = gpr(Register.rax) & 0xFF
        let adjust = al & 0xF > 9 || auxiliaryFlag
        var ax = gpr(Register.rax) & 0xFFFF
        if adjust { ax = subtract ? ax &- 0x106 : ax &+ 0x106 }
        setGPR(Register.rax, size: 2, ax & 0xFF0F)
        setLogicFlags(size: 1, ax & 0x0F)
        if adjust { s.lazyCarries |= Carries.auxiliary }
        setCarry(adjust, overflow: false)
    }

    func asciiAdjustMultiply(_ i: Instruction) throws(Fault) {
        let divisor = i.immediate & 0xFF
        guard divisor != 0 else { throw .divide }
        let al = gpr(Register.rax) & 0xFF
        setGPR(Register.rax, size: 2, (al / divisor) << 8 | al % divisor)
        setLogicFlags(size: 1, al % divisor)
    }

    func asciiAdjustDivide(_ i: Instruction) {
        let ax = gpr(Register.rax)
        let sum = ((ax & 0xFF) &+ ((ax >> 8) & 0xFF) &* (i.immediate & 0xFF)) & 0xFF
        setGPR(Register.rax, size: 2, sum)
        setLogicFlags(size: 1, sum)
    }

    func decimalAdjust(subtract: Bool) {
        let old = gpr(Register.rax) & 0xFF, oldCarry = carryFlag
        let low = old & 0xF > 9 || auxiliaryFlag
        let high = old > 0x99 || oldCarry
        let amount: UInt64 = (low ? 6 : 0) + (high ? 0x60 : 0)
        let result = (subtract ? old &- amount : old &+ amount) & 0xFF
        setGPR(Register.rax, size: 1, result)
        // DAS also borrows when the low correction does.
        let borrowed = subtract && low && old < 6
        setLogicFlags(size: 1, result)
        if low { s.lazyCarries |= Carries.auxiliary }
        setCarry(high || borrowed, overflow: false)
    }
}
