/// Blocks without translation to which translated ones lead: found on the way, by the look at the flags that
/// they read.
struct BlocksAhead {
    private static let most = 8
    private var blocks: InlineArray<8, UInt> = .init(repeating: 0)
    private var count = 0

    /// Forgets one that was found before when there is no room.
    mutating func add(_ block: BlockView) {
        for index in 0..<count where blocks[index] == block.address { return }
        if count == Self.most { count -= 1 }
        blocks[count] = block.address
        count += 1
    }

    /// The one that was found last.
    mutating func takeLast() -> BlockView? {
        guard count > 0 else { return nil }
        count -= 1
        return BlockView(address: blocks[count])
    }

    mutating func removeAll() { count = 0 }
}
