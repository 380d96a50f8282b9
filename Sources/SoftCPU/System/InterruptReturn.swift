import X86Architecture

/// IRET in every mode (SDM vol. 2 IRET; vol. 3 §20.2.3, §6.14.3).
extension CPU {
    func interruptReturn(_ i: borrowing Instruction) throws(Fault) {
        let interruptsBefore = interruptFlag
        if !isProtected {
            try returnReal(i.operandSize)
        } else if isVirtual8086 {
            try returnVirtual8086(i.operandSize)
        } else if s.otherFlags & RFlags.nestedTask.rawValue != 0 {
            guard !isLongMode else { throw .protection() }
            try returnFromTask()
        } else {
            try returnProtected(i.operandSize)
        }
        if s.nmiBlocked {
            s.nmiBlocked = false
            if s.nmiPending { requestAttention() }
        }
        settleResumeFlag()
        s.endBlock = true
        interruptsMayHaveOpened(was: interruptsBefore)
    }

    /// RF, just loaded, holds for the next instruction. Without breakpoints it has nothing to hold back, and
    /// goes at once: every return from a page fault sets it.
    func settleResumeFlag() {
        guard s.otherFlags & RFlags.resume.rawValue != 0 else { return }
        if s.dr[7] & 0xFF == 0 { s.otherFlags &= ~RFlags.resume.rawValue } else { s.keepResumeFlag = true }
    }

    /// Loads flags from a stack image of `size` bytes as IRET does at privilege `privilege`.
    private func loadReturnedFlags(_ image: UInt64, _ size: UInt8, _ privilege: UInt8) {
        var mask = RFlags.status.union([.trap, .direction, .nestedTask])
        if size >= 4 { mask.formUnion([.resume, .alignmentCheck, .identification]) }
        if privilege == 0 {
            mask.insert(.ioPrivilege)
            if size >= 4 { mask.formUnion([.virtualInterrupt, .virtualInterruptPending]) }
        }
        if privilege <= ioPrivilege { mask.insert(.interrupt) }
        setRFlags(rflags & ~mask.rawValue | image & mask.rawValue)
    }

    private func returnReal(_ size: UInt8) throws(Fault) {
        var stack = currentStack()
        let rip = try stack.pop(size)
        let selector = UInt16(truncatingIfNeeded: try stack.popSelector(size))
        let image = try stack.pop(size)
        guard rip <= UInt64(s.segments[Segment.cs].limit) else { throw .protection() }
        setStackPointer(stack.pointer)
        var mask: RFlags = RFlags.status.union([.trap, .direction, .nestedTask, .interrupt, .ioPrivilege])
        if size >= 4 { mask.formUnion([.resume, .alignmentCheck, .identification]) }
        setRFlags(rflags & ~mask.rawValue | image & mask.rawValue)
        loadRealSegment(Segment.cs, selector)
        s.rip = rip
        modeChanged()
    }

    private func returnVirtual8086(_ size: UInt8) throws(Fault) {
        let isVirtual = ioPrivilege < 3
        if isVirtual {
            guard s.cr4 & CR4.virtual8086Extensions != 0, size == 2 else { throw .protection() }
        }
        var stack = currentStack()
        let rip = try stack.pop(size)
        let selector = UInt16(truncatingIfNeeded: try stack.popSelector(size))
        let image = try stack.pop(size)
        guard rip <= 0xFFFF else { throw .protection() }
        if isVirtual { try checkVirtualInterrupts(image) }
        setStackPointer(stack.pointer)
        loadVirtual8086Flags(image, size, isVirtual: isVirtual)
        loadRealSegment(Segment.cs, selector)
        s.rip = rip
        modeChanged()
    }

    /// VME: TF, or IF while an interrupt waits for it, go to the monitor (SDM vol. 3 §20.3.2).
    func checkVirtualInterrupts(_ image: UInt64) throws(Fault) {
        let pending = s.otherFlags & RFlags.virtualInterruptPending.rawValue != 0
        if image & RFlags.trap.rawValue != 0 { throw .protection() }
        if pending, image & RFlags.interrupt.rawValue != 0 { throw .protection() }
    }

    /// POPF and IRET inside virtual-8086 mode: IOPL, VM, VIP and (IOPL 3) VIF stay.
    func loadVirtual8086Flags(_ image: UInt64, _ size: UInt8, isVirtual: Bool) {
        var mask = RFlags.status.union([.trap, .direction, .nestedTask])
        if !isVirtual { mask.insert(.interrupt) }
        if size >= 4 { mask.formUnion([.resume, .alignmentCheck, .identification]) }
        var flags = rflags & ~mask.rawValue | image & mask.rawValue
        if isVirtual {
            flags &= ~RFlags.virtualInterrupt.rawValue
            if image & RFlags.interrupt.rawValue != 0 { flags |= RFlags.virtualInterrupt.rawValue }
        }
        setRFlags(flags)
    }

