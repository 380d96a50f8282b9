import X86Architecture

/// An exception or interrupt on its way into its handler.
struct Event: BitwiseCopyable {
    enum Kind: UInt8 {
        /// From outside: interrupts, NMI.
        case external
        /// Faults and traps that the processor raises.
        case exception
        /// INT n, INT3 and INTO: the gate's DPL counts, and faults on the way carry no EXT bit.
        case software
    }
    var vector: UInt8
    var errorCode: UInt32?
    var kind: Kind
    /// RF in the pushed flags: the instruction at the pushed RIP is tried again without its breakpoint.
    var setsResume = false
}

/// Delivery of events, and what happens when it fails (SDM vol. 3 §6.15, table 6-5).
extension CPU {
    /// Delivers the exception that the instruction at `s.rip` raised.
    func deliver(_ fault: Fault) {
        s.pendingDebug = 0
        let vector = ExceptionVector(rawValue: fault.vector)
        var event = Event(vector: fault.vector, errorCode: nil, kind: .exception)
        if vector?.hasErrorCode == true { event.errorCode = fault.errorCode }
        // Instruction breakpoints, the only #DB that is a fault, push RF as it is (SDM vol. 3 §17.3.1.1).
        event.setsResume = vector != .debug
        deliver(event)
    }

    /// Delivers an interrupt from the local APIC or the PIC, after the instruction before `s.rip`.
    func deliverInterrupt(_ vector: UInt8) {
        s.activity = .running
        deliver(Event(vector: vector, errorCode: nil, kind: .external))
    }

    /// Delivers an NMI and blocks the next one until IRET (SDM vol. 3 §6.7.1).
    func deliverNMI() {
        s.activity = .running
        s.nmiPending = false
        s.nmiBlocked = true
        deliver(Event(vector: ExceptionVector.nmi.rawValue, errorCode: nil, kind: .external))
    }

    /// Delivers a trap: `s.rip` is the next instruction's offset. DR6 is up to the caller.
    func deliverTrap(_ vector: UInt8) {
        deliver(Event(vector: vector, errorCode: nil, kind: .exception))
    }

    func deliver(_ first: Event) {
        var event = first
        s.linkSlot = 0
        s.nextBlock = 0
        s.interruptShadow = false
        s.debugShadow = false
        // At most four rounds: benign, contributory or page fault, double fault, shutdown.
        while true {
            s.deliveringVector = event.vector
            do throws(Fault) {
                try enter(event)
                s.deliveringVector = 0xFF
                return
            } catch {
                guard let next = Self.combine(event, error) else {
                    s.deliveringVector = 0xFF
                    s.shutdown = true
                    s.endBlock = true
                    return
                }
                event = next
            }
        }
    }

    private enum FaultClass { case benign, contributory, pageFault, doubleFault }

    private static func faultClass(_ event: Event) -> FaultClass {
        guard event.kind == .exception else { return .benign }
        switch event.vector {
        case 0, 10, 11, 12, 13: return .contributory
        case 14: return .pageFault
        case 8: return .doubleFault
        default: return .benign
        }
    }

    /// What is delivered when `fault` comes up during the delivery of `event`; nil is a triple fault.
    private static func combine(_ event: Event, _ fault: Fault) -> Event? {
        let first = faultClass(event)
        var second = Event(
            vector: fault.vector, errorCode: nil, kind: .exception, setsResume: event.setsResume)
        if ExceptionVector(rawValue: fault.vector)?.hasErrorCode == true {
            second.errorCode = withExternalBit(fault, event)
        }
        let secondClass = faultClass(second)
        let double = Event(
            vector: ExceptionVector.doubleFault.rawValue, errorCode: 0, kind: .exception,
            setsResume: event.setsResume)
        switch (first, secondClass) {
        case (.doubleFault, .contributory), (.doubleFault, .pageFault), (.doubleFault, .doubleFault):
            return nil
        case (.contributory, .contributory), (.pageFault, .contributory), (.pageFault, .pageFault):
            return double
        default: return second
        }
    }

