import VCPUEngine
import X86Architecture

/// KVM's paravirtual end of interrupt (Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN): bit 0 of
/// a word in the guest's memory says that the interrupt in service may end by clearing that bit. The guest
/// does so with an ordinary instruction, so that only the vCPU's thread may touch the word.
extension CPU {
    private enum Word {
        static let enabled: UInt64 = 1, canDefer: UInt32 = 1
    }
    private var deferralWord: UInt64 { s.kvmEndOfInterrupt & ~3 }

    /// An interrupt was acknowledged and is about to be delivered.
    func deferEndOfInterrupt() {
        guard s.kvmEndOfInterrupt & Word.enabled != 0,
            let region = owner.region(at: deferralWord & TLB.pageMask), region.isRAM,
            owner.apic.deferEndOfInterrupt()
        else { return }
        s.endIsDeferred = true
        updatePhysical(UInt32.self, deferralWord) { $0 | Word.canDefer }
    }

    /// Finds out whether the interrupt has ended, before anything depends on it: another interrupt, a look at
    /// the local APIC, a stop of the vCPU.
    @inline(__always) func settleEndOfInterrupt() {
        if s.endIsDeferred { settleDeferredEnd() }
    }

    @inline(never)
    private func settleDeferredEnd() {
        s.endIsDeferred = false
        guard readPhysical(UInt32.self, deferralWord) & Word.canDefer != 0 else {
            s.endsInMemory &+= 1
            return owner.apic.endOfInterrupt()
        }
        updatePhysical(UInt32.self, deferralWord) { $0 & ~Word.canDefer }
        owner.apic.keepInService()
    }

    /// Another state is loaded, with a local APIC that knows of no deferral.
    func forgetDeferredEnd() {
        guard s.endIsDeferred else { return }
        s.endIsDeferred = false
        owner.apic.keepInService()
    }
}
