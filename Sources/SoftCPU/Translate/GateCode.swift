/// Why translated code came back to Swift: what the gate returns.
enum TranslatedExit {
    /// Go on at the place in the word at `exitData` (`CodePlace.word`).
    static let goOn: UInt64 = 0
    /// A direct branch without a target yet: words at `exitData` are the place of its target and its site
    /// (from there).
    static let link: UInt64 = 1
    /// The instruction at the place in the word at `exitData` needs the interpreter.
    static let interpret: UInt64 = 2
    /// `rip` holds the key (`CPU.targetKey`) of a branch's target that is not in the table.
    static let target: UInt64 = 3
    /// `rip` is set.
    static let done: UInt64 = 4
    /// As `interpret`, for an indirect branch whose target is not in the table.
    static let branch: UInt64 = 5
    /// As `goOn`, from the entry of a block that is not valid any more.
    static let stale: UInt64 = 6
    /// As `link`, to the same instruction in a block without memory groups.
    static let split: UInt64 = 7
    /// As `link`, to another page: a third word has the lower half of the target's address.
    static let far: UInt64 = 8
    /// As `link`, from a CALL that is to become the JMP: the word at `exitData` is the place of its target.
    static let here: UInt64 = 9
    static let count = 10
}

/// What a near RET pops, and how wide the stack pointer is that it moves.
enum ReturnFrame: UInt8, CaseIterable {
    case word, wordNarrow, double, doubleNarrow, quad

    /// Moves the guest's stack pointer over it, without touching flags.
    func emitPop(_ code: inout Assembler) {
        let stack = HostRegister.guestRSP
        if self == .wordNarrow || self == .doubleNarrow { code.byte(0x66) }
        let bytes: Int32 = self == .quad ? 8 : rawValue >= Self.double.rawValue ? 4 : 2
        code.lea(stack, base: stack, index: HostRegister.none, scaleShift: 0, bytes, wide: self == .quad)
    }
}

/// The code between Swift and translated code, emitted once at the bottom of each arena.
struct GateCode {
    /// Called by Swift with (state, code): runs translated code, returns a `TranslatedExit`.
    private(set) var enter: UInt = 0
    /// Called, with 32-bit words behind the call.
    private(set) var exitGoOn: UInt = 0
    private(set) var exitLink: UInt = 0
    private(set) var exitHere: UInt = 0
    private(set) var exitFar: UInt = 0
    /// Called instead of `exitFar`, for a branch that is never linked: asks the table of targets first. The
    /// target is in the first or the last 2 GiB.
    private(set) var farByTable: UInt = 0
    private(set) var exitInterpret: UInt = 0
    private(set) var exitBranch: UInt = 0
    private(set) var exitStale: UInt = 0
    /// Called with a word behind the call, the key of a RET's address in R10, flags in AX; by `ReturnFrame`.
    private var returnMisses: [UInt] = []
    /// Jumped to with the target in R10.
    private(set) var exitTarget: UInt = 0
    /// Where a return goes that matches the words at the bottom of a return stack.
    private(set) var bottom: UInt = 0
    /// Called with R10 = op and R11 = page offset of the block: runs the op's body.
    private(set) var escape: UInt = 0
    /// Where all ways of a probe that found nothing meet, with the linear address in R10 and the address of
    /// the stub's words and the kind of access (`TranslatedCalls.fill`) on the stack. Goes on where the first
    /// word says, with the addend in R11 and nothing of that on the stack.
    private(set) var fill: UInt = 0
    /// Called by stubs, by `ProbeMiss`, whether it is a store, and size.
    private var fills: [UInt] = []
    private var wideFills: [UInt] = []
    /// Where `fill` goes on, with RAX and RCX pushed, too.
    private var fillEnd: UInt = 0
    /// Called when vector state is not in the registers, with the level 1...3 pushed; behind the call: a jump
    /// of five bytes and the place. Pops the level.
    private(set) var ensure: UInt = 0

