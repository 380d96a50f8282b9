internal import ByteLayout

/// Offsets of the type 1 configuration header (PCI-to-PCI Bridge Architecture 1.2 §3.2).
enum BridgeRegister {
    static let primaryBus = 0x18, secondaryBus = 0x19, subordinateBus = 0x1A
    static let ioBase = 0x1C, ioLimit = 0x1D
    static let memoryBase = 0x20, memoryLimit = 0x22
    static let prefetchableBase = 0x24, prefetchableLimit = 0x26
    static let prefetchableUpperBase = 0x28, prefetchableUpperLimit = 0x2C
    static let control = 0x3E
    /// What routing depends on.
    static let routing = primaryBus..<prefetchableUpperLimit + 4

    /// Header type, §3.2.5.9 of PCI 3.0: a bridge.
    static let type: UInt8 = 1
    /// Answers to errors, §3.2.5.18; nothing ever fails here. The other bits are for what cannot be behind a
    /// root port of ours: a VGA, ISA devices; and the reset of the bus, which would be one of the devices.
    static let controlWritable: UInt16 = 0x0003

    /// The header's own registers. After a reset the windows are closed: their ends come before their
    /// beginnings.
    static var registers: [PCIRegister] {
        [
            PCIRegister(ConfigRegister.headerType, type, writable: 0),
            PCIRegister(primaryBus, UInt32(0), writable: 0x00FF_FFFF),
            PCIRegister(ioBase, UInt8(0xF0), writable: 0xF0),
            PCIRegister(ioLimit, UInt8(0x00), writable: 0xF0),
            PCIRegister(memoryBase, UInt16(0xFFF0), writable: 0xFFF0),
            PCIRegister(memoryLimit, UInt16(0x0000), writable: 0xFFF0),
            // Bit 0: the window has 64-bit addresses.
            PCIRegister(prefetchableBase, UInt16(0xFFF1), writable: 0xFFF0),
            PCIRegister(prefetchableLimit, UInt16(0x0001), writable: 0xFFF0),
            PCIRegister(prefetchableUpperBase, UInt32(0), writable: .max),
            PCIRegister(prefetchableUpperLimit, UInt32(0), writable: .max),
            PCIRegister(control, UInt16(0), writable: controlWritable),
        ]
    }
}

/// What the registers of a bridge say about routing.
struct BridgeRouting: Equatable {
    /// Ports and addresses that go to the secondary bus; nil while a window is closed or switched off.
    var io: ClosedRange<UInt64>?
    var memory: ClosedRange<UInt64>?
    var prefetchable: ClosedRange<UInt64>?
    /// Buses behind the bridge, its own secondary bus the first of them; nil before anybody has given it one.
    var buses: ClosedRange<Int>?
    /// Requests from below go up.
    var isMaster = false

    /// Nothing passes.
    init() {}

    /// `read` returns bytes of configuration space: (offset, count).
    init(_ read: (Int, Int) -> UInt32) {
        func field(_ offset: Int, _ count: Int) -> UInt64 { UInt64(read(offset, count)) }
        let command = UInt16(truncatingIfNeeded: read(ConfigRegister.command, 2))
        isMaster = command & ConfigCommand.busMaster != 0
        let secondary = Int(field(BridgeRegister.secondaryBus, 1))
        let subordinate = Int(field(BridgeRegister.subordinateBus, 1))
        // Bus 0 is the root complex's own.
        if secondary > 0, subordinate >= secondary { buses = secondary...subordinate }
        if command & ConfigCommand.ioSpace != 0 {
            io = Self.window(
                (field(BridgeRegister.ioBase, 1) & 0xF0) << 8,
                (field(BridgeRegister.ioLimit, 1) & 0xF0) << 8 | 0xFFF)
        }
        guard command & ConfigCommand.memorySpace != 0 else { return }
        let granule: UInt64 = 0xF_FFFF
        memory = Self.window(
            (field(BridgeRegister.memoryBase, 2) & 0xFFF0) << 16,
            (field(BridgeRegister.memoryLimit, 2) & 0xFFF0) << 16 | granule)
        prefetchable = Self.window(
            (field(BridgeRegister.prefetchableBase, 2) & 0xFFF0) << 16
                | field(BridgeRegister.prefetchableUpperBase, 4) << 32,
            (field(BridgeRegister.prefetchableLimit, 2) & 0xFFF0) << 16
                | field(BridgeRegister.prefetchableUpperLimit, 4) << 32 | granule)
    }

