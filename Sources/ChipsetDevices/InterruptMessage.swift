/// Delivery modes of ICR, redirection entries, LVTs and MSIs (SDM vol. 3 §11.5.1, §11.6.1).
enum DeliveryMode: UInt8, Sendable {
    case fixed = 0, lowestPriority = 1, systemManagement = 2, reserved = 3
    case nonMaskable = 4, initialize = 5, startup = 6, external = 7

    init(bits: UInt32) { self = DeliveryMode(rawValue: UInt8(bits & 7)) ?? .reserved }
}

/// One message on the APIC bus.
struct InterruptMessage: Sendable, Equatable {
    enum Shorthand: UInt8, Sendable { case none = 0, itself = 1, all = 2, allButSelf = 3 }
    var vector: UInt8
    var mode: DeliveryMode
    var isLevel = false
    /// An APIC identifier or a logical set, by `isLogical`; not used with a shorthand or broadcast.
    var destination: UInt32 = 0
    var isLogical = false
    var isBroadcast = false
    var shorthand = Shorthand.none
}

/// What a local APIC answers to, packed in one word so that senders can read it without its lock.
struct APICAddress: Equatable, Sendable {
    /// Bits 31..0 the logical identifier (x2APIC LDR, or xAPIC LDR >> 24), then the flags below.
    var raw: UInt64
    static let x2APIC: UInt64 = 1 << 32
    static let flat: UInt64 = 1 << 33
    static let enabled: UInt64 = 1 << 34
    static let softwareEnabled: UInt64 = 1 << 35

    var isEnabled: Bool { raw & Self.enabled != 0 }
    var isSoftwareEnabled: Bool { raw & Self.softwareEnabled != 0 }

    /// Logical destination matching (SDM vol. 3 §11.6.2.2, §11.12.10.2).
    func matches(logical destination: UInt32) -> Bool {
        let logical = UInt32(truncatingIfNeeded: raw)
        if raw & Self.x2APIC != 0 {
            return destination >> 16 == logical >> 16 && destination & logical & 0xFFFF != 0
        }
        if raw & Self.flat != 0 { return destination & logical & 0xFF != 0 }
        let cluster = destination >> 4 & 0xF
        return (cluster == 0xF || cluster == logical >> 4 & 0xF) && destination & logical & 0xF != 0
    }
}
