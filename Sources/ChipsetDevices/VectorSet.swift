/// 256 bits: IRR, ISR or TMR of a local APIC.
struct VectorSet: Equatable, Sendable {
    private var words: [4 of UInt64] = .init(repeating: 0)

    static func == (left: VectorSet, right: VectorSet) -> Bool {
        (0..<4).allSatisfy { left.words[$0] == right.words[$0] }
    }

    func contains(_ vector: UInt8) -> Bool { words[Int(vector >> 6)] >> UInt64(vector & 63) & 1 != 0 }
    mutating func insert(_ vector: UInt8) { words[Int(vector >> 6)] |= 1 << UInt64(vector & 63) }
    mutating func remove(_ vector: UInt8) { words[Int(vector >> 6)] &= ~(1 << UInt64(vector & 63)) }
    mutating func set(_ vector: UInt8, _ member: Bool) {
        if member { insert(vector) } else { remove(vector) }
    }

    var isEmpty: Bool { words[0] | words[1] | words[2] | words[3] == 0 }
    var count: Int { (0..<4).reduce(0) { $0 + words[$1].nonzeroBitCount } }

    /// The highest vector, which is the one with the highest priority.
    var highest: UInt8? {
        for index in (0..<4).reversed() where words[index] != 0 {
            return UInt8(index * 64 + 63 - words[index].leadingZeroBitCount)
        }
        return nil
    }

    /// One of the eight 32-bit registers that show the set; `index` is 0...7.
    func register(_ index: UInt32) -> UInt32 {
        UInt32(truncatingIfNeeded: words[Int(index >> 1 & 3)] >> UInt64((index & 1) * 32))
    }

    /// Four words, for saved state.
    var saved: [UInt64] {
        get { (0..<4).map { words[$0] } }
        set { for index in 0..<min(4, newValue.count) { words[index] = newValue[index] } }
    }
}
