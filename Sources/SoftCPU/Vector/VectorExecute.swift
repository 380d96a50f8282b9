import CGate
import X86Architecture

/// Runs a vector or x87 body: like `stepAny`, with the instruction's plan.
@inline(__always)
func stepVector(
    _ cpu: UInt, _ op: UInt, _ body: (CPU, borrowing Instruction, PlanView, Op) throws(Fault) -> Void
) -> UInt32 {
    let cpu = CPU(address: cpu), op = Op(address: op)
    cpu.s.rip = cpu.nextRIP(op)
    do throws(Fault) {
        try body(cpu, op.instruction, PlanView(op), op)
    } catch {
        cpu.s.pendingFault = error.raw
        return Step.fault
    }
    if cpu.s.codeModified {
        cpu.s.linkSlot = 0
        cpu.s.nextBlock = 0
        return Step.ended
    }
    return Step.next
}

/// Executes SSE, AVX and MMX instructions by their thunks.
extension CPU {
    /// Calls emitted code on this vCPU's operand block.
    @inline(__always) func call(_ code: UInt) {
        // SAFETY: `code` is a finished thunk; it writes nothing but this vCPU's block and image.
        _ = unsafe ospite_call1(
            UnsafeRawPointer(bitPattern: code).unsafelyUnwrapped,
            UnsafeMutableRawPointer(bitPattern: extended.block.address).unsafelyUnwrapped)
    }

    @inline(__always) func check(_ traits: VectorPlan.Traits) throws(Fault) {
        if traits.contains(.avx) {
            try checkAVX()
        } else if traits.contains(.sse) {
            try checkSSE()
        }
        if traits.contains(.mmx) { try checkMMX() }
    }

    func executeVector(_ i: borrowing Instruction, _ plan: PlanView) throws(Fault) {
        let traits = plan.p.traits
        try check(traits)
        let block = extended.block
        let size = Int(plan.p.memorySize)
        var linear: UInt64 = 0
        if size != 0 {
            let writes = traits.contains(.writesMemory)
            linear = try vectorAddress(i, size, alignmentMask: UInt64(plan.p.alignmentMask), write: writes)
            if traits.contains(.readsMemory) {
                try fetchOperand(linear, size, i.segment, to: OperandBlock.memory)
            }
            if writes { _ = try writableHost(linear, size, i.segment) }
        }
        collect(plan.p.operand0, i.operand0.register)
        if plan.p.operandCount > 1 { collect(plan.p.operand1, i.operand1.register) }
        if plan.p.operandCount > 2 { collect(plan.p.operand2, i.operand2.register) }
        if plan.p.operandCount > 3 { collect(plan.p.operand3, i.operand3.register) }
        if traits.contains(.stringCompare) {
            // The lengths: EAX and EDX, or RAX and RDX with W.
            block.store(gpr(Register.rax), OperandBlock.rax)
            block.store(gpr(Register.rdx), OperandBlock.rdx)
        }
        // Even when a SIMD exception follows.
        if traits.contains(.mmx) { enterMMX() }
        if traits.contains(.mxcsr) { try callWithMXCSR(plan.p.code) } else { call(plan.p.code) }
        if traits.contains(.writesMemory) {
            try storeOperand(linear, size, i.segment, from: OperandBlock.memory)
        }
        if plan.p.operand0.isWritten { commit(plan.p.operand0, i.operand0.register) }
        if traits.contains(.writesFlags) { setStatusFlags(block.load(UInt64.self, OperandBlock.flagsOut)) }
        if traits.contains(.stringCompare) { commitStringCompare(traits) }
    }

    @inline(__always) private func collect(_ operand: PlanOperand, _ register: UInt8) {
        let state = extended, block = extended.block, slot = Int(operand.slot)
        switch operand.kind {
        case .xmm: block.store(state.low(register), slot)
        case .ymm:
            block.store(state.low(register), slot)
            block.store(state.high(register), slot + 16)
        case .mmx: block.store(mmx(register), slot)
        case .gpr: block.store(gpr(Int(register)), slot)
        case .other: break
        }
    }

    @inline(__always) private func commit(_ operand: PlanOperand, _ register: UInt8) {
        let state = extended, block = extended.block
        switch operand.kind {
        case .xmm: state.setLow(register, block.load(Half.self, OperandBlock.result))
        case .ymm:
            state.setLow(register, block.load(Half.self, OperandBlock.result))
            state.setHigh(register, block.load(Half.self, OperandBlock.result + 16))
        case .mmx: setMMX(register, block.load(UInt64.self, OperandBlock.result))
        case .gpr: setGPR(Int(register), block.load(UInt64.self, OperandBlock.rax))
        case .other: break
        }
    }

    private func commitStringCompare(_ traits: VectorPlan.Traits) {
        let block = extended.block
        if traits.contains(.writesRCX) {
            setGPR(Register.rcx, block.load(UInt64.self, OperandBlock.rcx))
            return
        }
        extended.setLow(0, block.load(Half.self, OperandBlock.result))
        if traits.contains(.avx) { extended.setHigh(0, block.load(Half.self, OperandBlock.result + 16)) }
    }

    // MARK: SIMD floating-point exceptions

    private enum MXCSR {
        static let flags: UInt32 = 0x3F, allMasked: UInt32 = 0x1F80, flushToZero: UInt32 = 0x8000
        /// Invalid, denormal and divide-by-zero are found before anything is computed.
        static let beforeComputation: UInt32 = 0x07
        static let underflow: UInt32 = 0x10
    }

    /// Runs a floating-point thunk under the guest's rounding and denormal modes with everything masked, and
    /// raises afterwards what the guest has not masked (SDM vol. 1 §11.5).
    ///
    /// Known to differ from the processor: with an unmasked underflow or overflow, PE tells of the masked
    /// result, not of one with an unbounded exponent, and DPPS and DPPD report later steps too.
    private func callWithMXCSR(_ code: UInt) throws(Fault) {
        let state = extended, block = extended.block
        let guest = state.mxcsrValue
        let unmaskedBits = ~(guest >> 7) & MXCSR.flags
        let masked = guest & ~MXCSR.flags | MXCSR.allMasked
        // An unmasked underflow needs no loss of accuracy, unlike a masked one; flush-to-zero shows it.
        let watchesTiny = unmaskedBits & MXCSR.underflow != 0
        block.store(ExtendedState.defaultMXCSR, OperandBlock.hostMXCSR)
        block.store(watchesTiny ? masked | MXCSR.flushToZero : masked, OperandBlock.mxcsrIn)
        call(code)
        var raised = block.load(UInt32.self, OperandBlock.mxcsrOut) & MXCSR.flags
        if raised & unmaskedBits == 0 {
            state.store(guest | raised, ExtendedState.mxcsr)
            return
        }
        if raised & unmaskedBits & MXCSR.beforeComputation != 0 {
            raised &= MXCSR.beforeComputation
        } else if watchesTiny, raised & MXCSR.underflow != 0 {
            block.store(masked & ~MXCSR.flushToZero, OperandBlock.mxcsrIn)
            call(code)
            raised = block.load(UInt32.self, OperandBlock.mxcsrOut) & MXCSR.flags | MXCSR.underflow
        }
        state.store(guest | raised, ExtendedState.mxcsr)
        throw s.cr4 & CR4.osXMMExceptions != 0 ? Fault(.simdFloatingPoint) : .undefinedOpcode
    }
}
