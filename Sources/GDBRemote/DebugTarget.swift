public import X86Architecture

/// Where gdb looks for bytes.
public enum DebugAddressSpace: Sendable, Equatable {
    /// Linear addresses, through the page tables of a vCPU.
    case linear(vcpu: Int)
    case physical
}

/// A place at which gdb wants the machine to stop.
public struct DebugPoint: Hashable, Sendable {
    /// In the order of gdb's Z packets.
    public enum Kind: Int, Sendable, CaseIterable {
        case software = 0, hardware, write, read, access
        public var isWatchpoint: Bool { rawValue >= Kind.write.rawValue }
    }
    public var kind: Kind
    /// Linear.
    public var address: UInt64
    /// Bytes that are watched; for breakpoints gdb's kind of instruction, which says nothing on x86.
    public var length: UInt64

    public init(kind: Kind, address: UInt64, length: UInt64) {
        self.kind = kind
        self.address = address
        self.length = length
    }
}

/// The machine as gdb's session sees it, while it stands still. vCPUs count from 0.
public protocol DebugTarget {
    /// At least 1.
    var vcpuCount: Int { get }
    func state(ofVCPU index: Int) -> VCPUState
    /// Values that the processor cannot have are made into ones that it can.
    mutating func load(_ state: VCPUState, intoVCPU index: Int)
    /// At most `count` bytes; fewer where memory ends. A device is never read.
    func readMemory(_ address: UInt64, count: Int, in space: DebugAddressSpace) -> [UInt8]
    /// False, and maybe a part is written, where memory ends.
    mutating func writeMemory(_ bytes: [UInt8], at address: UInt64, in space: DebugAddressSpace) -> Bool
    /// Nil where no page is present.
    func physicalAddress(of linear: UInt64, vcpu: Int) -> UInt64?
    /// False: the machine cannot stop there. A point that is there already is no second one.
    mutating func insert(_ point: DebugPoint) -> Bool
    mutating func remove(_ point: DebugPoint)
}

/// What gdb wants to happen.
public enum DebugAction: Sendable, Equatable {
    /// The vCPUs in `stepping` run one instruction, those in `running` go on, all others stand still. The
    /// machine tells `GDBSession.stopped` when one of them stopped.
    case resume(running: Set<Int>, stepping: Set<Int>)
    /// Stop, and tell.
    case interrupt
    /// gdb leaves: remove every point and run on.
    case detach
    /// End the machine.
    case kill
}

/// Why the machine stopped.
public enum DebugReport: Sendable, Equatable {
    /// gdb asked for it, or somebody else did.
    case interrupted
    case stepped
    case breakpoint(isHardware: Bool)
    /// The address that is watched, or one that was accessed.
    case watchpoint(kind: DebugPoint.Kind, address: UInt64)
}
