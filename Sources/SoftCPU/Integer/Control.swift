import LinuxHost
import X86Architecture

/// Stack frames, PUSH and POP with memory, relative branches of segmented code, LOOP.
extension CPU {
    func pushMemory(_ i: Instruction) throws(Fault) {
        try push(size: i.operandSize, readOperand(i, 0))
    }

    /// POP to memory computes its address with the incremented stack pointer.
    func popMemory(_ i: Instruction) throws(Fault) {
        let before = gpr(Register.rsp)
        let value = try pop(size: i.operandSize)
        do throws(Fault) {
            try writeOperand(i, 0, value)
        } catch {
            setGPR(Register.rsp, before)
            throw error
        }
    }

    func pushAll(_ i: Instruction) throws(Fault) {
        let size = UInt64(i.operandSize), before = gpr(Register.rsp)
        // All eight must fit before any is written.
        let lowest = (before &- 8 &* size) & s.stackMask
        for step in 0..<8 {
            _ = try linear(2, (lowest &+ UInt64(step) &* size) & s.stackMask, Int(size), write: true)
        }
        do throws(Fault) {
            for number in 0..<8 {
                try push(size: i.operandSize, number == Register.rsp ? before : gpr(number))
            }
        } catch {
            setGPR(Register.rsp, before)
            throw error
        }
    }

    func popAll(_ i: Instruction) throws(Fault) {
        let before = gpr(Register.rsp)
        do throws(Fault) {
            for number in (0..<8).reversed() {
                let value = try pop(size: i.operandSize)
                // What was popped before a fault stays loaded; the instruction starts over with all of it.
                if number != Register.rsp { setGPR(number, size: i.operandSize, value) }
            }
        } catch {
            setGPR(Register.rsp, before)
            throw error
        }
    }

    /// ENTER (SDM vol. 2): the nesting level copies frame pointers of the outer procedures.
    func enter(_ i: Instruction) throws(Fault) {
        let size = i.operandSize
        let level = i.immediate2 & 31
        let before = gpr(Register.rsp)
        do throws(Fault) {
            try push(size: size, gpr(Register.rbp))
            let frame = gpr(Register.rsp)
            if level > 0 {
                var pointer = gpr(Register.rbp)
                for _ in 1..<max(level, 1) {
                    pointer = (pointer & ~s.stackMask) | ((pointer &- UInt64(size)) & s.stackMask)
                    try push(size: size, load(size: size, linear(2, pointer & s.stackMask, Int(size)), 2))
                }
                try push(size: size, frame)
            }
            let sp = movedStackPointer(0 &- (i.immediate & 0xFFFF))
            // The new top must be writable already.
            try probeWrite(linear(2, sp & s.stackMask, Int(size), write: true), Int(size), 2)
            setGPR(Register.rsp, sp)
            setGPR(Register.rbp, size: size, frame)
        } catch {
            setGPR(Register.rsp, before)
            throw error
        }
    }

    func leave(_ i: Instruction) throws(Fault) {
        let before = gpr(Register.rsp)
        setGPR(Register.rsp, (before & ~s.stackMask) | (gpr(Register.rbp) & s.stackMask))
        do throws(Fault) {
            let value = try pop(size: i.operandSize)
            setGPR(Register.rbp, size: i.operandSize, value)
        } catch {
            setGPR(Register.rsp, before)
            throw error
        }
    }

    // MARK: Relative branches, any mode

    private func relativeTarget(_ i: Instruction) throws(Fault) -> UInt64 {
        let target = (s.rip &+ i.immediate) & Self.addressMask(i.operandSize)
        try checkTarget(target)
        return target
    }

    func jumpRelative(_ i: Instruction) throws(Fault) {
        s.rip = try relativeTarget(i)
        s.endBlock = true
    }

    func callRelative(_ i: Instruction) throws(Fault) {
        let target = (s.rip &+ i.immediate) & Self.addressMask(i.operandSize)
        try checkCallTarget(target, Int(i.operandSize))
        try push(size: i.operandSize, s.rip)
        s.rip = target
        s.endBlock = true
    }

    /// LOOP, LOOPE, LOOPNE: the counter has the address size.
    func loop(_ i: Instruction, while condition: () -> Bool) throws(Fault) {
        let count = (gpr(Register.rcx) &- 1) & Self.addressMask(i.addressSize)
        if count != 0, condition() { try jumpRelative(i) }
        setGPR(Register.rcx, size: i.addressSize, count)
    }

    /// ZF as LOOPE (`wanted`) or LOOPNE wants it. On AMD's processors F3 makes either LOOPE, and F2 LOOPNE.
    func loopCondition(_ i: Instruction, _ wanted: Bool) -> Bool {
        zeroFlag == (i.prefixes.contains(.rep) || wanted && !i.prefixes.contains(.repne))
    }

    /// PAUSE: lets other threads run when the host is short of cores.
    func spinHint() {
        s.pauseCount &+= 1
        if s.pauseCount & 63 == 0, owner.vcpuCount > 1 { HostThread.yield() }
    }
}
