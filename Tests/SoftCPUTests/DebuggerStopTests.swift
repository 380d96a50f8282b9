import GuestMemory
import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

/// A debugger's breakpoints, watchpoints and steps on the software CPU.
@Suite struct DebuggerStopTests {
    /// 0: mov ecx, 100000
    /// 5: add rax, 1 (top)
    /// 9: mov [0x60000], eax
    /// 16: dec ecx
    /// 18: jnz top
    /// 20: out 0x10, al
    private static let loop: [UInt8] = [
        0xB9, 0xA0, 0x86, 0x01, 0x00, 0x48, 0x83, 0xC0, 0x01, 0x89, 0x04, 0x25, 0x00, 0x00, 0x06, 0x00, 0xFF,
        0xC9, 0x75, 0xF1, 0xE6, 0x10, 0xF4,
    ]
    private static let top = TestMachine.code + 5, store = TestMachine.code + 9, end = TestMachine.code + 20

    private func machine(_ code: [UInt8] = loop, flags: UInt64 = 2) throws -> TestMachine {
        let machine = try TestMachine(.long64, flags: flags)
        machine.write(TestMachine.code, code)
        machine.platform.stopped = machine.vcpu
        return machine
    }

    private func stops(_ change: (inout DebugStops) -> Void) -> DebugStops {
        var stops = DebugStops()
        change(&stops)
        return stops
    }

    @Test func `a breakpoint stops in front of its instruction, each time`() throws {
        let machine = try machine()
        #expect(machine.vcpu.setDebugStops(stops { $0.breakpoints = [Self.store] }))
        for round in 1...3 as ClosedRange<UInt64> {
            #expect(machine.vcpu.run() == .debug(.breakpoint))
            #expect(machine.vcpu.state().rip == Self.store)
            #expect(machine.vcpu.state().gpr[0] == round)
            #expect(machine.vcpu.run() == .debug(.breakpoint), "one at the next instruction stops at once")
            #expect(machine.vcpu.setDebugStops(stops { $0.stepsOnce = true }))
            #expect(machine.vcpu.run() == .debug(.stepped))
            #expect(machine.vcpu.setDebugStops(stops { $0.breakpoints = [Self.store] }))
        }
        #expect(machine.load(Self.store, size: 2) == 0x0489, "no byte of the guest changes")
    }

