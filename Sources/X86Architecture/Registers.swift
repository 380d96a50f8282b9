/// Register numbers and bits in the words of the Intel SDM and the AMD APM. Pure.

/// RFLAGS (Intel SDM vol. 1 §3.4.3). Inlinable properties: a stored constant costs other modules a call per
/// use.
public struct RFlags: OptionSet, Hashable, Sendable, BitwiseCopyable, Codable {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static var carry: RFlags { RFlags(rawValue: 1 << 0) }
    /// Bit 1 always reads as one.
    @inlinable public static var alwaysOne: RFlags { RFlags(rawValue: 1 << 1) }
    @inlinable public static var parity: RFlags { RFlags(rawValue: 1 << 2) }
    @inlinable public static var auxiliary: RFlags { RFlags(rawValue: 1 << 4) }
    @inlinable public static var zero: RFlags { RFlags(rawValue: 1 << 6) }
    @inlinable public static var sign: RFlags { RFlags(rawValue: 1 << 7) }
    @inlinable public static var trap: RFlags { RFlags(rawValue: 1 << 8) }
    @inlinable public static var interrupt: RFlags { RFlags(rawValue: 1 << 9) }
    @inlinable public static var direction: RFlags { RFlags(rawValue: 1 << 10) }
    @inlinable public static var overflow: RFlags { RFlags(rawValue: 1 << 11) }
    @inlinable public static var ioPrivilege: RFlags { RFlags(rawValue: 3 << 12) }
    @inlinable public static var nestedTask: RFlags { RFlags(rawValue: 1 << 14) }
    @inlinable public static var resume: RFlags { RFlags(rawValue: 1 << 16) }
    @inlinable public static var virtual8086: RFlags { RFlags(rawValue: 1 << 17) }
    @inlinable public static var alignmentCheck: RFlags { RFlags(rawValue: 1 << 18) }
    @inlinable public static var virtualInterrupt: RFlags { RFlags(rawValue: 1 << 19) }
    @inlinable public static var virtualInterruptPending: RFlags { RFlags(rawValue: 1 << 20) }
    @inlinable public static var identification: RFlags { RFlags(rawValue: 1 << 21) }
    /// OF, SF, ZF, AF, PF and CF.
    @inlinable public static var status: RFlags { RFlags(rawValue: 0x8D5) }
}

/// CR0 (SDM vol. 3 §2.5).
public enum CR0 {
    public static let protectionEnable: UInt64 = 1 << 0
    public static let monitorCoprocessor: UInt64 = 1 << 1
    public static let emulation: UInt64 = 1 << 2
    public static let taskSwitched: UInt64 = 1 << 3
    public static let extensionType: UInt64 = 1 << 4
    public static let numericError: UInt64 = 1 << 5
    public static let writeProtect: UInt64 = 1 << 16
    public static let alignmentMask: UInt64 = 1 << 18
    public static let notWriteThrough: UInt64 = 1 << 29
    public static let cacheDisable: UInt64 = 1 << 30
    public static let paging: UInt64 = 1 << 31
}

/// CR4 (SDM vol. 3 §2.5).
public enum CR4 {
    public static let virtual8086Extensions: UInt64 = 1 << 0
    public static let protectedVirtualInterrupts: UInt64 = 1 << 1
    public static let timeStampDisable: UInt64 = 1 << 2
    public static let debuggingExtensions: UInt64 = 1 << 3
    public static let pageSizeExtensions: UInt64 = 1 << 4
    public static let physicalAddressExtension: UInt64 = 1 << 5
    public static let machineCheckEnable: UInt64 = 1 << 6
    public static let pageGlobalEnable: UInt64 = 1 << 7
    public static let performanceCounterEnable: UInt64 = 1 << 8
    public static let osFXSR: UInt64 = 1 << 9
    public static let osXMMExceptions: UInt64 = 1 << 10
    public static let userModeInstructionPrevention: UInt64 = 1 << 11
    public static let fsgsBase: UInt64 = 1 << 16
    public static let processContextIdentifiers: UInt64 = 1 << 17
    public static let osXSAVE: UInt64 = 1 << 18
    public static let supervisorExecutionPrevention: UInt64 = 1 << 20
    public static let supervisorAccessPrevention: UInt64 = 1 << 21
    public static let protectionKeys: UInt64 = 1 << 22
    public static let supervisorProtectionKeys: UInt64 = 1 << 24
}

