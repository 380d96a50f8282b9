internal import ByteLayout

/// All ACPI tables of a platform, in one deterministic order.
struct ACPITableSet {
    /// The tables that the RSDT and XSDT list; FACS and DSDT hang on the FADT.
    private(set) var tables: [ACPITable]

    init(_ platform: PlatformDescription) throws(FirmwareTableError) {
        guard platform.apicIDs.count <= 4096 else {
            throw .notExpressible("more than 4096 processors")
        }
        guard platform.serialPorts.count <= 4 else { throw .notExpressible("more than four serial ports") }
        guard platform.pciInterrupts.count == 4, platform.pciLegacyInterrupts.count == 4 else {
            throw .notExpressible("PCI interrupts other than four")
        }
        let windows = [platform.ecam, platform.pciWindow32] + platform.morePCIWindows32
        guard windows.allSatisfy({ $0.last < 1 << 32 }), platform.ecam.size >= 1 << 20 else {
            throw .notExpressible("a PCI window above 4 GiB as a 32-bit window")
        }

        guard platform.virtio.count <= 256, platform.virtio.allSatisfy({ $0.window.last < 1 << 32 }) else {
            throw .notExpressible("more than 256 virtio devices, or one above 4 GiB")
        }

        var listed = [FixedTable.build(platform), InterruptTable.build(platform)]
        if platform.hasPCI { listed.append(Self.configurationSpace(platform)) }
        if let address = platform.hpetAddress { listed.append(Self.eventTimer(address)) }
        listed.append(Self.emulatedDevices)
        tables = [
            Self.firmwareControl,
            ACPITable("DSDT", revision: 2, body: DifferentiatedTable(platform: platform).aml),
        ]
        tables += listed
        tables.append(Self.root("RSDT", pointerSize: 4, listed))
        tables.append(Self.root("XSDT", pointerSize: 8, listed))
    }

    /// RSDT (§5.2.7) or XSDT (§5.2.8).
    private static func root(_ signature: String, pointerSize: Int, _ listed: [ACPITable]) -> ACPITable {
        var table = ACPITable(
            signature, revision: 1, body: [UInt8](repeating: 0, count: pointerSize * listed.count))
        for (index, entry) in listed.enumerated() {
            table.point(
                at: entry.signature, from: ACPITable.headerSize + index * pointerSize, size: pointerSize)
        }
        return table
    }

    /// FACS version 2 (§5.2.10): the global lock and the waking vector.
    private static var firmwareControl: ACPITable {
        var bytes = Array("FACS".utf8) + [UInt8](repeating: 0, count: 60)
        bytes.store(littleEndian: UInt32(64), at: 4)
        bytes[32] = 2
        return ACPITable("FACS", bare: bytes, alignment: 64)
    }

    /// MCFG (PCI Firmware 3.3 §4.1.2).
    private static func configurationSpace(_ platform: PlatformDescription) -> ACPITable {
        var body = [UInt8](repeating: 0, count: 8)
        body.append(littleEndian: platform.ecam.start)
        body += [0, 0, 0, UInt8(min(platform.ecam.size >> 20, 256) - 1), 0, 0, 0, 0]
        return ACPITable("MCFG", revision: 1, body: body)
    }

    /// HPET (IA-PC HPET 1.0a §3.2.4): Intel, three 64-bit timers, legacy replacement.
    private static func eventTimer(_ address: UInt32) -> ACPITable {
        var body: [UInt8] = []
        body.append(littleEndian: UInt32(0x8086_A201))
        body += [0, 64, 0, 0]
        body.append(littleEndian: UInt64(address))
        body.append(0)
        body.append(littleEndian: UInt16(0x80))
        body.append(0)
        return ACPITable("HPET", revision: 1, body: body)
    }

    /// WAET (Windows ACPI Emulated Devices Table): one read of the PM timer suffices, and RTC interrupts need
    /// no extra reads of register C.
    private static var emulatedDevices: ACPITable {
        ACPITable("WAET", revision: 1, body: [3, 0, 0, 0])
    }

    /// RSDP, revision 2 (§5.2.5.3).
    static func rootPointer(rsdt: UInt64, xsdt: UInt64) -> [UInt8] {
        var bytes = Array("RSD PTR ".utf8) + [0] + Array("OSPITE".utf8) + [2]
        bytes.append(littleEndian: UInt32(truncatingIfNeeded: rsdt))
        bytes[8] = checksumComplement(bytes)
        bytes.append(littleEndian: UInt32(36))
        bytes.append(littleEndian: xsdt)
        bytes += [0, 0, 0, 0]
        bytes[32] = checksumComplement(bytes)
        return bytes
    }

    /// One table with its guest address, pointers filled in.
    struct Placed: Equatable {
        let signature: String
        let address: UInt64
        let bytes: [UInt8]
    }

    /// The tables from `start` on, in order, each at its alignment; the RSDP first.
    func placed(at start: UInt64) -> [Placed] {
        var addresses: [String: UInt64] = [:]
        var next = start + 64
        for table in tables {
            let alignment = UInt64(table.alignment)
            next = (next + alignment - 1) & ~(alignment - 1)
            addresses[table.signature] = next
            next += UInt64(table.bytes.count)
        }
        let pointer = Self.rootPointer(rsdt: addresses["RSDT"] ?? 0, xsdt: addresses["XSDT"] ?? 0)
        return [Placed(signature: "RSDP", address: start, bytes: pointer)]
            + tables.map { table in
                var table = table
                table.resolve { addresses[$0] ?? 0 }
                return Placed(
                    signature: table.signature, address: addresses[table.signature] ?? 0, bytes: table.bytes)
            }
    }
}
