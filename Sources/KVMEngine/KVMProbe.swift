internal import DeviceModel
internal import GuestMemory
public import LinuxHost
internal import Synchronization
internal import VCPUEngine
internal import X86Architecture

/// Finds out whether a KVM is worth using: some only emulate what runs in ring 0, at a thousandth of the
/// speed.
public struct KVMProbe: Sendable, CustomStringConvertible {
    /// Turns of a two-instruction loop in 64-bit ring 0, per second.
    public let iterationsPerSecond: Double

    /// Hardware does hundreds of millions of turns, an emulator less than one.
    public static let leastIterationsPerSecond: Double = 20e6
    /// How long the loop runs, in nanoseconds.
    public static let duration: UInt64 = 10_000_000

    public var isFast: Bool { iterationsPerSecond >= Self.leastIterationsPerSecond }

    public var description: String {
        let millions = Double(Int(iterationsPerSecond * 2 / 1e5)) / 10
        return isFast
            ? "KVM runs \(millions) M instructions/s"
            : "this KVM only emulates (\(millions) M instructions/s)"
    }

    /// Runs the loop for 10 ms on a machine of its own. Makes two threads, which end before it returns.
    /// - Throws: with the reason when KVM cannot be used at all.
    public static func measure(_ system: KVMSystem) throws(HostError) -> KVMProbe {
        let memory = try GuestMemory([.init(start: 0, size: 0x10000, kind: .ram)])
        let engine = try KVMEngine(system, memory: memory)
        let outcome = Mutex<Outcome?>(nil)
        let box = Box(outcome: outcome)
        let vcpu: KVMVCPU
        do throws(EngineError) {
            vcpu = try engine.makeKVMVCPU(index: 0, apic: NoAPIC(), platform: NoDevices())
        } catch {
            throw HostError(error.description, code: 0)
        }
        guard let state = try? loopGuest(memory) else { throw HostError("preparing the KVM probe", code: 0) }
        let thread = try HostThread(name: "kvm-probe") {
            vcpu.load(state)
            let start = HostTime.monotonic
            let exit = vcpu.run()
            let time = HostTime.monotonic &- start
            let turns = vcpu.state().gpr[1]
            box.outcome.withLock { outcome in outcome = Outcome(exit: exit, turns: turns, nanoseconds: time) }
            box.ended.signal()
        }
        box.ended.wait(until: HostTime.monotonic &+ duration)
        vcpu.requestExit()
        thread.join()
        guard let result = box.outcome.withLock({ outcome in outcome }) else {
            throw HostError("running the KVM probe", code: 0)
        }
        guard result.exit == .requested else {
            throw HostError("the KVM probe stopped: \(result.exit)", code: 0)
        }
        return KVMProbe(iterationsPerSecond: Double(result.turns) * 1e9 / Double(max(result.nanoseconds, 1)))
    }

    private struct Outcome: Sendable {
        let exit: Exit
        let turns: UInt64
        let nanoseconds: UInt64
    }
    private final class Box: Sendable {
        let outcome: Mutex<Outcome?>
        let ended = Semaphore()
        init(outcome: consuming Mutex<Outcome?>) { self.outcome = outcome }
    }

    /// `inc rcx; jmp` back, at 0x4000, in long mode with 2 MiB identity pages.
    private static func loopGuest(_ memory: GuestMemory) throws(GuestMemoryFault) -> VCPUState {
        try memory.store(0x2003 as UInt64, at: GuestAddress(0x1000))
        try memory.store(0x3003 as UInt64, at: GuestAddress(0x2000))
        try memory.store(0x0083 as UInt64, at: GuestAddress(0x3000))
        try memory.write([0x48, 0xFF, 0xC1, 0xEB, 0xFB], at: GuestAddress(0x4000))
        var state = VCPUState()
        let code = SegmentState(selector: 8, base: 0, limit: 0xFFFF_FFFF, attributes: 0xA09B)
        let data = SegmentState(selector: 16, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC093)
        state.segments = [data, code, data, data, data, data]
        state.cr0 = CR0.protectionEnable | CR0.extensionType | CR0.numericError | CR0.paging
        state.cr3 = 0x1000
        state.cr4 = CR4.physicalAddressExtension
        state.efer = EFER.longModeEnable | EFER.longModeActive
        state.rip = 0x4000
        return state
    }
}

/// A processor without interrupts.
private final class NoAPIC: LocalInterruptController {
    func pendingVector() -> UInt8? { nil }
    func acknowledge() -> UInt8? { nil }
    var taskPriority: UInt8 {
        get { 0 }
        set {}
    }
    var apicBase: UInt64 { 0xFEE0_0900 }
    func setAPICBase(_ value: UInt64) -> Bool { true }
    func readMSR(_ number: UInt32) -> UInt64? { nil }
    func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool { false }
    func readPage(offset: UInt32, width: AccessWidth) -> UInt32 { 0 }
    func writePage(offset: UInt32, width: AccessWidth, value: UInt32) {}
    func takeSignal() -> ProcessorSignal? { nil }
    func endOfInterrupt() {}
}

/// A machine without devices.
private final class NoDevices: VCPUPlatform {
    func portRead(_ port: UInt16, width: AccessWidth) -> UInt32 { .max }
    func portWrite(_ port: UInt16, width: AccessWidth, value: UInt32) {}
    func memoryRead(_ address: UInt64, width: AccessWidth) -> UInt64 { .max }
    func memoryWrite(_ address: UInt64, width: AccessWidth, value: UInt64) {}
    func acknowledgeExternalInterrupt() -> UInt8? { nil }
    func hasExternalInterrupt(vcpu: Int) -> Bool { false }
    var now: UInt64 { 0 }
    var wallClock: UInt64 { 0 }
}
