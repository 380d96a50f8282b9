/// Places in a page to which translated blocks may lead, each once.
struct CodeAhead {
    private static let most = 32
    private var offsets: InlineArray<32, UInt16> = .init(repeating: 0)
    private var count = 0
    private var taken = 0

    /// Ignores what lies outside the page, what is there already, and what there is no room for.
    mutating func add(_ offset: Int) {
        guard (0..<4096).contains(offset), count < Self.most else { return }
        for index in 0..<count where Int(offsets[index]) == offset { return }
        offsets[count] = UInt16(offset)
        count += 1
    }

    /// The next place in the order in which they were added.
    mutating func next() -> Int? {
        guard taken < count else { return nil }
        taken += 1
        return Int(offsets[taken - 1])
    }
}

extension Translator {
    /// Adds where the direct branches and calls of the block that was translated last lead, and what follows.
    func addTargets(to ahead: inout CodeAhead) {
        for index in block.indices where block[index].operand(0).kind == .relative {
            ahead.add(targetOffset(block[index]))
        }
        if let last = block.last { ahead.add(last.nextOffset) }
    }
}
