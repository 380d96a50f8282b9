import CGate
import X86Architecture

/// XCHG, XADD, CMPXCHG and its wide forms, XLAT.
extension CPU {
    /// XCHG with memory is locked with or without the prefix.
    func exchange(_ i: Instruction) throws(Fault) {
        guard i.operand0.kind == .memory || i.operand1.kind == .memory else {
            let a = try readOperand(i, 0), b = try readOperand(i, 1)
            try writeOperand(i, 0, b)
            return try writeOperand(i, 1, a)
        }
        let memory = i.operand0.kind == .memory ? 0 : 1
        let new = try readOperand(i, 1 - memory)
        let old = try updateLocked(i, memory) { _ in new }
        try writeOperand(i, 1 - memory, old)
    }

    /// A locked update of the memory operand at `position`.
    private func updateLocked(
        _ i: Instruction, _ position: Int, _ change: (UInt64) -> UInt64
    ) throws(Fault) -> UInt64 {
        let size = i.operand(position).size
        let address = try memoryAddress(i, Int(size), write: true)
        switch size {
        case 1:
            return UInt64(
                try update(UInt8.self, address, i.segment, locked: true) {
                    UInt8(truncatingIfNeeded: change(UInt64($0)))
                })
        case 2:
            return UInt64(
                try update(UInt16.self, address, i.segment, locked: true) {
                    UInt16(truncatingIfNeeded: change(UInt64($0)))
                })
        case 4:
            return UInt64(
                try update(UInt32.self, address, i.segment, locked: true) {
                    UInt32(truncatingIfNeeded: change(UInt64($0)))
                })
        default: return try update(UInt64.self, address, i.segment, locked: true, change)
        }
    }

    func exchangeAdd(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size
        let addend = try readOperand(i, 1)
        let old = try updateOperand(i, 0) { $0 &+ addend } & Self.sizeMask(size)
        // With both operands the same register, the sum is what stays.
        if i.operand0.kind == .memory || i.operand0 != i.operand1 { try writeOperand(i, 1, old) }
        if i.operand0.kind != .memory { try writeOperand(i, 0, old &+ addend) }
        setAddFlags(size: size, old, addend, old &+ addend)
    }

    func compareExchange(_ i: Instruction) throws(Fault) {
        let size = i.operand0.size, mask = Self.sizeMask(size)
        let expected = gpr(Register.rax) & mask
        let new = try readOperand(i, 1)
        let old: UInt64
        if i.operand0.kind == .memory {
            // The store happens either way: the old value is written back on a mismatch.
            old = try updateOperand(i, 0) { $0 & mask == expected ? new : $0 } & mask
        } else {
            // Only the register that changes is written, so that the other keeps its upper half.
            old = try readOperand(i, 0) & mask
            if old == expected { try writeOperand(i, 0, new) }
        }
        if old != expected { setGPR(Register.rax, size: size, old) }
        setSubtractFlags(size: size, expected, old, expected &- old)
    }

    func compareExchange8(_ i: Instruction) throws(Fault) {
        let address = try memoryAddress(i, 8, write: true)
        let expected = gpr(Register.rdx) << 32 | gpr(Register.rax) & 0xFFFF_FFFF
        let new = gpr(Register.rcx) << 32 | gpr(Register.rbx) & 0xFFFF_FFFF
        let old = try update(UInt64.self, address, i.segment, locked: i.prefixes.contains(.lock)) {
            $0 == expected ? new : $0
        }
        if old == expected {
            setStatusFlags(statusFlags | RFlags.zero.rawValue)
        } else {
            setStatusFlags(statusFlags & ~RFlags.zero.rawValue)
            setGPR(Register.rax, size: 4, old)
            setGPR(Register.rdx, size: 4, old >> 32)
        }
    }

    func compareExchange16(_ i: Instruction) throws(Fault) {
        let address = try memoryAddress(i, 16, write: true)
        guard address & 15 == 0 else { throw .protection() }
        let host = try writableHost(address, 16, i.segment)
        var seen = (gpr(Register.rax), gpr(Register.rdx))
        let new = (gpr(Register.rbx), gpr(Register.rcx))
        let matched: Bool
        if host != 0 {
            matched = Self.compareAndSwap16(host, &seen, new)
        } else {
            let old = (
                try load(UInt64.self, address, i.segment), try load(UInt64.self, address &+ 8, i.segment)
            )
            matched = old == seen
            let stored = matched ? new : old
            try store(stored.0, address, i.segment)
            try store(stored.1, address &+ 8, i.segment)
            seen = old
        }
        if matched {
            setStatusFlags(statusFlags | RFlags.zero.rawValue)
        } else {
            setStatusFlags(statusFlags & ~RFlags.zero.rawValue)
            setGPR(Register.rax, seen.0)
            setGPR(Register.rdx, seen.1)
        }
    }

    private static func compareAndSwap16(
        _ host: UInt, _ expected: inout (UInt64, UInt64), _ new: (UInt64, UInt64)
    ) -> Bool {
        var seen: [UInt64] = [expected.0, expected.1]
        let desired: [UInt64] = [new.0, new.1]
        // SAFETY: the caller located 16 aligned writable bytes at `host`; the arrays hold two words each.
        let done = unsafe ospite_cas128(UnsafeMutableRawPointer(bitPattern: host), &seen, desired)
        expected = (seen[0], seen[1])
        return done != 0
    }

    func translateByte(_ i: Instruction) throws(Fault) {
        let offset = (gpr(Register.rbx) &+ gpr(Register.rax) & 0xFF) & Self.addressMask(i.addressSize)
        let value = try load(UInt8.self, linear(i.segment, offset, 1), i.segment)
        setGPR(Register.rax, size: 1, UInt64(value))
    }
}
