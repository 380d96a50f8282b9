import CGate
import VCPUEngine
import X86Architecture

/// RDMSR and WRMSR. Numbers that this processor does not have raise #GP(0), except those that firmware and
/// kernels for AMD processors touch without asking CPUID first: these read as zero and ignore writes.
extension CPU {
    func readModelSpecific() throws(Fault) {
        try requirePrivileged()
        guard let value = readMSR(UInt32(truncatingIfNeeded: gpr(Register.rcx))) else { throw .protection() }
        setPair(value)
    }

    func writeModelSpecific() throws(Fault) {
        try requirePrivileged()
        try writeMSR(UInt32(truncatingIfNeeded: gpr(Register.rcx)), pair)
        s.endBlock = true
    }

    /// The guest's time-stamp counter.
    var timeStampCounter: UInt64 { ospite_rdtsc() &+ s.tscOffset }

    /// nil is #GP(0).
    func readMSR(_ number: UInt32) -> UInt64? {
        switch number {
        case MSR.timeStampCounter: return timeStampCounter
        case MSR.tscAdjust: return s.tscAdjust
        case MSR.apicBase: return owner.apic.apicBase
        case MSR.tscDeadline, MSR.x2apicFirst...MSR.x2apicLast:
            settleEndOfInterrupt()
            return owner.apic.readMSR(number)
        case MSR.mtrrCapability: return MTRR.capability
        case MSR.mtrrDefaultType: return s.mtrrDefaultType
        case MSR.efer: return s.efer
        case MSR.fsBase: return s.segments[Segment.fs].base
        case MSR.gsBase: return s.segments[Segment.gs].base
        default: break
        }
        if let slot = MTRR.slot(number) { return s.mtrr[slot] }
        if let value = readStored(number) { return value }
        return HarmlessMSR.value(number)
    }

    /// Registers that are plain fields of the state.
    private func readStored(_ number: UInt32) -> UInt64? {
        switch number {
        case MSR.sysenterCS: return s.sysenterCS
        case MSR.sysenterESP: return s.sysenterESP
        case MSR.sysenterEIP: return s.sysenterEIP
        case MSR.miscEnable: return s.miscEnable
        case MSR.pat: return s.pat
        case MSR.supervisorKeyRights: return UInt64(s.pkrs)
        case MSR.archCapabilities where !CPUModel.isAMD: return CPUModel.capabilities
        case MSR.speculationControl where !CPUModel.isAMD: return s.speculationControl
        case MSR.star: return s.star
        case MSR.lstar: return s.lstar
        case MSR.cstar: return s.cstar
        case MSR.syscallMask: return s.syscallMask
        case MSR.kernelGSBase: return s.kernelGSBase
        case MSR.tscAuxiliary: return s.tscAuxiliary
        case MSR.kvmWallClock, ParavirtualClock.oldWallClock: return s.kvmWallClock
        case MSR.kvmSystemTime, ParavirtualClock.oldSystemTime: return s.kvmSystemTime
        case MSR.kvmEndOfInterrupt: return s.kvmEndOfInterrupt
        default: return nil
        }
    }

    func writeMSR(_ number: UInt32, _ value: UInt64) throws(Fault) {
        switch number {
        case MSR.timeStampCounter: setTimeStampAdjust(s.tscAdjust &+ (value &- timeStampCounter))
        case MSR.tscAdjust: setTimeStampAdjust(value)
        case MSR.apicBase:
            settleEndOfInterrupt()
            guard owner.apic.setAPICBase(value) else { throw .protection() }
            owner.refreshAPICPage()
        case MSR.tscDeadline, MSR.x2apicFirst...MSR.x2apicLast:
            if number != MSR.tscDeadline { settleEndOfInterrupt() }
            guard owner.apic.writeMSR(number, value) else { throw .protection() }
            s.interruptHeld = true
            if interruptFlag { requestAttention() }
        case MSR.efer: try writeEFER(value)
        case MSR.fsBase: setSegmentBase(Segment.fs, try canonical(value))
        case MSR.gsBase: setSegmentBase(Segment.gs, try canonical(value))
        case MSR.kernelGSBase: s.kernelGSBase = try canonical(value)
        default:
            if try writeMemoryType(number, value) { return }
            if try writeStored(number, value) { return }
            guard HarmlessMSR.value(number) != nil else { throw .protection() }
        }
    }

    private func writeStored(_ number: UInt32, _ value: UInt64) throws(Fault) -> Bool {
        switch number {
        case MSR.sysenterCS: s.sysenterCS = value & 0xFFFF_FFFF
        case MSR.sysenterESP: s.sysenterESP = try canonical(value)
        case MSR.sysenterEIP: s.sysenterEIP = try canonical(value)
        case MSR.miscEnable: s.miscEnable = value
        case MSR.star: s.star = value
        case MSR.supervisorKeyRights:
            guard value >> 32 == 0 else { throw .protection() }
            setPKRS(UInt32(value))
        case MSR.speculationControl where !CPUModel.isAMD:
            // IBRS, STIBP, SSBD, BHI_DIS_S: kept, without an effect.
            guard value & ~0x407 == 0 else { throw .protection() }
            s.speculationControl = value
        case MSR.predictionCommand where !CPUModel.isAMD:
            // IBPB: nothing is predicted across contexts.
            guard value & ~1 == 0 else { throw .protection() }
        case MSR.lstar: s.lstar = try canonical(value)
        case MSR.cstar: s.cstar = try canonical(value)
        case MSR.syscallMask: s.syscallMask = value & 0xFFFF_FFFF
        case MSR.tscAuxiliary: s.tscAuxiliary = value & 0xFFFF_FFFF
        case MSR.kvmWallClock, ParavirtualClock.oldWallClock:
            s.kvmWallClock = value
            writeWallClock()
        case MSR.kvmSystemTime, ParavirtualClock.oldSystemTime:
            s.kvmSystemTime = value
            writeSystemTime()
        case MSR.kvmEndOfInterrupt:
            guard value & 2 == 0 else { throw .protection() }
            settleEndOfInterrupt()
            s.kvmEndOfInterrupt = value
        default: return false
        }
        return true
    }

