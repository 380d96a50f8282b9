import X86Architecture

/// Why a task is left.
enum TaskSwitchKind {
    case jump
    /// CALL, or an interrupt through a task gate: the new task remembers the old one.
    case nested
    /// IRET with NT set.
    case `return`
}

/// Offsets in the two TSS formats (SDM vol. 3 figures 7-2 and 7-10).
private struct TaskLayout {
    let isWide: Bool
    var wordSize: UInt8 { isWide ? 4 : 2 }
    var minimumLimit: UInt32 { isWide ? 0x67 : 0x2B }
    /// CR3 stands in the 32-bit format only.
    static let cr3: UInt64 = 28
    var ip: UInt64 { isWide ? 32 : 14 }
    var flags: UInt64 { ip + UInt64(wordSize) }
    func gpr(_ number: Int) -> UInt64 { flags + UInt64(wordSize) * UInt64(number + 1) }
    /// ES, CS, SS, DS, and FS, GS in the 32-bit format.
    func segment(_ number: Int) -> UInt64 { gpr(8) + UInt64(wordSize) * UInt64(number) }
    var segmentCount: Int { isWide ? 6 : 4 }
    var ldt: UInt64 { segment(segmentCount) }
    /// Bit 0: debug trap.
    static let trap: UInt64 = 100
}

/// What a TSS says about the task to enter.
private struct TaskImage {
    var cr3: UInt64 = 0
    var ip: UInt64 = 0
    var flags: UInt64 = 0
    var gpr: InlineArray<8, UInt64> = .init(repeating: 0)
    var selectors: InlineArray<6, UInt16> = .init(repeating: 0)
    var ldt: UInt16 = 0
    var traps = false
}

/// Hardware task switches (SDM vol. 3 §7.3).
extension CPU {
    /// The TSS that a task gate names.
    func switchTask(throughGate gate: Descriptor, _ kind: TaskSwitchKind) throws(Fault) {
        let selector = gate.gateSelector
        let fault = Fault.protection(selector: selector)
        guard selector & 0xFFFC != 0, selector & 4 == 0 else { throw fault }
        let task = try descriptor(selector, or: .generalProtection)
        guard !task.isCodeOrData, task.type & ~SystemType.wideBit == SystemType.availableTSS16 else {
            throw fault
        }
        guard task.isPresent else { throw .notPresent(selector) }
        try switchTask(selector, task, kind, errorCode: nil)
    }

    /// Leaves the current task at `s.rip` for the one of `task`. Faults that come up once the new task has
    /// been entered are delivered in it, so that what is thrown belongs to the old one.
    func switchTask(
        _ selector: UInt16, _ task: Descriptor, _ kind: TaskSwitchKind, errorCode: UInt32?
    ) throws(Fault) {
        let layout = TaskLayout(isWide: task.type & SystemType.wideBit != 0)
        guard task.limit >= layout.minimumLimit else { throw .invalidTSS(selector) }
        let image = try loadTask(task.base, layout)
        let oldSelector = s.segments[Segment.tr].selector
        try saveTask(kind)
        if kind != .nested { try releaseOldTask(oldSelector) }
        var entered = task
        if kind == .nested { try storeTable(oldSelector, task.base) }
        if kind != .return { try setTaskBusy(&entered, true) }
        s.segments[Segment.tr] = entered.cache(selector: selector)
        s.cr0 |= CR0.taskSwitched
        commitRegisters(image, layout, isNested: kind == .nested)
        do throws(Fault) {
            try commitAddressing(image, layout)
            try commitSegments(image, layout)
            if let errorCode { try pushTaskError(errorCode, layout) }
        } catch {
            modeChanged()
            deliver(error)
            return
        }
        settleResumeFlag()
        s.interruptHeld = true
        if interruptFlag { requestAttention() }
        if image.traps {
            reportDebug(DebugStatus.taskSwitch)
            deliverTrap(ExceptionVector.debug.rawValue)
        }
    }

    private func loadTask(_ base: UInt64, _ layout: TaskLayout) throws(Fault) -> TaskImage {
        var image = TaskImage()
        func word(_ offset: UInt64) throws(Fault) -> UInt64 {
            layout.isWide
                ? UInt64(try loadTable(UInt32.self, base &+ offset))
                : UInt64(try loadTable(UInt16.self, base &+ offset))
        }
        image.ip = try word(layout.ip)
        image.flags = try word(layout.flags)
        for number in 0..<8 { image.gpr[number] = try word(layout.gpr(number)) }
        for number in 0..<layout.segmentCount {
            image.selectors[number] = try loadTable(UInt16.self, base &+ layout.segment(number))
        }
        image.ldt = try loadTable(UInt16.self, base &+ layout.ldt)
        if layout.isWide {
            image.cr3 = try word(TaskLayout.cr3)
            image.traps = try loadTable(UInt8.self, base &+ TaskLayout.trap) & 1 != 0
        }
        return image
    }

