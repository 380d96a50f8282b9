import X86Architecture

/// Far JMP, CALL and RET (SDM vol. 3 §5.8; vol. 2 JMP, CALL, RET; AMD APM vol. 2 §4.11).
extension CPU {
    /// Selector and offset of the operand. With REX.W the offset has 64 bits, as on Intel's processors, where
    /// AMD's ignore REX.W: a guest that uses it means the former.
    private func farTarget(_ i: borrowing Instruction) throws(Fault) -> (selector: UInt16, offset: UInt64) {
        let size = i.operandSize
        if i.operand(0).kind == .farPointer {
            return (UInt16(truncatingIfNeeded: i.immediate2), i.immediate & Self.sizeMask(size))
        }
        return try farPointer(i, size: size)
    }

    private func commitReal(_ selector: UInt16, _ offset: UInt64) {
        loadRealSegment(Segment.cs, selector)
        s.rip = offset
        modeChanged()
    }

    // MARK: JMP

    func farJump(_ i: borrowing Instruction) throws(Fault) {
        let (selector, offset) = try farTarget(i)
        if isRealLike {
            guard offset <= UInt64(s.segments[Segment.cs].limit) else { throw .protection() }
            return commitReal(selector, offset)
        }
        let found = try farDescriptor(selector)
        if found.isCode {
            var code = try directCode(found, selector, offset)
            try markAccessed(&code)
            return commitCode(code.cache(selector: selector), offset, s.cpl)
        }
        let gate = try systemTarget(found, selector)
        switch gate.type {
        case SystemType.callGate, SystemType.callGate16:
            let target = try gateCode(gate, isCall: false)
            commitCode(target.cache(selector: gate.gateSelector), gateOffset(gate), s.cpl)
        case SystemType.taskGate: try switchTask(throughGate: gate, .jump)
        default: try switchTask(selector, gate, .jump, errorCode: nil)
        }
    }

    private func farDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor {
        guard selector & 0xFFFC != 0 else { throw .protection() }
        return try descriptor(selector, or: .generalProtection)
    }

    /// Checks of a direct JMP or CALL to a code segment.
    private func directCode(
        _ code: Descriptor, _ selector: UInt16, _ offset: UInt64
    ) throws(Fault) -> Descriptor {
        let isAllowed =
            code.isConforming
            ? code.privilege <= s.cpl : code.privilege == s.cpl && UInt8(selector & 3) <= s.cpl
        guard isAllowed else { throw .protection(selector: selector) }
        guard code.isPresent else { throw .notPresent(selector) }
        try checkTarget(code, selector, offset)
        return code
    }

    /// Checks of a gate or TSS that the operand's selector names; completes it in long mode.
    private func systemTarget(_ found: Descriptor, _ selector: UInt16) throws(Fault) -> Descriptor {
        let fault = Fault.protection(selector: selector)
        guard !found.isCodeOrData else { throw fault }
        if isLongMode {
            guard found.type == SystemType.callGate else { throw fault }
        } else {
            let types = [
                SystemType.availableTSS16, SystemType.callGate16, SystemType.taskGate,
                SystemType.availableTSS,
                SystemType.callGate,
            ]
            guard types.contains(found.type) else { throw fault }
        }
        let isTask = found.type & ~SystemType.wideBit == SystemType.availableTSS16
        guard found.privilege >= max(s.cpl, UInt8(selector & 3)), !isTask || selector & 4 == 0 else {
            throw fault
        }
        guard found.isPresent else { throw .notPresent(selector) }
        return try completed(found, selector, or: .generalProtection)
    }

    private func gateOffset(_ gate: Descriptor) -> UInt64 {
        gate.type == SystemType.callGate16 ? gate.gateOffset & 0xFFFF : gate.gateOffset
    }

    /// The code segment behind a call gate.
    private func gateCode(_ gate: Descriptor, isCall: Bool) throws(Fault) -> Descriptor {
        let selector = gate.gateSelector
        let fault = Fault.protection(selector: selector)
        var code = try farDescriptor(selector)
        guard code.isCode, code.privilege <= s.cpl else { throw fault }
        if !isCall, !code.isConforming, code.privilege != s.cpl { throw fault }
        if isLongMode { guard code.isLong, !code.isBig else { throw fault } }
        guard code.isPresent else { throw .notPresent(selector) }
        try checkTarget(code, selector, gateOffset(gate))
        try markAccessed(&code)
        return code
    }

    // MARK: CALL

