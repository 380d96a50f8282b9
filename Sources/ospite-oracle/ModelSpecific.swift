@testable internal import SoftCPU

/// Where processors differ from each other and the manuals leave it open. Each entry has its reason.
enum ModelSpecific {
    /// When both sides fault on these, nothing else is compared: which of several faults comes first, and what
    /// was already stored or loaded by then.
    static let faults: [(Mnemonic, String)] = [
        (.retf, "the order in which the stack and the descriptor are read"),
        (.iret, "the order in which the stack and the descriptor are read"),
        (.callf, "pushes before or after the checks of the target"),
        (.jmpf, "the order of the checks of selector and target"),
        (.popa, "how much is loaded before a fault"), (.pusha, "how much is stored before a fault"),
        (.enter, "how much is stored before a fault"),
        (.maskmovq, "bytes that the mask leaves out may fault"),
        (.maskmovdqu, "bytes that the mask leaves out may fault"),
        (.vmaskmovdqu, "bytes that the mask leaves out may fault"),
    ]

    /// A page fault's address counts only as a page.
    static let pagewise: [(Mnemonic, String)] = [
        (.fldenv, "read field by field"), (.frstor, "read field by field"),
        (.fnsave, "written field by field"), (.fnstenv, "written field by field"),
    ]
}