    /// Called for REP MOVS and REP STOS by the logarithm of the element's size: returns when it is done, or
    /// five bytes further on when it is not possible this way.
    private(set) var moves: [UInt] = []
    private(set) var stores: [UInt] = []

    private let layout = StateLayout.shared
    private let hasAVX: Bool
    private var leave: UInt = 0
    private var saveVectors: UInt = 0
    private var restoreVectors: UInt = 0

    init(_ code: inout Assembler, hasAVX: Bool) {
        self.hasAVX = hasAVX
        emitVectorSaving(&code)
        emitLeave(&code)
        emitEnter(&code)
        exitGoOn = emitExit(&code, TranslatedExit.goOn)
        exitLink = emitExit(&code, TranslatedExit.link)
        exitHere = emitExit(&code, TranslatedExit.here)
        exitFar = emitExit(&code, TranslatedExit.far)
        exitInterpret = emitExit(&code, TranslatedExit.interpret)
        exitBranch = emitExit(&code, TranslatedExit.branch)
        exitStale = emitExit(&code, TranslatedExit.stale)
        emitTargets(&code)
        emitFarByTable(&code)
        for frame in ReturnFrame.allCases { returnMisses.append(emitReturnMiss(&code, frame)) }
        emitEscape(&code)
        emitFills(&code)
        emitEnsure(&code)
        for size in 0..<4 as Range<UInt8> { moves.append(emitRepeat(&code, size, isMove: true)) }
        for size in 0..<4 as Range<UInt8> { stores.append(emitRepeat(&code, size, isMove: false)) }
    }

    // MARK: Registers

    private func storePinned(_ code: inout Assembler) {
        for pair in HostRegister.pinned { code.store(pair.host, layout.register(pair.guest)) }
        code.store(HostRegister.rax, .state(layout.flags))
    }
    private func loadPinned(_ code: inout Assembler, _ which: [(guest: UInt8, host: UInt8)]) {
        for pair in which { code.load(pair.host, layout.register(pair.guest)) }
        code.load(HostRegister.rax, .state(layout.flags))
    }
    /// CMP DWORD [displacement], value
    private func compare(_ code: inout Assembler, _ displacement: Int32, _ value: Int32) {
        code.arithmetic(7, .state(displacement), value, wide: false)
    }

    /// Calls the C function at [displacement] on the host's stack, below 16 bytes for the window.
    private func callSwift(_ code: inout Assembler, _ displacement: Int32) {
        code.store(HostRegister.rsp, .state(layout.returnStack))
        code.load(HostRegister.rsp, .state(layout.hostStack))
        code.store(HostRegister.window, .memory(HostRegister.rsp, 0))
        code.encode(wide: false, 0xFF, 2, .state(displacement))
        code.load(HostRegister.window, .memory(HostRegister.rsp, 0))
        code.load(HostRegister.rsp, .state(layout.returnStack))
    }

    /// Calls `routine` when vector registers hold guest values.
    private func callIfVectors(_ code: inout Assembler, _ routine: UInt) {
        compare(&code, layout.vectorLevel, 0)
        let over = code.shortJumpIf(4)
        code.call(routine)
        code.land(over)
    }

    // MARK: Vector state, both through R11

