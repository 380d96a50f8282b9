import X86Architecture

/// What emitted code calls. C functions: they get the address of the CPUState first.
enum TranslatedCalls {
    /// (state, linear address, size | 1000h for stores | 2000h for groups) -> what leads to host addresses, a
    /// multiple of the page size; or an exit, times two plus one: the interpreter must do it.
    static let fill: @convention(c) (UInt, UInt64, UInt32) -> UInt = { state, linear, kind in
        let addend = CPU(address: state).fillForTranslated(
            linear, size: Int(kind & 0xFFF), write: kind & 0x1000 != 0)
        guard addend & 1 != 0 else { return addend }
        return UInt((kind & 0x2000 != 0 ? TranslatedExit.split : TranslatedExit.interpret) * 2 + 1)
    }
    /// (state, op, place of the block's first instruction) -> 0: go on after the instruction, 1: leave, 2: go
    /// on at `NearState.targetAddress` by the table of targets.
    static let escape: @convention(c) (UInt, UInt, UInt32) -> UInt32 = { state, op, block in
        CPU(address: state).escapeFromTranslated(op, block)
    }
    /// (state, level) -> the level is there.
    static let prepareVectors: @convention(c) (UInt, UInt32) -> UInt32 = { state, level in
        CPU(address: state).prepareVectors(level) ? 1 : 0
    }

    static func address(_ function: @convention(c) (UInt, UInt64, UInt32) -> UInt) -> UInt {
        // SAFETY: a C function pointer is an address.
        unsafe unsafeBitCast(function, to: UInt.self)
    }
    static func address(_ function: @convention(c) (UInt, UInt, UInt32) -> UInt32) -> UInt {
        // SAFETY: as above.
        unsafe unsafeBitCast(function, to: UInt.self)
    }
    static func address(_ function: @convention(c) (UInt, UInt32) -> UInt32) -> UInt {
        // SAFETY: as above.
        unsafe unsafeBitCast(function, to: UInt.self)
    }
}

extension CPU {
    /// AX as LAHF and SETO AL leave it, from the lazy flags.
    @inline(__always) var savedFlags: UInt64 {
        let status = statusFlags
        return (status & 0xD5 | 2) << 8 | status >> 11 & 1
    }
    @inline(__always) func loadSavedFlags(_ ax: UInt64) {
        setStatusFlags(ax >> 8 & 0xD5 | (ax & 1) << 11)
    }

    fileprivate func escapeFromTranslated(_ op: UInt, _ block: UInt32) -> UInt32 {
        s.translated.escapeCount &+= 1
        loadSavedFlags(s.translated.flags)
        setRegister(UInt16(Register.blockRIP * 8), offset(ofKey: address(ofPlace: block)))
        s.endBlock = false
        s.codeModified = false
        s.nextBlock = 0
        let result = Op(address: op).o.handler(address, op)
        s.linkSlot = 0
        if result == Step.fault {
            s.rip = currentRIP(Op(address: op))
            deliver(Fault(raw: s.pendingFault))
        }
        s.translated.flags = savedFlags
        if result == Step.next { return 0 }
        return withOwner { $0.staysTranslated() } ? 2 : 1
    }

    fileprivate func prepareVectors(_ level: UInt32) -> Bool {
        let state = extended
        // With an exception unmasked, the interpreter finds out whether it happens.
        guard s.cr0 & (CR0.emulation | CR0.taskSwitched) == 0, s.cr4 & CR4.osFXSR != 0,
            state.mxcsrValue & 0x1F80 == 0x1F80
        else { return false }
        let avx = s.cr4 & CR4.osXSAVE != 0 && s.xcr0 & 6 == 6
        if level == 2, !avx { return false }
        if level == 3 {
            guard state.controlWord & 0x3F == 0x3F, !state.hasPendingException else { return false }
            s.near.x87Level = 1
        }
        s.near.vectorLevel = avx ? 2 : 1
        return true
    }

    /// Finds `size` bytes at `linear` for translated code, and remembers the translation. 1: there is no way.
    fileprivate func fillForTranslated(_ linear: UInt64, size: Int, write: Bool) -> UInt {
        s.translated.missCount &+= 1
        // An address of 32-bit code that wraps is not where translated code would look for it.
        guard linear & 0xFFF <= UInt64(0x1000 - size), linear & ~s.linearMask == 0 else { return 1 }
        do throws(Fault) {
            return try fillPage(linear, size, write: write) ?? 1
        } catch {
            // The interpreter meets it again, at the instruction.
            return 1
        }
    }
}
