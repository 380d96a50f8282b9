/// Bodies of moves, address computation and stack operations on lowered operands.

@inline(__always) func moveRR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    cpu.setRegister(op.o.destination, cpu.register(T.self, op.o.source))
    return Step.next
}
@inline(__always) func moveRI<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    cpu.setRegister(op.o.destination, T(truncatingIfNeeded: op.o.immediate))
    return Step.next
}
@inline(__always) func moveRM<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    step(c, o) { cpu, op throws(Fault) in
        let value = try cpu.load(T.self, cpu.address(op, MemoryLayout<T>.size), op.o.segment)
        cpu.setRegister(op.o.destination, value)
    }
}
@inline(__always) func moveMR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepStoring(c, o) { cpu, op throws(Fault) in
        let address = try cpu.address(op, MemoryLayout<T>.size, write: true)
        try cpu.store(cpu.register(T.self, op.o.source), address, op.o.segment)
    }
}
@inline(__always) func moveMI<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepStoring(c, o) { cpu, op throws(Fault) in
        let address = try cpu.address(op, MemoryLayout<T>.size, write: true)
        try cpu.store(T(truncatingIfNeeded: op.o.immediate), address, op.o.segment)
    }
}

/// MOVZX, MOVSX and MOVSXD; `D` is the width that is written.
@inline(__always)
func extendRR<S: Word, D: Word>(_: S.Type, _: D.Type, signed: Bool, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    let value = cpu.register(S.self, op.o.source)
    cpu.setRegister(
        op.o.destination, signed ? D(truncatingIfNeeded: CPU.extended(value)) : D(truncatingIfNeeded: value))
    return Step.next
}
@inline(__always)
func extendRM<S: Word, D: Word>(_: S.Type, _: D.Type, signed: Bool, _ c: UInt, _ o: UInt) -> UInt32 {
    step(c, o) { cpu, op throws(Fault) in
        let value = try cpu.load(S.self, cpu.address(op, MemoryLayout<S>.size), op.o.segment)
        cpu.setRegister(
            op.o.destination,
            signed ? D(truncatingIfNeeded: CPU.extended(value)) : D(truncatingIfNeeded: value))
    }
}

@inline(__always) func loadAddress<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    cpu.setRegister(op.o.destination, T(truncatingIfNeeded: cpu.effectiveOffset(op)))
    return Step.next
}

@inline(__always) func conditionalMoveRR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    let cpu = CPU(address: c), op = Op(address: o)
    // A 32-bit destination loses its upper half either way.
    let from = cpu.condition(op.o.condition) ? op.o.source : op.o.destination
    cpu.setRegister(op.o.destination, cpu.register(T.self, from))
    return Step.next
}
@inline(__always) func conditionalMoveRM<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    step(c, o) { cpu, op throws(Fault) in
        // The load happens, and faults, whatever the condition.
        let value = try cpu.load(T.self, cpu.address(op, MemoryLayout<T>.size), op.o.segment)
        let old = cpu.register(T.self, op.o.destination)
        cpu.setRegister(op.o.destination, cpu.condition(op.o.condition) ? value : old)
    }
}

extension CPU {
    /// RSP after adding `change`, with the bits above the stack's size kept.
    @inline(__always) func movedStackPointer(_ change: UInt64) -> UInt64 {
        let sp = gpr(Register.rsp)
        return (sp & ~s.stackMask) | ((sp &+ change) & s.stackMask)
    }

    @inline(__always) func push<T: Word>(_ value: T) throws(Fault) {
        let size = MemoryLayout<T>.size
        let sp = movedStackPointer(0 &- UInt64(size))
        try store(value, linear(2, sp & s.stackMask, size, write: true), 2)
        setGPR(Register.rsp, sp)
    }

    /// The value at the top of the stack, not yet removed.
    @inline(__always) func peekStack<T: Word>(_: T.Type) throws(Fault) -> T {
        try load(T.self, linear(2, gpr(Register.rsp) & s.stackMask, MemoryLayout<T>.size), 2)
    }

    @inline(__always) func pop<T: Word>(_: T.Type) throws(Fault) -> T {
        let value = try peekStack(T.self)
        setGPR(Register.rsp, movedStackPointer(UInt64(MemoryLayout<T>.size)))
        return value
    }

    /// Pushes the low `size` bytes (2, 4 or 8).
    func push(size: UInt8, _ value: UInt64) throws(Fault) {
        switch size {
        case 2: try push(UInt16(truncatingIfNeeded: value))
        case 4: try push(UInt32(truncatingIfNeeded: value))
        default: try push(value)
        }
    }

    func pop(size: UInt8) throws(Fault) -> UInt64 {
        switch size {
        case 2: return UInt64(try pop(UInt16.self))
        case 4: return UInt64(try pop(UInt32.self))
        default: return try pop(UInt64.self)
        }
    }
}

@inline(__always) func pushR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepStoring(c, o) { cpu, op throws(Fault) in try cpu.push(cpu.register(T.self, op.o.source)) }
}
@inline(__always) func pushI<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    stepStoring(c, o) { cpu, op throws(Fault) in try cpu.push(T(truncatingIfNeeded: op.o.immediate)) }
}
@inline(__always) func popR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt) -> UInt32 {
    step(c, o) { cpu, op throws(Fault) in
        // POP rSP: the popped value wins over the increment.
        let value = try cpu.pop(T.self)
        cpu.setRegister(op.o.destination, value)
    }
}

