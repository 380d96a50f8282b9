internal import COracle
internal import DeviceModel
internal import GuestMemory
@testable internal import SoftCPU
internal import VCPUEngine
internal import X86Architecture

/// A local APIC with nothing to say.
final class SilentAPIC: LocalInterruptController {
    func pendingVector() -> UInt8? { nil }
    func acknowledge() -> UInt8? { nil }
    var taskPriority: UInt8 {
        get { 0 }
        set { _ = newValue }
    }
    var apicBase: UInt64 { 0 }
    func setAPICBase(_ value: UInt64) -> Bool { false }
    func readMSR(_ number: UInt32) -> UInt64? { nil }
    func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool { false }
    func readPage(offset: UInt32, width: AccessWidth) -> UInt32 { 0 }
    func writePage(offset: UInt32, width: AccessWidth, value: UInt32) {}
    func takeSignal() -> ProcessorSignal? { nil }
    func endOfInterrupt() {}
}

/// The only device: a port whose write ends the case.
final class ExitPort: VCPUPlatform, @unchecked Sendable {
    weak var vcpu: SoftVCPU?
    func portRead(_ port: UInt16, width: AccessWidth) -> UInt32 { 0 }
    func portWrite(_ port: UInt16, width: AccessWidth, value: UInt32) { vcpu?.requestExit() }
    func memoryRead(_ address: UInt64, width: AccessWidth) -> UInt64 { .max }
    func memoryWrite(_ address: UInt64, width: AccessWidth, value: UInt64) {}
    func acknowledgeExternalInterrupt() -> UInt8? { nil }
    func hasExternalInterrupt(vcpu: Int) -> Bool { false }
    var now: UInt64 { 0 }
    var wallClock: UInt64 { 0 }
}

/// Our processor in ring 3 of a small machine that looks like a process of the host: the same windows at the
/// same linear addresses, the same descriptors, and exceptions that end the case.
///
/// ```
/// physical 0x1000 PML4   0x2000, 0x3000, 0x4000 tables of the low windows   0x5000, 0x6000 of the upper half
///          0x8000 GDT  0x9000 LDT  0xA000 IDT  0xB000 TSS  0xC000 exception entries  0xE000 their stack
///          0x7000 table of the gate  0x100000 code  0x110000 data  0x120000 gate
/// The upper half of the linear space maps 0..2 MiB for ring 0.
/// ```
@safe final class SoftProcessor {
    private static let upper: UInt64 = 0xFFFF_8000_0000_0000
    private static let codePhysical: UInt64 = 0x10_0000, dataPhysical: UInt64 = 0x11_0000
    private static let gatePhysical: UInt64 = 0x12_0000
    private static let entries: UInt64 = 0xC000, stackTop: UInt64 = 0xE000

    private let memory: GuestMemory
    private let engine: SoftEngine
    private let port = ExitPort()
    let vcpu: SoftVCPU
    private var templates: [CPUState] = []
    private let data: UnsafeMutableRawPointer
    private let code: UnsafeMutableRawPointer
    private let low: UnsafeMutableRawPointer

    /// - Parameter globalTable: the host's global descriptors as ring 3 sees them.
    /// - Parameter translated: every block is translated at once; else everything is interpreted.
    /// - Parameter verified: the translations are compared with the interpreter.
    init(globalTable: [UInt64], readOnly: UnsafePointer<UInt8>, translated: Bool, verified: Bool) throws {
        memory = try GuestMemory([GuestMemory.Layout(start: 0, size: 4 << 20, kind: .ram)])
        engine = SoftEngine(
            memory: memory, vcpuCount: 1, tscFrequency: 1_000_000_000, codeCacheSize: 4 << 20,
            translates: translated, options: [.exactFlags], verifies: verified,
            translationThreshold: 1)
        let made = try engine.makeVCPU(index: 0, apic: SilentAPIC(), platform: port)
        guard let vcpu = made as? SoftVCPU else { preconditionFailure("the engine makes SoftVCPUs") }
        self.vcpu = vcpu
        // SAFETY: all in the machine's RAM, which `memory` keeps mapped.
        data = unsafe try memory.hostPointer(
            GuestAddress(Self.dataPhysical), count: 0x3000, forWriting: true)
        code = unsafe try memory.hostPointer(
            GuestAddress(Self.codePhysical), count: 0x2000, forWriting: true)
        low = unsafe try memory.hostPointer(GuestAddress(0), count: 0x10000, forWriting: true)
        port.vcpu = vcpu
        unsafe code.initializeMemory(as: UInt8.self, repeating: 0xCC, count: Int(Place.codeSize))
        unsafe (data + Int(Place.dataSize)).copyMemory(from: readOnly, byteCount: Int(Place.readOnlySize))
        let pointer = unsafe withUnsafeBytes(of: Place.gate + 0x1000) { Array($0) }
        try memory.write(pointer, at: GuestAddress(Self.gatePhysical + UInt64(ORACLE_EXIT_POINTER)))
        try memory.write([UInt8](repeating: 0xCC, count: 64), at: GuestAddress(Self.gatePhysical + 0x1000))
        buildTables(globalTable)
        for setup in Setup.all { templates.append(template(setup)) }
    }