    private static func window(_ first: UInt64, _ last: UInt64) -> ClosedRange<UInt64>? {
        first <= last ? first...last : nil
    }
}

/// PCI Express capability of version 2 (PCI Express 4.0 §7.5.3), without power management, errors that are
/// told, and anything else that could change. Offsets count from its header.
enum ExpressCapability {
    private static let size = 0x3C
    private static let version: UInt16 = 2

    private struct Fields {
        var body = [UInt8](repeating: 0, count: ExpressCapability.size - 2)
        var writable = [UInt8](repeating: 0, count: ExpressCapability.size - 2)

        mutating func put<T: FixedWidthInteger>(_ offset: Int, _ value: T, writable bits: T = 0) {
            body.store(littleEndian: value, at: offset - 2)
            writable.store(littleEndian: bits, at: offset - 2)
        }
        var capability: PCICapability {
            PCICapability(id: PCICapabilityID.express, body: body, writable: writable)
        }
    }

    /// What both ends of a link have: `kind` holds type and slot bits.
    private static func fields(_ kind: UInt16, port: UInt8, isLinked: Bool) -> Fields {
        var fields = Fields()
        fields.put(0x02, version | kind)
        // Payloads of 128 bytes, errors reported by their role; then control.
        fields.put(0x04, UInt32(0x8000))
        fields.put(0x08, UInt16(0), writable: 0x70EF)
        // One lane of 2.5 GT/s; control; what is negotiated.
        fields.put(0x0C, UInt32(port) << 24 | 0x11)
        fields.put(0x10, UInt16(0), writable: 0x00C8)
        fields.put(0x12, UInt16(isLinked ? 0x11 : 0x01))
        // Control; speeds, and the one that is wanted.
        fields.put(0x28, UInt16(0), writable: 0x001F)
        fields.put(0x2C, UInt32(0x02))
        fields.put(0x30, UInt16(0x0001), writable: 0x000F)
        return fields
    }

    /// A root port with a slot.
    static func rootPort(number: UInt8, isOccupied: Bool) -> PCICapability {
        var fields = fields(0x0140, port: number, isLinked: isOccupied)
        // The slot's number; control; whether something is there. Then control of the root.
        fields.put(0x14, UInt32(number) << 19)
        fields.put(0x18, UInt16(0), writable: 0x0FFF)
        fields.put(0x1A, UInt16(isOccupied ? 0x0040 : 0))
        fields.put(0x1C, UInt16(0), writable: 0x000F)
        return fields.capability
    }

    static var endpoint: PCICapability { fields(0, port: 0, isLinked: true).capability }
}

/// Other capabilities of a root port.
enum RootPortCapability {
    /// One message with a 64-bit address (PCI 3.0 §6.8.1). A port has nothing to say: neither hot plug nor
    /// power management events nor errors.
    static var messages: PCICapability {
        var body = [UInt8](repeating: 0, count: 12), writable = body
        body.store(littleEndian: UInt16(0x0080), at: 0)
        writable.store(littleEndian: UInt16(0x0001), at: 0)
        writable.store(littleEndian: UInt32(0xFFFF_FFFC), at: 2)
        writable.store(littleEndian: UInt32.max, at: 6)
        writable.store(littleEndian: UInt16.max, at: 10)
        return PCICapability(id: PCICapabilityID.msi, body: body, writable: writable)
    }

    /// The subsystem, which a bridge's header has no room for (Bridge Architecture 1.2 §3.2.5.13).
    static func subsystem(vendor: UInt16, _ subsystem: UInt16) -> PCICapability {
        var body: [UInt8] = [0, 0]
        body.append(littleEndian: vendor)
        body.append(littleEndian: subsystem)
        return PCICapability(id: PCICapabilityID.bridgeSubsystem, body: body)
    }
}
