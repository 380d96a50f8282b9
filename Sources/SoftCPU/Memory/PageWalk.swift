import GuestMemory
import Synchronization
import X86Architecture

/// What an access needs from the page tables.
struct PageAccess: OptionSet, BitwiseCopyable {
    let rawValue: UInt8
    static let write = PageAccess(rawValue: 1)
    static let fetch = PageAccess(rawValue: 2)
    /// CPL 3.
    static let user = PageAccess(rawValue: 4)
    /// A supervisor access that may touch user pages under SMAP (RFLAGS.AC, explicit accesses).
    static let smapAllowed = PageAccess(rawValue: 8)
}

/// The outcome of a walk.
struct Translation: BitwiseCopyable {
    /// Guest-physical address of the 4 KiB page.
    var page: UInt64
    /// Stores are allowed in this context and the leaf's dirty bit is set.
    var storable: Bool
    /// The translation holds in all address spaces.
    var isGlobal = false
    /// Of the page that the tables name, as a power of two: the 4 KiB may be a part of it.
    var sizeShift: UInt8 = 12
}

/// Page-table entry bits (SDM vol. 3 §4.5).
private enum Entry {
    static let present: UInt64 = 1, writable: UInt64 = 2, user: UInt64 = 4
    static let accessed: UInt64 = 1 << 5, dirty: UInt64 = 1 << 6, large: UInt64 = 1 << 7
    static let global: UInt64 = 1 << 8
    static let noExecute: UInt64 = 1 << 63
    /// Physical-address bits 12..47: the model has 48.
    static let address: UInt64 = 0x0000_FFFF_FFFF_F000
    /// Bits 48..51 are reserved with 48 physical-address bits.
    static let reservedHigh: UInt64 = 0x000F_0000_0000_0000
}

/// The walk in progress: permissions accumulate from the root to the leaf.
private struct Walk {
    let linear: UInt64
    let access: PageAccess
    var permissions = Entry.writable | Entry.user
    var noExecute = false
    /// What the leaf's protection key denies.
    var denial: ProtectionKeys.Denial = []
}

extension CPU {
    /// Translates `linear` for `access`, setting accessed and dirty bits as the processor does.
    /// - Throws: #PF with CR2 set.
    func translate(_ linear: UInt64, _ access: PageAccess) throws(Fault) -> Translation {
        guard s.cr0 & CR0.paging != 0 else {
            return Translation(page: linear & TLB.pageMask & s.linearMask, storable: true)
        }
        if s.cr4 & CR4.physicalAddressExtension == 0 { return try walk32(linear, access) }
        if isLongMode {
            return try walk64(
                linear, access, table: s.cr3 & Entry.address, shift: 39,
                permissions: Walk(linear: linear, access: access))
        }
        let index = Int((linear >> 30) & 3)
        let entry = s.pdpte[index]
        guard entry & Entry.present != 0 else { throw pageFault(linear, access, present: false) }
        return try walk64(
            linear, access, table: entry & Entry.address, shift: 21,
            permissions: Walk(linear: linear, access: access))
    }

    /// A page fault with its error code; sets CR2.
    func pageFault(
        _ linear: UInt64, _ access: PageAccess, present: Bool, reserved: Bool = false, byKey: Bool = false
    ) -> Fault {
        s.cr2 = linear
        var code: UInt32 = present ? PageFaultError.present : 0
        if access.contains(.write) { code |= PageFaultError.write }
        if access.contains(.user) { code |= PageFaultError.user }
        if reserved { code |= PageFaultError.reserved | PageFaultError.present }
        if byKey { code |= PageFaultError.protectionKey }
        let fetchReported =
            s.efer & EFER.noExecuteEnable != 0 && s.cr4 & CR4.physicalAddressExtension != 0
            || s.cr4 & CR4.supervisorExecutionPrevention != 0
        if access.contains(.fetch), fetchReported { code |= PageFaultError.fetch }
        return Fault(.pageFault, code)
    }

    /// PAE and 4-level tables from the level whose index starts at bit `shift`.
    private func walk64(
        _ linear: UInt64, _ access: PageAccess, table: UInt64, shift: UInt64, permissions start: Walk
    ) throws(Fault) -> Translation {
        var walk = start
        var table = table
        var shift = shift
        while true {
            let address = table | ((linear >> shift) & 0x1FF) << 3
            var entry = readPhysical(UInt64.self, address)
            guard entry & Entry.present != 0 else { throw pageFault(linear, access, present: false) }
            let isLeaf =
                shift == 12 || (entry & Entry.large != 0 && shift <= 30 && (shift == 21 || isLongMode))
            var reserved = Entry.reservedHigh
            if s.efer & EFER.noExecuteEnable == 0 { reserved |= Entry.noExecute }
            if !isLongMode { reserved |= 0x7FF0_0000_0000_0000 }
            if isLeaf, shift > 12 { reserved |= ((1 << shift) - 1) & 0x0000_FFFF_FFFF_E000 }
            if shift == 39 { reserved |= Entry.large }
            guard entry & reserved == 0 else {
                throw pageFault(linear, access, present: true, reserved: true)
            }
            walk.permissions &= entry
            if entry & Entry.noExecute != 0 { walk.noExecute = true }
            if isLeaf {
                if s.cr4 & ProtectionKeys.controls != 0 {
                    let isUserPage = walk.permissions & Entry.user != 0
                    walk.denial = keyDenial(entry, isUserPage: isUserPage)
                }
                let writable = try checkPermissions(walk)
                let wanted = Entry.accessed | (access.contains(.write) ? Entry.dirty : 0)
                entry = setBits(UInt64.self, wanted, in: entry, at: address)
                let base = entry & Entry.address & ~((1 << shift) - 1)
                let page = base | linear & ((1 << shift) - 1) & TLB.pageMask
                return Translation(
                    page: page, storable: writable && entry & Entry.dirty != 0, isGlobal: isGlobal(entry),
                    sizeShift: UInt8(truncatingIfNeeded: shift))
            }
            _ = setBits(UInt64.self, Entry.accessed, in: entry, at: address)
            table = entry & Entry.address
            shift -= 9
        }
    }