    private func set(_ address: UInt64, _ value: UInt64) {
        // SAFETY: callers stay in the first 64 KiB.
        unsafe low.storeBytes(of: value, toByteOffset: Int(address), as: UInt64.self)
    }

    private func buildTables(_ globalTable: [UInt64]) {
        let present: UInt64 = 0x21, writable: UInt64 = 0x42, user: UInt64 = 4, noExecute: UInt64 = 1 << 63
        set(0x1000, 0x2000 | present | writable | user)
        set(0x1000 + 256 * 8, 0x5000 | present | writable)
        set(0x2000, 0x3000 | present | writable | user)
        set(0x3000 + (Place.code >> 21) * 8, 0x4000 | present | writable | user)
        for page in 0..<UInt64(2) { set(0x4000 + page * 8, Self.codePhysical + page << 12 | present | user) }
        let firstData = (Place.data >> 12) & 511
        for page in 0..<UInt64(3) {
            let rights = page < 2 ? present | writable | user : present | user
            set(0x4000 + (firstData + page) * 8, Self.dataPhysical + page << 12 | rights | noExecute)
        }
        // The gate: the ending reads the trampoline's address there, and finds a breakpoint.
        set(0x3000 + (Place.gate >> 21) * 8, 0x7000 | present | writable | user)
        let firstGate = (Place.gate >> 12) & 511
        set(0x7000 + firstGate * 8, Self.gatePhysical | present | user | noExecute)
        set(0x7000 + (firstGate + 1) * 8, Self.gatePhysical + 0x1000 | present | user)
        set(0x5000, 0x6000 | present | writable)
        set(0x6000, 0x80 | present | writable)
        for (slot, entry) in globalTable.enumerated() { set(0x8000 + UInt64(slot) * 8, entry) }
        // Ring 0 code at 0x80, beyond what the host's table shows.
        set(0x8080, 0x00AF_9B00_0000_FFFF)
        for (slot, plan) in DescriptorPlan.table.enumerated() { set(0x9000 + UInt64(slot) * 8, plan.entry) }
        for vector in 0..<UInt64(256) {
            let entry = Self.upper + Self.entries + vector * 4
            // INT3 and INTO are open to ring 3, as everywhere.
            let privilege: UInt64 = vector == 3 || vector == 4 ? 3 : 0
            set(
                0xA000 + vector * 16,
                entry & 0xFFFF | 0x80 << 16 | (0x8E | privilege << 5) << 40 | (entry >> 16 & 0xFFFF) << 48)
            set(0xA000 + vector * 16 + 8, entry >> 32)
            // out 0xF4, al; jmp to itself
            let stub: UInt32 = 0xFEEB_F4E6
            unsafe low.storeBytes(of: stub, toByteOffset: Int(Self.entries + vector * 4), as: UInt32.self)
        }
        // RSP0, and no I/O permission bitmap.
        set(0xB060, 0xFFFF << 48)
        unsafe low.storeBytes(of: Self.upper + Self.stackTop, toByteOffset: 0xB004, as: UInt64.self)
    }

    private func segment(_ selector: UInt16, _ base: UInt64) -> SegmentState {
        if selector < 4 {
            return SegmentState(selector: selector, base: base, limit: 0xFFFF_FFFF, attributes: 0xC0F3)
        }
        if selector & 4 != 0 {
            let plan = DescriptorPlan.table[Int(selector >> 3)]
            return SegmentState(
                selector: selector, base: base, limit: plan.byteLimit, attributes: plan.attributes)
        }
        // SAFETY: the table is in the first 64 KiB.
        let entry = unsafe low.loadUnaligned(fromByteOffset: 0x8000 + Int(selector & 0xFFF8), as: UInt64.self)
        let attributes = UInt32(truncatingIfNeeded: entry >> 40) & 0xF0FF | 1
        return SegmentState(selector: selector, base: base, limit: 0xFFFF_FFFF, attributes: attributes)
    }

    private func template(_ setup: Setup) -> CPUState {
        var state = VCPUState()
        state.cr0 =
            CR0.protectionEnable | CR0.paging | CR0.numericError | CR0.writeProtect | CR0.alignmentMask
            | CR0.monitorCoprocessor | CR0.extensionType
        state.cr3 = 0x1000
        state.cr4 =
            CR4.physicalAddressExtension | CR4.osFXSR | CR4.osXMMExceptions | CR4.fsgsBase | CR4.osXSAVE
            | CR4.pageGlobalEnable
        state.efer =
            EFER.syscallEnable | EFER.longModeEnable | EFER.longModeActive | EFER.noExecuteEnable
        state.xcr0 = 7
        for number in 0..<6 { state.segments[number] = segment(setup.selectors[number], setup.bases[number]) }
        state.gdtr = TableRegister(base: Self.upper + 0x8000, limit: 0xFF)
        state.idtr = TableRegister(base: Self.upper + 0xA000, limit: 0xFFF)
        let tableLimit = UInt32(DescriptorPlan.table.count * 8 - 1)
        state.ldtr = SegmentState(
            selector: 0xA0, base: Self.upper + 0x9000, limit: tableLimit, attributes: 0x82)
        state.tr = SegmentState(selector: 0x90, base: Self.upper + 0xB000, limit: 0x67, attributes: 0x8B)
        state.rip = Place.code
        vcpu.load(state)
        vcpu.cpu.s.attention = 0
        return vcpu.cpu.s
    }

