import GuestMemory
import Synchronization
import X86Architecture

/// One cached translation for data. A tag is the page's linear address, or `TLB.invalidTag`.
///
/// Translated code reads it: `linear ^ tag` is the offset in the page when the tag fits, and a large number
/// when not.
struct TLBEntry: BitwiseCopyable {
    var readTag: UInt64
    var writeTag: UInt64
    /// Host address minus linear address.
    var addend: UInt64
    /// Host address of the page.
    var host: UInt

    @inline(__always) func hostAddress(_ linear: UInt64) -> UInt {
        UInt(truncatingIfNeeded: linear &+ addend)
    }
}

/// One cached translation for instruction fetch.
struct ExecutionTLBEntry: BitwiseCopyable {
    /// Linear page address, with 0 in the low bits for supervisor fetches and the address space's tag for
    /// those of user code; or `TLB.invalid`.
    var tag: UInt64
    var physical: UInt64
}

/// Direct-mapped translation caches: for data by context (see `CPUState.tlbContext`) and address space, and
/// one for fetches.
enum TLB {
    /// In an `ExecutionTLBEntry`.
    static let invalid: UInt64 = .max
    static let entries = 1024
    static let contexts = 4
    static let contextBytes = entries * MemoryLayout<TLBEntry>.stride
    static let executionEntries = 512
    static let executionBytes = executionEntries * MemoryLayout<ExecutionTLBEntry>.stride
    static let pageMask: UInt64 = ~0xFFF

    static let kernel: UInt32 = 0, kernelWithUser: UInt32 = 1, user: UInt32 = 2
    /// User mode with alignment checks: never filled, so that every access takes the slow path that checks.
    static let userAligned: UInt32 = 3

    /// A tag that no access which looks at the entry for `linear` compares equal to: it belongs two entries
    /// further on, and an access that crosses a page ends one entry further on.
    @inline(__always) static func invalidTag(_ linear: UInt64) -> UInt64 {
        (((linear >> 12) &+ 2) & UInt64(entries - 1)) << 12
    }
}

extension CPU {
    /// The data entry for `linear` in the TLB that starts at `tlb`.
    @inline(__always) static func entry(_ tlb: UInt, _ linear: UInt64) -> UnsafeMutablePointer<TLBEntry> {
        let index = UInt(truncatingIfNeeded: linear >> 12) & UInt(TLB.entries - 1)
        // SAFETY: `tlb` is a context of this vCPU's TLB allocation; the index is masked to its size.
        return unsafe UnsafeMutablePointer<TLBEntry>(bitPattern: tlb &+ index &* 32).unsafelyUnwrapped
    }

    @inline(__always) func executionEntry(_ linear: UInt64) -> UnsafeMutablePointer<ExecutionTLBEntry> {
        let index = UInt(truncatingIfNeeded: linear >> 12) & UInt(TLB.executionEntries - 1)
        // SAFETY: as for `entry`.
        return unsafe UnsafeMutablePointer<ExecutionTLBEntry>(bitPattern: s.executionTLB &+ index &* 16)
            .unsafelyUnwrapped
    }

    /// The window that `context` uses: contexts 1 and 2 have one for each address space. A trial has one of
    /// its own.
    @inline(__always) func window(_ context: UInt32) -> Int {
        if s.inTrial { return StateWindows.trial }
        switch context {
        case TLB.kernel: return 0
        case TLB.userAligned: return 1
        default: return 1 &+ Int(s.slot) &* 2 &+ Int(context)
        }
    }

    /// Address of the first entry of window `number`.
    @inline(__always) func windowBase(_ number: Int) -> UInt {
        address &+ UInt(StateWindows.stateSize) &+ UInt(number) &* UInt(StateWindows.stride)
    }

    /// Address of the first entry of `context`.
    @inline(__always) func tlbBase(_ context: UInt32) -> UInt { windowBase(window(context)) }

    /// Remembers that the entry for `linear` in `context` is filled, for the next flush. `sizeShift`: of the
    /// page that it is a part of.
    @inline(__always) func noteUse(_ context: UInt32, _ linear: UInt64, sizeShift: UInt8) {
        s.fillCount &+= 1
        if sizeShift > 12 {
            s.tlbLarge[window(context)] |= Self.largeRegion(linear)
            if sizeShift == 30 { s.tlbGiant |= 1 &<< UInt32(window(context)) }
        }
        let chunk = (linear >> 12) & UInt64(TLB.entries - 1) / UInt64(TLB.entries / 64)
        // SAFETY: `window` gives numbers below `StateWindows.count`.
        unsafe s.tlbUsed[unchecked: window(context)] |= 1 &<< chunk
    }

    @inline(__always) func noteExecutionUse(_ linear: UInt64) {
        s.executionUsed |=
            1 &<< ((linear >> 12) & UInt64(TLB.executionEntries - 1) / UInt64(TLB.executionEntries / 64))
    }