    private func saveTask(_ kind: TaskSwitchKind) throws(Fault) {
        let old = s.segments[Segment.tr]
        let layout = TaskLayout(isWide: old.attributes & UInt32(SystemType.wideBit) != 0)
        guard old.attributes & SegmentAttributes.unusable == 0, old.limit >= layout.minimumLimit else {
            throw .invalidTSS(old.selector)
        }
        func put(_ value: UInt64, _ offset: UInt64) throws(Fault) {
            if layout.isWide {
                try storeTable(UInt32(truncatingIfNeeded: value), old.base &+ offset)
            } else {
                try storeTable(UInt16(truncatingIfNeeded: value), old.base &+ offset)
            }
        }
        let flags = kind == .return ? rflags & ~RFlags.nestedTask.rawValue : rflags
        try put(s.rip, layout.ip)
        try put(flags, layout.flags)
        for number in 0..<8 { try put(gpr(number), layout.gpr(number)) }
        for number in 0..<layout.segmentCount {
            try storeTable(s.segments[number].selector, old.base &+ layout.segment(number))
        }
    }

    /// JMP and IRET leave a task that may be entered again.
    private func releaseOldTask(_ selector: UInt16) throws(Fault) {
        guard descriptorAddress(selector) != nil else { return }
        var old = try descriptor(selector, or: .invalidTSS)
        try setTaskBusy(&old, false)
    }

    private func commitRegisters(_ image: TaskImage, _ layout: TaskLayout, isNested: Bool) {
        var flags = image.flags
        if isNested { flags |= RFlags.nestedTask.rawValue }
        setRFlags(flags & 0x3F_7FD7)
        s.rip = image.ip
        // A 16-bit TSS leaves the upper halves undefined; ones is what the 80386 did.
        let upper: UInt64 = layout.isWide ? 0 : 0xFFFF_0000
        for number in 0..<8 { setGPR(number, image.gpr[number] | upper) }
        for number in 0..<6 { s.segments[number] = Self.nullSegment(image.selectors[number]) }
        s.segments[Segment.ldtr] = Self.nullSegment(image.ldt)
        // Local breakpoints belong to the task.
        s.dr[7] &= ~0x155
        s.endBlock = true
    }

    private func commitAddressing(_ image: TaskImage, _ layout: TaskLayout) throws(Fault) {
        if layout.isWide, s.cr0 & CR0.paging != 0 {
            if s.cr4 & CR4.physicalAddressExtension != 0 { try loadPageDirectoryPointers(image.cr3) }
            s.cr3 = image.cr3
            flushTLB()
        }
        guard image.ldt & 4 == 0 else { throw .invalidTSS(image.ldt) }
        s.segments[Segment.ldtr] = try localTable(image.ldt, or: .invalidTSS)
    }

    private func commitSegments(_ image: TaskImage, _ layout: TaskLayout) throws(Fault) {
        if isVirtual8086 {
            for number in 0..<6 { loadRealSegment(number, image.selectors[number]) }
            s.cpl = 3
            return modeChanged()
        }
        let selector = image.selectors[Segment.cs]
        guard selector & 0xFFFC != 0 else { throw .invalidTSS(selector) }
        let privilege = UInt8(selector & 3)
        s.cpl = privilege
        var code = try descriptor(selector, or: .invalidTSS)
        let fits = code.isConforming ? code.privilege <= privilege : code.privilege == privilege
        guard code.isCode, fits else { throw .invalidTSS(selector) }
        guard code.isPresent else { throw .notPresent(selector) }
        s.segments[Segment.ss] = try stackSegment(
            image.selectors[Segment.ss], privilege: privilege, or: .invalidTSS, target64: false)
        try markAccessed(&code)
        s.segments[Segment.cs] = code.cache(selector: selector)
        for number in [Segment.es, Segment.ds, Segment.fs, Segment.gs] {
            s.segments[number] = try taskSegment(image.selectors[number])
        }
        modeChanged()
        guard s.rip <= UInt64(code.limit) else { throw .protection() }
    }

    private func taskSegment(_ selector: UInt16) throws(Fault) -> SegmentCache {
        guard selector & 0xFFFC != 0 else { return Self.nullSegment(selector) }
        let fault = Fault.invalidTSS(selector)
        var found = try descriptor(selector, or: .invalidTSS)
        guard found.isReadable else { throw fault }
        if !found.isConforming {
            guard found.privilege >= max(s.cpl, UInt8(selector & 3)) else { throw fault }
        }
        guard found.isPresent else { throw .notPresent(selector) }
        try markAccessed(&found)
        return found.cache(selector: selector)
    }

    /// The error code of an exception whose handler is a task goes onto that task's stack.
    private func pushTaskError(_ errorCode: UInt32, _ layout: TaskLayout) throws(Fault) {
        var stack = currentStack()
        try stack.push(UInt64(errorCode), layout.wordSize)
        setStackPointer(stack.pointer)
    }
}
