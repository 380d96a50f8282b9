internal import ByteLayout

/// Device configuration of an input device (VIRTIO 1.3 §5.8.4): the driver writes `select` and `subselect`,
/// then reads `size` and that many bytes.
///
///     0      1         2    3        8
///     select subselect size reserved payload: a string, a bitmap, le32 minimum maximum fuzz flat resolution,
///                                    or le16 bus vendor product version
enum VirtioInputConfig {
    static let select = 0, subselect = 1, size = 2, payload = 8
    static let count = 136
    /// What `select` asks for (§5.8.4, enum virtio_input_config_select).
    enum Select {
        static let name: UInt8 = 0x01, serial: UInt8 = 0x02, identity: UInt8 = 0x03
        static let properties: UInt8 = 0x10, events: UInt8 = 0x11, axis: UInt8 = 0x12
    }
}

/// Numbers of Linux' input layer (uapi/linux/input-event-codes.h), which the device shares (§5.8.6).
enum InputCode {
    /// Event types.
    static let synchronize: UInt16 = 0, key: UInt16 = 1, relative: UInt16 = 2, absolute: UInt16 = 3
    static let light: UInt16 = 0x11, autorepeat: UInt16 = 0x14
    static let report: UInt16 = 0
    static let x: UInt16 = 0, y: UInt16 = 1
    static let wheel: UInt16 = 8
    static let leftButton: UInt16 = 0x110, rightButton: UInt16 = 0x111, middleButton: UInt16 = 0x112
    static let sideButton: UInt16 = 0x113, extraButton: UInt16 = 0x114
    /// Bits of `ScreenRequest`'s buttons, in their order.
    static let buttons = [leftButton, rightButton, middleButton, sideButton, extraButton]
    static let numberOfLights = 3
}

/// struct virtio_input_event (§5.8.6.2): le16 type, le16 code, le32 value.
struct InputEvent: Codable, Equatable, Sendable {
    static let size = 8
    var type: UInt16
    var code: UInt16
    var value: Int32

    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: type)
        bytes.append(littleEndian: code)
        bytes.append(littleEndian: UInt32(bitPattern: value))
        return bytes
    }
}

/// Which keys the input layer knows by another number than a keyboard's XT code.
enum InputKeys {
    // swift-format-ignore
    /// Codes with a prefix, as they come with bit 7 set, and the key's number.
    private static let prefixed: [UInt8: UInt16] = [
        0x90: 165, 0x99: 163, 0x9C: 96, 0x9D: 97, 0xA0: 113, 0xA2: 164, 0xA4: 166, 0xAE: 114, 0xB0: 115,
        0xB5: 98, 0xB7: 99, 0xB8: 100, 0xC6: 119, 0xC7: 102, 0xC8: 103, 0xC9: 104, 0xCB: 105, 0xCD: 106,
        0xCF: 107, 0xD0: 108, 0xD1: 109, 0xD2: 110, 0xD3: 111, 0xDB: 125, 0xDC: 126, 0xDD: 127,
        0xDE: 116, 0xDF: 142, 0xE3: 143,
    ]
    private static let others: [UInt8: UInt16] = [
        0x54: 99, 0x70: 93, 0x73: 89, 0x79: 92, 0x7B: 94, 0x7D: 124,
    ]
    /// Up to here the numbers are the codes.
    private static let plain: ClosedRange<UInt8> = 1...0x58

    /// The number of the key with an XT code, bit 7 for a prefix; nil when the input layer has none.
    static func number(_ code: UInt8) -> UInt16? {
        if plain.contains(code), code != 0x54, code != 0x55 { return UInt16(code) }
        return prefixed[code] ?? others[code]
    }

    static let all: [UInt16] = (1...UInt8.max).compactMap { number($0) }
}
