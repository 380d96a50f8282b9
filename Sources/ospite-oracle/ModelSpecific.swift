@testable internal import SoftCPU

/// Where processors differ from each other and the manuals leave it open. Each entry has its reason.
enum ModelSpecific {
    /// When both sides fault on these, nothing else is compared: which of several faults comes first, and
    /// what was already stored or loaded by then.
    static let faults: [(Mnemonic, String)] = [
        (.retf, "the order in which the stack and the descriptor are read"),
        (.iret, "the order in which the stack and the descriptor are read"),
        (.callf, "pushes before or after the checks of the target"),
        (.jmpf, "the order of the checks of selector and target"),
        (.popa, "how much is loaded before a fault"), (.pusha, "how much is stored before a fault"),
        (.ud0, "how many of its bytes are fetched"), (.ud1, "how many of its bytes are fetched"),
        (.cmps, "which of the two operands is loaded first"),
        (.fldenv, "read field by field"), (.frstor, "read field by field"),
        (.enter, "how much is stored before a fault"),
        (.maskmovq, "bytes that the mask leaves out may fault"),
        (.maskmovdqu, "bytes that the mask leaves out may fault"),
        (.vmaskmovdqu, "bytes that the mask leaves out may fault"),
    ]

    /// What our processor does as AMD's do, and Intel's do not.
    static let onlyAMD: [(Mnemonic, String)] = [
        (.loope, "F2 makes it LOOPNE"), (.loopne, "F3 makes it LOOPE"),
        (.shld, "16-bit operands shifted by more than 16"),
        (.shrd, "16-bit operands shifted by more than 16"),
        (.bsf, "the destination for a source of zero"), (.bsr, "the destination for a source of zero"),
        (.lfs, "REX.W does not widen the pointer"), (.lgs, "REX.W does not widen the pointer"),
        (.lss, "REX.W does not widen the pointer"), (.callf, "REX.W does not widen the pointer"),
        (.jmpf, "REX.W does not widen the pointer"), (.call, "66 counts in 64-bit mode"),
        (.jmp, "66 counts in 64-bit mode"), (.jcc, "66 counts in 64-bit mode"),
        (.ret, "66 counts in 64-bit mode"), (.loop, "66 counts in 64-bit mode"),
        (.jcxz, "66 counts in 64-bit mode"), (.cmpxchg, "the upper half of a register that stays"),
        (.pop, "bytes of the stack that a selector leaves out are read"),
        (.sha1msg1, "misaligned operands"), (.sha1msg2, "misaligned operands"),
        (.sha1nexte, "misaligned operands"), (.sha1rnds4, "misaligned operands"),
        (.sha256msg1, "misaligned operands"), (.sha256msg2, "misaligned operands"),
        (.sha256rnds2, "misaligned operands"), (.sysexit, "not in long mode"),
    ]
    static func isOnlyAMD(_ mnemonic: Mnemonic) -> Bool { onlyAMD.contains { $0.0 == mnemonic } }
    /// The same, where it depends on the form of the instruction.
    static func isOnlyAMD(_ i: Instruction, _ mode: OracleMode) -> Bool {
        switch i.mnemonic {
        // Intel's leave the upper bytes of the slot alone.
        case .push: i.operand0.kind == .segment && i.operandSize > 2
        // Intel's read 16 bits.
        case .movsxd: i.operandSize == 2
        // Intel's clear the upper half of RCX, RSI and RDI also when nothing was repeated.
        case .movs, .stos, .lods, .scas, .cmps: mode == .bits64 && i.addressSize == 4
        // PAUSE whatever REX says.
        case .xchg: i.opcode == 0x90 && i.opcodeMap == 0 && i.prefixes.contains(.rep)
        // #UD outside 64-bit mode.
        case .sysret: mode != .bits64
        default: false
        }
    }

    /// What Intel's processors do otherwise than AMD's, and our processor, when the instruction faults.
    static let intelFaults: [(Mnemonic, String)] = [
        (.vgatherdps, "the mask that is left"), (.vgatherdpd, "the mask that is left"),
        (.vgatherqps, "the mask that is left"), (.vgatherqpd, "the mask that is left"),
        (.vpgatherdd, "the mask that is left"), (.vpgatherdq, "the mask that is left"),
        (.vpgatherqd, "the mask that is left"), (.vpgatherqq, "the mask that is left"),
        (.movd, "MMX state is entered before the store"), (.movq, "MMX state is entered before the store"),
        (.movntq, "MMX state is entered before the store"),
        (.vcvtps2ph, "MXCSR is written before the store"),
        (.vmaskmovps, "elements that the mask leaves out"),
        (.vmaskmovpd, "elements that the mask leaves out"),
        (.vpmaskmovd, "elements that the mask leaves out"),
        (.vpmaskmovq, "elements that the mask leaves out"),
        (.fst, "an x87 exception comes first"), (.fstp, "an x87 exception comes first; a part is stored"),
        (.fist, "an x87 exception comes first"), (.fistp, "an x87 exception comes first"),
        (.fisttp, "an x87 exception comes first"), (.fbstp, "an x87 exception comes first"),
        (.movbe, "with 66 and REX.W byte by byte, as far as it gets (Cascade Lake)"),
        (.scas, "flags of the repetitions before"), (.bound, "the bounds or the operand's page first"),
        (.retf, "the selector or the address first"), (.iret, "the selector or the address first"),
    ]
    static func faultsOtherwise(_ mnemonic: Mnemonic) -> Bool { intelFaults.contains { $0.0 == mnemonic } }

    static let hostIsAMD = CPUModel.host(0).ebx == 0x6874_7541

    /// Where a fault on the host is enough: for bytes that the mask leaves out.
    static let maskedStores: Set<Mnemonic> = [.maskmovq, .maskmovdqu, .vmaskmovdqu]
    /// AMD has a bit more in MXCSR, which our model leaves out to be the same on every host.
    static let controlLoads: Set<Mnemonic> = [.ldmxcsr, .vldmxcsr]

    /// A page fault's address counts only as a page.
    static let pagewise: [(Mnemonic, String)] = [
        (.fldenv, "read field by field"), (.frstor, "read field by field"),
        (.fnsave, "written field by field"), (.fnstenv, "written field by field"),
    ]
}
