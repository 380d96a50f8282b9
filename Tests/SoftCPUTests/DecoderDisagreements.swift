@testable import SoftCPU

/// Where we and Zydis differ on purpose, each with its reason.
enum DecoderDisagreements {
    /// Extensions that we do not have.
    private static let absentExtensions: Set<String> = [
        "AMD3DNOW", "AMD_INVLPGB", "AMX_BF16", "AMX_INT8", "AMX_TILE", "AVX512EVEX", "AVX512VEX", "AVX_VNNI",
        "CET", "CLDEMOTE", "CLZERO", "ENQCMD", "FMA4", "GFNI", "HRESET", "KEYLOCKER", "KEYLOCKER_WIDE", "KNC",
        "KNCE", "KNCV", "MCOMMIT", "MONITORX", "MOVDIR", "MPX", "PADLOCK", "PCONFIG", "PKU", "PREFETCHWT1", "PT",
        "RDPRU", "RTM", "SERIALIZE", "SGX", "SGX_ENCLV", "SMX", "SNP", "SSE4A", "SVM", "TBM", "TDX", "TSX_LDTRK",
        "UINTR", "VMFUNC", "VTX", "WAITPKG", "XOP",
    ]

    /// The reference decodes what we refuse.
    static func onlyTheirs(_ theirs: ReferenceDecoder.Result, _ bytes: [UInt8], _ mode: CodeMode) -> Bool {
        if absentExtensions.contains(theirs.isaExtension) { return true }
        return [1, 2, 4, 5].contains(theirs.encoding)
    }

    /// We decode what the reference refuses.
    static func onlyOurs(_ ours: Instruction, _ mode: CodeMode) -> Bool {
        false
    }

    /// Both decode, and `difference` is meant.
    static func isKnown(
        _ difference: String, _ ours: Instruction, _ theirs: ReferenceDecoder.Result, _ mode: CodeMode
    ) -> Bool {
        false
    }
}
