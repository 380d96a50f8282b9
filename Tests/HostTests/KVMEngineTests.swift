import DeviceModel
import GuestMemory
@testable import KVMEngine
import LinuxHost
import Synchronization
import Testing
import VCPUEngine
import X86Architecture

@Suite(.serialized, .enabled(if: HostKVM.isPresent, Comment(rawValue: HostKVM.reason)))
struct KVMEngineTests {
    static let chips: [KVMEngine.InterruptChips] = [.userspace, .split(pins: 24), .kernel(timer: true)]
    /// out 0xF4, al; hlt
    static let stop: [UInt8] = [0xE6, 0xF4, 0xF4]

    @Test func `the probe says how fast this KVM is`() throws {
        let probe = try HostKVM.probe.get()
        print("KVM probe: \(probe) (\(Int(probe.iterationsPerSecond)) iterations/s)")
        #expect(probe.iterationsPerSecond > 1000)
        #expect(probe.description.contains(probe.isFast ? "runs" : "only emulates"))
    }

    @Test(arguments: chips)
    func `ports and device memory reach the platform with widths and values`(
        _ chips: KVMEngine.InterruptChips
    ) throws {
        let bench = try KVMBench(
            chips,
            code: [
                0xB0, 0x41, 0xE6, 0xE9,  // mov al, 'A'; out 0xE9, al
                0xBA, 0x34, 0x12, 0xED,  // mov dx, 0x1234; in ax, dx
                0xA3, 0x00, 0x50,  // mov [0x5000], ax
                0xB8, 0x00, 0xD0, 0x8E, 0xD8,  // mov ax, 0xD000; mov ds, ax
                0xC7, 0x06, 0x10, 0x00, 0xEF, 0xBE,  // mov word [0x10], 0xBEEF
                0xA1, 0x20, 0x00,  // mov ax, [0x20]
                0xE7, 0xE8,  // out 0xE8, ax
            ] + Self.stop)
        #expect(try bench.run() == .requested)
        #expect(
            bench.platform.accesses == [
                .out(0xE9, 0x41), .input(0x1234), .store(0xD0010, 0xBEEF, .word), .load(0xD0020, .word),
                .out(0xE8, 0x7788), .out(0xF4, 0x88),
            ])
        #expect(try bench.memory.load(UInt16.self, at: GuestAddress(0x5000)) == 0xBABE)
        // The OUT that stopped it is complete: the next instruction is the HLT.
        #expect(bench.vcpu.state().rip == KVMBench.codeAddress + 29)
    }

    @Test func `string output delivers every element`() throws {
        let bench = try KVMBench(
            .userspace,
            // mov si, 0x5000; mov cx, 5; mov dx, 0xE9; cld; rep outsb
            code: [0xBE, 0x00, 0x50, 0xB9, 0x05, 0x00, 0xBA, 0xE9, 0x00, 0xFC, 0xF3, 0x6E] + Self.stop)
        try bench.memory.write(Array("hello".utf8), at: GuestAddress(0x5000))
        #expect(try bench.run() == .requested)
        let text = bench.platform.accesses.compactMap { access in
            if case .out(0xE9, let value) = access { UInt8(value) } else { nil }
        }
        #expect(String(decoding: text, as: UTF8.self) == "hello")
    }

    @Test func `a store to ROM goes to the platform and leaves the ROM alone`() throws {
        let bench = try KVMBench(
            .userspace,
            // mov ax, 0xF000; mov ds, ax; mov word [4], 0x1234
            code: [0xB8, 0x00, 0xF0, 0x8E, 0xD8, 0xC7, 0x06, 0x04, 0x00, 0x34, 0x12] + Self.stop)
        try bench.memory.install([1, 2, 3, 4, 5, 6, 7, 8], at: GuestAddress(0xF0000))
        #expect(try bench.run() == .requested)
        #expect(bench.platform.accesses.first == .store(0xF0004, 0x1234, .word))
        #expect(try bench.memory.bytes(GuestAddress(0xF0000), count: 8) == [1, 2, 3, 4, 5, 6, 7, 8])
    }

    /// out 0x70, al; sti; hlt; stop. The handler at 0x2000: mov al, 0x33; out 0x77, al; iret.
    private static let waitForInterrupt: [UInt8] = [0xE6, 0x70, 0xFB, 0xF4] + stop
    private static let handler: [UInt8] = [0xB0, 0x33, 0xE6, 0x77, 0xCF]

    @Test func `an event counter wakes a halted guest through the kernel's PIC`() throws {
        let bench = try KVMBench(
            .kernel(timer: false),
            code: [
                // ICW1..ICW4, base 0x20, all masked but 5.
                0xB0, 0x11, 0xE6, 0x20, 0xB0, 0x20, 0xE6, 0x21, 0xB0, 0x04, 0xE6, 0x21, 0xB0, 0x01, 0xE6,
                0x21,
                0xB0, 0xDF, 0xE6, 0x21,
            ] + Self.waitForInterrupt, handlers: [0x25: 0x2000])
        try bench.memory.write(Self.handler, at: GuestAddress(0x2000))
        let counter = try EventCounter()
        try bench.engine.addInterruptEvent(5, counter: counter)
        bench.onPort70 { counter.signal() }
        #expect(try bench.run() == .requested)
        #expect(bench.platform.accesses.map(Self.port) == [0x70, 0x77, 0xF4])
        try bench.engine.removeInterruptEvent(5, counter: counter)
    }

    @Test func `a line raised by a device reaches the guest through the kernel's PIC`() throws {
        let bench = try KVMBench(
            .kernel(timer: false),
            code: [
                0xB0, 0x11, 0xE6, 0x20, 0xB0, 0x20, 0xE6, 0x21, 0xB0, 0x04, 0xE6, 0x21, 0xB0, 0x01, 0xE6,
                0x21,
                0xB0, 0xF7, 0xE6, 0x21,
            ] + Self.waitForInterrupt, handlers: [0x23: 0x2000])
        try bench.memory.write(Self.handler, at: GuestAddress(0x2000))
        bench.onPort70 { InterruptLine(bench.engine, 3).pulse() }
        #expect(try bench.run() == .requested)
        #expect(bench.platform.accesses.map(Self.port) == [0x70, 0x77, 0xF4])
    }

    @Test(arguments: [.split(pins: 24), .kernel(timer: false)] as [KVMEngine.InterruptChips])
    func `a message wakes a halted guest through the kernel's local APIC`(_ chips: KVMEngine.InterruptChips)
        throws
    {
        let bench = try KVMBench(
            chips,
            // DS is the APIC's page: mov dword [0xF0], 0x1FF enables it.
            code: [0x66, 0xC7, 0x06, 0xF0, 0x00, 0xFF, 0x01, 0x00, 0x00] + Self.waitForInterrupt,
            handlers: [0x41: 0x2000])
        try bench.memory.write(Self.handler, at: GuestAddress(0x2000))
        var state = KVMBench.realModeState()
        state.segments[3].base = 0xFEE0_0000
        bench.vcpu.load(state)
        bench.onPort70 { bench.engine.deliver(MSIMessage(address: 0xFEE0_0000, data: 0x41)) }
        #expect(try bench.run() == .requested)
        #expect(bench.platform.accesses.map(Self.port) == [0x70, 0x77, 0xF4])
        let registers = try #require(bench.vcpu.kernelAPIC)
        #expect(registers[0xF0] == 0xFF && registers[0xF1] & 1 == 1)
        bench.vcpu.loadKernelAPIC(registers)
        #expect(bench.vcpu.kernelAPIC == registers)
    }

    @Test func `our own local APIC's interrupt is injected when the guest allows it`() throws {
        let bench = try KVMBench(.userspace, code: Self.waitForInterrupt, handlers: [0x40: 0x2000])
        try bench.memory.write(Self.handler, at: GuestAddress(0x2000))
        bench.onPort70 {
            bench.apic.raise(0x40)
            bench.vcpu.wake()
        }
        #expect(try bench.run() == .requested)
        #expect(bench.platform.accesses.map(Self.port) == [0x70, 0x77, 0xF4])
    }

    @Test func `our own local APIC wakes a guest that is already halted`() throws {
        let bench = try KVMBench(.userspace, code: Self.waitForInterrupt, handlers: [0x40: 0x2000])
        try bench.memory.write(Self.handler, at: GuestAddress(0x2000))
        let waker = Mutex<HostThread?>(nil)
        let holder = ThreadHolder(thread: waker)
        bench.onPort70 {
            let thread = try? HostThread(name: "waker") {
                while bench.vcpu.currentActivity != .halted { Semaphore().wait(until: 1) }
                bench.apic.raise(0x40)
                bench.vcpu.wake()
            }
            holder.thread.withLock { $0 = thread }
        }
        #expect(try bench.run() == .requested)
        holder.thread.withLock { $0 }?.join()
        #expect(bench.platform.accesses.map(Self.port) == [0x70, 0x77, 0xF4])
    }

    @Test func `our own local APIC's page is answered by it`() throws {
        // DS is the APIC's page: mov eax, [0x20]; out 0xE8, eax
        let bench = try KVMBench(.userspace, code: [0x66, 0xA1, 0x20, 0x00, 0x66, 0xE7, 0xE8] + Self.stop)
        var state = KVMBench.realModeState()
        state.segments[3].base = 0xFEE0_0000
        bench.vcpu.load(state)
        #expect(try bench.run() == .requested)
        #expect(bench.platform.accesses.first == .out(0xE8, 0x5AFE_0020))
    }

    @Test func `INIT and start-up messages begin at their vector`() throws {
        let bench = try KVMBench(.userspace, code: Self.stop)
        try bench.memory.write([0xB0, 0x99, 0xE6, 0x77] + Self.stop, at: GuestAddress(0x3000))
        bench.apic.send(.startup(vector: 9))
        bench.apic.send(.initialize)
        bench.apic.send(.startup(vector: 3))
        bench.apic.send(.startup(vector: 4))
        #expect(try bench.run() == .requested)
        #expect(bench.platform.accesses == [.out(0x77, 0x99), .out(0xF4, 0x99)])
        #expect(bench.vcpu.state().segments[1].base == 0x3000)
    }

    @Test func `a thousand caught writes are counted without an exit`() throws {
        let bench = try KVMBench(
            .userspace,
            // mov cx, 1000; again: out 0x60, ax; loop again; out 0x62, al
            code: [0xB9, 0xE8, 0x03, 0xE7, 0x60, 0xE2, 0xFC, 0xE6, 0x62] + Self.stop)
        let counter = try EventCounter()
        try bench.engine.addWriteEvent(.port(0x60), width: .word, counter: counter)
        #expect(try bench.run() == .requested)
        #expect(counter.take() == 1000)
        #expect(bench.platform.accesses.map(Self.port) == [0x62, 0xF4])
        try bench.engine.removeWriteEvent(.port(0x60), width: .word, counter: counter)
        #expect(throws: HostError.self) {
            try bench.engine.removeWriteEvent(.port(0x60), width: .word, counter: counter)
        }
    }

    @Test func `the dirty log names the pages that were stored to, once`() throws {
        let bench = try KVMBench(
            .userspace,
            // mov [0x5000], ax; mov [0x9FFE], ax
            code: [0xA3, 0x00, 0x50, 0xA3, 0xFE, 0x9F] + Self.stop)
        #expect(try bench.engine.collectDirtyPages() == 0)
        try bench.engine.setDirtyLogging(true)
        _ = try bench.engine.collectDirtyPages()
        #expect(bench.memory.pages.word(5) & PageMap.dirtyBit == 0)
        #expect(try bench.run() == .requested)
        #expect(try bench.engine.collectDirtyPages() == 2)
        #expect(bench.memory.pages.word(5) & PageMap.dirtyBit != 0)
        #expect(bench.memory.pages.word(9) & PageMap.dirtyBit != 0)
        #expect(bench.memory.pages.word(6) & PageMap.dirtyBit == 0)
        #expect(try bench.engine.collectDirtyPages() == 0)
        try bench.engine.setDirtyLogging(false)
    }

    @Test(arguments: chips)
    func `a state survives loading and reading`(_ chips: KVMEngine.InterruptChips) throws {
        let bench = try KVMBench(chips, code: Self.stop)
        var state = KVMBench.realModeState()
        for index in 0..<16 { state.gpr[index] = 0x0101_0101_0101_0101 &* UInt64(index + 1) }
        state.rip = 0x1234
        state.rflags = 0x2 | 0x8D5 | 0x200
        let data = SegmentState(selector: 0x18, base: 0, limit: 0xFFFF_FFFF, attributes: 0xC093)
        state.segments = [
            data, SegmentState(selector: 0x10, base: 0, limit: 0xFFFF_FFFF, attributes: 0xA09B), data, data,
            SegmentState(selector: 0, base: 0x1234_5678_9ABC, limit: 0xFFFF_FFFF, attributes: 0xC093), data,
        ]
        state.tr = SegmentState(selector: 0x28, base: 0x7000, limit: 0x67, attributes: 0x8B)
        state.gdtr = TableRegister(base: 0x6000, limit: 0x3F)
        state.idtr = TableRegister(base: 0x6800, limit: 0xFFF)
        state.cr0 =
            CR0.protectionEnable | CR0.paging | CR0.extensionType | CR0.numericError | CR0.writeProtect
        state.cr2 = 0xDEAD_BEEF
        state.cr3 = 0x2000
        state.cr4 = CR4.physicalAddressExtension | CR4.osFXSR | CR4.pageGlobalEnable
        state.efer = EFER.longModeEnable | EFER.longModeActive | EFER.syscallEnable | EFER.noExecuteEnable
        state.xcr0 = 3
        state.debug = [0x1000, 0x2000, 0, 0, 0xFFFF_0FF0, 0x401]
        state.xsave[0] = 0x7F
        state.xsave[1] = 0x03
        for index in 160..<416 { state.xsave[index] = UInt8(truncatingIfNeeded: index) }
        state.xsave[512] = 3
        state.msrs = [
            MSR.lstar: 0xFFFF_8000_1234_0000, MSR.star: 0x23_0010_0000_0000, MSR.pat: 0x0007_0406_0007_0406,
        ]
        state.msrs[0xDEAD_0001] = 5  // no such register: tolerated
        state.tscOffset = 0x1_0000_0000
        state.nmiBlocked = true
        state.interruptShadow = true
        bench.vcpu.load(state)
        let copy = bench.vcpu.state()
        #expect(copy.gpr == state.gpr)
        #expect(copy.rip == state.rip && copy.rflags == state.rflags)
        #expect(copy.segments == state.segments)
        #expect(copy.tr == state.tr && copy.gdtr == state.gdtr && copy.idtr == state.idtr)
        #expect(
            [copy.cr0, copy.cr2, copy.cr3, copy.cr4, copy.efer] == [
                state.cr0, state.cr2, state.cr3, state.cr4, state.efer,
            ])
        #expect(copy.xcr0 == 3)
        #expect(copy.debug == state.debug)
        #expect(Array(copy.xsave[160..<416]) == Array(state.xsave[160..<416]))
        #expect(Array(copy.xsave[0..<2]) == [0x7F, 0x03])
        for (number, value) in state.msrs where number != 0xDEAD_0001 { #expect(copy.msrs[number] == value) }
        #expect(copy.msrs[0xDEAD_0001] == nil)
        // A KVM without hardware virtualization may be unable to offset the counter: then it says 0.
        let isFast = try HostKVM.probe.get().isFast
        #expect(copy.tscOffset == state.tscOffset || (!isFast && copy.tscOffset == 0))
        #expect(copy.nmiBlocked && copy.interruptShadow)
        #expect(copy.activity == .running)
        // What was read can be loaded, and reads the same again.
        bench.vcpu.load(copy)
        #expect(bench.vcpu.state() == copy)
    }

    @Test(arguments: [VCPUState.Activity.halted, .running, .waitingForStartup], chips)
    func `activity and pending events survive`(
        _ activity: VCPUState.Activity, _ chips: KVMEngine.InterruptChips
    ) throws {
        let bench = try KVMBench(chips, code: Self.stop)
        for pending in [
            PendingEvent(vector: 14, errorCode: 2), PendingEvent(vector: 0x55), PendingEvent(vector: 6),
        ] {
            var state = KVMBench.realModeState()
            state.cr0 |= CR0.protectionEnable  // error codes exist in protected mode
            state.activity = activity
            state.pending = pending
            bench.vcpu.load(state)
            let copy = bench.vcpu.state()
            #expect(copy.activity == activity)
            #expect(copy.pending == pending)
        }
    }

    @Test func `an incomplete state is refused by the next run`() throws {
        let bench = try KVMBench(.userspace, code: Self.stop)
        var state = VCPUState()
        state.gpr = [1]
        bench.vcpu.load(state)
        #expect(try bench.run() == .failed(reason: "the vCPU state to load is incomplete"))
    }

    @Test func `an instruction beyond the emulator hands over before it, or hardware runs it`() throws {
        // fwait
        let bench = try KVMBench(.userspace, code: [0xB0, 0x07, 0x9B] + Self.stop)
        let exit = try bench.run()
        if try HostKVM.probe.get().isFast {
            #expect(exit == .requested)
        } else {
            guard case .cannotExecute(let reason) = exit else {
                Issue.record("expected a hand-over, not \(exit)")
                return
            }
            print("KVM hand-over: \(reason)")
            let state = bench.vcpu.state()
            #expect(state.rip == KVMBench.codeAddress + 2)
            #expect(state.gpr[0] & 0xFF == 7)
            #expect(state.pending == nil)
        }
    }

    @Test func `a triple fault is a shutdown`() throws {
        // ud2 in protected mode, without an IDT.
        let bench = try KVMBench(.userspace, code: [0x0F, 0x0B])
        var state = KVMBench.realModeState()
        for index in 0..<6 {
            state.segments[index] = SegmentState(selector: 16, limit: .max, attributes: 0xC093)
        }
        state.segments[1] = SegmentState(selector: 8, limit: .max, attributes: 0xC09B)
        state.cr0 |= CR0.protectionEnable
        state.idtr = TableRegister(base: 0, limit: 0)
        bench.vcpu.load(state)
        #expect(try bench.run() == .shutdown)
    }

    @Test(arguments: chips)
    func `an exit can be requested at any moment`(_ chips: KVMEngine.InterruptChips) throws {
        // An endless loop, then a halt without interrupts: a request gets through to both.
        for code in [[0xEB, 0xFE], [0xFA, 0xF4]] as [[UInt8]] {
            let bench = try KVMBench(chips, code: code)
            for round in 0..<100 {
                let box = Box(), started = Semaphore()
                let thread = try HostThread(name: "vcpu") {
                    started.signal()
                    if bench.vcpu.run() == .requested { box.value.store(1, ordering: .releasing) }
                }
                if round % 2 == 0 { started.wait() }
                bench.vcpu.requestExit()
                thread.join()
                #expect(box.value.load(ordering: .acquiring) == 1)
            }
        }
    }

    @Test func `the machine's clock can be set back`() throws {
        let bench = try KVMBench(.userspace, code: Self.stop)
        try bench.engine.setClock(1_000_000_000_000)
        #expect(try bench.engine.clock() >= 1_000_000_000_000)
        try bench.engine.setClock(5_000)
        #expect(try bench.engine.clock() < 1_000_000_000_000)
    }

    @Test func `a model loses what the host lacks and keeps its names`() throws {
        let supported = try HostKVM.result.get().supportedCPUID()
        let host = try #require(supported.first { $0.leaf == 1 })
        let model = [
            CPUIDRow(leaf: 0, eax: 7, ebx: 0x1234, ecx: 0x5678, edx: 0x9ABC),
            CPUIDRow(leaf: 1, eax: 0x600, ebx: 0, ecx: .max, edx: .max),
            CPUIDRow(leaf: 7, hasSubleaf: true, eax: 1, ebx: .max, ecx: .max, edx: .max),
        ]
        let filtered = CPUIDTable.filtered(model: model, supported: supported)
        #expect(filtered[0] == model[0])
        #expect(filtered[1].eax == 0x600 && filtered[1].ecx == host.ecx && filtered[1].edx == host.edx)
        #expect(CPUIDTable.filtered(model: model, supported: [])[2].ebx == 0)
        let third = CPUIDTable.table(filtered, vcpu: 3, usesKernelAPIC: false)
        let features = CPUIDRow(leaf: 0x4000_0001, eax: .max, ebx: 0, ecx: 0, edx: 0)
        #expect(CPUIDTable.table([features], vcpu: 0, usesKernelAPIC: false)[0].eax == 0x0100_000B)
        #expect(third[1].ebx >> 24 == 3 && third[1].ecx & (1 << 21) == 0 && third[1].ecx >> 31 == 1)
    }

    @Test func `what is no KVM is refused with a reason`() throws {
        let error = try #require(throws: HostError.self) {
            _ = try KVMSystem(Descriptor.memory("no KVM", size: 1))
        }
        #expect(error.description.hasPrefix("this is not a KVM device"))
    }

    private static func port(_ access: Access) -> UInt16? {
        switch access {
        case .out(let port, _), .input(let port): return port
        default: return nil
        }
    }
}

private final class ThreadHolder: Sendable {
    let thread: Mutex<HostThread?>
    init(thread: consuming Mutex<HostThread?>) { self.thread = thread }
}
