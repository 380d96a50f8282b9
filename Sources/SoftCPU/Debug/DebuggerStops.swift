public import VCPUEngine
import X86Architecture

/// What a debugger wants of a vCPU, and what it has found.
///
/// Without a debugger nothing looks at this but the run loop, when it has something else to do. With
/// breakpoints, code that is not near one still runs translated. Blocks are found by physical address and
/// breakpoints are linear ones, but both agree in their offsets in the page: an instruction at the offset of
/// a breakpoint begins a block, and that block asks `reaches` first.
struct Debugging {
    private(set) var stops = DebugStops()
    private(set) var isActive = false
    /// Page offsets at which blocks that were decoded may ask.
    private var offsets: Set<UInt16> = []
    private var found: DebugStop?

    /// Old offsets cost a little time; more than these are forgotten when others come.
    private static let mostOffsets = 64

    /// Returns whether decoded blocks lack places to stop at, or have some that nobody needs.
    mutating func set(_ new: DebugStops) -> Bool {
        stops = new
        isActive = !new.isEmpty
        found = nil
        // One instruction alone stops anyway.
        if new.stepsOnce { return false }
        let wanted = Set(new.breakpoints.map { UInt16(truncatingIfNeeded: $0 & 0xFFF) })
        if wanted.isEmpty ? offsets.isEmpty : wanted.isSubset(of: offsets) { return false }
        offsets = wanted.isEmpty || offsets.count > Self.mostOffsets ? wanted : offsets.union(wanted)
        return true
    }

    @inline(__always) func mayStop(atPageOffset offset: Int) -> Bool {
        !offsets.isEmpty && offsets.contains(UInt16(truncatingIfNeeded: offset))
    }

    /// The instruction at `linear` is next: whether to stop.
    mutating func reaches(_ linear: UInt64) -> Bool {
        guard stops.breakpoints.contains(linear) else { return false }
        found = .breakpoint
        return true
    }

    /// An instruction accesses memory. The first watchpoint that it hits is the one that is told.
    mutating func note(_ linear: UInt64, size: UInt64, isWrite: Bool) {
        guard found == nil else { return }
        let hit = stops.watchpoints.first { $0.covers(linear, size: size, isWrite: isWrite) }
        if let hit { found = .watchpoint(hit) }
    }

    mutating func takeFound() -> DebugStop? {
        defer { found = nil }
        return found
    }

    mutating func stepIsDone() {
        stops.stepsOnce = false
        isActive = !stops.isEmpty
    }
}

extension SoftVCPU {
    public func setDebugStops(_ stops: DebugStops) -> Bool {
        if debugging.set(stops) { clearCode() }
        let watches = !stops.watchpoints.isEmpty
        // What the TLB holds would let accesses past.
        if watches, !cpu.s.debuggerWatches { cpu.flushTLB() }
        cpu.s.debuggerWatches = watches
        return true
    }

    /// One turn of `run` for a debugger.
    func runForDebugger() -> Exit? {
        if debugging.stops.stepsOnce { return stepForDebugger() }
        if cpu.hasAttention || cpu.s.activity != .running {
            if let exit = handleAttention() { return exit }
            if cpu.s.shutdown || cpu.s.activity != .running { return nil }
        }
        guard cpu.s.debuggerWatches || needsSingleStep else {
            runBlocks()
            return debuggerStop()
        }
        if debugging.reaches(cpu.linearRIP) { return debuggerStop() }
        runOneInstruction()
        return debuggerStop()
    }

    private func debuggerStop() -> Exit? {
        guard let stop = debugging.takeFound() else { return nil }
        cpu.settleEndOfInterrupt()
        return .debug(stop)
    }

    /// One instruction, or the interrupt that ends a halt.
    private func stepForDebugger() -> Exit? {
        if cpu.s.activity != .running {
            if let exit = handleAttention() { return exit }
            if cpu.s.shutdown || cpu.s.activity != .running { return nil }
        } else {
            let bits = cpu.takeAttention()
            if bits & Attention.codePages != 0 {
                heedAnnouncements()
                dropStaleCode()
            }
            if bits & Attention.directMemory != 0 { forgetDirectMemory() }
            // Interrupts come after the step.
            defer { cpu.requestAttention() }
            if bits & Attention.exit != 0 {
                cpu.settleEndOfInterrupt()
                return .requested
            }
            cpu.s.debuggerSteps = true
            runOneInstruction()
            cpu.s.debuggerSteps = false
            if cpu.s.shutdown { return nil }
        }
        debugging.stepIsDone()
        cpu.settleEndOfInterrupt()
        return .debug(debugging.takeFound() ?? .stepped)
    }
}
