/// One row of a list: a system call, under a condition or without, and what becomes of it.
public struct FilterRule: Sendable, Equatable {
    /// A test of one argument. Numbers count from 0. Only the low 32 bits are compared: the kernel ignores
    /// the high ones of every argument that our lists test.
    public enum Condition: Sendable, Equatable {
        case always
        /// The low word of the argument is one of these.
        case oneOf(argument: Int, values: [UInt32])
        /// The low word of the argument, under `mask`, is `value`.
        case masked(argument: Int, mask: UInt32, value: UInt32)
        /// At least one bit of `mask` is clear in the low word of the argument.
        case notAll(argument: Int, mask: UInt32)
        /// The argument is the process that the filter is for.
        case ownProcess(argument: Int)
    }

    /// What becomes of a call that matches.
    public enum Outcome: Sendable, Equatable {
        case allow
        /// The call fails with this errno value, and the process goes on.
        case fail(errno: UInt16)
    }

    public let call: SystemCall
    public let condition: Condition
    public let outcome: Outcome

    public static func allow(_ call: SystemCall, when condition: Condition = .always) -> FilterRule {
        FilterRule(call: call, condition: condition, outcome: .allow)
    }

    public static func fail(_ call: SystemCall, errno: UInt16) -> FilterRule {
        FilterRule(call: call, condition: .always, outcome: .fail(errno: errno))
    }
}
