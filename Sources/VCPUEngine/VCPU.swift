public import GuestMemory
public import X86Architecture

/// Why `VCPU.run()` came back.
public enum Exit: Sendable, Equatable {
    /// `requestExit()` was called (pause, stop).
    case requested
    /// Triple fault or shutdown cycle: the machine resets or reports a crash.
    case shutdown
    /// The engine cannot execute the next instruction (KVM emulation failure): the state is consistent
    /// before it, and another engine may take over.
    case cannotExecute(reason: String)
    /// The host refused something; the machine cannot go on.
    case failed(reason: String)
    /// At one of the places of `setDebugStops`. The state is consistent.
    case debug(DebugStop)
}

/// One virtual CPU of an engine. `run`, `state` and `load` are called on the vCPU's own thread (or while that
/// thread is not running); `requestExit` and `wake` from any thread.
public protocol VCPU: AnyObject, Sendable {
    var index: Int { get }
    /// Runs guest code until there is a reason to come back; handles I/O through the platform, and sleeps
    /// while the guest is halted.
    func run() -> Exit
    /// Makes `run` return `.requested` soon.
    func requestExit()
    /// An interrupt or signal may be pending: leave HLT and look. Cheap when the vCPU is running.
    func wake()
    func state() -> VCPUState
    func load(_ state: VCPUState)
    /// Where `run` stops from now on; after a step, `stepsOnce` is spent. Like `load`, while the vCPU is not
    /// running. False, and nothing changes: this engine cannot stop there.
    func setDebugStops(_ stops: DebugStops) -> Bool
    /// Guest instructions executed, when the engine counts them.
    var instructionCount: UInt64? { get }
    /// What the guest would read with RDTSC now, for the TSC-deadline timer. Any thread.
    var timeStampCounter: UInt64 { get }
    /// Counters for `--stats`, one line each. Only while the vCPU is not running.
    var statistics: [String] { get }
}

extension VCPU {
    public var statistics: [String] { [] }
    public func setDebugStops(_ stops: DebugStops) -> Bool { stops.isEmpty }
    public var timeStampCounter: UInt64 { 0 }
}

/// A kind of engine for one machine.
public protocol Engine: AnyObject, Sendable {
    var name: String { get }
    /// Adds a vCPU; call before any of them runs. Index 0 is the bootstrap processor.
    func makeVCPU(index: Int, apic: any LocalInterruptController, platform: any VCPUPlatform)
        throws(EngineError)
        -> any VCPU
}

public struct EngineError: Error, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}
