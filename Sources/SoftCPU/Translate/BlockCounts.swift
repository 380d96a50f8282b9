/// What a block that counts (`TranslationOptions.counts`) adds up: blocks at its entry; instructions and
/// probes there and behind each conditional jump, for those that are executed up to the next one.
extension Translator {
    /// At a block's entry.
    func beginCounts() {
        countingBytes = 0
        probeSite = 0
        guard options.contains(.counts) else { return }
        countSegment(from: 0, blocks: 1)
    }

    /// Behind instruction `index`.
    func goOnCounting(_ index: Int) {
        guard options.contains(.counts), index + 1 < block.count,
            block[index].treatment == .conditionalJump
        else { return }
        settleProbes()
        countSegment(from: index + 1, blocks: 0)
    }

    /// Behind the block, in front of its stubs.
    func finishCounts(entry: UInt) {
        lineBytes = Int(code.here &- entry) - countingBytes
        settleProbes()
    }

    private func countSegment(from first: Int, blocks: Int32) {
        let start = code.here
        let jump = (first..<block.count).first { block[$0].treatment == .conditionalJump }
        let last = jump ?? block.count - 1
        if blocks != 0 { add(blocks, to: layout.blockCount) }
        add(Int32(last - first + 1), to: layout.instructionCount)
        probeSite = add(.max, to: layout.probeCount)
        probeCount = 0
        countingBytes += Int(code.here &- start)
    }

    /// Adds to a counter with R10 and without touching flags. Returns the place of the number, of four bytes
    /// when it is large.
    @discardableResult
    private func add(_ number: Int32, to counter: Int32) -> Assembler.Site {
        let register = HostRegister.address
        code.load(register, .state(counter))
        code.encode(wide: true, 0x8D, register, .memory(register, number))
        let site = code.here &- 4
        code.store(register, .state(counter))
        return site
    }

    /// The probes of the segment are known now.
    private func settleProbes() {
        guard probeSite != 0 else { return }
        // The word at `probeSite` becomes the distance from its end.
        code.resolve(probeSite, to: probeSite &+ 4 &+ UInt(probeCount))
        probeSite = 0
    }
}
