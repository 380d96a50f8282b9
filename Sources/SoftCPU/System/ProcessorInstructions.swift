import CGate
import X86Architecture

/// HLT, time-stamp reads, TLB and cache control (SDM vol. 2; AMD APM vol. 3).
extension CPU {
    func halt() throws(Fault) {
        try requirePrivileged()
        s.activity = .halted
        s.endBlock = true
        // The run loop looks at the activity with the interrupts; nothing after HLT may run before.
        requestAttention()
    }

    private func checkTimeStamp() throws(Fault) {
        guard s.cr4 & CR4.timeStampDisable == 0 || s.cpl == 0 else { throw .protection() }
    }

    func readTimeStamp() throws(Fault) {
        try checkTimeStamp()
        setPair(timeStampCounter)
    }

    func readTimeStampAndProcessor() throws(Fault) {
        try checkTimeStamp()
        setPair(timeStampCounter)
        setGPR(Register.rcx, s.tscAuxiliary & 0xFFFF_FFFF)
    }

    func readProcessorID(_ i: borrowing Instruction) throws(Fault) {
        try writeOperand(i, 0, s.tscAuxiliary & 0xFFFF_FFFF)
    }

    // MARK: Translations

    func invalidatePage(_ i: borrowing Instruction) throws(Fault) {
        try requirePrivileged()
        let offset = effectiveOffset(i)
        let linear = (s.effectiveBase[Int(i.segment & 7)] &+ offset) & s.linearMask
        // A non-canonical address is no error, and names no translation.
        if Self.isCanonical(linear) || !isLongMode { flushPage(linear) }
    }

    /// INVPCID: types 0..3 (SDM vol. 2).
    func invalidateContext(_ i: borrowing Instruction) throws(Fault) {
        try requirePrivileged()
        let type = try readOperand(i, 0)
        let start = try memoryAddress(i, 16)
        let low = try load(UInt64.self, start, i.segment)
        let linear = try load(UInt64.self, (start &+ 8) & s.linearMask, i.segment)
        guard type <= 3, low >> 12 == 0 || type >= 2 else { throw .protection() }
        if type < 2, s.cr4 & CR4.processContextIdentifiers == 0, low & 0xFFF != 0 { throw .protection() }
        switch type {
        case 0:
            guard Self.isCanonical(linear) else { throw .protection() }
            flushPage(linear)
        case 1: flushContext(low & 0xFFF)
        case 2: flushTLB()
        default: flushContexts()
        }
    }

    // MARK: Caches: coherent always, so only the checks remain

    /// INVD, WBINVD.
    func invalidateCaches() throws(Fault) { try requirePrivileged() }

    /// CLFLUSH, CLFLUSHOPT, CLWB: checked like a byte load.
    func flushLine(_ i: borrowing Instruction) throws(Fault) {
        // An execute-only segment is good enough (SDM vol. 2 CLFLUSH).
        let segment = s.segments[Int(i.segment & 7)]
        if !is64Bit, segment.attributes & SegmentAttributes.code != 0,
            effectiveOffset(i) <= UInt64(segment.limit)
        {
            _ = try load(UInt8.self, (segment.base &+ effectiveOffset(i)) & s.linearMask, i.segment)
            return
        }
        _ = try load(UInt8.self, memoryAddress(i, 1), i.segment)
    }

    // MARK: Elsewhere

    func undefined() throws(Fault) { throw .undefinedOpcode }

    /// RDPMC: there are no counters.
    func readPerformanceCounter() throws(Fault) { throw .protection() }
}
