internal import CKVM
internal import DeviceModel
internal import Glibc
internal import LinuxHost
internal import Synchronization
public import VCPUEngine
internal import X86Architecture

/// One virtual CPU on KVM.
///
/// Confinement: `run`, `state` and `load` on the vCPU's thread, or on any while that thread is not in `run`;
/// `requestExit` and `wake` on any thread.
public final class KVMVCPU: VCPU {
    public let index: Int
    public var instructionCount: UInt64? { nil }

    let engine: KVMEngine
    let descriptor: Descriptor
    let area: RunArea
    let apic: any LocalInterruptController
    let platform: any VCPUPlatform
    /// Whether the local APIC is ours: then so are HLT, INIT and start-up.
    let ownsAPIC: Bool

    private let exitRequested = Atomic(false)
    /// The kernel's number of the thread inside `run`, 0 outside.
    private let threadID = Atomic<Int32>(0)
    private let parker = Parker()
    /// Whether KVM has an access to finish: its registers are consistent only after the next KVM_RUN.
    private let hasUnfinishedAccess = Atomic(false)
    /// `VCPUState.Activity`, when the local APIC is ours.
    private let activity: Atomic<UInt8>
    /// The guest's time-stamp counter less the host's, as `load` or `state` saw it last.
    let timeStampOffset = Atomic<UInt64>(0)
    /// What the host refused in `load` or `state`, reported by the next `run`.
    let failure = Mutex<String?>(nil)
    /// Where a debugger wants to stop; nil: there was none yet.
    let debugging = Mutex<HardwareStops?>(nil)
    /// One instruction for a debugger: no interrupt comes before it.
    let isStepping = Atomic(false)

    init(
        _ engine: KVMEngine, _ descriptor: Descriptor, index: Int, apic: any LocalInterruptController,
        platform: any VCPUPlatform
    ) throws(HostError) {
        self.engine = engine
        self.descriptor = descriptor
        self.index = index
        self.apic = apic
        self.platform = platform
        ownsAPIC = engine.configuration.chips == .userspace
        area = try RunArea(vcpu: descriptor, size: engine.system.runSize)
        activity = Atomic(
            (index == 0 ? VCPUState.Activity.running : VCPUState.Activity.waitingForStartup).rawValue)
    }

    func setCPUID(_ rows: [CPUIDRow]) throws(HostError) {
        let entries = rows.map {
            ospite_kvm_cpuid(
                leaf: $0.leaf, subleaf: $0.subleaf, has_subleaf: $0.hasSubleaf ? 1 : 0, eax: $0.eax,
                ebx: $0.ebx,
                ecx: $0.ecx, edx: $0.edx)
        }
        // SAFETY: the array lives for the call.
        try engine.check(
            "setting CPUID",
            unsafe ospite_kvm_set_cpuid(descriptor.number, entries, Int32(clamping: entries.count)))
    }

    // MARK: From other threads

    public func requestExit() {
        exitRequested.store(true, ordering: .sequentiallyConsistent)
        kick()
    }

    /// Without what the guest itself did to its counter since the state was last taken or loaded: only the
    /// kernel knows that while the vCPU runs, and the TSC-deadline timer, which would need it, is the
    /// kernel's.
    public var timeStampCounter: UInt64 {
        ospite_kvm_host_tsc() &+ timeStampOffset.load(ordering: .relaxed)
    }

    public func wake() {
        // A kernel APIC wakes its vCPU by itself; only an ExtINT of our PIC needs us.
        if case .kernel = engine.configuration.chips { return }
        kick()
    }

    /// Takes the thread out of KVM_RUN or its sleep, or keeps it from entering.
    private func kick() {
        area.requestImmediateExit()
        parker.unpark()
        let thread = threadID.load(ordering: .sequentiallyConsistent)
        // A thread that just left gets a signal that does nothing.
        if thread != 0 { ospite_signal_thread(thread, HostSignals.interruptVCPU) }
    }

    // MARK: The loop

