import X86Architecture

/// CLI, STI, PUSHF, POPF, CLAC and STAC (SDM vol. 2; virtual interrupts: vol. 3 §20.3, §20.4).
extension CPU {
    private enum InterruptFlagRight { case real, virtual }

    /// Which of IF and VIF the current code may change.
    private func interruptFlagRight() throws(Fault) -> InterruptFlagRight {
        guard isProtected, s.cpl > ioPrivilege || isVirtual8086 && ioPrivilege < 3 else { return .real }
        let extensions =
            isVirtual8086 ? CR4.virtual8086Extensions : CR4.protectedVirtualInterrupts
        guard s.cr4 & extensions != 0, s.cpl == 3 else { throw .protection() }
        return .virtual
    }

    func clearInterrupts() throws(Fault) {
        switch try interruptFlagRight() {
        case .real: s.otherFlags &= ~RFlags.interrupt.rawValue
        case .virtual: s.otherFlags &= ~RFlags.virtualInterrupt.rawValue
        }
    }

    func setInterrupts() throws(Fault) {
        switch try interruptFlagRight() {
        case .real:
            guard !interruptFlag else { return }
            s.otherFlags |= RFlags.interrupt.rawValue
            s.interruptShadow = true
            s.endBlock = true
            requestAttention()
        case .virtual:
            guard s.otherFlags & RFlags.virtualInterruptPending.rawValue == 0 else { throw .protection() }
            s.otherFlags |= RFlags.virtualInterrupt.rawValue
        }
    }

    func pushFlags(_ i: borrowing Instruction) throws(Fault) {
        var image = rflags & ~(RFlags.virtual8086.rawValue | RFlags.resume.rawValue)
        if isVirtual8086, ioPrivilege < 3 {
            guard s.cr4 & CR4.virtual8086Extensions != 0, i.operandSize == 2 else { throw .protection() }
            image = virtualFlagsImage
        }
        var stack = currentStack()
        try stack.push(image, i.operandSize)
        setStackPointer(stack.pointer)
    }

    /// VM, VIF and VIP stay, RF becomes 0 (AMD APM vol. 3, POPF).
    func popFlags(_ i: borrowing Instruction) throws(Fault) {
        let interruptsBefore = interruptFlag
        let isVirtual = isVirtual8086 && ioPrivilege < 3
        if isVirtual {
            guard s.cr4 & CR4.virtual8086Extensions != 0, i.operandSize == 2 else { throw .protection() }
        }
        var stack = currentStack()
        let image = try stack.pop(i.operandSize)
        if isVirtual { try checkVirtualInterrupts(image) }
        setStackPointer(stack.pointer)
        if isVirtual8086 {
            loadVirtual8086Flags(image & ~RFlags.resume.rawValue, i.operandSize, isVirtual: isVirtual)
        } else {
            var mask = RFlags.status.union([.trap, .direction, .nestedTask])
            if i.operandSize >= 4 { mask.formUnion([.resume, .alignmentCheck, .identification]) }
            if s.cpl == 0 { mask.insert(.ioPrivilege) }
            if s.cpl <= ioPrivilege { mask.insert(.interrupt) }
            let loaded = image & mask.rawValue & ~RFlags.resume.rawValue
            setRFlags(rflags & ~mask.rawValue | loaded)
        }
        updateTLBContext()
        s.endBlock = true
        interruptsMayHaveOpened(was: interruptsBefore)
    }

    /// CLAC and STAC.
    func setAlignmentCheck(_ value: Bool) throws(Fault) {
        guard s.cpl == 0 else { throw .undefinedOpcode }
        if value {
            s.otherFlags |= RFlags.alignmentCheck.rawValue
        } else {
            s.otherFlags &= ~RFlags.alignmentCheck.rawValue
        }
        updateTLBContext()
    }
}
