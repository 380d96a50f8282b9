import CGate
import Synchronization
import X86Architecture

/// Shifts, rotates, bit tests and the bit-manipulation extensions.
extension CPU {
    enum Shift {
        case rotateLeft, rotateRight, rotateCarryLeft, rotateCarryRight, left, right, arithmeticRight
    }

    /// The count operand: CL, an immediate or 1, cut to 5 bits (6 for 64-bit operands).
    private func shiftCount(_ i: Instruction, _ position: Int, _ size: UInt8) throws(Fault) -> UInt64 {
        try readOperand(i, position) & (size == 8 ? 63 : 31)
    }

    func shiftOrRotate(_ i: Instruction, _ kind: Shift) throws(Fault) {
        let size = i.operand0.size
        let count = try shiftCount(i, 1, size)
        guard count != 0 else {
            // Flags stay, but a memory operand is still accessed and a 32-bit register still zero-extended.
            try updateOperand(i, 0) { $0 }
            return
        }
        switch kind {
        case .left, .right, .arithmeticRight: try shift(i, kind, count, size)
        default: try rotate(i, kind, count, size)
        }
    }

    private func shift(_ i: Instruction, _ kind: Shift, _ count: UInt64, _ size: UInt8) throws(Fault) {
        let bits = UInt64(size) * 8
        func shifted(_ value: UInt64) -> UInt64 {
            switch kind {
            case .left: return count >= 64 ? 0 : value << count
            case .right: return value >> count
            default:
                return UInt64(bitPattern: Int64(bitPattern: Self.signExtend(value, size)) >> Int64(count))
            }
        }
        let old = try updateOperand(i, 0, shifted) & Self.sizeMask(size)
        let result = shifted(old) & Self.sizeMask(size)
        setLogicFlags(size: size, result)
        let sign = (result >> (bits - 1)) & 1 != 0
        switch kind {
        case .left:
            let carry = count <= bits && (old >> (bits - count)) & 1 != 0
            setCarry(carry, overflow: carry != sign)
        case .right:
            let carry = (old >> (count - 1)) & 1 != 0
            // The top two bits after the shift show the old sign for a count of 1; 0 otherwise.
            setCarry(carry, overflow: sign != ((result >> (bits - 2)) & 1 != 0))
        default:
            let wide = Int64(bitPattern: Self.signExtend(old, size))
            setCarry((wide >> Int64(count - 1)) & 1 != 0, overflow: false)
        }
    }

    private func rotate(_ i: Instruction, _ kind: Shift, _ count: UInt64, _ size: UInt8) throws(Fault) {
        let bits = UInt64(size) * 8, mask = Self.sizeMask(size)
        if kind == .rotateCarryLeft || kind == .rotateCarryRight {
            return try rotateThroughCarry(i, left: kind == .rotateCarryLeft, count % (bits + 1), size)
        }
        let turns = count % bits
        let left = kind == .rotateLeft
        func rotated(_ value: UInt64) -> UInt64 {
            guard turns != 0 else { return value }
            let value = value & mask
            return left
                ? (value << turns | value >> (bits - turns)) & mask
                : (value >> turns | value << (bits - turns)) & mask
        }
        let result = rotated(try updateOperand(i, 0, rotated)) & mask
        let top = (result >> (bits - 1)) & 1 != 0
        if left {
            let carry = result & 1 != 0
            setCarry(carry, overflow: carry != top)
        } else {
            setCarry(top, overflow: top != ((result >> (bits - 2)) & 1 != 0))
        }
    }

    private func rotateThroughCarry(_ i: Instruction, left: Bool, _ turns: UInt64, _ size: UInt8)
        throws(Fault)
    {
        let bits = UInt64(size) * 8, mask = Self.sizeMask(size)
        let carryIn: UInt64 = carryFlag ? 1 : 0
        guard turns != 0 else {
            try updateOperand(i, 0) { $0 }
            return
        }
        // Shifting by all 64 bits gives 0 with Swift's smart shifts, which is what is wanted.
        func rotated(_ value: UInt64) -> UInt64 {
            let value = value & mask
            return left
                ? (value << turns | carryIn << (turns - 1) | value >> (bits + 1 - turns)) & mask
                : (value >> turns | carryIn << (bits - turns) | value << (bits + 1 - turns)) & mask
        }
        let old = try updateOperand(i, 0, rotated) & mask
        let result = rotated(old)
        let carry = left ? (old >> (bits - turns)) & 1 != 0 : (old >> (turns - 1)) & 1 != 0
        let top = (result >> (bits - 1)) & 1 != 0
        setCarry(carry, overflow: left ? carry != top : top != ((result >> (bits - 2)) & 1 != 0))
    }

