/// The part of `CPUState` that only translated code and its callers use. Emitted code knows its offsets.
///
/// Confinement: the vCPU's thread.
struct TranslatedState: BitwiseCopyable {
    /// `CPUState` as Swift sees it.
    var state: UInt = 0
    /// The host's stack pointer of the call into translated code.
    var hostStack: UInt = 0
    /// The return stack's pointer while Swift code runs.
    var returnStack: UInt = 0
    /// Address of the table of `CodePlace`s.
    var places: UInt = 0
    /// AX at the exit: status flags as LAHF and SETO AL left them.
    var flags: UInt64 = 0
    /// Address of the words behind the call that left translated code.
    var exitData: UInt = 0
    /// The linear address that a fill is for.
    var fillLinear: UInt64 = 0
    /// Which return stack is in use: 0 the kernel's, 1 the user's.
    var stackIndex: UInt32 = 0
    /// MXCSR for Swift code.
    var hostMXCSR: UInt32 = 0x1F80
    /// Instructions, blocks and probes, in code that counts.
    var instructionCount: UInt64 = 0
    var blockCount: UInt64 = 0
    var probeCount: UInt64 = 0
    /// Probes that missed, and bodies called.
    var missCount: UInt64 = 0
    var escapeCount: UInt64 = 0
    /// C functions that emitted code calls.
    var fill: UInt = 0
    var escape: UInt = 0
    var prepareVectors: UInt = 0
}

/// The part of it that emitted code uses all the time.
///
/// Confinement: the vCPU's thread, except `callLimit`, which any thread raises.
struct NearState: BitwiseCopyable {
    /// Translated code asks Swift to look when RSP is below: the return stack's limit, or all ones when
    /// something wants attention.
    var callLimit: UInt = .max
    /// Linear address of the page whose code runs, if it is code for anywhere, below the number of its code
    /// segment (`CPU.targetKey`).
    var codePage: UInt64 = 0
    /// A value that waits while a second memory operand is found.
    var spill: UInt64 = 0
    /// A call's target, while the return address is pushed; after a body that ended its block, where to go
    /// on. A key (`CPU.targetKey`).
    var targetAddress: UInt64 = 0
    /// Whether the vector registers hold the guest's: 0 no, 1 SSE may be used, 2 AVX too.
    var vectorLevel: UInt32 = 0
    /// Whether the x87 registers hold the guest's; the vector registers then do too.
    var x87Level: UInt32 = 0
    /// Where the instruction behind the last STI starts in its page, or all ones: a way out that leads there
    /// must hold interrupts back for it.
    var shadowOffset: UInt32 = .max
}

/// Byte offsets of `CPUState`'s fields from `HostRegister.window`.
struct StateLayout: Sendable {
    static let shared = StateLayout()

    private static func offset(_ path: PartialKeyPath<CPUState>) -> Int32 {
        guard let offset = MemoryLayout<CPUState>.offset(of: path) else {
            preconditionFailure("a stored field of CPUState")
        }
        return Int32(offset - StateWindows.stateSize)
    }
    private static func translated(_ path: PartialKeyPath<TranslatedState>) -> Int32 {
        guard let offset = MemoryLayout<TranslatedState>.offset(of: path) else {
            preconditionFailure("a stored field of TranslatedState")
        }
        return Self.offset(\CPUState.translated) + Int32(offset)
    }
    private static func near(_ path: PartialKeyPath<NearState>) -> Int32 {
        guard let offset = MemoryLayout<NearState>.offset(of: path) else {
            preconditionFailure("a stored field of NearState")
        }
        return Self.offset(\CPUState.near) + Int32(offset)
    }

    let gpr = offset(\.gpr)
    let effectiveBase = offset(\.effectiveBase)
    let codeBase = offset(\.effectiveBase) + Int32(Segment.cs) * 8
    let codeSegment = offset(\.codeSegment)
    let readLimits = offset(\.readLimits)
    let writeLimits = offset(\.writeLimits)
    let rip = offset(\.rip)
    let tlb = offset(\.tlb)
    let xsave = offset(\.xsave)
    let otherFlags = offset(\.otherFlags)
    let privilege = offset(\.cpl)
    let interruptHeld = offset(\.interruptHeld)
    let kernelGSBase = offset(\.kernelGSBase)
    /// The base of GS in `segments`.
    let gsBase = offset(\.segments) + Int32(Segment.gs * MemoryLayout<SegmentCache>.stride)
    let state = translated(\.state)
    let hostStack = translated(\.hostStack)
    let returnStack = translated(\.returnStack)
    let callLimit = near(\.callLimit)
    let codePage = near(\.codePage)
    let flags = translated(\.flags)
    let exitData = translated(\.exitData)
    let spill = near(\.spill)
    let fillLinear = translated(\.fillLinear)
    let targetAddress = near(\.targetAddress)
    let vectorLevel = near(\.vectorLevel)
    let x87Level = near(\.x87Level)
    let hostMXCSR = translated(\.hostMXCSR)
    let instructionCount = translated(\.instructionCount)
    let blockCount = translated(\.blockCount)
    let probeCount = translated(\.probeCount)
    let shadowOffset = near(\.shadowOffset)
    let fill = translated(\.fill)
    let escape = translated(\.escape)
    let prepareVectors = translated(\.prepareVectors)

    func register(_ number: UInt8) -> HostOperand { .state(gpr + Int32(number) * 8) }

    /// The selector in a segment register.
    func selector(_ segment: UInt8) -> HostOperand {
        let field = MemoryLayout<SegmentCache>.offset(of: \.selector).unsafelyUnwrapped
        let place = Int(segment) * MemoryLayout<SegmentCache>.stride + field
        return .state(Self.offset(\.segments) + Int32(place))
    }
}
