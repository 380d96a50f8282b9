/// Memory operands: the linear address, and the probe that turns it into a host address.
///
/// After a probe R11 holds what leads from linear to host addresses in the page, and an operand is
/// [register + R11]. Several operands that are near each other share one probe (`MemoryGroup`).
extension Translator {
    /// Computes the linear address of the memory operand; returns the register that holds it: R10, or the
    /// base's own if nothing is to be added.
    func emitLinearAddress(_ item: BlockInstruction) -> UInt8 {
        let i = item.instruction
        let hasSegment = i.segment == SegmentNumber.fs || i.segment == SegmentNumber.gs
        if !hasSegment, i.base < 16, i.index >= 16, i.displacement == 0, i.addressSize == nativeAddress {
            let host = HostRegister.of(i.base)
            if host != HostRegister.none { return host }
        }
        emitOffset(item, into: HostRegister.address)
        if hasSegment {
            code.encode(
                wide: true, 0x03, HostRegister.address, .state(layout.effectiveBase + Int32(i.segment) * 8))
        }
        return HostRegister.address
    }

    /// The operand's offset in its segment, in `target`. Uses R11 for an index in memory.
    func emitOffset(_ item: BlockInstruction, into target: UInt8) {
        let i = item.instruction
        let wide = i.addressSize == 8
        if let known = knownOffset(item) {
            code.constant(target, known)
            return
        }
        if i.addressSize == 2, i.index >= 16, i.displacement == 0 {
            return code.extend16(target, HostRegister.of(i.base))
        }
        defer { if i.addressSize == 2 { code.extend16(target, target) } }
        if i.base == Instruction.ripBase {
            code.load(target, .state(layout.codePage))
            let distance = i.displacement + Int64(item.nextOffset)
            emitLea(target, base: target, index: HostRegister.none, 0, distance, wide)
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

    /// The operand's offset in its segment, when it is known now.
    func knownOffset(_ item: BlockInstruction) -> UInt64? {
        let i = item.instruction
        var offset = UInt64(bitPattern: i.displacement)
        if i.base == Instruction.ripBase {
            guard let linear else { return nil }
            offset &+= linear &+ UInt64(item.nextOffset)
        } else if i.base < 16 || i.index < 16 {
            return nil
        }
        return offset & CPU.addressMask(i.addressSize)
    }

    /// LEA, or something shorter or longer that does the same.
    func emitLea(
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

    /// How far an operand may lie from its base for the base's page to be taken for its own. When it is not,
    /// the gate looks once more: some nanoseconds, for one in 32 bases at most.
    static let nearby: Int32 = 128

    /// The memory operand of `item` as a host operand. With `folds`, R11 is free again.
    func emitMemoryOperand(
        _ item: BlockInstruction, size: Int, write: Bool, alignmentMask: UInt8 = 0, folds: Bool = false
    ) -> HostOperand {
        if let operand = groupOperand(item) { return operand }
        saveFlagsIfLive(item.liveBefore)
        if usesSegment(item) {
            let probe = emitSegmentedProbe(item, size: size, write: write, alignmentMask: alignmentMask)
            return operand(of: probe, folds: folds)
        }
        if item.instruction.segment < SegmentNumber.fs,
            let known = knownOffset(item),
            known & 0xFFF <= UInt64(0x1000 - size), known & UInt64(alignmentMask) == 0
        {
            return emitKnownOperand(known, size: size, write: write, item, folds: folds)
        }
        var probe = Probe(linear: 0, size: size, write: write, alignmentMask: alignmentMask)
        if let base = nearbyBase(item, alignmentMask) {
            probe.linear = base
            probe.displacement = Int32(truncatingIfNeeded: item.instruction.displacement)
        } else {
            probe.linear = emitLinearAddress(item)
        }
        emitProbe(probe, item)
        return operand(of: probe, folds: folds)
    }

    /// The host register of a base from which the operand is at a small distance, of which the alignment
    /// is not affected.
    private func nearbyBase(_ item: BlockInstruction, _ alignmentMask: UInt8) -> UInt8? {
        let i = item.instruction
        guard !is32, i.base < 16, i.index >= 16, i.addressSize == 8, i.segment < SegmentNumber.fs,
            abs(i.displacement) <= Int64(Self.nearby), i.displacement & Int64(alignmentMask) == 0
        else { return nil }
        let host = HostRegister.of(i.base)
        return host == HostRegister.none ? nil : host
    }

    /// What the operand of `probe` is after it.
    func operand(of probe: Probe, folds: Bool) -> HostOperand {
        guard folds else { return .indexed(probe.linear, HostRegister.index, probe.displacement) }
        return fold(probe.linear, probe.displacement)
    }

    /// An operand at a known linear address, all in one page: its place in the translation cache is known.
    private func emitKnownOperand(
        _ linear: UInt64, size: Int, write: Bool, _ item: BlockInstruction, folds: Bool
    ) -> HostOperand {
        probeCount += 1
        let entry = Int32((linear >> 12) & UInt64(TLB.entries - 1)) << 5
        let tag = HostOperand.state(entry + (write ? 8 : 0))
        if let page = Int32(exactly: Int64(bitPattern: linear & TLB.pageMask)) {
            // CMP QWORD [tag], page
            code.encode(wide: true, 0x81, 7, tag)
            code.word32(page)
        } else {
            code.constant(HostRegister.address, linear & TLB.pageMask)
            code.encode(wide: true, 0x3B, HostRegister.address, tag)
        }
        let miss = code.pendingJumpIf(5)
        code.load(HostRegister.index, .state(entry + 16))
        let how = Miss(kind: .address, size: size, write: write, known: linear, back: code.here)
        stubs.append(Stub(kind: .fill(how), from: miss, pageOffset: item.pageOffset))
        if let short = Int32(exactly: Int64(bitPattern: linear)) {
            guard folds else { return .memory(HostRegister.index, short) }
            code.lea(
                HostRegister.address, base: HostRegister.index, index: HostRegister.none, scaleShift: 0,
                short, wide: true)
            return .memory(HostRegister.address, 0)
        }
        code.constant(HostRegister.address, linear)
        return folds ? fold(HostRegister.address) : .indexed(HostRegister.address, HostRegister.index, 0)
    }

    /// R10 = linear + displacement + R11.
    private func fold(_ linear: UInt8, _ displacement: Int32 = 0) -> HostOperand {
        let address = HostRegister.address
        code.lea(
            address, base: linear, index: HostRegister.index, scaleShift: 0, displacement, wide: true)
        return .memory(address, 0)
    }

    /// A word of the guest's stack at RSP + `displacement`. An address of 32-bit code that wraps is found by
    /// no probe.
    func emitStackOperand(
        _ displacement: Int32, write: Bool, _ item: BlockInstruction, folds: Bool = false
    ) -> HostOperand {
        let stack = HostRegister.guestRSP
        if isSegmented {
            return operand(of: emitSegmentedStack(stack, displacement, write: write, item), folds: folds)
        }
        if isInGroup { return .indexed(stack, HostRegister.index, displacement) }
        saveFlagsIfLive(item.liveBefore)
        let probe = Probe(linear: stack, displacement: displacement, size: Int(slot), write: write)
        emitProbe(probe, item)
        return operand(of: probe, folds: folds)
    }

    /// Adds to the guest's RSP without touching flags.
    func moveStack(_ change: Int32) {
        let stack = HostRegister.guestRSP
        if isSegmented, !hasWideStack { code.byte(0x66) }
        code.lea(stack, base: stack, index: HostRegister.none, scaleShift: 0, change, wide: !is32)
    }
}
