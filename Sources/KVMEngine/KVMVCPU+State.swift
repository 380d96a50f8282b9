internal import CKVM
internal import LinuxHost
public import X86Architecture

/// The architectural state, between KVM's structures and `VCPUState`.
extension KVMVCPU {
    /// KVM's processor states (KVM_GET_MP_STATE).
    private enum ProcessorState {
        static let runnable: Int32 = 0, uninitialized: Int32 = 1, halted: Int32 = 3
    }

    /// XSAVE areas in KVM have one page; in `VCPUState` at least this.
    private static let leastXSave = 1024, xsaveSize = 4096
    /// Where the XSAVE header has the components in use and the compaction bits (Intel SDM vol. 1 §13.4.2).
    private static let componentsOffset = 512

    /// MSRs that are elsewhere in `VCPUState`, or that change by themselves.
    private static let elsewhere: Set<UInt32> = [
        MSR.timeStampCounter, MSR.apicBase, MSR.efer, MSR.fsBase, MSR.gsBase,
    ]

    /// Notes what the host refused; the next `run` reports it.
    private func attempt(_ action: String, _ result: Int32) {
        guard result < 0 else { return }
        let reason = HostError.last(action).description
        failure.withLock { failure in failure = failure ?? reason }
    }

    public func state() -> VCPUState {
        finishAccess()
        var state = VCPUState()
        let vcpu = descriptor.number
        var registers = [UInt64](repeating: 0, count: 18)
        // SAFETY: 18 values; below, each buffer has the size that the call's declaration names.
        attempt("reading registers", unsafe ospite_kvm_get_registers(vcpu, &registers))
        state.gpr = Array(registers[0..<16])
        state.rip = registers[16]
        state.rflags = registers[17]
        let injecting = readSystem(&state)
        var area = [UInt8](repeating: 0, count: Self.xsaveSize)
        attempt("reading the floating-point state", unsafe ospite_kvm_get_xsave(vcpu, &area))
        let used = (area.lastIndex { $0 != 0 } ?? 0) + 1
        state.xsave = Array(area[..<max(Self.leastXSave, (used + 63) & ~63)])
        // Without XSAVE in the guest's CPUID there is no XCR0 to read.
        unsafe _ = ospite_kvm_get_xcr0(vcpu, &state.xcr0)
        attempt("reading debug registers", unsafe ospite_kvm_get_debug(vcpu, &state.debug))
        state.msrs = readMSRs()
        state.tscOffset = readTSCOffset()
        timeStampOffset.store(state.tscOffset, ordering: .relaxed)
        readEvents(&state, injecting: injecting)
        state.activity = readActivity()
        return state
    }

    /// Returns the vector that KVM is injecting, or nil.
    private func readSystem(_ state: inout VCPUState) -> UInt8? {
        var segments = [ospite_kvm_segment](repeating: ospite_kvm_segment(), count: 8)
        var system = ospite_kvm_system()
        // SAFETY: eight segments and one structure.
        attempt(
            "reading system registers", unsafe ospite_kvm_get_system(descriptor.number, &segments, &system))
        func translate(_ segment: ospite_kvm_segment) -> SegmentState {
            SegmentState(
                selector: segment.selector, base: segment.base, limit: segment.limit,
                attributes: segment.attributes)
        }
        state.segments = segments[0..<6].map(translate)
        state.ldtr = translate(segments[6])
        state.tr = translate(segments[7])
        state.gdtr = TableRegister(base: system.gdt_base, limit: system.gdt_limit)
        state.idtr = TableRegister(base: system.idt_base, limit: system.idt_limit)
        state.cr0 = system.cr0
        state.cr2 = system.cr2
        state.cr3 = system.cr3
        state.cr4 = system.cr4
        state.cr8 = system.cr8
        state.efer = system.efer
        return UInt8(exactly: system.injecting)
    }

    /// All MSRs that the kernel gives, in batches, going on after each that it refuses.
    private func readMSRs() -> [UInt32: UInt64] {
        var result: [UInt32: UInt64] = [:]
        var rest = engine.system.msrNumbers.filter { !Self.elsewhere.contains($0) }[...]
        while !rest.isEmpty {
            let batch = Array(rest.prefix(256))
            var values = [UInt64](repeating: 0, count: batch.count)
            // SAFETY: both arrays have the count given.
            let done = unsafe Int(
                max(ospite_kvm_get_msrs(descriptor.number, batch, &values, Int32(batch.count)), 0))
            for index in 0..<done { result[batch[index]] = values[index] }
            rest = rest.dropFirst(done == batch.count ? done : done + 1)
        }
        return result
    }

    private func readTSCOffset() -> UInt64 {
        var offset: UInt64 = 0
        // SAFETY: one value.
        if unsafe ospite_kvm_get_tsc_offset(descriptor.number, &offset) == 0 { return offset }
        var value: UInt64 = 0
        // SAFETY: one number and one value.
        _ = unsafe ospite_kvm_get_msrs(descriptor.number, [MSR.timeStampCounter], &value, 1)
        return value &- ospite_kvm_host_tsc()
    }

