import DeviceModel
import GuestMemory
import Synchronization
import VCPUEngine
import X86Architecture

@testable import SoftCPU

/// A local APIC that has nothing to say, and remembers what it is told.
final class QuietAPIC: LocalInterruptController {
    private let priority = Mutex<UInt8>(0)
    private let vectors = Mutex<[UInt8]>([])
    func pendingVector() -> UInt8? { vectors.withLock { $0.first } }
    func acknowledge() -> UInt8? { vectors.withLock { $0.isEmpty ? nil : $0.removeFirst() } }
    func request(_ vector: UInt8) { vectors.withLock { $0.append(vector) } }
    var taskPriority: UInt8 {
        get { priority.withLock { $0 } }
        set { priority.withLock { $0 = newValue } }
    }
    var apicBase: UInt64 { 0xFEE0_0900 }
    func setAPICBase(_ value: UInt64) -> Bool { value == apicBase }
    func readMSR(_ number: UInt32) -> UInt64? { nil }
    func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool { false }
    func readPage(offset: UInt32, width: AccessWidth) -> UInt32 { 0 }
    func writePage(offset: UInt32, width: AccessWidth, value: UInt32) {}
    func takeSignal() -> ProcessorSignal? { nil }
    func endOfInterrupt() {}
}

/// Ports that count up when read and keep what is written.
final class RecordingPlatform: VCPUPlatform {
    struct Write: Equatable {
        var port: UInt16
        var width: AccessWidth
        var value: UInt32
    }
    private let state = Mutex((next: UInt32(0x11), writes: [Write]()))
    /// Is asked to stop at each write to a port.
    nonisolated(unsafe) weak var stopped: SoftVCPU?
    var writes: [Write] { state.withLock { $0.writes } }
    func portRead(_ port: UInt16, width: AccessWidth) -> UInt32 {
        state.withLock { state in
            defer { state.next += 1 }
            return state.next
        }
    }
    func portWrite(_ port: UInt16, width: AccessWidth, value: UInt32) {
        state.withLock { $0.writes.append(Write(port: port, width: width, value: value)) }
        stopped?.requestExit()
    }
    /// Device memory that is reached directly: host addresses by guest-physical page.
    let direct = Mutex<[UInt64: UInt]>([:])
    /// How often somebody asked for some, to load and to store; and loads from and stores to devices.
    let asked = Mutex((loads: 0, stores: 0, accesses: 0))
    func directPage(at page: UInt64, storing: Bool) -> UInt {
        let host = direct.withLock { $0[page] ?? 0 }
        if host != 0 { asked.withLock { if storing { $0.stores += 1 } else { $0.loads += 1 } } }
        return host
    }
    func memoryRead(_ address: UInt64, width: AccessWidth) -> UInt64 {
        asked.withLock { $0.accesses += 1 }
        return .max
    }
    func memoryWrite(_ address: UInt64, width: AccessWidth, value: UInt64) {
        asked.withLock { $0.accesses += 1 }
    }
    func acknowledgeExternalInterrupt() -> UInt8? { nil }
    func hasExternalInterrupt(vcpu: Int) -> Bool { false }
    var now: UInt64 { 0 }
    var wallClock: UInt64 { 1_700_000_000_000_000_000 }
}

/// One vCPU with 2 MiB of RAM, in a mode of choice, that runs single instructions.
///
/// Layout: GDT 0x1000, IDT 0x2000, TSS 0x3000, page tables 0x4000, second TSS 0x8000, code 0x10000, kernel
/// stack below 0x20000, inner stack below 0x30000, IST1 below 0x38000, user stack below 0x40000, handlers of
/// vector n at 0x50000 + 16 n.
final class TestMachine {
    enum Mode { case real, protected32, long64 }
    enum Selector {
        static let kernelCode: UInt16 = 0x08, kernelData: UInt16 = 0x10
        static let userCode32: UInt16 = 0x1B, userData: UInt16 = 0x23, userCode64: UInt16 = 0x2B
        static let task: UInt16 = 0x30, kernelCode32: UInt16 = 0x40, gate: UInt16 = 0x50
        static let secondTask: UInt16 = 0x60, taskGate: UInt16 = 0x68, absent: UInt16 = 0x70
        static let localTable: UInt16 = 0x80, conforming: UInt16 = 0x90
    }
    static let code: UInt64 = 0x10000, kernelStack: UInt64 = 0x20000, innerStack: UInt64 = 0x30000
    static let firstIST: UInt64 = 0x38000, userStack: UInt64 = 0x40000, handlers: UInt64 = 0x50000