    private mutating func emitVectorSaving(_ code: inout Assembler) {
        let image = HostRegister.index
        saveVectors = code.here
        code.load(image, .state(layout.xsave))
        compare(&code, layout.x87Level, 0)
        let over = code.shortJumpIf(4)
        // FXSAVE64; FNINIT; no host addresses for the guest.
        code.encode(wide: true, map: 1, 0xAE, 0, .memory(image, 0))
        code.bytes(0xDB, 0xE3)
        for offset in [ExtendedState.fip, ExtendedState.fdp] {
            code.encode(wide: true, 0xC7, 0, .memory(image, Int32(offset)))
            code.word32(0)
        }
        code.byte(0x66)
        code.encode(wide: false, 0xC7, 0, .memory(image, Int32(ExtendedState.fop)))
        code.bytes(0, 0)
        code.land(over)
        code.encode(wide: false, map: 1, 0xAE, 3, .memory(image, Int32(ExtendedState.mxcsr)))
        code.encode(wide: false, map: 1, 0xAE, 2, .state(layout.hostMXCSR))
        for number in 0..<16 as Range<UInt8> {
            code.encode(
                wide: false, map: 1, 0x11, number,
                .memory(image, Int32(ExtendedState.xmm) + Int32(number) * 16))
        }
        if hasAVX {
            for number in 0..<16 as Range<UInt8> { moveUpper(&code, 0x19, number) }
            code.bytes(0xC5, 0xF8, 0x77)
        }
        code.byte(0xC3)

        restoreVectors = code.here
        code.load(image, .state(layout.xsave))
        compare(&code, layout.x87Level, 0)
        let past = code.shortJumpIf(4)
        code.encode(wide: true, map: 1, 0xAE, 1, .memory(image, 0))
        code.land(past)
        code.encode(wide: false, map: 1, 0xAE, 2, .memory(image, Int32(ExtendedState.mxcsr)))
        for number in 0..<16 as Range<UInt8> {
            code.encode(
                wide: false, map: 1, 0x10, number,
                .memory(image, Int32(ExtendedState.xmm) + Int32(number) * 16))
        }
        if hasAVX { for number in 0..<16 as Range<UInt8> { moveUpper(&code, 0x18, number) } }
        code.byte(0xC3)
    }

    /// VEXTRACTF128 to, or VINSERTF128 from, the upper half's place in the image at R11.
    private func moveUpper(_ code: inout Assembler, _ opcode: UInt8, _ number: UInt8) {
        code.bytes(0xC4, (number & 8 == 0 ? 0x80 : 0) | 0x40 | 3)
        code.bytes(opcode == 0x18 ? (~number & 15) << 3 | 5 : 0x7D, opcode)
        code.modRM(
            number & 7, .memory(HostRegister.index, Int32(ExtendedState.ymmHigh) + Int32(number) * 16))
        code.byte(1)
    }

    // MARK: Entry and exit

    private mutating func emitEnter(_ code: inout Assembler) {
        code.align16()
        enter = code.here
        for number in [3, 5] as [UInt8] { code.byte(0x50 | number) }
        for number in [4, 5, 6, 7] as [UInt8] { code.bytes(0x41, 0x50 | number) }
        code.arithmetic(5, .register(HostRegister.rsp), 24)
        // The state's own offset of `tlb`, from its start.
        let tlb = MemoryLayout<CPUState>.offset(of: \.tlb).unsafelyUnwrapped
        code.load(HostRegister.window, .memory(HostRegister.rdi, Int32(tlb)))
        code.store(HostRegister.rsp, .state(layout.hostStack))
        code.load(HostRegister.rsp, .state(layout.returnStack))
        code.move(HostRegister.index, HostRegister.rsi)
        loadPinned(&code, HostRegister.pinned)
        // JMP R11
        code.bytes(0x41, 0xFF, 0xE3)
    }

    /// R10D: the exit.
    private mutating func emitLeave(_ code: inout Assembler) {
        leave = code.here
        storePinned(&code)
        callIfVectors(&code, saveVectors)
        for level in [layout.vectorLevel, layout.x87Level] {
            code.encode(wide: false, 0xC7, 0, .state(level))
            code.word32(0)
        }
        code.store(HostRegister.rsp, .state(layout.returnStack))
        code.load(HostRegister.rsp, .state(layout.hostStack))
        code.move(HostRegister.rax, HostRegister.address, wide: false)
        code.arithmetic(0, .register(HostRegister.rsp), 24)
        for number in [7, 6, 5, 4] as [UInt8] { code.bytes(0x41, 0x58 | number) }
        for number in [5, 3] as [UInt8] { code.byte(0x58 | number) }
        code.byte(0xC3)
    }