    private func readEvents(_ state: inout VCPUState, injecting: UInt8?) {
        var events = ospite_kvm_events()
        // SAFETY: one structure.
        attempt("reading pending events", unsafe ospite_kvm_get_events(descriptor.number, &events))
        state.interruptShadow = events.interrupt_shadow != 0
        state.nmiBlocked = events.nmi_blocked != 0
        state.nmiPending = events.nmi_pending != 0 || events.nmi_injected != 0
        if events.exception_pending != 0 {
            state.pending = PendingEvent(
                vector: events.exception_vector,
                errorCode: events.exception_has_error != 0 ? events.exception_error : nil)
        } else if events.interrupt_pending != 0 {
            state.pending = PendingEvent(
                vector: events.interrupt_vector, isSoftware: events.interrupt_is_software != 0)
        } else if let injecting {
            state.pending = PendingEvent(vector: injecting)
        }
    }

    private func readActivity() -> VCPUState.Activity {
        if ownsAPIC { return currentActivity }
        switch ospite_kvm_get_mp_state(descriptor.number) {
        case ProcessorState.runnable: return .running
        case ProcessorState.halted: return .halted
        // INIT received and start-up received are on the way from one to the other.
        default: return .waitingForStartup
        }
    }

    // MARK: Loading

    public func load(_ state: VCPUState) {
        guard state.gpr.count == 16, state.segments.count == 6, state.debug.count == 6,
            state.xsave.count >= 576
        else {
            failure.withLock { failure in failure = "the vCPU state to load is incomplete" }
            return
        }
        finishAccess()
        let vcpu = descriptor.number
        writeSystem(state)
        // SAFETY: 18 values; below, each buffer has the size that the call's declaration names.
        attempt(
            "setting registers", unsafe ospite_kvm_set_registers(vcpu, state.gpr + [state.rip, state.rflags]))
        // A guest without XSAVE has no XCR0 to set.
        if ospite_kvm_set_xcr0(vcpu, state.xcr0) < 0, state.xcr0 > 3 {
            attempt("setting XCR0", -1)
        }
        writeXSave(state.xsave)
        attempt("setting debug registers", unsafe ospite_kvm_set_debug(vcpu, state.debug))
        writeMSRs(state.msrs)
        if ospite_kvm_set_tsc_offset(vcpu, state.tscOffset) < 0 {
            // SAFETY: one number and one value.
            _ = unsafe ospite_kvm_set_msrs(
                vcpu, [MSR.timeStampCounter], [ospite_kvm_host_tsc() &+ state.tscOffset], 1)
        }
        timeStampOffset.store(state.tscOffset, ordering: .relaxed)
        writeActivity(state.activity)
        writeEvents(state)
        self.area.invalidateInterruptWindow()
    }

    private func writeSystem(_ state: VCPUState) {
        func translate(_ segment: SegmentState) -> ospite_kvm_segment {
            ospite_kvm_segment(
                base: segment.base, limit: segment.limit, selector: segment.selector,
                attributes: segment.attributes)
        }
        let segments = state.segments.map(translate) + [translate(state.ldtr), translate(state.tr)]
        let system = ospite_kvm_system(
            gdt_base: state.gdtr.base, idt_base: state.idtr.base, gdt_limit: state.gdtr.limit,
            idt_limit: state.idtr.limit, cr0: state.cr0, cr2: state.cr2, cr3: state.cr3, cr4: state.cr4,
            cr8: state.cr8, efer: state.efer, apic_base: apicBaseForKernel(), injecting: -1)
        // SAFETY: eight segments and one structure.
        attempt(
            "setting system registers",
            unsafe withUnsafePointer(to: system) {
                unsafe ospite_kvm_set_system(descriptor.number, segments, $0)
            })
    }

    /// Our APIC's base, or the kernel's own, which it keeps.
    private func apicBaseForKernel() -> UInt64 {
        if ownsAPIC { return apic.apicBase }
        var segments = [ospite_kvm_segment](repeating: ospite_kvm_segment(), count: 8)
        var system = ospite_kvm_system()
        // SAFETY: eight segments and one structure.
        _ = unsafe ospite_kvm_get_system(descriptor.number, &segments, &system)
        return system.apic_base
    }

    /// Components that this guest may not have are left out rather than refused.
    private func writeXSave(_ saved: [UInt8]) {
        var area = [UInt8](repeating: 0, count: Self.xsaveSize)
        for (offset, byte) in saved.prefix(Self.xsaveSize).enumerated() { area[offset] = byte }
        // KVM takes the standard format only: no compaction bits.
        for offset in Self.componentsOffset + 8..<Self.componentsOffset + 64 { area[offset] = 0 }
        // SAFETY: one page.
        if unsafe ospite_kvm_set_xsave(descriptor.number, area) == 0 { return }
        area[Self.componentsOffset] &= 7
        for offset in Self.componentsOffset + 1..<Self.componentsOffset + 8 { area[offset] = 0 }
        if unsafe ospite_kvm_set_xsave(descriptor.number, area) == 0 { return }
        area[Self.componentsOffset] &= 3
        attempt("setting the floating-point state", unsafe ospite_kvm_set_xsave(descriptor.number, area))
    }

