import X86Architecture

/// The guest's x87, MMX, SSE and AVX state: an XSAVE image in standard format (SDM vol. 1 §13.4, APM vol. 2
/// §11.5) followed by the operand block that emitted one-instruction code works on.
///
/// ```
///    0 FCW   2 FSW   4 abridged FTW   6 FOP   8 FIP   16 FDP   24 MXCSR   28 MXCSR_MASK
///   32 ST0..ST7, 16 bytes each        160 XMM0..XMM15, 16 bytes each
///  512 XSTATE_BV   520 XCOMP_BV       576 upper halves of YMM0..YMM15
/// 1024 OperandBlock
/// ```
/// ST0..ST7 count from the top of the stack. FIP, FDP and FOP always hold the last x87 instruction's;
/// images for the guest get them only while an exception is pending, as AMD processors do.
///
/// Confinement: the vCPU's thread.
@safe struct ExtendedState {
    let address: UInt
    @inline(__always) init(address: UInt) { self.address = address }

    /// Bytes of the image.
    static let size = 1024
    /// Bytes to allocate, 64-byte aligned: the image and the operand block.
    static let allocationSize = size + OperandBlock.size

    static let fcw = 0, fsw = 2, ftw = 4, fop = 6, fip = 8, fdp = 16, mxcsr = 24, mxcsrMask = 28
    static let st = 32, xmm = 160, legacySize = 512
    static let xstateBV = 512, xcompBV = 520, header = 512, ymmHigh = 576, end = 832

    /// MXCSR bits that exist: not AMD's misaligned mode, so that the model works on every host.
    static let writableMXCSR: UInt32 = 0xFFFF
    static let defaultMXCSR: UInt32 = 0x1F80
    static let defaultFCW: UInt16 = 0x37F
    /// FCW bits that can be changed; bit 6 reads as one.
    static let writableFCW: UInt16 = 0x1F3F
    /// x87, SSE and AVX: the components that the image holds. PKRU is elsewhere.
    static let components: UInt64 = 7

    @inline(__always) func load<T: BitwiseCopyable>(_: T.Type, _ offset: Int) -> T {
        // SAFETY: offsets are constants of this type plus register numbers 0..15, all inside the allocation.
        unsafe UnsafeRawPointer(bitPattern: address).unsafelyUnwrapped.loadUnaligned(
            fromByteOffset: offset, as: T.self)
    }

    @inline(__always) func store<T: BitwiseCopyable>(_ value: T, _ offset: Int) {
        // SAFETY: as for `load`.
        unsafe UnsafeMutableRawPointer(bitPattern: address).unsafelyUnwrapped
            .storeBytes(of: value, toByteOffset: offset, as: T.self)
    }

    /// Half of a vector register.
    typealias Half = SIMD2<UInt64>

    @inline(__always) func low(_ register: UInt8) -> Half { load(Half.self, Self.xmm + Int(register) * 16) }
    @inline(__always) func high(_ register: UInt8) -> Half {
        load(Half.self, Self.ymmHigh + Int(register) * 16)
    }
    @inline(__always) func setLow(_ register: UInt8, _ value: Half) {
        store(value, Self.xmm + Int(register) * 16)
    }
    @inline(__always) func setHigh(_ register: UInt8, _ value: Half) {
        store(value, Self.ymmHigh + Int(register) * 16)
    }

    var controlWord: UInt16 { load(UInt16.self, Self.fcw) }
    var statusWord: UInt16 { load(UInt16.self, Self.fsw) }
    @inline(__always) var mxcsrValue: UInt32 { load(UInt32.self, Self.mxcsr) }
    var top: Int { Int(statusWord >> 11) & 7 }
    /// An unmasked x87 exception waits for the next waiting instruction (FSW.ES).
    var hasPendingException: Bool { statusWord & 0x80 != 0 }

    // MARK: Initial values

    /// FNINIT's state, with the registers' contents kept.
    func initialiseControl() {
        store(Self.defaultFCW, Self.fcw)
        store(UInt16(0), Self.fsw)
        store(UInt16(0), Self.ftw)
        store(UInt16(0), Self.fop)
        store(UInt64(0), Self.fip)
        store(UInt64(0), Self.fdp)
    }

    /// The initial configuration of one component (SDM vol. 1 §13.6), for the first `registers` registers.
    func initialise(component: Int, registers: Int = 16) {
        switch component {
        case 0:
            initialiseControl()
            for slot in 0..<16 { store(UInt64(0), Self.st + slot * 8) }
        case 1: for register in 0..<UInt8(registers) { setLow(register, Half()) }
        default: for register in 0..<UInt8(registers) { setHigh(register, Half()) }
        }
    }

