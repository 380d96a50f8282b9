/// A memory module as its configuration memory describes it: an unbuffered DDR3-1333 module of 64 bits
/// (JEDEC Standard 21-C, annex K "Serial presence detect for DDR3").
///
/// The guest's memory is no such module; the sizes alone say something. Pure.
public struct MemoryModule: Sendable, Equatable {
    /// Sockets on a board.
    public static let most = 8
    /// Bytes of a module, a power of two.
    public static let sizes: ClosedRange<UInt64> = 64 << 20...128 << 30

    /// Bytes.
    public let size: UInt64
    /// Position among the sockets: its serial number.
    public let socket: Int

    /// `size` is a power of two in `sizes`.
    init(size: UInt64, socket: Int) {
        precondition(Self.sizes.contains(size) && size.nonzeroBitCount == 1, "no module has this size")
        self.size = size
        self.socket = socket
    }

    /// As few modules as hold `bytes`, the largest first. What is smaller than the smallest module makes one
    /// of that size; what eight modules do not hold is in none.
    public static func modules(holding bytes: UInt64) -> [MemoryModule] {
        var modules: [MemoryModule] = []
        var rest = bytes
        while rest > 0, modules.count < most {
            // The highest bit alone.
            let fitting = UInt64(1) << UInt64(63 - rest.leadingZeroBitCount)
            let size = min(max(fitting, sizes.lowerBound), sizes.upperBound)
            modules.append(MemoryModule(size: size, socket: modules.count))
            rest -= min(rest, size)
        }
        return modules
    }

    /// How the chips of a module make its size.
    private struct Chips {
        /// Bits of a chip as a power of two above 256 Mbit.
        var density: UInt8 = 0
        /// Bits that a chip moves at once, as a power of two above 4.
        var width: UInt8 = 1
        /// Groups of chips that take turns.
        var ranks: UInt8 = 1
    }

    /// Chips of 8 bits and 256 Mbit to 16 Gbit, in one rank: 256 MiB to 16 GiB. Smaller modules have fewer
    /// and wider chips, larger ones more ranks, then narrower chips.
    private var chips: Chips {
        let smallest: UInt64 = 256 << 20, largest: UInt64 = 16 << 30
        var chips = Chips()
        if size < smallest {
            chips.width += UInt8((smallest / size).trailingZeroBitCount)
            return chips
        }
        chips.density = UInt8((min(size, largest) / smallest).trailingZeroBitCount)
        chips.ranks = UInt8(clamping: min(max(size / largest, 1), 4))
        if size > 4 * largest { chips.width = 0 }
        return chips
    }

    /// The 256 bytes of its configuration memory.
    public var description: [UInt8] {
        let chips = chips
        var bytes = [UInt8](repeating: 0, count: 256)
        // 176 bytes of 256 are used, the code covers the first 117; revision 1.0; DDR3; unbuffered.
        bytes.replaceSubrange(0..<4, with: [0x92, 0x10, 0x0B, 0x02])
        // Eight banks; 12 to 16 rows, 10 columns; 1.5 V; ranks and width; 64 bits without correction.
        bytes[4] = chips.density
        bytes[5] = min(chips.density, 4) << 3 | 1
        bytes[7] = (chips.ranks - 1) << 3 | chips.width
        bytes[8] = 0x03
        // Units of time: 2.5 ps, and 1/8 ns for what follows from byte 12 on.
        bytes.replaceSubrange(9..<12, with: [0x52, 1, 8])
        // The clock of DDR3-1333, latencies of 6 to 9 clocks, and the usual times.
        bytes.replaceSubrange(
            12..<30,
            with: [
                0x0C, 0, 0x3C, 0, 0x69, 0x78, 0x69, 0x30, 0x69, 0x11, 0x20, 0x89, 0x70, 0x03, 0x3C, 0x3C, 0,
                0xF0,
            ])
        bytes[122] = UInt8(truncatingIfNeeded: socket)
        let code = Self.code(bytes[..<117])
        bytes[126] = UInt8(truncatingIfNeeded: code)
        bytes[127] = UInt8(truncatingIfNeeded: code >> 8)
        let name = Array("OSPITE GUEST RAM  ".utf8)
        bytes.replaceSubrange(128..<128 + name.count, with: name)
        return bytes
    }

    /// The 16-bit code of bytes 126 and 127: polynomial x^16 + x^12 + x^5 + 1, most significant bit first.
    static func code(_ bytes: some Sequence<UInt8>) -> UInt16 {
        var code: UInt16 = 0
        for byte in bytes {
            code ^= UInt16(byte) << 8
            for _ in 0..<8 { code = code & 0x8000 != 0 ? code << 1 ^ 0x1021 : code << 1 }
        }
        return code
    }
}