    /// SHLD and SHRD.
    func shiftDouble(_ i: Instruction, left: Bool) throws(Fault) {
        let size = i.operand0.size, bits = UInt64(size) * 8, mask = Self.sizeMask(size)
        let count = try shiftCount(i, 2, size)
        let fill = try readOperand(i, 1)
        guard count != 0 else {
            try updateOperand(i, 0) { $0 }
            return
        }
        func shifted(_ value: UInt64) -> UInt64 {
            let value = value & mask
            if count > bits {
                // 16-bit operands with counts 17...31: undefined; AMD's processors rotate the source.
                let more = count - bits
                return left
                    ? (fill << more | fill >> (bits - more)) & mask
                    : (fill >> more | fill << (bits - more)) & mask
            }
            return left
                ? (value << count | fill >> (bits - count)) & mask
                : (value >> count | fill << (bits - count)) & mask
        }
        let old = try updateOperand(i, 0, shifted) & mask
        let result = shifted(old)
        setLogicFlags(size: size, result)
        let carry: Bool
        if count > bits {
            carry = false
        } else {
            carry = left ? (old >> (bits - count)) & 1 != 0 : (old >> (count - 1)) & 1 != 0
        }
        setCarry(carry, overflow: ((result ^ old) >> (bits - 1)) & 1 != 0)
    }

    /// SHLX, SHRX, SARX.
    func shiftNoFlags(_ i: Instruction, _ kind: Shift) throws(Fault) {
        let size = i.operand0.size
        let value = try readOperand(i, 1)
        let count = try shiftCount(i, 2, size)
        switch kind {
        case .left: try writeOperand(i, 0, value << count)
        case .right: try writeOperand(i, 0, value >> count)
        default:
            try writeOperand(
                i, 0, UInt64(bitPattern: Int64(bitPattern: Self.signExtend(value, size)) >> Int64(count)))
        }
    }

    func rotateNoFlags(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size, bits = UInt64(size) * 8
        let value = try readOperand(i, 1)
        let count = try shiftCount(i, 2, size) % bits
        try writeOperand(i, 0, count == 0 ? value : value >> count | value << (bits - count))
    }

    // MARK: Bit tests

    enum BitChange { case test, set, reset, complement }

    func bitTest(_ i: Instruction, _ change: BitChange) throws(Fault) {
        let size = i.operand0.size, bits = UInt64(size) * 8
        let raw = try readOperand(i, 1)
        let bit = raw & (bits - 1)
        let mask: UInt64 = 1 << bit
        func changed(_ value: UInt64) -> UInt64 {
            switch change {
            case .test: return value
            case .set: return value | mask
            case .reset: return value & ~mask
            case .complement: return value ^ mask
            }
        }
        let old: UInt64
        if i.operand0.kind == .memory {
            // A register offset selects a bit string: it moves the address by whole operands.
            var offset = effectiveOffset(i)
            if i.operand1.kind == .gpr {
                let distance =
                    Int64(bitPattern: Self.signExtend(raw, size)) >> Int64(bits.trailingZeroBitCount)
                offset =
                    (offset &+ UInt64(bitPattern: distance &* Int64(size))) & Self.addressMask(i.addressSize)
            }
            let address = try linear(i.segment, offset, Int(size), write: change != .test)
            if change == .test {
                old = try load(size: size, address, i.segment)
            } else {
                old = try updateMemory(size, address, i, changed)
            }
        } else if change == .test {
            old = try readOperand(i, 0)
        } else {
            old = try updateOperand(i, 0, changed)
        }
        setCarry(old & mask != 0)
    }

    private func updateMemory(
        _ size: UInt8, _ address: UInt64, _ i: Instruction, _ change: (UInt64) -> UInt64
    ) throws(Fault) -> UInt64 {
        let locked = i.prefixes.contains(.lock)
        switch size {
        case 2:
            return UInt64(
                try update(UInt16.self, address, i.segment, locked: locked) {
                    UInt16(truncatingIfNeeded: change(UInt64($0)))
                })
        case 4:
            return UInt64(
                try update(UInt32.self, address, i.segment, locked: locked) {
                    UInt32(truncatingIfNeeded: change(UInt64($0)))
                })
        default: return try update(UInt64.self, address, i.segment, locked: locked, change)
        }
    }

    /// BSF and BSR. A zero source leaves the destination alone (AMD documents it, Intel does it).
    func bitScan(_ i: Instruction, forward: Bool) throws(Fault) {
        let value = try readOperand(i, 1)
        if value == 0 {
            setStatusFlags(statusFlags | RFlags.zero.rawValue)
            return
        }
        try writeOperand(i, 0, UInt64(forward ? value.trailingZeroBitCount : 63 - value.leadingZeroBitCount))
        setStatusFlags(statusFlags & ~RFlags.zero.rawValue)
    }

    func countZeros(_ i: Instruction, trailing: Bool) throws(Fault) {
        let size = i.operand0.size, bits = Int(size) * 8
        let value = try readOperand(i, 1)
        let count =
            trailing ? min(value.trailingZeroBitCount, bits) : value.leadingZeroBitCount - (64 - bits)
        try writeOperand(i, 0, UInt64(count))
        setZeroAndCarry(zero: count == 0, carry: value == 0)
    }

