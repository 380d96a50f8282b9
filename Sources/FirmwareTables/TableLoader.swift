internal import ByteLayout

/// The tables of a machine whose firmware places them itself: files for the firmware configuration device,
/// and a script that says how to link them.
public struct LoadableTables: Sendable, Equatable {
    /// "etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader", "etc/smbios/smbios-anchor" and
    /// "etc/smbios/smbios-tables".
    public enum File {
        public static let rootPointer = "etc/acpi/rsdp", tables = "etc/acpi/tables"
        public static let script = "etc/table-loader"
        public static let systemAnchor = "etc/smbios/smbios-anchor"
        public static let systemTables = "etc/smbios/smbios-tables"
    }
    public let rootPointer: [UInt8]
    public let tables: [UInt8]
    public let script: [UInt8]
    public let systemAnchor: [UInt8]
    public let systemTables: [UInt8]

    /// The same descriptions always give the same bytes.
    public init(_ platform: PlatformDescription, _ system: SystemDescription) throws(FirmwareTableError) {
        guard system.uuid.count == 16 else { throw .notExpressible("a UUID that has not 16 bytes") }
        let set = try ACPITableSet(platform)
        var script = LoaderScript()
        script.allocate(File.rootPointer, alignment: 16, zone: .biosArea)
        script.allocate(File.tables, alignment: 64, zone: .high)

        var places: [String: Int] = [:], size = 0
        for table in set.tables {
            size = (size + table.alignment - 1) & ~(table.alignment - 1)
            places[table.signature] = size
            size += table.bytes.count
        }
        var bytes = [UInt8](repeating: 0, count: size)
        for var table in set.tables {
            let place = places[table.signature] ?? 0
            // An offset in the file; the loader adds the file's address.
            table.resolve { UInt64(places[$0] ?? 0) }
            bytes.replaceSubrange(place..<place + table.bytes.count, with: table.bytes)
            for pointer in table.pointers {
                script.addPointer(
                    in: File.tables, at: place + pointer.offset, size: pointer.size, to: File.tables)
            }
            if table.hasHeader {
                bytes[place + ACPITable.checksumOffset] = 0
                script.addChecksum(
                    in: File.tables, at: place + ACPITable.checksumOffset, place, table.bytes.count)
            }
        }
        tables = bytes
        var root = ACPITableSet.rootPointer(
            rsdt: UInt64(places["RSDT"] ?? 0), xsdt: UInt64(places["XSDT"] ?? 0))
        script.addPointer(in: File.rootPointer, at: 16, size: 4, to: File.tables)
        script.addPointer(in: File.rootPointer, at: 24, size: 8, to: File.tables)
        // The sum of the first 20 bytes, then that of all (ACPI 6.5 §5.2.5.3).
        for (place, count) in [(8, 20), (32, 36)] {
            root[place] = 0
            script.addChecksum(in: File.rootPointer, at: place, 0, count)
        }
        rootPointer = root
        self.script = script.bytes
        let smbios = SMBIOSTables(system: system)
        systemTables = smbios.table
        // The firmware fills the address in.
        systemAnchor = smbios.legacyEntryPoint(table: 0)
    }
}

/// The commands of "etc/table-loader" (QEMU hw/acpi/bios-linker-loader, little-endian): 128 bytes each.
/// ```
///  allocate   1 | file[56] | le32 alignment | u8 zone
///  pointer    2 | file[56] with the pointer | file[56] pointed to | le32 offset | u8 size
///  checksum   3 | file[56] | le32 offset of the sum | le32 start | le32 length
/// ```
private struct LoaderScript {
    enum Zone: UInt8 {
        /// Anywhere below 4 GiB.
        case high = 1
        /// 0xE0000..0xFFFFF, where systems look for the RSDP.
        case biosArea = 2
    }
    private static let commandSize = 128, nameSize = 56
    private(set) var bytes: [UInt8] = []

    private mutating func append(_ command: UInt32, _ fields: (inout [UInt8]) -> Void) {
        var entry: [UInt8] = []
        entry.append(littleEndian: command)
        fields(&entry)
        bytes += entry + [UInt8](repeating: 0, count: Self.commandSize - entry.count)
    }

    private static func name(_ file: String) -> [UInt8] {
        let name = Array(file.utf8)
        return name + [UInt8](repeating: 0, count: nameSize - name.count)
    }

    mutating func allocate(_ file: String, alignment: UInt32, zone: Zone) {
        append(1) { entry in
            entry += Self.name(file)
            entry.append(littleEndian: alignment)
            entry.append(zone.rawValue)
        }
    }

    mutating func addPointer(in file: String, at offset: Int, size: Int, to target: String) {
        append(2) { entry in
            entry += Self.name(file) + Self.name(target)
            entry.append(littleEndian: UInt32(offset))
            entry.append(UInt8(size))
        }
    }

    mutating func addChecksum(in file: String, at offset: Int, _ start: Int, _ length: Int) {
        append(3) { entry in
            entry += Self.name(file)
            for field in [offset, start, length] { entry.append(littleEndian: UInt32(field)) }
        }
    }
}
