import X86Architecture

/// The face of one vCPU's `CPUState` for instruction bodies: an address that is valid while its `SoftVCPU`
/// lives. Passing it costs one register, and no reference count is touched.
@safe struct CPU {
    let address: UInt

    @inline(__always) init(address: UInt) { self.address = address }

    /// The state itself. No exclusivity check: only the vCPU's thread is here.
    var s: CPUState {
        @inline(__always) unsafeAddress {
            // SAFETY: `address` is the SoftVCPU's allocation, initialised, and alive while its thread runs.
            unsafe UnsafePointer<CPUState>(bitPattern: address).unsafelyUnwrapped
        }
        @inline(__always) nonmutating unsafeMutableAddress {
            // SAFETY: as above; confined to the vCPU's thread.
            unsafe UnsafeMutablePointer<CPUState>(bitPattern: address).unsafelyUnwrapped
        }
    }

    /// From `address`.
    @inline(__always) private static var registers: Int {
        MemoryLayout<CPUState>.offset(of: \.gpr).unsafelyUnwrapped
    }

    /// The register at byte `offset` of `gpr`: 8 * number, + 1 for AH, CH, DH and BH.
    @inline(__always) func register<T: BitwiseCopyable>(_: T.Type, _ offset: UInt16) -> T {
        // SAFETY: offsets come from the lowering, which makes 0..<144 only.
        unsafe UnsafeRawPointer(bitPattern: address).unsafelyUnwrapped.loadUnaligned(
            fromByteOffset: Self.registers &+ Int(offset), as: T.self)
    }

    /// Writes a register as x86 does: 32-bit results clear the upper half, 8 and 16-bit ones keep it.
    @inline(__always) func setRegister<T: FixedWidthInteger & UnsignedInteger>(_ offset: UInt16, _ value: T) {
        let base = unsafe UnsafeMutableRawPointer(bitPattern: address).unsafelyUnwrapped
        // SAFETY: as above.
        if MemoryLayout<T>.size == 4 {
            unsafe base.storeBytes(
                of: UInt64(truncatingIfNeeded: value), toByteOffset: Self.registers &+ Int(offset),
                as: UInt64.self)
        } else {
            unsafe base.storeBytes(of: value, toByteOffset: Self.registers &+ Int(offset), as: T.self)
        }
    }

    /// A general-purpose register by number (0..15), all 64 bits.
    @inline(__always) func gpr(_ number: Int) -> UInt64 {
        register(UInt64.self, UInt16(truncatingIfNeeded: number &* 8))
    }
    @inline(__always) func setGPR(_ number: Int, _ value: UInt64) {
        setRegister(UInt16(truncatingIfNeeded: number &* 8), value)
    }

    @inline(__always) var is64Bit: Bool { s.modeKey & 3 == UInt32(CodeSize.bits64.rawValue) }
    @inline(__always) var isProtected: Bool { s.cr0 & CR0.protectionEnable != 0 }
    @inline(__always) var isVirtual8086: Bool { s.otherFlags & RFlags.virtual8086.rawValue != 0 }
    @inline(__always) var isLongMode: Bool { s.efer & EFER.longModeActive != 0 }
    /// Real mode or virtual-8086: segments are shifted selectors.
    @inline(__always) var isRealLike: Bool { !isProtected || isVirtual8086 }
    @inline(__always) var ioPrivilege: UInt8 { UInt8(truncatingIfNeeded: (s.otherFlags >> 12) & 3) }
}

enum Register {
    static let rax = 0, rcx = 1, rdx = 2, rbx = 3, rsp = 4, rbp = 5, rsi = 6, rdi = 7
    /// The slot that is always zero, and the slot of the running block's RIP.
    static let zero = 16, blockRIP = 17
}

enum Segment {
    static let es = 0, cs = 1, ss = 2, ds = 3, fs = 4, gs = 5, ldtr = 6, tr = 7
}

/// An exception that an instruction raises: vector and error code, packed so that it is thrown in a register.
///
/// The faulting address of a page fault is in CR2 already when this is thrown.
struct Fault: Error, BitwiseCopyable {
    let raw: UInt64
    @inline(__always) init(_ vector: ExceptionVector, _ errorCode: UInt32 = 0) {
        raw = UInt64(vector.rawValue) | UInt64(errorCode) << 32
    }
    @inline(__always) init(raw: UInt64) { self.raw = raw }
    var vector: UInt8 { UInt8(truncatingIfNeeded: raw) }
    var errorCode: UInt32 { UInt32(truncatingIfNeeded: raw >> 32) }

    static var undefinedOpcode: Fault { Fault(.invalidOpcode) }
    static var divide: Fault { Fault(.divideError) }
    static var deviceNotAvailable: Fault { Fault(.deviceNotAvailable) }
    /// #GP with an error code: 0, or a selector with its RPL cleared.
    static func protection(_ errorCode: UInt32 = 0) -> Fault { Fault(.generalProtection, errorCode) }
    static func stack(_ errorCode: UInt32 = 0) -> Fault { Fault(.stackFault, errorCode) }
}
