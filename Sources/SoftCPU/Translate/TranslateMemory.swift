/// Memory operands: the linear address, and the probe that turns it into a host address.
extension Translator {
    /// Puts the linear address of `i`'s memory operand into R10. Leaves the host's flags alone if the segment
    /// has no base; `nextOffset` is the page offset of the next instruction, for RIP-relative operands.
    mutating func emitLinearAddress(_ i: Instruction, _ nextOffset: Int) {
        emitOffset(i, nextOffset, into: HostRegister.address)
        if i.segment == SegmentNumber.fs || i.segment == SegmentNumber.gs {
            code.encode(
                wide: true, 0x03, HostRegister.address, .state(layout.effectiveBase + Int32(i.segment) * 8))
        }
    }

    /// The operand's offset in its segment, in `target`. Uses R11 for an index in memory.
    mutating func emitOffset(_ i: Instruction, _ nextOffset: Int, into target: UInt8) {
        let wide = i.addressSize == 8
        if i.base == Instruction.ripBase {
            code.load(target, .state(layout.codePage))
            emitLea(target, base: target, index: HostRegister.none, 0, i.displacement + Int64(nextOffset), wide)
            return
        }
        var base = HostRegister.none, index = HostRegister.none
        if i.base < 16 {
            base = HostRegister.of(i.base)
            if base == HostRegister.none {
                code.load(target, layout.register(i.base), wide: wide)
                base = target
            }
        }
        if i.index < 16 {
            index = HostRegister.of(i.index)
            if index == HostRegister.none {
                code.load(HostRegister.index, layout.register(i.index), wide: wide)
                index = HostRegister.index
            }
        }
        emitLea(target, base: base, index: index, i.scaleShift, i.displacement, wide)
    }

    /// LEA, or something shorter or longer that does the same.
    mutating func emitLea(
        _ target: UInt8, base: UInt8, index: UInt8, _ scaleShift: UInt8, _ displacement: Int64, _ wide: Bool
    ) {
        guard let short = Int32(exactly: displacement) else {
            // Only absolute addresses of 64 bits are longer.
            code.constant(target, UInt64(bitPattern: displacement))
            return
        }
        if index == HostRegister.none, short == 0, base != HostRegister.none {
            if base != target || !wide { code.move(target, base, wide: wide) }
        } else {
            code.lea(target, base: base, index: index, scaleShift: scaleShift, short, wide: wide)
        }
    }

    /// Turns the linear address in R10 into the host address of `size` bytes. Destroys the host's flags and
    /// R11. What the TLB does not know goes by a stub; what is no plain memory, by the interpreter.
    mutating func emitProbe(size: Int, write: Bool, _ item: BlockInstruction, alignmentMask: UInt8 = 0) {
        let address = HostRegister.address, index = HostRegister.index
        code.rotateRight(index, address, 7)
        code.arithmetic(4, .register(index), Int32(TLB.entries - 1) << 5, wide: false)
        code.encode(wide: true, 0x33, address, .cache(index, write ? 8 : 0))
        code.arithmetic(7, .register(address), Int32(0x1000 - size))
        let miss = code.pendingJumpIf(7)
        code.encode(wide: true, 0x03, address, .cache(index, 16))
        guard let gate = GateCode.fillIndex(size: size, write: write) else {
            preconditionFailure("no gate for an operand of \(size) bytes")
        }
        stubs.append(
            Stub(kind: .fill(index: gate, back: code.here), from: miss, pageOffset: item.pageOffset))
        if alignmentMask != 0 {
            // TEST R10B, mask
            code.encode(wide: false, 0xF6, 0, .register(address))
            code.byte(alignmentMask)
            let misaligned = code.pendingJumpIf(5)
            stubs.append(Stub(kind: .interpret, from: misaligned, pageOffset: item.pageOffset))
        }
    }

    /// The memory operand of `item` as a host operand.
    mutating func emitMemoryOperand(
        _ item: BlockInstruction, size: Int, write: Bool, alignmentMask: UInt8 = 0
    ) -> HostOperand {
        saveFlagsIfLive(item.liveBefore)
        emitLinearAddress(item.instruction, item.nextOffset)
        emitProbe(size: size, write: write, item, alignmentMask: alignmentMask)
        return .memory(HostRegister.address, 0)
    }

    /// Probes the guest's stack at RSP + `displacement`; R10 becomes the host address.
    mutating func emitStackOperand(_ displacement: Int32, write: Bool, _ item: BlockInstruction) {
        saveFlagsIfLive(item.liveBefore)
        emitLea(
            HostRegister.address, base: HostRegister.guestRSP, index: HostRegister.none, 0, Int64(displacement),
            true)
        emitProbe(size: 8, write: write, item)
    }

    /// Adds to the guest's RSP without touching flags.
    mutating func moveStack(_ change: Int32) {
        let stack = HostRegister.guestRSP
        code.lea(stack, base: stack, index: HostRegister.none, scaleShift: 0, change, wide: true)
    }
}