    /// The error code of a fault during an event's delivery: selector codes get EXT (SDM vol. 3 §6.13).
    private static func withExternalBit(_ fault: Fault, _ event: Event) -> UInt32 {
        let hasSelector = (10...13).contains(fault.vector)
        return hasSelector && event.kind != .software ? fault.errorCode | 1 : fault.errorCode
    }

    // MARK: Through the tables

    /// Enters the handler of `event`; `s.rip` is what it returns to.
    /// - Throws: what stands in the way; then nothing has changed.
    func enter(_ event: Event) throws(Fault) {
        if event.vector == ExceptionVector.debug.rawValue, event.kind == .exception {
            // DR7.GD is clear in the handler (SDM vol. 3 §17.2.4).
            s.dr[7] &= ~(1 << 13)
        }
        if !isProtected {
            try enterReal(event.vector, table: s.idtBase, limit: s.idtLimit)
        } else if isLongMode {
            try enterLong(event)
        } else {
            try enterProtected(event)
        }
        s.endBlock = true
    }

    /// Error code of a fault that names an IDT entry.
    static func tableError(_ vector: UInt8) -> UInt32 { UInt32(vector) * 8 + 2 }

    /// Real mode, and virtual-8086 mode's redirected INT n: a table of far pointers (SDM vol. 3 §20.1.4).
    private func enterReal(_ vector: UInt8, table: UInt64, limit: UInt32) throws(Fault) {
        let entry = UInt32(vector) * 4
        guard entry + 3 <= limit else { throw .protection(Self.tableError(vector)) }
        let offset = try loadTable(UInt16.self, table &+ UInt64(entry))
        let selector = try loadTable(UInt16.self, table &+ UInt64(entry) &+ 2)
        var stack = currentStack()
        try stack.push(rflags, 2)
        try stack.push(UInt64(s.segments[Segment.cs].selector), 2)
        try stack.push(s.rip, 2)
        setStackPointer(stack.pointer)
        let cleared: RFlags = [.interrupt, .trap, .alignmentCheck, .resume]
        s.otherFlags &= ~cleared.rawValue
        loadRealSegment(Segment.cs, selector)
        s.rip = UInt64(offset)
        modeChanged()
    }

    private func gate(_ event: Event, size: UInt32) throws(Fault) -> Descriptor {
        let entry = UInt32(event.vector) * size
        guard entry + size - 1 <= s.idtLimit else { throw .protection(Self.tableError(event.vector)) }
        let address = s.idtBase &+ UInt64(entry)
        var gate = Descriptor(low: try loadTable(UInt64.self, address), address: address)
        if size == 16 { gate.high = try loadTable(UInt64.self, address &+ 8) & 0xFFFF_FFFF }
        return gate
    }

    private func checkGate(_ gate: Descriptor, _ event: Event) throws(Fault) {
        let error = Self.tableError(event.vector)
        if event.kind == .software, gate.privilege < s.cpl { throw .protection(error) }
        guard gate.isPresent else { throw Fault(.segmentNotPresent, error) }
    }

    /// The code segment that a gate leads to.
    private func handlerCode(_ gate: Descriptor) throws(Fault) -> Descriptor {
        let selector = gate.gateSelector
        guard selector & 0xFFFC != 0 else { throw .protection() }
        let code = try descriptor(selector, or: .generalProtection)
        guard code.isCode, code.privilege <= s.cpl else { throw .protection(selector: selector) }
        guard code.isPresent else { throw .notPresent(selector) }
        return code
    }

    private func pushedFlags(_ event: Event) -> UInt64 {
        rflags | (event.setsResume ? RFlags.resume.rawValue : 0)
    }

