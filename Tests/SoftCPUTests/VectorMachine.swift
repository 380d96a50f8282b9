import LinuxHost
import X86Architecture

@testable import SoftCPU

/// A bare `CPU` in 64-bit mode whose linear addresses are host addresses, to run single bodies.
final class VectorMachine {
    private let storage: MemoryMapping
    let cpu: CPU
    private let opAddress: UInt
    var op: UInt { opAddress }
    private let instructionAddress: UInt

    init(memory: UnsafeMutableRawPointer, size: Int) throws {
        try VectorLowering.start()
        let windows = StateWindows.count * StateWindows.stride
        storage = try MemoryMapping(anonymous: windows + (1 << 20))
        let base = UInt(bitPattern: storage.base)
        let state = StateWindows.stateBytes - StateWindows.stateSize
        (storage.base + state).initializeMemory(as: CPUState.self, to: CPUState())
        cpu = CPU(address: base + UInt(state))
        cpu.s.tlb = base + UInt(StateWindows.stateBytes)
        cpu.s.executionTLB = base + UInt(windows)
        cpu.s.xsave = cpu.s.executionTLB + UInt(TLB.executionBytes)
        opAddress = cpu.s.xsave + 4096
        instructionAddress = opAddress + 256
        precondition(instructionAddress + 256 < base + UInt(storage.size))
        cpu.flushTLB()
        for page in 0..<size / 4096 {
            let linear = UInt64(UInt(bitPattern: memory)) + UInt64(page * 4096)
            CPU.entry(cpu.s.tlb, linear).pointee = TLBEntry(
                readTag: linear, writeTag: linear, addend: 0, host: UInt(linear))
        }
        cpu.s.cr0 = CR0.protectionEnable | CR0.numericError | CR0.monitorCoprocessor
        cpu.s.cr4 = CR4.osFXSR | CR4.osXMMExceptions | CR4.osXSAVE
        cpu.s.xcr0 = 7
        cpu.s.efer = EFER.longModeActive | EFER.longModeEnable
        cpu.s.linearMask = .max
        cpu.s.flatSegments = .max
        cpu.s.modeKey = UInt32(CodeSize.bits64.rawValue)
        cpu.s.segments[Segment.cs].selector = 0x33
    }

    func load(_ state: NativeState) {
        let image = cpu.extended
        for offset in 0..<512 { image.store(state.legacy[offset], offset) }
        for register in 0..<16 {
            for byte in 0..<16 { image.store(state.ymm[register * 32 + byte], 160 + register * 16 + byte) }
            for byte in 0..<16 {
                image.store(state.ymm[register * 32 + 16 + byte], 576 + register * 16 + byte)
            }
        }
        image.normalise()
        for register in 0..<16 { cpu.setGPR(register, state.gpr[register]) }
        cpu.setRFlags(state.flags)
    }

    func store(_ like: NativeState) -> NativeState {
        var state = like
        let image = cpu.extended
        for offset in 0..<512 { state.legacy[offset] = image.load(UInt8.self, offset) }
        for register in 0..<16 {
            for byte in 0..<16 {
                state.ymm[register * 32 + byte] = image.load(UInt8.self, 160 + register * 16 + byte)
            }
            for byte in 0..<16 {
                state.ymm[register * 32 + 16 + byte] = image.load(UInt8.self, 576 + register * 16 + byte)
            }
        }
        for register in 0..<16 { state.gpr[register] = cpu.gpr(register) }
        state.flags = cpu.statusFlags
        return state
    }

    /// Executes one instruction at `address` by `handler`, or by the table. Returns the fault, if any.
    func execute(_ instruction: Instruction, at address: UInt64, by handler: Handler? = nil) -> Fault? {
        UnsafeMutablePointer<Instruction>(bitPattern: instructionAddress)!.initialize(to: instruction)
        var op = MicroOp(handler: VectorBodies.planned)
        op.length = instruction.length
        _ = Lowering.lower(
            instruction, Lowering.Context(is64Bit: cpu.is64Bit, isLinkable: false, pageOffset: 0), into: &op)
        op.immediate =
            instruction.attributes.isDisjoint(with: VectorLowering.attributes)
            ? 0 : VectorLowering.prepare(instruction, cpu: cpu)
        op.instruction = instructionAddress
        UnsafeMutablePointer<MicroOp>(bitPattern: opAddress)!.initialize(to: op)
        cpu.setRegister(UInt16(Register.blockRIP * 8), address)
        let body = handler ?? VectorBodies.table.first { $0.0 == instruction.mnemonic }!.1
        if body(cpu.address, opAddress) == Step.fault { return Fault(raw: cpu.s.pendingFault) }
        return nil
    }
}

extension Fault {
    init(raw: UInt64) {
        self = Fault(
            ExceptionVector(rawValue: UInt8(truncatingIfNeeded: raw))!, UInt32(truncatingIfNeeded: raw >> 32))
    }
}
