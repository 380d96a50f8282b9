/// Register numbers: xAPIC page offset / 16, and x2APIC MSR - 800h (SDM vol. 3 tables 11-1 and 11-6).
enum APICRegister {
    static let identifier: UInt32 = 0x02
    static let version: UInt32 = 0x03
    static let taskPriority: UInt32 = 0x08
    static let arbitrationPriority: UInt32 = 0x09
    static let processorPriority: UInt32 = 0x0A
    static let endOfInterrupt: UInt32 = 0x0B
    static let remoteRead: UInt32 = 0x0C
    static let logicalDestination: UInt32 = 0x0D
    static let destinationFormat: UInt32 = 0x0E
    static let spuriousVector: UInt32 = 0x0F
    static let inService: ClosedRange<UInt32> = 0x10...0x17
    static let triggerMode: ClosedRange<UInt32> = 0x18...0x1F
    static let requests: ClosedRange<UInt32> = 0x20...0x27
    static let errorStatus: UInt32 = 0x28
    static let commandLow: UInt32 = 0x30
    static let commandHigh: UInt32 = 0x31
    static let localVectors: ClosedRange<UInt32> = 0x32...0x37
    static let initialCount: UInt32 = 0x38
    static let currentCount: UInt32 = 0x39
    static let divideConfiguration: UInt32 = 0x3E
    static let selfInterrupt: UInt32 = 0x3F
}

/// The entries of the local vector table, in register order.
enum LocalVector: Int, CaseIterable, Sendable {
    case timer = 0, thermal, performance, lint0, lint1, error

    static let masked: UInt32 = 1 << 16
    static let level: UInt32 = 1 << 15
    static let remoteRequest: UInt32 = 1 << 14
    /// Timer mode, bits 18..17: 0 one-shot, 1 periodic, 2 TSC-deadline.
    static let timerModeMask: UInt32 = 3 << 17
    static let periodic: UInt32 = 1 << 17
    static let tscDeadline: UInt32 = 2 << 17

    /// The bits that software can write.
    var writable: UInt32 {
        switch self {
        case .timer: return 0xFF | Self.masked | Self.timerModeMask
        case .thermal, .performance: return 0x7FF | Self.masked
        case .lint0, .lint1: return 0x7FF | 1 << 13 | Self.level | Self.masked
        case .error: return 0xFF | Self.masked
        }
    }
}

/// Fixed values and bits of the other registers.
enum APICLayout {
    /// 16-byte registers, 6 LVT entries, and EOI-broadcast suppression (SDM vol. 3 §11.4.8).
    static let version: UInt32 = 0x14 | 5 << 16 | 1 << 24
    static let softwareEnable: UInt32 = 1 << 8
    static let suppressBroadcast: UInt32 = 1 << 12
    /// Vector, software enable, focus checking, EOI-broadcast suppression.
    static let spuriousWritable: UInt32 = 0x13FF
    /// Destination format: flat (Fh) or cluster (0h) in bits 31..28, the rest ones.
    static let flatFormat: UInt32 = 0xFFFF_FFFF
    /// ICR bits 31..20, 17..16 and 13 are reserved; bit 12 (delivery status) is read-only.
    static let commandReserved: UInt64 = 0xFFF3_2000
    static let commandWritable: UInt32 = 0xC_CFFF
    /// ESR bits (SDM vol. 3 figure 11-9).
    static let sendIllegalVector: UInt32 = 1 << 5
    static let receiveIllegalVector: UInt32 = 1 << 6
    static let illegalRegister: UInt32 = 1 << 7
}

/// IA32_APIC_BASE bits (SDM vol. 3 §11.4.4, §11.12.1).
enum APICBase {
    static let address: UInt64 = 0xFEE0_0000
    static let bootstrapProcessor: UInt64 = 1 << 8
    static let x2APICEnable: UInt64 = 1 << 10
    static let enable: UInt64 = 1 << 11
    static let reserved: UInt64 = 0x2FF
}
