import X86Architecture

/// Address spaces by process-context identifier (SDM vol. 3 §4.10.1): the translations of the last few stay
/// when CR3 changes.
extension CPU {
    /// CR3 names another address space, or the same once more. `keeps`: bit 63 of its new value.
    func addressSpaceChanged(keeps: Bool) {
        let usesPCID = isLongMode && s.cr4 & CR4.processContextIdentifiers != 0
        let key = usesPCID ? s.cr3 & 0xFFF : 0
        let before = s.slot
        let known = selectSlot(key)
        if !(known && keeps && usesPCID) { flushSlot(Int(s.slot)) }
        flushLocalKernel()
        s.userTag = s.userTags[Int(s.slot)]
        if s.slot != before { s.staleReturns |= 2 }
        updateTLBContext()
        s.endBlock = true
        s.linkSlot = 0
    }

    /// Makes the slot for `key` the current one, one that was not used for long if it has none. Returns
    /// whether it had one.
    private func selectSlot(_ key: UInt64) -> Bool {
        s.slotClock &+= 1
        var oldest = 0
        for slot in 0..<StateWindows.slots {
            if s.slotKeys[slot] == key {
                s.slot = UInt32(slot)
                s.slotUses[slot] = s.slotClock
                return true
            }
            if s.slotUses[slot] < s.slotUses[oldest] { oldest = slot }
        }
        s.slot = UInt32(oldest)
        s.slotKeys[oldest] = key
        s.slotUses[oldest] = s.slotClock
        return false
    }

    /// INVPCID of one context: forgets what is cached for `identifier`.
    func flushContext(_ identifier: UInt64) {
        for slot in 0..<StateWindows.slots where s.slotKeys[slot] == identifier { flushSlot(slot) }
        s.userTag = s.userTags[Int(s.slot)]
        flushLocalKernel()
    }

    /// INVPCID of all contexts but global translations.
    func flushContexts() {
        for slot in 0..<StateWindows.slots where s.slotUses[slot] != 0 { flushSlot(slot) }
        s.userTag = s.userTags[Int(s.slot)]
        flushLocalKernel()
    }
}