    // MARK: One case

    /// Replaces code bytes from `offset` on.
    func write(_ bytes: [UInt8], at offset: Int) {
        let count = min(bytes.count, Int(Place.codeSize) - offset)
        // SAFETY: inside the two code pages.
        for index in 0..<count {
            unsafe code.storeBytes(of: bytes[index], toByteOffset: offset + index, as: UInt8.self)
        }
        memory.noteStore(GuestAddress(Self.codePhysical + UInt64(offset)), count: count)
    }

    /// Copies the whole window.
    func load(data source: UnsafeRawPointer) {
        unsafe data.copyMemory(from: source, byteCount: Int(Place.dataSize))
    }

    var dataWindow: UnsafeRawPointer { unsafe UnsafeRawPointer(data) }

    func run(_ input: borrowing oracle_state, setup: Int, extended: Bool) -> oracle_state {
        let cpu = vcpu.cpu
        cpu.s = templates[setup]
        // The template says nothing of what later cases left in the tables, nor of their changes to code.
        cpu.s.targetsUsed = .init(repeating: .max)
        cpu.s.attention = SoftVCPU.Attention.codePages
        unsafe withUnsafeBytes(of: input.gpr) { source in
            for number in 0..<16 {
                unsafe cpu.setGPR(number, source.loadUnaligned(fromByteOffset: number * 8, as: UInt64.self))
            }
        }
        cpu.setRFlags(input.rflags | RFlags.interrupt.rawValue)
        cpu.s.rip = input.rip
        if extended {
            unsafe withUnsafeBytes(of: input.xsave) { source in
                // SAFETY: the image has 1,024 bytes.
                unsafe UnsafeMutableRawPointer(bitPattern: cpu.s.xsave).unsafelyUnwrapped
                    .copyMemory(from: source.baseAddress.unsafelyUnwrapped, byteCount: source.count)
            }
            cpu.extended.settleStatus()
        }
        let exit = vcpu.run()
        var result = oracle_state()
        if case .failed(let reason) = exit {
            print(reason)
            vcpu.failure = nil
        }
        if exit != .requested {
            result.vector = 0x102
            return result
        }
        if cpu.s.cpl == 0 { readFrame(&result) } else { readHung(&result) }
        result.cr2 = cpu.s.cr2
        result.fs_base = cpu.s.segments[Segment.fs].base
        result.gs_base = cpu.s.segments[Segment.gs].base
        result.selectors.0 = cpu.s.segments[Segment.es].selector
        result.selectors.3 = cpu.s.segments[Segment.ds].selector
        result.selectors.4 = cpu.s.segments[Segment.fs].selector
        result.selectors.5 = cpu.s.segments[Segment.gs].selector
        if extended {
            unsafe withUnsafeMutableBytes(of: &result.xsave) { target in
                unsafe target.copyMemory(
                    from: UnsafeRawBufferPointer(
                        start: UnsafeRawPointer(bitPattern: cpu.s.xsave), count: target.count))
            }
        }
        return result
    }

    private func copyRegisters(_ result: inout oracle_state) {
        let cpu = vcpu.cpu
        unsafe withUnsafeMutableBytes(of: &result.gpr) { target in
            for number in 0..<16 {
                unsafe target.storeBytes(of: cpu.gpr(number), toByteOffset: number * 8, as: UInt64.self)
            }
        }
    }

    /// The code did not end by itself.
    private func readHung(_ result: inout oracle_state) {
        copyRegisters(&result)
        result.vector = UInt32(ORACLE_HUNG)
        result.rip = vcpu.cpu.s.rip
        result.rflags = vcpu.cpu.rflags
    }

    /// What the exception pushed.
    private func readFrame(_ result: inout oracle_state) {
        let cpu = vcpu.cpu
        copyRegisters(&result)
        let vector = (cpu.s.rip &- Self.upper &- Self.entries) / 4
        result.vector = UInt32(truncatingIfNeeded: vector)
        var frame = Int(truncatingIfNeeded: cpu.gpr(4) & 0xFFFF)
        func word(_ index: Int) -> UInt64 {
            unsafe low.loadUnaligned(fromByteOffset: (frame + index * 8) & 0xFFF8, as: UInt64.self)
        }
        if let known = ExceptionVector(rawValue: UInt8(truncatingIfNeeded: vector)), known.hasErrorCode {
            result.error_code = UInt32(truncatingIfNeeded: word(0))
            frame += 8
        }
        result.rip = word(0)
        result.selectors.1 = UInt16(truncatingIfNeeded: word(1))
        result.rflags = word(2)
        result.gpr.4 = word(3)
        result.selectors.2 = UInt16(truncatingIfNeeded: word(4))
    }
}
