import CGate

/// Which instruction families the host executes. Emitted code runs guest encodings as they are, so one
/// that the host lacks must never be emitted.
struct HostFeatures: Sendable {
    static let shared = HostFeatures()

    private let leaf1: (c: UInt32, d: UInt32)
    private let leaf7b: UInt32
    /// The host's kernel lets programs use XMM and YMM.
    private let hasYMM: Bool

    private init() {
        let one = Self.cpuid(1), seven = Self.cpuid(7)
        leaf1 = (one[2], one[3])
        leaf7b = seven[1]
        hasYMM = one[2] & (1 << 27) != 0 && ospite_xgetbv() & 6 == 6
    }

    private static func cpuid(_ leaf: UInt32) -> [UInt32] {
        var result: [UInt32] = [0, 0, 0, 0]
        // SAFETY: the function writes four words.
        unsafe ospite_cpuid(leaf, 0, &result)
        return result
    }

    /// Translated code uses RORX (BMI2).
    var canTranslate: Bool { leaf7b & (1 << 8) != 0 }

    func contains(_ feature: InstructionFeature, isVEX: Bool) -> Bool {
        if isVEX, !hasYMM || leaf1.c & (1 << 28) == 0 { return false }
        switch feature {
        case .sse3: return leaf1.c & 1 != 0
        case .pclmul: return leaf1.c & (1 << 1) != 0
        case .ssse3: return leaf1.c & (1 << 9) != 0
        case .sse41: return leaf1.c & (1 << 19) != 0
        case .sse42: return leaf1.c & (1 << 20) != 0
        case .aes: return leaf1.c & (1 << 25) != 0
        case .avx2: return leaf7b & (1 << 5) != 0
        case .fma: return leaf1.c & (1 << 12) != 0
        case .f16c: return leaf1.c & (1 << 29) != 0
        case .sha: return leaf7b & (1 << 29) != 0
        default: return true
        }
    }
}
