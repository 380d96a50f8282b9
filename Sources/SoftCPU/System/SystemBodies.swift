import X86Architecture

/// Runs a body of an instruction that always ends its block (rows with `end` or `branch`): there is no op
/// after it to go on with.
@inline(__always)
private func stepEnding(
    _ cpu: UInt, _ op: UInt, _ body: (CPU, borrowing Instruction) throws(Fault) -> Void
) -> UInt32 {
    CPU(address: cpu).s.endBlock = true
    return stepAny(cpu, op, body)
}

/// The same, of an instruction that serialises the processor: what other vCPUs stored to code before is seen
/// from here on.
@inline(__always)
private func stepSerialising(
    _ cpu: UInt, _ op: UInt, _ body: (CPU, borrowing Instruction) throws(Fault) -> Void
) -> UInt32 {
    CPU(address: cpu).owner.awaitCodeAnnouncements()
    return stepEnding(cpu, op, body)
}

/// The bodies of system instructions. MOV, PUSH and POP are here for segment, control and debug registers
/// only (see `BodyTable`).
enum SystemBodies {
    /// MOV with a segment, control or debug register.
    private static let moveSystem: Handler = {
        stepAny($0, $1) { cpu, i throws(Fault) in
            let kinds = (i.operand(0).kind, i.operand(1).kind)
            if kinds.0 == .segment || kinds.1 == .segment {
                try cpu.moveSegment(i)
            } else if kinds.0 == .control || kinds.1 == .control {
                if kinds.0 == .control { cpu.owner.awaitCodeAnnouncements() }
                try cpu.moveControl(i)
            } else {
                if kinds.0 == .debug { cpu.owner.awaitCodeAnnouncements() }
                try cpu.moveDebug(i)
            }
        }
    }
    /// PUSH of a segment register.
    private static let pushSegment: Handler = {
        stepAny($0, $1) { cpu, i throws(Fault) in try cpu.pushSegment(i) }
    }
    /// POP of a segment register.
    private static let popSegment: Handler = {
        stepAny($0, $1) { cpu, i throws(Fault) in try cpu.popSegment(i) }
    }

    static let table: [(Mnemonic, Handler)] =
        segments + transfers + control + tables + flagsAndPorts + processor

    // swift-format-ignore
    private static let segments: [(Mnemonic, Handler)] = [
        (.mov, moveSystem),
        (.push, pushSegment),
        (.pop, popSegment),
        (.les, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.loadFarPointer(i, Segment.es) } }),
        (.lss, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.loadFarPointer(i, Segment.ss) } }),
        (.lds, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.loadFarPointer(i, Segment.ds) } }),
        (.lfs, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.loadFarPointer(i, Segment.fs) } }),
        (.lgs, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.loadFarPointer(i, Segment.gs) } }),
        (.rdfsbase, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readSegmentBase(i, Segment.fs) } }),
        (.rdgsbase, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readSegmentBase(i, Segment.gs) } }),
        (.wrfsbase, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.writeSegmentBase(i, Segment.fs) } }),
        (.wrgsbase, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.writeSegmentBase(i, Segment.gs) } }),
        (.swapgs, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.swapGS() } }),
    ]

    // swift-format-ignore
    private static let transfers: [(Mnemonic, Handler)] = [
        (.jmpf, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.farJump(i) } }),
        (.callf, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.farCall(i) } }),
        (.retf, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.farReturn(i) } }),
        (.iret, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.interruptReturn(i) } }),
        (.int, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.interrupt(i) } }),
        (.int3, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.breakpoint() } }),
        (.into, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.interruptOnOverflow() } }),
        (.int1, { stepEnding($0, $1) { cpu, i throws(Fault) in cpu.debugInterrupt() } }),
        (.bound, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.bound(i) } }),
        (.syscall, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.systemCall() } }),
        (.sysret, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.systemReturn(i) } }),
        (.sysenter, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.systemEnter() } }),
        (.sysexit, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.systemExit() } }),
        (.rsm, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.undefined() } }),
    ]

    // swift-format-ignore
    private static let control: [(Mnemonic, Handler)] = [
        (.clts, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.clearTaskSwitched() } }),
        (.lmsw, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.loadMachineStatus(i) } }),
        (.smsw, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.storeMachineStatus(i) } }),
        (.rdmsr, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readModelSpecific() } }),
        (.wrmsr, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.writeModelSpecific() } }),
        (.xgetbv, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readExtendedControl() } }),
        (.xsetbv, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.writeExtendedControl() } }),
        (.invlpg, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.invalidatePage(i) } }),
        (.rdpkru, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readKeyRights() } }),
        (.wrpkru, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.writeKeyRights() } }),
        (.invpcid, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.invalidateContext(i) } }),
    ]

    // swift-format-ignore
    private static let tables: [(Mnemonic, Handler)] = [
        (.lgdt, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.loadTable(i, .gdt) } }),
        (.lidt, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.loadTable(i, .idt) } }),
        (.sgdt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.storeTable(i, .gdt) } }),
        (.sidt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.storeTable(i, .idt) } }),
        (.lldt, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.loadLocalTable(i) } }),
        (.ltr, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.loadTask(i) } }),
        (.sldt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.storeSelector(i, Segment.ldtr) } }),
        (.str, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.storeSelector(i, Segment.tr) } }),
        (.lar, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.loadAccessRights(i) } }),
        (.lsl, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.loadSegmentLimit(i) } }),
        (.verr, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.verify(i, write: false) } }),
        (.verw, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.verify(i, write: true) } }),
        (.arpl, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.adjustPrivilege(i) } }),
    ]

    // swift-format-ignore
    private static let flagsAndPorts: [(Mnemonic, Handler)] = [
        (.cli, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.clearInterrupts() } }),
        (.sti, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.setInterrupts() } }),
        (.pushf, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.pushFlags(i) } }),
        (.popf, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.popFlags(i) } }),
        (.clac, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.setAlignmentCheck(false) } }),
        (.stac, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.setAlignmentCheck(true) } }),
        (.in, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.portIn(i) } }),
        (.out, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.portOut(i) } }),
        (.ins, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.portString(i, isInput: true) } }),
        (.outs, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.portString(i, isInput: false) } }),
    ]

    // swift-format-ignore
    private static let processor: [(Mnemonic, Handler)] = [
        (.hlt, { stepEnding($0, $1) { cpu, i throws(Fault) in try cpu.halt() } }),
        (.cpuid, { stepSerialising($0, $1) { cpu, i throws(Fault) in cpu.identify() } }),
        (.rdtsc, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readTimeStamp() } }),
        (.rdtscp, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readTimeStampAndProcessor() } }),
        (.rdpid, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readProcessorID(i) } }),
        (.rdpmc, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.readPerformanceCounter() } }),
        (.invd, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.invalidateCaches() } }),
        (.wbinvd, { stepSerialising($0, $1) { cpu, i throws(Fault) in try cpu.invalidateCaches() } }),
        (.clflush, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.flushLine(i) } }),
        (.clflushopt, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.flushLine(i) } }),
        (.clwb, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.flushLine(i) } }),
        (.monitor, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.undefined() } }),
        (.mwait, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.undefined() } }),
        (.vmcall, { stepEnding($0, $1) { cpu, i throws(Fault) in cpu.hypercall() } }),
        (.vmmcall, { stepEnding($0, $1) { cpu, i throws(Fault) in cpu.hypercall() } }),
        (.ud0, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.undefined() } }),
        (.ud1, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.undefined() } }),
        (.ud2, { stepAny($0, $1) { cpu, i throws(Fault) in try cpu.undefined() } }),
    ]
}
