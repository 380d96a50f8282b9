import X86Architecture

/// Where the components of an XSAVE image are, and where it ends (SDM vol. 1 §13.4).
struct StateImage: BitwiseCopyable {
    let components: UInt64
    let keysOffset: Int

    init(_ components: UInt64, isCompacted: Bool) {
        self.components = components
        keysOffset =
            isCompacted ? ProtectionKeys.compactedOffset(components) : ProtectionKeys.standardOffset
    }

    var size: Int { end(of: components) }

    /// The end of the last of some of its components.
    func end(of components: UInt64) -> Int {
        if components & ProtectionKeys.component != 0 { return keysOffset + ProtectionKeys.size }
        return components & 4 != 0 ? ExtendedState.end : ExtendedState.ymmHigh
    }
}

/// FXSAVE, FXRSTOR and the XSAVE family (SDM vol. 1 chapter 13, APM vol. 2 §11.5).
extension CPU {
    enum SaveForm { case standard, optimised, compacted, supervisor }

    /// Registers that the instruction's mode reaches.
    private var savedRegisters: Int { is64Bit ? 16 : 8 }

    private func saveAddress(
        _ i: borrowing Instruction, _ size: Int, alignment: UInt64, write: Bool
    ) throws(Fault) -> UInt64 {
        let linear = try memoryAddress(i, size, write: write)
        if linear & (alignment - 1) != 0 { throw .protection() }
        return linear
    }

    // MARK: Parts of the image

    /// FCW to FDP and ST0..ST7. AMD: the pointers are zero unless an exception is pending.
    private func storeX87Part(_ i: borrowing Instruction, _ linear: UInt64) throws(Fault) {
        let state = extended
        let pending = state.hasPendingException
        let control = state.load(UInt64.self, 0)
        try store(pending ? control : control & 0x0000_FFFF_FFFF_FFFF, linear, i.segment)
        for offset in [ExtendedState.fip, ExtendedState.fdp] {
            let pointer = pending ? state.load(UInt64.self, offset) : 0
            try store(
                i.rexW || !is64Bit ? pointer : pointer & 0xFFFF_FFFF, linear &+ UInt64(offset), i.segment)
        }
        for slot in 0..<8 { try storePart(i, linear, ExtendedState.st + slot * 16) }
    }

    private func storeMXCSRPart(_ i: borrowing Instruction, _ linear: UInt64) throws(Fault) {
        try store(
            extended.load(UInt64.self, ExtendedState.mxcsr), linear &+ UInt64(ExtendedState.mxcsr), i.segment)
    }

    /// 16 bytes at `offset` of the image.
    private func storePart(_ i: borrowing Instruction, _ linear: UInt64, _ offset: Int) throws(Fault) {
        try storeHalf(extended.load(Half.self, offset), (linear &+ UInt64(offset)) & s.linearMask, i.segment)
    }

    private func storeRegisters(_ i: borrowing Instruction, _ linear: UInt64, _ start: Int) throws(Fault) {
        for register in 0..<savedRegisters { try storePart(i, linear, start + register * 16) }
    }

    private func loadX87Part(_ linear: UInt64, _ segment: UInt8) throws(Fault) {
        let state = extended
        state.store(try load(UInt64.self, linear, segment), 0)
        state.store(state.load(UInt16.self, ExtendedState.ftw) & 0xFF, ExtendedState.ftw)
        state.store(state.load(UInt16.self, ExtendedState.fop) & 0x7FF, ExtendedState.fop)
        for offset in [ExtendedState.fip, ExtendedState.fdp] {
            state.store(try load(UInt64.self, linear &+ UInt64(offset), segment), offset)
        }
        for slot in 0..<8 {
            let offset = ExtendedState.st + slot * 16
            let value = try loadHalf((linear &+ UInt64(offset)) & s.linearMask, segment)
            state.store(Half(value[0], value[1] & 0xFFFF), offset)
        }
        state.settleStatus()
    }