    /// An exit that is called: its words are at the return address.
    private func emitExit(_ code: inout Assembler, _ exit: UInt64) -> UInt {
        let start = code.here
        code.bytes(0x41, 0x5A)
        code.store(HostRegister.address, .state(layout.exitData))
        code.constant(HostRegister.address, exit)
        code.jump(leave)
        return start
    }

    private mutating func emitTargets(_ code: inout Assembler) {
        exitTarget = code.here
        code.store(HostRegister.address, .state(layout.rip))
        code.constant(HostRegister.address, TranslatedExit.target)
        code.jump(leave)

        bottom = code.here
        code.arithmetic(5, .register(HostRegister.rsp), 8)
        code.jump(exitTarget)
    }

    private mutating func emitFarByTable(_ code: inout Assembler) {
        farByTable = code.here
        // MOV R10, [RSP]; MOVSXD R10, [R10 + 8]
        code.bytes(0x4C, 0x8B, 0x14, 0x24)
        code.encode(wide: true, 0x63, HostRegister.address, .memory(HostRegister.address, 8))
        code.resolve(emitTargetProbe(&code), to: exitFar)
        code.arithmetic(0, .register(HostRegister.rsp), 8)
        emitTargetJump(&code)
    }

    /// A RET to another address than its call's: one level further out, as after a call that never returned,
    /// else by the table of targets.
    private func emitReturnMiss(_ code: inout Assembler, _ frame: ReturnFrame) -> UInt {
        let start = code.here
        // POP R11
        code.bytes(0x41, 0x5B)
        code.store(HostRegister.index, .state(layout.exitData))
        // CMP R10, [RSP + 24]
        code.bytes(0x4C, 0x3B, 0x54, 0x24)
        code.byte(24)
        let over = code.shortJumpIf(5)
        frame.emitPop(&code)
        code.arithmetic(0, .register(HostRegister.rsp), 16)
        code.byte(0xC3)
        code.land(over)
        code.encode(wide: true, 0x3B, HostRegister.rsp, .state(layout.callLimit))
        let attention = code.pendingJumpIf(2)
        let unknown = emitTargetProbe(&code)
        frame.emitPop(&code)
        emitTargetJump(&code)
        for (site, exit) in [(attention, TranslatedExit.goOn), (unknown, TranslatedExit.branch)] {
            code.resolve(site, to: code.here)
            code.constant(HostRegister.address, exit)
            code.jump(leave)
        }
        return start
    }

    /// The gate for a RET that pops `frame`.
    func returnMiss(_ frame: ReturnFrame) -> UInt { returnMisses[Int(frame.rawValue)] }

    /// R11 = the table's entry for key R10; the branch at the returned site is taken when it is
    /// another address's. Destroys the host's flags.
    func emitTargetProbe(_ code: inout Assembler) -> Assembler.Site {
        emitTargetIndex(&code)
        code.encode(
            wide: true, 0x3B, HostRegister.address, .cache(HostRegister.index, BranchTargets.offset))
        return code.pendingJumpIf(5)
    }

    /// R11 = the entry for R10.
    func emitTargetIndex(_ code: inout Assembler) {
        code.move(HostRegister.index, HostRegister.address, wide: false)
        code.arithmetic(4, .register(HostRegister.index), BranchTargets.mask, wide: false)
    }

    /// Enters the code that the probe found, with R10 as it is: code for anywhere needs it.
    func emitTargetJump(_ code: inout Assembler) {
        code.encode(wide: false, 0xFF, 4, .cache(HostRegister.index, BranchTargets.offset + 8))
    }

    // MARK: Calls from the middle of a block

