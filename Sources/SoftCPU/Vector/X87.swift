import X86Architecture

/// x87 instructions: the computing ones by thunks on the guest's whole FXSAVE image, the control ones here.
extension CPU {
    func executeX87(_ i: borrowing Instruction, _ plan: PlanView, _ op: Op) throws(Fault) {
        try checkX87(waiting: true)
        let state = extended, block = extended.block, traits = plan.p.traits
        let size = Int(plan.p.memorySize)
        var linear: UInt64 = 0
        if size != 0 {
            let writes = traits.contains(.writesMemory)
            linear = try memoryAddress(i, size, write: writes)
            if writes {
                _ = try writableHost(linear, size, i.segment)
            } else {
                try fetchOperand(linear, size, i.segment, to: OperandBlock.memory)
            }
        }
        // The host loads and saves the pointers with the image, so they wait here meanwhile.
        let dataPointer =
            size != 0 ? pointer(effectiveOffset(i), i.segment) : state.load(UInt64.self, ExtendedState.fdp)
        block.store(s.xsave, OperandBlock.image)
        block.store(ExtendedState.defaultMXCSR, OperandBlock.hostMXCSR)
        block.store(statusFlags | RFlags.alwaysOne.rawValue, OperandBlock.flagsIn)
        call(plan.p.code)
        state.store(ExtendedState.writableMXCSR, ExtendedState.mxcsrMask)
        state.store(UInt16(i.opcode & 7) << 8 | UInt16(i.modRM), ExtendedState.fop)
        state.store(pointer(currentRIP(op), UInt8(Segment.cs)), ExtendedState.fip)
        state.store(dataPointer, ExtendedState.fdp)
        if traits.contains(.writesFlags) { setStatusFlags(block.load(UInt64.self, OperandBlock.flagsOut)) }
        if traits.contains(.writesMemory), !storeWasSuppressed {
            try storeOperand(linear, size, i.segment, from: OperandBlock.memory)
        }
    }

    /// An unmasked invalid, overflow or underflow exception leaves a store's destination alone (SDM vol. 1
    /// §8.5); nothing else can be pending after a waiting instruction.
    private var storeWasSuppressed: Bool {
        let state = extended
        return state.statusWord & ~state.controlWord & 0x19 != 0
    }

    /// An instruction or data pointer as the image keeps it: 64 bits of offset in 64-bit mode, else 32 bits
    /// and the selector.
    private func pointer(_ offset: UInt64, _ segment: UInt8) -> UInt64 {
        is64Bit ? offset : offset & 0xFFFF_FFFF | UInt64(s.segments[Int(segment & 7)].selector) << 32
    }

    // MARK: Control

    func waitForX87() throws(Fault) {
        let both = CR0.monitorCoprocessor | CR0.taskSwitched
        if s.cr0 & both == both { throw .deviceNotAvailable }
        if extended.hasPendingException { throw Fault(.floatingPoint) }
    }

    func initialiseX87() throws(Fault) {
        try checkX87(waiting: false)
        resetX87()
    }

    /// FNINIT. The registers keep their physical places while TOP becomes 0.
    private func resetX87() {
        rotate(by: -extended.top)
        extended.initialiseControl()
    }

    func clearX87Exceptions() throws(Fault) {
        try checkX87(waiting: false)
        extended.store(extended.statusWord & 0x7F00, ExtendedState.fsw)
    }

    /// Raises #MF like any waiting instruction, as AMD processors do (APM vol. 5).
    func loadX87Control(_ i: borrowing Instruction) throws(Fault) {
        try checkX87(waiting: true)
        let value = try load(UInt16.self, memoryAddress(i, 2), i.segment)
        extended.store(value, ExtendedState.fcw)
        extended.settleStatus()
    }

    func storeX87Control(_ i: borrowing Instruction) throws(Fault) {
        try checkX87(waiting: false)
        try store(extended.controlWord, memoryAddress(i, 2, write: true), i.segment)
    }

    func storeX87Status(_ i: borrowing Instruction) throws(Fault) {
        try checkX87(waiting: false)
        let status = extended.statusWord
        if i.operand0.kind == .memory {
            try store(status, memoryAddress(i, 2, write: true), i.segment)
        } else {
            setRegister(UInt16(Register.rax), status)
        }
    }

    // MARK: Environments (SDM vol. 1 §8.1.10)