    private func loadRegisters(_ linear: UInt64, _ segment: UInt8, _ start: Int) throws(Fault) {
        for register in 0..<savedRegisters {
            let offset = start + register * 16
            extended.store(try loadHalf((linear &+ UInt64(offset)) & s.linearMask, segment), offset)
        }
    }

    // MARK: FXSAVE and FXRSTOR

    private func checkFX() throws(Fault) {
        if s.cr0 & (CR0.emulation | CR0.taskSwitched) != 0 { throw .deviceNotAvailable }
    }

    func saveFX(_ i: borrowing Instruction) throws(Fault) {
        try checkFX()
        let linear = try saveAddress(i, ExtendedState.legacySize, alignment: 16, write: true)
        try probeWrite(linear, ExtendedState.legacySize, i.segment)
        try storeX87Part(i, linear)
        try storeMXCSRPart(i, linear)
        try storeRegisters(i, linear, ExtendedState.xmm)
    }

    func restoreFX(_ i: borrowing Instruction) throws(Fault) {
        try checkFX()
        let linear = try saveAddress(i, ExtendedState.legacySize, alignment: 16, write: false)
        try probeRead(linear, ExtendedState.legacySize, i.segment)
        let mxcsr = try load(UInt32.self, linear &+ UInt64(ExtendedState.mxcsr), i.segment)
        guard mxcsr & ~ExtendedState.writableMXCSR == 0 else { throw .protection() }
        try loadX87Part(linear, i.segment)
        extended.store(mxcsr, ExtendedState.mxcsr)
        try loadRegisters(linear, i.segment, ExtendedState.xmm)
    }

    // MARK: XSAVE

    private func checkXSAVE(supervisor: Bool) throws(Fault) {
        if s.cr4 & CR4.osXSAVE == 0 { throw .undefinedOpcode }
        if s.cr0 & CR0.taskSwitched != 0 { throw .deviceNotAvailable }
        if supervisor, s.cpl != 0 { throw .protection() }
    }

    /// EDX:EAX and XCR0.
    private var requestedComponents: UInt64 {
        (gpr(Register.rax) & 0xFFFF_FFFF | gpr(Register.rdx) << 32) & s.xcr0 & ControlBits.xcr0
    }

    /// Components in use; SSE also while MXCSR is not in its initial state (SDM vol. 1 §13.10).
    private var usedComponents: UInt64 {
        let state = extended
        return state.inUse(registers: savedRegisters)
            | (state.mxcsrValue != ExtendedState.defaultMXCSR ? 2 : 0)
            | (s.pkru != 0 ? ProtectionKeys.component : 0)
    }

    func saveExtended(_ i: borrowing Instruction, _ form: SaveForm) throws(Fault) {
        try checkXSAVE(supervisor: form == .supervisor)
        let requested = requestedComponents
        let isCompacted = form == .compacted || form == .supervisor
        let image = StateImage(requested, isCompacted: isCompacted)
        let linear = try saveAddress(i, image.size, alignment: 64, write: true)
        try probeWrite(linear, image.size, i.segment)
        let header = linear &+ UInt64(ExtendedState.xstateBV)
        let old = try load(UInt64.self, header, i.segment)
        let used = usedComponents & requested
        let written = form == .standard ? requested : used
        if written & 1 != 0 { try storeX87Part(i, linear) }
        if isCompacted ? written & 2 != 0 : requested & 6 != 0 { try storeMXCSRPart(i, linear) }
        if written & 2 != 0 { try storeRegisters(i, linear, ExtendedState.xmm) }
        if written & 4 != 0 { try storeRegisters(i, linear, ExtendedState.ymmHigh) }
        if written & ProtectionKeys.component != 0 {
            try store(UInt64(s.pkru), linear &+ UInt64(image.keysOffset), i.segment)
        }
        if isCompacted {
            try store(used, header, i.segment)
            try store(requested | 1 << 63, header &+ 8, i.segment)
        } else {
            try store(old & ~requested | used, header, i.segment)
        }
    }

    // MARK: XRSTOR

    func restoreExtended(_ i: borrowing Instruction) throws(Fault) { try restore(i, supervisor: false) }

