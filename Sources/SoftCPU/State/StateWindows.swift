import CLinux
import Glibc
import LinuxHost

/// One vCPU's state, mapped once in front of each of its translation caches, so that translated code reaches
/// both by short displacements from one register, which points between them:
///
/// ```
/// window 0:  CPUState | TLB of context 0 | branch targets        (a stride)
/// window 1:  CPUState | TLB of context 3 | branch targets
/// window 2:  CPUState | TLB of context 1 in address space 0 | branch targets
/// window 3:  CPUState | TLB of context 2 in address space 0 | branch targets
/// ...        the same for the other address spaces
/// last one:  CPUState | TLB of a trial (LockstepTrial.swift) | branch targets
/// ```
final class StateWindows: Sendable {
    /// Of the state, which ends where a TLB starts.
    static var stateSize: Int { MemoryLayout<CPUState>.stride }
    /// The same in whole pages.
    static let stateBytes = (stateSize + 4095) & ~4095
    /// Address spaces whose translations are kept.
    static let slots = 8
    /// The window of trials.
    static let trial = 2 + 2 * slots
    static let count = trial + 1
    static let stride = stateBytes + TLB.contextBytes + BranchTargets.bytes
    private let mapping: MemoryMapping

    init() throws(HostError) {
        mapping = try MemoryMapping(anonymous: Self.stride * Self.count)
        // SAFETY: a constant string; MFD_CLOEXEC.
        let file = unsafe ospite_memfd_create("vCPU state", 1)
        guard file >= 0 else { throw .last("creating memory for a vCPU's state") }
        defer { close(file) }
        guard ftruncate(file, Self.stateBytes) == 0 else { throw .last("sizing a vCPU's state") }
        for number in 0..<Self.count {
            try mapping.replace(offset: number * Self.stride, byFile: file, size: Self.stateBytes)
        }
        // SAFETY: the first window's state part, zeroed memory of the right size.
        unsafe (mapping.base + Self.stateBytes - Self.stateSize)
            .initializeMemory(as: CPUState.self, to: CPUState())
    }

    /// Where the engine's Swift code sees the state.
    var stateAddress: UInt { firstTLB - UInt(Self.stateSize) }
    /// The first entry of context 0.
    var firstTLB: UInt { unsafe UInt(bitPattern: mapping.base) + UInt(Self.stateBytes) }
}
