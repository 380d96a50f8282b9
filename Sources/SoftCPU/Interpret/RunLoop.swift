import GuestMemory
import LinuxHost
import Synchronization
import VCPUEngine
import X86Architecture

extension CPU {
    /// The attention word, for any thread.
    @inline(__always) var attentionWord: UnsafeMutablePointer<Atomic<UInt32>> {
        let offset = MemoryLayout<CPUState>.offset(of: \.attention).unsafelyUnwrapped
        // SAFETY: the field is 4-byte aligned and lives as long as the vCPU; Atomic<UInt32> has its layout.
        return unsafe UnsafeMutablePointer<Atomic<UInt32>>(bitPattern: address &+ UInt(offset))
            .unsafelyUnwrapped
    }

    /// `NearState.callLimit`, for any thread.
    @inline(__always) var callLimit: UnsafeMutablePointer<Atomic<UInt>> {
        let offset =
            MemoryLayout<CPUState>.offset(of: \.near).unsafelyUnwrapped
            + MemoryLayout<NearState>.offset(of: \.callLimit).unsafelyUnwrapped
        // SAFETY: the field is aligned and lives as long as the vCPU; Atomic<UInt> has its layout.
        return unsafe UnsafeMutablePointer<Atomic<UInt>>(bitPattern: address &+ UInt(offset))
            .unsafelyUnwrapped
    }

    func setAttention(_ bits: UInt32) {
        _ = unsafe attentionWord.pointee.bitwiseOr(bits, ordering: .acquiringAndReleasing)
        // Last: translated code that comes out for it must find the bits.
        unsafe callLimit.pointee.store(.max, ordering: .sequentiallyConsistent)
    }

    /// The vCPU must look at its interrupts before the next block.
    func requestAttention() { setAttention(SoftVCPU.Attention.events) }

    /// What wants attention; nothing does afterwards.
    func takeAttention() -> UInt32 {
        unsafe attentionWord.pointee.exchange(0, ordering: .acquiringAndReleasing)
    }

    @inline(__always) var hasAttention: Bool { unsafe attentionWord.pointee.load(ordering: .relaxed) != 0 }
}

extension SoftVCPU {
    public func run() -> Exit {
        isOutside.store(false, ordering: .sequentiallyConsistent)
        defer { isOutside.store(true, ordering: .sequentiallyConsistent) }
        while true {
            if let failure { return .failed(reason: failure) }
            if cpu.s.shutdown {
                cpu.s.shutdown = false
                return .shutdown
            }
            if debugging.isActive {
                if let exit = runForDebugger() { return exit }
                continue
            }
            if cpu.hasAttention || cpu.s.activity != .running {
                if let exit = handleAttention() { return exit }
                if cpu.s.activity != .running { continue }
            }
            if needsSingleStep {
                runOneInstruction()
            } else {
                runBlocks()
            }
        }
    }

    /// Whether the next instruction must run alone: debug features are on, or interrupts are held back for
    /// it. Whatever makes this true requests attention, so that `runBlocks` comes back here.
    var needsSingleStep: Bool {
        cpu.s.interruptShadow || cpu.s.otherFlags & RFlags.trap.rawValue != 0 || cpu.hasBreakpoints
    }

    /// Runs blocks until something wants attention or single steps.
    func runBlocks() {
        let cpu = self.cpu
        // Only breakpoints look at RF, and it ends with the next instruction.
        cpu.s.otherFlags &= ~RFlags.resume.rawValue
        while !cpu.hasAttention {
            let block: UInt
            do throws(Fault) {
                block = try findBlock(singleStep: false)
            } catch {
                cpu.s.linkSlot = 0
                cpu.s.interruptShadow = false
                cpu.deliver(error)
                break
            }
            if cpu.s.linkSlot != 0 {
                link(block)
                cpu.s.linkSlot = 0
            }
            if runsTranslated, step(block) { continue }
            // What translated code left behind STI: the next instruction runs now, unless it may be one that
            // a debugger stops at.
            if cpu.s.interruptShadow {
                if debugging.isActive { break }
                cpu.s.interruptShadow = false
            }
            guard cpu.execute(block) else { break }
        }
        cpu.s.linkSlot = 0
        followUp = TranslatedFollowUp()
    }

