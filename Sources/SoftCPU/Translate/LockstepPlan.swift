import X86Architecture

/// What a check has to know of a block: its instructions as the translator sees them.
struct LockstepPlan {
    struct Item {
        var instruction: Instruction
        /// Address of the interpreter's `MicroOp`.
        var op: UInt
        var pageOffset: Int
        var liveBefore: UInt16
        var liveAfter: UInt16
        /// Status flags that instructions of the block left undefined.
        var undefinedBefore: UInt16 = 0
        var undefinedAfter: UInt16 = 0
        /// It reads one of these, or its own result is undefined for some operands.
        var isUndefined = false
        /// It changes nothing but registers and memory, so that it may be tried.
        var isTried: Bool
        /// A near call with a frame on the return stack.
        var isCall: Bool
        var nextOffset: Int { pageOffset + Int(instruction.length) }
    }
    var items: [Item] = []
    /// Translated code executes something that must not be tried without asking.
    var isOutOfReach = false

    /// The instruction at an offset in the page.
    func index(at pageOffset: Int) -> Int? { items.firstIndex { $0.pageOffset == pageOffset } }
    func index(of op: UInt) -> Int? { items.firstIndex { $0.op == op } }

    /// Rows with effects outside registers and memory, or with results that differ each time.
    private static let refused: RowAttributes = [
        .privileged, .undefinedUnlessPrivileged, .protectedModeOnly, .umip, .iopl, .portAccess, .farBranch,
        .endsBlock, .interruptShadow, .serialises, .loadsSegment, .fxState, .xState,
    ]
    private static let refusedMnemonics: Set<Mnemonic> = [
        .syscall, .sysret, .sysenter, .sysexit, .iret, .int, .int1, .int3, .into, .rsm, .cpuid, .rdtsc,
        .rdtscp, .rdpmc, .rdrand, .rdseed, .xgetbv, .monitor, .mwait, .in, .out, .ins, .outs,
        // They store FIP and FDP, which translated code does not keep.
        .fnstenv, .fnsave,
    ]

    /// SHLD and SHRD of 16 bits, whose counts may be larger than that.
    static func isUndefined(_ i: Instruction) -> Bool {
        (i.mnemonic == .shld || i.mnemonic == .shrd) && i.operandSize == 2
    }

    static func isTried(_ i: Instruction, _ treatment: Treatment) -> Bool {
        switch treatment {
        case .clearInterrupts, .setInterrupts, .pushFlags, .swapGS, .nothing, .fence: true
        default:
            i.attributes.isDisjoint(with: refused) && !refusedMnemonics.contains(i.mnemonic)
        }
    }
}

extension Translator {
    /// The plan of the block at `view`.
    func plan(_ view: BlockView, _ source: CodeSource) -> LockstepPlan {
        self.source = source
        decodeBlock(view)
        analyseFlags()
        var plan = LockstepPlan()
        var undefined: UInt16 = 0
        for index in block.indices {
            let item = block[index]
            let i = item.instruction
            var planned = LockstepPlan.Item(
                instruction: i, op: item.op, pageOffset: item.pageOffset, liveBefore: item.liveBefore,
                liveAfter: item.liveAfter, isTried: LockstepPlan.isTried(i, item.treatment),
                isCall: item.treatment == .call)
            planned.undefinedBefore = undefined
            planned.isUndefined = i.flagsRead & undefined != 0 || LockstepPlan.isUndefined(i)
            if !i.attributes.contains(.mayKeepFlags) { undefined &= ~i.flagsWritten }
            undefined |= i.flagsUndefined & Self.status
            planned.undefinedAfter = undefined
            if !planned.isTried, item.treatment != .escape { plan.isOutOfReach = true }
            plan.items.append(planned)
        }
        return plan
    }
}