    public func run() -> Exit {
        HostSignals.setBlocked(HostSignals.interruptVCPU, false)
        threadID.store(HostThread.currentID, ordering: .sequentiallyConsistent)
        defer { threadID.store(0, ordering: .sequentiallyConsistent) }
        if let reason = failure.withLock({ failure in failure.take() }) { return .failed(reason: reason) }
        while true {
            if exitRequested.exchange(false, ordering: .sequentiallyConsistent) {
                finishAccess()
                return .requested
            }
            guard prepareInterrupts() else { continue }
            let code = ospite_kvm_run(descriptor.number) < 0 ? HostError.last("running a vCPU").code : 0
            if ownsAPIC { takeOverAPICRegisters() }
            guard code == 0 else {
                // Cleared before the flag is looked at: a request that comes in between sets both again.
                area.clearImmediateExit()
                hasUnfinishedAccess.store(false, ordering: .relaxed)
                if code == EINTR || code == EAGAIN { continue }
                return .failed(reason: HostError("running a vCPU", code: code).description)
            }
            hasUnfinishedAccess.store(false, ordering: .relaxed)
            if let exit = handleExit() { return exit }
        }
    }

    private func handleExit() -> Exit? {
        switch area.exit {
        case .port: return portAccess()
        case .memory: memoryAccess()
        case .halt:
            activity.store(VCPUState.Activity.halted.rawValue, ordering: .relaxed)
            return debugExit(isHalt: true)
        case .debug: return debugExit()
        case .interrupted, .interruptWindow, .taskPriority: break
        case .endOfInterrupt: engine.configuration.endOfInterrupt?(area.endedVector)
        case .shutdown, .systemEvent: return .shutdown
        case .internalError: return .cannotExecute(reason: internalErrorReason())
        case .failedEntry:
            return .failed(
                reason:
                    "the processor refused the guest's state (0x\(String(area.failedEntryReason, radix: 16)))"
            )
        default: return .failed(reason: "KVM stopped for the unknown reason \(area.exit.rawValue)")
        }
        return nil
    }

