internal import ByteLayout

/// What a device says of itself: descriptors, USB 2.0 §9.6 and USB 3.0 §9.6.
struct USBIdentity: Sendable {
    /// One endpoint besides endpoint 0: its address with the direction in bit 7.
    struct Endpoint: Sendable {
        var address: UInt8
        /// 2: bulk, 3: interrupt.
        var attributes: UInt8
        var packet: UInt16
        /// A power of two of microframes, plus one.
        var interval: UInt8 = 0
        /// Packets in a row, less one; SuperSpeed's companion says so.
        var burst: UInt8 = 0
    }

    /// Numbers for tests that pid.codes gives to everybody: there is none of our own.
    static let vendor: UInt16 = 0x1209
    /// A configuration needs at most so many of 2 mA.
    private static let power: UInt8 = 50

    let speed: USBSpeed
    let product: UInt16
    let name: String
    let serial: String
    /// Class, subclass and protocol of the only interface.
    let interface: (UInt8, UInt8, UInt8)
    /// Between the interface and its endpoints.
    var classDescriptor: [UInt8] = []
    let endpoints: [Endpoint]
    /// May ask the host to wake up.
    var wakes = false

    /// Nil when there is none of the type.
    func descriptor(type: UInt8, index: UInt8) -> [UInt8]? {
        switch type {
        case USBDescriptorType.device: return device
        case USBDescriptorType.configuration: return index == 0 ? configuration : nil
        case USBDescriptorType.string: return string(index)
        case USBDescriptorType.objectStore: return speed == .superior ? Self.objectStore : nil
        default: return nil
        }
    }

    private var device: [UInt8] {
        let isSuper = speed == .superior
        var bytes: [UInt8] = [18, USBDescriptorType.device, 0, isSuper ? 3 : 2, 0, 0, 0]
        // SuperSpeed gives the size of packets as a power of two.
        bytes.append(isSuper ? 9 : 64)
        bytes.append(littleEndian: Self.vendor)
        bytes.append(littleEndian: product)
        return bytes + [0, 1, 1, 2, 3, 1]
    }

    private var configuration: [UInt8] {
        var body: [UInt8] = [
            9, USBDescriptorType.interface, 0, 0, UInt8(endpoints.count), interface.0, interface.1,
            interface.2, 0,
        ]
        body += classDescriptor
        for endpoint in endpoints {
            body += [7, USBDescriptorType.endpoint, endpoint.address, endpoint.attributes]
            body.append(littleEndian: endpoint.packet)
            body.append(endpoint.interval)
            if speed == .superior { body += [6, USBDescriptorType.companion, endpoint.burst, 0, 0, 0] }
        }
        var bytes: [UInt8] = [9, USBDescriptorType.configuration]
        bytes.append(littleEndian: UInt16(9 + body.count))
        return bytes + [1, 1, 0, wakes ? 0xA0 : 0x80, Self.power] + body
    }

    private func string(_ index: UInt8) -> [UInt8]? {
        // American English, as everybody has it.
        if index == 0 { return [4, USBDescriptorType.string, 0x09, 0x04] }
        let texts = ["Ospite", name, serial]
        guard (1...texts.count).contains(Int(index)) else { return nil }
        var bytes: [UInt8] = []
        for unit in texts[Int(index) - 1].utf16.prefix(126) { bytes.append(littleEndian: unit) }
        return [UInt8(2 + bytes.count), USBDescriptorType.string] + bytes
    }

    /// The binary object store: a USB 2.0 extension without link power management, and SuperSpeed only.
    private static let objectStore: [UInt8] =
        [5, USBDescriptorType.objectStore, 22, 0, 2]
        + [7, USBDescriptorType.capability, 2, 0, 0, 0, 0]
        + [10, USBDescriptorType.capability, 3, 0, 8, 0, 3, 0, 0, 0]
}