    /// Calls `body` with each entry of window `number` that may be filled, and the tag that makes it invalid.
    @inline(__always)
    func forEachUsedEntry(
        _ number: Int, _ body: (UnsafeMutablePointer<TLBEntry>, UInt64) -> Void
    ) {
        let chunk = TLB.entries / 64
        var used = s.tlbUsed[number]
        let base = windowBase(number)
        while used != 0 {
            let first = used.trailingZeroBitCount * chunk
            used &= used &- 1
            for slot in first..<(first + chunk) {
                // SAFETY: inside the window's entries.
                unsafe body(
                    UnsafeMutablePointer<TLBEntry>(bitPattern: base &+ UInt(slot) &* 32).unsafelyUnwrapped,
                    TLB.invalidTag(UInt64(slot) << 12))
            }
        }
    }

    /// One of 64 bits for the 4 MiB around `linear`, by which INVLPG finds out that a window may hold parts
    /// of a larger page. The lower half of the address space has 32 of its own.
    @inline(__always) private static func largeRegion(_ linear: UInt64) -> UInt64 {
        1 &<< ((linear >> 22 & 31) | (linear >> 63) << 5)
    }

    /// INVLPG of one part of a larger page forgets the others too, whatever the tables say by now (SDM vol. 3
    /// §4.10.2.3, §4.10.4.1).
    private func flushLargeParts(_ number: Int, _ linear: UInt64) {
        let isGiant = s.tlbGiant >> UInt32(number) & 1 != 0
        guard isGiant || s.tlbLarge[number] & Self.largeRegion(linear) != 0 else { return }
        let shift: UInt64 = isGiant ? 30 : 22
        forEachUsedEntry(number) { entry, invalid in
            guard unsafe (entry.pointee.readTag ^ linear) >> shift == 0 else { return }
            unsafe entry.pointee.readTag = invalid
            unsafe dropPermission(entry, invalid)
        }
    }

    /// Forgets what window `number` holds, branch targets included.
    func flushWindow(_ number: Int) {
        flushData(number)
        flushTargets(number)
    }

    private func flushData(_ number: Int) {
        if s.hasOthers { atomicMemoryFence(ordering: .sequentiallyConsistent) }
        forEachUsedEntry(number) { entry, invalid in
            unsafe entry.pointee.readTag = invalid
            unsafe dropPermission(entry, invalid, isFenced: true)
        }
        s.tlbUsed[number] = 0
        s.tlbLarge[number] = 0
        s.tlbGiant &= ~(1 &<< UInt32(number))
    }

    /// Forgets the translations for fetches whose tags `which` names.
    private func flushFetches(_ which: (UInt64) -> Bool) {
        let chunk = TLB.executionEntries / 64
        var used = s.executionUsed
        while used != 0 {
            let first = used.trailingZeroBitCount * chunk
            used &= used &- 1
            for slot in first..<(first + chunk) {
                // SAFETY: inside the allocation of `TLB.executionBytes`.
                let entry = unsafe UnsafeMutablePointer<ExecutionTLBEntry>(
                    bitPattern: s.executionTLB &+ UInt(slot) &* 16
                ).unsafelyUnwrapped
                if unsafe which(entry.pointee.tag) { unsafe entry.pointee.tag = TLB.invalid }
            }
        }
    }

    /// Forgets every translation, global ones too: always allowed (SDM vol. 3 §4.10.2). Only the parts that
    /// were filled since the last time are visited.
    func flushTLB() {
        s.flushCount &+= 1
        for number in 0..<StateWindows.count where s.tlbUsed[number] | s.targetsUsed[number] != 0 {
            flushWindow(number)
        }
        flushFetches { _ in true }
        s.executionUsed = 0
        s.localKernelCount = 0
        s.codeIsLocal = false
        s.staleReturns = 7
        s.endBlock = true
        s.linkSlot = 0
    }

    /// Forgets the translations of address space `slot` that are not global.
    func flushSlot(_ slot: Int) {
        s.flushCount &+= 1
        flushWindow(2 + slot * 2)
        flushWindow(3 + slot * 2)
        // Fetches by user code have a new tag from now on.
        s.lastUserTag &+= 1
        if s.lastUserTag > 0xFFF {
            flushFetches { $0 & 0xFFF != 0 }
            s.lastUserTag = UInt64(StateWindows.slots)
            for other in 0..<StateWindows.slots { s.userTags[other] = UInt64(other + 1) }
        } else {
            s.userTags[slot] = s.lastUserTag
        }
        s.staleReturns |= 2
        s.endBlock = true
        s.linkSlot = 0
    }

    /// A supervisor translation of `linear` that is not global is about to be cached.
    @inline(__always) func noteLocalKernel(_ linear: UInt64) {
        if s.localKernelCount < CPUState.localKernelRoom {
            s.localKernel[Int(s.localKernelCount)] = linear
        }
        s.localKernelCount = min(s.localKernelCount &+ 1, CPUState.localKernelRoom + 1)
    }