    private mutating func emitEscape(_ code: inout Assembler) {
        escape = code.here
        storePinned(&code)
        code.store(HostRegister.index, .state(layout.spill))
        callIfVectors(&code, saveVectors)
        for level in [layout.vectorLevel, layout.x87Level] {
            code.encode(wide: false, 0xC7, 0, .state(level))
            code.word32(0)
        }
        code.load(HostRegister.rdi, .state(layout.state))
        code.move(HostRegister.rsi, HostRegister.address)
        code.load(HostRegister.rdx, .state(layout.spill), wide: false)
        callSwift(&code, layout.escape)
        code.move(HostRegister.address, HostRegister.rax, wide: false)
        // The body may have changed the context.
        code.load(HostRegister.window, .state(layout.tlb))
        loadPinned(&code, HostRegister.pinned)
        code.arithmetic(7, .register(HostRegister.address), 1, wide: false)
        let over = code.shortJumpIf(3)
        code.byte(0xC3)
        code.land(over)
        let chain = code.shortJumpIf(5)
        code.arithmetic(0, .register(HostRegister.rsp), 8)
        code.constant(HostRegister.address, TranslatedExit.done)
        code.jump(leave)
        // 2: on at RIP, maybe in another context and on its return stack.
        code.land(chain)
        code.load(HostRegister.address, .state(layout.targetAddress))
        code.resolve(emitTargetProbe(&code), to: exitTarget)
        emitTargetJump(&code)
    }

    // MARK: String instructions

    private func emitRepeat(_ code: inout Assembler, _ size: UInt8, isMove: Bool) -> UInt {
        let rax = HostRegister.rax, address = HostRegister.address
        let start = code.here
        // PUSH RAX: the guest's flags.
        code.byte(0x50)
        code.move(rax, HostRegister.of(1))
        code.arithmetic(7, .register(rax), 0x1000 >> Int32(size))
        var slow = [code.pendingJumpIf(7)]
        if size != 0 {
            code.encode(wide: false, 0xC1, 4, .register(rax))
            code.byte(size)
        }
        slow += emitRangeProbe(&code, HostRegister.rdi, write: true)
        code.store(address, .state(layout.spill))
        if isMove { slow += emitRangeProbe(&code, HostRegister.rsi, write: false) }
        // PUSH RDI; PUSH RSI
        code.bytes(0x57, 0x56)
        if isMove { code.move(HostRegister.rsi, address) }
        code.move(address, rax)
        code.load(HostRegister.rdi, .state(layout.spill))
        if !isMove { code.move(rax, HostRegister.guestRAX) }
        code.byte(0xF3)
        if size == 1 { code.byte(0x66) } else if size == 3 { code.byte(0x48) }
        code.byte((isMove ? 0xA4 : 0xAA) | (size == 0 ? 0 : 1))
        // POP RSI; POP RDI
        code.bytes(0x5E, 0x5F)
        code.encode(wide: true, 0x03, HostRegister.rdi, .register(address))
        if isMove { code.encode(wide: true, 0x03, HostRegister.rsi, .register(address)) }
        code.bytes(0x58, 0xC3)
        for site in slow { code.resolve(site, to: code.here) }
        code.byte(0x58)
        // ADD QWORD [RSP], 5
        code.bytes(0x48, 0x83, 0x04, 0x24)
        code.bytes(5, 0xC3)
        return start
    }

    /// R10 = host address of the RAX bytes at the linear address in `register`; the branches at the returned
    /// sites are taken when they are not in one page that the cache knows.
    private func emitRangeProbe(
        _ code: inout Assembler, _ register: UInt8, write: Bool
    ) -> [Assembler.Site] {
        let address = HostRegister.address, index = HostRegister.index
        code.rotateRight(index, register, 7)
        code.arithmetic(4, .register(index), Int32(TLB.entries - 1) << 5, wide: false)
        code.move(address, register)
        code.encode(wide: true, 0x33, address, .cache(index, write ? 8 : 0))
        code.arithmetic(7, .register(address), 0xFFF)
        let other = code.pendingJumpIf(7)
        code.encode(wide: true, 0x03, address, .register(HostRegister.rax))
        code.arithmetic(7, .register(address), 0x1000)
        let crossing = code.pendingJumpIf(7)
        code.load(address, .cache(index, 16))
        code.encode(wide: true, 0x03, address, .register(register))
        return [other, crossing]
    }

