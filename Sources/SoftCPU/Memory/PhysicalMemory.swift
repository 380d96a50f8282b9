import CGate
import DeviceModel
import GuestMemory
import VCPUEngine
import X86Architecture

/// Guest-physical accesses by the engine itself: page tables, and the far end of every slow path.
extension CPU {
    /// The vCPU object behind this state. Not retained: it outlives its thread's run.
    @inline(__always) var owner: SoftVCPU {
        // SAFETY: set by SoftVCPU for its own lifetime.
        unsafe Unmanaged<SoftVCPU>.fromOpaque(UnsafeRawPointer(bitPattern: s.owner).unsafelyUnwrapped)
            ._withUnsafeGuaranteedRef { unsafe $0 }
    }

    /// Calls `body` with the owner, without counting a reference: that is slow for an object that others have
    /// weak references to.
    @inline(__always) func withOwner<T>(_ body: (SoftVCPU) -> T) -> T {
        // SAFETY: as above.
        unsafe Unmanaged<SoftVCPU>.fromOpaque(UnsafeRawPointer(bitPattern: s.owner).unsafelyUnwrapped)
            ._withUnsafeGuaranteedRef { unsafe body($0) }
    }

    /// Host address of the page at guest-physical `page`, or 0 when it is not memory.
    @inline(__always) func hostPage(_ page: UInt64) -> UInt {
        for region in owner.memoryMap where page &- region.start < region.size {
            return region.host &+ UInt(page &- region.start)
        }
        return 0
    }

    /// A naturally aligned load of page-table or descriptor data. Outside memory it reads as ones.
    func readPhysical<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(_: T.Type, _ address: UInt64)
        -> T
    {
        let host = hostPage(address & TLB.pageMask)
        guard host != 0 else {
            return T(truncatingIfNeeded: readDevice(address, MemoryLayout<T>.size))
        }
        // SAFETY: the page is mapped memory and a naturally aligned T does not leave it.
        return unsafe UnsafeRawPointer(bitPattern: host &+ UInt(address & 0xFFF)).unsafelyUnwrapped
            .loadUnaligned(as: T.self)
    }

    /// Atomically replaces a naturally aligned entry by `change` of it. Nothing happens outside RAM, nor in a
    /// trial.
    func updatePhysical<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _: T.Type, _ address: UInt64, _ change: (T) -> T
    ) {
        let page = address & TLB.pageMask
        guard !s.inTrial, let region = owner.region(at: page), region.isRAM else { return }
        let host = region.host &+ UInt(address &- region.start)
        _ = Self.compareAndSwap(host, change)
        noteStore(page, region)
    }

    /// Replaces the T at host address `host` by `change` of it, atomically; returns the old value.
    @inline(__always)
    static func compareAndSwap<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _ host: UInt, _ change: (T) -> T
    ) -> T {
        // SAFETY: the caller found `host` by a TLB entry or region that covers all of T.
        let pointer = unsafe UnsafeMutableRawPointer(bitPattern: host).unsafelyUnwrapped
        var old = unsafe pointer.loadUnaligned(as: T.self)
        while true {
            let new = change(old)
            let done: Int32
            switch MemoryLayout<T>.size {
            case 1:
                var expected = UInt8(truncatingIfNeeded: old)
                done = unsafe ospite_cas8(pointer, &expected, UInt8(truncatingIfNeeded: new))
                old = T(truncatingIfNeeded: expected)
            case 2:
                var expected = UInt16(truncatingIfNeeded: old)
                done = unsafe ospite_cas16(pointer, &expected, UInt16(truncatingIfNeeded: new))
                old = T(truncatingIfNeeded: expected)
            case 4:
                var expected = UInt32(truncatingIfNeeded: old)
                done = unsafe ospite_cas32(pointer, &expected, UInt32(truncatingIfNeeded: new))
                old = T(truncatingIfNeeded: expected)
            default:
                var expected = UInt64(truncatingIfNeeded: old)
                done = unsafe ospite_cas64(pointer, &expected, UInt64(truncatingIfNeeded: new))
                old = T(truncatingIfNeeded: expected)
            }
            if done != 0 { return old }
        }
    }

    /// A store reached guest-physical `page`: decoded code from it is stale.
    @inline(__always) func noteStore(_ page: UInt64, _ region: MemoryMapEntry) {
        let index = region.firstPage + Int((page &- region.start) >> 12)
        if s.inTrial {
            if owner.pages.word(index) & PageMap.codeBit != 0 { s.codeModified = true }
        } else if owner.pages.recordStore(index) {
            s.codeModified = true
            owner.codeLines.forget(index)
        }
    }

    /// Whether a store of `size` bytes at `linear` in guest-physical `page` need not be noted, though the
    /// page holds code: what is decoded does not rely on these bytes.
    @inline(__always)
    func isBesideCode(_ linear: UInt64, _ size: Int, _ page: UInt64, _ region: MemoryMapEntry) -> Bool {
        let index = region.firstPage + Int((page &- region.start) >> 12)
        guard !s.inTrial,
            owner.codeLines.isBesideCode(index, Int(linear & 0xFFF), size, word: owner.pages.word(index))
        else { return false }
        owner.pages.markDirty(index)
        return true
    }

    // MARK: Devices

    /// A load from an address that is not memory: the local APIC's page, or a device.
    func readDevice(_ address: UInt64, _ size: Int) -> UInt64 {
        if s.inTrial { return refuseDevice() }
        if address & TLB.pageMask == owner.apicPage {
            settleEndOfInterrupt()
            let word = owner.apic.readPage(offset: UInt32(address & 0xFFF), width: Self.width(size))
            return UInt64(word)
        }
        return owner.platform.memoryRead(address, width: Self.width(size))
    }

    /// What the store asks of this vCPU, an interrupt to itself for one, comes before its next instruction.
    func writeDevice(_ address: UInt64, _ size: Int, _ value: UInt64) {
        if s.inTrial { return _ = refuseDevice() }
        defer { if hasAttention { s.codeModified = true } }
        if address & TLB.pageMask == owner.apicPage {
            s.interruptHeld = true
            settleEndOfInterrupt()
            owner.apic.writePage(
                offset: UInt32(address & 0xFFF), width: Self.width(size),
                value: UInt32(truncatingIfNeeded: value))
            return
        }
        owner.platform.memoryWrite(address, width: Self.width(size), value: value)
    }

    static func width(_ size: Int) -> AccessWidth {
        switch size {
        case 1: return .byte
        case 2: return .word
        case 4: return .dword
        default: return .qword
        }
    }
}
