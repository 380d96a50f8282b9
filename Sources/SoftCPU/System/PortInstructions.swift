import DeviceModel
import VCPUEngine
import X86Architecture

/// IN, OUT, INS and OUTS (SDM vol. 1 chapter 19).
extension CPU {
    /// IOPL, then the TSS's I/O permission bitmap (§19.5.2).
    func checkPort(_ port: UInt16, _ size: UInt8) throws(Fault) {
        guard isProtected, s.cpl > ioPrivilege || isVirtual8086 else { return }
        let task = s.segments[Segment.tr]
        // In long mode and in 32-bit tasks only: a 16-bit TSS has no bitmap.
        guard task.attributes & UInt32(SystemType.wideBit) != 0,
            task.attributes & SegmentAttributes.unusable == 0, task.limit >= 103
        else { throw .protection() }
        let map = UInt32(try loadTable(UInt16.self, task.base &+ 102))
        let offset = map + UInt32(port >> 3)
        // Two bytes are read always, so that the bitmap ends with one of ones.
        guard offset < task.limit else { throw .protection() }
        let word = try loadTable(UInt16.self, task.base &+ UInt64(offset))
        let mask = (UInt16(1) << UInt16(size)) - 1
        guard word >> (port & 7) & mask == 0 else { throw .protection() }
    }

    private func portOperand(_ i: borrowing Instruction, _ position: Int) -> UInt16 {
        i.operand(position).kind == .immediate
            ? UInt16(truncatingIfNeeded: i.immediate & 0xFF) : UInt16(truncatingIfNeeded: gpr(Register.rdx))
    }

    private func readPort(_ port: UInt16, _ size: UInt8) -> UInt64 {
        let value = owner.platform.portRead(port, width: Self.width(Int(size)))
        if hasBreakpoints { notePortBreakpoints(port, Int(size)) }
        return UInt64(value) & Self.sizeMask(size)
    }

    private func writePort(_ port: UInt16, _ size: UInt8, _ value: UInt64) {
        owner.platform.portWrite(port, width: Self.width(Int(size)), value: UInt32(truncatingIfNeeded: value))
        if hasAttention { s.endBlock = true }
        if hasBreakpoints { notePortBreakpoints(port, Int(size)) }
    }

    func portIn(_ i: borrowing Instruction) throws(Fault) {
        let size = i.operand(0).size
        let port = portOperand(i, 1)
        try checkPort(port, size)
        setGPR(Register.rax, size: size, readPort(port, size))
    }

    func portOut(_ i: borrowing Instruction) throws(Fault) {
        let size = i.operand(1).size
        let port = portOperand(i, 0)
        try checkPort(port, size)
        writePort(port, size, gpr(Register.rax) & Self.sizeMask(size))
    }

    // MARK: Strings

    /// Iterations before the run loop gets to look at interrupts.
    private static let stringBatch = 1024

    /// One element in: the store is probed first, because reading a port may change the device.
    private func stringIn(_ i: borrowing Instruction, _ size: UInt8) throws(Fault) {
        let mask = Self.addressMask(i.addressSize)
        let address = try linear(
            UInt8(Segment.es), gpr(Register.rdi) & mask, Int(size), write: true)
        try probeWrite(address, Int(size), UInt8(Segment.es))
        let value = readPort(UInt16(truncatingIfNeeded: gpr(Register.rdx)), size)
        try store(size: size, value, address, UInt8(Segment.es))
        advance(Register.rdi, i.addressSize, size)
    }

    private func stringOut(_ i: borrowing Instruction, _ size: UInt8) throws(Fault) {
        let mask = Self.addressMask(i.addressSize)
        let address = try linear(i.segment, gpr(Register.rsi) & mask, Int(size))
        let value = try load(size: size, address, i.segment)
        writePort(UInt16(truncatingIfNeeded: gpr(Register.rdx)), size, value)
        advance(Register.rsi, i.addressSize, size)
    }

    /// Moves an index register by `size` in the direction of DF.
    private func advance(_ register: Int, _ addressSize: UInt8, _ size: UInt8) {
        let distance = directionFlag ? 0 &- UInt64(size) : UInt64(size)
        setGPR(register, size: addressSize, gpr(register) &+ distance)
    }

    /// INS and OUTS, with REP.
    func portString(_ i: borrowing Instruction, isInput: Bool) throws(Fault) {
        let size = i.operand(isInput ? 0 : 1).size
        try checkPort(UInt16(truncatingIfNeeded: gpr(Register.rdx)), size)
        guard !i.prefixes.isDisjoint(with: [.rep, .repne]) else {
            if isInput { try stringIn(i, size) } else { try stringOut(i, size) }
            return
        }
        let mask = Self.addressMask(i.addressSize)
        for _ in 0..<Self.stringBatch {
            let count = gpr(Register.rcx) & mask
            if count == 0 { return }
            if isInput { try stringIn(i, size) } else { try stringOut(i, size) }
            setGPR(Register.rcx, size: i.addressSize, count &- 1)
            if s.codeModified || runsSingleSteps || hasAttention { break }
        }
        guard gpr(Register.rcx) & mask != 0 else { return }
        // The instruction goes on after a look at interrupts.
        let start = s.rip &- UInt64(i.length)
        s.rip = is64Bit ? start : start & 0xFFFF_FFFF
        s.endBlock = true
        s.keepResumeFlag = true
    }
}
