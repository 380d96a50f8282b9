/// A small fast generator (splitmix64): the same seed gives the same cases everywhere.
struct Random {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    /// Of several numbers one seed.
    init(seed: UInt64, _ a: UInt64, _ b: UInt64) {
        var mixer = Random(seed: seed)
        mixer.state ^= mixer.next() &+ a
        mixer.state ^= mixer.next() &+ b
        state = mixer.next()
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }

    /// 0..<bound
    mutating func below(_ bound: Int) -> Int {
        Int(truncatingIfNeeded: ((next() >> 32) &* UInt64(truncatingIfNeeded: bound)) >> 32)
    }

    mutating func chance(percent: Int) -> Bool { below(100) < percent }

    mutating func pick<T>(_ choices: [T]) -> T { choices[below(choices.count)] }

    /// The number of one of the bits set in `mask`, which has some.
    mutating func bit(of mask: UInt64) -> Int {
        var left = mask
        for _ in 0..<below(mask.nonzeroBitCount) { left &= left &- 1 }
        return left.trailingZeroBitCount
    }

    /// A value that is often near a place where something changes.
    mutating func corner() -> UInt64 {
        switch below(12) {
        case 0: return 0
        case 1: return .max
        case 2, 3: return UInt64(below(66))
        case 4: return 1 << UInt64(below(64))
        case 5: return (1 << UInt64(below(64))) &- 1
        case 6: return 0 &- UInt64(below(66))
        case 7:
            return pick([0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
        case 8: return pick([0x7FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000, 0x0123_4567_89AB_CDEF])
        case 9: return next() >> UInt64(below(64))
        default: return next()
        }
    }

    /// The bits of a floating-point number that is often special: double, single pair, or anything.
    mutating func floating() -> UInt64 {
        func double() -> UInt64 {
            pick([
                0, 0x3FF0_0000_0000_0000, 0x7FF0_0000_0000_0000, 0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0001,
                1, 0x000F_FFFF_FFFF_FFFF, 0x4330_0000_0000_0000, 0x41DF_FFFF_FFC0_0000, 0x43E0_0000_0000_0000,
                0x4008_0000_0000_0000, 0x7FEF_FFFF_FFFF_FFFF, 0x3FE0_0000_0000_0000, 0x0010_0000_0000_0000,
            ])
        }
        func single() -> UInt64 {
            pick([
                0, 0x3F80_0000, 0x7F80_0000, 0x7FC0_0000, 0x7F80_0001, 1, 0x007F_FFFF, 0x4B00_0000,
                0x4F00_0000,
                0x4040_0000, 0x7F7F_FFFF, 0x3F00_0000, 0x0080_0000,
            ])
        }
        switch below(6) {
        case 0: return double() | (next() & 1 << 63)
        case 1: return (single() | single() << 32) | next() & 0x8000_0000_8000_0000
        case 2: return (Double(below(2000)) - 1000).bitPattern
        case 3:
            let low = UInt64((Float(below(2000)) - 1000).bitPattern)
            return low | UInt64((Float(below(200)) / 7).bitPattern) << 32
        case 4: return corner()
        default: return next()
        }
    }
}