    let memory: GuestMemory
    let engine: SoftEngine
    let vcpu: SoftVCPU
    let apic = QuietAPIC()
    let platform = RecordingPlatform()
    let mode: Mode
    var cpu: CPU { vcpu.cpu }

    /// - Parameter threshold: how often a block runs before it is translated.
    /// - Parameter verifies: translated code is compared with the interpreter.
    /// - Parameter vcpuCount: of the engine; this is the first, and the others are not made.
    init(
        _ mode: Mode, privilege: UInt8 = 0, flags: UInt64 = 2, threshold: UInt16 = 16,
        options: TranslationOptions = [], verifies: Bool = false, perfMap: PerfMap? = nil,
        vcpuCount: Int = 1, change: (inout VCPUState) -> Void = { _ in }
    ) throws {
        self.mode = mode
        memory = try GuestMemory([.init(start: 0, size: 2 << 20, kind: .ram)])
        engine = SoftEngine(
            memory: memory, vcpuCount: vcpuCount, tscFrequency: 2_000_000_000, options: options,
            verifies: verifies, translationThreshold: threshold, perfMap: perfMap)
        vcpu = try engine.makeVCPU(index: 0, apic: apic, platform: platform) as! SoftVCPU
        writeDescriptors()
        writeHandlers()
        writePageTables()
        var state = VCPUState()
        if mode == .real { fillReal(&state) } else { fillProtected(&state, privilege) }
        state.rflags = flags
        change(&state)
        vcpu.load(state)
    }

    // MARK: Memory

