/// Numbers that are the same in each run (xorshift).
public struct TestRandom {
    private var state: UInt64
    public init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }
    public mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
    /// From zero on, less than `limit`.
    public mutating func below(_ limit: Int) -> Int { Int(next() >> 11) % limit }
    public mutating func byte() -> UInt8 { UInt8(truncatingIfNeeded: next() >> 20) }
}
