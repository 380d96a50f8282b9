import DeviceModel
import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

private typealias Selector = TestMachine.Selector

@Suite struct SegmentLoadTests {
    /// Selector, and the vector that MOV DS raises at privilege 3.
    @Test(
        arguments: [
            (Selector.userData, nil), (0, nil), (Selector.kernelData, 13), (Selector.userCode32, nil),
            (Selector.conforming, nil), (Selector.absent | 3, 13), (0xF8, 13), (Selector.task, 13),
        ] as [(UInt16, Int?)])
    func `MOV DS checks type and privilege`(selector: UInt16, vector: Int?) throws {
        let m = try TestMachine(.protected32, privilege: 3)
        m.set(Register.rax, UInt64(selector))
        m.run([0x8E, 0xD8])
        #expect(m.vector == vector)
        if vector == nil { #expect(m.cpu.s.segments[Segment.ds].selector == selector) }
    }

    @Test func `an absent data segment is #NP, an absent stack segment #SS`() throws {
        for (opcode, vector) in [(UInt8(0xD8), 11), (UInt8(0xD0), 12)] {
            let m = try TestMachine(.protected32)
            m.set(Register.rax, UInt64(Selector.absent))
            m.run([0x8E, opcode])
            #expect(m.vector == vector)
            #expect(m.load(m.rsp, size: 4) == UInt64(Selector.absent))
        }
    }

    @Test func `a load sets the accessed bit in the table`() throws {
        let m = try TestMachine(.protected32)
        m.set(Register.rax, UInt64(Selector.kernelData))
        m.run([0x8E, 0xD8])
        #expect(m.load(0x1000 + 0x15, size: 1) == 0x93)
    }

    @Test func `real mode keeps big limits that protected mode left`() throws {
        let m = try TestMachine(.real)
        m.cpu.s.segments[Segment.ds].limit = 0xFFFF_FFFF
        m.cpu.modeChanged()
        m.set(Register.rax, 0x1234)
        m.run([0x8E, 0xD8])
        #expect(m.cpu.s.segments[Segment.ds].base == 0x12340)
        #expect(m.cpu.s.segments[Segment.ds].limit == 0xFFFF_FFFF)
        #expect(try m.cpu.linear(UInt8(Segment.ds), 0x2_0000, 4) == 0x3_2340)
    }

    @Test func `MOV SS holds back interrupts, MOV CS is undefined`() throws {
        let m = try TestMachine(.protected32)
        m.set(Register.rax, UInt64(Selector.kernelData))
        m.run([0x8E, 0xD0])
        #expect(m.cpu.s.interruptShadow && m.cpu.s.debugShadow)
        let other = try TestMachine(.protected32)
        other.run([0x8E, 0xC8])
        #expect(other.vector == 6)
    }

    @Test func `a null SS is allowed in the 64-bit kernel only`() throws {
        let kernel = try TestMachine(.long64)
        kernel.set(Register.rax, 0)
        kernel.run([0x8E, 0xD0])
        #expect(kernel.vector == nil)
        let user = try TestMachine(.long64, privilege: 3)
        user.set(Register.rax, 3)
        user.run([0x8E, 0xD0])
        #expect(user.vector == 13)
    }

    @Test func `flat segments are what needs no check`() throws {
        let m = try TestMachine(.protected32)
        #expect(m.cpu.s.flatSegments == 0x7D)
        m.cpu.s.segments[Segment.es].limit = 0xFFFF
        m.cpu.s.segments[Segment.fs].attributes = 0xC097
        m.cpu.s.segments[Segment.gs].attributes |= SegmentAttributes.unusable
        m.cpu.modeChanged()
        #expect(m.cpu.s.flatSegments == 0x4C)
    }

    @Test func `LSS loads both, PUSH and POP of segments move the stack`() throws {
        let m = try TestMachine(.long64)
        m.run([0x0F, 0xA8])  // push gs
        #expect(m.rsp == TestMachine.kernelStack - 8)
        #expect(m.load(m.rsp) == UInt64(Selector.kernelData))
        m.run([0x0F, 0xA1])  // pop fs
        #expect(m.rsp == TestMachine.kernelStack)
    }
}

@Suite struct DescriptorTableTests {
    @Test func `LTR marks the task busy and refuses it then`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rcx, UInt64(Selector.task))
        m.run([0x0F, 0x00, 0xD9, 0x0F, 0x00, 0xD9])
        #expect(m.load(0x1000 + 0x35, size: 1) == 0x8B)
        #expect(m.vector == nil)
        m.step()
        #expect(m.vector == 13)
        #expect(m.load(m.rsp) == UInt64(Selector.task))
    }

    @Test func `LGDT with a 16-bit operand takes 24 bits of base`() throws {
        let m = try TestMachine(.real)
        m.store(0x500, 0xAB12_3456_0FFF, size: 6)
        m.run([0x0F, 0x01, 0x16, 0x00, 0x05])
        #expect(m.cpu.s.gdtBase == 0x12_3456)
        #expect(m.cpu.s.gdtLimit == 0xFFF)
    }

    @Test func `SGDT stores ten bytes in 64-bit mode and obeys UMIP`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.set(Register.rax, 0x70000)
        m.run([0x0F, 0x01, 0x00])
        #expect(m.load(0x70002) == 0x1000)
        #expect(m.load(0x70000, size: 2) == 0x9F)
        m.cpu.s.cr4 |= CR4.userModeInstructionPrevention
        m.run([0x0F, 0x01, 0x00])
        #expect(m.vector == 13)
    }

    @Test func `LAR, LSL, VERR and VERW answer in ZF`() throws {
        let m = try TestMachine(.protected32, privilege: 3)
        m.set(Register.rcx, UInt64(Selector.userData))
        m.run([0x0F, 0x02, 0xC1])
        #expect(m.cpu.zeroFlag)
        #expect(m.get(Register.rax) == 0xCFF200 || m.get(Register.rax) == 0xC0F200 | 0xF0000)
        m.run([0x0F, 0x03, 0xC1])
        #expect(m.get(Register.rax) == 0xFFFF_FFFF)
        m.run([0x0F, 0x00, 0xE9])
        #expect(m.cpu.zeroFlag)
        m.set(Register.rcx, UInt64(Selector.kernelData))
        m.run([0x0F, 0x00, 0xE1])
        #expect(!m.cpu.zeroFlag)
        m.set(Register.rcx, UInt64(Selector.userCode32))
        m.run([0x0F, 0x00, 0xE9])
        #expect(!m.cpu.zeroFlag)
    }

    @Test func `ARPL raises the requested privilege`() throws {
        let m = try TestMachine(.protected32)
        m.set(Register.rax, 0x10)
        m.set(Register.rcx, 0x1B)
        m.run([0x63, 0xC8])
        #expect(m.get(Register.rax) == 0x13)
        #expect(m.cpu.zeroFlag)
    }
}

