/// Where a debugger wants a vCPU to stop. The guest notices nothing: no byte of its memory and none of its
/// debug registers change. Addresses are linear.
public struct DebugStops: Sendable, Equatable {
    /// Bytes whose accesses stop the vCPU, after the instruction.
    public struct Watchpoint: Hashable, Sendable {
        public enum Access: Sendable { case read, write, any }
        public var address: UInt64
        /// 1...`longest`.
        public var length: UInt64
        public var access: Access

        public static let longest: UInt64 = 4096

        public init(address: UInt64, length: UInt64, access: Access) {
            precondition((1...Self.longest).contains(length), "a watchpoint has 1 to 4096 bytes")
            self.address = address
            self.length = length
            self.access = access
        }

        /// Whether an access of `size` bytes at `linear` touches it.
        public func covers(_ linear: UInt64, size: UInt64, isWrite: Bool) -> Bool {
            guard access == .any || (access == .write) == isWrite else { return false }
            return linear &- address < length || address &- linear < size
        }
    }

    /// Instructions to stop before.
    public var breakpoints: Set<UInt64> = []
    public var watchpoints: [Watchpoint] = []
    /// Stop after one instruction, without an interrupt in front of it. A halted vCPU steps into the
    /// interrupt that ends the halt.
    public var stepsOnce = false

    public init() {}

    public var isEmpty: Bool { breakpoints.isEmpty && watchpoints.isEmpty && !stepsOnce }
}

/// Why a vCPU stopped for its debugger.
public enum DebugStop: Sendable, Equatable {
    case stepped
    /// The next instruction has a breakpoint.
    case breakpoint
    /// The last instruction touched the bytes.
    case watchpoint(DebugStops.Watchpoint)
}
