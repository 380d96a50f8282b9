internal import COracle
internal import Glibc
@testable internal import SoftCPU
internal import X86Architecture

/// One field in which the two sides differ.
struct Difference {
    var field: String
    var host: String
    var ours: String
}

/// Compares outcomes by what the architecture promises.
struct Comparison {
    let test: OracleCase
    let host: oracle_state
    let ours: oracle_state
    let mode: OracleMode

    static let registerNames = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
        "r15",
    ]

    private var endRIP: UInt64 {
        (Place.code + UInt64(test.codeOffset + test.bytes.count)) &- Setup.all[test.setup].bases[1]
    }

    /// Ours ends with a breakpoint where the host's trampoline leaves.
    private func vector(_ state: oracle_state) -> UInt32 {
        let isEnd = state.rip == endRIP + 1 || state.rip == Place.gate + 0x1001
        return state.vector == 3 && isEnd ? UInt32(ORACLE_REACHED_END) : state.vector
    }

    /// Status flags that the instruction before `rip` left undefined.
    private func undefinedFlags(at rip: UInt64, reachedEnd: Bool) -> UInt64 {
        if reachedEnd { return test.instructions.last?.undefinedFlags ?? 0 }
        var place = (Place.code + UInt64(test.codeOffset)) &- Setup.all[test.setup].bases[1]
        var undefined: UInt64 = 0
        for instruction in test.instructions {
            if place == rip { return undefined }
            place += UInt64(instruction.bytes.count)
            undefined = instruction.undefinedFlags
        }
        // A jump left the code: whatever any instruction left undefined may be.
        return test.instructions.reduce(0) { $0 | $1.undefinedFlags }
    }

    /// The instruction at an offset in CS.
    private func instruction(at rip: UInt64) -> Instruction? {
        var place = (Place.code + UInt64(test.codeOffset)) &- Setup.all[test.setup].bases[1]
        for instruction in test.instructions {
            if place == rip { return instruction.known }
            place += UInt64(instruction.bytes.count)
        }
        return nil
    }

    private func isPagewise(at rip: UInt64) -> Bool {
        guard let culprit = instruction(at: rip) else { return false }
        return ModelSpecific.pagewise.contains { $0.0 == culprit.mnemonic }
    }

    /// Whether the case came to a point where processors differ and the manuals leave it open.
    var isModelSpecific: Bool {
        let hostVector = vector(host), ourVector = vector(ours)
        if !ModelSpecific.hostIsAMD,
            test.instructions.contains(where: {
                ModelSpecific.isOnlyAMD(InstructionRow(index: $0.row).mnemonic)
            })
        {
            return true
        }
        if !ModelSpecific.hostIsAMD, isIntels(hostVector, ourVector) { return true }
        if ourVector == 13, hostVector != 13, let loader = instruction(at: ours.rip),
            ModelSpecific.controlLoads.contains(loader.mnemonic)
        {
            return true
        }
        // A hypervisor under the host may lose or delay the trap that POPF switched on.
        if hostVector == 1 || ourVector == 1 { return true }
        // Which misaligned vector operands raise #AC.
        let checked = hostVector == 17 ? host : ours
        if hostVector == 17 || ourVector == 17, let operand = instruction(at: checked.rip),
            RowShape(operand.row).isExtended
        {
            return true
        }
        guard let culprit = instruction(at: host.rip) else { return false }
        if (12...14).contains(hostVector), ModelSpecific.maskedStores.contains(culprit.mnemonic) {
            return true
        }
        return hostVector < 32 && ourVector < 32 && hostVector != 3
            && ModelSpecific.faults.contains { $0.0 == culprit.mnemonic }
    }

    /// The same for a host whose processor is Intel's.
    private func isIntels(_ hostVector: UInt32, _ ourVector: UInt32) -> Bool {
        let known = test.instructions.compactMap(\.known)
        if known.contains(where: { ModelSpecific.isOnlyAMD($0, mode) }) { return true }
        // A locked operand in two cache lines: the host's kernel, or the hypervisor below, may hold either
        // side up for so long that it counts as hung (split_lock_detect).
        let isLocked = known.contains { $0.prefixes.contains(.lock) || $0.mnemonic == .xchg }
        if [hostVector, ourVector].contains(UInt32(ORACLE_HUNG)), isLocked { return true }
        // An operand that goes on at the start of its segment: AMD's raise #GP or #SS, Intel's go on there.
        if mode != .bits64, hostVector == 14, ourVector == 12 || ourVector == 13 { return true }
        return [(hostVector, host.rip), (ourVector, ours.rip)].contains { vector, rip in
            (12...14).contains(vector)
                && instruction(at: rip).map { ModelSpecific.faultsOtherwise($0.mnemonic) } ?? false
        }
    }

    /// Nothing when both agree.
    func differences() -> [Difference] {
        var found: [Difference] = []
        func check(_ field: String, _ a: UInt64, _ b: UInt64) {
            if a != b {
                found.append(Difference(field: field, host: String(a, radix: 16), ours: String(b, radix: 16)))
            }
        }
        let hostVector = vector(host), ourVector = vector(ours)
        check("vector", UInt64(hostVector), UInt64(ourVector))
        if hostVector != ourVector {
            check("error code", UInt64(host.error_code), UInt64(ours.error_code))
            return found + registerDifferences()
        }
        let ended = hostVector == UInt32(ORACLE_REACHED_END)
        if !ended {
            check("rip", host.rip, ours.rip)
            // The kernel hides whether a page of its own is present.
            if hostVector == 14 {
                check("error code", UInt64(host.error_code & ~1), UInt64(ours.error_code & ~1))
            }
            if hostVector == 14 {
                // Operands longer than a register are not always taken from their start.
                let mask: UInt64 = isPagewise(at: host.rip) ? ~0xFFF : .max
                check("cr2", host.cr2 & mask, ours.cr2 & mask)
            }
            let counts = hostVector >= 10 && hostVector <= 13
            if counts { check("error code", UInt64(host.error_code), UInt64(ours.error_code)) }
            check("cs", UInt64(host.selectors.1), UInt64(ours.selectors.1))
        }
        let undefined = undefinedFlags(at: host.rip, reachedEnd: ended)
        // RF, IF and IOPL are the interruption's own.
        let mask = 0x24_4DD5 & ~undefined
        check("rflags", host.rflags & mask, ours.rflags & mask)
        // A null selector's RPL gets lost on the way through the kernel: at a fault, and when another thread
        // runs in between.
        func check(_ field: String, selector a: UInt16, _ b: UInt16) {
            check(field, UInt64(a < 4 ? 0 : a), UInt64(b < 4 ? 0 : b))
        }
        check("es", selector: host.selectors.0, ours.selectors.0)
        check("ss", UInt64(host.selectors.2), ended ? UInt64(host.selectors.2) : UInt64(ours.selectors.2))
        check("ds", selector: host.selectors.3, ours.selectors.3)
        check("fs", selector: host.selectors.4, ours.selectors.4)
        check("gs", selector: host.selectors.5, ours.selectors.5)
        if mode == .bits64 {
            check("fs base", host.fs_base, ours.fs_base)
            check("gs base", host.gs_base, ours.gs_base)
        }
        return found + registerDifferences() + (test.extended ? extendedDifferences() : [])
    }

    private func registerDifferences() -> [Difference] {
        var found: [Difference] = []
        // Upper halves need not outlive 64-bit mode (AMD APM vol. 1 §3.1.2).
        let hasLeft = mode == .bits64 && host.selectors.1 != Setup.user64
        unsafe withUnsafeBytes(of: host.gpr) { a in
            unsafe withUnsafeBytes(of: ours.gpr) { b in
                for number in 0..<16 {
                    // SAFETY: both have sixteen words.
                    let mask = hasLeft && number < 8 ? 0xFFFF_FFFF : mode.registerMask
                    let left = unsafe a.loadUnaligned(fromByteOffset: number * 8, as: UInt64.self) & mask
                    let right = unsafe b.loadUnaligned(fromByteOffset: number * 8, as: UInt64.self) & mask
                    if left == right || mode != .bits64 && number >= 8 { continue }
                    found.append(
                        Difference(
                            field: Self.registerNames[number], host: String(left, radix: 16),
                            ours: String(right, radix: 16)))
                }
            }
        }
        return found
    }

    /// The image without what XSAVE leaves to the processor: pointers, padding, components at rest.
    static func normalised(_ state: oracle_state) -> [UInt64] {
        var words = [UInt64](repeating: 0, count: 104)
        unsafe withUnsafeBytes(of: state.xsave) { source in
            // SAFETY: 832 bytes are 104 words.
            for index in 0..<104 {
                words[index] = unsafe source.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
            }
        }
        let valid = words[64]
        if valid & 1 == 0 {
            words[0] = 0x37F
            for index in 4..<20 { words[index] = 0 }
        }
        if valid & 2 == 0 { for index in 20..<52 { words[index] = 0 } }
        if valid & 4 == 0 { for index in 72..<104 { words[index] = 0 } }
        words[0] &= 0xFF_FFFF_FFFF
        words[1] = 0
        words[2] = 0
        words[3] &= 0xFFFF
        for index in stride(from: 5, to: 20, by: 2) { words[index] &= 0xFFFF }
        for index in 52..<72 { words[index] = 0 }
        return words
    }

    private func extendedDifferences() -> [Difference] {
        var a = Self.normalised(host), b = Self.normalised(ours)
        if host.vector == 19 {
            // Which other flags an unmasked exception leaves behind: invalid and divide by zero are certain.
            a[3] &= ~0x3A
            b[3] &= ~0x3A
        }
        var found: [Difference] = []
        for index in 0..<104 where a[index] != b[index] {
            let field: String
            switch index {
            case 0: field = "x87 control, status, tags"
            case 3: field = "mxcsr"
            case 4..<20: field = "st\((index - 4) / 2)[\((index - 4) % 2)]"
            case 20..<52: field = "xmm\((index - 20) / 2)[\((index - 20) % 2)]"
            default: field = "ymm\((index - 72) / 2)[\(2 + (index - 72) % 2)]"
            }
            if mode != .bits64, index >= 36 && index < 52 || index >= 88 { continue }
            found.append(
                Difference(field: field, host: String(a[index], radix: 16), ours: String(b[index], radix: 16))
            )
        }
        return found
    }

    /// The first bytes of the two windows that differ.
    static func memoryDifferences(_ host: UnsafeRawPointer, _ ours: UnsafeRawPointer) -> [Difference] {
        let size = Int(Place.dataSize)
        // SAFETY: both windows have that many bytes.
        if unsafe memcmp(host, ours, size) == 0 { return [] }
        var found: [Difference] = []
        for offset in stride(from: 0, to: size, by: 8) where found.count < 4 {
            let a = unsafe host.load(fromByteOffset: offset, as: UInt64.self)
            let b = unsafe ours.load(fromByteOffset: offset, as: UInt64.self)
            if a == b { continue }
            let address = String(Place.data + UInt64(offset), radix: 16)
            found.append(
                Difference(
                    field: "memory at \(address)", host: String(a, radix: 16), ours: String(b, radix: 16)))
        }
        return found
    }
}
