import VCPUEngine
import X86Architecture

/// Bits of the control registers that this processor has.
enum ControlBits {
    /// ET always reads as one.
    static let cr0: UInt64 = 0xE005_003F
    static let cr4: UInt64 =
        CR4.virtual8086Extensions | CR4.protectedVirtualInterrupts | CR4.timeStampDisable
        | CR4.debuggingExtensions | CR4.pageSizeExtensions | CR4.physicalAddressExtension
        | CR4.machineCheckEnable | CR4.pageGlobalEnable | CR4.performanceCounterEnable | CR4.osFXSR
        | CR4.osXMMExceptions | CR4.userModeInstructionPrevention | CR4.fsgsBase
        | CR4.processContextIdentifiers | CR4.osXSAVE | CR4.supervisorExecutionPrevention
        | CR4.supervisorAccessPrevention | ProtectionKeys.controls
    /// Changes of these make cached translations wrong.
    static let cr4Paging: UInt64 =
        CR4.pageSizeExtensions | CR4.physicalAddressExtension | CR4.pageGlobalEnable
        | CR4.processContextIdentifiers | CR4.supervisorExecutionPrevention | CR4.supervisorAccessPrevention
        | ProtectionKeys.controls
    /// EFER.AIBRSE, automatic IBRS (AMD APM vol. 2 §3.1.7): it is kept, and there is nothing to do for it.
    static let automaticIBRS: UInt64 = 1 << 21
    static let efer: UInt64 =
        EFER.syscallEnable | EFER.longModeEnable | EFER.longModeActive | EFER.noExecuteEnable | automaticIBRS
    /// x87, SSE and AVX state, and PKRU.
    static let xcr0: UInt64 = ExtendedState.components | ProtectionKeys.component
    /// Physical-address bits that CR3 and PDPTEs may hold.
    static let physical: UInt64 = 0x0000_FFFF_FFFF_FFFF
}

/// MOV to and from control registers (SDM vol. 2 MOV; vol. 3 §2.5, §4.1, §9.8.5).
extension CPU {
    /// MOV to and from CR0, CR2, CR3, CR4 and CR8.
    func moveControl(_ i: borrowing Instruction) throws(Fault) {
        let isWrite = i.operand(0).kind == .control
        let number = i.operand(isWrite ? 0 : 1).register
        guard number == 0 || (2...4).contains(number) || number == 8 else { throw .undefinedOpcode }
        try requirePrivileged()
        if isWrite {
            let source = gpr(Int(i.operand(1).register))
            try writeControl(number, is64Bit ? source : source & 0xFFFF_FFFF)
        } else {
            let value = readControl(number)
            setGPR(Int(i.operand(0).register), is64Bit ? value : value & 0xFFFF_FFFF)
        }
    }

    private func readControl(_ number: UInt8) -> UInt64 {
        switch number {
        case 0: return s.cr0
        case 2: return s.cr2
        case 3: return s.cr3
        case 4: return s.cr4
        default: return UInt64(owner.apic.taskPriority & 0xF)
        }
    }

    private func writeControl(_ number: UInt8, _ value: UInt64) throws(Fault) {
        switch number {
        case 0: try writeCR0(value)
        case 2: s.cr2 = value
        case 3: try writeCR3(value)
        case 4: try writeCR4(value)
        default:
            guard value & ~0xF == 0 else { throw .protection() }
            owner.apic.taskPriority = UInt8(value)
            if interruptFlag { requestAttention() }
        }
        s.endBlock = true
    }

    func writeCR0(_ value: UInt64) throws(Fault) {
        guard value >> 32 == 0 else { throw .protection() }
        let new = value & ControlBits.cr0 | CR0.extensionType
        let changed = new ^ s.cr0
        let paging = new & CR0.paging != 0
        if paging, new & CR0.protectionEnable == 0 { throw .protection() }
        if new & CR0.notWriteThrough != 0, new & CR0.cacheDisable == 0 { throw .protection() }
        var efer = s.efer
        if changed & CR0.paging != 0 {
            if paging {
                efer = try longModeAtPagingEnable()
            } else {
                guard !is64Bit, s.cr4 & CR4.processContextIdentifiers == 0 else { throw .protection() }
                efer &= ~EFER.longModeActive
            }
        }
        let usesPDPTEs =
            paging && s.cr4 & CR4.physicalAddressExtension != 0 && efer & EFER.longModeActive == 0
        if usesPDPTEs, changed & (CR0.paging | CR0.cacheDisable | CR0.notWriteThrough) != 0 {
            try loadPageDirectoryPointers(s.cr3)
        }
        s.cr0 = new
        s.efer = efer
        if changed & (CR0.paging | CR0.writeProtect | CR0.protectionEnable) != 0 { flushTLB() }
        if changed & (CR0.paging | CR0.protectionEnable) != 0 { modeChanged() }
        s.endBlock = true
    }

