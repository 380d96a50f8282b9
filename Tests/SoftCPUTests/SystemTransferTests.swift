import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

private typealias Selector = TestMachine.Selector

@Suite struct InterruptReturnTests {
    private func frame(_ m: TestMachine, _ words: [UInt64], size: Int = 8) {
        for (index, word) in words.enumerated() { m.store(m.rsp + UInt64(index * size), word, size: size) }
    }

    @Test func `IRETQ to privilege 3 loads the outer stack and drops inner data segments`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rsp, TestMachine.kernelStack - 40)
        frame(m, [0x60000, UInt64(Selector.userCode64), 0x202, 0x3_0000, UInt64(Selector.userData)])
        m.cpu.s.nmiBlocked = true
        m.run([0x48, 0xCF])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.cpu.s.cpl == 3)
        #expect(m.rsp == 0x3_0000)
        #expect(m.cpu.interruptFlag)
        #expect(!m.cpu.s.nmiBlocked)
        #expect(m.cpu.s.segments[Segment.ds].selector == 0)
        #expect(m.cpu.s.tlbContext == TLB.user)
    }

    @Test func `IRETQ to compatibility mode loads a 32-bit code segment`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rsp, TestMachine.kernelStack - 40)
        frame(m, [0x60000, UInt64(Selector.userCode32), 0x202, 0x3_0000, UInt64(Selector.userData)])
        m.run([0x48, 0xCF])
        #expect(m.cpu.s.modeKey & 3 == 1)
        #expect(m.cpu.s.stackMask == 0xFFFF_FFFF)
    }

    @Test func `IRETQ at the same privilege reloads RSP, and a null SS is fine there`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rsp, TestMachine.kernelStack - 40)
        frame(m, [0x60000, UInt64(Selector.kernelCode), 0x2, 0x1_8000, 0])
        m.run([0x48, 0xCF])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.rsp == 0x1_8000)
        #expect(m.cpu.s.cpl == 0)
    }

    @Test func `IRETQ to a stack of the wrong privilege raises #GP with its selector and changes nothing`()
        throws
    {
        let m = try TestMachine(.long64)
        m.set(Register.rsp, TestMachine.kernelStack - 40)
        frame(m, [0x60000, UInt64(Selector.userCode64), 0x202, 0x3_0000, UInt64(Selector.kernelData)])
        m.run([0x48, 0xCF])
        #expect(m.vector == 13)
        #expect(m.load(m.rsp) == UInt64(Selector.kernelData))
        #expect(m.load(m.rsp + 8) == TestMachine.code)
        #expect(m.load(m.rsp + 32) == TestMachine.kernelStack - 40)
    }

    @Test func `IRET at privilege 3 can change neither IOPL nor IF`() throws {
        let m = try TestMachine(.long64, privilege: 3, flags: 0x2)
        m.set(Register.rsp, TestMachine.userStack - 40)
        frame(m, [0x60000, UInt64(Selector.userCode64), 0x3203, 0x3_8000, UInt64(Selector.userData)])
        m.run([0x48, 0xCF])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.cpu.rflags == 0x3)
    }

    @Test func `IRETD with VM set enters virtual-8086 mode`() throws {
        let m = try TestMachine(.protected32)
        m.set(Register.rsp, TestMachine.kernelStack - 36)
        frame(m, [0x10, 0x1234, 0x2_0202, 0xFFF0, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000], size: 4)
        m.run([0xCF])
        #expect(m.cpu.isVirtual8086)
        #expect(m.cpu.s.cpl == 3)
        #expect(m.cpu.linearRIP == 0x12350)
        #expect(m.rsp == 0xFFF0)
        #expect(m.cpu.s.segments[Segment.gs].base == 0x6_0000)
    }

    @Test func `IRET with NT returns to the task in the back link`() throws {
        let m = try TestMachine(.protected32)
        m.prepareSecondTask()
        m.run([0x9A, 0, 0, 0, 0, UInt8(Selector.secondTask), 0])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.cpu.s.segments[Segment.tr].selector == Selector.secondTask)
        #expect(m.load(0x1000 + 0x35, size: 1) & 2 == 0, "the test's own TSS descriptor starts available")
        m.setDescriptor(Selector.task, TestMachine.descriptor(0x3000, 0x7F, 0x8B))
        m.run([0xCF])
        #expect(m.cpu.s.segments[Segment.tr].selector == Selector.task)
        #expect(m.cpu.s.rip == TestMachine.code + 7)
        #expect(m.rsp == TestMachine.kernelStack)
        #expect(m.load(0x1000 + 0x65, size: 1) == 0x89)
    }

    @Test func `real mode IRET loads FLAGS and the far address`() throws {
        let m = try TestMachine(.real)
        m.set(Register.rsp, 0x7FFA)
        m.store(0x20000 + 0x7FFA, 0x0202_3000_0040, size: 6)
        m.run([0xCF])
        #expect(m.cpu.linearRIP == 0x30040)
        #expect(m.rsp == 0x8000)
        #expect(m.cpu.interruptFlag)
    }
}

