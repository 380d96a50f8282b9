import CGate
import VCPUEngine
import X86Architecture

/// EAX, EBX, ECX, EDX of one CPUID leaf.
struct CPUIDResult: BitwiseCopyable, Equatable {
    var eax: UInt32 = 0
    var ebx: UInt32 = 0
    var ecx: UInt32 = 0
    var edx: UInt32 = 0
}

/// The processor that the guest sees: what CPUID says (Intel SDM vol. 2 CPUID; AMD APM vol. 3 appendix E).
///
/// It is x86-64-v3 with the vendor, family, model and name of the host, because instructions that the engine
/// runs on the host itself must behave as the guest expects. Only features that both the host has and this
/// processor implements are set.
///
/// Speculation: this engine runs no guest instruction speculatively in a way that the guest could steer, so
/// that the model says "not affected" wherever CPUID and IA32_ARCH_CAPABILITIES can. On an AMD family 19h
/// guest Linux then uses neither retpolines (automatic IBRS), IBPB, SSBD, SRSO nor TSA counter-measures, and as
/// an Intel guest neither page-table isolation, retpolines (enhanced IBRS) nor VERW.
enum CPUModel {
    private static let basicLimit: UInt32 = 0xD
    private static let hypervisorLimit: UInt32 = 0x4000_0010

    static func host(_ leaf: UInt32, _ subleaf: UInt32 = 0) -> CPUIDResult {
        var words: InlineArray<4, UInt32> = .init(repeating: 0)
        var span = words.mutableSpan
        // SAFETY: ospite_cpuid fills exactly the four words.
        unsafe span.withUnsafeMutableBufferPointer { unsafe ospite_cpuid(leaf, subleaf, $0.baseAddress) }
        return CPUIDResult(eax: words[0], ebx: words[1], ecx: words[2], edx: words[3])
    }

    /// The host's leaves that the model starts from, asked for once.
    private struct Host {
        let vendor = host(0)
        let signature = host(1)
        let features = host(0).eax >= 7 ? host(7) : CPUIDResult()
        let xsave = host(0).eax >= 0xD ? host(0xD, 1) : CPUIDResult()
        let extendedLimit = host(0x8000_0000).eax
        let extended = host(0x8000_0001)
        let name = [host(0x8000_0002), host(0x8000_0003), host(0x8000_0004)]
        let caches = [host(0x8000_0005), host(0x8000_0006)]
        let capacity = host(0x8000_0008)
        var isAMD: Bool { vendor.ebx == 0x6874_7541 }
    }
    private static let hostLeaves = Host()
    /// Whether the guest's processor is one of AMD's.
    static let isAMD = hostLeaves.isAMD

    private static func bits(_ numbers: [UInt32]) -> UInt32 { numbers.reduce(0) { $0 | 1 << $1 } }

    /// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX,
    /// F16C, RDRAND.
    private static let features1C = bits([0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30])
    /// x2APIC, TSC deadline, hypervisor: ours, whatever the host has.
    private static let own1C = bits([21, 24, 31])
    /// Leaf 1 EDX: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE
    /// SSE2.
    private static let features1D = bits([
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26,
    ])
    /// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, INVPCID, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB,
    /// SHA.
    private static let features7B = bits([0, 3, 5, 7, 8, 9, 10, 18, 19, 20, 23, 24, 29])
    /// IA32_TSC_ADJUST is ours.
    private static let own7B = bits([1])
    /// Leaf 7 ECX: RDPID. UMIP and protection keys of both kinds are ours.
    private static let features7C = bits([22]), own7C = bits([2, 3, 31])
    /// Leaf 7 EDX: fast short REP MOVSB.
    private static let features7D = bits([4])
    /// The same on Intel's processors: IBRS and IBPB, IA32_ARCH_CAPABILITIES.
    private static let intel7D = bits([26, 29])
    /// IA32_ARCH_CAPABILITIES (SDM vol. 4): RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO,
    /// IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
    static let capabilities: UInt64 =
        UInt64(bits([0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27])) | 1 << 62
    /// Leaf 8000_0001 ECX: LAHF in 64-bit mode, ABM, PREFETCHW. EDX: SYSCALL, NX, MMX extensions, 1 GiB
    /// pages, RDTSCP, long mode, besides AMD's copy of leaf 1.
    private static let extendedC = bits([0, 5, 8])
    private static let extendedD = bits([11, 20, 22, 26, 27, 29]), extendedCopy: UInt32 = 0x0183_F3FF
    /// Leaf 0xD.1 EAX: XSAVEOPT, XSAVEC, XGETBV of XCR1. No XSAVES.
    private static let xsaveForms = bits([0, 1, 2])

