/// Operands of a decoded `Instruction`, for bodies that take it whole.
extension CPU {
    /// The memory operand's offset in its segment. `s.rip` must be the next instruction's offset.
    func effectiveOffset(_ i: Instruction) -> UInt64 {
        let base = i.base == Instruction.ripBase ? s.rip : gpr(Int(i.base))
        let sum = base &+ (gpr(Int(i.index)) << UInt64(i.scaleShift)) &+ UInt64(bitPattern: i.displacement)
        return sum & Self.addressMask(i.addressSize)
    }

    @inline(__always) static func addressMask(_ size: UInt8) -> UInt64 {
        size == 8 ? .max : size == 4 ? 0xFFFF_FFFF : 0xFFFF
    }

    /// The memory operand's linear address, checked for `size` bytes.
    func memoryAddress(_ i: Instruction, _ size: Int, write: Bool = false) throws(Fault) -> UInt64 {
        let offset = effectiveOffset(i)
        // Flat segments have a limit too: 4 GiB.
        if offset &+ UInt64(size) > 0x1_0000_0000, size != 0, !is64Bit {
            throw i.segment == 2 ? .stack() : .protection()
        }
        return try linear(i.segment, offset, size, write: write)
    }

    /// All ones in the low `size` bytes.
    @inline(__always) static func sizeMask(_ size: UInt8) -> UInt64 {
        size >= 8 ? .max : (1 << (UInt64(size) * 8)) - 1
    }

    func load(size: UInt8, _ linear: UInt64, _ segment: UInt8) throws(Fault) -> UInt64 {
        switch size {
        case 1: return UInt64(try load(UInt8.self, linear, segment))
        case 2: return UInt64(try load(UInt16.self, linear, segment))
        case 4: return UInt64(try load(UInt32.self, linear, segment))
        default: return try load(UInt64.self, linear, segment)
        }
    }

    func store(size: UInt8, _ value: UInt64, _ linear: UInt64, _ segment: UInt8) throws(Fault) {
        switch size {
        case 1: try store(UInt8(truncatingIfNeeded: value), linear, segment)
        case 2: try store(UInt16(truncatingIfNeeded: value), linear, segment)
        case 4: try store(UInt32(truncatingIfNeeded: value), linear, segment)
        default: try store(value, linear, segment)
        }
    }

    /// The value of a general, high-byte, memory or immediate operand, zero-extended from its size.
    func readOperand(_ i: Instruction, _ position: Int) throws(Fault) -> UInt64 {
        let operand = i.operand(position)
        let mask = Self.sizeMask(operand.size)
        switch operand.kind {
        case .gpr: return gpr(Int(operand.register)) & mask
        case .highByte: return (gpr(Int(operand.register)) >> 8) & 0xFF
        case .memory:
            return try load(size: operand.size, memoryAddress(i, Int(operand.size)), i.segment)
        case .immediate: return i.immediate & mask
        case .immediate2: return i.immediate2 & mask
        case .one: return 1
        case .segment: return UInt64(s.segments[Int(operand.register & 7)].selector)
        default: preconditionFailure("operand of \(i.mnemonic) is not an integer")
        }
    }

    /// Writes a general, high-byte or memory operand; 32-bit registers clear their upper half.
    func writeOperand(_ i: Instruction, _ position: Int, _ value: UInt64) throws(Fault) {
        let operand = i.operand(position)
        switch operand.kind {
        case .gpr: setGPR(Int(operand.register), size: operand.size, value)
        case .highByte:
            setRegister(UInt16(operand.register) * 8 + 1, UInt8(truncatingIfNeeded: value))
        case .memory:
            try store(size: operand.size, value, memoryAddress(i, Int(operand.size), write: true), i.segment)
        default: preconditionFailure("operand of \(i.mnemonic) cannot be written")
        }
    }

    /// Writes `size` bytes of a general register.
    func setGPR(_ number: Int, size: UInt8, _ value: UInt64) {
        let offset = UInt16(truncatingIfNeeded: number &* 8)
        switch size {
        case 1: setRegister(offset, UInt8(truncatingIfNeeded: value))
        case 2: setRegister(offset, UInt16(truncatingIfNeeded: value))
        case 4: setRegister(offset, UInt32(truncatingIfNeeded: value))
        default: setRegister(offset, value)
        }
    }

    /// Read, change, write of the integer operand at `position`; locked when the instruction says so.
    @discardableResult
    func updateOperand(_ i: Instruction, _ position: Int, _ change: (UInt64) -> UInt64) throws(Fault)
        -> UInt64
    {
        let operand = i.operand(position)
        guard operand.kind == .memory else {
            let old = try readOperand(i, position)
            try writeOperand(i, position, change(old))
            return old
        }
        let address = try memoryAddress(i, Int(operand.size), write: true)
        let locked = i.prefixes.contains(.lock)
        switch operand.size {
        case 1:
            return UInt64(
                try update(UInt8.self, address, i.segment, locked: locked) {
                    UInt8(truncatingIfNeeded: change(UInt64($0)))
                })
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
}
