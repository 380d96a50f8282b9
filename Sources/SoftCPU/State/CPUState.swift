import X86Architecture

/// A segment register with its hidden part, in the form that the engine computes with.
struct SegmentCache: BitwiseCopyable {
    var base: UInt64 = 0
    /// In bytes, granularity applied.
    var limit: UInt32 = 0xFFFF
    /// See `SegmentState.attributes`.
    var attributes: UInt32 = 0x93
    var selector: UInt16 = 0
}

/// Everything that one virtual CPU's instructions read and write, in one block of raw memory at a fixed
/// address: the interpreter reaches it through `CPU`, emitted code by fixed offsets.
///
/// Confinement: the vCPU's thread, except `attention`, which any thread sets atomically.
struct CPUState: BitwiseCopyable {
    /// The next instruction's offset in CS; exact between blocks and after a fault, see `MicroOp.offset`.
    var rip: UInt64 = 0xFFF0

    // MARK: Flags (Flags.swift)
    /// Result of the last flag-setting operation, sign-extended to 64 bits.
    var lazyResult: UInt64 = 1
    /// Carries of that operation and corrections of SF and PF.
    var lazyCarries: UInt64 = 0
    /// RFLAGS without OF, SF, ZF, AF, PF and CF; bit 1 is set.
    var otherFlags: UInt64 = 2

    // MARK: Addressing, derived from segments and mode
    /// Segment bases as addressing uses them: zero for ES, CS, SS and DS in 64-bit mode. Slot 6 is zero.
    var effectiveBase: InlineArray<8, UInt64> = .init(repeating: 0)
    /// Bit n: accesses through segment n need no limit or type check.
    var flatSegments: UInt32 = 0
    /// By segment outside 64-bit mode: the last offset that translated code may read, and write; -1 when the
    /// interpreter has to look at each access.
    var readLimits: InlineArray<8, Int64> = .init(repeating: -1)
    var writeLimits: InlineArray<8, Int64> = .init(repeating: -1)
    /// The number of the code segment (CodeSegments.swift) in the upper half, 0 for flat code.
    var codeSegment: UInt64 = 0
    /// Not zero: the run loop must look at interrupts, exits and TLB requests before the next block.
    var attention: UInt32 = 0
    /// All ones in 64-bit mode, else 0xFFFF_FFFF.
    var linearMask: UInt64 = 0xFFFF_FFFF
    /// RSP bits that stack operations use: 0xFFFF, 0xFFFF_FFFF or all.
    var stackMask: UInt64 = 0xFFFF
    /// What decoded code depends on: `CodeSize` in bits 0..1, single step in bit 2, CS without a limit below
    /// 4 GiB in bit 3, and what ModeState.swift says.
    var modeKey: UInt32 = 0
    /// 0 kernel (SMAP enforced), 1 kernel that may touch user pages, 2 user, 3 user with alignment
    /// checks: index of the current TLB.
    var tlbContext: UInt32 = 0
    /// Address of the current context's first `TLBEntry`.
    var tlb: UInt = 0

    /// By window: which 64ths of the TLB's entries may be filled (TLB.swift); the same for fetches.
    var tlbUsed: InlineArray<19, UInt64> = .init(repeating: .max)
    var executionUsed: UInt64 = .max
    /// By window: `CPU.largeRegion` of the parts of larger pages that it may hold.
    var tlbLarge: InlineArray<19, UInt64> = .init(repeating: 0)
    /// Windows that may hold parts of pages of 1 GiB, a bit each.
    var tlbGiant: UInt32 = 0

    // MARK: Block chaining (RunLoop.swift)
    /// Set by a direct branch: the next block if already linked, else 0.
    var nextBlock: UInt = 0
    /// Address of the `MicroOp.link` to fill once the target is known; 0 when the branch must not be linked.
    var linkSlot: UInt = 0
    var instructionCount: UInt64 = 0
    /// `Fault.raw` of the instruction that returned `Step.fault`.
    var pendingFault: UInt64 = 0

