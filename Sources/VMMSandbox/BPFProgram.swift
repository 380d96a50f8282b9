/// One instruction of the classic packet filter (linux/filter.h): it runs in the kernel for every call.
public struct BPFInstruction: Sendable, Equatable {
    public var code: UInt16
    /// Instructions to skip when the comparison holds.
    public var whenTrue: UInt8
    /// Instructions to skip when it does not.
    public var whenFalse: UInt8
    public var operand: UInt32
}

/// Assembles lists of rules into a filter program for seccomp(2). Pure.
///
/// The program sees `struct seccomp_data`: le32 number at 0, le32 architecture at 4, le64 instruction pointer
/// at 8, six le64 arguments from 16.
public struct BPFProgram: Sendable, Equatable {
    public private(set) var instructions: [BPFInstruction] = []

    private enum Code {
        static let loadWord: UInt16 = 0x20  // BPF_LD | BPF_W | BPF_ABS
        static let jumpIfEqual: UInt16 = 0x15  // BPF_JMP | BPF_JEQ | BPF_K
        static let jumpIfAtLeast: UInt16 = 0x35  // BPF_JMP | BPF_JGE | BPF_K
        static let and: UInt16 = 0x54  // BPF_ALU | BPF_AND | BPF_K
        static let returnConstant: UInt16 = 0x06  // BPF_RET | BPF_K
    }

    private enum Offset {
        static let number: UInt32 = 0, architecture: UInt32 = 4
        static func lowWord(ofArgument argument: Int) -> UInt32 { 16 + 8 * UInt32(argument) }
    }

    /// AUDIT_ARCH_X86_64: EM_X86_64, 64-bit, little-endian.
    private static let x8664: UInt32 = 0xC000_003E
    /// Numbers from here on belong to the x32 ABI, which shares the architecture word.
    private static let firstX32Number: UInt32 = 0x4000_0000

    /// What the kernel does with a call (linux/seccomp.h).
    public enum Verdict {
        public static let killProcess: UInt32 = 0x8000_0000
        public static let log: UInt32 = 0x7FFC_0000
        public static let allow: UInt32 = 0x7FFF_0000
        static func fail(_ errno: UInt16) -> UInt32 { 0x0005_0000 | UInt32(errno) }
    }

    /// The kernel takes at most 4,096 instructions (BPF_MAXINSNS).
    public static let longest = 4_096

    /// Tests the rules from the first to the last; the first that matches decides. A call that no rule
    /// matches gets `otherwise`.
    public init(rules: [FilterRule], otherwise: UInt32, processID: UInt32) {
        emit(Code.loadWord, Offset.architecture)
        emit(Code.jumpIfEqual, Self.x8664, whenTrue: 1)
        emit(Code.returnConstant, Verdict.killProcess)
        emit(Code.loadWord, Offset.number)
        emit(Code.jumpIfAtLeast, Self.firstX32Number, whenFalse: 1)
        emit(Code.returnConstant, Verdict.killProcess)
        for rule in rules { append(rule, processID) }
        emit(Code.returnConstant, otherwise)
        precondition(instructions.count <= Self.longest, "a filter is too long for the kernel")
    }

    /// The number is in the accumulator before and after each rule.
    private mutating func append(_ rule: FilterRule, _ processID: UInt32) {
        let test = Self.test(of: rule.condition, processID)
        var body = test
        switch rule.outcome {
        case .allow: body.append(Self.instruction(Code.returnConstant, Verdict.allow))
        case .fail(let errno): body.append(Self.instruction(Code.returnConstant, Verdict.fail(errno)))
        }
        if !test.isEmpty { body.append(Self.instruction(Code.loadWord, Offset.number)) }
        precondition(body.count <= 255, "a rule is too long for a jump")
        emit(Code.jumpIfEqual, rule.call.rawValue, whenFalse: UInt8(body.count))
        instructions += body
    }

    /// Falls through when the condition holds, else skips the verdict that follows.
    private static func test(of condition: FilterRule.Condition, _ processID: UInt32) -> [BPFInstruction] {
        switch condition {
        case .always: return []
        case .ownProcess(let argument):
            return test(of: .oneOf(argument: argument, values: [processID]), processID)
        case .oneOf(let argument, let values):
            precondition(!values.isEmpty && values.count < 100, "a list of values that a jump can span")
            var code = [instruction(Code.loadWord, Offset.lowWord(ofArgument: argument))]
            for (place, value) in values.enumerated() {
                let left = UInt8(values.count - 1 - place)
                code.append(
                    instruction(Code.jumpIfEqual, value, whenTrue: left, whenFalse: left == 0 ? 1 : 0))
            }
            return code
        case .masked(let argument, let mask, let value):
            return [
                instruction(Code.loadWord, Offset.lowWord(ofArgument: argument)),
                instruction(Code.and, mask),
                instruction(Code.jumpIfEqual, value, whenFalse: 1),
            ]
        case .notAll(let argument, let mask):
            return [
                instruction(Code.loadWord, Offset.lowWord(ofArgument: argument)),
                instruction(Code.and, mask),
                instruction(Code.jumpIfEqual, mask, whenTrue: 1),
            ]
        }
    }

    private static func instruction(
        _ code: UInt16, _ operand: UInt32, whenTrue: UInt8 = 0, whenFalse: UInt8 = 0
    ) -> BPFInstruction {
        BPFInstruction(code: code, whenTrue: whenTrue, whenFalse: whenFalse, operand: operand)
    }

    private mutating func emit(
        _ code: UInt16, _ operand: UInt32, whenTrue: UInt8 = 0, whenFalse: UInt8 = 0
    ) {
        instructions.append(Self.instruction(code, operand, whenTrue: whenTrue, whenFalse: whenFalse))
    }

    /// What the program answers for one call: the kernel's own semantics, for tests. `arguments` are the six
    /// words of the call.
    public func verdict(
        number: UInt32, arguments: [UInt64] = [0, 0, 0, 0, 0, 0], architecture: UInt32 = 0xC000_003E
    ) -> UInt32 {
        var accumulator: UInt32 = 0
        var place = 0
        while place < instructions.count {
            let now = instructions[place]
            place += 1
            switch now.code {
            case Code.loadWord:
                switch now.operand {
                case Offset.number: accumulator = number
                case Offset.architecture: accumulator = architecture
                default:
                    accumulator = UInt32(truncatingIfNeeded: arguments[Int(now.operand - 16) / 8])
                }
            case Code.and: accumulator &= now.operand
            case Code.jumpIfEqual:
                place += Int(accumulator == now.operand ? now.whenTrue : now.whenFalse)
            case Code.jumpIfAtLeast:
                place += Int(accumulator >= now.operand ? now.whenTrue : now.whenFalse)
            default: return now.operand
            }
        }
        return Verdict.killProcess
    }
}