    private func clearFlags(isInterruptGate: Bool) {
        var cleared: RFlags = [.trap, .nestedTask, .resume, .virtual8086]
        if isInterruptGate { cleared.insert(.interrupt) }
        s.otherFlags &= ~cleared.rawValue
    }

    /// Long mode (SDM vol. 3 §6.14): 64-bit handlers, aligned stacks, the interrupt stack table.
    private func enterLong(_ event: Event) throws(Fault) {
        let gate = try gate(event, size: 16)
        guard !gate.isCodeOrData, gate.type == SystemType.interruptGate || gate.type == SystemType.trapGate
        else {
            throw .protection(Self.tableError(event.vector))
        }
        try checkGate(gate, event)
        var code = try handlerCode(gate)
        guard code.isLong, !code.isBig else { throw .protection(selector: gate.gateSelector) }
        let privilege = code.isConforming ? s.cpl : code.privilege
        let changes = privilege != s.cpl
        var pointer = gpr(Register.rsp)
        if gate.interruptStack != 0 {
            pointer = try longStackPointer(28 + 8 * UInt32(gate.interruptStack))
        } else if changes {
            pointer = try longStackPointer(4 + 8 * UInt32(privilege))
        }
        let target = gate.gateOffset
        guard Self.isCanonical(target) else { throw .protection() }
        var stack = StackCursor(
            cpu: self, segment: SegmentCache(), pointer: pointer & ~0xF, mask: .max,
            context: changes ? supervisorContext : s.tlbContext, is64: true, isTyped: false, errorCode: 0)
        try stack.push(UInt64(s.segments[Segment.ss].selector), 8)
        try stack.push(gpr(Register.rsp), 8)
        try stack.push(pushedFlags(event), 8)
        try stack.push(UInt64(s.segments[Segment.cs].selector), 8)
        try stack.push(s.rip, 8)
        if let errorCode = event.errorCode { try stack.push(UInt64(errorCode), 8) }
        try markAccessed(&code)
        if changes { s.segments[Segment.ss] = Self.nullStack(privilege) }
        setGPR(Register.rsp, stack.pointer)
        clearFlags(isInterruptGate: gate.type == SystemType.interruptGate)
        commitCode(code.cache(selector: gate.gateSelector), target, privilege)
    }

    /// A stack pointer from the 64-bit TSS (SDM vol. 3 figure 7-11).
    func longStackPointer(_ offset: UInt32) throws(Fault) -> UInt64 {
        let task = s.segments[Segment.tr]
        guard task.attributes & SegmentAttributes.unusable == 0, offset + 7 <= task.limit else {
            throw .invalidTSS(task.selector)
        }
        return try loadTable(UInt64.self, task.base &+ UInt64(offset))
    }

    static func isCanonical(_ address: UInt64) -> Bool {
        let high = Int64(bitPattern: address) >> 47
        return high == 0 || high == -1
    }

    /// CS:RIP of a control transfer that has passed its checks, and the privilege it runs at.
    func commitCode(_ code: SegmentCache, _ rip: UInt64, _ privilege: UInt8) {
        s.segments[Segment.cs] = code
        s.segments[Segment.cs].selector = code.selector & 0xFFFC | UInt16(privilege)
        s.cpl = privilege
        s.rip = rip
        modeChanged()
    }

    // MARK: Protected mode (SDM vol. 3 §6.12)

    private func enterProtected(_ event: Event) throws(Fault) {
        let gate = try gate(event, size: 8)
        guard !gate.isCodeOrData else { throw .protection(Self.tableError(event.vector)) }
        switch gate.type {
        case SystemType.taskGate:
            try checkGate(gate, event)
            try enterTask(gate.gateSelector, event)
        case SystemType.interruptGate16, SystemType.trapGate16, SystemType.interruptGate, SystemType.trapGate:
            try checkGate(gate, event)
            try enterHandler(gate, event)
        default: throw .protection(Self.tableError(event.vector))
        }
    }

