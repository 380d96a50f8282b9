import CLinux
import Glibc
import LinuxHost

/// One vCPU's state, mapped once in front of each of its translation caches, so that translated code reaches
/// both by short displacements from GS, which points between them:
///
/// ```
/// window 0:  CPUState | TLB of context 0 | branch targets of context 0      (a stride)
/// window 1:  CPUState | TLB of context 1 | branch targets of context 1
/// ...        the same bytes
/// ```
final class StateWindows: Sendable {
    /// Of the state, in whole pages.
    static let stateBytes = (MemoryLayout<CPUState>.size + 4095) & ~4095
    static let stride = stateBytes + TLB.contextBytes + BranchTargets.bytes
    private let mapping: MemoryMapping

    init() throws(HostError) {
        mapping = try MemoryMapping(anonymous: Self.stride * TLB.contexts)
        // SAFETY: a constant string; MFD_CLOEXEC.
        let file = unsafe ospite_memfd_create("vCPU state", 1)
        guard file >= 0 else { throw .last("creating memory for a vCPU's state") }
        defer { close(file) }
        guard ftruncate(file, Self.stateBytes) == 0 else { throw .last("sizing a vCPU's state") }
        for context in 0..<TLB.contexts {
            try mapping.replace(offset: context * Self.stride, byFile: file, size: Self.stateBytes)
        }
        // SAFETY: the first window's state part, zeroed memory of the right size.
        unsafe mapping.base.initializeMemory(as: CPUState.self, to: CPUState())
    }

    /// Where the engine's Swift code sees the state.
    var stateAddress: UInt { unsafe UInt(bitPattern: mapping.base) }
    /// The first entry of context 0.
    var firstTLB: UInt { stateAddress + UInt(Self.stateBytes) }
}
