import Foundation
import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

private typealias Selector = TestMachine.Selector

@Suite struct EventDeliveryTests {
    @Test func `a fault at privilege 3 in 64-bit mode switches to RSP0 and pushes a whole frame`() throws {
        let m = try TestMachine(.long64, privilege: 3, flags: 0x202)
        m.run([0xF4])  // hlt
        #expect(m.vector == 13)
        #expect(m.cpu.s.cpl == 0)
        #expect(m.rsp == TestMachine.innerStack - 48)
        #expect(m.load(m.rsp) == 0)
        #expect(m.load(m.rsp + 8) == TestMachine.code)
        #expect(m.load(m.rsp + 16) == UInt64(Selector.userCode64))
        #expect(m.load(m.rsp + 24) == 0x1_0202)
        #expect(m.load(m.rsp + 32) == TestMachine.userStack)
        #expect(m.load(m.rsp + 40) == UInt64(Selector.userData))
        #expect(m.cpu.s.segments[Segment.ss].selector == 0)
        #expect(!m.cpu.interruptFlag)
    }

    @Test func `an interrupt stack table entry is used at the same privilege too`() throws {
        let m = try TestMachine(.long64)
        m.setVector(2, access: 0x8E, ist: 1)
        m.set(Register.rsp, TestMachine.kernelStack - 3)
        m.cpu.deliverNMI()
        #expect(m.vector == 2)
        #expect(m.rsp == TestMachine.firstIST - 40)
        #expect(m.load(m.rsp + 24) == TestMachine.kernelStack - 3)
        #expect(m.cpu.s.nmiBlocked)
        #expect(m.load(m.rsp + 32) == UInt64(Selector.kernelData))
    }

