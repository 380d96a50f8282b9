import X86Architecture

/// Memory operands of 1 to 64 bytes.
extension CPU {
    typealias Half = ExtendedState.Half

    /// The linear address of the instruction's memory operand. `s.rip` must be the next instruction's offset.
    @inline(__always)
    func vectorAddress(
        _ i: borrowing Instruction, _ size: Int, alignmentMask: UInt64, write: Bool
    ) throws(Fault) -> UInt64 {
        // Misaligned 16- and 32-byte operands are #GP(0) whatever the segment (SDM vol. 2 §2.4, AMD alike),
        // and even when they also leave it.
        if alignmentMask != 0 {
            let offset = effectiveOffset(i)
            if (s.effectiveBase[Int(i.segment & 7)] &+ offset) & alignmentMask != 0 { throw .protection() }
        }
        return try memoryAddress(i, size, write: write)
    }

    @inline(__always) static func loadHalf(_ host: UInt) -> Half {
        // SAFETY: the caller proved 16 bytes at `host`.
        unsafe UnsafeRawPointer(bitPattern: host).unsafelyUnwrapped.loadUnaligned(as: Half.self)
    }

    @inline(__always) static func storeHalf(_ host: UInt, _ value: Half) {
        // SAFETY: the caller proved 16 writable bytes at `host`.
        unsafe UnsafeMutableRawPointer(bitPattern: host).unsafelyUnwrapped.storeBytes(
            of: value, as: Half.self)
    }

    @inline(__always) func loadHalf(_ linear: UInt64, _ segment: UInt8) throws(Fault) -> Half {
        let host = readableHost(linear, 16)
        if host != 0 { return Self.loadHalf(host) }
        let low = try load(UInt64.self, linear, segment)
        return Half(low, try load(UInt64.self, (linear &+ 8) & s.linearMask, segment))
    }

    @inline(__always) func storeHalf(_ value: Half, _ linear: UInt64, _ segment: UInt8) throws(Fault) {
        let host = try writableHost(linear, 16, segment)
        if host != 0 { return Self.storeHalf(host, value) }
        // `writableHost` proved that both pages allow the stores.
        try store(value[0], linear, segment)
        try store(value[1], (linear &+ 8) & s.linearMask, segment)
    }

    /// Copies `size` bytes of guest memory to `offset` of the operand block.
    func fetchOperand(_ linear: UInt64, _ size: Int, _ segment: UInt8, to offset: Int) throws(Fault) {
        let block = extended.block
        switch size {
        case 16: block.store(try loadHalf(linear, segment), offset)
        case 32:
            let low = try loadHalf(linear, segment)
            block.store(try loadHalf((linear &+ 16) & s.linearMask, segment), offset + 16)
            block.store(low, offset)
        case 8: block.store(try load(UInt64.self, linear, segment), offset)
        case 4: block.store(try load(UInt32.self, linear, segment), offset)
        case 2: block.store(try load(UInt16.self, linear, segment), offset)
        case 1: block.store(try load(UInt8.self, linear, segment), offset)
        default:
            // 10 bytes: an 80-bit real or packed decimal.
            let low = try load(UInt64.self, linear, segment)
            block.store(try load(UInt16.self, (linear &+ 8) & s.linearMask, segment), offset + 8)
            block.store(low, offset)
        }
    }

    /// Copies `size` bytes of the operand block at `offset` to guest memory that a probe has found writable.
    func storeOperand(_ linear: UInt64, _ size: Int, _ segment: UInt8, from offset: Int) throws(Fault) {
        let block = extended.block
        var done = 0
        while done < size {
            let address = (linear &+ UInt64(done)) & s.linearMask
            switch size - done {
            case 16...:
                try storeHalf(block.load(Half.self, offset + done), address, segment)
                done += 16
            case 8...:
                try store(block.load(UInt64.self, offset + done), address, segment)
                done += 8
            case 4...:
                try store(block.load(UInt32.self, offset + done), address, segment)
                done += 4
            case 2...:
                try store(block.load(UInt16.self, offset + done), address, segment)
                done += 2
            default:
                try store(block.load(UInt8.self, offset + done), address, segment)
                done += 1
            }
        }
    }

