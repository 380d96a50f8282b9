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

/// What an instruction is to a memory group, as far as its own bytes say.
struct GroupPart: BitwiseCopyable {
    /// The guest's base register of its operand; `none` if it cannot be a member.
    var base = Self.none
    /// Bytes.
    var size: UInt8 = 0
    var write = false
    /// It may stand between members.
    var passes = false
    /// How far it moves RSP.
    var moves: Int8 = 0
    /// From the base as it is then.
    var offset: Int32 = 0

    static let none: UInt8 = 0xFF
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
        guard group == nil, index + 1 < block.count else { return }
        let item = block[index], first = item.part
        guard first.base != GroupPart.none, isReady(item), first.moves != 0 || !item.writes(first.base) else {
            return
        }
        var low = Int(first.offset), high = low + Int(first.size), write = first.write
        var last = index, moved = Int(first.moves)
        for next in index + 1..<block.count {
            let item = block[next], part = item.part
            guard isReady(item) else { break }
            if part.base == first.base {
                let offset = Int(part.offset) + moved
                let newLow = min(low, offset), newHigh = max(high, offset + Int(part.size))
                guard newHigh - newLow <= Self.widestGroup else { break }
                (low, high) = (newLow, newHigh)
                write = write || part.write
                last = next
                moved += Int(part.moves)
                if part.moves == 0, item.writes(first.base) { break }
            } else {
                guard part.passes, !item.writes(first.base) else { break }
            }
        }
        guard last > index else { return }
        begin(Range(uncheckedBounds: (low, high)), write: write, base: first.base, last: last, at: index)
    }

    /// The vector state that it needs is there: loading it is a call, which destroys R11.
    private func isReady(_ item: BlockInstruction) -> Bool {
        item.shape.level == 0 || item.shape.level <= level
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

    /// What `item` is to a group. A PUSH, POP or RET has its slot at RSP as it is then.
    func groupPart(_ item: BlockInstruction) -> GroupPart {
        let word = UInt8(slot)
        switch item.treatment {
        case .nothing, .convert, .moveImmediate: return GroupPart(passes: true)
        case .copy: return copiedPart(item)
        case .lea:
            let index = item.instruction.index
            return GroupPart(passes: index >= 16 || HostRegister.of(index) != HostRegister.none)
        case .push where !item.instruction.operand0.isMemory:
            return GroupPart(base: 4, size: word, write: true, moves: -Int8(slot), offset: -slot)
        case .pop where item.instruction.operand0.register != 4:
            return GroupPart(base: 4, size: word, moves: Int8(slot))
        case .ret: return GroupPart(base: 4, size: word)
        case .call where isGroupable(item):
            return GroupPart(base: 4, size: word, write: true, offset: -slot)
        default: return GroupPart()
        }
    }

    private func copiedPart(_ item: BlockInstruction) -> GroupPart {
        guard keepsIndex(item) else { return GroupPart() }
        guard item.hasMemoryOperand else { return GroupPart(passes: item.shape.level < 3) }
        let i = item.instruction, operand = item.memoryOperand
        guard i.base < 16, i.index >= 16, i.addressSize == nativeAddress, i.segment < SegmentNumber.fs,
            HostRegister.of(i.base) != HostRegister.none, item.shape.level < 3, !usesSegment(item),
            abs(i.displacement) < 1 << 20, operand.kind == .memory, operand.size > 0, operand.size <= 32,
            !VectorLowering.needsAlignment(i)
        else { return GroupPart() }
        return GroupPart(
            base: i.base, size: operand.size, write: operand.isWritten,
            offset: Int32(truncatingIfNeeded: i.displacement))
    }

    /// A call whose way to its target leaves R11 alone until the return address is pushed.
    private func isGroupable(_ call: BlockInstruction) -> Bool {
        linear != nil && (call.operand(0).kind == .relative || heldTarget(call) != nil)
    }

    /// Translated without R11.
    private func keepsIndex(_ item: BlockInstruction) -> Bool {
        let shape = item.shape
        if shape.vvvv == .general,
            HostRegister.of(item.operand(Int(shape.vvvvOperand)).register) == HostRegister.none
        {
            return false
        }
        return !item.traits.contains(.bitString) && isCopyable(item)
    }
}
