import CGate
import Glibc
import Synchronization

/// Registers as the host's instructions see them.
struct NativeState: Equatable {
    /// FXSAVE image, 64-bit format.
    var legacy = [UInt8](repeating: 0, count: 512)
    /// YMM0..YMM15.
    var ymm = [UInt8](repeating: 0, count: 512)
    /// RAX..R15; RSP is ignored.
    var gpr = [UInt64](repeating: 0, count: 16)
    var flags: UInt64 = 2
    var raisedSIMD = false
}

/// Executes instructions on the host: loads every register, runs the original bytes, stores every register.
/// Shares nothing with the thunks under test.
final class NativeMachine {
    /// Code page, then register file, then guest memory of `memorySize` bytes.
    let base: UnsafeMutableRawPointer
    static let memorySize = 3 * 4096
    private static let fileOffset = 4096
    private static let ymmOffset = 512, gprOffset = 1024, flagsOffset = 1152, rspOffset = 1160,
        mxcsrOffset = 1168

    /// One machine runs at a time.
    private static let running = Mutex<Void>(())
    /// Where a SIGFPE resumes, and whether one came.
    nonisolated(unsafe) static var resume: UInt = 0
    nonisolated(unsafe) static var signalled = false

    init() {
        let size = 4096 * 2 + Self.memorySize
        base = mmap(nil, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        precondition(base != MAP_FAILED)
        var action = sigaction()
        action.__sigaction_handler.sa_sigaction = { _, _, context in
            let frame = context!.assumingMemoryBound(to: ucontext_t.self)
            frame.pointee.uc_mcontext.gregs.16 = greg_t(NativeMachine.resume)
            NativeMachine.signalled = true
        }
        action.sa_flags = SA_SIGINFO
        sigaction(SIGFPE, &action, nil)
    }

    deinit { munmap(base, 4096 * 2 + Self.memorySize) }

    var memory: UnsafeMutableRawPointer { base + 8192 }
    private var file: UnsafeMutableRawPointer { base + Self.fileOffset }

    private var code: [UInt8] = []
    private var resumeAddress: UInt = 0

    private func rip(_ opcode: [UInt8], _ reg: UInt8, _ offset: Int) {
        code += opcode + [0x05 | reg << 3]
        let distance = Int32(Self.fileOffset + offset - (code.count + 4))
        withUnsafeBytes(of: distance) { code += $0 }
    }

    /// Address that the instruction will have.
    private(set) var instructionAddress: UInt64 = 0

    private func assemble(_ instruction: [UInt8]) {
        code = [0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57]
        rip([0x48, 0x89], 4, Self.rspOffset)
        rip([0x48, 0x0F, 0xAE], 1, 0)
        for register in 0..<16 as Range<UInt8> {
            rip([0xC5, register < 8 ? 0xFC : 0x7C, 0x10], register & 7, Self.ymmOffset + Int(register) * 32)
        }
        rip([0xFF], 6, Self.flagsOffset)
        code += [0x9D]
        for register in 0..<16 as Range<UInt8> where register != 4 {
            rip([register < 8 ? 0x48 : 0x4C, 0x8B], register & 7, Self.gprOffset + Int(register) * 8)
        }
        instructionAddress = UInt64(UInt(bitPattern: base)) + UInt64(code.count)
        code += instruction
        resumeAddress = UInt(bitPattern: base) + UInt(code.count)
        for register in 0..<16 as Range<UInt8> where register != 4 {
            rip([register < 8 ? 0x48 : 0x4C, 0x89], register & 7, Self.gprOffset + Int(register) * 8)
        }
        code += [0x9C]
        rip([0x8F], 0, Self.flagsOffset)
        for register in 0..<16 as Range<UInt8> {
            rip([0xC5, register < 8 ? 0xFC : 0x7C, 0x11], register & 7, Self.ymmOffset + Int(register) * 32)
        }
        rip([0x48, 0x0F, 0xAE], 0, 0)
        code += [0xDB, 0xE3, 0xC5, 0xF8, 0x77, 0xFC]
        rip([0x0F, 0xAE], 2, Self.mxcsrOffset)
        code += [0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5D, 0x5B, 0xC3]
        precondition(code.count <= 4096)
        code.withUnsafeBytes { base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    }

    /// Learns `instructionAddress` without running anything.
    func prepare(_ instruction: [UInt8]) { assemble(instruction) }

    func run(_ instruction: [UInt8], _ state: NativeState) -> NativeState {
        assemble(instruction)
        state.legacy.withUnsafeBytes { file.copyMemory(from: $0.baseAddress!, byteCount: 512) }
        state.ymm.withUnsafeBytes {
            (file + Self.ymmOffset).copyMemory(from: $0.baseAddress!, byteCount: 512)
        }
        state.gpr.withUnsafeBytes {
            (file + Self.gprOffset).copyMemory(from: $0.baseAddress!, byteCount: 128)
        }
        file.storeBytes(of: state.flags | 0x202, toByteOffset: Self.flagsOffset, as: UInt64.self)
        file.storeBytes(of: 0x1F80, toByteOffset: Self.mxcsrOffset, as: UInt32.self)
        var result = NativeState()
        result.raisedSIMD = Self.running.withLock { _ in
            Self.resume = resumeAddress
            Self.signalled = false
            _ = ospite_call1(base, file)
            return Self.signalled
        }
        result.legacy = [UInt8](UnsafeRawBufferPointer(start: file, count: 512))
        result.ymm = [UInt8](UnsafeRawBufferPointer(start: file + Self.ymmOffset, count: 512))
        result.gpr = (0..<16).map { file.load(fromByteOffset: Self.gprOffset + $0 * 8, as: UInt64.self) }
        result.gpr[4] = state.gpr[4]
        result.flags = file.load(fromByteOffset: Self.flagsOffset, as: UInt64.self)
        return result
    }
}
