/// Speeds as the port status has them, xHCI 1.1 §7.2.2.1.1.
enum USBSpeed: UInt32, Sendable { case full = 1, low = 2, high = 3, superior = 4 }

/// The eight bytes that begin a control transfer, USB 2.0 §9.3.
/// ```
///   0 type: direction, kind, recipient   1 request   2 value   4 index   6 length
/// ```
struct USBSetup: Codable, Sendable, Equatable {
    var type: UInt8
    var request: UInt8
    var value: UInt16
    var index: UInt16
    var length: UInt16

    init(_ packet: UInt64) {
        type = UInt8(truncatingIfNeeded: packet)
        request = UInt8(truncatingIfNeeded: packet >> 8)
        value = UInt16(truncatingIfNeeded: packet >> 16)
        index = UInt16(truncatingIfNeeded: packet >> 32)
        length = UInt16(truncatingIfNeeded: packet >> 48)
    }

    /// From the device to the host.
    var isIn: Bool { type & 0x80 != 0 }
    /// Kind and recipient, with the direction.
    var isStandard: Bool { type >> 5 & 3 == 0 }
}

/// Standard requests, USB 2.0 §9.4 and USB 3.0 §9.4.
enum USBRequest {
    static let getStatus: UInt8 = 0, clearFeature: UInt8 = 1, setFeature: UInt8 = 3, setAddress: UInt8 = 5
    static let getDescriptor: UInt8 = 6, getConfiguration: UInt8 = 8, setConfiguration: UInt8 = 9
    static let getInterface: UInt8 = 10, setInterface: UInt8 = 11, setLatencies: UInt8 = 48
    static let setDelay: UInt8 = 49
}

/// Recipients of requests.
enum USBRecipient { static let device: UInt8 = 0, interface: UInt8 = 1, endpoint: UInt8 = 2 }

/// Feature selectors, USB 2.0 §9.4, USB 3.0 §9.4.
enum USBFeature {
    static let endpointHalt: UInt16 = 0, remoteWakeup: UInt16 = 1
    /// Power states of links, which nobody would notice.
    static let link: ClosedRange<UInt16> = 48...50
}

/// Descriptor types, USB 2.0 §9.4, USB 3.0 §9.4, HID 1.11 §7.1.
enum USBDescriptorType {
    static let device: UInt8 = 1, configuration: UInt8 = 2, string: UInt8 = 3, interface: UInt8 = 4
    static let endpoint: UInt8 = 5, objectStore: UInt8 = 15, capability: UInt8 = 16
    static let human: UInt8 = 0x21, report: UInt8 = 0x22, companion: UInt8 = 0x30
}

/// Requests of the class of human interface devices, HID 1.11 §7.2.
enum HIDRequest {
    static let getReport: UInt8 = 1, getIdle: UInt8 = 2, getProtocol: UInt8 = 3
    static let setReport: UInt8 = 9, setIdle: UInt8 = 10, setProtocol: UInt8 = 11
}

/// Requests and wrappers of the mass storage class, Bulk-Only Transport 1.0 §3 and §5.
enum BulkOnly {
    static let getMaximumUnit: UInt8 = 0xFE, reset: UInt8 = 0xFF
    static let commandSignature: UInt32 = 0x4342_5355, statusSignature: UInt32 = 0x5342_5355
    static let commandSize = 31, statusSize = 13
    /// Of a status wrapper.
    static let passed: UInt8 = 0, failed: UInt8 = 1, phaseError: UInt8 = 2
}