/// Bodies by size (index 0...3 for 1, 2, 4 and 8 bytes).
enum FastMoves {
    static let registerRegister: [Handler] = [
        { moveRR(UInt8.self, $0, $1) }, { moveRR(UInt16.self, $0, $1) },
        { moveRR(UInt32.self, $0, $1) }, { moveRR(UInt64.self, $0, $1) },
    ]
    static let registerImmediate: [Handler] = [
        { moveRI(UInt8.self, $0, $1) }, { moveRI(UInt16.self, $0, $1) },
        { moveRI(UInt32.self, $0, $1) }, { moveRI(UInt64.self, $0, $1) },
    ]
    static let registerMemory: [Handler] = [
        { moveRM(UInt8.self, $0, $1) }, { moveRM(UInt16.self, $0, $1) },
        { moveRM(UInt32.self, $0, $1) }, { moveRM(UInt64.self, $0, $1) },
    ]
    static let memoryRegister: [Handler] = [
        { moveMR(UInt8.self, $0, $1) }, { moveMR(UInt16.self, $0, $1) },
        { moveMR(UInt32.self, $0, $1) }, { moveMR(UInt64.self, $0, $1) },
    ]
    static let memoryImmediate: [Handler] = [
        { moveMI(UInt8.self, $0, $1) }, { moveMI(UInt16.self, $0, $1) },
        { moveMI(UInt32.self, $0, $1) }, { moveMI(UInt64.self, $0, $1) },
    ]
    /// [signed][source size 0...2][destination 32 or 64 bits]
    static let extendRegister: [[[Handler]]] = [
        [
            [
                { extendRR(UInt8.self, UInt32.self, signed: false, $0, $1) },
                { extendRR(UInt8.self, UInt64.self, signed: false, $0, $1) },
            ],
            [
                { extendRR(UInt16.self, UInt32.self, signed: false, $0, $1) },
                { extendRR(UInt16.self, UInt64.self, signed: false, $0, $1) },
            ],
        ],
        [
            [
                { extendRR(UInt8.self, UInt32.self, signed: true, $0, $1) },
                { extendRR(UInt8.self, UInt64.self, signed: true, $0, $1) },
            ],
            [
                { extendRR(UInt16.self, UInt32.self, signed: true, $0, $1) },
                { extendRR(UInt16.self, UInt64.self, signed: true, $0, $1) },
            ],
            [{ moveRR(UInt32.self, $0, $1) }, { extendRR(UInt32.self, UInt64.self, signed: true, $0, $1) }],
        ],
    ]
    static let extendMemory: [[[Handler]]] = [
        [
            [
                { extendRM(UInt8.self, UInt32.self, signed: false, $0, $1) },
                { extendRM(UInt8.self, UInt64.self, signed: false, $0, $1) },
            ],
            [
                { extendRM(UInt16.self, UInt32.self, signed: false, $0, $1) },
                { extendRM(UInt16.self, UInt64.self, signed: false, $0, $1) },
            ],
        ],
        [
            [
                { extendRM(UInt8.self, UInt32.self, signed: true, $0, $1) },
                { extendRM(UInt8.self, UInt64.self, signed: true, $0, $1) },
            ],
            [
                { extendRM(UInt16.self, UInt32.self, signed: true, $0, $1) },
                { extendRM(UInt16.self, UInt64.self, signed: true, $0, $1) },
            ],
            [{ moveRM(UInt32.self, $0, $1) }, { extendRM(UInt32.self, UInt64.self, signed: true, $0, $1) }],
        ],
    ]
    static let effectiveAddress: [Handler] = [
        { loadAddress(UInt8.self, $0, $1) }, { loadAddress(UInt16.self, $0, $1) },
        { loadAddress(UInt32.self, $0, $1) }, { loadAddress(UInt64.self, $0, $1) },
    ]
    static let conditionalRegister: [Handler] = [
        { conditionalMoveRR(UInt8.self, $0, $1) }, { conditionalMoveRR(UInt16.self, $0, $1) },
        { conditionalMoveRR(UInt32.self, $0, $1) }, { conditionalMoveRR(UInt64.self, $0, $1) },
    ]
    static let conditionalMemory: [Handler] = [
        { conditionalMoveRM(UInt8.self, $0, $1) }, { conditionalMoveRM(UInt16.self, $0, $1) },
        { conditionalMoveRM(UInt32.self, $0, $1) }, { conditionalMoveRM(UInt64.self, $0, $1) },
    ]
    static let pushRegister: [Handler] = [
        { pushR(UInt16.self, $0, $1) }, { pushR(UInt16.self, $0, $1) },
        { pushR(UInt32.self, $0, $1) }, { pushR(UInt64.self, $0, $1) },
    ]
    static let pushImmediate: [Handler] = [
        { pushI(UInt16.self, $0, $1) }, { pushI(UInt16.self, $0, $1) },
        { pushI(UInt32.self, $0, $1) }, { pushI(UInt64.self, $0, $1) },
    ]
    static let popRegister: [Handler] = [
        { popR(UInt16.self, $0, $1) }, { popR(UInt16.self, $0, $1) },
        { popR(UInt32.self, $0, $1) }, { popR(UInt64.self, $0, $1) },
    ]
    static let setConditionRegister: Handler = { c, o in
        let cpu = CPU(address: c), op = Op(address: o)
        cpu.setRegister(op.o.destination, UInt8(cpu.condition(op.o.condition) ? 1 : 0))
        return Step.next
    }
    static let noOperation: Handler = { _, _ in Step.next }
}
