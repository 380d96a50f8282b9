/// Which status flags are read before they are written again.
extension Translator {
    /// Status flags that each pair of conditions reads: O, C, Z, C Z, S, P, S O, Z S O.
    private static let conditionFlags: [UInt16] = [0x800, 0x001, 0x040, 0x041, 0x080, 0x004, 0x880, 0x8C0]

    /// Flags that the instruction reads, or that it passes on for some inputs.
    private func flagsNeeded(_ i: Instruction, _ shape: RowShape) -> UInt16 {
        switch i.mnemonic {
        case .jcc, .setcc, .cmovcc:
            if options.contains(.exactFlags), i.hasMemoryOperand { return Self.status }
            return Self.conditionFlags[Int(i.condition >> 1)]
        default: break
        }
        let row = InstructionRow(index: i.row)
        var needed = row.flagsRead
        if row.attributes.contains(.mayKeepFlags) { needed |= row.flagsWritten | row.flagsUndefined }
        // Whoever leaves the block shows the flags to somebody.
        if shape.treatment == .escape, row.endsBlock || !row.attributes.isDisjoint(with: [.string, .branch]) {
            needed = Self.status
        }
        if options.contains(.exactFlags), mayFault(i, shape, row) { needed = Self.status }
        return needed & Self.status
    }

    private func mayFault(_ i: Instruction, _ shape: RowShape, _ row: InstructionRow) -> Bool {
        switch shape.treatment {
        case .escape, .divide, .signedDivide, .push, .pop, .leave, .jump, .call, .ret, .repeatMove,
            .repeatStore, .pushFlags, .clearInterrupts, .setInterrupts, .swapGS:
            true
        case .lea, .nothing: false
        default: i.hasMemoryOperand || shape.level != 0
        }
    }

    private func flagsReplaced(_ i: Instruction) -> UInt16 {
        let row = InstructionRow(index: i.row)
        if row.attributes.contains(.mayKeepFlags) { return 0 }
        return (row.flagsWritten | row.flagsUndefined) & Self.status
    }

    /// Fills `liveBefore` and `liveAfter`, from the last instruction to the first.
    mutating func analyseFlags() {
        var live = liveOut
        for index in block.indices.reversed() {
            let i = block[index].instruction, shape = block[index].shape
            switch shape.treatment {
            case .conditionalJump:
                block[index].liveAtTarget = liveIn(at: targetOffset(block[index]))
                live |= block[index].liveAtTarget
            case .jump where i.operand0.kind == .relative, .call where i.operand0.kind == .relative:
                live = liveIn(at: targetOffset(block[index]))
                block[index].liveAtTarget = live
            case .jump, .call, .ret: live = Self.status
            default: break
            }
            block[index].liveAfter = live
            live = live & ~flagsReplaced(i) | flagsNeeded(i, shape)
            block[index].liveBefore = live
        }
    }

    /// Live at the end of a block that no branch ends.
    var liveOut: UInt16 {
        guard let last = block.last else { return Self.status }
        return liveIn(at: last.nextOffset)
    }

    /// Page offset of a direct branch's target; may lie outside the page.
    func targetOffset(_ item: BlockInstruction) -> Int {
        item.nextOffset + Int(truncatingIfNeeded: Int64(bitPattern: item.instruction.immediate))
    }

    /// Flags that the code at `offset` of the page may read, by a look at a few instructions. Whoever changes
    /// them makes all blocks of the page invalid.
    func liveIn(at offset: Int) -> UInt16 {
        guard (0..<4096).contains(offset) else { return Self.status }
        var needed: UInt16 = 0, open = Self.status, place = offset
        for _ in 0..<6 {
            guard let i = decoded(at: place) else { break }
            let shape = shapes[Int(i.row)]
            needed |= flagsNeeded(i, shape) & open
            open &= ~flagsReplaced(i)
            if open == 0 { return needed }
            let row = InstructionRow(index: i.row)
            if row.endsBlock || row.attributes.contains(.branch) {
                guard shape.treatment == .jump, i.operand0.kind == .relative else { break }
                place += Int(i.length) + Int(truncatingIfNeeded: Int64(bitPattern: i.immediate))
                guard (0..<4096).contains(place) else { break }
                continue
            }
            place += Int(i.length)
            guard place < 4096 else { break }
        }
        return needed | open
    }

    /// The instruction at a page offset, from the block itself if it is in there.
    private func decoded(at offset: Int) -> Instruction? {
        if let first = block.first, offset >= first.pageOffset, let last = block.last,
            offset <= last.pageOffset
        {
            for item in block where item.pageOffset == offset { return item.instruction }
        }
        return instruction(at: offset)
    }
}