    /// Forgets supervisor translations that are not global. Linux has a few, and thousands of changes of
    /// address space, while it patches its code: all others, its targets of branches and its return addresses
    /// stay.
    func flushLocalKernel() {
        let count = s.localKernelCount
        guard count != 0 else { return }
        s.localKernelCount = 0
        if s.codeIsLocal {
            flushWindow(0)
            flushFetches { $0 & 0xFFF == 0 }
            s.staleReturns |= 5
        } else if count <= CPUState.localKernelRoom {
            for index in 0..<Int(count) {
                let linear = s.localKernel[index]
                let entry = unsafe Self.entry(windowBase(0), linear)
                unsafe entry.pointee.readTag = TLB.invalidTag(linear)
                unsafe dropPermission(entry, TLB.invalidTag(linear))
            }
        } else {
            flushData(0)
        }
    }

    /// INVLPG: forgets the translations of one linear address, in all address spaces.
    func flushPage(_ linear: UInt64) {
        for number in 0..<StateWindows.count where s.tlbUsed[number] != 0 {
            flushLargeParts(number, linear)
            let entry = unsafe Self.entry(windowBase(number), linear)
            unsafe entry.pointee.readTag = TLB.invalidTag(linear)
            unsafe dropPermission(entry, TLB.invalidTag(linear))
        }
        unsafe executionEntry(linear).pointee.tag = TLB.invalid
        flushTargets(ofPage: linear)
        if owner.largeCode.contains(linear) { flushCodeMappings() }
        if linear >> 63 != 0 {
            s.staleReturns |= 1
            owner.translations?.cutFarLinks(to: linear)
        } else {
            s.staleReturns |= 3
        }
        s.endBlock = true
        s.linkSlot = 0
    }

    /// Forgets all that is known about where code is mapped.
    private func flushCodeMappings() {
        flushFetches { _ in true }
        s.executionUsed = 0
        flushTargets()
        s.staleReturns = 7
    }

    /// Forgets permission to store to the guest-physical page at `physical`, which now holds decoded code.
    /// Returns whether there was any.
    @discardableResult
    func flushWrites(toPhysicalPage physical: UInt64) -> Bool {
        let host = hostPage(physical)
        guard host != 0 else { return false }
        var found = false
        for number in 0..<StateWindows.count where s.tlbUsed[number] != 0 {
            forEachUsedEntry(number) { entry, invalid in
                if unsafe entry.pointee.host == host, unsafe entry.pointee.writeTag != invalid {
                    unsafe entry.pointee.writeTag = invalid
                    found = true
                }
            }
        }
        return found
    }

    /// The same for all pages that hold decoded code; what was stored to them counts.
    func flushWritesToCode() {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        for number in 0..<StateWindows.count where s.tlbUsed[number] != 0 {
            forEachUsedEntry(number) { entry, invalid in
                if unsafe entry.pointee.writeTag != invalid, unsafe noteStoreToCode(entry) {
                    unsafe entry.pointee.writeTag = invalid
                }
            }
        }
    }

    /// Takes the permission to store out of `entry`. It may be the only trace of stores to a page that
    /// somebody has decoded code from since: they count now.
    @inline(__always)
    func dropPermission(
        _ entry: UnsafeMutablePointer<TLBEntry>, _ invalid: UInt64, isFenced: Bool = false
    ) {
        if s.hasOthers, unsafe entry.pointee.writeTag != invalid {
            // Whoever marks the page after the look finds in memory what was stored before it.
            if !isFenced { atomicMemoryFence(ordering: .sequentiallyConsistent) }
            _ = unsafe noteStoreToCode(entry)
        }
        unsafe entry.pointee.writeTag = invalid
    }

    /// Notes a store to the page of `entry` if that holds decoded code. A fence is behind what was stored.
    @inline(never)
    private func noteStoreToCode(_ entry: UnsafeMutablePointer<TLBEntry>) -> Bool {
        let host = unsafe entry.pointee.host
        for region in owner.memoryMap where host &- region.host < UInt(region.size) {
            let offset = UInt64(host &- region.host)
            guard owner.pages.word(region.firstPage + Int(offset >> 12)) & PageMap.codeBit != 0 else {
                return false
            }
            noteStore(region.start &+ offset, region)
            return true
        }
        return false
    }

    /// Selects the TLB for the current privilege, SMAP and AC. Call when any of them changed.
    func updateTLBContext() {
        let context: UInt32
        if s.cpl == 3 {
            let isChecked =
                s.cr0 & CR0.alignmentMask != 0 && s.otherFlags & RFlags.alignmentCheck.rawValue != 0
            context = isChecked ? TLB.userAligned : TLB.user
        } else if s.cr4 & CR4.supervisorAccessPrevention != 0,
            s.otherFlags & RFlags.alignmentCheck.rawValue == 0
        {
            context = TLB.kernel
        } else {
            context = TLB.kernelWithUser
        }
        s.tlb = tlbBase(context)
        s.tlbContext = context
        selectTargets(window(context))
    }
}