    func countOnes(_ i: Instruction) throws(Fault) {
        let value = try readOperand(i, 1)
        try writeOperand(i, 0, UInt64(value.nonzeroBitCount))
        setStatusFlags(value == 0 ? RFlags.zero.rawValue : 0)
    }

    /// TZCNT and LZCNT define ZF and CF only; the others stay as they are, as on AMD's processors.
    private func setZeroAndCarry(zero: Bool, carry: Bool) {
        let keep = statusFlags & ~(RFlags.zero.rawValue | RFlags.carry.rawValue)
        setStatusFlags(keep | (zero ? RFlags.zero.rawValue : 0) | (carry ? RFlags.carry.rawValue : 0))
    }

    func swapBytes(_ i: Instruction) {
        let number = Int(i.operand0.register), value = gpr(number)
        switch i.operandSize {
        case 8: setGPR(number, value.byteSwapped)
        case 4: setGPR(number, size: 4, value.byteSwapped >> 32)
        default: setGPR(number, size: 2, 0)  // Undefined; the processors we know clear it.
        }
    }

    func moveBigEndian(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let value = try readOperand(i, 1)
        try writeOperand(i, 0, value.byteSwapped >> (64 - UInt64(size) * 8))
    }

    // MARK: BMI1, BMI2

    /// SF and ZF from the result, OF cleared, CF as given; AF and PF, undefined, clear and by the result.
    private func setBitManipulationFlags(_ size: UInt8, _ result: UInt64, carry: Bool) {
        setLogicFlags(size: size, result & Self.sizeMask(size))
        setCarry(carry, overflow: false)
    }

    func andNot(_ i: Instruction) throws(Fault) {
        let result = try ~readOperand(i, 1) & readOperand(i, 2)
        try writeOperand(i, 0, result)
        setBitManipulationFlags(i.operand0.size, result, carry: false)
    }

    func extractBits(_ i: Instruction) throws(Fault) {
        let value = try readOperand(i, 1), control = try readOperand(i, 2)
        let start = control & 0xFF, length = (control >> 8) & 0xFF
        let shifted = start >= 64 ? 0 : value >> start
        let result = length >= 64 ? shifted : shifted & ((1 << length) - 1)
        try writeOperand(i, 0, result)
        setBitManipulationFlags(i.operand0.size, result, carry: false)
    }

    func zeroHighBits(_ i: Instruction) throws(Fault) {
        let bits = UInt64(i.operand0.size) * 8
        let value = try readOperand(i, 1), position = try readOperand(i, 2) & 0xFF
        let result = position < bits ? value & ((1 << position) - 1) : value
        try writeOperand(i, 0, result)
        setBitManipulationFlags(i.operand0.size, result, carry: position >= bits)
    }

    enum LowestBit { case isolate, reset, mask }

    func lowestBit(_ i: Instruction, _ kind: LowestBit) throws(Fault) {
        let value = try readOperand(i, 1)
        let result: UInt64
        switch kind {
        case .isolate: result = value & (0 &- value)
        case .reset: result = value & (value &- 1)
        case .mask: result = value ^ (value &- 1)
        }
        try writeOperand(i, 0, result)
        setBitManipulationFlags(i.operand0.size, result, carry: kind == .isolate ? value != 0 : value == 0)
    }

    func deposit(_ i: Instruction) throws(Fault) {
        var source = try readOperand(i, 1), mask = try readOperand(i, 2), result: UInt64 = 0
        while mask != 0 {
            let bit = mask & (0 &- mask)
            if source & 1 != 0 { result |= bit }
            source >>= 1
            mask ^= bit
        }
        try writeOperand(i, 0, result)
    }

    func extract(_ i: Instruction) throws(Fault) {
        let source = try readOperand(i, 1)
        var mask = try readOperand(i, 2), result: UInt64 = 0, position: UInt64 = 0
        while mask != 0 {
            let bit = mask & (0 &- mask)
            if source & bit != 0 { result |= 1 << position }
            position += 1
            mask ^= bit
        }
        try writeOperand(i, 0, result)
    }

    /// CRC32 with the Castagnoli polynomial, bit-reflected.
    func crc32(_ i: Instruction) throws(Fault) {
        let size = i.operand(1).size
        let value = try readOperand(i, 1)
        var crc = UInt32(truncatingIfNeeded: gpr(Int(i.operand0.register)))
        for byte in 0..<UInt64(size) {
            crc ^= UInt32(truncatingIfNeeded: (value >> (byte * 8)) & 0xFF)
            for _ in 0..<8 { crc = crc & 1 != 0 ? crc >> 1 ^ 0x82F6_3B78 : crc >> 1 }
        }
        try writeOperand(i, 0, UInt64(crc))
    }

    // MARK: Others

    static func fullFence() { atomicMemoryFence(ordering: .sequentiallyConsistent) }

    /// RDRAND and RDSEED: the host's entropy; CF says that the number is good.
    func randomNumber(_ i: Instruction) throws(Fault) {
        try writeOperand(i, 0, ospite_random())
        setStatusFlags(RFlags.carry.rawValue)
    }
}