    /// What CPUID answers on `cpu` for a leaf and subleaf.
    static func answer(_ leaf: UInt32, _ subleaf: UInt32, _ cpu: CPU) -> CPUIDResult {
        switch leaf {
        case 0x4000_0000...0x4000_00FF: return hypervisor(leaf, cpu)
        case 0x8000_0000...0xFFFF_FFFF: return extended(leaf, cpu)
        default: return basic(leaf, subleaf, cpu)
        }
    }

    private static func basic(_ leaf: UInt32, _ subleaf: UInt32, _ cpu: CPU) -> CPUIDResult {
        let host = hostLeaves
        switch leaf {
        case 0:
            return CPUIDResult(
                eax: basicLimit, ebx: host.vendor.ebx, ecx: host.vendor.ecx, edx: host.vendor.edx)
        case 1: return signature(cpu)
        // The APIC timer runs in every sleep state.
        case 6: return CPUIDResult(eax: 4)
        case 7 where subleaf == 0:
            let keysEnabled: UInt32 = cpu.s.cr4 & CR4.protectionKeys != 0 ? 1 << 4 : 0
            return CPUIDResult(
                eax: host.isAMD ? 0 : 2, ebx: host.features.ebx & features7B | own7B,
                ecx: host.features.ecx & features7C | own7C | keysEnabled,
                edx: host.features.edx & features7D | (host.isAMD ? 0 : intel7D))
        // BHI_CTRL: without it Linux clears the branch history by hand at every system call.
        case 7 where subleaf == 2 && !host.isAMD: return CPUIDResult(edx: 1 << 4)
        case 0xB: return topology(subleaf, cpu)
        case 0xD: return xsave(subleaf, cpu)
        default: return CPUIDResult()
        }
    }

    private static func signature(_ cpu: CPU) -> CPUIDResult {
        let host = hostLeaves
        let index = UInt32(truncatingIfNeeded: cpu.owner.index)
        let count = UInt32(truncatingIfNeeded: cpu.owner.vcpuCount)
        var result = CPUIDResult(
            eax: host.signature.eax, ebx: (index & 0xFF) << 24 | (count & 0xFF) << 16 | 8 << 8,
            ecx: host.signature.ecx & features1C | own1C, edx: host.signature.edx & features1D)
        if cpu.s.cr4 & CR4.osXSAVE != 0 { result.ecx |= 1 << 27 }
        // A switched-off local APIC is not there (SDM vol. 3 §11.4.3).
        if cpu.owner.apic.apicBase & (1 << 11) == 0 { result.edx &= ~(1 << 9) }
        // HTT: EBX counts logical processors.
        if count > 1 { result.edx |= 1 << 28 }
        return result
    }

    /// One thread per core, all cores in one package.
    private static func topology(_ subleaf: UInt32, _ cpu: CPU) -> CPUIDResult {
        let count = UInt32(truncatingIfNeeded: cpu.owner.vcpuCount)
        let index = UInt32(truncatingIfNeeded: cpu.owner.index)
        switch subleaf {
        case 0: return CPUIDResult(eax: 0, ebx: 1, ecx: 0x100, edx: index)
        case 1: return CPUIDResult(eax: coreBits(count), ebx: count, ecx: 0x201, edx: index)
        default: return CPUIDResult(ecx: subleaf & 0xFF, edx: index)
        }
    }

    /// APIC ID bits that number the cores.
    private static func coreBits(_ count: UInt32) -> UInt32 {
        count <= 1 ? 0 : UInt32(32 - (count - 1).leadingZeroBitCount)
    }

