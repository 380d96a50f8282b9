public import GuestMemory

/// Where the tables of a machine without firmware lie. Each range is reserved memory of the guest.
public struct PlacedFirmwareTables: Sendable, Equatable {
    public struct Table: Sendable, Equatable {
        /// An ACPI signature, "RSDP", "SMBIOS" or "SMBIOS entry points".
        public let name: String
        public let start: GuestAddress
        /// In bytes.
        public let size: UInt64
    }
    public let rsdp: GuestAddress
    public let smbiosEntryPoint: GuestAddress
    /// Ascending.
    public let tables: [Table]
}

/// Writes ACPI and SMBIOS tables to where systems look for them: the RSDP on a 16-byte boundary of
/// 0xE0000..0xFFFFF (ACPI 6.5 §5.2.5.1), the SMBIOS entry points on one of 0xF0000..0xFFFFF (SMBIOS 3.6
/// §5.2).
public enum FirmwareTableArea {
    public static let acpiStart: UInt64 = 0xE_0000
    public static let smbiosStart: UInt64 = 0xF_0000
    public static let end: UInt64 = 0x10_0000
    /// Both entry points, 32 bytes each.
    private static let entryPointSize: UInt64 = 64

    /// Fills the area. The same descriptions always give the same bytes.
    /// - Throws: `FirmwareTableError` when the tables do not fit or there is no memory.
    public static func place(
        _ platform: PlatformDescription, _ system: SystemDescription, in memory: GuestMemory
    ) throws(FirmwareTableError) -> PlacedFirmwareTables {
        guard system.uuid.count == 16 else { throw .notExpressible("a UUID that has not 16 bytes") }
        guard system.ram.count <= 16, !system.ram.contains(where: \.isEmpty) else {
            throw .notExpressible("more than 16 runs of memory, or an empty one")
        }
        var pieces = try ACPITableSet(platform).placed(at: acpiStart)
        let acpiSize = pieces.reduce(0) { max($0, $1.address - acpiStart + UInt64($1.bytes.count)) }
        guard acpiSize <= smbiosStart - acpiStart else {
            throw .tooLarge(tables: "ACPI", size: Int(acpiSize), limit: Int(smbiosStart - acpiStart))
        }
        let smbios = SMBIOSTables(system: system)
        let table = smbios.table, tableStart = smbiosStart + entryPointSize
        guard UInt64(table.count) <= end - tableStart else {
            throw .tooLarge(tables: "SMBIOS", size: table.count, limit: Int(end - tableStart))
        }
        let entryPoint = SMBIOSTables.entryPoint(table: tableStart, size: table.count)
        let padding = [UInt8](repeating: 0, count: 32 - entryPoint.count)
        pieces.append(
            ACPITableSet.Placed(
                signature: "SMBIOS entry points", address: smbiosStart,
                bytes: entryPoint + padding + smbios.legacyEntryPoint(table: tableStart)))
        pieces.append(ACPITableSet.Placed(signature: "SMBIOS", address: tableStart, bytes: table))

        for piece in pieces {
            do throws(GuestMemoryFault) {
                try memory.install(piece.bytes, at: GuestAddress(piece.address))
            } catch {
                throw .noMemory(address: piece.address)
            }
        }
        return PlacedFirmwareTables(
            rsdp: GuestAddress(acpiStart), smbiosEntryPoint: GuestAddress(smbiosStart),
            tables: pieces.map {
                PlacedFirmwareTables.Table(
                    name: $0.signature, start: GuestAddress($0.address), size: UInt64($0.bytes.count))
            })
    }
}