    /// A call from a stub that cannot be served: R10D holds the exit, the call's argument lies below its
    /// return address, and the exit's words start `distance` bytes behind that.
    private func emitFailure(_ code: inout Assembler, distance: Int32) {
        // MOV R11, [RSP]
        code.bytes(0x4C, 0x8B, 0x1C, 0x24)
        code.arithmetic(0, .register(HostRegister.index), distance)
        code.store(HostRegister.index, .state(layout.exitData))
        code.arithmetic(0, .register(HostRegister.rsp), 16)
        code.jump(leave)
    }

    /// For a probe that found nothing, of fewer than 32 bytes.
    func fill(_ miss: ProbeMiss, size: Int, write: Bool) -> UInt {
        fills[Int(miss.rawValue) << 6 | (write ? 32 : 0) | size]
    }
    /// For one whose size, and what else `TranslatedCalls.fill` wants to know, is behind its site.
    func wideFill(_ miss: ProbeMiss, write: Bool) -> UInt {
        wideFills[Int(miss.rawValue) << 1 | (write ? 1 : 0)]
    }

    private mutating func emitFills(_ code: inout Assembler) {
        emitFillEnd(&code)
        emitFill(&code)
        for miss in ProbeMiss.allCases {
            for kind in 0..<64 as Range<Int32> {
                fills.append(code.here)
                emitMissedAddress(&code, miss, write: kind & 32 != 0)
                // PUSH [RSP]; MOV DWORD [RSP + 8], kind
                code.bytes(0xFF, 0x34, 0x24)
                code.bytes(0xC7, 0x44, 0x24, 8)
                code.word32(kind & 31 | (kind & 32) << 7)
                code.jump(fill)
            }
            for write in [false, true] {
                wideFills.append(code.here)
                emitMissedAddress(&code, miss, write: write)
                // PUSH [RSP]; MOV R11, [RSP]; MOVZX R11D, WORD [R11 + 10]
                code.bytes(0xFF, 0x34, 0x24)
                code.bytes(0x4C, 0x8B, 0x1C, 0x24)
                code.load(HostRegister.index, .memory(HostRegister.index, 10), size: 2)
                if write { code.arithmetic(1, .register(HostRegister.index), 0x1000, wide: false) }
                // MOV [RSP + 8], R11
                code.bytes(0x4C, 0x89, 0x5C, 0x24)
                code.byte(8)
                code.jump(fill)
            }
        }
    }

    /// R10 = the linear address.
    private func emitMissedAddress(_ code: inout Assembler, _ miss: ProbeMiss, write: Bool) {
        if miss == .inRAX { code.move(HostRegister.address, HostRegister.rax) }
        if miss != .address { code.probeTag(HostRegister.address, write: write) }
    }

    private mutating func emitFillEnd(_ code: inout Assembler) {
        fillEnd = code.here
        // MOV RCX, [RSP + 16]; MOVZX EAX, WORD [RCX]; SUB RCX, RAX; MOV [RSP + 24], RCX
        code.bytes(0x48, 0x8B, 0x4C, 0x24)
        code.bytes(16, 0x0F, 0xB7, 0x01)
        code.bytes(0x48, 0x29, 0xC1)
        code.bytes(0x48, 0x89, 0x4C, 0x24)
        // POP RCX; POP RAX; LEA RSP, [RSP + 8]; RET: as many returns as calls, for the host's prediction.
        code.bytes(24, 0x59, 0x58)
        code.bytes(0x48, 0x8D, 0x64, 0x24)
        code.bytes(8, 0xC3)
    }

