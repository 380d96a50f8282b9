/// Up to 15 bytes of code, in two registers.
struct InstructionBytes: BitwiseCopyable, Sendable {
    /// Bytes 0...7 and 8...14, little endian; bytes from `count` on are zero.
    private(set) var low: UInt64 = 0
    private(set) var high: UInt64 = 0
    private(set) var count: UInt8 = 0

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
    init(low: UInt64, high: UInt64, count: Int) {
        let kept = min(max(count, 0), Self.longest)
        self.count = UInt8(truncatingIfNeeded: kept)
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
        if offset >= 8 { return high &>> shift }
        if shift == 0 { return low }
        return (low &>> shift) | (high &<< (64 &- shift))
    }
}
