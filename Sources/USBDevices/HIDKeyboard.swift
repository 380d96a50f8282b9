/// A keyboard that firmware understands too: the boot protocol of HID 1.11, appendix B.
///
/// Confinement: a value; its controller locks.
struct HIDKeyboard: USBFunction {
    /// Reports that wait; what comes then is told with the last one.
    static let mostReports = 32
    /// Keys in a report besides modifiers; with more of them it says only that there are too many.
    private static let mostKeys = 6
    private static let tooMany: UInt8 = 1

    var standing = USBStanding()
    private(set) var reports: [[UInt8]] = []
    /// Usages of keys that are down, in the order in which they went down.
    private(set) var pressed: [UInt8] = []
    private(set) var modifiers: UInt8 = 0
    /// Num Lock, Caps Lock and Scroll Lock in bits 0 to 2, as the guest has set them.
    private(set) var lamps: UInt8 = 0
    private(set) var idle: UInt8 = 0
    private(set) var usesReports = true

    var isPossible: Bool {
        reports.count <= Self.mostReports && reports.allSatisfy { $0.count == 8 }
            && pressed.count <= HIDUsage.keys.count
    }

    /// Eight modifiers, a reserved byte, lamps, and six keys, as the boot protocol has them.
    // swift-format-ignore
    static let description: [UInt8] = [
        0x05, 0x01, 0x09, 0x06, 0xA1, 0x01,  // desktop; keyboard
        0x05, 0x07, 0x19, 0xE0, 0x29, 0xE7, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02,
        0x95, 0x01, 0x75, 0x08, 0x81, 0x01,
        0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x95, 0x05, 0x75, 0x01, 0x91, 0x02,  // lamps
        0x95, 0x01, 0x75, 0x03, 0x91, 0x01,
        0x05, 0x07, 0x19, 0x00, 0x29, 0xFF, 0x15, 0x00, 0x26, 0xFF, 0x00,  // keys
        0x95, 0x06, 0x75, 0x08, 0x81, 0x00, 0xC0,
    ]

    var identity: USBIdentity {
        USBIdentity(
            speed: .high, product: 2, name: "Ospite Keyboard", serial: "1", interface: (3, 1, 1),
            classDescriptor: HIDClass.descriptor(of: Self.description),
            endpoints: [.init(address: 0x81, attributes: 3, packet: 8, interval: 7)], wakes: true)
    }

    /// A key goes down or up: by what the XT sends for it, with bit 7 for those with E0h before. Whether
    /// that is news; a key that is held is none.
    mutating func key(_ code: UInt8, isDown: Bool) -> Bool {
        guard let usage = HIDUsage.keys[code] else { return false }
        let before = (pressed, modifiers)
        if HIDUsage.modifiers.contains(usage) {
            let bit: UInt8 = 1 << (usage - HIDUsage.modifiers.lowerBound)
            modifiers = isDown ? modifiers | bit : modifiers & ~bit
        } else if !isDown {
            pressed.removeAll { $0 == usage }
        } else if !pressed.contains(usage) {
            pressed.append(usage)
        }
        guard before != (pressed, modifiers) else { return false }
        if reports.count == Self.mostReports { reports.removeLast() }
        reports.append(report)
        return true
    }

    private var report: [UInt8] {
        let keys =
            pressed.count > Self.mostKeys
            ? [UInt8](repeating: Self.tooMany, count: Self.mostKeys)
            : pressed + [UInt8](repeating: 0, count: Self.mostKeys - pressed.count)
        return [modifiers, 0] + keys
    }

    mutating func transfer(_ transfer: USBTransfer) -> USBOutcome {
        guard transfer.isIn, transfer.endpoint == 1 else { return .stalls }
        guard !reports.isEmpty else { return .waits }
        return .given(Array(reports.removeFirst().prefix(transfer.count)))
    }

    mutating func answer(_ setup: USBSetup, _ data: [UInt8]) -> [UInt8]? {
        switch HIDClass.answer(setup, description: Self.description, &idle, &usesReports) {
        case .bytes(let bytes): return bytes
        case .report: return report
        case .output:
            lamps = (data.first ?? 0) & 0x1F
            return []
        case .stall: return nil
        }
    }

    mutating func reset() { self = HIDKeyboard() }
}

/// Keyboard usages, HID Usage Tables 1.4 §10.
enum HIDUsage {
    static let modifiers: ClosedRange<UInt8> = 0xE0...0xE7

    /// Of XT scan codes from 01h on; 0: there is no key.
    // swift-format-ignore
    private static let plain: [UInt8] = [
        0x29, 0x1E, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2D, 0x2E, 0x2A, 0x2B,  // Escape
        0x14, 0x1A, 0x08, 0x15, 0x17, 0x1C, 0x18, 0x0C, 0x12, 0x13, 0x2F, 0x30, 0x28, 0xE0,        // Q
        0x04, 0x16, 0x07, 0x09, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F, 0x33, 0x34, 0x35, 0xE1, 0x31,        // A
        0x1D, 0x1B, 0x06, 0x19, 0x05, 0x11, 0x10, 0x36, 0x37, 0x38, 0xE5, 0x55, 0xE2, 0x2C, 0x39,  // Z
        0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F, 0x40, 0x41, 0x42, 0x43, 0x53, 0x47,                    // F1
        0x5F, 0x60, 0x61, 0x56, 0x5C, 0x5D, 0x5E, 0x57, 0x59, 0x5A, 0x5B, 0x62, 0x63,              // keypad
        0x46, 0x00, 0x64, 0x44, 0x45,                                                              // SysRq
    ]
    /// Of codes with E0h before them: Enter, right Ctrl, keypad /, Print Screen, right Alt, Pause, Home,
    /// arrows and their neighbours, Windows keys.
    // swift-format-ignore
    private static let extended: [(UInt8, UInt8)] = [
        (0x1C, 0x58), (0x1D, 0xE4), (0x35, 0x54), (0x37, 0x46), (0x38, 0xE6), (0x46, 0x48), (0x47, 0x4A),
        (0x48, 0x52), (0x49, 0x4B), (0x4B, 0x50), (0x4D, 0x4F), (0x4F, 0x4D), (0x50, 0x51), (0x51, 0x4E),
        (0x52, 0x49), (0x53, 0x4C), (0x5B, 0xE3), (0x5C, 0xE7), (0x5D, 0x65),
    ]

    /// By XT scan code, with bit 7 for those with E0h before.
    static let keys: [UInt8: UInt8] = {
        var keys: [UInt8: UInt8] = [:]
        for (index, usage) in plain.enumerated() where usage != 0 { keys[UInt8(index + 1)] = usage }
        for (code, usage) in extended { keys[code | 0x80] = usage }
        return keys
    }()
}