    /// Runs the block in translated code, if it has some or has deserved it by now.
    private func step(_ address: UInt) -> Bool {
        let block = BlockView(address: address)
        // Most blocks that come here: before a reference is counted.
        if block.b.code == 0, !block.b.sleeps, block.b.runs &+ 1 < threshold, !followUp.interpretsNext,
            !followUp.isUngrouped
        {
            block.b.runs &+= 1
            followUp = TranslatedFollowUp()
            return false
        }
        guard let translations else { return false }
        if followUp.interpretsNext {
            followUp.interpretsNext = false
            return false
        }
        if followUp.isUngrouped, block.b.code != 0, !block.b.isUngrouped, !ungroup(block, translations) {
            followUp = TranslatedFollowUp()
            return false
        }
        if followUp.isUngrouped {
            block.b.isUngrouped = true
            block.b.sleeps = false
        }
        if block.b.sleeps { wake(block, translations) }
        if block.b.code != 0, isMisplaced(block) {
            moveCode(block, translations)
            block.b.runs = threshold &- 1
        }
        if block.b.code == 0 {
            block.b.runs &+= 1
            guard block.b.runs >= threshold else {
                followUp = TranslatedFollowUp()
                return false
            }
            // One that cannot be translated is not tried at each run.
            block.b.runs = 0
            guard translate(block, translations) else {
                // What was to be linked leads here, not to whatever is translated next.
                followUp = TranslatedFollowUp()
                return false
            }
        }
        if let lockstep, holdsBack(block, translations, lockstep) {
            followUp = TranslatedFollowUp()
            return false
        }
        followUp(to: block, translations)
        enterTranslated(block.b.code, translations)
        return true
    }

    /// Remembers `block` in the branch that led to it. The branch was lowered as linkable: its target is in
    /// its own page, so that one translation and one generation hold for both.
    private func link(_ block: UInt) {
        guard BlockView(address: block).b.secondWord == 0 else { return }
        // SAFETY: linkSlot is the address of an op's `link` field in the arena, set by the branch that just
        // ran; the arena was not cleared since (findBlock zeroes linkSlot when it clears).
        unsafe UnsafeMutablePointer<UInt>(bitPattern: cpu.s.linkSlot).unsafelyUnwrapped.pointee = block
    }

    /// One instruction with debug and shadow semantics (SDM vol. 3 §17.3, §6.8.3).
    func runOneInstruction() {
        cpu.s.linkSlot = 0
        cpu.s.nextBlock = 0
        let wasTrap = cpu.s.otherFlags & RFlags.trap.rawValue != 0
        let hadShadow = cpu.s.interruptShadow, hadDebugShadow = cpu.s.debugShadow
        do throws(Fault) {
            // AMD's processors take instruction breakpoints after MOV SS too.
            if cpu.hasBreakpoints, cpu.s.otherFlags & RFlags.resume.rawValue == 0,
                CPUModel.isAMD || !hadDebugShadow, cpu.instructionBreakpoint(at: cpu.linearRIP)
            {
                throw Fault(.debug)
            }
            let block = try findBlock(singleStep: true)
            cpu.s.interruptShadow = false
            cpu.s.debugShadow = false
            cpu.s.suppressStep = false
            cpu.s.keepResumeFlag = false
            let resumeBefore = cpu.s.otherFlags & RFlags.resume.rawValue
            guard cpu.execute(block) else { return }
            // RF ends with the instruction, unless IRET or a task switch just set it or REP goes on.
            if resumeBefore != 0, !cpu.s.keepResumeFlag { cpu.s.otherFlags &= ~RFlags.resume.rawValue }
        } catch {
            cpu.s.interruptShadow = false
            cpu.s.debugShadow = false
            cpu.deliver(error)
            return
        }
        if hadShadow { cpu.requestAttention() }
        let steps = wasTrap && !cpu.s.suppressStep
        if steps || cpu.s.pendingDebug != 0 {
            if cpu.s.debugShadow { return }
            cpu.reportDebug(cpu.s.pendingDebug | (steps ? DebugStatus.singleStep : 0))
            cpu.s.pendingDebug = 0
            // Also after HLT, which the trap ends.
            cpu.s.activity = .running
            cpu.deliverTrap(ExceptionVector.debug.rawValue)
        }
    }

    // MARK: Attention

