/// Bodies of the two-operand arithmetic instructions on lowered operands. The commonest forms are specialised
/// by operation and size; the rest choose the operation at run time.

/// An integer that general registers hold.
typealias Word = FixedWidthInteger & UnsignedInteger & BitwiseCopyable

protocol BinaryOperation {
    /// Whether the result goes to the first operand (CMP and TEST do not).
    static var stores: Bool { get }
    static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T
    static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T)
}

extension BinaryOperation {
    @inline(__always) static var stores: Bool { true }
}

enum Add: BinaryOperation {
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T { a &+ b }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setAddFlags(a, b, result)
    }
}
enum AddCarry: BinaryOperation {
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T {
        a &+ b &+ (carry ? 1 : 0)
    }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setAddFlags(a, b, result)
    }
}
enum Subtract: BinaryOperation {
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T { a &- b }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setSubtractFlags(a, b, result)
    }
}
enum SubtractBorrow: BinaryOperation {
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T {
        a &- b &- (carry ? 1 : 0)
    }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setSubtractFlags(a, b, result)
    }
}
enum And: BinaryOperation {
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T { a & b }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setLogicFlags(result)
    }
}
enum Or: BinaryOperation {
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T { a | b }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setLogicFlags(result)
    }
}
enum Xor: BinaryOperation {
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T { a ^ b }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setLogicFlags(result)
    }
}
enum Compare: BinaryOperation {
    @inline(__always) static var stores: Bool { false }
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T { a &- b }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setSubtractFlags(a, b, result)
    }
}
enum Test: BinaryOperation {
    @inline(__always) static var stores: Bool { false }
    @inline(__always) static func result<T: Word>(_ a: T, _ b: T, carry: Bool) -> T { a & b }
    @inline(__always) static func setFlags<T: Word>(_ cpu: CPU, _ a: T, _ b: T, _ result: T) {
        cpu.setLogicFlags(result)
    }
}

// MARK: Forms

/// register, register
@inline(__always) func binaryRR<O: BinaryOperation, T: Word>(_: O.Type, _: T.Type, _ c: UInt, _ o: UInt)
    -> UInt32
{
    let cpu = CPU(address: c), op = Op(address: o)
    let a = cpu.register(T.self, op.o.destination), b = cpu.register(T.self, op.o.source)
    let result = O.result(a, b, carry: cpu.carryFlag)
    if O.stores { cpu.setRegister(op.o.destination, result) }
    O.setFlags(cpu, a, b, result)
    return Step.next
}

/// register, immediate
@inline(__always) func binaryRI<O: BinaryOperation, T: Word>(_: O.Type, _: T.Type, _ c: UInt, _ o: UInt)
    -> UInt32
{
    let cpu = CPU(address: c), op = Op(address: o)
    let a = cpu.register(T.self, op.o.destination), b = T(truncatingIfNeeded: op.o.immediate)
    let result = O.result(a, b, carry: cpu.carryFlag)
    if O.stores { cpu.setRegister(op.o.destination, result) }
    O.setFlags(cpu, a, b, result)
    return Step.next
}

/// register, memory
@inline(__always) func binaryRM<O: BinaryOperation, T: Word>(_: O.Type, _: T.Type, _ c: UInt, _ o: UInt)
    -> UInt32
{
    step(c, o) { cpu, op throws(Fault) in
        let a = cpu.register(T.self, op.o.destination)
        let b = try cpu.load(T.self, cpu.address(op, MemoryLayout<T>.size), op.o.segment)
        let result = O.result(a, b, carry: cpu.carryFlag)
        if O.stores { cpu.setRegister(op.o.destination, result) }
        O.setFlags(cpu, a, b, result)
    }
}

/// memory, value: read-modify-write, or a load for CMP and TEST
@inline(__always)
func binaryM<O: BinaryOperation, T: Word>(_: O.Type, _ cpu: CPU, _ op: Op, _ b: T, locked: Bool) throws(Fault)
{
    let linear = try cpu.address(op, MemoryLayout<T>.size, write: O.stores)
    let carry = cpu.carryFlag
    let a: T
    if O.stores {
        a = try cpu.update(T.self, linear, op.o.segment, locked: locked) { O.result($0, b, carry: carry) }
    } else {
        a = try cpu.load(T.self, linear, op.o.segment)
    }
    O.setFlags(cpu, a, b, O.result(a, b, carry: carry))
}

