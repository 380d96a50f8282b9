import DeviceModel
import Synchronization
import X86Architecture

/// Memory of devices that is reached like the guest's own: its pages are in the TLB, until somebody asks for
/// them back (`DeviceModel.DirectAccess`).
extension CPU {
    /// Host address of the device memory at guest-physical `page`, 0 if there is none. `storing`: the device
    /// is told that stores may follow.
    @inline(never)
    func directPage(_ page: UInt64, storing: Bool) -> UInt {
        let slot = Int(page >> 12 & 15)
        guard s.askedPages[slot] != page, !s.inTrial, page != owner.apicPage else { return 0 }
        let host = owner.platform.directPage(at: page, storing: storing)
        if host == 0 { s.askedPages[slot] = page }
        return host
    }

    /// Enters a page of device memory. Stores go on asking unless the device knows of them.
    func fillDirect(
        _ linear: UInt64, _ context: UInt32, _ host: UInt, _ found: Translation, storing: Bool
    ) {
        guard !watchesAccesses, context != TLB.userAligned else { return }
        let tag = linear & TLB.pageMask
        noteUse(context, linear, sizeShift: found.sizeShift)
        if context == TLB.kernel, !found.isGlobal { noteLocalKernel(linear) }
        s.directStart = min(s.directStart, host)
        s.directEnd = max(s.directEnd, host &+ 0x1000)
        // SAFETY: `entry` is inside this vCPU's TLB.
        let entry = unsafe Self.entry(tlbBase(context), linear)
        unsafe dropPermission(entry, TLB.invalidTag(linear))
        unsafe entry.pointee = TLBEntry(
            readTag: tag, writeTag: storing && found.storable ? tag : TLB.invalidTag(linear),
            addend: UInt64(host) &- tag, host: host)
    }

    /// Forgets all device memory that is in a TLB, and what is none.
    func flushDirect() {
        s.askedPages = .init(repeating: .max)
        let start = s.directStart, size = s.directEnd &- start
        guard start != .max else { return }
        for number in 0..<StateWindows.count where s.tlbUsed[number] != 0 {
            forEachUsedEntry(number) { entry, invalid in
                // SAFETY: the entry is one of this vCPU's.
                guard unsafe entry.pointee.host &- start < size else { return }
                unsafe entry.pointee.readTag = invalid
                unsafe entry.pointee.writeTag = invalid
            }
        }
        s.directStart = .max
        s.directEnd = 0
    }
}

extension SoftVCPU: DirectMemoryUser {
    public func giveUpDirectMemory(_ number: UInt64) {
        directRequest.store(number, ordering: .sequentiallyConsistent)
        cpu.setAttention(Attention.directMemory)
        parker.unpark()
    }

    public func hasGivenUpDirectMemory(_ number: UInt64) -> Bool {
        directHeeded.load(ordering: .sequentiallyConsistent) >= number
            || isOutside.load(ordering: .sequentiallyConsistent)
    }

    /// Heeds the last such request.
    func forgetDirectMemory() {
        let number = directRequest.load(ordering: .sequentiallyConsistent)
        cpu.flushDirect()
        directHeeded.store(number, ordering: .sequentiallyConsistent)
    }
}
