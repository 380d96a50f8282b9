import X86Architecture

/// The part of a vCPU's state that instructions of a trial read and change, to put back and to compare.
struct LockstepState {
    private var gpr: InlineArray<18, UInt64>
    var rip: UInt64
    private var lazyResult: UInt64
    private var lazyCarries: UInt64
    private var otherFlags: UInt64
    private var effectiveBase: InlineArray<8, UInt64>
    private var segments: InlineArray<8, SegmentCache>
    private var kernelGSBase: UInt64
    private var cr2: UInt64
    private var pkru: UInt32
    private var status: UInt64
    private var image: [UInt64]

    // Between instructions.
    private var shadows: (interrupt: Bool, debug: Bool, held: Bool, keepResume: Bool, step: Bool)
    private var pending: (fault: UInt64, debug: UInt64)
    private var counts: (translated: UInt64, pauses: UInt32)

    /// 64-bit words of the XSAVE image.
    private static let imageWords = ExtendedState.size / 8

    init(_ cpu: CPU) {
        gpr = cpu.s.gpr
        rip = cpu.s.rip
        lazyResult = cpu.s.lazyResult
        lazyCarries = cpu.s.lazyCarries
        otherFlags = cpu.s.otherFlags
        effectiveBase = cpu.s.effectiveBase
        segments = cpu.s.segments
        kernelGSBase = cpu.s.kernelGSBase
        cr2 = cpu.s.cr2
        pkru = cpu.s.pkru
        status = cpu.statusFlags
        let extended = cpu.extended
        image = (0..<Self.imageWords).map { extended.load(UInt64.self, $0 * 8) }
        shadows = (
            cpu.s.interruptShadow, cpu.s.debugShadow, cpu.s.interruptHeld, cpu.s.keepResumeFlag,
            cpu.s.suppressStep
        )
        pending = (cpu.s.pendingFault, cpu.s.pendingDebug)
        counts = (cpu.s.translated.instructionCount, cpu.s.pauseCount)
    }

    /// Puts all of it back.
    func restore(_ cpu: CPU) {
        cpu.s.gpr = gpr
        cpu.s.rip = rip
        cpu.s.lazyResult = lazyResult
        cpu.s.lazyCarries = lazyCarries
        cpu.s.otherFlags = otherFlags
        cpu.s.effectiveBase = effectiveBase
        cpu.s.segments = segments
        cpu.s.kernelGSBase = kernelGSBase
        cpu.s.cr2 = cr2
        cpu.s.pkru = pkru
        let extended = cpu.extended
        for word in 0..<Self.imageWords { extended.store(image[word], word * 8) }
        cpu.s.interruptShadow = shadows.interrupt
        cpu.s.debugShadow = shadows.debug
        cpu.s.interruptHeld = shadows.held
        cpu.s.keepResumeFlag = shadows.keepResume
        cpu.s.suppressStep = shadows.step
        cpu.s.pendingFault = pending.fault
        cpu.s.pendingDebug = pending.debug
        cpu.s.translated.instructionCount = counts.translated
        cpu.s.pauseCount = counts.pauses
        cpu.s.endBlock = false
        cpu.s.codeModified = false
        cpu.s.nextBlock = 0
        cpu.s.linkSlot = 0
    }

    private static let registers = [
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14",
        "R15",
    ]
    private static let segmentNames = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"]

    /// What differs, this state being the translated code's: one line each. `flags`: the status flags that
    /// count; `withCR2`: an exception reports it.
    func differences(_ other: LockstepState, flags: UInt64, withCR2: Bool) -> [String] {
        var found: [String] = []
        func check(_ name: String, _ a: UInt64, _ b: UInt64) {
            if a != b {
                found.append(
                    "\(name): \(String(a, radix: 16)), interpreter \(String(b, radix: 16))")
            }
        }
        check("RIP", rip, other.rip)
        for number in 0..<16 { check(Self.registers[number], gpr[number], other.gpr[number]) }
        check("status flags", status & flags, other.status & flags)
        check("other flags", otherFlags, other.otherFlags)
        for number in 0..<8 {
            check("\(Self.segmentNames[number]) base", segments[number].base, other.segments[number].base)
            check("\(Self.segmentNames[number]) address", effectiveBase[number], other.effectiveBase[number])
        }
        check("kernel GS base", kernelGSBase, other.kernelGSBase)
        check("PKRU", UInt64(pkru), UInt64(other.pkru))
        if withCR2 { check("CR2", cr2, other.cr2) }
        for word in 0..<Self.imageWords {
            let mask = Self.imageMask(word)
            check(Self.imageName(word), image[word] & mask, other.image[word] & mask)
        }
        return found
    }

    /// The bits of a word of the image that count: not FIP, FDP and FOP, nor what belongs to no register.
    private static func imageMask(_ word: Int) -> UInt64 {
        switch word {
        case 0: return 0xFF_FFFF_FFFF
        case 1, 2: return 0
        case 3: return 0xFFFF
        case 4..<20: return word & 1 == 0 ? .max : 0xFFFF
        case 20..<52, 72..<104: return .max
        default: return 0
        }
    }

    private static func imageName(_ word: Int) -> String {
        switch word {
        case 0: return "x87 control, status and tags"
        case 3: return "MXCSR"
        case 4..<20: return "ST\((word - 4) / 2), word \(word & 1)"
        case 20..<52: return "XMM\((word - 20) / 2), word \(word & 1)"
        default: return "YMM\((word - 72) / 2), word \(2 + word & 1)"
        }
    }
}
