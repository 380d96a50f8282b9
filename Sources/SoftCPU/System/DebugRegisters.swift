import X86Architecture

/// Causes of #DB in DR6, besides B0 to B3.
enum DebugStatus {
    /// BD: the instruction would have accessed a debug register while DR7.GD was set.
    static let accessDetected: UInt64 = 1 << 13
    static let singleStep: UInt64 = 1 << 14
    static let taskSwitch: UInt64 = 1 << 15
}

/// Debug registers and hardware breakpoints (SDM vol. 3 §17.2).
extension CPU {
    private enum Debug {
        static let dr6Fixed: UInt64 = 0xFFFF_0FF0
        static let dr6Writable: UInt64 = 0xE00F
        static let dr7Fixed: UInt64 = 0x400
        static let dr7Reserved: UInt64 = 0xD800
        static let dr7GeneralDetect: UInt64 = 1 << 13
    }

    /// Every value that DR6 and DR7 can hold.
    static func sanitizedDR6(_ value: UInt64) -> UInt64 { value & Debug.dr6Writable | Debug.dr6Fixed }
    static func sanitizedDR7(_ value: UInt64) -> UInt64 {
        value & 0xFFFF_FFFF & ~Debug.dr7Reserved | Debug.dr7Fixed
    }

    func moveDebug(_ i: borrowing Instruction) throws(Fault) {
        let isWrite = i.operand(0).kind == .debug
        var number = Int(i.operand(isWrite ? 0 : 1).register)
        guard number < 8 else { throw .undefinedOpcode }
        if number == 4 || number == 5 {
            guard s.cr4 & CR4.debuggingExtensions == 0 else { throw .undefinedOpcode }
            number += 2
        }
        try requirePrivileged()
        if s.dr[7] & Debug.dr7GeneralDetect != 0 {
            reportDebug(DebugStatus.accessDetected)
            throw Fault(.debug)
        }
        guard isWrite else {
            let value = s.dr[number]
            setGPR(Int(i.operand(0).register), is64Bit ? value : value & 0xFFFF_FFFF)
            return
        }
        let source = gpr(Int(i.operand(1).register))
        try writeDebug(number, is64Bit ? source : source & 0xFFFF_FFFF)
    }

    private func writeDebug(_ number: Int, _ value: UInt64) throws(Fault) {
        switch number {
        case 6:
            guard value >> 32 == 0 else { throw .protection() }
            s.dr[6] = Self.sanitizedDR6(value)
        case 7:
            guard value >> 32 == 0 else { throw .protection() }
            let wasArmed = hasBreakpoints
            s.dr[7] = Self.sanitizedDR7(value)
            // While breakpoints are armed, every access takes the slow path that looks at them.
            if wasArmed || hasBreakpoints { flushTLB() }
            // RF has ended with this instruction; `runBlocks` left that open.
            s.otherFlags &= ~RFlags.resume.rawValue
            if hasBreakpoints { requestAttention() }
        default: s.dr[number] = value
        }
        s.endBlock = true
    }

    // MARK: Breakpoints

    /// The causes of a #DB to DR6: B0 to B3 tell of this one alone, the others stay until software clears
    /// them (AMD APM vol. 2 §13.1.1.3).
    func reportDebug(_ causes: UInt64) { s.dr[6] = s.dr[6] & ~0xF | causes }

    /// Whether any breakpoint is enabled.
    @inline(__always) var hasBreakpoints: Bool { s.dr[7] & 0xFF != 0 }

    /// Whether the slow path must look at every access: for the guest or for a debugger.
    @inline(__always) var watchesAccesses: Bool { hasBreakpoints || s.debuggerWatches }

    /// Whether debug traps may come after every instruction, and every repetition of one.
    var runsSingleSteps: Bool {
        watchesAccesses || s.debuggerSteps || s.otherFlags & RFlags.trap.rawValue != 0
    }

    private enum Condition {
        static let execute: UInt64 = 0, write: UInt64 = 1, port: UInt64 = 2, access: UInt64 = 3
    }

    /// DR6 bits of the enabled breakpoints that overlap `size` bytes at `start` and whose condition fits.
    private func breakpoints(_ start: UInt64, _ size: Int, _ fits: (UInt64) -> Bool) -> UInt64 {
        guard hasBreakpoints else { return 0 }
        let control = s.dr[7]
        var hits: UInt64 = 0
        for number in 0..<4 {
            guard control >> UInt64(number * 2) & 3 != 0 else { continue }
            let field = control >> UInt64(16 + number * 4) & 0xF
            guard fits(field & 3) else { continue }
            // LEN 0, 1, 3, 2: 1, 2, 4, 8 bytes.
            let length: UInt64 = [1, 2, 8, 4][Int(field >> 2)]
            let first = s.dr[number] & ~(length - 1)
            if start &- first < length || first &- start < UInt64(size) { hits |= 1 << UInt64(number) }
        }
        return hits
    }

    /// Remembers the data breakpoints that an access hits; the run loop raises #DB after the instruction.
    func noteDataBreakpoints(_ linear: UInt64, _ size: Int, isWrite: Bool) {
        s.pendingDebug |= breakpoints(linear, size) {
            $0 == Condition.access || isWrite && $0 == Condition.write
        }
        if s.debuggerWatches { owner.debugging.note(linear, size: UInt64(size), isWrite: isWrite) }
    }

    /// Whether an instruction breakpoint is set at `linear`; sets its DR6 bits.
    func instructionBreakpoint(at linear: UInt64) -> Bool {
        let hits = breakpoints(linear, 1) { $0 == Condition.execute }
        if hits != 0 { reportDebug(hits) }
        return hits != 0
    }

    /// I/O breakpoints exist with CR4.DE only.
    func notePortBreakpoints(_ port: UInt16, _ size: Int) {
        guard s.cr4 & CR4.debuggingExtensions != 0 else { return }
        s.pendingDebug |= breakpoints(UInt64(port), size) { $0 == Condition.port }
    }
}
