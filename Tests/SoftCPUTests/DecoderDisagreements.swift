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

    /// No operand of these is read or written: they are hints, address checks or #UD, and the operand is decoration.
    private static let withoutAccess: Set<Mnemonic> = [
        .nop, .prefetch, .prefetchw, .prefetchnta, .prefetcht0, .prefetcht1, .prefetcht2, .clflush, .clflushopt,
        .clwb, .invlpg, .ud0, .ud1, .ffree, .ffreep,
    ]
    /// Software interrupts and returns: which flags change depends on gates and privilege, not on the row.
    private static let throughGates: Set<Mnemonic> = [.int, .int3, .into, .int1, .iret, .rsm, .syscall, .sysret]
    private static let shifts: Set<Mnemonic> = [.rol, .ror, .rcl, .rcr, .shl, .shr, .sar]

    /// Both decode, and `difference` is meant.
    static func isKnown(
        _ difference: String, _ ours: Instruction, _ theirs: ReferenceDecoder.Result, _ mode: CodeMode
    ) -> Bool {
        if withoutAccess.contains(ours.mnemonic) { return !difference.hasPrefix("length") }
        switch difference {
        case _ where difference.hasPrefix("name"):
            // Without CET these are no-operations, and the reference is told that there is none.
            return ours.mnemonic == .endbr32 || ours.mnemonic == .endbr64
        case _ where difference.hasPrefix("flags"):
            if throughGates.contains(ours.mnemonic) { return true }
            // A shift by the constant 1 defines OF (SDM vol. 2, SAL); the reference calls it undefined.
            if shifts.contains(ours.mnemonic) && ours.operand1.kind == .one { return true }
            // REPE and REPNE test ZF after they wrote it; `mayKeepFlags` says that zero rounds keep the old flags.
            if difference.hasPrefix("flags read"), ours.attributes.contains(.repeatsOnZero) { return true }
            // MOV CR, DR: the SDM calls the status flags undefined, the APM unaffected, the reference says nothing.
            return ours.mnemonic == .mov
        case _ where difference.contains("size 2, reference"):
            // A 32- or 64-bit register of which 16 bits count.
            return ours.mnemonic == .lar || ours.mnemonic == .lsl
        default: return false
        }
    }
}
