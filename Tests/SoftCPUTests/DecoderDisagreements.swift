@testable import SoftCPU

/// Where we and Zydis differ on purpose, each with its reason.
enum DecoderDisagreements {
    /// Extensions that we do not have.
    private static let absentExtensions: Set<String> = [
        "AMD3DNOW", "AMD_INVLPGB", "AMX_BF16", "AMX_INT8", "AMX_TILE", "AVX512EVEX", "AVX512VEX", "AVX_VNNI",
        "CET", "CLDEMOTE", "CLZERO", "ENQCMD", "FMA4", "GFNI", "HRESET", "KEYLOCKER", "KEYLOCKER_WIDE", "KNC",
        "KNCE", "KNCV", "MCOMMIT", "MONITORX", "MOVDIR", "MPX", "PADLOCK", "PCONFIG", "PKU", "PREFETCHWT1",
        "PT",
        "RDPRU", "RTM", "SERIALIZE", "SGX", "SGX_ENCLV", "SMX", "SNP", "SSE4A", "SVM", "TBM", "TDX",
        "TSX_LDTRK",
        "UINTR", "VAES", "VMFUNC", "VPCLMULQDQ", "VTX", "WAITPKG",
        "XOP",
    ]

    /// The reference decodes what we refuse.
    static func onlyTheirs(_ theirs: ReferenceDecoder.Result, _ bytes: [UInt8], _ mode: CodeMode) -> Bool {
        if absentExtensions.contains(theirs.isaExtension) { return true }
        // AMD processors refuse 0F 0D with a register (tried on Zen 4); for Intel's it is a no-operation.
        if theirs.mnemonic == "nop", bytes.drop(while: { $0 != 0x0F }).dropFirst().first == 0x0D {
            return true
        }
        return [1, 2, 4, 5].contains(theirs.encoding)
    }

    /// We decode what the reference refuses.
    static func onlyOurs(_ ours: Instruction, _ mode: CodeMode) -> Bool {
        false
    }

    /// No operand of these is read or written: they are hints, address checks or #UD, and the operand is
    /// decoration.
    private static let withoutAccess: Set<Mnemonic> = [
        .nop, .prefetch, .prefetchw, .prefetchnta, .prefetcht0, .prefetcht1, .prefetcht2, .clflush,
        .clflushopt,
        .clwb, .invlpg, .ud0, .ud1, .ffree, .ffreep,
    ]
    /// Software interrupts and returns: which flags change depends on gates and privilege, not on the row.
    private static let throughGates: Set<Mnemonic> = [
        .int, .int3, .into, .int1, .iret, .rsm, .syscall, .sysret,
    ]
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
        case "privilege":
            // The reference forgets that LGDT is privileged.
            return ours.mnemonic == .lgdt
        case _ where difference.hasPrefix("flags"):
            if throughGates.contains(ours.mnemonic) { return true }
            // A shift by the constant 1 defines OF (SDM vol. 2, SAL); the reference calls it undefined.
            if shifts.contains(ours.mnemonic) && ours.operand1.kind == .one { return true }
            // REPE and REPNE test ZF after they wrote it; `mayKeepFlags` says that zero rounds keep the old
            // flags.
            if difference.hasPrefix("flags read"), ours.attributes.contains(.repeatsOnZero) { return true }
            // SBB writes AF like SUB; BEXTR clears OF (SDM vol. 2); VPTEST and VTESTPS clear O, S, A and P as
            // PTEST.
            if [.sbb, .bextr, .vptest, .vtestps, .vtestpd].contains(ours.mnemonic) { return true }
            // A hypercall changes what the hypervisor says.
            if ours.mnemonic == .vmcall || ours.mnemonic == .vmmcall { return true }
            // MOV CR, DR: the SDM calls the status flags undefined, the APM unaffected, the reference says
            // nothing.
            return ours.mnemonic == .mov
        case _ where difference.hasPrefix("operand 1: size"):
            // LAR, LSL: a 32- or 64-bit register of which 16 bits count. MOVSXD with 66: a Zen 4 reads 32
            // bits.
            if [.lar, .lsl, .movsxd].contains(ours.mnemonic) { return true }
            // REX.W does not widen a far pointer on AMD (tried on Zen 4).
            return [.lss, .lfs, .lgs].contains(ours.mnemonic) && ours.rexW
        case _ where difference.hasSuffix("base 16"):
            // With 67 and REX.B the reference invents a base for SIB's "no base"; a Zen 4 adds none.
            return ours.addressSize == 4 && ours.rexBits & 1 != 0 && ours.modRM & 0xC7 == 4
        case _ where difference.hasPrefix("operand 0: size 2, reference 8"):
            // A Zen 4 reads and jumps to 16 bits for 66 FF /2 and /4 in 64-bit mode.
            return ours.mnemonic == .call || ours.mnemonic == .jmp
        case _ where difference.hasPrefix("operand 0: size 6, reference 10"):
            return ours.mnemonic == .callf || ours.mnemonic == .jmpf
        default: return false
        }
    }
}