    /// The four forms: 14 or 28 bytes, with selectors or with linear addresses.
    private struct EnvironmentForm {
        let isWide: Bool
        let hasSelectors: Bool
        var fieldSize: Int { isWide ? 4 : 2 }
        var size: Int { isWide ? 28 : 14 }
    }

    private func environmentForm(_ i: borrowing Instruction) -> EnvironmentForm {
        EnvironmentForm(isWide: i.operandSize != 2, hasSelectors: !isRealLike)
    }

    /// FTW with two bits per physical register: 0 valid, 1 zero, 2 special, 3 empty.
    private var fullTagWord: UInt16 {
        let state = extended, top = state.top
        let present = state.load(UInt16.self, ExtendedState.ftw)
        var result: UInt16 = 0
        for register in 0..<8 {
            var tag: UInt16 = 3
            if present >> UInt16(register) & 1 != 0 {
                let slot = mmxOffset(UInt8(register), top: top)
                let exponent = state.load(UInt16.self, slot + 8) & 0x7FFF
                let significand = state.load(UInt64.self, slot)
                if exponent == 0, significand == 0 {
                    tag = 1
                } else {
                    tag = exponent == 0 || exponent == 0x7FFF || significand >> 63 == 0 ? 2 : 0
                }
            }
            result |= tag << UInt16(register * 2)
        }
        return result
    }

    /// The seven fields, for `form`.
    private func environment(_ form: EnvironmentForm) -> [7 of UInt32] {
        let state = extended
        var fip = state.load(UInt64.self, ExtendedState.fip), fdp = state.load(UInt64.self, ExtendedState.fdp)
        let fop = UInt32(state.load(UInt16.self, ExtendedState.fop) & 0x7FF)
        var codeSelector = UInt32(truncatingIfNeeded: fip >> 32) & 0xFFFF
        var dataSelector = UInt32(truncatingIfNeeded: fdp >> 32) & 0xFFFF
        if is64Bit {
            codeSelector = fip == 0 ? 0 : UInt32(s.segments[Segment.cs].selector)
            dataSelector = 0
        }
        var fields: [7 of UInt32] = .init(repeating: 0)
        fields[0] = UInt32(state.controlWord)
        fields[1] = UInt32(state.statusWord)
        fields[2] = UInt32(fullTagWord)
        if form.hasSelectors {
            fields[3] = UInt32(truncatingIfNeeded: fip)
            fields[4] = codeSelector | (form.isWide ? fop << 16 : 0)
            fields[5] = UInt32(truncatingIfNeeded: fdp)
            fields[6] = dataSelector
        } else {
            fip = (fip & 0xFFFF_FFFF) &+ UInt64(codeSelector) << 4
            fdp = (fdp & 0xFFFF_FFFF) &+ UInt64(dataSelector) << 4
            let high: UInt64 = form.isWide ? 0x0FFF_F000 : 0xF000
            fields[3] = UInt32(fip & 0xFFFF)
            fields[4] = UInt32(fip >> 4 & high) | fop
            fields[5] = UInt32(fdp & 0xFFFF)
            fields[6] = UInt32(fdp >> 4 & high)
        }
        if form.isWide {
            // Unused upper halves are ones.
            for index in [0, 1, 2, 6] where index != 6 || form.hasSelectors { fields[index] |= 0xFFFF_0000 }
            if !form.hasSelectors { for index in [3, 5] { fields[index] |= 0xFFFF_0000 } }
        }
        return fields
    }

    private func storeFields(_ form: EnvironmentForm, _ linear: UInt64, _ segment: UInt8) throws(Fault) {
        let fields = environment(form)
        for index in 0..<7 {
            let address = (linear &+ UInt64(index * form.fieldSize)) & s.linearMask
            if form.isWide {
                try store(fields[index], address, segment)
            } else {
                try store(UInt16(truncatingIfNeeded: fields[index]), address, segment)
            }
        }
    }

    func storeX87Environment(_ i: borrowing Instruction) throws(Fault) {
        try checkX87(waiting: false)
        let form = environmentForm(i)
        let linear = try memoryAddress(i, form.size, write: true)
        try probeWrite(linear, form.size, i.segment)
        try storeFields(form, linear, i.segment)
        extended.store(extended.controlWord | 0x3F, ExtendedState.fcw)
        extended.settleStatus()
    }