    // MARK: System registers
    var cr0: UInt64 = 0x6000_0010
    var cr2: UInt64 = 0
    var cr3: UInt64 = 0
    var cr4: UInt64 = 0
    var efer: UInt64 = 0
    var xcr0: UInt64 = 1
    /// The four page-directory-pointer entries that MOV to CR3 loads under PAE paging (SDM vol. 3 §4.4.1).
    var pdpte: InlineArray<4, UInt64> = .init(repeating: 0)
    /// DR0..DR3, unused, unused, DR6, DR7.
    var dr: InlineArray<8, UInt64> = [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    var segments: InlineArray<8, SegmentCache> = .init(repeating: SegmentCache())
    var gdtBase: UInt64 = 0
    var idtBase: UInt64 = 0
    var gdtLimit: UInt32 = 0xFFFF
    var idtLimit: UInt32 = 0xFFFF
    var cpl: UInt8 = 0
    /// Interrupts and debug traps are held back for one instruction (STI, MOV SS, POP SS).
    var interruptShadow: Bool = false
    /// The shadow also holds back debug traps and NMIs (MOV SS, POP SS only).
    var debugShadow: Bool = false
    var nmiBlocked: Bool = false
    var nmiPending: Bool = false
    var activity: VCPUState.Activity = .running
    /// The running instruction changed something that later instructions of the block depend on.
    var endBlock: Bool = false
    /// A store hit a page with decoded code: the running block may be stale.
    var codeModified: Bool = false
    /// Whole flushes and entries filled, for `--stats`.
    var flushCount: UInt64 = 0
    var fillCount: UInt64 = 0
    /// PAUSE instructions so far.
    var pauseCount: UInt32 = 0
    /// RF was set by this very instruction (IRET) and must survive it.
    var keepResumeFlag: Bool = false
    /// The running instruction was INT or SYSCALL, after which TF, now clear, takes no trap.
    var suppressStep: Bool = false
    /// Triple fault: the run loop reports it.
    var shutdown: Bool = false
    /// DR6 bits of data and I/O breakpoints that the running instruction hit.
    var pendingDebug: UInt64 = 0

    // MARK: Model-specific registers
    var star: UInt64 = 0
    var lstar: UInt64 = 0
    var cstar: UInt64 = 0
    var syscallMask: UInt64 = 0
    var kernelGSBase: UInt64 = 0
    var sysenterCS: UInt64 = 0
    var sysenterESP: UInt64 = 0
    var sysenterEIP: UInt64 = 0
    var tscAuxiliary: UInt64 = 0
    /// Added to the host's time-stamp counter.
    var tscOffset: UInt64 = 0
    var tscAdjust: UInt64 = 0
    var pat: UInt64 = 0x0007_0406_0007_0406
    var miscEnable: UInt64 = 1
    var mtrrDefaultType: UInt64 = 0
    /// Fixed ranges (11), then PHYSBASE/PHYSMASK pairs (8 x 2).
    var mtrr: InlineArray<27, UInt64> = .init(repeating: 0)
    var speculationControl: UInt64 = 0
    var kvmSystemTime: UInt64 = 0
    var kvmWallClock: UInt64 = 0
    var kvmEndOfInterrupt: UInt64 = 0
    var kvmAsyncPageFault: UInt64 = 0
    var kvmStealTime: UInt64 = 0

    // MARK: Elsewhere
    /// Address of the guest's XSAVE image in standard format (64-byte aligned, `ExtendedState.size` bytes).
    var xsave: UInt = 0
    /// Address of the block table's first slot (`BlockCache`).
    var blockTable: UInt = 0
    /// Address of the first `ExecutionTLBEntry`.
    var executionTLB: UInt = 0
    /// The `SoftVCPU` that owns this state, unretained.
    var owner: UInt = 0
    /// Exception being delivered, for double faults; 0xFF none.
    var deliveringVector: UInt8 = 0xFF
    /// Scratch words for emitted one-instruction code: operand buffer of 64 bytes, MXCSR and result words.
    var scratch: InlineArray<16, UInt64> = .init(repeating: 0)
    var translated = TranslatedState()
    /// By window: which 64ths of the branch targets may be filled (BranchTargets.swift).
    var targetsUsed: InlineArray<19, UInt64> = .init(repeating: .max)
    /// The upper halves of RAX to RDI have been zero since 64-bit mode was left.
    var isNarrow: Bool = false
    /// Windows whose targets are not 64-bit code, a bit each.
    var targetsAreNarrow: UInt32 = 0
    /// Mappings changed: what the kernel's (1) or the user's (2) return stack holds may be wrong, and
    /// branches between the kernel's pages (4).
    var staleReturns: UInt8 = 0

    // MARK: Address spaces (AddressSpaces.swift)
    var slot: UInt32 = 0
    var slotClock: UInt64 = 0
    /// The process-context identifier of each slot; all ones: none yet.
    var slotKeys: InlineArray<8, UInt64> = .init(repeating: .max)
    /// Clock of the last use; 0 never.
    var slotUses: InlineArray<8, UInt64> = .init(repeating: 0)
    /// What marks fetches by user code, by slot, and for the current one.
    var userTags: InlineArray<8, UInt64> = [1, 2, 3, 4, 5, 6, 7, 8]
    var userTag: UInt64 = 1
    var lastUserTag: UInt64 = 8
    /// Supervisor translations that are not global may be cached: so many since they were forgotten, or one
    /// more than there is room for, and of what linear addresses.
    var localKernelCount: UInt32 = 0
    var localKernel: InlineArray<32, UInt64> = .init(repeating: 0)
    static let localKernelRoom: UInt32 = 32
    /// Supervisor code was fetched by such a translation: its branches to other pages are not linked.
    var codeIsLocal: Bool = false
    /// An interrupt may have been held back by RFLAGS.IF: whoever sets it must look.
    var interruptHeld: Bool = true
    /// Protection-key rights of user and of supervisor pages (ProtectionKeys.swift).
    var pkru: UInt32 = 0
    var pkrs: UInt32 = 0
    /// The guest may end the interrupt in service in its own memory (ParavirtualEndOfInterrupt.swift).
    var endIsDeferred: Bool = false
    /// Interrupts that ended so, for `--stats`.
    var endsInMemory: UInt64 = 0
    /// What runs is a trial (LockstepTrial.swift): nothing outside this state may change.
    var inTrial: Bool = false
    /// Other vCPUs may decode code from pages that this one has stored to.
    var hasOthers = false
    /// Host addresses of the first page of device memory in a TLB, and of what follows the last.
    var directStart: UInt = .max
    var directEnd: UInt = 0
    /// Guest-physical pages that are no memory of that kind, by their number's low bits; all ones: none.
    var askedPages: InlineArray<16, UInt64> = .init(repeating: .max)
    /// A debugger watches memory: accesses take the slow path, and instructions run one by one.
    var debuggerWatches: Bool = false
    /// A debugger steps: repetitions of a string instruction run one by one.
    var debuggerSteps: Bool = false

    /// Code segments by number, and the number that was given last.
    var codeSegments: InlineArray<64, CodeSegment> = .init(repeating: CodeSegment())
    var lastCodeSegment: UInt32 = 0

    // MARK: At the end, where translated code reaches them by a displacement of one byte (StateWindows.swift)
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8..R15; slot 16 is always zero (no base, no index) and slot
    /// 17 holds the RIP of the running block's first instruction (RIP-relative operands).
    var gpr: InlineArray<18, UInt64> = .init(repeating: 0)
    var near = NearState()
}
