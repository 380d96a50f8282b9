internal import ByteLayout

/// A tablet: a pointing device that knows places, USB HID 1.11. Every system's HID driver takes it for a
/// mouse.
///
/// Confinement: a value; its controller locks.
struct HIDTablet: USBFunction {
    /// What it tells at a time.
    struct Report: Codable, Sendable, Equatable {
        var x: UInt16 = 0, y: UInt16 = 0
        /// Steps away from the user.
        var wheel: Int8 = 0
        /// Left, right and middle in bits 0 to 2; side buttons in 3 and 4.
        var buttons: UInt8 = 0

        var bytes: [UInt8] {
            [
                buttons, UInt8(x & 0xFF), UInt8(x >> 8), UInt8(y & 0xFF), UInt8(y >> 8),
                UInt8(bitPattern: wheel),
            ]
        }
    }

    /// The right and the lower end of the tablet.
    static let farthest: UInt16 = 0x7FFF
    /// Clicks that wait for a guest that does not look; movement between two of them is forgotten.
    static let mostReports = 16

    var standing = USBStanding()
    private(set) var reports: [Report] = []
    private(set) var last = Report()
    private(set) var idle: UInt8 = 0
    private(set) var usesReports = true

    var isPossible: Bool { reports.count <= Self.mostReports }

    /// Five buttons, two places from 0 to 32,767 and a wheel, HID 1.11 §6.2.2.
    // swift-format-ignore
    static let description: [UInt8] = [
        0x05, 0x01, 0x09, 0x02, 0xA1, 0x01, 0x09, 0x01, 0xA1, 0x00,  // desktop; mouse; pointer
        0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01,  // buttons 1 to 5
        0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x03, 0x81, 0x01,
        0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xFF, 0x7F,  // X and Y, absolute
        0x35, 0x00, 0x46, 0xFF, 0x7F, 0x75, 0x10, 0x95, 0x02, 0x81, 0x02,
        0x09, 0x38, 0x15, 0x81, 0x25, 0x7F, 0x35, 0x00, 0x45, 0x00,  // wheel, relative
        0x75, 0x08, 0x95, 0x01, 0x81, 0x06, 0xC0, 0xC0,
    ]

    var identity: USBIdentity {
        USBIdentity(
            speed: .high, product: 1, name: "Ospite Tablet", serial: "1", interface: (3, 0, 0),
            classDescriptor: HIDClass.descriptor(of: Self.description),
            endpoints: [.init(address: 0x81, attributes: 3, packet: 8, interval: 4)], wakes: true)
    }

    /// The pointer is at a place, or a button or the wheel moved. Whether that is news.
    mutating func point(_ report: Report) -> Bool {
        var report = report
        report.x = min(report.x, Self.farthest)
        report.y = min(report.y, Self.farthest)
        report.buttons &= 0x1F
        let isStill = report.wheel == 0 && report.x == last.x && report.y == last.y
        guard !isStill || report.buttons != last.buttons else { return false }
        let isFull = reports.count == Self.mostReports
        if let waiting = reports.last, waiting.buttons == report.buttons || isFull {
            report.wheel = Int8(clamping: Int(waiting.wheel) + Int(report.wheel))
            reports.removeLast()
        }
        reports.append(report)
        last = report
        last.wheel = 0
        return true
    }

    mutating func transfer(_ transfer: USBTransfer) -> USBOutcome {
        guard transfer.isIn, transfer.endpoint == 1 else { return .stalls }
        guard !reports.isEmpty else { return .waits }
        return .given(Array(reports.removeFirst().bytes.prefix(transfer.count)))
    }

    mutating func answer(_ setup: USBSetup, _ data: [UInt8]) -> [UInt8]? {
        switch HIDClass.answer(setup, description: Self.description, &idle, &usesReports) {
        case .bytes(let bytes): return bytes
        case .report: return last.bytes
        // There is nothing to set.
        case .output: return []
        case .stall: return nil
        }
    }

    mutating func reset() { self = HIDTablet() }
}

/// What human interface devices have in common, HID 1.11 §6.2.1 and §7.2.
enum HIDClass {
    enum Answer { case bytes([UInt8]), report, output, stall }

    static func descriptor(of description: [UInt8]) -> [UInt8] {
        [
            9, USBDescriptorType.human, 0x11, 0x01, 0, 1, USBDescriptorType.report,
            UInt8(description.count & 0xFF), UInt8(description.count >> 8),
        ]
    }

    /// The rate at which reports are repeated is kept; nobody repeats them.
    static func answer(
        _ setup: USBSetup, description: [UInt8], _ idle: inout UInt8, _ usesReports: inout Bool
    ) -> Answer {
        if setup.isStandard {
            guard setup.request == USBRequest.getDescriptor, setup.type == 0x81 else { return .stall }
            switch UInt8(setup.value >> 8) {
            case USBDescriptorType.human: return .bytes(descriptor(of: description))
            case USBDescriptorType.report: return .bytes(description)
            default: return .stall
            }
        }
        switch (setup.type, setup.request) {
        case (0xA1, HIDRequest.getReport): return .report
        case (0xA1, HIDRequest.getIdle): return .bytes([idle])
        case (0xA1, HIDRequest.getProtocol): return .bytes([usesReports ? 1 : 0])
        case (0x21, HIDRequest.setReport): return .output
        case (0x21, HIDRequest.setIdle): idle = UInt8(setup.value >> 8)
        case (0x21, HIDRequest.setProtocol): usesReports = setup.value != 0
        default: return .stall
        }
        return .bytes([])
    }
}