@Suite struct FlagInstructionTests {
    @Test func `POPF at privilege 3 leaves IF and IOPL alone`() throws {
        let m = try TestMachine(.long64, privilege: 3, flags: 0x202)
        m.set(Register.rsp, TestMachine.userStack - 8)
        m.store(m.rsp, 0x3000 | 0x40_0000 | 0x20_0001)
        m.run([0x9D])
        #expect(m.cpu.rflags == 0x20_0203)
        #expect(m.rsp == TestMachine.userStack)
    }

    @Test func `STI casts a shadow only when it opens interrupts`() throws {
        let m = try TestMachine(.long64)
        m.run([0xFB])
        #expect(m.cpu.s.interruptShadow)
        #expect(m.cpu.interruptFlag)
        m.cpu.s.interruptShadow = false
        m.run([0xFB])
        #expect(!m.cpu.s.interruptShadow)
    }

    @Test func `protected-mode virtual interrupts turn CLI and STI into VIF`() throws {
        let m = try TestMachine(.protected32, privilege: 3, flags: 0x202)
        m.cpu.s.cr4 |= CR4.protectedVirtualInterrupts
        m.run([0xFB])
        #expect(m.cpu.rflags == 0x8_0202)
        m.run([0xFA])
        #expect(m.cpu.rflags == 0x202)
    }

    @Test func `virtual-8086 extensions keep PUSHF and INT n inside the program`() throws {
        let m = try TestMachine(.protected32, privilege: 3, flags: 0x2_0202)
        m.cpu.s.cr4 |= CR4.virtual8086Extensions
        m.enterVirtual8086()
        // I/O map at 0x6C leaves room for 32 bytes of redirection: all clear, so redirected.
        m.store(0x3066, 0x88, size: 2)
        m.cpu.s.segments[Segment.tr].limit = 0xFF
        m.store(0x20 * 4, 0x4000_0010, size: 4)
        m.cpu.setStackPointer(0x1000)
        m.run([0xCD, 0x20])
        #expect(m.cpu.isVirtual8086)
        #expect(m.cpu.linearRIP == 0x40010)
        // Flags with IOPL 3 and IF from VIF, which is 0.
        #expect(m.load(0x33330 + 0xFFE, size: 2) == 0x3002)
    }

    @Test func `STAC and CLAC move between kernel contexts under SMAP`() throws {
        let m = try TestMachine(.long64)
        m.cpu.s.cr4 |= CR4.supervisorAccessPrevention
        m.cpu.updateTLBContext()
        #expect(m.cpu.s.tlbContext == TLB.kernel)
        m.run([0x0F, 0x01, 0xCB])
        #expect(m.cpu.s.tlbContext == TLB.kernelWithUser)
        m.run([0x0F, 0x01, 0xCA])
        #expect(m.cpu.s.tlbContext == TLB.kernel)
    }
}