    func farCall(_ i: borrowing Instruction) throws(Fault) {
        // REX.W does not widen the pointer, but what is pushed.
        let size = i.operandSize
        let (selector, offset) = try farTarget(i)
        if isRealLike {
            guard offset <= UInt64(s.segments[Segment.cs].limit) else { throw .protection() }
            let stack = try pushReturn(currentStack(), size)
            setStackPointer(stack.pointer)
            return commitReal(selector, offset)
        }
        let found = try farDescriptor(selector)
        if found.isCode {
            var code = try directCode(found, selector, offset)
            let stack = try pushReturn(currentStack(), size)
            try markAccessed(&code)
            setStackPointer(stack.pointer)
            return commitCode(code.cache(selector: selector), offset, s.cpl)
        }
        let gate = try systemTarget(found, selector)
        switch gate.type {
        case SystemType.callGate, SystemType.callGate16: try callThroughGate(gate)
        case SystemType.taskGate: try switchTask(throughGate: gate, .nested)
        default: try switchTask(selector, gate, .nested, errorCode: nil)
        }
    }

    /// Pushes CS and the next instruction's offset.
    private func pushReturn(_ stack: StackCursor, _ size: UInt8) throws(Fault) -> StackCursor {
        var stack = stack
        try stack.push(UInt64(s.segments[Segment.cs].selector), size)
        try stack.push(s.rip, size)
        return stack
    }

    private func callThroughGate(_ gate: Descriptor) throws(Fault) {
        let code = try gateCode(gate, isCall: true)
        let size: UInt8 = isLongMode ? 8 : gate.type == SystemType.callGate ? 4 : 2
        let cache = code.cache(selector: gate.gateSelector)
        guard !code.isConforming, code.privilege < s.cpl else {
            var stack = currentStack()
            if isLongMode { stack = longStack(stack.pointer, context: s.tlbContext) }
            stack = try pushReturn(stack, size)
            setStackPointer(stack.pointer, mask: stack.mask)
            return commitCode(cache, gateOffset(gate), s.cpl)
        }
        var segment = Self.nullStack(code.privilege)
        var stack: StackCursor
        if isLongMode {
            let pointer = try longStackPointer(4 + 8 * UInt32(code.privilege))
            stack = longStack(pointer, context: supervisorContext)
        } else {
            let inner = try protectedInnerStack(code.privilege)
            segment = inner.segment
            stack = innerStack(segment, inner.pointer)
        }
        try stack.push(UInt64(s.segments[Segment.ss].selector), size)
        try stack.push(gpr(Register.rsp), size)
        if !isLongMode {
            let caller = currentStack()
            for index in (0..<gate.gateParameterCount).reversed() {
                try stack.push(try caller.peek(size, at: UInt64(index) * UInt64(size)), size)
            }
        }
        stack = try pushReturn(stack, size)
        s.segments[Segment.ss] = segment
        setStackPointer(stack.pointer, mask: stack.mask)
        commitCode(cache, gateOffset(gate), code.privilege)
    }

    private func longStack(_ pointer: UInt64, context: UInt32) -> StackCursor {
        StackCursor(
            cpu: self, segment: SegmentCache(), pointer: pointer, mask: .max, context: context, is64: true,
            isTyped: false, errorCode: 0)
    }

    // MARK: RET

    func farReturn(_ i: borrowing Instruction) throws(Fault) {
        let size = i.operandSize
        let released = i.operand(0).kind == .immediate ? i.immediate & 0xFFFF : 0
        var stack = currentStack()
        let rip = try stack.pop(size)
        let selector = UInt16(truncatingIfNeeded: try stack.popSelector(size))
        stack.release(released)
        if isRealLike {
            guard rip <= UInt64(s.segments[Segment.cs].limit) else { throw .protection() }
            setStackPointer(stack.pointer)
            return commitReal(selector, rip)
        }
        let code = try returnCode(selector, rip)
        let privilege = UInt8(selector & 3)
        guard privilege > s.cpl else {
            setStackPointer(stack.pointer)
            return commitCode(code.cache(selector: selector), rip, privilege)
        }
        let pointer = try stack.pop(size)
        let stackSelector = UInt16(truncatingIfNeeded: try stack.popSelector(size))
        let segment = try stackSegment(
            stackSelector, privilege: privilege, or: .generalProtection, target64: isLongMode && code.isLong)
        s.segments[Segment.ss] = segment
        commitCode(code.cache(selector: selector), rip, privilege)
        setStackPointer(pointer &+ released)
        dropInnerSegments()
        modeChanged()
    }
}
