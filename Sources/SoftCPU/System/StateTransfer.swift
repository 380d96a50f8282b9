import VCPUEngine
import X86Architecture

/// Conversion between the engine's state and `VCPUState`, reset and startup (SDM vol. 3 table 10-1).
extension CPU {
    /// Model-specific registers that are in `VCPUState.msrs`, besides the MTRRs.
    private static let savedMSRs: [UInt32] = [
        MSR.star, MSR.lstar, MSR.cstar, MSR.syscallMask, MSR.kernelGSBase, MSR.sysenterCS, MSR.sysenterESP,
        MSR.sysenterEIP, MSR.tscAuxiliary, MSR.tscAdjust, MSR.pat, MSR.miscEnable, MSR.mtrrDefaultType,
        MSR.kvmSystemTime, MSR.kvmWallClock, MSR.kvmEndOfInterrupt, MSR.kvmAsyncPageFault, MSR.kvmStealTime,
        MSR.supervisorKeyRights, MSR.speculationControl,
    ]

    private static func segmentState(_ cache: SegmentCache) -> SegmentState {
        SegmentState(
            selector: cache.selector, base: cache.base, limit: cache.limit, attributes: cache.attributes)
    }

    func saveState() -> VCPUState {
        var state = VCPUState()
        for number in 0..<16 { state.gpr[number] = gpr(number) }
        state.rip = s.rip
        state.rflags = rflags
        for number in 0..<6 { state.segments[number] = Self.segmentState(s.segments[number]) }
        // Privilege is SS.DPL to every other engine.
        let stack = state.segments[Segment.ss].attributes
        state.segments[Segment.ss].attributes = stack & ~(3 << 5) | UInt32(s.cpl) << 5
        state.ldtr = Self.segmentState(s.segments[Segment.ldtr])
        state.tr = Self.segmentState(s.segments[Segment.tr])
        state.gdtr = TableRegister(base: s.gdtBase, limit: UInt16(truncatingIfNeeded: s.gdtLimit))
        state.idtr = TableRegister(base: s.idtBase, limit: UInt16(truncatingIfNeeded: s.idtLimit))
        (state.cr0, state.cr2, state.cr3, state.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4)
        state.cr8 = UInt64(owner.apic.taskPriority & 0xF)
        state.efer = s.efer
        state.xcr0 = s.xcr0
        state.pkru = s.pkru == 0 ? nil : s.pkru
        state.debug = [s.dr[0], s.dr[1], s.dr[2], s.dr[3], s.dr[6], s.dr[7]]
        state.xsave = extendedStateBytes()
        for number in Self.savedMSRs { state.msrs[number] = savedMSR(number) }
        for slot in 0..<27 { state.msrs[MTRR.number(slot)] = s.mtrr[slot] }
        state.tscOffset = s.tscOffset
        state.clockLead = owner.clockLead == 0 ? nil : owner.clockLead
        state.activity = s.activity
        state.interruptShadow = s.interruptShadow
        state.nmiBlocked = s.nmiBlocked
        state.nmiPending = s.nmiPending
        return state
    }

    private func savedMSR(_ number: UInt32) -> UInt64 {
        switch number {
        case MSR.kvmAsyncPageFault: return s.kvmAsyncPageFault
        case MSR.kvmStealTime: return s.kvmStealTime
        default: return readMSR(number) ?? 0
        }
    }

    // MARK: Load

    /// Loads a state from anywhere: values that this processor cannot have are made into ones that it can.
    func loadState(_ state: VCPUState) {
        forgetDeferredEnd()
        for number in 0..<16 { setGPR(number, number < state.gpr.count ? state.gpr[number] : 0) }
        setGPR(Register.zero, 0)
        s.isNarrow = false
        loadControls(state)
        loadSegments(state)
        loadMSRs(state)
        setRFlags(state.rflags)
        if !isProtected || isLongMode { s.otherFlags &= ~RFlags.virtual8086.rawValue }
        s.tscOffset = state.tscOffset
        owner.clockLead = state.clockLead ?? 0
        s.activity = state.activity
        s.interruptShadow = state.interruptShadow
        s.debugShadow = false
        s.nmiBlocked = state.nmiBlocked
        s.nmiPending = state.nmiPending
        s.pendingDebug = 0
        s.shutdown = false
        s.linkSlot = 0
        s.nextBlock = 0
        s.cpl = SegmentAttributes.privilege(s.segments[Segment.ss].attributes)
        loadExtendedState(bytes: state.xsave)
        modeChanged()
        s.rip = is64Bit ? Self.canonicalized(state.rip) : state.rip & 0xFFFF_FFFF
        flushTLB()
        owner.apic.taskPriority = UInt8(state.cr8 & 0xF)
        if s.kvmSystemTime & ParavirtualClock.enable != 0 { writeSystemTime() }
        if let pending = state.pending { resume(pending) }
        requestAttention()
    }

    /// Bit 47 copied upwards.
    static func canonicalized(_ address: UInt64) -> UInt64 {
        UInt64(bitPattern: Int64(bitPattern: address << 16) >> 16)
    }

