/// The serial presence detect EEPROM of a DDR3 memory module (JEDEC 21-C, 4.1.2.11), by which programs learn
/// what memory a PC has.
///
/// Confinement: a value.
struct MemoryModule {
    /// 256 bytes.
    let contents: [UInt8]

    /// - Parameter size: in bytes, a power of two from 256 MiB to 16 GiB.
    init(size: UInt64) {
        var bytes = [UInt8](repeating: 0, count: 256)
        // 176 bytes of 256, the checksum over the first 117; revision 1.1; DDR3 SDRAM; an unbuffered DIMM.
        bytes.replaceSubrange(0..<4, with: [0x92, 0x11, 0x0B, 0x02])
        // Eight banks; one rank of chips that are eight bits wide, on a bus of 64: as many megabits in a chip
        // as megabytes in the module. 15 rows, 10 columns.
        bytes[4] = UInt8(truncatingIfNeeded: (size / Self.smallest).trailingZeroBitCount)
        bytes.replaceSubrange(5..<9, with: [0x19, 0x02, 0x01, 0x03])
        // Units of time: 2.5 ps and 0.125 ns. Then DDR3-1600 with CL 11: times in eighths of a nanosecond.
        bytes.replaceSubrange(9..<12, with: [0x52, 0x01, 0x08])
        bytes.replaceSubrange(
            12..<30,
            with: [
                0x0A, 0, 0xFC, 0, 0x69, 0x78, 0x69, 0x30, 0x69, 0x11, 0x18, 0x81, 0x20, 0x08, 0x3C, 0x3C,
                0x00,
                0xF0,
            ])
        let name = Array("Ospite memory".utf8)
        bytes.replaceSubrange(128..<128 + name.count, with: name)
        for place in 128 + name.count..<146 { bytes[place] = UInt8(ascii: " ") }
        let sum = Self.checksum(bytes[0..<117])
        bytes[126] = UInt8(truncatingIfNeeded: sum)
        bytes[127] = UInt8(truncatingIfNeeded: sum >> 8)
        contents = bytes
    }

    static let smallest: UInt64 = 256 << 20, largest: UInt64 = 16 << 30

    /// The modules of a machine, at most eight; memory below 256 MiB is on none.
    static func modules(for memory: UInt64) -> [MemoryModule] {
        var rest = memory
        var modules: [MemoryModule] = []
        while rest >= smallest, modules.count < SMBusController.mostModules {
            var size = smallest
            while size < largest, size * 2 <= rest { size *= 2 }
            modules.append(MemoryModule(size: size))
            rest -= size
        }
        return modules
    }

    /// CRC-16 of polynomial 1021h from 0, most significant bit first.
    private static func checksum(_ bytes: ArraySlice<UInt8>) -> UInt16 {
        var sum: UInt16 = 0
        for byte in bytes {
            sum ^= UInt16(byte) << 8
            for _ in 0..<8 { sum = sum & 0x8000 != 0 ? sum << 1 ^ 0x1021 : sum << 1 }
        }
        return sum
    }
}
