/// Where BAR 0 has its parts, xHCI 1.1 §5, and the tables of MSI-X.
enum XHCIRegister {
    /// Operational registers come after those of capabilities, ports after the other operational ones.
    static let operational: UInt64 = 0x40, ports: UInt64 = 0x440, portSize: UInt64 = 0x10
    static let runtime: UInt64 = 0x1000, interrupters: UInt64 = 0x1020, interrupterSize: UInt64 = 0x20
    static let doorbells: UInt64 = 0x2000
    static let msixTable: UInt64 = 0x3000, msixPending: UInt64 = 0x3800
    static let size: UInt64 = 0x4000

    /// Operational registers, §5.4.
    static let command: UInt64 = 0x40, status: UInt64 = 0x44, pageSize: UInt64 = 0x48
    static let notification: UInt64 = 0x54, commandRing: UInt64 = 0x58, contextArray: UInt64 = 0x70
    static let configuration: UInt64 = 0x78
    /// MFINDEX, §5.5.1.
    static let microframeIndex: UInt64 = 0x1000
}

/// Capability registers, §5.3 and §7.2.
enum XHCICapability {
    static let slots = 32, interrupters = 4
    /// Sockets; each has a SuperSpeed port and a USB 2 port.
    static let sockets = 8, ports = 2 * sockets
    /// As a power of two: segments of an event ring.
    static let segmentsExponent = 2
    static let mostSegments = 1 << segmentsExponent

    /// The 16 double words at the beginning of BAR 0.
    static let words: [UInt32] = [
        // HCIVERSION 1.0, CAPLENGTH; HCSPARAMS1; HCSPARAMS2.
        0x0100_0000 | UInt32(XHCIRegister.operational),
        UInt32(ports) << 24 | UInt32(interrupters) << 8 | UInt32(slots),
        UInt32(segmentsExponent) << 4,
        // HCSPARAMS3; HCCPARAMS1: 64-bit addresses, extended capabilities at 20h; DBOFF; RTSOFF.
        0, (0x20 / 4) << 16 | 1, UInt32(XHCIRegister.doorbells), UInt32(XHCIRegister.runtime),
        0,
        // Supported protocols: USB 3.0 on the first ports, USB 2.0 on the rest.
        0x0300_0402, usb, UInt32(sockets) << 8 | 1, 0,
        0x0200_0002, usb, UInt32(sockets) << 8 | UInt32(sockets + 1), 0,
    ]
    /// "USB ".
    private static let usb: UInt32 = 0x2042_5355
}

/// USBCMD, §5.4.1.
enum XHCICommandRegister {
    static let run: UInt32 = 1 << 0, reset: UInt32 = 1 << 1, interruptEnable: UInt32 = 1 << 2
    static let lightReset: UInt32 = 1 << 7, save: UInt32 = 1 << 8, restore: UInt32 = 1 << 9
    static let kept: UInt32 = run | interruptEnable | 1 << 3 | 1 << 10 | 1 << 11
}

/// USBSTS, §5.4.2.
enum XHCIStatus {
    static let halted: UInt32 = 1 << 0, systemError: UInt32 = 1 << 2, eventInterrupt: UInt32 = 1 << 3
    static let portChange: UInt32 = 1 << 4, restoreError: UInt32 = 1 << 10
    static let controllerError: UInt32 = 1 << 12
    static let clearable: UInt32 = systemError | eventInterrupt | portChange | restoreError
    static let all: UInt32 = clearable | halted | controllerError
}

/// The lower half of CRCR, §5.4.5.
enum XHCICommandRing {
    static let cycle: UInt32 = 1 << 0, stop: UInt32 = 1 << 1, abort: UInt32 = 1 << 2
    static let running: UInt32 = 1 << 3
}

/// PORTSC, §5.4.8.
enum XHCIPortStatus {
    static let connected: UInt32 = 1 << 0, enabled: UInt32 = 1 << 1, reset: UInt32 = 1 << 4
    static let power: UInt32 = 1 << 9, linkWrite: UInt32 = 1 << 16
    static let connectChange: UInt32 = 1 << 17, enableChange: UInt32 = 1 << 18
    static let warmResetChange: UInt32 = 1 << 19, resetChange: UInt32 = 1 << 21
    static let linkChange: UInt32 = 1 << 22, warmReset: UInt32 = 1 << 31
    static let changes: UInt32 = 0x7F << 17
    /// Indicators, and which events wake the system: kept, without effect.
    static let kept: UInt32 = 3 << 14 | 7 << 25
    static let linkShift: UInt32 = 5, speedShift: UInt32 = 10
}