    private func enterTask(_ selector: UInt16, _ event: Event) throws(Fault) {
        guard selector & 4 == 0, selector & 0xFFFC != 0 else { throw .protection(selector: selector) }
        let task = try descriptor(selector, or: .generalProtection)
        guard !task.isCodeOrData, task.type & ~SystemType.wideBit == SystemType.availableTSS16 else {
            throw .protection(selector: selector)
        }
        guard task.isPresent else { throw .notPresent(selector) }
        if event.setsResume { s.otherFlags |= RFlags.resume.rawValue }
        try switchTask(selector, task, .nested, errorCode: event.errorCode)
    }

    private func enterHandler(_ gate: Descriptor, _ event: Event) throws(Fault) {
        var code = try handlerCode(gate)
        let fromVirtual8086 = isVirtual8086
        let privilege = code.isConforming ? s.cpl : code.privilege
        if fromVirtual8086, privilege != 0 { throw .protection(selector: gate.gateSelector) }
        let changes = privilege != s.cpl
        let size: UInt8 = gate.type & SystemType.wideBit != 0 ? 4 : 2
        var stack = currentStack()
        var segment = stack.segment
        if changes {
            let new = try protectedInnerStack(privilege)
            segment = new.segment
            stack = innerStack(segment, new.pointer)
            if fromVirtual8086 {
                for old in [Segment.gs, Segment.fs, Segment.ds, Segment.es] {
                    try stack.push(UInt64(s.segments[old].selector), size)
                }
            }
            try stack.push(UInt64(s.segments[Segment.ss].selector), size)
            try stack.push(gpr(Register.rsp), size)
        }
        try stack.push(pushedFlags(event), size)
        try stack.push(UInt64(s.segments[Segment.cs].selector), size)
        try stack.push(s.rip, size)
        if let errorCode = event.errorCode { try stack.push(UInt64(errorCode), size) }
        let target = gate.gateOffset & (size == 4 ? 0xFFFF_FFFF : 0xFFFF)
        guard target <= UInt64(code.limit) else { throw .protection() }
        try markAccessed(&code)
        if fromVirtual8086 {
            for old in [Segment.gs, Segment.fs, Segment.ds, Segment.es] {
                s.segments[old] = Self.nullSegment(0)
            }
        }
        s.segments[Segment.ss] = segment
        setStackPointer(stack.pointer, mask: stack.mask)
        clearFlags(isInterruptGate: gate.type & 1 == 0)
        commitCode(code.cache(selector: gate.gateSelector), target, privilege)
    }

    /// SS:ESP for `privilege` from the 16 or 32-bit TSS, checked (SDM vol. 3 §5.8.5, §6.12.1).
    func protectedInnerStack(_ privilege: UInt8) throws(Fault) -> (segment: SegmentCache, pointer: UInt64) {
        let task = s.segments[Segment.tr]
        let isWide = task.attributes & UInt32(SystemType.wideBit) != 0
        let offset = isWide ? UInt32(privilege) * 8 + 4 : UInt32(privilege) * 4 + 2
        guard task.attributes & SegmentAttributes.unusable == 0, offset + (isWide ? 5 : 3) <= task.limit
        else {
            throw .invalidTSS(task.selector)
        }
        let address = task.base &+ UInt64(offset)
        let pointer =
            isWide
            ? UInt64(try loadTable(UInt32.self, address)) : UInt64(try loadTable(UInt16.self, address))
        let selector = try loadTable(UInt16.self, address &+ (isWide ? 4 : 2))
        let segment = try stackSegment(selector, privilege: privilege, or: .invalidTSS, target64: false)
        return (segment, pointer)
    }

    // MARK: INT n, INT3, INTO, INT1

