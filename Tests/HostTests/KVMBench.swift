import DeviceModel
import GuestMemory
import KVMEngine
import LinuxHost
import Synchronization
import VCPUEngine
import X86Architecture

/// The host's KVM, opened once, or why there is none.
enum HostKVM {
    static let result: Result<KVMSystem, HostError> = Result { () throws(HostError) in try KVMSystem.open() }
    static var isPresent: Bool { (try? result.get()) != nil }
    static var reason: String {
        if case .failure(let error) = result { return "no usable KVM on this host: \(error)" }
        return ""
    }
    /// Measured once: whether ring 0 runs natively.
    static let probe: Result<KVMProbe, any Error> = Result { try KVMProbe.measure(result.get()) }
}

/// A local APIC that delivers what a test puts in.
final class TestAPIC: LocalInterruptController {
    private struct State { var vectors: [UInt8] = [], signals: [ProcessorSignal] = [], priority: UInt8 = 0 }
    private let state = Mutex(State())
    func raise(_ vector: UInt8) { state.withLock { $0.vectors.append(vector) } }
    func send(_ signal: ProcessorSignal) { state.withLock { $0.signals.append(signal) } }
    func pendingVector() -> UInt8? { state.withLock { $0.vectors.first } }
    func acknowledge() -> UInt8? { state.withLock { $0.vectors.isEmpty ? nil : $0.vectors.removeFirst() } }
    var taskPriority: UInt8 {
        get { state.withLock { $0.priority } }
        set { state.withLock { $0.priority = newValue } }
    }
    var apicBase: UInt64 { 0xFEE0_0900 }
    func setAPICBase(_ value: UInt64) -> Bool { true }
    func readMSR(_ number: UInt32) -> UInt64? { nil }
    func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool { false }
    func readPage(offset: UInt32, width: AccessWidth) -> UInt32 { 0x5AFE_0000 | offset }
    func writePage(offset: UInt32, width: AccessWidth, value: UInt32) {}
    func takeSignal() -> ProcessorSignal? {
        state.withLock { $0.signals.isEmpty ? nil : $0.signals.removeFirst() }
    }
    func endOfInterrupt() {}
}

/// One access that a guest made.
enum Access: Equatable, Sendable {
    case out(UInt16, UInt32), input(UInt16), store(UInt64, UInt64, AccessWidth), load(UInt64, AccessWidth)
}

/// Records accesses. Port 0xF4 stops the machine; port 0x70 runs what a test wants to happen then.
final class TestPlatform: VCPUPlatform {
    private let log = Mutex<[Access]>([])
    let vcpu = Mutex<KVMVCPU?>(nil)
    let atPort70 = Mutex<@Sendable () -> Void>({})
    var accesses: [Access] { log.withLock { $0 } }
    private func note(_ access: Access) { log.withLock { $0.append(access) } }

    func portRead(_ port: UInt16, width: AccessWidth) -> UInt32 {
        note(.input(port))
        return 0xCAFE_BABE
    }
    func portWrite(_ port: UInt16, width: AccessWidth, value: UInt32) {
        note(.out(port, value))
        if port == 0xF4 { vcpu.withLock { $0?.requestExit() } }
        if port == 0x70 { atPort70.withLock { $0 }() }
    }
    func memoryRead(_ address: UInt64, width: AccessWidth) -> UInt64 {
        note(.load(address, width))
        return 0x1122_3344_5566_7788
    }
    func memoryWrite(_ address: UInt64, width: AccessWidth, value: UInt64) {
        note(.store(address, value, width))
    }
    func acknowledgeExternalInterrupt() -> UInt8? { nil }
    func hasExternalInterrupt(vcpu: Int) -> Bool { false }
    var now: UInt64 { 0 }
    var wallClock: UInt64 { 0 }
}

/// A machine of 64 KiB (plus ROM at 0xF0000) with code at 0x1000, in real mode.
final class KVMBench: Sendable {
    static let codeAddress: UInt64 = 0x1000
    let memory: GuestMemory
    let engine: KVMEngine
    let platform = TestPlatform()
    let apic = TestAPIC()
    let vcpu: KVMVCPU

    init(_ chips: KVMEngine.InterruptChips, code: [UInt8], handlers: [UInt8: UInt16] = [:]) throws {
        memory = try GuestMemory([
            .init(start: 0, size: 0x10000, kind: .ram), .init(start: 0xF0000, size: 0x10000, kind: .rom),
        ])
        try memory.write(code, at: GuestAddress(Self.codeAddress))
        for (vector, address) in handlers {
            try memory.store(UInt32(address), at: GuestAddress(UInt64(vector) * 4))
        }
        engine = try KVMEngine(HostKVM.result.get(), memory: memory, configuration: .init(chips: chips))
        vcpu = try engine.makeKVMVCPU(index: 0, apic: apic, platform: platform)
        platform.vcpu.withLock { [vcpu] in $0 = vcpu }
        vcpu.load(Self.realModeState())
    }

    static func realModeState() -> VCPUState {
        var state = VCPUState()
        for index in 0..<6 { state.segments[index] = SegmentState(selector: 0, base: 0, attributes: 0x93) }
        state.segments[1].attributes = 0x9B
        state.gpr[4] = 0x8000
        state.rip = codeAddress
        return state
    }

    /// Runs on a thread of its own, as the machine does, until it exits.
    func run() throws -> Exit {
        let result = Mutex<Exit?>(nil)
        let box = ExitBox(exit: result)
        let vcpu = vcpu
        let thread = try HostThread(name: "vcpu") {
            let exit = vcpu.run()
            box.exit.withLock { $0 = exit }
        }
        thread.join()
        return box.exit.withLock { $0 } ?? .failed(reason: "the thread ended without an exit")
    }

    func onPort70(_ body: @escaping @Sendable () -> Void) { platform.atPort70.withLock { $0 = body } }
}

private final class ExitBox: Sendable {
    let exit: Mutex<Exit?>
    init(exit: consuming Mutex<Exit?>) { self.exit = exit }
}
