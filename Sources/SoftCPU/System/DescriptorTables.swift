import X86Architecture

/// LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR, LAR, LSL, VERR, VERW and ARPL (SDM vol. 2; vol. 3 §2.4,
/// §5.10).
extension CPU {
    enum TableRegisterName { case gdt, idt }

    /// Bytes of the pseudo-descriptor's base in memory.
    private var tableBaseSize: UInt8 { is64Bit ? 8 : 4 }

    func loadTable(_ i: borrowing Instruction, _ register: TableRegisterName) throws(Fault) {
        try requirePrivileged()
        let size = tableBaseSize
        let start = try memoryAddress(i, 2 &+ Int(size))
        let limit = try load(UInt16.self, start, i.segment)
        var base = try load(size: size, (start &+ 2) & s.linearMask, i.segment)
        if size == 4, i.operandSize == 2 { base &= 0xFF_FFFF }
        if size == 8 { guard Self.isCanonical(base) else { throw .protection() } }
        if register == .idt {
            s.idtBase = base
            s.idtLimit = UInt32(limit)
        } else {
            s.gdtBase = base
            s.gdtLimit = UInt32(limit)
        }
        s.endBlock = true
    }

    func storeTable(_ i: borrowing Instruction, _ register: TableRegisterName) throws(Fault) {
        try checkInstructionPrevention()
        let size = tableBaseSize
        let start = try memoryAddress(i, 2 &+ Int(size), write: true)
        try probeWrite(start, 2 &+ Int(size), i.segment)
        let limit = register == .idt ? s.idtLimit : s.gdtLimit
        let base = register == .idt ? s.idtBase : s.gdtBase
        try store(size: 2, UInt64(limit), start, i.segment)
        try store(size: size, base, (start &+ 2) & s.linearMask, i.segment)
    }

    /// SLDT and STR.
    func storeSelector(_ i: borrowing Instruction, _ register: Int) throws(Fault) {
        try requireProtected()
        try checkInstructionPrevention()
        try writeOperand(i, 0, UInt64(s.segments[register].selector))
    }

    func loadLocalTable(_ i: borrowing Instruction) throws(Fault) {
        try requireProtected()
        try requirePrivileged()
        let selector = UInt16(truncatingIfNeeded: try readOperand(i, 0))
        s.segments[Segment.ldtr] = try localTable(selector, or: .generalProtection)
        s.endBlock = true
    }

    /// The hidden part of an LDTR; `vector` is #GP, or #TS in a task switch.
    func localTable(_ selector: UInt16, or vector: ExceptionVector) throws(Fault) -> SegmentCache {
        guard selector & 0xFFFC != 0 else { return Self.nullSegment(selector) }
        let fault = Fault(vector, UInt32(selector & 0xFFFC))
        guard selector & 4 == 0 else { throw fault }
        let found = try descriptor(selector, or: vector)
        guard !found.isCodeOrData, found.type == SystemType.ldt else { throw fault }
        guard found.isPresent else {
            throw vector == .generalProtection ? .notPresent(selector) : fault
        }
        let whole = try completed(found, selector, or: vector)
        guard Self.isCanonical(whole.base) else { throw fault }
        return whole.cache(selector: selector)
    }

    func loadTask(_ i: borrowing Instruction) throws(Fault) {
        try requireProtected()
        try requirePrivileged()
        let selector = UInt16(truncatingIfNeeded: try readOperand(i, 0))
        guard selector & 0xFFFC != 0 else { throw .protection() }
        guard selector & 4 == 0 else { throw .protection(selector: selector) }
        var found = try descriptor(selector, or: .generalProtection)
        let isAvailable =
            found.type == SystemType.availableTSS || !isLongMode && found.type == SystemType.availableTSS16
        guard !found.isCodeOrData, isAvailable else { throw .protection(selector: selector) }
        guard found.isPresent else { throw .notPresent(selector) }
        found = try completed(found, selector, or: .generalProtection)
        // AMD APM vol. 3, LTR and LLDT.
        guard Self.isCanonical(found.base) else { throw .protection(selector: selector) }
        try setTaskBusy(&found, true)
        s.segments[Segment.tr] = found.cache(selector: selector)
        s.endBlock = true
    }

    /// Sets or clears the busy bit in memory and in `descriptor`.
    func setTaskBusy(_ descriptor: inout Descriptor, _ busy: Bool) throws(Fault) {
        let bit = UInt64(SystemType.busyBit) << 40
        descriptor.low = busy ? descriptor.low | bit : descriptor.low & ~bit
        let byte = try loadTable(UInt8.self, descriptor.address &+ 5)
        let new = busy ? byte | SystemType.busyBit : byte & ~SystemType.busyBit
        try storeTable(new, descriptor.address &+ 5)
    }

    // MARK: Questions about selectors

    /// The descriptor that `selector` names, when its privilege lets the current code know about it.
    private func visibleDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor? {
        guard selector & 0xFFFC != 0, let address = descriptorAddress(selector) else { return nil }
        let found = Descriptor(low: try loadTable(UInt64.self, address), address: address)
        let isVisible = found.isConforming || found.privilege >= max(s.cpl, UInt8(selector & 3))
        return isVisible ? found : nil
    }

    private func setZeroFlag(_ zero: Bool) {
        let flags = statusFlags & ~RFlags.zero.rawValue
        setStatusFlags(zero ? flags | RFlags.zero.rawValue : flags)
    }

    private func sourceSelector(_ i: borrowing Instruction, _ position: Int) throws(Fault) -> UInt16 {
        UInt16(truncatingIfNeeded: try readOperand(i, position))
    }

    func loadAccessRights(_ i: borrowing Instruction) throws(Fault) {
        try requireProtected()
        let found = try visibleDescriptor(sourceSelector(i, 1))
        guard let found, found.isCodeOrData || hasRights(found.type) else { return setZeroFlag(false) }
        setZeroFlag(true)
        setGPR(Int(i.operand(0).register), size: i.operand(0).size, (found.low >> 32) & 0xFF_FF00)
    }

    /// System types that LAR accepts (SDM vol. 2 LAR; table 3-2 for long mode).
    private func hasRights(_ type: UInt8) -> Bool {
        isLongMode ? [2, 9, 0xB, 0xC].contains(type) : [1, 2, 3, 4, 5, 9, 0xB, 0xC].contains(type)
    }

    func loadSegmentLimit(_ i: borrowing Instruction) throws(Fault) {
        try requireProtected()
        let found = try visibleDescriptor(sourceSelector(i, 1))
        guard let found, found.isCodeOrData || hasLimit(found.type) else { return setZeroFlag(false) }
        setZeroFlag(true)
        setGPR(Int(i.operand(0).register), size: i.operand(0).size, UInt64(found.limit))
    }

    private func hasLimit(_ type: UInt8) -> Bool {
        isLongMode ? [2, 9, 0xB].contains(type) : [1, 2, 3, 9, 0xB].contains(type)
    }

    /// VERR and VERW.
    func verify(_ i: borrowing Instruction, write: Bool) throws(Fault) {
        try requireProtected()
        let found = try visibleDescriptor(sourceSelector(i, 0))
        guard let found, found.isCodeOrData else { return setZeroFlag(false) }
        setZeroFlag(write ? found.isWritableData : found.isReadable)
    }

    func adjustPrivilege(_ i: borrowing Instruction) throws(Fault) {
        try requireProtected()
        let wanted = try readOperand(i, 1) & 3
        let old = try readOperand(i, 0)
        let raised = old & 3 < wanted
        if raised { try writeOperand(i, 0, old & ~3 | wanted) }
        setZeroFlag(raised)
    }
}