/// PLS, the link's states that occur here.
enum XHCILink {
    static let active: UInt32 = 0, suspended: UInt32 = 3, noDevice: UInt32 = 5, polling: UInt32 = 7
    static let resume: UInt32 = 15
    static let all: Set<UInt32> = [active, suspended, noDevice, polling, resume]
}

/// IMAN and ERDP of an interrupter, §5.5.2.
enum XHCIInterrupter {
    static let pending: UInt32 = 1 << 0, enable: UInt32 = 1 << 1
    static let handlerBusy: UInt64 = 1 << 3
}

/// Types of transfer request blocks, §6.4.6.
enum TRBType {
    static let normal: UInt32 = 1, setup: UInt32 = 2, data: UInt32 = 3, status: UInt32 = 4
    static let isochronous: UInt32 = 5, link: UInt32 = 6, eventData: UInt32 = 7, noOperation: UInt32 = 8
    static let enableSlot: UInt32 = 9, disableSlot: UInt32 = 10, addressDevice: UInt32 = 11
    static let configureEndpoint: UInt32 = 12, evaluateContext: UInt32 = 13, resetEndpoint: UInt32 = 14
    static let stopEndpoint: UInt32 = 15, setDequeuePointer: UInt32 = 16, resetDevice: UInt32 = 17
    static let noOperationCommand: UInt32 = 23
    static let transferEvent: UInt32 = 32, commandCompletion: UInt32 = 33, portStatusChange: UInt32 = 34
    static let hostController: UInt32 = 37
}

/// Completion codes, §6.4.5.
enum TRBCompletion {
    static let success: UInt32 = 1, dataBufferError: UInt32 = 2, babble: UInt32 = 3
    static let transactionError: UInt32 = 4, blockError: UInt32 = 5, stall: UInt32 = 6
    static let noSlots: UInt32 = 9, slotNotEnabled: UInt32 = 11, endpointNotEnabled: UInt32 = 12
    static let shortPacket: UInt32 = 13, parameterError: UInt32 = 17, contextState: UInt32 = 19
    static let eventRingFull: UInt32 = 21, commandRingStopped: UInt32 = 24, stopped: UInt32 = 26
}

/// Flags in the last double word of a block, §6.4.
enum TRBFlag {
    static let cycle: UInt32 = 1 << 0, toggleCycle: UInt32 = 1 << 1, shortPacket: UInt32 = 1 << 2
    static let chain: UInt32 = 1 << 4, onCompletion: UInt32 = 1 << 5, immediate: UInt32 = 1 << 6
    /// Of commands: the address is not set, the endpoints are all dropped.
    static let noAddress: UInt32 = 1 << 9, deconfigure: UInt32 = 1 << 9
    /// Of a transfer event: its parameter is that of an event data block.
    static let eventData: UInt32 = 1 << 2
}

/// A transfer request block, §4.11: what commands, transfers and events are made of.
/// ```
///   0 parameter   8 status   12 control: type in bits 15..10, flags, cycle in bit 0
/// ```
struct TRB: BitwiseCopyable, Codable, Sendable, Equatable {
    static let size: UInt64 = 16
    /// The half-word with the cycle bit, which software polls.
    static let cycleOffset: UInt64 = 12
    var parameter: UInt64
    var status: UInt32
    var control: UInt32

    var type: UInt32 { control >> 10 & 0x3F }
    var isOfCycle: Bool { control & TRBFlag.cycle != 0 }
    /// Bytes of a buffer.
    var length: Int { Int(status & 0x1_FFFF) }
    var interrupter: Int { Int(status >> 22) }
    var slot: Int { Int(control >> 24) }
    var endpoint: Int { Int(control >> 16 & 0x1F) }
    func has(_ flag: UInt32) -> Bool { control & flag != 0 }
}

/// States of slots and endpoints in their contexts, §6.2.2 and §6.2.3.
enum SlotState: UInt8, Codable, Sendable { case enabled = 0, initial = 1, addressed = 2, configured = 3 }
enum EndpointState: UInt8, Codable, Sendable { case running = 1, halted = 2, stopped = 3, faulty = 4 }

/// Types of endpoints, §6.2.3.
enum EndpointType {
    static let control: UInt8 = 4
}

/// A context of eight double words, §6.2.
struct XHCIContext: BitwiseCopyable, Sendable {
    static let size: UInt64 = 32
    var words: (UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32)
}
