import X86Architecture

/// SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS as AMD defines them (APM vol. 3; vol. 2 §6.1).
extension CPU {
    private static func flatCode(_ selector: UInt16, _ privilege: UInt8, isLong: Bool) -> SegmentCache {
        let size = isLong ? SegmentAttributes.long : SegmentAttributes.big
        return SegmentCache(
            base: 0, limit: 0xFFFF_FFFF,
            attributes: 0x809B | size | UInt32(privilege) << 5, selector: selector)
    }

    private static func flatStack(_ selector: UInt16, _ privilege: UInt8) -> SegmentCache {
        SegmentCache(
            base: 0, limit: 0xFFFF_FFFF, attributes: 0xC093 | UInt32(privilege) << 5, selector: selector)
    }

    func systemCall() throws(Fault) {
        guard s.efer & EFER.syscallEnable != 0, isProtected else { throw .undefinedOpcode }
        let selector = UInt16(truncatingIfNeeded: s.star >> 32) & 0xFFFC
        let target: UInt64
        if isLongMode {
            setGPR(Register.rcx, s.rip)
            setGPR(11, rflags & ~RFlags.resume.rawValue)
            target = is64Bit ? s.lstar : s.cstar
            setRFlags(rflags & ~(s.syscallMask | RFlags.resume.rawValue))
        } else {
            setGPR(Register.rcx, s.rip & 0xFFFF_FFFF)
            target = s.star & 0xFFFF_FFFF
            let cleared: RFlags = [.virtual8086, .interrupt, .resume]
            s.otherFlags &= ~cleared.rawValue
        }
        // A mask that clears TF takes the step's trap away with it.
        s.suppressStep = s.otherFlags & RFlags.trap.rawValue == 0
        s.segments[Segment.ss] = Self.flatStack(selector &+ 8, 0)
        commitCode(Self.flatCode(selector, 0, isLong: isLongMode), target, 0)
    }

    /// SS's hidden part is loaded too, where AMD keeps the old one (APM vol. 3, SYSRET): that differs only
    /// for software that returns with a null SS, which would not work otherwise.
    func systemReturn(_ i: borrowing Instruction) throws(Fault) {
        guard s.efer & EFER.syscallEnable != 0 else { throw .undefinedOpcode }
        guard isProtected, s.cpl == 0 else { throw .protection() }
        let interruptsBefore = interruptFlag
        let selector = UInt16(truncatingIfNeeded: s.star >> 48) & 0xFFFC
        let size = i.operandSize
        let to64 = is64Bit && size == 8
        let target = to64 ? gpr(Register.rcx) : gpr(Register.rcx) & 0xFFFF_FFFF
        if isLongMode {
            setRFlags(gpr(11) & ~(RFlags.resume.rawValue | RFlags.virtual8086.rawValue) & 0x3F_7FD7)
        } else {
            s.otherFlags |= RFlags.interrupt.rawValue
        }
        s.segments[Segment.ss] = Self.flatStack(selector &+ 8 | 3, 3)
        commitCode(Self.flatCode((to64 ? selector &+ 16 : selector) | 3, 3, isLong: to64), target, 3)
        // TF as loaded counts at once: the step is that of the SYSCALL before.
        s.suppressStep = true
        if s.otherFlags & RFlags.trap.rawValue != 0 {
            reportDebug(DebugStatus.singleStep)
            deliverTrap(ExceptionVector.debug.rawValue)
            return
        }
        interruptsMayHaveOpened(was: interruptsBefore)
    }

    /// AMD has SYSENTER and SYSEXIT outside long mode only.
    func systemEnter() throws(Fault) {
        guard !isLongMode else { throw .undefinedOpcode }
        guard isProtected, s.sysenterCS & 0xFFFC != 0 else { throw .protection() }
        let selector = UInt16(truncatingIfNeeded: s.sysenterCS) & 0xFFFC
        let cleared: RFlags = [.virtual8086, .interrupt, .resume]
        s.otherFlags &= ~cleared.rawValue
        s.segments[Segment.ss] = Self.flatStack(selector &+ 8, 0)
        setGPR(Register.rsp, s.sysenterESP & 0xFFFF_FFFF)
        commitCode(Self.flatCode(selector, 0, isLong: false), s.sysenterEIP & 0xFFFF_FFFF, 0)
    }

    func systemExit() throws(Fault) {
        guard !isLongMode else { throw .undefinedOpcode }
        guard isProtected, !isVirtual8086, s.cpl == 0, s.sysenterCS & 0xFFFC != 0 else { throw .protection() }
        let selector = UInt16(truncatingIfNeeded: s.sysenterCS) & 0xFFFC
        s.segments[Segment.ss] = Self.flatStack(selector &+ 24 | 3, 3)
        setGPR(Register.rsp, gpr(Register.rcx) & 0xFFFF_FFFF)
        commitCode(Self.flatCode(selector &+ 16 | 3, 3, isLong: false), gpr(Register.rdx) & 0xFFFF_FFFF, 3)
    }

    func swapGS() throws(Fault) {
        guard is64Bit else { throw .undefinedOpcode }
        try requirePrivileged()
        let old = s.segments[Segment.gs].base
        s.segments[Segment.gs].base = s.kernelGSBase
        s.kernelGSBase = old
        s.effectiveBase[Segment.gs] = s.segments[Segment.gs].base
    }

    // MARK: Segment bases (SDM vol. 2 RDFSBASE)

    private func checkSegmentBaseAccess() throws(Fault) {
        guard is64Bit, s.cr4 & CR4.fsgsBase != 0 else { throw .undefinedOpcode }
    }

    func readSegmentBase(_ i: borrowing Instruction, _ segment: Int) throws(Fault) {
        try checkSegmentBaseAccess()
        try writeOperand(i, 0, s.segments[segment].base)
    }

    func writeSegmentBase(_ i: borrowing Instruction, _ segment: Int) throws(Fault) {
        try checkSegmentBaseAccess()
        let base = try readOperand(i, 0)
        guard Self.isCanonical(base) else { throw .protection() }
        setSegmentBase(segment, base)
    }

    /// Also for the FS.base and GS.base MSRs.
    func setSegmentBase(_ segment: Int, _ base: UInt64) {
        s.segments[segment].base = base
        s.effectiveBase[segment] = base
        // Outside 64-bit mode a base decides whether the segment needs checks.
        if !is64Bit { modeChanged() }
    }

    // MARK: Privilege

    /// Outside privilege 0 (and so in virtual-8086 mode): #GP(0).
    func requirePrivileged() throws(Fault) {
        guard s.cpl == 0 else { throw .protection() }
    }

    /// In real and virtual-8086 mode: #UD.
    func requireProtected() throws(Fault) {
        guard !isRealLike else { throw .undefinedOpcode }
    }

    /// User-mode instruction prevention (SDM vol. 3 §2.5, CR4.UMIP).
    func checkInstructionPrevention() throws(Fault) {
        guard s.cpl == 0 || s.cr4 & CR4.userModeInstructionPrevention == 0 else { throw .protection() }
    }
}
