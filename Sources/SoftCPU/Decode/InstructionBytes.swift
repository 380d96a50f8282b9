/// Up to 15 bytes of code, in two registers.
struct InstructionBytes: BitwiseCopyable, Sendable {
    /// Bytes 0...7 and 8...14, little endian; bytes from `count` on are zero.
    private(set) var low: UInt64 = 0
    private(set) var high: UInt64 = 0
    private(set) var count = 0

    /// An instruction has at most 15 bytes (Intel SDM vol. 2 §2.3.11).
    static let longest = 15

    /// The first 15 at most of `bytes`.
    init(_ bytes: some Sequence<UInt8>) {
        for byte in bytes {
            guard count < 15 else { break }
            if count < 8 {
                low |= UInt64(byte) << (UInt64(count) &* 8)
            } else {
                high |= UInt64(byte) << (UInt64(count &- 8) &* 8)
            }
            count &+= 1
        }
    }

    /// `count` bytes (15 at most) of the sixteen that two loads gave.
    @inline(__always)
    init(low: UInt64, high: UInt64, count: Int) {
        let kept = min(max(count, 0), Self.longest)
        self.count = kept
        self.low = kept >= 8 ? low : low & ((1 << UInt64(truncatingIfNeeded: kept * 8)) &- 1)
        self.high = kept <= 8 ? 0 : high & ((1 << UInt64(truncatingIfNeeded: (kept - 8) * 8)) &- 1)
    }

    /// The byte at `offset`, zero beyond `count`.
    @inline(__always)
    subscript(offset: Int) -> UInt8 {
        let shift = UInt64(truncatingIfNeeded: offset & 7) &* 8
        return UInt8(truncatingIfNeeded: (offset < 8 ? low : high) &>> shift)
    }

    /// Eight bytes from `offset` (0...15) on, little endian, zeros beyond `count`.
    @inline(__always)
    func word(at offset: Int) -> UInt64 {
        let shift = UInt64(truncatingIfNeeded: offset & 7) &* 8
        let both = (low &>> shift) | ((high &<< 1) &<< (63 &- shift))
        return offset < 8 ? both : high &>> shift
    }

    /// The lowest `size` bytes (0, 1, 2, 4 or 8) of a word.
    @inline(__always)
    static func mask(_ size: UInt) -> UInt64 { masks[Int(truncatingIfNeeded: size & 15)] }

    /// The bytes of a word in `mask`, extended by their sign where `sign` has its bits set, else by zeros.
    @inline(__always)
    static func extended(_ word: UInt64, _ mask: UInt64, sign: UInt64) -> UInt64 {
        let top = (mask ^ mask >> 1) & sign
        return (word & mask ^ top) &- top
    }

    /// As many bytes as the place says, set.
    private static let masks: [UInt64] = [
        0, 0xFF, 0xFFFF, 0xFF_FFFF, 0xFFFF_FFFF, 0xFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF, 0xFF_FFFF_FFFF_FFFF,
        .max, .max, .max, .max, .max, .max, .max, .max,
    ]

    /// What is wrong when `end` bytes are needed and not there: too long when the missing one would be the
    /// sixteenth, otherwise truncated.
    func lack(_ end: Int) -> DecodeFailure { end > Self.longest ? .tooLong : .truncated }
}