    /// `s.rip` is the next instruction's offset.
    func softwareInterrupt(_ vector: UInt8, isNumbered: Bool) throws(Fault) {
        if isVirtual8086, isNumbered {
            if s.cr4 & CR4.virtual8086Extensions != 0, try isRedirected(vector) {
                return try enterVirtual8086(vector)
            }
            guard ioPrivilege == 3 else { throw .protection() }
        }
        try enter(Event(vector: vector, errorCode: nil, kind: .software))
    }

    /// The TSS's redirection bitmap, 32 bytes below the I/O bitmap (SDM vol. 3 §20.3.3): a clear bit keeps
    /// INT n inside virtual-8086 mode.
    private func isRedirected(_ vector: UInt8) throws(Fault) -> Bool {
        let task = s.segments[Segment.tr]
        guard task.limit >= 103 else { throw .protection() }
        let ioMap = UInt32(try loadTable(UInt16.self, task.base &+ 102))
        guard ioMap >= 32 else { throw .protection() }
        let offset = ioMap - 32 + UInt32(vector >> 3)
        guard offset <= task.limit else { throw .protection() }
        let byte = try loadTable(UInt8.self, task.base &+ UInt64(offset))
        return byte & (1 << (vector & 7)) == 0
    }

    /// INT n to the 8086 program's own handler, with the virtual interrupt flag when IOPL is below 3.
    private func enterVirtual8086(_ vector: UInt8) throws(Fault) {
        let isVirtual = ioPrivilege < 3
        let offset = try loadTable(UInt16.self, UInt64(vector) * 4)
        let selector = try loadTable(UInt16.self, UInt64(vector) * 4 + 2)
        var image = rflags
        if isVirtual { image = virtualFlagsImage }
        var stack = currentStack()
        try stack.push(image, 2)
        try stack.push(UInt64(s.segments[Segment.cs].selector), 2)
        try stack.push(s.rip, 2)
        setStackPointer(stack.pointer)
        s.otherFlags &= ~(isVirtual ? RFlags.virtualInterrupt : RFlags.interrupt).rawValue
        s.otherFlags &= ~(RFlags.trap.rawValue | RFlags.nestedTask.rawValue)
        loadRealSegment(Segment.cs, selector)
        s.rip = UInt64(offset)
        modeChanged()
    }

    /// The flags as virtual-8086 mode extensions show them below IOPL 3: IOPL 3, and VIF in IF's place.
    var virtualFlagsImage: UInt64 {
        let flags = rflags | RFlags.ioPrivilege.rawValue
        let isOpen = flags & RFlags.virtualInterrupt.rawValue != 0
        return isOpen ? flags | RFlags.interrupt.rawValue : flags & ~RFlags.interrupt.rawValue
    }

    func interrupt(_ i: borrowing Instruction) throws(Fault) {
        try softwareInterrupt(UInt8(truncatingIfNeeded: i.immediate), isNumbered: true)
    }

    func breakpoint() throws(Fault) { try softwareInterrupt(3, isNumbered: false) }

    func interruptOnOverflow() throws(Fault) {
        if overflowFlag { try softwareInterrupt(4, isNumbered: false) }
    }

    /// INT1 is a #DB trap that no gate's DPL can refuse (AMD APM vol. 3, INT1).
    func debugInterrupt() { deliverTrap(ExceptionVector.debug.rawValue) }

    func bound(_ i: borrowing Instruction) throws(Fault) {
        let size = i.operandSize
        let start = try memoryAddress(i, Int(size) * 2)
        let lower = Self.signed(try load(size: size, start, i.segment), size)
        let upper = Self.signed(try load(size: size, (start &+ UInt64(size)) & s.linearMask, i.segment), size)
        let index = Self.signed(try readOperand(i, 0), size)
        if index < lower || index > upper { throw Fault(.boundRange) }
    }

    private static func signed(_ value: UInt64, _ size: UInt8) -> Int32 {
        size == 2
            ? Int32(Int16(truncatingIfNeeded: value)) : Int32(truncatingIfNeeded: value)
    }
}