    private static func xsave(_ subleaf: UInt32, _ cpu: CPU) -> CPUIDResult {
        let hasAVX = hostLeaves.signature.ecx & (1 << 28) != 0
        let components = UInt32(hasAVX ? 7 : 3) | UInt32(ProtectionKeys.component)
        let all = UInt32(StateImage(UInt64(components), isCompacted: false).size)
        func enabled(_ isCompacted: Bool) -> UInt32 {
            UInt32(StateImage(cpu.s.xcr0, isCompacted: isCompacted).size)
        }
        switch subleaf {
        case 0: return CPUIDResult(eax: components, ebx: enabled(false), ecx: all)
        case 1: return CPUIDResult(eax: hostLeaves.xsave.eax & xsaveForms, ebx: enabled(true))
        case 2 where hasAVX: return CPUIDResult(eax: 256, ebx: 576)
        case 9:
            return CPUIDResult(
                eax: UInt32(ProtectionKeys.size), ebx: UInt32(ProtectionKeys.standardOffset))
        default: return CPUIDResult()
        }
    }

    private static func extended(_ leaf: UInt32, _ cpu: CPU) -> CPUIDResult {
        let host = hostLeaves
        let count = UInt32(truncatingIfNeeded: cpu.owner.vcpuCount)
        switch leaf {
        case 0x8000_0000:
            return CPUIDResult(
                eax: host.isAMD ? 0x8000_0021 : 0x8000_0008, ebx: host.vendor.ebx, ecx: host.vendor.ecx,
                edx: host.vendor.edx)
        case 0x8000_0001:
            let copy = host.isAMD ? host.signature.edx & features1D & extendedCopy : 0
            return CPUIDResult(
                eax: host.extended.eax, ecx: host.extended.ecx & extendedC,
                edx: host.extended.edx & extendedD | copy)
        case 0x8000_0002...0x8000_0004: return host.name[Int(leaf - 0x8000_0002)]
        case 0x8000_0005...0x8000_0006: return host.caches[Int(leaf - 0x8000_0005)]
        // The time-stamp counter is invariant.
        case 0x8000_0007: return CPUIDResult(edx: 1 << 8)
        case 0x8000_0008:
            // 48 bits physical and linear. EBX: error pointers are restored (the host's way); SSB_NO, BTC_NO.
            let safe = host.capacity.ebx & (1 << 2) | bits([26, 29])
            return CPUIDResult(
                eax: 48 << 8 | 48, ebx: host.isAMD ? safe : 0,
                ecx: coreBits(count) << 12 | (count - 1) & 0xFF)
        case 0x8000_0021 where host.isAMD:
            // LFENCE serialises, null selectors clear bases, automatic IBRS, SRSO_NO; TSA_SQ_NO, TSA_L1_NO.
            return CPUIDResult(eax: bits([2, 6, 8, 29]), ecx: bits([1, 2]))
        default: return CPUIDResult()
        }
    }

    /// KVM's leaves (Linux Documentation/virt/kvm/x86/cpuid.rst), which guests know best.
    private static func hypervisor(_ leaf: UInt32, _ cpu: CPU) -> CPUIDResult {
        switch leaf {
        case 0x4000_0000:
            // "KVMKVMKVM\0\0\0"
            return CPUIDResult(eax: hypervisorLimit, ebx: 0x4B4D_564B, ecx: 0x564B_4D56, edx: 0x0000_004D)
        case 0x4000_0001:
            // Clock source (old and new numbers), no I/O delays, end of interrupt in memory, interrupts to a
            // set of processors, stable clock.
            return CPUIDResult(eax: bits([0, 1, 3, 6, 11, 24]))
        case 0x4000_0010:
            // Time-stamp counter and APIC timer frequency in kHz.
            let kilohertz = cpu.owner.tscFrequency / 1000
            return CPUIDResult(eax: UInt32(truncatingIfNeeded: min(kilohertz, 0xFFFF_FFFF)), ebx: 1_000_000)
        default: return CPUIDResult()
        }
    }
}

extension CPU {
    func identify() {
        let leaf = UInt32(truncatingIfNeeded: gpr(Register.rax))
        let subleaf = UInt32(truncatingIfNeeded: gpr(Register.rcx))
        var result = CPUModel.answer(leaf, subleaf, self)
        owner.limits?.apply(to: &result, leaf: leaf, subleaf: subleaf)
        setGPR(Register.rax, UInt64(result.eax))
        setGPR(Register.rbx, UInt64(result.ebx))
        setGPR(Register.rcx, UInt64(result.ecx))
        setGPR(Register.rdx, UInt64(result.edx))
    }
}
