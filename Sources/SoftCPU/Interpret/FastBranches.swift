/// Bodies of near branches. Targets of direct branches are kept relative to the block, so that one block
/// serves every linear address at which its page is mapped.

extension CPU {
    /// Goes to the direct target of `op`; `addressMask` cuts it to the operand size.
    @inline(__always) func takeDirect(_ op: Op) {
        s.rip = (register(UInt64.self, UInt16(Register.blockRIP * 8)) &+ op.o.immediate) & op.o.addressMask
        s.nextBlock = op.o.link
    }

    /// The same, and asks the run loop to fill the link when it is still empty.
    @inline(__always) func takeLinked(_ op: Op) {
        takeDirect(op)
        let slot = MemoryLayout<MicroOp>.offset(of: \.link).unsafelyUnwrapped
        s.linkSlot = op.o.link == 0 ? op.address &+ UInt(slot) : 0
    }

    @inline(__always) func takeIndirect(_ target: UInt64) {
        s.rip = target
        s.linkSlot = 0
    }

    /// A near branch must land inside the code segment, in 64-bit mode at a canonical address: else #GP(0)
    /// at the branch.
    @inline(__always) func checkTarget(_ target: UInt64) throws(Fault) {
        if s.modeKey & 8 == 0 {
            if target > UInt64(s.segments[Segment.cs].limit) { throw .protection() }
        } else if UInt64(bitPattern: (Int64(bitPattern: target) >> 47) &+ 1) > 1 {
            throw .protection()
        }
    }
}

extension CPU {
    /// The same for a call that pushes `size` bytes: a fault of the push comes first.
    @inline(__always) func checkCallTarget(_ target: UInt64, _ size: Int) throws(Fault) {
        do throws(Fault) {
            try checkTarget(target)
        } catch {
            let sp = movedStackPointer(0 &- UInt64(size))
            try probeWrite(linear(2, sp & s.stackMask, size, write: true), size, 2)
            throw error
        }
    }
}

@inline(__always) func jumpIf(_ code: UInt8, linked: Bool, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c)
    guard cpu.condition(code) else { return Step.next }
    if linked { cpu.takeLinked(Op(address: o)) } else { cpu.takeDirect(Op(address: o)) }
    return Step.ended
}

@inline(__always) func callDirect<T: Word>(_: T.Type, linked: Bool, _ c: UInt, _ o: UInt) -> UInt32 {
    stepBranch(c, o) { cpu, op throws(Fault) in
        try cpu.push(T(truncatingIfNeeded: cpu.nextRIP(op)))
        if linked { cpu.takeLinked(op) } else { cpu.takeDirect(op) }
    }
}

@inline(__always) func returnNear<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepBranch(c, o) { cpu, op throws(Fault) in
        let target = UInt64(truncatingIfNeeded: try cpu.peekStack(T.self))
        try cpu.checkTarget(target)
        cpu.setGPR(
            Register.rsp, cpu.movedStackPointer(UInt64(MemoryLayout<T>.size) &+ op.o.immediate))
        cpu.takeIndirect(target)
    }
}

@inline(__always) func jumpR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepBranch(c, o) { cpu, op throws(Fault) in
        let target = UInt64(truncatingIfNeeded: cpu.register(T.self, op.o.source))
        try cpu.checkTarget(target)
        cpu.takeIndirect(target)
    }
}
@inline(__always) func jumpM<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepBranch(c, o) { cpu, op throws(Fault) in
        let target = UInt64(
            truncatingIfNeeded: try cpu.load(T.self, cpu.address(op, MemoryLayout<T>.size), op.o.segment))
        try cpu.checkTarget(target)
        cpu.takeIndirect(target)
    }
}
@inline(__always) func callR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepBranch(c, o) { cpu, op throws(Fault) in
        let target = UInt64(truncatingIfNeeded: cpu.register(T.self, op.o.source))
        try cpu.checkCallTarget(target, MemoryLayout<T>.size)
        try cpu.push(T(truncatingIfNeeded: cpu.nextRIP(op)))
        cpu.takeIndirect(target)
    }
}
@inline(__always) func callM<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepBranch(c, o) { cpu, op throws(Fault) in
        let target = UInt64(
            truncatingIfNeeded: try cpu.load(T.self, cpu.address(op, MemoryLayout<T>.size), op.o.segment))
        try cpu.checkCallTarget(target, MemoryLayout<T>.size)
        try cpu.push(T(truncatingIfNeeded: cpu.nextRIP(op)))
        cpu.takeIndirect(target)
    }
}

