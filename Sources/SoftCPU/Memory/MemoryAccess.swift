import GuestMemory
import X86Architecture

/// Guest-virtual loads and stores. The fast path is one compare against the TLB; the tag of the *last* byte's
/// page is compared, so that an access that crosses a page goes the slow way by itself.
extension CPU {
    /// Address of the last byte's page.
    @inline(__always) static func lastPage(_ linear: UInt64, _ size: Int) -> UInt64 {
        (linear &+ UInt64(size &- 1)) & TLB.pageMask
    }

    @inline(__always)
    func load<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _: T.Type, _ linear: UInt64, _ segment: UInt8 = 3
    ) throws(Fault) -> T {
        let entry = unsafe Self.entry(s.tlb, linear)
        if unsafe entry.pointee.readTag == Self.lastPage(linear, MemoryLayout<T>.size) {
            let host = unsafe entry.pointee.hostAddress(linear)
            // SAFETY: the tag proves that all bytes lie in a mapped page.
            return unsafe UnsafeRawPointer(bitPattern: host).unsafelyUnwrapped.loadUnaligned(as: T.self)
        }
        return T(truncatingIfNeeded: try loadSlow(linear, MemoryLayout<T>.size, segment, s.tlbContext))
    }

    @inline(__always)
    func store<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _ value: T, _ linear: UInt64, _ segment: UInt8 = 3
    ) throws(Fault) {
        let entry = unsafe Self.entry(s.tlb, linear)
        if unsafe entry.pointee.writeTag == Self.lastPage(linear, MemoryLayout<T>.size) {
            let host = unsafe entry.pointee.hostAddress(linear)
            // SAFETY: the tag proves that all bytes lie in a mapped, writable page.
            unsafe UnsafeMutableRawPointer(bitPattern: host).unsafelyUnwrapped.storeBytes(
                of: value, as: T.self)
            return
        }
        try storeSlow(UInt64(truncatingIfNeeded: value), linear, MemoryLayout<T>.size, segment, s.tlbContext)
    }

    /// Host address of `size` writable bytes at `linear`, or 0 when they are not one mapped run (a device,
    /// ROM, a page crossing): then use loads and stores. Checks and faults like a store.
    @inline(__always)
    func writableHost(_ linear: UInt64, _ size: Int, _ segment: UInt8 = 3) throws(Fault) -> UInt {
        let entry = unsafe Self.entry(s.tlb, linear)
        if unsafe entry.pointee.writeTag == Self.lastPage(linear, size) {
            return unsafe entry.pointee.hostAddress(linear)
        }
        return try writableHostSlow(linear, size, segment)
    }

    /// Read, change, write. With `locked`, atomically as seen by other vCPUs. Returns the old value.
    @inline(__always) @discardableResult
    func update<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _: T.Type, _ linear: UInt64, _ segment: UInt8 = 3, locked: Bool = false, _ change: (T) -> T
    ) throws(Fault) -> T {
        let host = try writableHost(linear, MemoryLayout<T>.size, segment)
        if host == 0 { return try updateSplit(T.self, linear, segment, locked, change) }
        if locked { return Self.compareAndSwap(host, change) }
        // SAFETY: `writableHost` proved the bytes.
        let pointer = unsafe UnsafeMutableRawPointer(bitPattern: host).unsafelyUnwrapped
        let old = unsafe pointer.loadUnaligned(as: T.self)
        unsafe pointer.storeBytes(of: change(old), as: T.self)
        return old
    }

    /// Reads, changes and writes what is not one mapped run. Others that change the same bytes, locked or by
    /// a plain store, take the same lock; a store to one page's part of them alone does not.
    @inline(never)
    private func updateSplit<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _: T.Type, _ linear: UInt64, _ segment: UInt8, _ locked: Bool, _ change: (T) -> T
    ) throws(Fault) -> T {
        var old: T = 0
        func access() throws(Fault) {
            old = try load(T.self, linear, segment)
            try storeSlow(
                UInt64(truncatingIfNeeded: change(old)), linear, MemoryLayout<T>.size, segment, s.tlbContext,
                isLocked: true)
        }
        if locked, owner.vcpuCount > 1 {
            try owner.engine.splitLock.withLock { _ throws(Fault) in try access() }
        } else {
            try access()
        }
        return old
    }

    // MARK: Implicit supervisor accesses (descriptor tables, TSS): never user, SMAP always applies

    var supervisorContext: UInt32 {
        s.cr4 & CR4.supervisorAccessPrevention != 0 ? TLB.kernel : TLB.kernelWithUser
    }

    func loadSystem<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(_: T.Type, _ linear: UInt64)
        throws(Fault) -> T
    {
        T(truncatingIfNeeded: try loadSlow(linear & s.linearMask, MemoryLayout<T>.size, 3, supervisorContext))
    }

    func storeSystem<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(_ value: T, _ linear: UInt64)
        throws(Fault)
    {
        try storeSlow(
            UInt64(truncatingIfNeeded: value), linear & s.linearMask, MemoryLayout<T>.size, 3,
            supervisorContext)
    }

    // MARK: Slow paths

    /// Rights of `context`, with `more`.
    private func pageAccess(_ context: UInt32, _ more: PageAccess) -> PageAccess {
        switch context {
        case TLB.user, TLB.userAligned: return more.union(.user)
        case TLB.kernelWithUser: return more.union(.smapAllowed)
        default: return more
        }
    }

    /// In long mode a linear address must be canonical: #SS(0) through SS, else #GP(0).
    @inline(__always) func checkCanonical(_ linear: UInt64, _ segment: UInt8) throws(Fault) {
        guard isLongMode else { return }
        let high = Int64(bitPattern: linear) >> 47
        if high != 0, high != -1 { throw segment == 2 ? .stack() : .protection() }
    }

    /// Where an access goes on behind the page that it starts in.
    private func secondPage(_ linear: UInt64, _ inPage: Int, _ segment: UInt8) throws(Fault) -> UInt64 {
        let second = (linear &+ UInt64(inPage)) & s.linearMask
        try checkCanonical(second, segment)
        // The fast path checks no limit in flat segments; theirs is 4 GiB.
        if second == 0, !is64Bit, s.flatSegments >> UInt32(segment & 7) & 1 != 0,
            s.effectiveBase[Int(segment & 7)] == 0
        {
            throw segment == 2 ? .stack() : .protection()
        }
        return second
    }

    /// #AC (SDM vol. 3 §6.15, interrupt 17) for data of 2, 4 or 8 bytes.
    private func checkAlignment(_ linear: UInt64, _ size: Int, _ context: UInt32) throws(Fault) {
        guard context == TLB.userAligned, size & (size &- 1) == 0, size <= 8 else { return }
        guard linear & UInt64(size &- 1) == 0 else { throw Fault(.alignmentCheck) }
    }

    @inline(never)
    func loadSlow(_ linear: UInt64, _ size: Int, _ segment: UInt8, _ context: UInt32) throws(Fault) -> UInt64
    {
        try checkCanonical(linear, segment)
        try checkAlignment(linear, size, context)
        let inPage = Int(0x1000 &- (linear & 0xFFF))
        if watchesAccesses { noteDataBreakpoints(linear, size, isWrite: false) }
        if size <= inPage { return try loadInPage(linear, size, context) }
        let second = try secondPage(linear, inPage, segment)
        let low = try loadBytes(linear, inPage, context)
        let high = try loadBytes(second, size - inPage, context)
        return low | high << UInt64(inPage * 8)
    }

    /// - Parameter isLocked: the caller holds the lock for accesses across pages.
    @inline(never)
    func storeSlow(
        _ value: UInt64, _ linear: UInt64, _ size: Int, _ segment: UInt8, _ context: UInt32,
        isLocked: Bool = false
    ) throws(Fault) {
        try checkCanonical(linear, segment)
        try checkAlignment(linear, size, context)
        let inPage = Int(0x1000 &- (linear & 0xFFF))
        if size <= inPage {
            try storeInPage(value, linear, size, context)
        } else {
            let second = try secondPage(linear, inPage, segment)
            // Both pages must allow the store before either changes.
            let access = pageAccess(context, .write)
            _ = try translate(linear, access)
            _ = try translate(second, access)
            func storeParts() throws(Fault) {
                try storeBytes(value, linear, inPage, context)
                try storeBytes(value >> UInt64(inPage * 8), second, size - inPage, context)
            }
            if isLocked || owner.vcpuCount == 1 {
                try storeParts()
            } else {
                // It must not fall between the load and the store of a locked operation.
                try owner.engine.splitLock.withLock { _ throws(Fault) in try storeParts() }
            }
        }
        if watchesAccesses { noteDataBreakpoints(linear, size, isWrite: true) }
    }

    /// `count` bytes (1...7) of one page, one by one. The first fills the TLB for the others.
    private func loadBytes(_ linear: UInt64, _ count: Int, _ context: UInt32) throws(Fault) -> UInt64 {
        var value: UInt64 = 0
        let entry = unsafe Self.entry(tlbBase(context), linear)
        for index in 0..<UInt64(count) {
            let byte = linear &+ index
            if unsafe entry.pointee.readTag == byte & TLB.pageMask {
                value |= unsafe Self.loadHost(entry.pointee.hostAddress(byte), 1) << (index * 8)
            } else {
                value |= try loadInPage(byte, 1, context) << (index * 8)
            }
        }
        return value
    }

    private func storeBytes(_ value: UInt64, _ linear: UInt64, _ count: Int, _ context: UInt32) throws(Fault)
    {
        let entry = unsafe Self.entry(tlbBase(context), linear)
        for index in 0..<UInt64(count) {
            let byte = linear &+ index, part = (value >> (index * 8)) & 0xFF
            if unsafe entry.pointee.writeTag == byte & TLB.pageMask {
                unsafe Self.storeHost(entry.pointee.hostAddress(byte), 1, part)
            } else {
                try storeInPage(part, byte, 1, context)
            }
        }
    }

    /// A load that stays in one page, and fills the TLB.
    private func loadInPage(_ linear: UInt64, _ size: Int, _ context: UInt32) throws(Fault) -> UInt64 {
        let found = try translate(linear, pageAccess(context, []))
        let physical = found.page | linear & 0xFFF
        guard let region = owner.region(at: found.page) else {
            let host = directPage(found.page, storing: false)
            guard host != 0 else { return readDevice(physical, size) }
            fillDirect(linear, context, host, found, storing: false)
            return Self.loadHost(host &+ UInt(linear & 0xFFF), size)
        }
        let host = visiblePage(region.host &+ UInt(found.page &- region.start))
        fill(linear, context, host, found, region)
        return Self.loadHost(host &+ UInt(linear & 0xFFF), size)
    }

    private func storeInPage(_ value: UInt64, _ linear: UInt64, _ size: Int, _ context: UInt32) throws(Fault)
    {
        let found = try translate(linear, pageAccess(context, .write))
        let physical = found.page | linear & 0xFFF
        guard let region = owner.region(at: found.page) else {
            let host = directPage(found.page, storing: true)
            guard host != 0 else { return writeDevice(physical, size, value) }
            Self.storeHost(host &+ UInt(linear & 0xFFF), size, value)
            return fillDirect(linear, context, host, found, storing: true)
        }
        // Stores to ROM are lost, as on the bus.
        guard region.isRAM else { return }
        let host = visiblePage(region.host &+ UInt(found.page &- region.start))
        Self.storeHost(host &+ UInt(linear & 0xFFF), size, value)
        if isBesideCode(linear, size, found.page, region) { return }
        noteStore(found.page, region)
        fill(linear, context, host, found, region)
    }

    @inline(never)
    private func writableHostSlow(_ linear: UInt64, _ size: Int, _ segment: UInt8) throws(Fault) -> UInt {
        try checkCanonical(linear, segment)
        try checkAlignment(linear, size, s.tlbContext)
        // A run of elements: they are checked one by one.
        if size > 8, s.tlbContext == TLB.userAligned { return 0 }
        let inPage = Int(0x1000 &- (linear & 0xFFF))
        let access = pageAccess(s.tlbContext, .write)
        // The whole operand must be canonical before its first page counts.
        let second = size > inPage ? try secondPage(linear, inPage, segment) : 0
        let found = try translate(linear, access)
        if size > inPage {
            _ = try translate(second, access)
            return 0
        }
        guard let region = owner.region(at: found.page), region.isRAM, !watchesAccesses else { return 0 }
        let host = visiblePage(region.host &+ UInt(found.page &- region.start))
        if isBesideCode(linear, size, found.page, region) { return host &+ UInt(linear & 0xFFF) }
        willStore(linear, found.page, region)
        fill(linear, s.tlbContext, host, found, region, willStore: true)
        return host &+ UInt(linear & 0xFFF)
    }

    /// For translated code: what leads from `linear` to its host address, for `size` bytes in one page; the
    /// page is remembered, unless it holds code beside them. Nil when an access cannot go there directly.
    func fillPage(_ linear: UInt64, _ size: Int, write: Bool) throws(Fault) -> UInt? {
        guard !watchesAccesses, s.tlbContext != TLB.userAligned else { return nil }
        try checkCanonical(linear, 3)
        let found = try translate(linear, pageAccess(s.tlbContext, write ? .write : []))
        guard let region = owner.region(at: found.page) else {
            let host = directPage(found.page, storing: write)
            guard host != 0, !write || found.storable else { return nil }
            fillDirect(linear, s.tlbContext, host, found, storing: write)
            return host &- UInt(truncatingIfNeeded: linear & TLB.pageMask)
        }
        let index = region.firstPage + Int((found.page &- region.start) >> 12)
        if write {
            guard found.storable, region.isRAM else { return nil }
            if owner.pages.word(index) & PageMap.codeBit != 0 {
                guard isBesideCode(linear, size, found.page, region) else { return nil }
                let host = region.host &+ UInt(found.page &- region.start)
                return host &- UInt(truncatingIfNeeded: linear & TLB.pageMask)
            }
            willStore(linear, found.page, region)
        }
        let host = visiblePage(region.host &+ UInt(found.page &- region.start))
        fill(linear, s.tlbContext, host, found, region, willStore: write)
        return host &- UInt(truncatingIfNeeded: linear & TLB.pageMask)
    }

    /// Notes a store to `page` that is still to come.
    private func willStore(_ linear: UInt64, _ page: UInt64, _ region: MemoryMapEntry) {
        // First: nothing may come between the note and the permission.
        unsafe dropPermission(Self.entry(tlbBase(s.tlbContext), linear), TLB.invalidTag(linear))
        noteStore(page, region)
    }

    /// Enters a translation. Stores stay on the slow path for ROM, clean pages, and pages with decoded code;
    /// everything does while data breakpoints are armed.
    /// - Parameter willStore: a store was noted that is still to come. Whoever decodes code from the page
    ///   since then announces it, and the permission will say that there was a store.
    private func fill(
        _ linear: UInt64, _ context: UInt32, _ host: UInt, _ found: Translation, _ region: MemoryMapEntry,
        willStore: Bool = false
    ) {
        guard !watchesAccesses, context != TLB.userAligned else { return }
        let entry = unsafe Self.entry(tlbBase(context), linear)
        let tag = linear & TLB.pageMask
        let index = region.firstPage + Int((found.page &- region.start) >> 12)
        let word = owner.pages.word(index)
        let storable = found.storable && region.isRAM && (willStore || word & PageMap.codeBit == 0)
        // What was translated from the page is stale. Whoever stored to it tells us, maybe only after we
        // stored to it too, unnoticed, and ran what we wrote.
        if storable, word >= PageMap.generationStep { owner.forgetOwnCode(inPage: index) }
        noteUse(context, linear, sizeShift: found.sizeShift)
        if context == TLB.kernel, !found.isGlobal { noteLocalKernel(linear) }
        if !willStore { unsafe dropPermission(entry, TLB.invalidTag(linear)) }
        unsafe entry.pointee = TLBEntry(
            readTag: tag, writeTag: storable ? tag : TLB.invalidTag(linear), addend: UInt64(host) &- tag,
            host: host)
    }

    @inline(__always) static func loadHost(_ host: UInt, _ size: Int) -> UInt64 {
        // SAFETY: the caller located `size` bytes in one mapped page.
        let pointer = unsafe UnsafeRawPointer(bitPattern: host).unsafelyUnwrapped
        switch size {
        case 1: return UInt64(unsafe pointer.load(as: UInt8.self))
        case 2: return UInt64(unsafe pointer.loadUnaligned(as: UInt16.self))
        case 4: return UInt64(unsafe pointer.loadUnaligned(as: UInt32.self))
        default: return unsafe pointer.loadUnaligned(as: UInt64.self)
        }
    }

    @inline(__always) static func storeHost(_ host: UInt, _ size: Int, _ value: UInt64) {
        // SAFETY: the caller located `size` writable bytes in one mapped page.
        let pointer = unsafe UnsafeMutableRawPointer(bitPattern: host).unsafelyUnwrapped
        switch size {
        case 1: unsafe pointer.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
        case 2: unsafe pointer.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
        case 4: unsafe pointer.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
        default: unsafe pointer.storeBytes(of: value, as: UInt64.self)
        }
    }

    // MARK: Runs, for string and vector operands

    /// Checks that `count` bytes (at most 4096) can be stored, without storing.
    func probeWrite(_ linear: UInt64, _ count: Int, _ segment: UInt8 = 3) throws(Fault) {
        try checkCanonical(linear, segment)
        let last = (linear &+ UInt64(count - 1)) & s.linearMask
        try checkCanonical(last, segment)
        let access = pageAccess(s.tlbContext, .write)
        _ = try translate(linear, access)
        if (last ^ linear) & TLB.pageMask != 0 { _ = try translate(last & TLB.pageMask, access) }
    }
}
