/// Operation codes of a disk (SPC-4 §6, SBC-3 §5).
public enum SCSIOperation {
    public static let testUnitReady: UInt8 = 0x00, requestSense: UInt8 = 0x03, read6: UInt8 = 0x08
    public static let write6: UInt8 = 0x0A, inquiry: UInt8 = 0x12, modeSense6: UInt8 = 0x1A
    public static let startStop: UInt8 = 0x1B, preventRemoval: UInt8 = 0x1E, readCapacity10: UInt8 = 0x25
    public static let read10: UInt8 = 0x28, write10: UInt8 = 0x2A, verify10: UInt8 = 0x2F
    public static let synchronize10: UInt8 = 0x35, unmap: UInt8 = 0x42, modeSense10: UInt8 = 0x5A
    public static let read16: UInt8 = 0x88, write16: UInt8 = 0x8A, verify16: UInt8 = 0x8F
    public static let synchronize16: UInt8 = 0x91, writeSame16: UInt8 = 0x93, serviceIn16: UInt8 = 0x9E
    public static let reportUnits: UInt8 = 0xA0, read12: UInt8 = 0xA8, write12: UInt8 = 0xAA
    /// Of SERVICE ACTION IN(16).
    public static let readCapacity16: UInt8 = 0x10
}

/// Status codes (SAM-5 §5.3.1).
public enum SCSIStatus {
    public static let good: UInt8 = 0, checkCondition: UInt8 = 2
}

/// Why a command failed (SPC-4 §4.5): sense key, additional code and its qualifier.
public struct SCSISense: Error, Equatable, Sendable {
    public let key: UInt8
    public let code: UInt8
    public let qualifier: UInt8

    public init(key: UInt8, code: UInt8, qualifier: UInt8 = 0) {
        self.key = key
        self.code = code
        self.qualifier = qualifier
    }

    public static let none = SCSISense(key: 0, code: 0)
    public static let unreadable = SCSISense(key: 3, code: 0x11), unwritable = SCSISense(key: 3, code: 0x0C)
    public static let unknownCommand = SCSISense(key: 5, code: 0x20)
    public static let outOfRange = SCSISense(key: 5, code: 0x21)
    public static let badField = SCSISense(key: 5, code: 0x24), noUnit = SCSISense(key: 5, code: 0x25)
    public static let badParameter = SCSISense(key: 5, code: 0x26)
    public static let writeProtected = SCSISense(key: 7, code: 0x27)

    /// Fixed format, 18 bytes.
    public var bytes: [UInt8] { [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0] }
}

/// What a command asks for once it is understood.
public enum SCSIAction: Sendable {
    /// Bytes for the initiator, as many as it has room for.
    case data([UInt8])
    case failure(SCSISense)
    case read(first: UInt64, count: UInt64)
    /// Whether it ends only when the data is durable.
    case write(first: UInt64, count: UInt64, isDurable: Bool)
    case flush
    case writeSame(first: UInt64, count: UInt64, unmaps: Bool)
    /// The ranges come as data.
    case unmap(size: Int)
    public static let nothing = SCSIAction.data([])
}