/// Chooses the operation of the less common forms: `MicroOp.condition` holds its number.
@inline(__always)
func binaryM<T: Word>(_ cpu: CPU, _ op: Op, _ b: T, locked: Bool) throws(Fault) {
    switch op.o.condition {
    case 0: try binaryM(Add.self, cpu, op, b, locked: locked)
    case 1: try binaryM(Or.self, cpu, op, b, locked: locked)
    case 2: try binaryM(AddCarry.self, cpu, op, b, locked: locked)
    case 3: try binaryM(SubtractBorrow.self, cpu, op, b, locked: locked)
    case 4: try binaryM(And.self, cpu, op, b, locked: locked)
    case 5: try binaryM(Subtract.self, cpu, op, b, locked: locked)
    case 6: try binaryM(Xor.self, cpu, op, b, locked: locked)
    case 7: try binaryM(Compare.self, cpu, op, b, locked: locked)
    default: try binaryM(Test.self, cpu, op, b, locked: locked)
    }
}

@inline(__always) func binaryMR<T: Word>(_: T.Type, _ c: UInt, _ o: UInt, locked: Bool = false) -> UInt32 {
    stepStoring(c, o) { cpu, op throws(Fault) in
        try binaryM(cpu, op, cpu.register(T.self, op.o.source), locked: locked)
    }
}
@inline(__always) func binaryMI<T: Word>(_: T.Type, _ c: UInt, _ o: UInt, locked: Bool = false) -> UInt32 {
    stepStoring(c, o) { cpu, op throws(Fault) in
        try binaryM(cpu, op, T(truncatingIfNeeded: op.o.immediate), locked: locked)
    }
}

/// Bodies by form and size (index 0...3 for 1, 2, 4 and 8 bytes). Operations count as in the opcode map:
/// ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, and 8 for TEST.
enum FastArithmetic {
    static let memoryRegister: [Handler] = [
        { binaryMR(UInt8.self, $0, $1) }, { binaryMR(UInt16.self, $0, $1) },
        { binaryMR(UInt32.self, $0, $1) }, { binaryMR(UInt64.self, $0, $1) },
    ]
    static let memoryImmediate: [Handler] = [
        { binaryMI(UInt8.self, $0, $1) }, { binaryMI(UInt16.self, $0, $1) },
        { binaryMI(UInt32.self, $0, $1) }, { binaryMI(UInt64.self, $0, $1) },
    ]
    static let lockedRegister: [Handler] = [
        { binaryMR(UInt8.self, $0, $1, locked: true) }, { binaryMR(UInt16.self, $0, $1, locked: true) },
        { binaryMR(UInt32.self, $0, $1, locked: true) }, { binaryMR(UInt64.self, $0, $1, locked: true) },
    ]
    static let lockedImmediate: [Handler] = [
        { binaryMI(UInt8.self, $0, $1, locked: true) }, { binaryMI(UInt16.self, $0, $1, locked: true) },
        { binaryMI(UInt32.self, $0, $1, locked: true) }, { binaryMI(UInt64.self, $0, $1, locked: true) },
    ]

