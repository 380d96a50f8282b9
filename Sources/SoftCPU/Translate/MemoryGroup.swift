/// Memory operands that lie near each other, with one probe for all of them: pushes and pops in a row, fields
/// of one structure, variables of one stack frame.
///
/// The probe covers all bytes from the first to the last, for stores if there is one among them. All of
/// a group is executed, unless something faults: no branch, no instruction with a life of its own. A call or
/// a return may be the last one.
struct MemoryGroup {
    /// The guest's base register.
    let base: UInt8
    /// Index of the last instruction that belongs to it.
    let last: Int
}

extension Translator {
    /// Bytes that a group may span.
    private static let widestGroup = 512

    var isInGroup: Bool { group != nil }

    /// The operand of an instruction in a group: the base is where it was at the probe, or RSP has moved with
    /// its pushes.
    func groupOperand(_ item: BlockInstruction) -> HostOperand? {
        guard let group else { return nil }
        return .indexed(
            HostRegister.of(group.base), HostRegister.index,
            Int32(truncatingIfNeeded: item.instruction.displacement))
    }

    /// Starts a group at instruction `index` if there is something to gain, and ends the one that is over.
    func updateGroup(_ index: Int) {
        if let group, index > group.last { self.group = nil }
        guard group == nil, !isUngrouped, !isSegmented, let first = reference(block[index], 0),
            isStackStep(block[index]) || !block[index].writes(first.base)
        else { return }
        var low = first.offset, high = first.offset + first.size, write = first.write
        var last = index, members = 1
        var moved = first.moves
        var next = index + 1
        while next < block.count {
            let item = block[next]
            if let found = reference(item, moved), found.base == first.base {
                let newLow = min(low, found.offset), newHigh = max(high, found.offset + found.size)
                guard newHigh - newLow <= Self.widestGroup else { break }
                (low, high) = (newLow, newHigh)
                write = write || found.write
                members += 1
                last = next
                moved += found.moves
                if item.writes(first.base), !isStackStep(item) { break }
            } else {
                guard passes(item), !item.writes(first.base) else { break }
            }
            next += 1
        }
        guard members > 1 else { return }
        begin(Range(uncheckedBounds: (low, high)), write: write, base: first.base, last: last, at: index)
    }

    private func begin(_ bytes: Range<Int>, write: Bool, base: UInt8, last: Int, at index: Int) {
        let item = block[index]
        saveFlagsIfLive(item.liveBefore)
        var probe = Probe(linear: HostRegister.of(base), size: bytes.count, write: write, isGroup: true)
        if abs(bytes.lowerBound) <= Int(Self.nearby) {
            probe.displacement = Int32(bytes.lowerBound)
        } else {
            code.lea(
                HostRegister.address, base: probe.linear, index: HostRegister.none, scaleShift: 0,
                Int32(bytes.lowerBound), wide: true)
            probe.linear = HostRegister.address
        }
        emitProbe(probe, item)
        group = MemoryGroup(base: base, last: last)
    }

    /// A member's memory operand.
    private struct Reference {
        var base: UInt8
        /// From the base as it was at the group's start.
        var offset: Int
        var size: Int
        var write: Bool
        /// How far it moves RSP.
        var moves = 0
    }

    /// The memory operand of `item` if it may belong to a group in which RSP has moved by `moved`.
    private func reference(_ item: BlockInstruction, _ moved: Int) -> Reference? {
        let i = item.instruction, word = Int(slot)
        switch item.treatment {
        case .push where !i.operand0.isMemory:
            return Reference(base: 4, offset: moved - word, size: word, write: true, moves: -word)
        case .pop where i.operand0.register != 4:
            return Reference(base: 4, offset: moved, size: word, write: false, moves: word)
        case .ret: return Reference(base: 4, offset: moved, size: word, write: false)
        case .call where isGroupable(item):
            return Reference(base: 4, offset: moved - word, size: word, write: true)
        case .copy: break
        default: return nil
        }
        guard item.hasMemoryOperand, !usesSegment(item), i.base < 16, i.index >= 16,
            i.addressSize == nativeAddress,
            HostRegister.of(i.base) != HostRegister.none, i.segment < SegmentNumber.fs, item.shape.level < 3,
            keepsIndex(item), abs(i.displacement) < 1 << 20
        else { return nil }
        let operand = item.memoryOperand
        guard operand.kind == .memory, operand.size > 0, operand.size <= 32, !VectorLowering.needsAlignment(i)
        else { return nil }
        return Reference(
            base: i.base, offset: (i.base == 4 ? moved : 0) + Int(i.displacement), size: Int(operand.size),
            write: operand.isWritten)
    }

    /// A call whose way to its target leaves R11 alone until the return address is pushed.
    private func isGroupable(_ call: BlockInstruction) -> Bool {
        linear != nil && (call.operand(0).kind == .relative || heldTarget(call) != nil)
    }

    private func isStackStep(_ item: BlockInstruction) -> Bool {
        item.treatment == .push || item.treatment == .pop
    }

    /// An instruction without memory that may stand between members.
    private func passes(_ item: BlockInstruction) -> Bool {
        let i = item.instruction
        switch item.treatment {
        case .nothing, .convert, .moveImmediate: return true
        case .lea:
            return i.index >= 16 || HostRegister.of(i.index) != HostRegister.none
        case .copy: return !item.hasMemoryOperand && item.shape.level < 3 && keepsIndex(item)
        default: return false
        }
    }

    /// Translated without R11, and without a call that would destroy it.
    private func keepsIndex(_ item: BlockInstruction) -> Bool {
        let shape = item.shape
        if shape.vvvv == .general,
            HostRegister.of(item.operand(Int(shape.vvvvOperand)).register) == HostRegister.none
        {
            return false
        }
        if item.traits.contains(.bitString) { return false }
        // Vector state is loaded by a call, the first time.
        return (shape.level == 0 || shape.level <= level) && isCopyable(item)
    }
}