    private func internalErrorReason() -> String {
        guard area.internalError == 1 else { return "KVM internal error \(area.internalError)" }
        let bytes = area.failedInstruction.map { byte in
            (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        return "KVM cannot emulate an instruction"
            + (bytes.isEmpty ? "" : ": " + bytes.joined(separator: " "))
    }

    /// Lets KVM finish the access that the last exit was about, without running the guest.
    func finishAccess() {
        guard hasUnfinishedAccess.exchange(false, ordering: .relaxed) else {
            return area.clearImmediateExit()
        }
        area.requestImmediateExit()
        _ = ospite_kvm_run(descriptor.number)
        area.clearImmediateExit()
    }

    // MARK: Accesses

    private func portAccess() -> Exit? {
        let access = area.port
        guard let width = AccessWidth(rawValue: UInt8(truncatingIfNeeded: access.size)), width != .qword,
            area.contains(access.data, access.count &* access.size)
        else { return .failed(reason: "KVM reported an impossible port access") }
        for element in 0..<access.count {
            let offset = Int(access.data) + element * access.size
            if access.isWrite {
                platform.portWrite(
                    access.port, width: width, value: UInt32(truncatingIfNeeded: load(offset, width)))
            } else {
                store(UInt64(platform.portRead(access.port, width: width)), offset, width)
            }
        }
        hasUnfinishedAccess.store(true, ordering: .relaxed)
        return nil
    }

    /// KVM cuts accesses at page boundaries, so that odd sizes occur: they go to devices in powers of two.
    private func memoryAccess() {
        let access = area.memory
        var done = 0
        while done < access.count {
            let left = access.count - done
            let width: AccessWidth = left >= 8 ? .qword : left >= 4 ? .dword : left >= 2 ? .word : .byte
            let address = access.address &+ UInt64(done)
            let offset = RunArea.MemoryAccess.data + done
            if access.isWrite {
                memoryWrite(address, width, load(offset, width))
            } else {
                store(memoryRead(address, width), offset, width)
            }
            done += width.bytes
        }
        hasUnfinishedAccess.store(true, ordering: .relaxed)
    }

    /// The offset into our local APIC's page, when `address` is in it.
    private func apicOffset(_ address: UInt64) -> UInt32? {
        // IA32_APIC_BASE bits 11 and 10: enabled, and not in x2APIC mode.
        guard ownsAPIC, apic.apicBase & 0xC00 == 0x800, address &- (apic.apicBase & ~0xFFF) < 0x1000 else {
            return nil
        }
        return UInt32(address & 0xFFF)
    }

    private func memoryRead(_ address: UInt64, _ width: AccessWidth) -> UInt64 {
        if let offset = apicOffset(address), width != .qword {
            return UInt64(apic.readPage(offset: offset, width: width))
        }
        return platform.memoryRead(address, width: width)
    }

    private func memoryWrite(_ address: UInt64, _ width: AccessWidth, _ value: UInt64) {
        if let offset = apicOffset(address), width != .qword {
            return apic.writePage(offset: offset, width: width, value: UInt32(truncatingIfNeeded: value))
        }
        platform.memoryWrite(address, width: width, value: value)
    }

    private func load(_ offset: Int, _ width: AccessWidth) -> UInt64 {
        switch width {
        case .byte: return UInt64(area.load(UInt8.self, offset))
        case .word: return UInt64(area.load(UInt16.self, offset))
        case .dword: return UInt64(area.load(UInt32.self, offset))
        case .qword: return area.load(UInt64.self, offset)
        }
    }

    private func store(_ value: UInt64, _ offset: Int, _ width: AccessWidth) {
        switch width {
        case .byte: area.store(UInt8(truncatingIfNeeded: value), offset)
        case .word: area.store(UInt16(truncatingIfNeeded: value), offset)
        case .dword: area.store(UInt32(truncatingIfNeeded: value), offset)
        case .qword: area.store(value, offset)
        }
    }

    // MARK: Interrupts

    var currentActivity: VCPUState.Activity {
        get { VCPUState.Activity(rawValue: activity.load(ordering: .relaxed)) ?? .running }
        set { activity.store(newValue.rawValue, ordering: .relaxed) }
    }

    /// Offers KVM what our controllers have. False when the vCPU slept instead, and everything is to be
    /// looked at again.
    private func prepareInterrupts() -> Bool {
        if case .kernel = engine.configuration.chips { return true }
        if ownsAPIC {
            takeSignals()
            if currentActivity == .waitingForStartup { return sleep() }
            area.cr8 = UInt64(apic.taskPriority & 0xF)
        }
        if isStepping.load(ordering: .relaxed), currentActivity == .running {
            area.requestsInterruptWindow = false
            return true
        }
        let isPending = hasPendingInterrupt
        if currentActivity == .halted {
            guard isPending, area.interruptFlag else { return sleep() }
            currentActivity = .running
        }
        if isPending, area.isReadyForInterrupt, area.interruptFlag, let vector = acknowledge() {
            if ospite_kvm_interrupt(descriptor.number, UInt32(vector)) < 0 {
                failure.withLock { failure in failure = HostError.last("injecting an interrupt").description }
            }
            // KVM is not ready for another before the next exit.
            area.requestsInterruptWindow = hasPendingInterrupt
        } else {
            area.requestsInterruptWindow = isPending
        }
        return true
    }

    private var hasPendingInterrupt: Bool {
        platform.hasExternalInterrupt(vcpu: index) || (ownsAPIC && apic.pendingVector() != nil)
    }

    private func acknowledge() -> UInt8? {
        if platform.hasExternalInterrupt(vcpu: index), let vector = platform.acknowledgeExternalInterrupt() {
            return vector
        }
        return ownsAPIC ? apic.acknowledge() : nil
    }

    /// Sleeps until `kick`. Returns false, for `prepareInterrupts`.
    private func sleep() -> Bool {
        finishAccess()
        if !exitRequested.load(ordering: .sequentiallyConsistent) { parker.park() }
        area.clearImmediateExit()
        return false
    }

    /// NMI, INIT and start-up messages of our local APIC.
    private func takeSignals() {
        while let signal = apic.takeSignal() {
            switch signal {
            case .nmi:
                _ = ospite_kvm_nmi(descriptor.number)
                if currentActivity == .halted { currentActivity = .running }
            case .initialize:
                finishAccess()
                resetForInit()
                currentActivity = .waitingForStartup
            case .startup(let vector):
                // Only a processor that waits listens (Intel SDM vol. 3 §9.4).
                guard currentActivity == .waitingForStartup else { continue }
                start(at: vector)
                currentActivity = .running
            }
        }
    }

    /// What the guest did to CR8 and IA32_APIC_BASE, which KVM keeps when the local APIC is ours.
    private func takeOverAPICRegisters() {
        let priority = UInt8(truncatingIfNeeded: area.cr8 & 0xF)
        if apic.taskPriority != priority { apic.taskPriority = priority }
        let base = area.apicBase
        if base != apic.apicBase { _ = apic.setAPICBase(base) }
    }
}