    /// EFER as it is once CR0.PG is set.
    private func longModeAtPagingEnable() throws(Fault) -> UInt64 {
        guard s.efer & EFER.longModeEnable != 0 else { return s.efer }
        let task = s.segments[Segment.tr].attributes
        let hasTask16 = task & 0x1F == UInt32(SystemType.busyTSS16)
        guard s.cr4 & CR4.physicalAddressExtension != 0, !hasTask16,
            s.segments[Segment.cs].attributes & SegmentAttributes.long == 0
        else { throw .protection() }
        return s.efer | EFER.longModeActive
    }

    func writeCR3(_ value: UInt64) throws(Fault) {
        var new = value
        if isLongMode {
            // Bit 63 asks to keep translations.
            if s.cr4 & CR4.processContextIdentifiers != 0 { new &= ~(1 << 63) }
            guard new & ~ControlBits.physical == 0 else { throw .protection() }
        } else {
            new &= ControlBits.physical
            if s.cr0 & CR0.paging != 0, s.cr4 & CR4.physicalAddressExtension != 0 {
                try loadPageDirectoryPointers(new)
            }
        }
        s.cr3 = new
        addressSpaceChanged(keeps: value >> 63 != 0)
    }

    /// Loads the four PDPTEs, as PAE paging needs at every load of CR3 (SDM vol. 3 §4.4.1).
    func loadPageDirectoryPointers(_ cr3: UInt64) throws(Fault) {
        var entries: InlineArray<4, UInt64> = .init(repeating: 0)
        for index in 0..<4 {
            let entry = readPhysical(UInt64.self, (cr3 & 0xFFFF_FFE0) &+ UInt64(index) * 8)
            let reserved = ~ControlBits.physical | 0x1E6
            if entry & 1 != 0, entry & reserved != 0 { throw .protection() }
            entries[index] = entry
        }
        s.pdpte = entries
    }

    func writeCR4(_ value: UInt64) throws(Fault) {
        guard value & ~ControlBits.cr4 == 0 else { throw .protection() }
        let changed = value ^ s.cr4
        let pae = value & CR4.physicalAddressExtension != 0
        if isLongMode, !pae { throw .protection() }
        if changed & value & CR4.processContextIdentifiers != 0 {
            guard isLongMode, s.cr3 & 0xFFF == 0 else { throw .protection() }
        }
        let reloads = CR4.physicalAddressExtension | CR4.pageSizeExtensions | CR4.pageGlobalEnable
        if pae, s.cr0 & CR0.paging != 0, !isLongMode, changed & reloads != 0 {
            try loadPageDirectoryPointers(s.cr3)
        }
        s.cr4 = value
        if changed & ControlBits.cr4Paging != 0 { flushTLB() }
        if changed & CR4.processContextIdentifiers != 0 { addressSpaceChanged(keeps: false) }
        updateTLBContext()
        s.endBlock = true
    }

    func writeEFER(_ value: UInt64) throws(Fault) {
        // LMA is not software's to write: it keeps its value.
        let new = value & ~EFER.longModeActive | s.efer & EFER.longModeActive
        guard new & ~ControlBits.efer == 0 else { throw .protection() }
        let changed = new ^ s.efer
        if changed & EFER.longModeEnable != 0, s.cr0 & CR0.paging != 0 { throw .protection() }
        s.efer = new
        if changed & EFER.noExecuteEnable != 0 { flushTLB() }
        s.endBlock = true
    }

    // MARK: CLTS, LMSW, SMSW

    func clearTaskSwitched() throws(Fault) {
        try requirePrivileged()
        s.cr0 &= ~CR0.taskSwitched
        s.endBlock = true
    }

    /// LMSW writes PE (setting only), MP, EM and TS.
    func loadMachineStatus(_ i: borrowing Instruction) throws(Fault) {
        try requirePrivileged()
        let value = try readOperand(i, 0) & 0xF
        try writeCR0(s.cr0 & ~0xE | value)
    }

    func storeMachineStatus(_ i: borrowing Instruction) throws(Fault) {
        try checkInstructionPrevention()
        try writeOperand(i, 0, s.cr0)
    }

    // MARK: XCR0 (SDM vol. 1 §13.3)

    func readExtendedControl() throws(Fault) {
        guard s.cr4 & CR4.osXSAVE != 0 else { throw .undefinedOpcode }
        // XCR1, which only reads, is the components in use: all enabled ones may be.
        guard gpr(Register.rcx) & 0xFFFF_FFFF <= 1 else { throw .protection() }
        setPair(s.xcr0)
    }

    func writeExtendedControl() throws(Fault) {
        guard s.cr4 & CR4.osXSAVE != 0 else { throw .undefinedOpcode }
        try requirePrivileged()
        let value = pair
        guard gpr(Register.rcx) & 0xFFFF_FFFF == 0, value & ~ControlBits.xcr0 == 0, value & 1 != 0,
            value & 6 != 4
        else { throw .protection() }
        s.xcr0 = value
        s.endBlock = true
    }

    /// EDX:EAX
    var pair: UInt64 { gpr(Register.rdx) << 32 | gpr(Register.rax) & 0xFFFF_FFFF }

    /// Splits into EDX:EAX, with cleared upper halves.
    func setPair(_ value: UInt64) {
        setGPR(Register.rax, value & 0xFFFF_FFFF)
        setGPR(Register.rdx, value >> 32)
    }
}
