internal import KVMEngine
internal import LinuxHost
internal import MachineSpec
internal import SoftCPU
internal import VCPUEngine
internal import X86Architecture

/// What runs a machine's vCPUs, and the way from KVM to the software CPU. The interrupt controllers are ours
/// in both, so that nothing but the vCPUs' own state has to move.
///
/// Confinement: the main thread of the machine's process.
final class MachineEngine {
    private let spec: MachineSpec
    private let board: Board
    private let tscFrequency: UInt64
    private var kvm: KVMEngine?
    /// What a guest on KVM knows of its processor.
    private var limits: ProcessorLimits?
    /// Names of translated code for `perf`.
    private let perfMap: PerfMap?
    /// Kept alive: its vCPUs refer to it.
    private var soft: SoftEngine?

    /// "kvm" or "soft": where the vCPUs are now.
    var name: String { isOnKVM ? "kvm" : "soft" }
    var isOnKVM: Bool { soft == nil }
    /// Counters of all vCPUs together for `--stats`, one line each. Every vCPU is held.
    var statistics: [String] { soft?.statistics ?? [] }

    /// The machine ends: writes what is still to be written.
    func finish() { perfMap?.flush() }

    /// - Parameter system: the host's KVM, if the machine starts on it.
    /// - Parameter perfMap: takes the names of translated code.
    init(
        spec: MachineSpec, board: Board, tscFrequency: UInt64, system: KVMSystem?, perfMap: PerfMap?
    ) throws(BoardError) {
        self.spec = spec
        self.perfMap = perfMap
        self.board = board
        self.tscFrequency = tscFrequency
        limits = Self.initialLimits(spec)
        guard let system else {
            soft = makeSoftEngine(codeCache: spec.codeCache.bytes)
            return
        }
        do throws(HostError) {
            let supported = try system.supportedCPUID()
            let rows = try sharedProcessor(supported)
            var shared = SharedProcessor.limits(CPUIDTable.filtered(model: rows, supported: supported))
            shared.physicalAddressBits = limits?.physicalAddressBits
            limits = shared
            kvm = try KVMEngine(
                system, memory: board.memory, configuration: .init(chips: .userspace, cpuid: rows))
        } catch {
            throw BoardError("KVM cannot run this machine: \(error). Use --accel soft.")
        }
    }

    /// OVMF maps all that the processor can address with 2 MiB pages before it uses any of it: with 48 bits
    /// that takes 512 MiB of page tables. 40 bits, as QEMU's processors have, take 4.
    private static func initialLimits(_ spec: MachineSpec) -> ProcessorLimits? {
        let addressable: UInt64 = 1 << 40, hole: UInt64 = 4 << 30
        guard spec.firmware?.kind == .uefi, spec.memory.bytes <= addressable - hole else { return nil }
        var limits = ProcessorLimits()
        limits.physicalAddressBits = 40
        return limits
    }

    private func makeSoftEngine(codeCache: UInt64) -> SoftEngine {
        SoftEngine(
            memory: board.memory, vcpuCount: spec.cpuCount, tscFrequency: tscFrequency,
            codeCacheSize: Int(clamping: codeCache), limits: limits,
            translates: !spec.options.contains(.noTranslate),
            options: spec.options.contains(.statistics) ? [.counts] : [],
            verifies: spec.options.contains(.verify), perfMap: perfMap)
    }

    /// CPUID for KVM, from a software vCPU that lives only here.
    private func sharedProcessor(_ supported: [CPUIDRow]) throws(HostError) -> [CPUIDRow] {
        let engine = makeSoftEngine(codeCache: 1 << 20)
        let model: any VCPU
        do throws(EngineError) {
            model = try engine.makeVCPU(index: 0, apic: board.apics[0], platform: board.platform)
        } catch {
            throw HostError(error.description, code: 0)
        }
        guard let model = model as? SoftVCPU else { throw HostError("the processor has no model", code: 0) }
        return SharedProcessor.rows(model: model, supported: supported)
    }

    /// vCPU `index` of the engine that the machine is on now, known to its local APIC.
    func makeVCPU(_ index: Int) throws(BoardError) -> any VCPU {
        let engine: (any Engine)? = soft ?? kvm
        guard let engine else { throw BoardError("The machine has no engine.") }
        do throws(EngineError) {
            let vcpu = try engine.makeVCPU(
                index: index, apic: board.apics[index], platform: board.platform)
            board.links[index].connect(vcpu)
            return vcpu
        } catch {
            throw BoardError("vCPU \(index) cannot be made: \(error).")
        }
    }

    /// Moves every vCPU, all of them held, from KVM to the software CPU. They move together: what a vCPU on
    /// KVM stores to pages with decoded code would go unnoticed.
    func moveToSoftware(_ threads: [VCPUThread]) throws(BoardError) {
        precondition(isOnKVM, "the machine is on the software CPU already")
        var states = threads.map { $0.vcpu.state() }
        let lead = clockLead(offset: states[0].tscOffset, adjustment: states[0].msrs[MSR.tscAdjust] ?? 0)
        for index in states.indices { states[index].clockLead = lead }
        soft = makeSoftEngine(codeCache: spec.codeCache.bytes)
        for (index, thread) in threads.enumerated() {
            let vcpu = try makeVCPU(index)
            vcpu.load(states[index])
            thread.replace(with: vcpu)
        }
        kvm = nil
    }

    // MARK: Time

    /// The guest's clocks begin at zero: all vCPUs are about to get a time-stamp counter that does.
    func clockBegins() { setClock(0) }

    /// A kernel without a kvmclock has nothing to set.
    private func setClock(_ nanoseconds: UInt64) { try? kvm?.setClock(nanoseconds) }

    /// How far KVM's clock is ahead of the guest's time-stamp counter: a KVM that cannot offset the counter
    /// shows the host's.
    private func clockLead(offset: UInt64, adjustment: UInt64) -> UInt64? {
        guard let clock = try? kvm?.clock() else { return nil }
        let ticks = TimeStampCounter.now &+ offset &- adjustment
        let product = ticks.multipliedFullWidth(by: 1_000_000_000)
        guard product.high < tscFrequency else { return nil }
        return clock &- tscFrequency.dividingFullWidth(product).quotient
    }

    private var stoppedClock: UInt64?

    /// The machine was paused: KVM's clock has to stand still like the others.
    func clockStops() { stoppedClock = try? kvm?.clock() }

    /// The machine goes on after a pause in which the host's time-stamp counter advanced by `ticks`: the
    /// guest's counters go on from where they stopped, with the board's clock. Every vCPU is held.
    func clockGoesOn(_ threads: [VCPUThread], after ticks: UInt64) {
        for thread in threads {
            var state = thread.vcpu.state()
            state.tscOffset &-= ticks
            thread.vcpu.load(state)
        }
        if let stoppedClock { setClock(stoppedClock) }
        stoppedClock = nil
    }
}
