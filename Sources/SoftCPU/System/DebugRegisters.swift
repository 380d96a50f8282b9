import X86Architecture

/// Debug registers and hardware breakpoints (SDM vol. 3 §17.2).
extension CPU {
    private enum Debug {
        static let dr6Fixed: UInt64 = 0xFFFF_0FF0
        static let dr6Writable: UInt64 = 0xE00F
        /// BD: the instruction would have accessed a debug register while DR7.GD was set.
        static let dr6AccessDetected: UInt64 = 1 << 13
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
            s.dr[6] |= Debug.dr6AccessDetected
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
            let wasArmed = s.dr[7] & 0xFF != 0
            s.dr[7] = Self.sanitizedDR7(value)
            // While breakpoints are armed, every access takes the slow path that looks at them.
            if wasArmed || s.dr[7] & 0xFF != 0 { flushTLB() }
        default: s.dr[number] = value
        }
        s.endBlock = true
    }

    // MARK: Breakpoints

    private enum Condition {
        static let execute: UInt64 = 0, write: UInt64 = 1, port: UInt64 = 2, access: UInt64 = 3
    }

    /// DR6 bits of the enabled breakpoints that overlap `size` bytes at `start` and whose condition fits.
    private func breakpoints(_ start: UInt64, _ size: Int, _ fits: (UInt64) -> Bool) -> UInt64 {
        let control = s.dr[7]
        guard control & 0xFF != 0 else { return 0 }
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
    }

    /// Whether an instruction breakpoint is set at `linear`; sets its DR6 bits.
    func instructionBreakpoint(at linear: UInt64) -> Bool {
        let hits = breakpoints(linear, 1) { $0 == Condition.execute }
        s.dr[6] |= hits
        return hits != 0
    }

    /// I/O breakpoints exist with CR4.DE only.
    func notePortBreakpoints(_ port: UInt16, _ size: Int) {
        guard s.cr4 & CR4.debuggingExtensions != 0 else { return }
        s.pendingDebug |= breakpoints(UInt64(port), size) { $0 == Condition.port }
    }
}