/// Bodies by operand size (index 1...3 for 2, 4 and 8 bytes; 0 is unused and equals 1).
enum FastBranches {
    static let jump: Handler = { c, o in
        CPU(address: c).takeDirect(Op(address: o))
        return Step.ended
    }
    static let jumpLinked: Handler = { c, o in
        CPU(address: c).takeLinked(Op(address: o))
        return Step.ended
    }
    static let conditional: [Handler] = [
        { jumpIf(0, linked: false, $0, $1) }, { jumpIf(1, linked: false, $0, $1) },
        { jumpIf(2, linked: false, $0, $1) },
        { jumpIf(3, linked: false, $0, $1) }, { jumpIf(4, linked: false, $0, $1) },
        { jumpIf(5, linked: false, $0, $1) },
        { jumpIf(6, linked: false, $0, $1) }, { jumpIf(7, linked: false, $0, $1) },
        { jumpIf(8, linked: false, $0, $1) },
        { jumpIf(9, linked: false, $0, $1) }, { jumpIf(10, linked: false, $0, $1) },
        { jumpIf(11, linked: false, $0, $1) },
        { jumpIf(12, linked: false, $0, $1) }, { jumpIf(13, linked: false, $0, $1) },
        { jumpIf(14, linked: false, $0, $1) },
        { jumpIf(15, linked: false, $0, $1) },
    ]
    static let conditionalLinked: [Handler] = [
        { jumpIf(0, linked: true, $0, $1) }, { jumpIf(1, linked: true, $0, $1) },
        { jumpIf(2, linked: true, $0, $1) },
        { jumpIf(3, linked: true, $0, $1) }, { jumpIf(4, linked: true, $0, $1) },
        { jumpIf(5, linked: true, $0, $1) },
        { jumpIf(6, linked: true, $0, $1) }, { jumpIf(7, linked: true, $0, $1) },
        { jumpIf(8, linked: true, $0, $1) },
        { jumpIf(9, linked: true, $0, $1) }, { jumpIf(10, linked: true, $0, $1) },
        { jumpIf(11, linked: true, $0, $1) },
        { jumpIf(12, linked: true, $0, $1) }, { jumpIf(13, linked: true, $0, $1) },
        { jumpIf(14, linked: true, $0, $1) },
        { jumpIf(15, linked: true, $0, $1) },
    ]
    static let call: [Handler] = [
        { callDirect(UInt16.self, linked: false, $0, $1) },
        { callDirect(UInt16.self, linked: false, $0, $1) },
        { callDirect(UInt32.self, linked: false, $0, $1) },
        { callDirect(UInt64.self, linked: false, $0, $1) },
    ]
    static let callLinked: [Handler] = [
        { callDirect(UInt16.self, linked: true, $0, $1) }, { callDirect(UInt16.self, linked: true, $0, $1) },
        { callDirect(UInt32.self, linked: true, $0, $1) }, { callDirect(UInt64.self, linked: true, $0, $1) },
    ]
    static let returns: [Handler] = [
        { returnNear(UInt16.self, $0, $1) }, { returnNear(UInt16.self, $0, $1) },
        { returnNear(UInt32.self, $0, $1) }, { returnNear(UInt64.self, $0, $1) },
    ]
    static let jumpRegister: [Handler] = [
        { jumpR(UInt16.self, $0, $1) }, { jumpR(UInt16.self, $0, $1) },
        { jumpR(UInt32.self, $0, $1) }, { jumpR(UInt64.self, $0, $1) },
    ]
    static let jumpMemory: [Handler] = [
        { jumpM(UInt16.self, $0, $1) }, { jumpM(UInt16.self, $0, $1) },
        { jumpM(UInt32.self, $0, $1) }, { jumpM(UInt64.self, $0, $1) },
    ]
    static let callRegister: [Handler] = [
        { callR(UInt16.self, $0, $1) }, { callR(UInt16.self, $0, $1) },
        { callR(UInt32.self, $0, $1) }, { callR(UInt64.self, $0, $1) },
    ]
    static let callMemory: [Handler] = [
        { callM(UInt16.self, $0, $1) }, { callM(UInt16.self, $0, $1) },
        { callM(UInt32.self, $0, $1) }, { callM(UInt64.self, $0, $1) },
    ]
}
