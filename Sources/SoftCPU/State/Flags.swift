import X86Architecture

/// Status flags are kept as the last result and its carries, and made into OF, SF, ZF, AF, PF and CF on
/// demand.
///
/// ```
/// lazyCarries:  63   62        15......8   3    0
///             +----+----+----+-----------+----+----+
///             | CF |CF^OF|   | PF delta  | AF | SF^|
///             +----+----+----+-----------+----+----+
/// ```
/// ZF: `lazyResult == 0`. SF: its bit 63, inverted by bit 0. PF: parity of its low byte XOR "PF delta".
/// OF: bit 63 XOR bit 62, so that for an adder the two are the carries out of the top two bits.
enum Carries {
    static let carry: UInt64 = 1 << 63
    static let overflowXor: UInt64 = 1 << 62
    static let auxiliary: UInt64 = 1 << 3
    static let signInvert: UInt64 = 1
}

extension CPU {
    /// Sign-extends `value` into the form that `lazyResult` has.
    @inline(__always) static func extended<T: FixedWidthInteger & UnsignedInteger>(_ value: T) -> UInt64 {
        let shift = UInt64(64 - T.bitWidth)
        return UInt64(
            bitPattern: Int64(bitPattern: UInt64(truncatingIfNeeded: value) << shift) >> Int64(shift))
    }

    /// The carry vector of an adder or subtractor, moved into the layout above.
    @inline(__always) static func placed<T: FixedWidthInteger & UnsignedInteger>(_ carries: T) -> UInt64 {
        let wide = UInt64(truncatingIfNeeded: carries)
        return (wide << UInt64(64 - T.bitWidth)) & (Carries.carry | Carries.overflowXor) | wide
            & Carries.auxiliary
    }

    @inline(__always) func setAddFlags<T: FixedWidthInteger & UnsignedInteger>(_ a: T, _ b: T, _ sum: T) {
        s.lazyResult = Self.extended(sum)
        s.lazyCarries = Self.placed((a & b) | ((a | b) & ~sum))
    }

    @inline(__always) func setSubtractFlags<T: FixedWidthInteger & UnsignedInteger>(
        _ a: T, _ b: T, _ difference: T
    ) {
        s.lazyResult = Self.extended(difference)
        s.lazyCarries = Self.placed((~a & b) | ((~a | b) & difference))
    }

    /// AND, OR, XOR, TEST: CF and OF clear; AF, undefined, reads as zero.
    @inline(__always) func setLogicFlags<T: FixedWidthInteger & UnsignedInteger>(_ result: T) {
        s.lazyResult = Self.extended(result)
        s.lazyCarries = 0
    }

    @inline(__always) var carryFlag: Bool { s.lazyCarries & Carries.carry != 0 }
    @inline(__always) var zeroFlag: Bool { s.lazyResult == 0 }
    @inline(__always) var signFlag: Bool { (s.lazyResult >> 63) ^ (s.lazyCarries & Carries.signInvert) != 0 }
    @inline(__always) var overflowFlag: Bool { (s.lazyCarries ^ (s.lazyCarries << 1)) & Carries.carry != 0 }
    @inline(__always) var auxiliaryFlag: Bool { s.lazyCarries & Carries.auxiliary != 0 }
    @inline(__always) var parityFlag: Bool {
        let byte = UInt8(truncatingIfNeeded: s.lazyResult ^ (s.lazyCarries >> 8))
        return byte.nonzeroBitCount & 1 == 0
    }

    /// Sets CF alone.
    @inline(__always) func setCarry(_ carry: Bool) {
        // OF is CF ^ bit 62, so bit 62 follows to keep OF.
        if carry != carryFlag { s.lazyCarries ^= Carries.carry | Carries.overflowXor }
    }

    /// Sets CF and OF, keeping the others.
    @inline(__always) func setCarry(_ carry: Bool, overflow: Bool) {
        s.lazyCarries =
            s.lazyCarries & ~(Carries.carry | Carries.overflowXor) | (carry ? Carries.carry : 0)
            | (carry != overflow ? Carries.overflowXor : 0)
    }

    /// OF, SF, ZF, AF, PF and CF in their RFLAGS positions.
    var statusFlags: UInt64 {
        (carryFlag ? RFlags.carry.rawValue : 0) | (parityFlag ? RFlags.parity.rawValue : 0)
            | (auxiliaryFlag ? RFlags.auxiliary.rawValue : 0) | (zeroFlag ? RFlags.zero.rawValue : 0)
            | (signFlag ? RFlags.sign.rawValue : 0) | (overflowFlag ? RFlags.overflow.rawValue : 0)
    }

    /// Loads all six from an RFLAGS image.
    func setStatusFlags(_ image: UInt64) {
        let zero = image & RFlags.zero.rawValue != 0
        // A result of 0 has even parity and no sign, a result of 1 odd parity and no sign.
        s.lazyResult = zero ? 0 : 1
        let parityNow = zero
        let carry = image & RFlags.carry.rawValue != 0
        let overflow = image & RFlags.overflow.rawValue != 0
        s.lazyCarries =
            (carry ? Carries.carry : 0) | (carry != overflow ? Carries.overflowXor : 0)
            | (image & RFlags.auxiliary.rawValue != 0 ? Carries.auxiliary : 0)
            | (image & RFlags.sign.rawValue != 0 ? Carries.signInvert : 0)
            | ((image & RFlags.parity.rawValue != 0) != parityNow ? 1 << 8 : 0)
    }

    /// The whole register.
    var rflags: UInt64 { s.otherFlags | statusFlags }

    /// Loads every bit of RFLAGS, without checks; `modeChanged` must follow when VM may have changed.
    func setRFlags(_ image: UInt64) {
        s.otherFlags = image & ~RFlags.status.rawValue & 0x3F_FFFF | RFlags.alwaysOne.rawValue
        setStatusFlags(image)
        if image & RFlags.trap.rawValue != 0 { requestAttention() }
    }

    @inline(__always) var interruptFlag: Bool { s.otherFlags & RFlags.interrupt.rawValue != 0 }
    @inline(__always) var directionFlag: Bool { s.otherFlags & RFlags.direction.rawValue != 0 }

    /// Condition code 0..15 as in Jcc, SETcc and CMOVcc (SDM vol. 2 appendix B.1.4.7).
    @inline(__always) func condition(_ code: UInt8) -> Bool {
        let value: Bool
        switch code >> 1 {
        case 0: value = overflowFlag
        case 1: value = carryFlag
        case 2: value = zeroFlag
        case 3: value = carryFlag || zeroFlag
        case 4: value = signFlag
        case 5: value = parityFlag
        case 6: value = signFlag != overflowFlag
        default: value = zeroFlag || signFlag != overflowFlag
        }
        return value != (code & 1 != 0)
    }
}
