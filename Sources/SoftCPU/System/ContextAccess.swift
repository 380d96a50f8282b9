import X86Architecture

/// Accesses with the rights of a given TLB context instead of the current one, through that context's TLB.
extension CPU {
    @inline(__always)
    func load(_ linear: UInt64, _ size: UInt8, _ segment: UInt8, context: UInt32) throws(Fault) -> UInt64 {
        let entry = unsafe Self.entry(tlbBase(context), linear)
        if unsafe entry.pointee.readTag == Self.lastPage(linear, Int(size)) {
            // SAFETY: the tag proves that all bytes lie in a mapped page.
            return Self.loadHost(unsafe entry.pointee.hostAddress(linear), Int(size))
        }
        return try loadSlow(linear, Int(size), segment, context)
    }

    @inline(__always)
    func store(
        _ value: UInt64, _ linear: UInt64, _ size: UInt8, _ segment: UInt8, context: UInt32
    ) throws(Fault) {
        let entry = unsafe Self.entry(tlbBase(context), linear)
        if unsafe entry.pointee.writeTag == Self.lastPage(linear, Int(size)) {
            // SAFETY: the tag proves that all bytes lie in a mapped, writable page.
            let host = unsafe entry.pointee.hostAddress(linear)
            return Self.storeHost(host, Int(size), value)
        }
        try storeSlow(value, linear, Int(size), segment, context)
    }

    /// An implicit supervisor load from a system table. Long mode's tables lie in 64-bit space even while
    /// compatibility-mode code runs.
    func loadTable<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _: T.Type, _ linear: UInt64
    ) throws(Fault) -> T {
        let mask = s.linearMask
        defer { s.linearMask = mask }
        if isLongMode { s.linearMask = .max }
        let size = UInt8(MemoryLayout<T>.size)
        return T(
            truncatingIfNeeded: try load(
                linear & s.linearMask, size, UInt8(Segment.ds), context: supervisorContext))
    }

    func storeTable<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _ value: T, _ linear: UInt64
    ) throws(Fault) {
        let mask = s.linearMask
        defer { s.linearMask = mask }
        if isLongMode { s.linearMask = .max }
        try store(
            UInt64(truncatingIfNeeded: value), linear & s.linearMask, UInt8(MemoryLayout<T>.size),
            UInt8(Segment.ds), context: supervisorContext)
    }
}