    /// Checks that `count` bytes can be loaded, without keeping them. For runs inside two pages.
    func probeRead(_ linear: UInt64, _ count: Int, _ segment: UInt8) throws(Fault) {
        _ = try load(UInt8.self, linear, segment)
        _ = try load(UInt8.self, (linear &+ UInt64(count - 1)) & s.linearMask, segment)
    }

    // MARK: Availability

    /// #UD and #NM of SSE instructions (SDM vol. 3 §14.1, APM vol. 2 §11.3).
    @inline(__always) func checkSSE() throws(Fault) {
        if s.cr0 & (CR0.emulation | CR0.taskSwitched) == 0, s.cr4 & CR4.osFXSR != 0 { return }
        try refuseSSE()
    }

    @inline(never) private func refuseSSE() throws(Fault) {
        if s.cr0 & CR0.emulation != 0 || s.cr4 & CR4.osFXSR == 0 { throw .undefinedOpcode }
        throw .deviceNotAvailable
    }

    /// #UD and #NM of VEX instructions (SDM vol. 2 §2.4). CR0.EM does not matter to them.
    @inline(__always) func checkAVX() throws(Fault) {
        if s.cr0 & (CR0.protectionEnable | CR0.taskSwitched) == CR0.protectionEnable,
            s.cr4 & CR4.osXSAVE != 0,
            s.xcr0 & 6 == 6, !isVirtual8086
        {
            return
        }
        try refuseAVX()
    }

    @inline(never) private func refuseAVX() throws(Fault) {
        if isRealLike || s.cr4 & CR4.osXSAVE == 0 || s.xcr0 & 6 != 6 { throw .undefinedOpcode }
        throw .deviceNotAvailable
    }

    /// #UD, #NM and #MF of MMX instructions.
    func checkMMX() throws(Fault) {
        if s.cr0 & CR0.emulation != 0 { throw .undefinedOpcode }
        if s.cr0 & CR0.taskSwitched != 0 { throw .deviceNotAvailable }
        if extended.hasPendingException { throw Fault(.floatingPoint) }
    }

    /// #NM, and #MF for waiting instructions. CR0.NE = 0 would raise FERR# and wait for IRQ 13; this CPU has
    /// no such pin and raises #MF as with NE = 1.
    @inline(__always) func checkX87(waiting: Bool) throws(Fault) {
        if s.cr0 & (CR0.emulation | CR0.taskSwitched) != 0 { throw .deviceNotAvailable }
        if waiting, extended.hasPendingException { throw Fault(.floatingPoint) }
    }

    // MARK: MMX registers

    /// Slot of MM(`register`) in the image, which counts from the top of the stack.
    @inline(__always) func mmxOffset(_ register: UInt8, top: Int) -> Int {
        ExtendedState.st + ((Int(register) - top) & 7) * 16
    }

    func mmx(_ register: UInt8) -> UInt64 {
        let state = extended
        return state.load(UInt64.self, mmxOffset(register & 7, top: state.top))
    }

    /// What every MMX instruction does to the x87 state: top of stack 0, all registers valid.
    func enterMMX() {
        let state = extended
        let top = state.top
        if top != 0 {
            var slots = InlineArray<8, Half>(repeating: Half())
            for slot in 0..<8 { slots[slot] = state.load(Half.self, ExtendedState.st + slot * 16) }
            for slot in 0..<8 { state.store(slots[(slot - top) & 7], ExtendedState.st + slot * 16) }
            state.store(state.statusWord & ~0x3800, ExtendedState.fsw)
        }
        state.store(UInt16(0xFF), ExtendedState.ftw)
    }

    /// Writes MM(`register`) after `enterMMX`: sign and exponent become ones.
    func setMMX(_ register: UInt8, _ value: UInt64) {
        extended.store(Half(value, 0xFFFF), ExtendedState.st + Int(register & 7) * 16)
    }
}