    // MARK: Protected and long mode

    private func returnProtected(_ size: UInt8) throws(Fault) {
        var stack = currentStack()
        let rip = try stack.pop(size)
        let selector = UInt16(truncatingIfNeeded: try stack.popSelector(size))
        let image = try stack.pop(size)
        let privilege = UInt8(selector & 3)
        if size == 4, !isLongMode, s.cpl == 0, image & RFlags.virtual8086.rawValue != 0 {
            return try enterVirtual8086Mode(&stack, rip, selector, image)
        }
        let code = try returnCode(selector, rip)
        let oldPrivilege = s.cpl
        guard is64Bit || privilege > oldPrivilege else {
            setStackPointer(stack.pointer)
            loadReturnedFlags(image, size, oldPrivilege)
            commitCode(code.cache(selector: selector), rip, privilege)
            return
        }
        let pointer = try stack.pop(size)
        let stackSelector = UInt16(truncatingIfNeeded: try stack.popSelector(size))
        let target64 = isLongMode && code.isLong
        let segment = try stackSegment(
            stackSelector, privilege: privilege, or: .generalProtection, target64: target64)
        loadReturnedFlags(image, size, oldPrivilege)
        s.segments[Segment.ss] = segment
        commitCode(code.cache(selector: selector), rip, privilege)
        setStackPointer(pointer)
        if privilege > oldPrivilege {
            dropInnerSegments()
            modeChanged()
        }
    }

    /// The code segment that a far return goes to, and whether `rip` lies in it (SDM vol. 3 §5.8.6).
    func returnCode(_ selector: UInt16, _ rip: UInt64) throws(Fault) -> Descriptor {
        guard selector & 0xFFFC != 0 else { throw .protection() }
        let fault = Fault.protection(selector: selector)
        let privilege = UInt8(selector & 3)
        var code = try descriptor(selector, or: .generalProtection)
        guard code.isCode, privilege >= s.cpl else { throw fault }
        guard code.isConforming ? code.privilege <= privilege : code.privilege == privilege else {
            throw fault
        }
        guard code.isPresent else { throw .notPresent(selector) }
        try checkTarget(code, selector, rip)
        try markAccessed(&code)
        return code
    }

    /// L and D together are reserved in long mode; the offset must be canonical or inside the limit.
    func checkTarget(_ code: Descriptor, _ selector: UInt16, _ rip: UInt64) throws(Fault) {
        if isLongMode, code.isLong {
            guard !code.isBig else { throw .protection(selector: selector) }
            guard Self.isCanonical(rip) else { throw .protection() }
        } else {
            guard rip <= UInt64(code.limit) else { throw .protection() }
        }
    }

    /// IRETD with VM set in the image, at privilege 0.
    private func enterVirtual8086Mode(
        _ stack: inout StackCursor, _ rip: UInt64, _ selector: UInt16, _ image: UInt64
    ) throws(Fault) {
        let pointer = try stack.pop(4)
        let order = [Segment.ss, Segment.es, Segment.ds, Segment.fs, Segment.gs]
        var selectors = [UInt16](repeating: 0, count: 5)
        for index in 0..<5 { selectors[index] = UInt16(truncatingIfNeeded: try stack.popSelector(4)) }
        guard rip <= 0xFFFF else { throw .protection() }
        setRFlags(image & 0x3F_7FD7)
        for index in 0..<5 { loadRealSegment(order[index], selectors[index]) }
        loadRealSegment(Segment.cs, selector)
        s.cpl = 3
        s.rip = rip
        modeChanged()
        setGPR(Register.rsp, pointer & 0xFFFF_FFFF)
    }

    private func returnFromTask() throws(Fault) {
        let current = s.segments[Segment.tr]
        let selector = try loadTable(UInt16.self, current.base)
        guard selector & 4 == 0, selector & 0xFFFC != 0 else { throw .invalidTSS(selector) }
        let task = try descriptor(selector, or: .invalidTSS)
        guard !task.isCodeOrData, task.type & ~SystemType.wideBit == SystemType.busyTSS16 else {
            throw .invalidTSS(selector)
        }
        guard task.isPresent else { throw .notPresent(selector) }
        try switchTask(selector, task, .return, errorCode: nil)
    }
}
