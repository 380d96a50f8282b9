import X86Architecture

/// Protection keys (SDM vol. 3 §4.6.2): bits 62..59 of a leaf under 4-level paging choose one of sixteen
/// pairs of bits, in PKRU for user pages and in IA32_PKRS for supervisor pages, which deny data accesses.
///
/// ```
///  31                               4   3   2   1   0
/// | WD15 | AD15 | ...            | WD1 | AD1 | WD0 | AD0 |
/// ```
enum ProtectionKeys {
    /// What the key of a page denies.
    struct Denial: OptionSet, BitwiseCopyable {
        let rawValue: UInt8
        static let access = Denial(rawValue: 1)
        /// By supervisor code only under CR0.WP.
        static let write = Denial(rawValue: 2)
    }

    /// Either kind is switched on.
    static let controls: UInt64 = CR4.protectionKeys | CR4.supervisorProtectionKeys

    /// PKRU among the components of XSAVE (SDM vol. 1 §13.5.7), and in an image of standard format.
    static let component: UInt64 = 1 << 9
    static let size = 8, standardOffset = 832

    /// Where a compacted image with these components has it; the model has nothing between AVX and PKRU.
    static func compactedOffset(_ components: UInt64) -> Int { components & 4 != 0 ? 832 : 576 }
}

extension CPU {
    /// What the key in `leaf` denies in long mode, where `isUserPage` is the U/S bit of the whole walk.
    func keyDenial(_ leaf: UInt64, isUserPage: Bool) -> ProtectionKeys.Denial {
        let control = isUserPage ? CR4.protectionKeys : CR4.supervisorProtectionKeys
        guard s.cr4 & control != 0, isLongMode else { return [] }
        let rights = isUserPage ? s.pkru : s.pkrs
        let key = UInt32(truncatingIfNeeded: leaf >> 59) & 0xF
        return ProtectionKeys.Denial(rawValue: UInt8(truncatingIfNeeded: rights >> (key * 2)) & 3)
    }

    /// The data TLBs hold what the old value allowed.
    func setPKRU(_ value: UInt32) {
        guard value != s.pkru else { return }
        s.pkru = value
        if s.cr4 & CR4.protectionKeys != 0 { flushTLB() }
    }

    func setPKRS(_ value: UInt32) {
        guard value != s.pkrs else { return }
        s.pkrs = value
        if s.cr4 & CR4.supervisorProtectionKeys != 0 { flushTLB() }
    }

    // MARK: RDPKRU and WRPKRU (SDM vol. 2), for every ring

    func readKeyRights() throws(Fault) {
        guard s.cr4 & CR4.protectionKeys != 0 else { throw .undefinedOpcode }
        guard gpr(Register.rcx) & 0xFFFF_FFFF == 0 else { throw .protection() }
        setPair(UInt64(s.pkru))
    }

    func writeKeyRights() throws(Fault) {
        guard s.cr4 & CR4.protectionKeys != 0 else { throw .undefinedOpcode }
        let high = gpr(Register.rcx) | gpr(Register.rdx)
        guard high & 0xFFFF_FFFF == 0 else { throw .protection() }
        setPKRU(UInt32(truncatingIfNeeded: gpr(Register.rax)))
    }
}