    func write(_ address: UInt64, _ bytes: [UInt8]) { try! memory.write(bytes, at: GuestAddress(address)) }
    func store(_ address: UInt64, _ value: UInt64, size: Int = 8) {
        write(address, (0..<size).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) })
    }
    func load(_ address: UInt64, size: Int = 8) -> UInt64 {
        let bytes = try! memory.bytes(GuestAddress(address), count: size)
        return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    static func descriptor(_ base: UInt64, _ limit: UInt64, _ access: UInt64, _ flags: UInt64 = 0) -> UInt64 {
        limit & 0xFFFF | (base & 0xFF_FFFF) << 16 | access << 40 | (limit >> 16) << 48 | flags << 52
            | (base >> 24 & 0xFF) << 56
    }

    func setDescriptor(_ selector: UInt16, _ low: UInt64, _ high: UInt64? = nil) {
        store(0x1000 + UInt64(selector & 0xFFF8), low)
        if let high { store(0x1008 + UInt64(selector & 0xFFF8), high) }
    }

    /// A gate: type 5..7, C, E or F with DPL and P in `access`.
    func gate(_ selector: UInt16, _ offset: UInt64, access: UInt64, low: UInt64 = 0) -> UInt64 {
        offset & 0xFFFF | UInt64(selector) << 16 | low << 32 | access << 40 | (offset >> 16 & 0xFFFF) << 48
    }

    func setVector(_ vector: Int, access: UInt64, ist: UInt64 = 0, selector: UInt16 = Selector.kernelCode) {
        let offset = Self.handlers + UInt64(vector) * 16
        let low = gate(selector, offset, access: access, low: ist)
        if mode == .long64 {
            store(0x2000 + UInt64(vector) * 16, low)
            store(0x2008 + UInt64(vector) * 16, 0)
        } else {
            store(0x2000 + UInt64(vector) * 8, low)
        }
    }

    private func writeDescriptors() {
        let long = mode == .long64
        setDescriptor(Selector.kernelCode, Self.descriptor(0, 0xFFFFF, 0x9A, long ? 0xA : 0xC))
        setDescriptor(Selector.kernelData, Self.descriptor(0, 0xFFFFF, 0x92, 0xC))
        setDescriptor(Selector.userCode32, Self.descriptor(0, 0xFFFFF, 0xFA, 0xC))
        setDescriptor(Selector.userData, Self.descriptor(0, 0xFFFFF, 0xF2, 0xC))
        setDescriptor(Selector.userCode64, Self.descriptor(0, 0xFFFFF, 0xFA, 0xA))
        setDescriptor(Selector.task, Self.descriptor(0x3000, 0x7F, 0x89), 0)
        setDescriptor(Selector.kernelCode32, Self.descriptor(0, 0xFFFFF, 0x9A, 0xC))
        setDescriptor(Selector.secondTask, Self.descriptor(0x8000, 0x67, 0x89))
        setDescriptor(Selector.taskGate, gate(Selector.secondTask, 0, access: 0x85))
        setDescriptor(Selector.absent, Self.descriptor(0, 0xFFFFF, 0x12, 0xC))
        setDescriptor(Selector.conforming, Self.descriptor(0, 0xFFFFF, 0x9E, long ? 0xA : 0xC))
        if long {
            store(0x3004, Self.innerStack)
            store(0x3024, Self.firstIST)
            store(0x3066, 0x68, size: 2)
        } else {
            store(0x3004, Self.innerStack, size: 4)
            store(0x3008, UInt64(Selector.kernelData), size: 2)
            store(0x3066, 0x68, size: 2)
        }
    }

    private func writeHandlers() {
        guard mode != .real else {
            for vector in 0..<256 {
                store(UInt64(vector) * 4, UInt64(vector) * 16 | 0x5000 << 16, size: 4)
            }
            return
        }
        for vector in 0..<64 { setVector(vector, access: 0x8E) }
    }

    func writePageTables() {
        store(0x4000, 0x5007)
        store(0x5000, 0x6007)
        store(0x6000, 0x87)
    }

    // MARK: State

    private func fillReal(_ state: inout VCPUState) {
        for number in 0..<6 { state.segments[number] = SegmentState() }
        state.segments[1] = SegmentState(selector: 0x1000, base: 0x10000, attributes: 0x9B)
        state.rip = 0
        state.gpr[4] = 0x8000
        state.segments[2] = SegmentState(selector: 0x2000, base: 0x20000)
        state.idtr = TableRegister(base: 0, limit: 0x3FF)
        state.gdtr = TableRegister(base: 0x1000, limit: 0xFFF)
    }

    private func fillProtected(_ state: inout VCPUState, _ privilege: UInt8) {
        let isLong = mode == .long64
        let rights = UInt32(privilege) << 5
        let data = SegmentState(
            selector: privilege == 3 ? Selector.userData : Selector.kernelData, base: 0, limit: 0xFFFF_FFFF,
            attributes: 0xC093 | rights)
        for number in 0..<6 { state.segments[number] = data }
        let user = isLong ? Selector.userCode64 : Selector.userCode32
        state.segments[1] = SegmentState(
            selector: privilege == 3 ? user : Selector.kernelCode, base: 0, limit: 0xFFFF_FFFF,
            attributes: (isLong ? 0xA09B : 0xC09B) | rights)
        state.rip = Self.code
        state.gpr[4] = privilege == 3 ? Self.userStack : Self.kernelStack
        state.gdtr = TableRegister(base: 0x1000, limit: 0x9F)
        state.idtr = TableRegister(base: 0x2000, limit: isLong ? 0xFFF : 0x7FF)
        state.tr = SegmentState(selector: Selector.task, base: 0x3000, limit: 0x7F, attributes: 0x8B)
        state.ldtr = SegmentState(selector: 0, base: 0, limit: 0, attributes: SegmentState.unusable)
        state.cr0 = 0x11 | (isLong ? CR0.paging | CR0.writeProtect : 0)
        if isLong {
            state.cr3 = 0x4000
            state.cr4 = CR4.physicalAddressExtension | CR4.osFXSR
            state.efer = EFER.longModeEnable | EFER.longModeActive | EFER.syscallEnable | EFER.noExecuteEnable
        }
    }

    // MARK: Running

    /// Puts `bytes` at CS:RIP and runs `count` instructions; faults are delivered and count as one.
    func run(_ bytes: [UInt8], count: Int = 1) {
        write(cpu.linearRIP, bytes)
        step(count)
    }

    func step(_ count: Int = 1) {
        for _ in 0..<count {
            // The run loop's business, which is not here.
            cpu.s.attention = 0
            do throws(Fault) {
                let block = try vcpu.findBlock(singleStep: true)
                _ = cpu.execute(block)
            } catch {
                cpu.deliver(error)
            }
        }
    }

    /// The vector whose handler RIP points at.
    var vector: Int? {
        let offset = Int64(bitPattern: cpu.linearRIP) - Int64(Self.handlers)
        return offset >= 0 && offset < 4096 && offset % 16 == 0 ? Int(offset / 16) : nil
    }

    func set(_ register: Int, _ value: UInt64) { cpu.setGPR(register, value) }
    func get(_ register: Int) -> UInt64 { cpu.gpr(register) }
    var rsp: UInt64 { cpu.gpr(Register.rsp) }
}