@Suite struct PortInstructionTests {
    @Test func `OUT reaches the platform, IN merges into AL`() throws {
        let m = try TestMachine(.real)
        m.set(Register.rax, 0xAABB_CCDD)
        m.run([0xE6, 0x70, 0xE4, 0x71], count: 2)
        #expect(m.platform.writes == [.init(port: 0x70, width: .byte, value: 0xDD)])
        #expect(m.get(Register.rax) == 0xAABB_CC11)
    }

    @Test func `the I/O bitmap decides above IOPL`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.store(0x3068, 0xFFFF_FFFF_FFFF_FFFF)
        m.store(0x3068 + 0xE, 0x01FF, size: 2)  // ports 0x70..0x77 closed, 0x78 closed, 0x79 open
        m.run([0xE6, 0x79])
        #expect(m.platform.writes.count == 1)
        m.run([0xE6, 0x78])
        #expect(m.vector == 13)
        #expect(m.platform.writes.count == 1)
    }

    @Test func `a bitmap beyond the limit closes all ports`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.set(Register.rdx, 0x3F8)
        m.run([0xEE])
        #expect(m.vector == 13)
    }

    @Test func `REP INSB fills memory and stops at the page that faults`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rdx, 0x1F0)
        m.set(Register.rcx, 5)
        m.set(Register.rdi, 0x1F_FFFE)
        m.run([0xF3, 0x6C])
        #expect(m.vector == 14)
        #expect(m.get(Register.rcx) == 3)
        #expect(m.get(Register.rdi) == 0x20_0000)
        #expect(m.load(0x1F_FFFE, size: 2) == 0x1211)
    }

    @Test func `a long REP OUTSB lets the run loop in between`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rcx, 3000)
        m.set(Register.rsi, 0x70000)
        m.run([0xF3, 0x6E])
        #expect(m.cpu.s.rip == TestMachine.code)
        #expect(m.get(Register.rcx) == 3000 - 1024)
        m.step(2)
        #expect(m.cpu.s.rip == TestMachine.code + 2)
        #expect(m.platform.writes.count == 3000)
    }
}

@Suite struct StateTransferTests {
    @Test func `a state survives load and save`() throws {
        let m = try TestMachine(.long64, privilege: 3, flags: 0x20_0246)
        m.cpu.s.lstar = 0x1234
        m.cpu.s.mtrr[12] = 0x800
        m.cpu.s.dr[0] = 0x55
        m.set(15, 0xFEDC)
        let saved = m.vcpu.state()
        let other = try TestMachine(.real)
        other.vcpu.load(saved)
        #expect(other.vcpu.state() == saved)
        #expect(other.cpu.is64Bit)
        #expect(other.cpu.s.cpl == 3)
    }

    @Test func `impossible states become possible ones`() throws {
        let m = try TestMachine(.real)
        var state = VCPUState()
        state.gpr = [1]
        state.segments = []
        state.debug = [.max]
        state.xsave = [UInt8](repeating: 0xFF, count: 5000)
        (state.cr0, state.cr3, state.cr4, state.efer) = (.max, .max, .max, .max)
        (state.rip, state.rflags, state.xcr0, state.cr8) = (0x8000_0000_0000_0000, .max, .max, .max)
        state.msrs = [MSR.lstar: 0x8000_0000_0000, MSR.pat: 2, 0x200: .max]
        m.vcpu.load(state)
        #expect(m.cpu.s.lstar == 0)
        #expect(m.cpu.s.xcr0 == ControlBits.xcr0)
        #expect(!m.cpu.isVirtual8086)
        #expect(m.cpu.isLongMode)
        #expect(m.cpu.s.cr4 & ~ControlBits.cr4 == 0)
        let image = m.vcpu.state().xsave
        #expect(image[26] == 0 && image[27] == 0 && image[512] == 7 && image[520] == 0)
        m.step(3)
    }

    @Test func `INIT keeps vector state and SIPI starts at its page`() throws {
        let m = try TestMachine(.long64)
        m.cpu.s.pat = 0x0007_0406_0007_0401
        m.cpu.initializeProcessor()
        #expect(m.cpu.linearRIP == 0xFFFF_FFF0)
        #expect(!m.cpu.isProtected)
        #expect(m.cpu.s.pat == 0x0007_0406_0007_0401)
        m.cpu.s.activity = .waitingForStartup
        m.cpu.startup(vector: 0x9A)
        #expect(m.cpu.linearRIP == 0x9A000)
        #expect(m.cpu.s.activity == .running)
    }
}