    private func loadFields(_ form: EnvironmentForm, _ linear: UInt64, _ segment: UInt8) throws(Fault) -> [
        7 of UInt32
    ] {
        var fields: [7 of UInt32] = .init(repeating: 0)
        for index in 0..<7 {
            let address = (linear &+ UInt64(index * form.fieldSize)) & s.linearMask
            fields[index] =
                form.isWide
                ? try load(UInt32.self, address, segment) : UInt32(try load(UInt16.self, address, segment))
        }
        return fields
    }

    /// Takes over an environment. The registers stay where they are physically, so their slots move with TOP.
    private func setEnvironment(_ fields: [7 of UInt32], _ form: EnvironmentForm) {
        let state = extended
        let oldTop = state.top
        state.store(UInt16(truncatingIfNeeded: fields[0]), ExtendedState.fcw)
        state.store(UInt16(truncatingIfNeeded: fields[1]), ExtendedState.fsw)
        var present: UInt16 = 0
        for register in 0..<8 where fields[2] >> UInt32(register * 2) & 3 != 3 {
            present |= 1 << UInt16(register)
        }
        state.store(present, ExtendedState.ftw)
        var fip = UInt64(fields[3]), fdp = UInt64(fields[5])
        var fop: UInt32 = 0
        if form.hasSelectors {
            if form.isWide { fop = fields[4] >> 16 }
            if !is64Bit {
                fip |= UInt64(fields[4] & 0xFFFF) << 32
                fdp |= UInt64(fields[6] & 0xFFFF) << 32
            }
        } else {
            fop = fields[4]
            let high: UInt32 = form.isWide ? 0x0FFF_F000 : 0xF000
            fip = fip & 0xFFFF | UInt64(fields[4] & high) << 4
            fdp = fdp & 0xFFFF | UInt64(fields[6] & high) << 4
        }
        state.store(UInt16(truncatingIfNeeded: fop & 0x7FF), ExtendedState.fop)
        state.store(fip, ExtendedState.fip)
        state.store(fdp, ExtendedState.fdp)
        rotate(by: state.top - oldTop)
        state.settleStatus()
    }

    /// Moves every slot's content `distance` slots down.
    private func rotate(by distance: Int) {
        guard distance & 7 != 0 else { return }
        let state = extended
        var slots: [8 of Half] = .init(repeating: Half())
        for slot in 0..<8 { slots[slot] = state.load(Half.self, ExtendedState.st + slot * 16) }
        for slot in 0..<8 { state.store(slots[(slot + distance) & 7], ExtendedState.st + slot * 16) }
    }

    func loadX87Environment(_ i: borrowing Instruction) throws(Fault) {
        try checkX87(waiting: true)
        let form = environmentForm(i)
        let linear = try memoryAddress(i, form.size)
        setEnvironment(try loadFields(form, linear, i.segment), form)
    }

    func saveX87(_ i: borrowing Instruction) throws(Fault) {
        try checkX87(waiting: false)
        let form = environmentForm(i), state = extended
        let linear = try memoryAddress(i, form.size + 80, write: true)
        try probeWrite(linear, form.size + 80, i.segment)
        try storeFields(form, linear, i.segment)
        for slot in 0..<8 {
            let address = linear &+ UInt64(form.size + slot * 10), offset = ExtendedState.st + slot * 16
            try store(state.load(UInt64.self, offset), address & s.linearMask, i.segment)
            try store(state.load(UInt16.self, offset + 8), (address &+ 8) & s.linearMask, i.segment)
        }
        resetX87()
    }

    func restoreX87(_ i: borrowing Instruction) throws(Fault) {
        try checkX87(waiting: true)
        let form = environmentForm(i)
        let linear = try memoryAddress(i, form.size + 80)
        let fields = try loadFields(form, linear, i.segment)
        var slots: [8 of Half] = .init(repeating: Half())
        for slot in 0..<8 {
            let address = linear &+ UInt64(form.size + slot * 10)
            let significand = try load(UInt64.self, address & s.linearMask, i.segment)
            slots[slot] = Half(
                significand, UInt64(try load(UInt16.self, (address &+ 8) & s.linearMask, i.segment)))
        }
        setEnvironment(fields, form)
        for slot in 0..<8 { extended.store(slots[slot], ExtendedState.st + slot * 16) }
    }
}