@Suite struct FarTransferTests {
    @Test func `a far jump checks privilege of the code segment`() throws {
        let m = try TestMachine(.protected32, privilege: 3)
        m.run([0xEA, 0, 0, 6, 0, UInt8(Selector.kernelCode), 0])
        #expect(m.vector == 13)
        #expect(m.load(m.rsp, size: 4) == UInt64(Selector.kernelCode))
    }

    @Test func `a conforming segment keeps the caller's privilege`() throws {
        let m = try TestMachine(.protected32, privilege: 3)
        m.run([0xEA, 0, 0, 6, 0, UInt8(Selector.conforming), 0])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.cpu.s.cpl == 3)
        #expect(m.cpu.s.segments[Segment.cs].selector == Selector.conforming | 3)
    }

    @Test func `a jump to an absent segment is #NP`() throws {
        let m = try TestMachine(.protected32)
        m.setDescriptor(Selector.absent, TestMachine.descriptor(0, 0xFFFFF, 0x1A, 0xC))
        m.run([0xEA, 0, 0, 6, 0, UInt8(Selector.absent), 0])
        #expect(m.vector == 11)
        #expect(m.load(m.rsp, size: 4) == UInt64(Selector.absent))
    }

    @Test func `real mode enters protected mode by MOV CR0 and a far jump`() throws {
        let m = try TestMachine(.real)
        m.setDescriptor(Selector.kernelCode, TestMachine.descriptor(0, 0xFFFFF, 0x9A, 0xC))
        m.set(Register.rax, 0x11)
        m.run([0x0F, 0x22, 0xC0, 0x66, 0xEA, 0, 0, 6, 0, UInt8(Selector.kernelCode), 0], count: 2)
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.cpu.s.modeKey & 3 == 1)
        #expect(m.cpu.isProtected)
    }

    @Test func `a call gate copies its parameters to the inner stack, and RETF releases them`() throws {
        let m = try TestMachine(.protected32, privilege: 3)
        m.setDescriptor(Selector.gate, m.gate(Selector.kernelCode, 0x60000, access: 0xEC, low: 2))
        m.set(Register.rsp, TestMachine.userStack - 8)
        m.store(TestMachine.userStack - 8, 0x2222_2222_1111_1111)
        m.run([0x9A, 0, 0, 0, 0, UInt8(Selector.gate), 0])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.cpu.s.cpl == 0)
        #expect(m.rsp == TestMachine.innerStack - 24)
        #expect(m.load(m.rsp, size: 4) == TestMachine.code + 7)
        #expect(m.load(m.rsp + 8) == 0x2222_2222_1111_1111)
        #expect(m.load(m.rsp + 16, size: 4) == TestMachine.userStack - 8)
        m.run([0xCA, 8, 0])
        #expect(m.cpu.s.cpl == 3)
        #expect(m.cpu.s.rip == TestMachine.code + 7)
        #expect(m.rsp == TestMachine.userStack)
        #expect(m.cpu.s.segments[Segment.ss].selector == Selector.userData)
    }

    @Test func `a call gate in long mode pushes 64-bit words and nulls SS`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.setDescriptor(Selector.gate, m.gate(Selector.kernelCode, 0x60000, access: 0xEC), 0)
        m.store(0x70000, UInt64(Selector.gate) << 32, size: 6)
        m.set(Register.rax, 0x70000)
        m.run([0xFF, 0x18])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.rsp == TestMachine.innerStack - 32)
        #expect(m.load(m.rsp + 8) == UInt64(Selector.userCode64))
        #expect(m.cpu.s.segments[Segment.ss].selector == 0)
    }

    @Test func `LRETQ switches the code segment`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rsp, TestMachine.kernelStack - 16)
        m.store(m.rsp, 0x60000)
        m.store(m.rsp + 8, UInt64(Selector.kernelCode32))
        m.run([0x48, 0xCB])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.cpu.s.modeKey & 3 == 1)
    }

    @Test func `a task gate needs a present task`() throws {
        let m = try TestMachine(.protected32)
        m.setDescriptor(Selector.secondTask, TestMachine.descriptor(0x8000, 0x67, 0x09))
        m.run([0xEA, 0, 0, 0, 0, UInt8(Selector.taskGate), 0])
        #expect(m.vector == 11)
        #expect(m.load(m.rsp, size: 4) == UInt64(Selector.secondTask))
    }

    @Test func `a task whose stack segment is bad faults inside the new task`() throws {
        let m = try TestMachine(.protected32)
        m.prepareSecondTask()
        m.store(0x8050, UInt64(Selector.userData), size: 2)
        m.store(0x2000 + 10 * 8, m.gate(Selector.task, 0, access: 0x85))
        m.setDescriptor(Selector.task, TestMachine.descriptor(0x3000, 0x7F, 0x8B))
        m.run([0xEA, 0, 0, 0, 0, UInt8(Selector.secondTask), 0])
        // #TS through a gate to the task that just was released by the jump: entered again.
        #expect(m.cpu.s.segments[Segment.tr].selector == Selector.task)
        #expect(m.load(0x3000, size: 2) == UInt64(Selector.secondTask))
        #expect(m.load(m.rsp, size: 4) == UInt64(Selector.userData & 0xFFFC))
    }
}