    /// All at once where the kernel takes them, and on after each that it refuses: a state from another
    /// engine or host may name registers that this one does not have.
    private func writeMSRs(_ msrs: [UInt32: UInt64]) {
        // In ascending order, so that failures repeat; the deadline last, after the counter it compares with.
        var rest = msrs.keys.filter { !Self.elsewhere.contains($0) && $0 != MSR.tscDeadline }.sorted()[...]
        while !rest.isEmpty {
            let batch = Array(rest.prefix(256))
            let values = batch.map { msrs[$0] ?? 0 }
            // SAFETY: both arrays have the count given.
            let done = unsafe Int(
                max(ospite_kvm_set_msrs(descriptor.number, batch, values, Int32(batch.count)), 0))
            rest = rest.dropFirst(done == batch.count ? done : done + 1)
        }
        if let deadline = msrs[MSR.tscDeadline] {
            // SAFETY: one number and one value.
            _ = unsafe ospite_kvm_set_msrs(descriptor.number, [MSR.tscDeadline], [deadline], 1)
        }
    }

    private func writeActivity(_ activity: VCPUState.Activity) {
        currentActivity = activity
        if ownsAPIC { return }
        let value: Int32
        switch activity {
        case .running: value = ProcessorState.runnable
        case .halted: value = ProcessorState.halted
        case .waitingForStartup: value = ProcessorState.uninitialized
        }
        attempt("setting the processor state", ospite_kvm_set_mp_state(descriptor.number, UInt32(value)))
    }

    private func writeEvents(_ state: VCPUState) {
        var events = ospite_kvm_events()
        events.interrupt_shadow = state.interruptShadow ? 1 : 0
        events.nmi_blocked = state.nmiBlocked ? 1 : 0
        events.nmi_pending = state.nmiPending ? 1 : 0
        if let pending = state.pending {
            // Vectors below 32 that are not INT n and not NMI are exceptions.
            if pending.vector < 32, pending.vector != 2, !pending.isSoftware {
                events.exception_pending = 1
                events.exception_vector = pending.vector
                events.exception_has_error = pending.errorCode == nil ? 0 : 1
                events.exception_error = pending.errorCode ?? 0
            } else {
                events.interrupt_pending = 1
                events.interrupt_vector = pending.vector
                events.interrupt_is_software = pending.isSoftware ? 1 : 0
            }
        }
        // SAFETY: one structure.
        attempt(
            "setting pending events",
            unsafe withUnsafePointer(to: events) { unsafe ospite_kvm_set_events(descriptor.number, $0) })
    }

    // MARK: Start-up

    /// INIT (Intel SDM vol. 3 table 10-1): as after reset, but the floating-point state, the MSRs and the
    /// time-stamp counter stay.
    func resetForInit() {
        let old = state()
        var new = VCPUState()
        new.xsave = old.xsave
        new.xcr0 = old.xcr0
        new.msrs = old.msrs
        new.tscOffset = old.tscOffset
        new.cr0 =
            new.cr0 & ~(CR0.notWriteThrough | CR0.cacheDisable)
            | old.cr0 & (CR0.notWriteThrough | CR0.cacheDisable)
        load(new)
    }

    /// A start-up message: real mode at vector * 4 KiB.
    func start(at vector: UInt8) {
        var new = state()
        new.rip = 0
        new.segments[Int(SegmentRegister.cs.rawValue)] = SegmentState(
            selector: UInt16(vector) << 8, base: UInt64(vector) << 12, limit: 0xFFFF, attributes: 0x9B)
        load(new)
    }

    // MARK: The kernel's local APIC

    /// The 1,024 bytes of registers of the kernel's local APIC, as struct kvm_lapic_state has them; nil when
    /// the local APIC is ours.
    public var kernelAPIC: [UInt8]? {
        guard !ownsAPIC else { return nil }
        var registers = [UInt8](repeating: 0, count: 1024)
        // SAFETY: 1,024 bytes.
        return unsafe ospite_kvm_get_lapic(descriptor.number, &registers) == 0 ? registers : nil
    }

    /// Loads what `kernelAPIC` gave. After `load`, before `run`.
    public func loadKernelAPIC(_ registers: [UInt8]) {
        guard !ownsAPIC, registers.count == 1024 else { return }
        // SAFETY: 1,024 bytes.
        attempt("setting the local APIC", unsafe ospite_kvm_set_lapic(descriptor.number, registers))
    }

    /// The guest's time-stamp counter rate in kHz, when the kernel knows it.
    public var tscKilohertz: UInt64? {
        let rate = ospite_kvm_get_tsc_khz(descriptor.number)
        return rate > 0 ? UInt64(rate) : nil
    }

    /// Tells the guest's kvmclock that time stood still (after a pause), so that it reports no lock-up.
    public func noteClockWasStopped() {
        // Refused when the guest does not use kvmclock.
        _ = ospite_kvm_clock_was_stopped(descriptor.number)
    }
}