    /// [operation][size]
    static let registerRegister: [[Handler]] = [
        [
            { binaryRR(Add.self, UInt8.self, $0, $1) }, { binaryRR(Add.self, UInt16.self, $0, $1) },
            { binaryRR(Add.self, UInt32.self, $0, $1) }, { binaryRR(Add.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRR(Or.self, UInt8.self, $0, $1) }, { binaryRR(Or.self, UInt16.self, $0, $1) },
            { binaryRR(Or.self, UInt32.self, $0, $1) }, { binaryRR(Or.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRR(AddCarry.self, UInt8.self, $0, $1) }, { binaryRR(AddCarry.self, UInt16.self, $0, $1) },
            { binaryRR(AddCarry.self, UInt32.self, $0, $1) },
            { binaryRR(AddCarry.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRR(SubtractBorrow.self, UInt8.self, $0, $1) },
            { binaryRR(SubtractBorrow.self, UInt16.self, $0, $1) },
            { binaryRR(SubtractBorrow.self, UInt32.self, $0, $1) },
            { binaryRR(SubtractBorrow.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRR(And.self, UInt8.self, $0, $1) }, { binaryRR(And.self, UInt16.self, $0, $1) },
            { binaryRR(And.self, UInt32.self, $0, $1) }, { binaryRR(And.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRR(Subtract.self, UInt8.self, $0, $1) }, { binaryRR(Subtract.self, UInt16.self, $0, $1) },
            { binaryRR(Subtract.self, UInt32.self, $0, $1) },
            { binaryRR(Subtract.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRR(Xor.self, UInt8.self, $0, $1) }, { binaryRR(Xor.self, UInt16.self, $0, $1) },
            { binaryRR(Xor.self, UInt32.self, $0, $1) }, { binaryRR(Xor.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRR(Compare.self, UInt8.self, $0, $1) }, { binaryRR(Compare.self, UInt16.self, $0, $1) },
            { binaryRR(Compare.self, UInt32.self, $0, $1) }, { binaryRR(Compare.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRR(Test.self, UInt8.self, $0, $1) }, { binaryRR(Test.self, UInt16.self, $0, $1) },
            { binaryRR(Test.self, UInt32.self, $0, $1) }, { binaryRR(Test.self, UInt64.self, $0, $1) },
        ],
    ]
    static let registerImmediate: [[Handler]] = [
        [
            { binaryRI(Add.self, UInt8.self, $0, $1) }, { binaryRI(Add.self, UInt16.self, $0, $1) },
            { binaryRI(Add.self, UInt32.self, $0, $1) }, { binaryRI(Add.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRI(Or.self, UInt8.self, $0, $1) }, { binaryRI(Or.self, UInt16.self, $0, $1) },
            { binaryRI(Or.self, UInt32.self, $0, $1) }, { binaryRI(Or.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRI(AddCarry.self, UInt8.self, $0, $1) }, { binaryRI(AddCarry.self, UInt16.self, $0, $1) },
            { binaryRI(AddCarry.self, UInt32.self, $0, $1) },
            { binaryRI(AddCarry.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRI(SubtractBorrow.self, UInt8.self, $0, $1) },
            { binaryRI(SubtractBorrow.self, UInt16.self, $0, $1) },
            { binaryRI(SubtractBorrow.self, UInt32.self, $0, $1) },
            { binaryRI(SubtractBorrow.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRI(And.self, UInt8.self, $0, $1) }, { binaryRI(And.self, UInt16.self, $0, $1) },
            { binaryRI(And.self, UInt32.self, $0, $1) }, { binaryRI(And.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRI(Subtract.self, UInt8.self, $0, $1) }, { binaryRI(Subtract.self, UInt16.self, $0, $1) },
            { binaryRI(Subtract.self, UInt32.self, $0, $1) },
            { binaryRI(Subtract.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRI(Xor.self, UInt8.self, $0, $1) }, { binaryRI(Xor.self, UInt16.self, $0, $1) },
            { binaryRI(Xor.self, UInt32.self, $0, $1) }, { binaryRI(Xor.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRI(Compare.self, UInt8.self, $0, $1) }, { binaryRI(Compare.self, UInt16.self, $0, $1) },
            { binaryRI(Compare.self, UInt32.self, $0, $1) }, { binaryRI(Compare.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRI(Test.self, UInt8.self, $0, $1) }, { binaryRI(Test.self, UInt16.self, $0, $1) },
            { binaryRI(Test.self, UInt32.self, $0, $1) }, { binaryRI(Test.self, UInt64.self, $0, $1) },
        ],
    ]
    static let registerMemory: [[Handler]] = [
        [
            { binaryRM(Add.self, UInt8.self, $0, $1) }, { binaryRM(Add.self, UInt16.self, $0, $1) },
            { binaryRM(Add.self, UInt32.self, $0, $1) }, { binaryRM(Add.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRM(Or.self, UInt8.self, $0, $1) }, { binaryRM(Or.self, UInt16.self, $0, $1) },
            { binaryRM(Or.self, UInt32.self, $0, $1) }, { binaryRM(Or.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRM(AddCarry.self, UInt8.self, $0, $1) }, { binaryRM(AddCarry.self, UInt16.self, $0, $1) },
            { binaryRM(AddCarry.self, UInt32.self, $0, $1) },
            { binaryRM(AddCarry.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRM(SubtractBorrow.self, UInt8.self, $0, $1) },
            { binaryRM(SubtractBorrow.self, UInt16.self, $0, $1) },
            { binaryRM(SubtractBorrow.self, UInt32.self, $0, $1) },
            { binaryRM(SubtractBorrow.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRM(And.self, UInt8.self, $0, $1) }, { binaryRM(And.self, UInt16.self, $0, $1) },
            { binaryRM(And.self, UInt32.self, $0, $1) }, { binaryRM(And.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRM(Subtract.self, UInt8.self, $0, $1) }, { binaryRM(Subtract.self, UInt16.self, $0, $1) },
            { binaryRM(Subtract.self, UInt32.self, $0, $1) },
            { binaryRM(Subtract.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRM(Xor.self, UInt8.self, $0, $1) }, { binaryRM(Xor.self, UInt16.self, $0, $1) },
            { binaryRM(Xor.self, UInt32.self, $0, $1) }, { binaryRM(Xor.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRM(Compare.self, UInt8.self, $0, $1) }, { binaryRM(Compare.self, UInt16.self, $0, $1) },
            { binaryRM(Compare.self, UInt32.self, $0, $1) }, { binaryRM(Compare.self, UInt64.self, $0, $1) },
        ],
        [
            { binaryRM(Test.self, UInt8.self, $0, $1) }, { binaryRM(Test.self, UInt16.self, $0, $1) },
            { binaryRM(Test.self, UInt32.self, $0, $1) }, { binaryRM(Test.self, UInt64.self, $0, $1) },
        ],
    ]
}