    /// XRSTORS with IA32_XSS = 0: XRSTOR for CPL 0 that takes compacted images only.
    func restoreSupervisor(_ i: borrowing Instruction) throws(Fault) { try restore(i, supervisor: true) }

    private func restore(_ i: borrowing Instruction, supervisor: Bool) throws(Fault) {
        try checkXSAVE(supervisor: supervisor)
        let requested = requestedComponents
        let linear = try saveAddress(i, ExtendedState.ymmHigh, alignment: 64, write: false)
        try probeRead(linear, ExtendedState.ymmHigh, i.segment)
        let valid = try load(UInt64.self, linear &+ UInt64(ExtendedState.xstateBV), i.segment)
        let layout = try load(UInt64.self, linear &+ UInt64(ExtendedState.xcompBV), i.segment)
        let isCompacted = layout >> 63 != 0
        try checkHeader(linear, i.segment, valid, layout, supervisor: supervisor)
        let present = valid & requested
        let image = StateImage(isCompacted ? layout : present, isCompacted: isCompacted)
        if present & ~3 != 0 {
            let size = image.end(of: present)
            _ = try self.linear(i.segment, effectiveOffset(i), size)
            try probeRead(linear, size, i.segment)
        }
        let pkru =
            present & ProtectionKeys.component != 0
            ? try load(UInt32.self, linear &+ UInt64(image.keysOffset), i.segment) : 0
        // The standard form loads MXCSR with SSE or AVX, even when XSTATE_BV says that both are initial.
        var mxcsr = extended.mxcsrValue
        if isCompacted ? present & 2 != 0 : requested & 6 != 0 {
            mxcsr = try load(UInt32.self, linear &+ UInt64(ExtendedState.mxcsr), i.segment)
            guard mxcsr & ~ExtendedState.writableMXCSR == 0 else { throw .protection() }
        } else if isCompacted, requested & 2 != 0 {
            mxcsr = ExtendedState.defaultMXCSR
        }
        extended.store(mxcsr, ExtendedState.mxcsr)
        for component in 0..<3 where requested >> UInt64(component) & 1 != 0 {
            guard present >> UInt64(component) & 1 != 0 else {
                extended.initialise(component: component, registers: savedRegisters)
                continue
            }
            switch component {
            case 0: try loadX87Part(linear, i.segment)
            case 1: try loadRegisters(linear, i.segment, ExtendedState.xmm)
            default: try loadRegisters(linear, i.segment, ExtendedState.ymmHigh)
            }
        }
        // Last: it may deny the image itself.
        if requested & ProtectionKeys.component != 0 { setPKRU(pkru) }
    }

    /// #GP of XRSTOR's header (SDM vol. 1 §13.8).
    private func checkHeader(
        _ linear: UInt64, _ segment: UInt8, _ valid: UInt64, _ layout: UInt64, supervisor: Bool
    ) throws(Fault) {
        var reserved: UInt64 = 0
        let isCompacted = layout >> 63 != 0
        if isCompacted {
            let components = layout & ~(1 << 63)
            reserved = components & ~s.xcr0 | valid & ~components
        } else {
            reserved = layout | valid & ~s.xcr0 | (supervisor ? 1 : 0)
        }
        // Bytes 23...16 must be zero; the rest of the header too when it is compacted.
        for word in 2..<(isCompacted ? 8 : 3) {
            reserved |= try load(UInt64.self, linear &+ UInt64(ExtendedState.header + word * 8), segment)
        }
        guard reserved == 0 else { throw .protection() }
    }

    // MARK: MXCSR

    func loadMXCSR(_ i: borrowing Instruction, _ plan: PlanView) throws(Fault) {
        try check(plan.p.traits)
        let value = try load(UInt32.self, memoryAddress(i, 4), i.segment)
        guard value & ~ExtendedState.writableMXCSR == 0 else { throw .protection() }
        extended.store(value, ExtendedState.mxcsr)
    }

    func storeMXCSR(_ i: borrowing Instruction, _ plan: PlanView) throws(Fault) {
        try check(plan.p.traits)
        try store(extended.mxcsrValue, memoryAddress(i, 4, write: true), i.segment)
    }
}