    /// 32-bit paging with PSE (SDM vol. 3 §4.3); 4 MiB pages reach 40 physical bits.
    private func walk32(_ linear: UInt64, _ access: PageAccess) throws(Fault) -> Translation {
        var walk = Walk(linear: linear, access: access)
        let directory = (s.cr3 & 0xFFFF_F000) | ((linear >> 22) & 0x3FF) << 2
        var entry = UInt64(readPhysical(UInt32.self, directory))
        guard entry & Entry.present != 0 else { throw pageFault(linear, access, present: false) }
        walk.permissions &= entry
        let dirty = access.contains(.write) ? Entry.dirty : 0
        if entry & Entry.large != 0, s.cr4 & CR4.pageSizeExtensions != 0 {
            guard entry & (1 << 21) == 0 else {
                throw pageFault(linear, access, present: true, reserved: true)
            }
            let writable = try checkPermissions(walk)
            entry = UInt64(
                setBits(UInt32.self, UInt32(Entry.accessed | dirty), in: UInt32(entry), at: directory))
            let base = (entry & 0xFFC0_0000) | ((entry >> 13) & 0xFF) << 32
            return Translation(
                page: base | linear & 0x3F_F000, storable: writable && entry & Entry.dirty != 0,
                isGlobal: isGlobal(entry), sizeShift: 22)
        }
        _ = setBits(UInt32.self, UInt32(Entry.accessed), in: UInt32(entry), at: directory)
        let table = (entry & 0xFFFF_F000) | ((linear >> 12) & 0x3FF) << 2
        var leaf = UInt64(readPhysical(UInt32.self, table))
        guard leaf & Entry.present != 0 else { throw pageFault(linear, access, present: false) }
        walk.permissions &= leaf
        let writable = try checkPermissions(walk)
        leaf = UInt64(setBits(UInt32.self, UInt32(Entry.accessed | dirty), in: UInt32(leaf), at: table))
        return Translation(
            page: leaf & 0xFFFF_F000, storable: writable && leaf & Entry.dirty != 0, isGlobal: isGlobal(leaf))
    }

    private func isGlobal(_ leaf: UInt64) -> Bool {
        leaf & Entry.global != 0 && s.cr4 & CR4.pageGlobalEnable != 0
    }

    /// Access rights of a complete walk (SDM vol. 3 §4.6.1). Returns whether this context may store.
    private func checkPermissions(_ walk: Walk) throws(Fault) -> Bool {
        let access = walk.access
        let userPage = walk.permissions & Entry.user != 0
        let writablePage = walk.permissions & Entry.writable != 0
        let isUser = access.contains(.user)
        let obeysWrites = isUser || s.cr0 & CR0.writeProtect != 0
        let keyDeniesWrites = obeysWrites && walk.denial.contains(.write)
        let writable = writablePage || !obeysWrites
        var allowed = userPage || !isUser
        var byKey = false
        if access.contains(.fetch) {
            if walk.noExecute { allowed = false }
            if !isUser, userPage, s.cr4 & CR4.supervisorExecutionPrevention != 0 { allowed = false }
        } else {
            if !isUser, userPage, s.cr4 & CR4.supervisorAccessPrevention != 0, !access.contains(.smapAllowed)
            {
                allowed = false
            }
            if access.contains(.write), !writable { allowed = false }
            byKey = walk.denial.contains(.access) || (access.contains(.write) && keyDeniesWrites)
        }
        guard allowed, !byKey else { throw pageFault(walk.linear, access, present: true, byKey: byKey) }
        return writable && !keyDeniesWrites
    }

    /// Atomically sets `bits` in a page-table entry that was read as `seen`; returns the entry's value then.
    /// When the entry changed meanwhile, its new value gets the bits only if it is still present; the walk
    /// goes on with what it read first, as the processor may.
    private func setBits<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _: T.Type, _ bits: T, in seen: T, at address: UInt64
    ) -> T {
        guard seen & bits != bits else { return seen }
        updatePhysical(T.self, address) { $0 & 1 != 0 ? $0 | bits : $0 }
        return seen | bits
    }
}