    private func canonical(_ value: UInt64) throws(Fault) -> UInt64 {
        guard Self.isCanonical(value) else { throw .protection() }
        return value
    }

    /// IA32_TSC_ADJUST moves the counter by as much as it changes (SDM vol. 3 §17.17.3).
    private func setTimeStampAdjust(_ value: UInt64) {
        s.tscOffset &+= value &- s.tscAdjust
        s.tscAdjust = value
        writeSystemTime()
    }

    // MARK: Memory types: kept, without an effect on caching (SDM vol. 3 §11.11, §11.12)

    private static func isMemoryType(_ type: UInt64) -> Bool {
        type == 0 || type == 1 || (4...6).contains(type)
    }

    /// Returns whether `number` is PAT or an MTRR.
    private func writeMemoryType(_ number: UInt32, _ value: UInt64) throws(Fault) -> Bool {
        if number == MSR.pat {
            for shift in stride(from: UInt64(0), to: 64, by: 8) {
                let type = value >> shift & 0xFF
                // 7 is UC-, which the PAT has and the MTRRs have not.
                guard Self.isMemoryType(type) || type == 7 else { throw .protection() }
            }
            s.pat = value
            return true
        }
        if number == MSR.mtrrDefaultType {
            guard value & ~0xCFF == 0, Self.isMemoryType(value & 0xFF) else { throw .protection() }
            s.mtrrDefaultType = value
            return true
        }
        guard let slot = MTRR.slot(number) else { return false }
        if slot < MTRR.fixedCount {
            for shift in stride(from: UInt64(0), to: 64, by: 8) {
                guard Self.isMemoryType(value >> shift & 0xFF) else { throw .protection() }
            }
        } else {
            let isMask = (slot - MTRR.fixedCount) & 1 != 0
            let reserved = ~ControlBits.physical | (isMask ? 0x7FF : 0xF00)
            guard value & reserved == 0, isMask || Self.isMemoryType(value & 0xFF) else {
                throw .protection()
            }
        }
        s.mtrr[slot] = value
        return true
    }
}

/// Places of the MTRRs in `CPUState.mtrr`.
enum MTRR {
    static let fixedCount = 11
    /// 8 variable ranges, fixed ranges, write combining.
    static let capability: UInt64 = 0x508
    private static let fixed: [UInt32] = [
        0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F,
    ]

    static func slot(_ number: UInt32) -> Int? {
        switch number {
        case 0x200...0x20F: return fixedCount + Int(number - 0x200)
        case 0x250...0x26F: return fixed.firstIndex(of: number)
        default: return nil
        }
    }

    /// The register's number, by slot.
    static func number(_ slot: Int) -> UInt32 {
        slot < fixedCount ? fixed[slot] : 0x200 + UInt32(slot - fixedCount)
    }
}

/// Registers without a function here that software touches on AMD processors of families 15 to 1A
/// (AMD PPRs and BKDGs, section "MSRs"; SDM vol. 4 for the architectural ones).
enum HarmlessMSR {
    /// What it reads as; nil when the register does not exist.
    static func value(_ number: UInt32) -> UInt64? {
        switch number {
        case 0x17, 0x2A, 0x33, 0xE7, 0xE8: return 0  // platform ID, power-on, test control, MPERF, APERF
        case MSR.biosSignature: return 0x0100_0000  // microcode revision
        case 0x79: return 0  // microcode update trigger
        case MSR.machineCheckCapability, MSR.machineCheckStatus, 0x17B: return 0  // no banks
        case 0x1D9, 0x1DB...0x1DE: return 0  // DEBUGCTL, last branch
        case 0xC000_0104: return 0  // TSC ratio
        case 0xC001_0000...0xC001_0007: return 0  // performance events and counters
        case 0xC001_0010: return 0  // SYSCFG
        case 0xC001_0015: return 1 << 24  // HWCR: the TSC runs at the P0 frequency
        case 0xC001_0016...0xC001_001A, 0xC001_001D: return 0  // IORR, TOP_MEM, TOP_MEM2
        case 0xC001_001F: return 0  // NB_CFG
        case 0xC001_0055, 0xC001_0058: return 0  // interrupt pending, MMIO configuration base
        case 0xC001_0061...0xC001_0063: return 0  // P-state limit, control, status
        case 0xC001_0111...0xC001_0114, 0xC001_0117: return 0  // SMM base, TSEG, VM_CR
        case 0xC001_0140, 0xC001_0141: return 0  // OS visible workarounds
        case 0xC001_1020, 0xC001_1021, 0xC001_1023: return 0  // LS, IC, DC configuration
        case 0xC001_1029: return 1 << 1  // DE_CFG: LFENCE serialises
        case 0xC001_102A, 0xC001_102C, 0xC001_102D: return 0  // bus unit, EX, LS configuration 2
        case 0xC001_0200...0xC001_020B: return 0  // core performance counters
        case 0xC001_0299...0xC001_029B: return 0  // energy
        default: return nil
        }
    }
}