    private mutating func emitFill(_ code: inout Assembler) {
        fill = code.here
        emitSecondLook(&code)
        storePinned(&code)
        code.store(HostRegister.address, .state(layout.fillLinear))
        callIfVectors(&code, saveVectors)
        code.load(HostRegister.rdi, .state(layout.state))
        code.move(HostRegister.rsi, HostRegister.address)
        // MOV EDX, [RSP + 8]
        code.bytes(0x8B, 0x54, 0x24)
        code.byte(8)
        callSwift(&code, layout.fill)
        code.move(HostRegister.address, HostRegister.rax)
        callIfVectors(&code, restoreVectors)
        code.move(HostRegister.index, HostRegister.address)
        loadPinned(&code, HostRegister.volatile)
        // An addend is a multiple of the page size; else it is an exit, shifted.
        code.encode(wide: false, 0xF6, 0, .register(HostRegister.index))
        code.byte(1)
        let bad = code.shortJumpIf(5)
        code.load(HostRegister.address, .state(layout.fillLinear))
        // PUSH RAX; PUSH RCX
        code.bytes(0x50, 0x51)
        code.jump(fillEnd)
        code.land(bad)
        // SHR R10D, 1
        code.bytes(0x41, 0xD1, 0xEA)
        emitFailure(&code, distance: 2)
    }

    /// Goes on with the addend if the cache knows the page of R10: a probe looks where its base's page is.
    private func emitSecondLook(_ code: inout Assembler) {
        let rax = HostRegister.rax, rcx: UInt8 = 1
        let address = HostRegister.address, index = HostRegister.index
        // PUSH RAX; PUSH RCX; MOV ECX, [RSP + 24]
        code.bytes(0x50, 0x51)
        code.bytes(0x8B, 0x4C, 0x24)
        code.byte(24)
        // EAX = offset of the tag: 8 for stores, bit 12 of the kind.
        code.move(rax, rcx, wide: false)
        code.encode(wide: false, 0xC1, 5, .register(rax))
        code.byte(9)
        code.arithmetic(4, .register(rax), 8, wide: false)
        code.probeIndex(address)
        code.encode(wide: false, 0x03, index, .register(rax))
        code.move(rax, address)
        code.probeTag(rax, write: false)
        code.arithmetic(7, .register(rax), 0xFFF)
        let other = code.shortJumpIf(7)
        code.arithmetic(4, .register(rcx), 0xFFF, wide: false)
        code.encode(wide: false, 0x03, rcx, .register(rax))
        code.arithmetic(7, .register(rcx), 0x1000, wide: false)
        let crossing = code.shortJumpIf(7)
        code.arithmetic(4, .register(index), Int32(TLB.entries - 1) << 5, wide: false)
        code.probeAddend()
        code.jump(fillEnd)
        code.land(other)
        code.land(crossing)
        code.bytes(0x59, 0x58)
    }

    private mutating func emitEnsure(_ code: inout Assembler) {
        ensure = code.here
        storePinned(&code)
        callIfVectors(&code, saveVectors)
        code.load(HostRegister.rdi, .state(layout.state))
        // MOV ESI, [RSP + 8]
        code.bytes(0x8B, 0x74, 0x24)
        code.byte(8)
        callSwift(&code, layout.prepareVectors)
        code.move(HostRegister.address, HostRegister.rax, wide: false)
        // Restored even when refused: leaving saves them once more.
        callIfVectors(&code, restoreVectors)
        loadPinned(&code, HostRegister.volatile)
        code.encode(wide: false, 0x85, HostRegister.address, .register(HostRegister.address))
        let bad = code.shortJumpIf(4)
        code.bytes(0xC2, 8, 0)
        code.land(bad)
        code.constant(HostRegister.address, TranslatedExit.interpret)
        emitFailure(&code, distance: 5)
    }
}