    @Test func `a breakpoint in code that runs translated already stops, and without it the code runs on`()
        throws
    {
        let machine = try machine()
        #expect(machine.vcpu.setDebugStops(stops { $0.breakpoints = [Self.end] }))
        #expect(machine.vcpu.run() == .debug(.breakpoint))
        #expect(machine.vcpu.state().rip == Self.end)
        let last = machine.vcpu.state().gpr[0]
        #expect(last == 100_000)
        #expect(machine.vcpu.setDebugStops(DebugStops()))
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.platform.writes.map(\.port) == [0x10])
    }

    @Test func `an instruction at the same offset of another page does not stop`() throws {
        let machine = try machine()
        #expect(machine.vcpu.setDebugStops(stops { $0.breakpoints = [Self.store + 0x1000, Self.end] }))
        #expect(machine.vcpu.run() == .debug(.breakpoint))
        #expect(machine.vcpu.state().rip == Self.end)
    }

    @Test(arguments: [
        DebugStops.Watchpoint(address: 0x60000, length: 4, access: .write),
        DebugStops.Watchpoint(address: 0x60003, length: 1, access: .any),
        DebugStops.Watchpoint(address: 0x5F000, length: 4096, access: .write),
        DebugStops.Watchpoint(address: 0x60000, length: 4, access: .read),
        DebugStops.Watchpoint(address: 0x60004, length: 4, access: .any),
    ])
    func `a watchpoint stops after the store that touches its bytes, and after no other`(
        watchpoint: DebugStops.Watchpoint
    ) throws {
        let machine = try machine()
        #expect(
            machine.vcpu.setDebugStops(
                stops {
                    $0.watchpoints = [watchpoint]
                    $0.breakpoints = [Self.end]
                }))
        let isHit = watchpoint.covers(0x60000, size: 4, isWrite: true)
        #expect(machine.vcpu.run() == .debug(isHit ? .watchpoint(watchpoint) : .breakpoint))
        #expect(machine.vcpu.state().rip == (isHit ? TestMachine.code + 16 : Self.end))
    }

    @Test func `a load stops a watchpoint for reads`() throws {
        // mov eax, [0x60000]; out 0x10, al
        let machine = try machine([0x8B, 0x04, 0x25, 0x00, 0x00, 0x06, 0x00, 0xE6, 0x10, 0xF4])
        let watchpoint = DebugStops.Watchpoint(address: 0x60002, length: 1, access: .read)
        #expect(machine.vcpu.setDebugStops(stops { $0.watchpoints = [watchpoint] }))
        #expect(machine.vcpu.run() == .debug(.watchpoint(watchpoint)))
        #expect(machine.vcpu.state().rip == TestMachine.code + 7)
    }

    @Test func `a step is one instruction, also when an interrupt waits`() throws {
        let machine = try machine(flags: 0x202)
        machine.apic.request(0x20)
        machine.vcpu.wake()
        for (count, address) in [5, 9, 16, 18].enumerated() {
            #expect(machine.vcpu.setDebugStops(stops { $0.stepsOnce = true }))
            #expect(machine.vcpu.run() == .debug(.stepped))
            #expect(machine.vcpu.state().rip == TestMachine.code + UInt64(address), "step \(count)")
        }
        // Without a debugger the interrupt comes, and finds the code of its handler.
        machine.write(TestMachine.handlers + 0x200, [0xE6, 0x11, 0xF4])
        #expect(machine.vcpu.setDebugStops(DebugStops()))
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.platform.writes.map(\.port) == [0x11])
    }

    @Test func `a step ends after an instruction behind STI, and in the handler of a fault`() throws {
        // sti; nop; ud2
        let machine = try machine([0xFB, 0x90, 0x0F, 0x0B])
        machine.apic.request(0x20)
        for address in [TestMachine.code + 1, TestMachine.code + 2, TestMachine.handlers + 6 * 16] {
            #expect(machine.vcpu.setDebugStops(stops { $0.stepsOnce = true }))
            #expect(machine.vcpu.run() == .debug(.stepped))
            #expect(machine.vcpu.state().rip == address)
        }
    }

    @Test func `a halted vCPU steps into the interrupt that wakes it`() throws {
        let machine = try machine([0xF4, 0x90], flags: 0x202)
        #expect(machine.vcpu.setDebugStops(stops { $0.stepsOnce = true }))
        #expect(machine.vcpu.run() == .debug(.stepped))
        #expect(machine.vcpu.state().activity == .halted)
        machine.apic.request(0x20)
        machine.vcpu.wake()
        #expect(machine.vcpu.setDebugStops(stops { $0.stepsOnce = true }))
        #expect(machine.vcpu.run() == .debug(.stepped))
        #expect(machine.vcpu.state().rip == TestMachine.handlers + 0x200)
    }

    @Test func `a step does one repetition of a string instruction`() throws {
        // mov ecx, 3; mov edi, 0x60000; rep stosb
        let machine = try machine([0xB9, 3, 0, 0, 0, 0xBF, 0x00, 0x00, 0x06, 0x00, 0xF3, 0xAA, 0xF4])
        var left: [UInt64] = []
        for _ in 0..<5 {
            #expect(machine.vcpu.setDebugStops(stops { $0.stepsOnce = true }))
            #expect(machine.vcpu.run() == .debug(.stepped))
            left.append(machine.vcpu.state().gpr[1])
        }
        #expect(left == [3, 3, 2, 1, 0])
    }

    @Test func `the guest's own debug registers go on working, and see nothing of the debugger`() throws {
        let machine = try machine()
        var state = machine.vcpu.state()
        // DR0 watches stores to 4 bytes at 0x60000 (G0, RW 01, LEN 11).
        state.debug = [0x60000, 0, 0, 0, 0xFFFF_0FF0, 0x000D_0402]
        machine.vcpu.load(state)
        let handler = TestMachine.handlers + 16
        #expect(machine.vcpu.setDebugStops(stops { $0.breakpoints = [Self.store, handler] }))
        #expect(machine.vcpu.run() == .debug(.breakpoint))
        #expect(machine.vcpu.state().rip == Self.store)
        #expect(machine.vcpu.state().debug[4] == 0xFFFF_0FF0)
        #expect(machine.vcpu.setDebugStops(stops { $0.breakpoints = [handler] }))
        #expect(machine.vcpu.run() == .debug(.breakpoint))
        #expect(machine.vcpu.state().rip == handler)
        #expect(machine.vcpu.state().debug[4] & 0xF == 1)
    }
}