    @Test func `the stack is aligned to 16 bytes on delivery in 64-bit mode`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rsp, 0x1FFF9)
        m.cpu.deliverInterrupt(0x20)
        #expect(m.rsp == 0x1FFF0 - 40)
    }

    @Test func `a trap gate keeps interrupts on`() throws {
        let m = try TestMachine(.long64, flags: 0x302)
        m.setVector(0x20, access: 0x8F)
        m.cpu.deliverInterrupt(0x20)
        #expect(m.cpu.interruptFlag)
        #expect(m.cpu.s.otherFlags & RFlags.trap.rawValue == 0)
        #expect(m.load(m.rsp + 16) == 0x302)
    }

    @Test func `INT n through a gate of privilege 0 is refused at privilege 3, without EXT`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.run([0xCD, 0x21])
        #expect(m.vector == 13)
        #expect(m.load(m.rsp) == 0x21 * 8 + 2)
        #expect(m.load(m.rsp + 8) == TestMachine.code)
    }

    @Test func `INT3 through a gate of privilege 3 returns behind itself`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.setVector(3, access: 0xEE)
        m.run([0xCC])
        #expect(m.vector == 3)
        #expect(m.load(m.rsp) == TestMachine.code + 1)
        #expect(m.load(m.rsp + 16) & RFlags.resume.rawValue == 0)
    }

    @Test func `a missing gate for an external interrupt is #NP with EXT`() throws {
        let m = try TestMachine(.long64)
        m.setVector(0x20, access: 0x0E)
        m.cpu.deliverInterrupt(0x20)
        #expect(m.vector == 11)
        #expect(m.load(m.rsp) == 0x20 * 8 + 3)
    }

    @Test func `a page fault carries its error code and CR2`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.set(Register.rax, 0x40_0000)
        m.run([0x89, 0x00])  // mov [rax], eax
        #expect(m.vector == 14)
        #expect(m.cpu.s.cr2 == 0x40_0000)
        #expect(m.load(m.rsp) == 6)
    }

    @Test func `a contributory fault during a contributory fault is a double fault`() throws {
        let m = try TestMachine(.long64)
        m.setVector(13, access: 0x0E)
        m.run([0x0F, 0x00, 0xD9])  // ltr cx with a null selector: #GP(0), whose gate is absent
        #expect(m.vector == 8)
        #expect(m.load(m.rsp) == 0)
        #expect(!m.cpu.s.shutdown)
    }

    @Test func `a page fault during a contributory fault is delivered by itself`() throws {
        let m = try TestMachine(.long64)
        // The gate's code segment is fine, but its stack, IST 1, is not mapped.
        m.store(0x3024, 0x40_0000)
        m.setVector(13, access: 0x8E, ist: 1)
        m.run([0x0F, 0x00, 0xD9])
        #expect(m.vector == 14)
        #expect(m.cpu.s.cr2 == 0x40_0000 - 8)
    }

    @Test func `a page fault during a page fault is a double fault`() throws {
        let m = try TestMachine(.long64)
        m.store(0x3024, 0x40_0000)
        m.setVector(14, access: 0x8E, ist: 1)
        m.set(Register.rax, 0x60_0000)
        m.run([0x8B, 0x00])
        #expect(m.vector == 8)
    }

    @Test func `a fault during a double fault shuts the processor down`() throws {
        let m = try TestMachine(.long64)
        m.setVector(13, access: 0x0E)
        m.setVector(8, access: 0x0E)
        m.run([0x0F, 0x00, 0xD9])
        #expect(m.cpu.s.shutdown)
    }

    @Test func `delivery from compatibility mode reads tables above 4 GiB`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.store(0x4000 + 511 * 8, 0x5007)
        m.cpu.s.idtBase = 0xFFFF_FF80_0000_2000
        m.cpu.s.gdtBase = 0xFFFF_FF80_0000_1000
        m.cpu.s.segments[Segment.cs].attributes = 0xC0FB
        m.cpu.modeChanged()
        m.run([0xF4])
        #expect(m.vector == 13)
        #expect(m.cpu.is64Bit)
        #expect(m.load(m.rsp + 8) == TestMachine.code)
    }

    @Test func `real mode goes through the vector table without error codes`() throws {
        let m = try TestMachine(.real, flags: 0x202)
        m.run([0xCD, 0x21])
        #expect(m.vector == 0x21)
        #expect(m.rsp == 0x7FFA)
        #expect(m.load(0x20000 + 0x7FFA, size: 2) == 2)
        #expect(m.load(0x20000 + 0x7FFC, size: 2) == 0x1000)
        #expect(m.load(0x20000 + 0x7FFE, size: 2) == 0x202)
        #expect(!m.cpu.interruptFlag)
    }

    @Test func `a 32-bit inner interrupt takes SS and ESP from the TSS`() throws {
        let m = try TestMachine(.protected32, privilege: 3, flags: 0x202)
        m.run([0xFA])  // cli at IOPL 0
        #expect(m.vector == 13)
        #expect(m.rsp == TestMachine.innerStack - 24)
        #expect(m.load(m.rsp + 4, size: 4) == TestMachine.code)
        #expect(m.load(m.rsp + 16, size: 4) == TestMachine.userStack)
        #expect(m.load(m.rsp + 20, size: 4) == UInt64(Selector.userData))
        #expect(m.cpu.s.segments[Segment.ss].selector == Selector.kernelData)
    }

    @Test func `an exception through a task gate enters the task with its error code on the stack`() throws {
        let m = try TestMachine(.protected32)
        m.prepareSecondTask()
        m.store(0x2000 + 13 * 8, m.gate(Selector.secondTask, 0, access: 0x85))
        m.run([0x0F, 0x00, 0xD9])
        #expect(m.cpu.s.segments[Segment.tr].selector == Selector.secondTask)
        #expect(m.rsp == 0x28000 - 4)
        #expect(m.load(0x28000 - 4, size: 4) == 0)
        #expect(m.load(0x8000, size: 2) == UInt64(Selector.task))
        #expect(m.cpu.s.otherFlags & RFlags.nestedTask.rawValue != 0)
        #expect(m.load(0x3020, size: 4) == TestMachine.code)
    }

    @Test func `virtual-8086 interrupts push all data segments and null them`() throws {
        let m = try TestMachine(.protected32, privilege: 3, flags: 0x2_0202)
        m.enterVirtual8086()
        m.cpu.deliverInterrupt(0x20)
        #expect(m.vector == 0x20)
        #expect(m.rsp == TestMachine.innerStack - 36)
        #expect(m.load(m.rsp + 8, size: 4) == 0x2_0202)
        #expect(m.load(m.rsp + 20, size: 4) == 0x3333)
        #expect(m.cpu.s.segments[Segment.ds].selector == 0)
        #expect(!m.cpu.isVirtual8086)
    }

    @Test func `an interrupt ends HLT after STI's shadow, and a triple fault ends the run`() throws {
        let m = try TestMachine(.long64)
        m.apic.request(0x20)
        // The handler: out 0x80, al; lidt with a zero limit; ud2.
        m.write(
            TestMachine.handlers + 0x200,
            [0xE6, 0x80, 0x0F, 0x01, 0x1C, 0x25, 0, 0, 7, 0, 0x0F, 0x0B])
        m.write(TestMachine.code, [0xFB, 0xF4])
        #expect(m.vcpu.run() == .shutdown)
        #expect(m.platform.writes.map(\.port) == [0x80])
        #expect(m.load(TestMachine.kernelStack - 40) == TestMachine.code + 2)
    }

    @Test func `HLT halts without STI before it, and so does the next one`() throws {
        let m = try TestMachine(.long64, flags: 0x202)
        // The handler: out 0x80, al; iretq.
        m.write(TestMachine.handlers + 0x200, [0xE6, 0x80, 0x48, 0xCF])
        // hlt; hlt; out 0x81, al; lidt with a zero limit; ud2.
        m.write(
            TestMachine.code, [0xF4, 0xF4, 0xE6, 0x81, 0x0F, 0x01, 0x1C, 0x25, 0, 0, 7, 0, 0x0F, 0x0B])
        nonisolated(unsafe) let vcpu = m.vcpu
        func run(for milliseconds: UInt32) -> Exit {
            let ended = DispatchSemaphore(value: 0)
            Thread.detachNewThread {
                usleep(milliseconds * 1000)
                vcpu.requestExit()
                ended.signal()
            }
            defer { ended.wait() }
            return vcpu.run()
        }
        /// A busy host may ask for the exit before the vCPU has come to its HLT.
        func halts(at place: UInt64) -> Bool {
            for _ in 0..<200 {
                guard run(for: 50) == .requested else { return false }
                if m.cpu.s.activity == .halted, m.cpu.s.rip == place { return true }
            }
            return false
        }
        #expect(halts(at: TestMachine.code + 1))
        #expect(m.cpu.s.activity == .halted)
        #expect(m.cpu.s.rip == TestMachine.code + 1)
        m.apic.request(0x20)
        #expect(halts(at: TestMachine.code + 2))
        #expect(m.platform.writes.map(\.port) == [0x80])
        #expect(m.cpu.s.rip == TestMachine.code + 2)
        m.apic.request(0x20)
        #expect(run(for: 60_000) == .shutdown)
        #expect(m.platform.writes.map(\.port) == [0x80, 0x80, 0x81])
    }

    @Test func `INT n in virtual-8086 mode needs IOPL 3`() throws {
        let m = try TestMachine(.protected32, privilege: 3, flags: 0x2_0202)
        m.enterVirtual8086()
        m.run([0xCD, 0x20])
        #expect(m.vector == 13)
        #expect(m.load(m.rsp, size: 4) == 0)
    }
}

extension TestMachine {
    /// A task whose code is at 0x60000 and stack below 0x28000.
    func prepareSecondTask() {
        store(0x801C, 0, size: 4)
        store(0x8020, 0x60000, size: 4)
        store(0x8024, 0x2, size: 4)
        store(0x8038, 0x28000, size: 4)
        for offset in [0x48, 0x50, 0x54] as [UInt64] {
            store(0x8000 + offset, UInt64(Selector.kernelData), size: 2)
        }
        store(0x804C, UInt64(Selector.kernelCode), size: 2)
    }

    /// Segments of a virtual-8086 program at 1000:0000.
    func enterVirtual8086() {
        for number in 0..<6 { cpu.loadRealSegment(number, number == 1 ? 0x1000 : 0x3333) }
        cpu.s.rip = 0
        cpu.modeChanged()
    }
}