    /// The components that are not in their initial configuration, counting the first `registers` registers.
    /// MXCSR does not count here (SDM vol. 1 §13.6).
    func inUse(registers: Int = 16) -> UInt64 {
        var result: UInt64 = 0
        var legacy = UInt64(controlWord ^ Self.defaultFCW) | UInt64(statusWord)
        legacy |= UInt64(load(UInt8.self, Self.ftw))
        if hasPendingException { legacy |= load(UInt64.self, Self.fip) | load(UInt64.self, Self.fdp) }
        for slot in 0..<16 { legacy |= load(UInt64.self, Self.st + slot * 8) }
        if legacy != 0 { result |= 1 }
        var low = Half(), high = Half()
        for register in 0..<UInt8(registers) {
            low |= self.low(register)
            high |= self.high(register)
        }
        if low != Half() { result |= 2 }
        if high != Half() { result |= 4 }
        return result
    }

    // MARK: Invariants that emitted code relies on

    /// Makes FCW's fixed bits and FSW's ES and B agree with the rest.
    func settleStatus() {
        let fcw = controlWord & Self.writableFCW | 0x40
        store(fcw, Self.fcw)
        let pending = statusWord & ~fcw & 0x3F != 0
        store(statusWord & 0x7F7F | (pending ? 0x8080 : 0), Self.fsw)
    }

    /// Repairs an image from outside: no value of it may fault when the host loads it. Components that
    /// XSTATE_BV says are initial become so. Call after every load of the whole state.
    func normalise() {
        let valid = load(UInt64.self, Self.xstateBV)
        // An image that was never saved by XSAVE has no header and is taken as it is.
        if valid != 0 {
            for component in 0..<3 where valid & (1 << UInt64(component)) == 0 {
                initialise(component: component)
            }
            if valid & 6 == 0 { store(Self.defaultMXCSR, Self.mxcsr) }
        }
        store(mxcsrValue & Self.writableMXCSR, Self.mxcsr)
        store(Self.writableMXCSR, Self.mxcsrMask)
        store(load(UInt16.self, Self.ftw) & 0xFF, Self.ftw)
        store(load(UInt16.self, Self.fop) & 0x7FF, Self.fop)
        for slot in 0..<8 { clearPadding(slot) }
        settleStatus()
        store(Self.components, Self.xstateBV)
        for word in 1..<8 { store(UInt64(0), Self.header + word * 8) }
    }

    /// The six bytes after an 80-bit register are zero.
    func clearPadding(_ slot: Int) {
        let offset = Self.st + slot * 16 + 8
        store(load(UInt64.self, offset) & 0xFFFF, offset)
    }

    var block: OperandBlock {
        @inline(__always) get { OperandBlock(address: address &+ UInt(Self.size)) }
    }
}

/// What one piece of emitted code reads and writes; RDI points here. 64-byte aligned.
@safe struct OperandBlock {
    let address: UInt
    @inline(__always) init(address: UInt) { self.address = address }

    static let size = 512
    /// Vector inputs by place in the encoding, 32 bytes each; MMX inputs use the first 8.
    static let reg = 0, vvvv = 32, rm = 64, lastByte = 96, xmm0 = 128
    /// The vector or MMX result, 32 bytes.
    static let result = 160
    /// The memory operand, up to 64 bytes.
    static let memory = 192
    static let rax = 256, rcx = 264, rdx = 272, flagsIn = 280, flagsOut = 288
    static let mxcsrIn = 296, mxcsrOut = 300, hostMXCSR = 304, image = 312

    @inline(__always) func load<T: BitwiseCopyable>(_: T.Type, _ offset: Int) -> T {
        // SAFETY: offsets are constants of this type, below `size`.
        unsafe UnsafeRawPointer(bitPattern: address).unsafelyUnwrapped.loadUnaligned(
            fromByteOffset: offset, as: T.self)
    }

    @inline(__always) func store<T: BitwiseCopyable>(_ value: T, _ offset: Int) {
        // SAFETY: as for `load`.
        unsafe UnsafeMutableRawPointer(bitPattern: address).unsafelyUnwrapped
            .storeBytes(of: value, toByteOffset: offset, as: T.self)
    }
}

extension CPU {
    @inline(__always) var extended: ExtendedState { ExtendedState(address: s.xsave) }
}
