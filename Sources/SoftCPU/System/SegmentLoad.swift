import X86Architecture

/// Loads of ES, SS, DS, FS and GS (SDM vol. 3 §5.6, §5.7; vol. 2 MOV).
extension CPU {
    func loadSegment(_ segment: Int, _ selector: UInt16) throws(Fault) {
        if isRealLike {
            loadRealSegment(segment, selector)
        } else if segment == Segment.ss {
            s.segments[Segment.ss] = try stackSegment(selector, privilege: s.cpl, or: .generalProtection)
        } else {
            s.segments[segment] = try dataSegment(selector)
        }
        segmentLoaded(segment)
    }

    /// What a load of one data segment changes of the derived state.
    private func segmentLoaded(_ segment: Int) {
        if segment == Segment.ss { s.endBlock = true }
        if is64Bit {
            if segment >= Segment.fs { s.effectiveBase[segment] = s.segments[segment].base }
        } else if segment == Segment.ss {
            modeChanged()
        } else {
            dataSegmentChanged(segment)
        }
    }

    /// Real and virtual-8086 mode: the base follows the selector. Real mode keeps limit and attributes, which
    /// is what "unreal mode" lives on (AMD APM vol. 2 §4.3); virtual-8086 mode forces them.
    func loadRealSegment(_ segment: Int, _ selector: UInt16) {
        var cache = s.segments[segment]
        cache.selector = selector
        cache.base = UInt64(selector) << 4
        if isVirtual8086 {
            cache.limit = 0xFFFF
            cache.attributes = 0xF3
        } else if cache.attributes & SegmentAttributes.unusable != 0 {
            cache.limit = 0xFFFF
            cache.attributes = 0x93
        }
        s.segments[segment] = cache
    }

    static func nullSegment(_ selector: UInt16) -> SegmentCache {
        SegmentCache(base: 0, limit: 0, attributes: SegmentAttributes.unusable, selector: selector)
    }

    /// The hidden part for DS, ES, FS or GS.
    private func dataSegment(_ selector: UInt16) throws(Fault) -> SegmentCache {
        guard selector & 0xFFFC != 0 else { return Self.nullSegment(selector) }
        var found = try descriptor(selector, or: .generalProtection)
        guard found.isReadable else { throw .protection(selector: selector) }
        if !found.isConforming {
            guard found.privilege >= max(s.cpl, UInt8(selector & 3)) else {
                throw .protection(selector: selector)
            }
        }
        guard found.isPresent else { throw .notPresent(selector) }
        try markAccessed(&found)
        return found.cache(selector: selector)
    }

    /// The hidden part for an SS that code of `privilege` uses; `vector` is #GP, or #TS for stacks from a
    /// TSS. A null SS is for 64-bit code of privilege 0..2 only (`target64` says whose).
    func stackSegment(
        _ selector: UInt16, privilege: UInt8, or vector: ExceptionVector, target64: Bool? = nil
    ) throws(Fault) -> SegmentCache {
        let fault = Fault(vector, UInt32(selector & 0xFFFC))
        guard selector & 0xFFFC != 0 else {
            guard target64 ?? is64Bit, privilege < 3, UInt8(selector & 3) == privilege else {
                throw Fault(vector, 0)
            }
            return Self.nullStack(privilege)
        }
        guard UInt8(selector & 3) == privilege else { throw fault }
        var found = try descriptor(selector, or: vector)
        guard found.isWritableData, found.privilege == privilege else { throw fault }
        guard found.isPresent else { throw .stack(selector: selector) }
        try markAccessed(&found)
        return found.cache(selector: selector)
    }

    /// The null SS of 64-bit code, whose DPL still says the privilege.
    static func nullStack(_ privilege: UInt8) -> SegmentCache {
        SegmentCache(
            base: 0, limit: 0, attributes: SegmentAttributes.unusable | UInt32(privilege) << 5,
            selector: UInt16(privilege))
    }

    /// After a return to an outer privilege: segments that the new code may not use become null
    /// (SDM vol. 3 §5.8.6).
    func dropInnerSegments() {
        for segment in [Segment.es, Segment.ds, Segment.fs, Segment.gs] {
            let cache = s.segments[segment]
            let attributes = cache.attributes
            guard attributes & SegmentAttributes.unusable == 0 else { continue }
            let conforming = SegmentAttributes.code | SegmentAttributes.conforming
            if SegmentAttributes.privilege(attributes) < s.cpl, attributes & conforming != conforming {
                // The base stays: 64-bit software that runs with such a selector in FS or GS relies on it.
                s.segments[segment].selector = 0
                s.segments[segment].attributes = SegmentAttributes.unusable
            }
        }
    }

    // MARK: Instructions

    /// MOV to and from a segment register.
    func moveSegment(_ i: borrowing Instruction) throws(Fault) {
        guard i.operand(0).kind == .segment else {
            let selector = s.segments[Int(i.operand(1).register & 7)].selector
            return try writeOperand(i, 0, UInt64(selector))
        }
        let segment = Int(i.operand(0).register)
        guard segment < 6, segment != Segment.cs else { throw .undefinedOpcode }
        let selector = UInt16(truncatingIfNeeded: try readOperand(i, 1))
        try loadSegment(segment, selector)
        if segment == Segment.ss { holdInterrupts() }
    }

    /// MOV SS and POP SS hold back interrupts and debug traps until the next instruction is done.
    private func holdInterrupts() {
        s.interruptShadow = true
        s.debugShadow = true
        requestAttention()
    }

    func pushSegment(_ i: borrowing Instruction) throws(Fault) {
        var stack = currentStack()
        try stack.push(UInt64(s.segments[Int(i.operand(0).register & 7)].selector), i.operandSize)
        setStackPointer(stack.pointer)
    }

    func popSegment(_ i: borrowing Instruction) throws(Fault) {
        let segment = Int(i.operand(0).register & 7)
        guard segment < 6, segment != Segment.cs else { throw .undefinedOpcode }
        var stack = currentStack()
        let selector = UInt16(truncatingIfNeeded: try stack.popSelector(i.operandSize))
        // The pointer moves by the old stack's width even when this loads SS.
        let mask = s.stackMask
        try loadSegment(segment, selector)
        setStackPointer(stack.pointer, mask: mask)
        if segment == Segment.ss { holdInterrupts() }
    }

    /// LDS, LES, LSS, LFS, LGS.
    func loadFarPointer(_ i: borrowing Instruction, _ segment: Int) throws(Fault) {
        // AMD has no m16:64: REX.W makes only the destination wider.
        let (selector, offset) = try farPointer(i, size: min(i.operand(0).size, 4))
        try loadSegment(segment, selector)
        setGPR(Int(i.operand(0).register), size: i.operand(0).size, offset)
    }

    /// The m16:16 or m16:32 operand: `size` bytes of offset, then the selector.
    func farPointer(_ i: borrowing Instruction, size: UInt8) throws(Fault) -> (
        selector: UInt16, offset: UInt64
    ) {
        let bytes = Int(size)
        let start = try memoryAddress(i, bytes &+ 2)
        let offset = try load(size: size, start, i.segment)
        let selector = try load(UInt16.self, (start &+ UInt64(bytes)) & s.linearMask, i.segment)
        return (selector, offset)
    }
}
