@testable internal import SoftCPU

/// What this comparison leaves out, with the reason. The list is explicit: a row that is neither here nor
/// executed fails the run.
enum Exclusions {
    /// Whole mnemonics.
    static let mnemonics: [(Mnemonic, String)] = [
        (.syscall, "enters the host's kernel"), (.sysenter, "enters the host's kernel"),
        (.vmcall, "a hypervisor under the host answers it"),
        (.vmmcall, "a hypervisor under the host answers it"),
        (.rdtsc, "reads the time"), (.rdtscp, "reads the time"), (.rdpmc, "reads a counter of the host"),
        (.rdrand, "random"), (.rdseed, "random"), (.rdpid, "the host's processor number"),
        (.cpuid, "the guest's processor model differs from the host by design"),
        (.xgetbv, "the host may have more state enabled"),
        (.sgdt, "the host's kernel emulates it for UMIP"), (.sidt, "the host's kernel emulates it for UMIP"),
        (.sldt, "the host's kernel emulates it for UMIP"), (.str, "the host's kernel emulates it for UMIP"),
        (.smsw, "the host's kernel emulates it for UMIP"),
        (.sysexit, "hypervisors under the host emulate it for guests of the other vendor"),
        (.rdpkru, "the host's kernel may not enable protection keys"),
        (.wrpkru, "the host's kernel may not enable protection keys"),
        (.int1, "hypervisors disagree whether it is a fault or a trap"),
        (.xsave, "the host's image has more components"), (.xsaveopt, "the host's image has more components"),
        (.xsavec, "the host's image has more components"), (.xrstor, "accepts what the host has enabled"),
        (.fxsave, "stores x87 pointers, which the host's own code between two cases moves"),
        (.fxrstor, "takes reserved fields from memory that nothing shows again"),
        (.fnstenv, "stores x87 pointers, which the host's own code between two cases moves"),
        (.fnsave, "stores x87 pointers, which the host's own code between two cases moves"),
    ]

    static func reason(_ mnemonic: Mnemonic) -> String? {
        mnemonics.first { $0.0 == mnemonic }?.1
    }

    /// Whether a decoded instruction may not run on the host though its row may.
    static func isForbidden(_ instruction: Instruction) -> Bool {
        switch instruction.mnemonic {
        // INT 0x80 is a system call of 32-bit programs.
        case .int: return instruction.immediate & 0xFF == 0x80
        // Outside 64-bit mode VEX.W is ignored by Intel's processors, #UD on AMD's.
        case .vpextrd, .vpinsrd: return instruction.rexW && instruction.operandSize != 8
        // After a #GP a hypervisor under the host may finish it with a 64-bit offset.
        case .callf, .jmpf: return instruction.rexW
        default: return false
        }
    }
}