@Suite struct SystemCallTests {
    private func machine(_ privilege: UInt8, flags: UInt64 = 0x202) throws -> TestMachine {
        let m = try TestMachine(.long64, privilege: privilege, flags: flags)
        m.cpu.s.star = 0x0018_0008 << 32
        m.cpu.s.lstar = 0x60000
        m.cpu.s.cstar = 0x61000
        m.cpu.s.syscallMask = 0x300
        return m
    }

    @Test func `SYSCALL saves RIP and RFLAGS and enters the kernel`() throws {
        let m = try machine(3)
        m.run([0x0F, 0x05])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.get(Register.rcx) == TestMachine.code + 2)
        #expect(m.get(11) == 0x202)
        #expect(m.cpu.s.cpl == 0)
        #expect(m.cpu.s.segments[Segment.cs].selector == 8)
        #expect(m.cpu.s.segments[Segment.ss].selector == 16)
        #expect(!m.cpu.interruptFlag)
        #expect(m.rsp == TestMachine.userStack)
    }

    @Test func `SYSCALL from compatibility mode goes to CSTAR`() throws {
        let m = try machine(3)
        m.cpu.s.segments[Segment.cs].attributes = 0xC0FB
        m.cpu.modeChanged()
        m.run([0x0F, 0x05])
        #expect(m.cpu.s.rip == 0x61000)
        #expect(m.cpu.is64Bit)
    }

    @Test func `SYSRET returns to 64-bit or 32-bit code by operand size`() throws {
        let m = try machine(0, flags: 2)
        m.set(Register.rcx, 0x62000)
        m.set(11, 0x246)
        m.run([0x48, 0x0F, 0x07])
        #expect(m.cpu.s.rip == 0x62000)
        #expect(m.cpu.is64Bit)
        #expect(m.cpu.s.segments[Segment.cs].selector == 0x2B)
        #expect(m.cpu.s.segments[Segment.ss].selector == 0x23)
        #expect(m.cpu.rflags == 0x246)
        let other = try machine(0, flags: 2)
        other.set(Register.rcx, 0x62000)
        other.set(11, 0x202)
        other.run([0x0F, 0x07])
        #expect(other.cpu.s.modeKey & 3 == 1)
        #expect(other.cpu.s.segments[Segment.cs].selector == 0x1B)
        #expect(other.cpu.s.cpl == 3)
    }

    @Test func `SYSRET at privilege 3 is refused`() throws {
        let m = try machine(3)
        m.run([0x48, 0x0F, 0x07])
        #expect(m.vector == 13)
    }

    @Test func `SYSCALL without EFER.SCE and SYSENTER in long mode are undefined`() throws {
        let m = try machine(3)
        m.cpu.s.efer &= ~EFER.syscallEnable
        m.run([0x0F, 0x05])
        #expect(m.vector == 6)
        let other = try machine(3)
        other.cpu.s.sysenterCS = 8
        other.run([0x0F, 0x34])
        #expect(other.vector == 6)
    }

    @Test func `SYSENTER and SYSEXIT work in 32-bit protected mode`() throws {
        let m = try TestMachine(.protected32, privilege: 3, flags: 0x202)
        m.cpu.s.sysenterCS = 8
        m.cpu.s.sysenterEIP = 0x60000
        m.cpu.s.sysenterESP = 0x2F000
        m.run([0x0F, 0x34])
        #expect(m.cpu.s.rip == 0x60000)
        #expect(m.rsp == 0x2F000)
        #expect(m.cpu.s.cpl == 0)
        m.set(Register.rcx, 0x3F000)
        m.set(Register.rdx, 0x62000)
        m.run([0x0F, 0x35])
        #expect(m.cpu.s.cpl == 3)
        #expect(m.cpu.s.rip == 0x62000)
        #expect(m.rsp == 0x3F000)
    }

    @Test func `SWAPGS exchanges the bases and is privileged`() throws {
        let m = try machine(0)
        m.cpu.s.kernelGSBase = 0x1234_5000
        m.run([0x0F, 0x01, 0xF8])
        #expect(m.cpu.s.effectiveBase[Segment.gs] == 0x1234_5000)
        #expect(m.cpu.s.kernelGSBase == 0)
        let user = try machine(3)
        user.run([0x0F, 0x01, 0xF8])
        #expect(user.vector == 13)
    }
}