    private func loadControls(_ state: VCPUState) {
        s.cr0 = state.cr0 & ControlBits.cr0 | CR0.extensionType
        s.cr4 = state.cr4 & ControlBits.cr4
        s.efer = state.efer & ControlBits.efer & ~EFER.longModeActive
        if s.cr0 & CR0.protectionEnable == 0 { s.cr0 &= ~CR0.paging }
        if s.cr0 & CR0.paging != 0, s.efer & EFER.longModeEnable != 0 {
            s.efer |= EFER.longModeActive
            s.cr4 |= CR4.physicalAddressExtension
        } else {
            s.cr4 &= ~CR4.processContextIdentifiers
        }
        s.cr2 = state.cr2
        s.cr3 = state.cr3 & ControlBits.physical
        s.xcr0 = state.xcr0 & ControlBits.xcr0 | 1
        if s.xcr0 & 6 == 4 { s.xcr0 &= ~4 }
        s.pkru = state.pkru ?? 0
        for number in 0..<6 {
            let value = number < state.debug.count ? state.debug[number] : 0
            switch number {
            case 4: s.dr[6] = Self.sanitizedDR6(value)
            case 5: s.dr[7] = Self.sanitizedDR7(value)
            default: s.dr[number] = value
            }
        }
        let usesPDPTEs = CR4.physicalAddressExtension
        if s.cr0 & CR0.paging != 0, s.cr4 & usesPDPTEs != 0, !isLongMode {
            do throws(Fault) {
                try loadPageDirectoryPointers(s.cr3)
            } catch {
                s.pdpte = .init(repeating: 0)
            }
        }
    }

    private static func cache(_ state: SegmentState) -> SegmentCache {
        // Bits 8..11 of attributes do not exist.
        SegmentCache(
            base: canonicalized(state.base), limit: state.limit, attributes: state.attributes & 0x1_F0FF,
            selector: state.selector)
    }

    private func loadSegments(_ state: VCPUState) {
        for number in 0..<6 {
            s.segments[number] = Self.cache(
                number < state.segments.count ? state.segments[number] : SegmentState())
        }
        s.segments[Segment.ldtr] = Self.cache(state.ldtr)
        s.segments[Segment.tr] = Self.cache(state.tr)
        s.gdtBase = state.gdtr.base
        s.gdtLimit = UInt32(state.gdtr.limit)
        s.idtBase = state.idtr.base
        s.idtLimit = UInt32(state.idtr.limit)
    }

    /// Values that WRMSR would refuse are left out.
    private func loadMSRs(_ state: VCPUState) {
        s.tscAdjust = state.msrs[MSR.tscAdjust] ?? 0
        s.kvmSystemTime = state.msrs[MSR.kvmSystemTime] ?? 0
        s.kvmWallClock = state.msrs[MSR.kvmWallClock] ?? 0
        s.kvmAsyncPageFault = state.msrs[MSR.kvmAsyncPageFault] ?? 0
        s.kvmStealTime = state.msrs[MSR.kvmStealTime] ?? 0
        let alreadyLoaded = [
            MSR.tscAdjust, MSR.kvmSystemTime, MSR.kvmWallClock, MSR.kvmAsyncPageFault, MSR.kvmStealTime,
        ]
        let initial: [UInt32: UInt64] = [MSR.pat: 0x0007_0406_0007_0406, MSR.miscEnable: 1]
        let plain = Self.savedMSRs.filter { !alreadyLoaded.contains($0) } + (0..<27).map { MTRR.number($0) }
        for number in plain {
            let value = state.msrs[number] ?? initial[number] ?? 0
            do throws(Fault) { try writeMSR(number, value) } catch { continue }
        }
    }

    /// Goes on with an event that another engine had begun to deliver.
    private func resume(_ pending: PendingEvent) {
        guard !pending.isSoftware, pending.vector >= 32 || pending.errorCode == nil else {
            let isException = pending.vector < 32
            guard isException else { return }
            return deliver(Event(vector: pending.vector, errorCode: pending.errorCode, kind: .exception))
        }
        if pending.vector == ExceptionVector.nmi.rawValue { return deliverNMI() }
        deliver(Event(vector: pending.vector, errorCode: nil, kind: .external))
    }

    // MARK: INIT and SIPI

    /// INIT: as reset, but x87, SSE and AVX state, the time-stamp counter, MTRRs and most model-specific
    /// registers stay. Application processors then wait for SIPI.
    func initializeProcessor() {
        let old = saveState()
        var state = VCPUState()
        state.cr0 = 0x10 | old.cr0 & (CR0.cacheDisable | CR0.notWriteThrough)
        state.gpr[Register.rdx] = UInt64(CPUModel.host(1).eax)
        state.xsave = old.xsave
        state.xcr0 = old.xcr0
        state.pkru = old.pkru
        state.msrs = old.msrs
        state.tscOffset = old.tscOffset
        state.clockLead = old.clockLead
        let isBootstrap = owner.apic.apicBase & (1 << 8) != 0
        state.activity = isBootstrap ? .running : .waitingForStartup
        loadState(state)
    }

    /// SIPI: real mode at the page that `vector` numbers.
    func startup(vector: UInt8) {
        guard s.activity == .waitingForStartup else { return }
        s.segments[Segment.cs] = SegmentCache(
            base: UInt64(vector) << 12, limit: 0xFFFF, attributes: 0x9B, selector: UInt16(vector) << 8)
        s.rip = 0
        s.activity = .running
        modeChanged()
    }
}