    /// Interrupts, signals, exits and TLB requests. Sleeps while the vCPU is halted.
    func handleAttention() -> Exit? {
        cpu.s.linkSlot = 0
        cpu.s.nextBlock = 0
        while true {
            let bits = cpu.takeAttention()
            if bits & Attention.codePages != 0 {
                heedAnnouncements()
                dropStaleCode()
            }
            if bits & Attention.directMemory != 0 { forgetDirectMemory() }
            if bits & Attention.exit != 0 {
                if bits & Attention.events != 0 { cpu.requestAttention() }
                cpu.settleEndOfInterrupt()
                return .requested
            }
            takeSignals()
            if cpu.s.activity != .waitingForStartup { deliverPending() }
            if cpu.s.shutdown || cpu.s.activity == .running { return nil }
            isOutside.store(true, ordering: .sequentiallyConsistent)
            if !cpu.hasAttention { parker.park() }
            isOutside.store(false, ordering: .sequentiallyConsistent)
        }
    }

    private func takeSignals() {
        // One NMI may wait here and one more in the local APIC.
        if cpu.s.nmiPending, !cpu.s.nmiBlocked, cpu.s.activity != .waitingForStartup { return }
        while let signal = apic.takeSignal() {
            switch signal {
            case .nmi:
                cpu.s.nmiPending = true
                if !cpu.s.nmiBlocked { return cpu.requestAttention() }
            case .initialize:
                cpu.initializeProcessor()
                clearCode()
            case .startup(let vector):
                if cpu.s.activity == .waitingForStartup { cpu.startup(vector: vector) }
            }
        }
    }

    /// Delivers an NMI or the highest interrupt when the guest can take one now.
    private func deliverPending() {
        if cpu.s.nmiPending, !cpu.s.nmiBlocked, !cpu.s.interruptShadow {
            cpu.s.nmiPending = false
            cpu.s.activity = .running
            cpu.deliverNMI()
            cpu.requestAttention()
            return
        }
        guard cpu.interruptFlag, !cpu.s.interruptShadow else {
            cpu.s.interruptHeld = true
            return
        }
        cpu.s.interruptHeld = false
        if apic.wantsEndOfInterrupt { cpu.settleEndOfInterrupt() }
        if platform.hasExternalInterrupt(vcpu: index), let vector = platform.acknowledgeExternalInterrupt() {
            cpu.s.activity = .running
            cpu.deliverInterrupt(vector)
            cpu.requestAttention()
        } else if let vector = apic.acknowledge() {
            cpu.s.activity = .running
            cpu.deferEndOfInterrupt()
            cpu.deliverInterrupt(vector)
            cpu.requestAttention()
        }
    }

    /// Pages with translated code were written.
    func dropStaleCode() {
        let list = stalePages.withLock { pages in
            defer { pages = [] }
            return pages
        }
        guard let translations else { return }
        for page in list {
            if page == .max {
                clearCode()
            } else {
                unsafe translations.invalidate(
                    pageWord: UInt(bitPattern: pages.address(page)), .stored)
            }
        }
    }
}

extension CPU {
    /// Linear address of the next instruction.
    @inline(__always) var linearRIP: UInt64 {
        is64Bit ? s.rip : (s.segments[Segment.cs].base &+ s.rip) & 0xFFFF_FFFF
    }

    /// Runs `block` and those that its direct branches lead to. Returns false after a fault was delivered.
    @inline(__always)
    func execute(_ first: UInt) -> Bool {
        var block = first
        while true {
            let view = BlockView(address: block)
            s.endBlock = false
            s.codeModified = false
            s.nextBlock = 0
            setRegister(UInt16(Register.blockRIP * 8), s.rip)
            let start = view.b.ops
            var op = start
            var result: UInt32
            repeat {
                result = Op(address: op).o.handler(address, op)
                op &+= UInt(MemoryLayout<MicroOp>.stride)
            } while result == Step.next
            s.instructionCount &+= UInt64((op &- start) / UInt(MemoryLayout<MicroOp>.stride))
            if result == Step.fault {
                let failed = Op(address: op &- UInt(MemoryLayout<MicroOp>.stride))
                s.rip = currentRIP(failed)
                s.linkSlot = 0
                deliver(Fault(raw: s.pendingFault))
                return false
            }
            let next = s.nextBlock
            if next == 0 || hasAttention { return true }
            let target = BlockView(address: next)
            if Self.pageWord(target.b.pageWord) != target.b.generation { return true }
            if target.b.code != 0 || target.b.runs != 0 { return true }
            block = next
        }
    }

    /// A page's word without its dirty bit.
    @inline(__always) static func pageWord(_ address: UInt) -> UInt32 {
        // SAFETY: blocks hold addresses of words in the machine's PageMap, which outlives its vCPUs.
        unsafe UnsafeMutablePointer<Atomic<UInt32>>(bitPattern: address).unsafelyUnwrapped
            .pointee.load(ordering: .relaxed) & ~PageMap.dirtyBit
    }
}
