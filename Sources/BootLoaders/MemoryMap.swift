internal import ByteLayout
public import GuestMemory

/// Which guest-physical addresses are RAM and which are taken, as a BIOS reports it with INT 15h AX=E820h
/// (ACPI 6.5 §15). All three boot protocols and fw_cfg pass the same map in their own layout.
public struct MemoryMap: Sendable, Equatable {
    /// Address range types (ACPI 6.5 table 15.2).
    public enum Kind: UInt32, Sendable, Codable {
        case ram = 1, reserved = 2, acpiReclaimable = 3, acpiNVS = 4, unusable = 5
    }

    public struct Entry: Sendable, Equatable {
        public var start: UInt64
        /// In bytes, never 0.
        public var size: UInt64
        public var kind: Kind
        public init(start: UInt64, size: UInt64, kind: Kind) {
            self.start = start
            self.size = size
            self.kind = kind
        }
        public var end: UInt64 { start &+ size }
    }

    /// Ascending and disjoint.
    public let entries: [Entry]

    /// The PC's fixed reservations: the extended BIOS data area, video memory and the ROM area with the ACPI
    /// tables; ECAM; and everything from the IOAPIC to 4 GiB (IOAPIC, HPET, local APIC, firmware flash).
    public static let pcReservations: [Entry] = [
        Entry(start: 0x9_FC00, size: 0x10_0000 - 0x9_FC00, kind: .reserved),
        Entry(start: 0xE000_0000, size: 0x1000_0000, kind: .reserved),
        Entry(start: 0xFEC0_0000, size: 0x140_0000, kind: .reserved),
    ]

    /// RAM of `memory` without `reservations`, plus the reservations. ROM regions are reserved.
    public init(_ memory: GuestMemory, reservations: [Entry] = MemoryMap.pcReservations) {
        self.init(
            ram: memory.regions.filter { $0.kind == .ram }.map { $0.start..<$0.end },
            reservations: reservations
                + memory.regions.filter { $0.kind == .rom }
                .map { Entry(start: $0.start, size: $0.size, kind: .reserved) })
    }

    /// The map of `ram` ranges (disjoint) with `reservations` cut out; where reservations overlap, the one
    /// that starts first keeps the common part.
    public init(ram: [Range<UInt64>], reservations: [Entry]) {
        var taken: [Entry] = []
        for reservation in reservations.sorted(by: { $0.start < $1.start }) {
            let start = max(reservation.start, taken.last?.end ?? 0)
            guard reservation.end > start else { continue }
            taken.append(Entry(start: start, size: reservation.end - start, kind: reservation.kind))
        }
        var all = taken
        for range in ram {
            var start = range.lowerBound
            for cut in taken where cut.end > start && cut.start < range.upperBound {
                if cut.start > start { all.append(Entry(start: start, size: cut.start - start, kind: .ram)) }
                start = cut.end
            }
            if start < range.upperBound {
                all.append(Entry(start: start, size: range.upperBound - start, kind: .ram))
            }
        }
        entries = all.sorted { $0.start < $1.start }
    }

    /// Whether all `size` bytes at `start` lie in one run of RAM. False for sums that wrap.
    public func isRAM(_ start: UInt64, size: UInt64) -> Bool {
        entries.contains {
            $0.kind == .ram && start >= $0.start && start - $0.start <= $0.size
                && size <= $0.size - (start - $0.start)
        }
    }

    /// KiB of RAM from 1 MiB up to the first gap (multiboot mem_upper, CMOS registers 0x30 and 0x34).
    public var kibibytesAboveOneMebibyte: UInt64 {
        entries.first { $0.kind == .ram && $0.start == 0x10_0000 }.map { $0.size >> 10 } ?? 0
    }

    /// boot_e820_entry (Linux zero page): le64 address, le64 size, le32 type; 20 bytes each. The entries of
    /// fw_cfg's etc/e820 have the same layout.
    public var e820: [UInt8] {
        entries.reduce(into: []) { bytes, entry in
            bytes.append(littleEndian: entry.start)
            bytes.append(littleEndian: entry.size)
            bytes.append(littleEndian: entry.kind.rawValue)
        }
    }

    /// hvm_memmap_table_entry (Xen start_info.h): as E820 plus le32 reserved; 24 bytes each.
    var hvmTable: [UInt8] {
        entries.reduce(into: []) { bytes, entry in
            bytes.append(littleEndian: entry.start)
            bytes.append(littleEndian: entry.size)
            bytes.append(littleEndian: entry.kind.rawValue)
            bytes.append(littleEndian: UInt32(0))
        }
    }

    /// Multiboot 0.6.96 §3.3 mmap: le32 size of the rest (20), then as E820; 24 bytes each.
    var multibootTable: [UInt8] {
        entries.reduce(into: []) { bytes, entry in
            bytes.append(littleEndian: UInt32(20))
            bytes.append(littleEndian: entry.start)
            bytes.append(littleEndian: entry.size)
            bytes.append(littleEndian: entry.kind.rawValue)
        }
    }
}