/// IA32_EFER (SDM vol. 3 §2.2.1).
public enum EFER {
    public static let syscallEnable: UInt64 = 1 << 0
    public static let longModeEnable: UInt64 = 1 << 8
    public static let longModeActive: UInt64 = 1 << 10
    public static let noExecuteEnable: UInt64 = 1 << 11
}

/// Exception vectors (SDM vol. 3 §6.3.1).
public enum ExceptionVector: UInt8, Sendable {
    case divideError = 0, debug = 1, nmi = 2, breakpoint = 3, overflow = 4, boundRange = 5, invalidOpcode = 6
    case deviceNotAvailable = 7, doubleFault = 8, invalidTSS = 10, segmentNotPresent = 11, stackFault = 12
    case generalProtection = 13, pageFault = 14, floatingPoint = 16, alignmentCheck = 17, machineCheck = 18
    case simdFloatingPoint = 19

    /// Whether the processor pushes an error code.
    @inlinable public var hasErrorCode: Bool {
        switch self {
        case .doubleFault, .invalidTSS, .segmentNotPresent, .stackFault, .generalProtection, .pageFault,
            .alignmentCheck:
            return true
        default: return false
        }
    }
}

/// Page-fault error code bits (SDM vol. 3 §4.7).
public enum PageFaultError {
    public static let present: UInt32 = 1 << 0
    public static let write: UInt32 = 1 << 1
    public static let user: UInt32 = 1 << 2
    public static let reserved: UInt32 = 1 << 3
    public static let fetch: UInt32 = 1 << 4
    public static let protectionKey: UInt32 = 1 << 5
}

/// Segment registers in their encoding order (ModRM.reg of MOV Sreg).
public enum SegmentRegister: UInt8, Sendable, CaseIterable {
    case es = 0, cs = 1, ss = 2, ds = 3, fs = 4, gs = 5
}

/// Model-specific register numbers that engines and machine share.
public enum MSR {
    public static let timeStampCounter: UInt32 = 0x10
    public static let apicBase: UInt32 = 0x1B
    public static let featureControl: UInt32 = 0x3A
    public static let tscAdjust: UInt32 = 0x3B
    public static let speculationControl: UInt32 = 0x48
    public static let predictionCommand: UInt32 = 0x49
    public static let biosSignature: UInt32 = 0x8B
    public static let mtrrCapability: UInt32 = 0xFE
    public static let archCapabilities: UInt32 = 0x10A
    public static let sysenterCS: UInt32 = 0x174
    public static let sysenterESP: UInt32 = 0x175
    public static let sysenterEIP: UInt32 = 0x176
    public static let machineCheckCapability: UInt32 = 0x179
    public static let machineCheckStatus: UInt32 = 0x17A
    public static let miscEnable: UInt32 = 0x1A0
    public static let pat: UInt32 = 0x277
    public static let mtrrDefaultType: UInt32 = 0x2FF
    public static let tscDeadline: UInt32 = 0x6E0
    public static let supervisorKeyRights: UInt32 = 0x6E1
    public static let x2apicFirst: UInt32 = 0x800
    public static let x2apicLast: UInt32 = 0x8FF
    public static let efer: UInt32 = 0xC000_0080
    public static let star: UInt32 = 0xC000_0081
    public static let lstar: UInt32 = 0xC000_0082
    public static let cstar: UInt32 = 0xC000_0083
    public static let syscallMask: UInt32 = 0xC000_0084
    public static let fsBase: UInt32 = 0xC000_0100
    public static let gsBase: UInt32 = 0xC000_0101
    public static let kernelGSBase: UInt32 = 0xC000_0102
    public static let tscAuxiliary: UInt32 = 0xC000_0103
    public static let kvmWallClock: UInt32 = 0x4B56_4D00
    public static let kvmSystemTime: UInt32 = 0x4B56_4D01
    public static let kvmAsyncPageFault: UInt32 = 0x4B56_4D02
    public static let kvmStealTime: UInt32 = 0x4B56_4D03
    public static let kvmEndOfInterrupt: UInt32 = 0x4B56_4D04
}
