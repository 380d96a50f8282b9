import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

private typealias Selector = TestMachine.Selector

@Suite struct ControlRegisterTests {
    /// The value that MOV to the control register gets, and whether it raises #GP, from 64-bit mode.
    @Test(
        arguments: [
            (0, 0x8000_0010, true), (0, 0x0001_0011, true), (0, 0x1_8001_0011, true), (0, 0xA001_0011, true),
            (0, 0x8001_003B, false), (3, 0x10_0000_0000_0000, true), (3, 0x4000, false), (4, 0x20, false),
            (4, 0x0, true), (4, 0x1000_0020, true), (4, 0x2_0020, false), (8, 0x5, false), (8, 0x10, true),
        ] as [(Int, UInt64, Bool)])
    func `MOV to a control register refuses what the manual reserves`(
        number: Int, value: UInt64, faults: Bool
    ) throws {
        let m = try TestMachine(.long64)
        m.set(Register.rax, value)
        let low = UInt8(0xC0 | (number & 7) << 3)
        m.run(number == 8 ? [0x44, 0x0F, 0x22, low] : [0x0F, 0x22, low])
        #expect((m.vector == 13) == faults)
        if number == 8, !faults { #expect(m.apic.taskPriority == 5) }
    }

    @Test func `PCIDE needs a CR3 without low bits`() throws {
        let m = try TestMachine(.long64)
        m.cpu.s.cr3 = 0x4018
        m.set(Register.rax, 0x2_0020)
        m.run([0x0F, 0x22, 0xE0])
        #expect(m.vector == 13)
    }

    @Test func `paging with EFER.LME activates long mode, and clearing it leaves`() throws {
        let m = try TestMachine(.protected32)
        m.cpu.s.efer = EFER.longModeEnable
        m.cpu.s.cr4 = CR4.physicalAddressExtension
        m.cpu.s.cr3 = 0x4000
        m.set(Register.rax, 0x8000_0011)
        m.set(Register.rcx, 0x11)
        m.run([0x0F, 0x22, 0xC0, 0x0F, 0x22, 0xC1])
        #expect(m.cpu.isLongMode)
        #expect(!m.cpu.is64Bit)
        m.step()
        #expect(!m.cpu.isLongMode)
        #expect(m.cpu.s.efer == EFER.longModeEnable)
    }

    @Test func `long mode cannot be entered without PAE`() throws {
        let m = try TestMachine(.protected32)
        m.cpu.s.efer = EFER.longModeEnable
        m.set(Register.rax, 0x8000_0011)
        m.run([0x0F, 0x22, 0xC0])
        #expect(m.vector == 13)
    }

    @Test func `PAE paging loads the pointers and checks their reserved bits`() throws {
        let m = try TestMachine(.protected32)
        m.cpu.s.cr4 = CR4.physicalAddressExtension
        m.cpu.s.cr3 = 0x7000
        m.store(0x7000, 0x6001)
        m.set(Register.rax, 0x8000_0011)
        m.run([0x0F, 0x22, 0xC0])
        #expect(m.cpu.s.pdpte[0] == 0x6001)
        let bad = try TestMachine(.protected32)
        bad.cpu.s.cr4 = CR4.physicalAddressExtension
        bad.cpu.s.cr3 = 0x7000
        bad.store(0x7000, 0x6003)
        bad.set(Register.rax, 0x8000_0011)
        bad.run([0x0F, 0x22, 0xC0])
        #expect(bad.vector == 13)
        #expect(bad.cpu.s.cr0 & CR0.paging == 0)
    }

    @Test func `LMSW sets PE and never clears it`() throws {
        let m = try TestMachine(.protected32)
        m.set(Register.rax, 0x8)
        m.run([0x0F, 0x01, 0xF0])
        #expect(m.cpu.s.cr0 == 0x19)
    }

    @Test func `debug register access honours GD and the alias rule`() throws {
        let m = try TestMachine(.long64)
        m.set(Register.rax, 0x2001)
        m.run([0x0F, 0x23, 0xF8, 0x0F, 0x21, 0xC0], count: 2)
        #expect(m.vector == 1)
        #expect(m.cpu.s.dr[6] & 0x2000 != 0)
        #expect(m.cpu.s.dr[7] & 0x2000 == 0)
        let other = try TestMachine(.long64)
        other.cpu.s.cr4 |= CR4.debuggingExtensions
        other.run([0x0F, 0x21, 0xE0])
        #expect(other.vector == 6)
    }

    @Test func `breakpoints match by address, length and kind`() throws {
        let m = try TestMachine(.long64)
        // DR0: writes of 4 bytes; DR1: execution.
        m.cpu.s.dr[0] = 0x1002
        m.cpu.s.dr[1] = 0x2000
        m.cpu.s.dr[7] = 0x400 | 0x5 | 0xD << 16
        m.cpu.noteDataBreakpoints(0x1000, 2, isWrite: false)
        #expect(m.cpu.s.pendingDebug == 0)
        m.cpu.noteDataBreakpoints(0xFFF, 2, isWrite: true)
        #expect(m.cpu.s.pendingDebug == 1)
        #expect(m.cpu.instructionBreakpoint(at: 0x2000))
        #expect(!m.cpu.instructionBreakpoint(at: 0x1000))
    }
}

@Suite struct ModelSpecificRegisterTests {
    private func write(_ m: TestMachine, _ number: UInt32, _ value: UInt64) {
        m.set(Register.rcx, UInt64(number))
        m.set(Register.rax, value & 0xFFFF_FFFF)
        m.set(Register.rdx, value >> 32)
        m.run([0x0F, 0x30])
    }

    @Test(
        arguments: [
            (MSR.lstar, 0xFFFF_FFFF_8000_0000), (MSR.star, 0x23_0010 << 32), (MSR.syscallMask, 0x257FD5),
            (MSR.kernelGSBase, 0xFFFF_8880_0000_0000), (MSR.pat, 0x0407_0506_0007_0106), (0x200, 0x8000_0006),
            (0x201, 0xFFFF_8000_0800), (0x250, 0x0606_0606_0606_0606), (MSR.mtrrDefaultType, 0xC06),
            (MSR.tscAdjust, 0x1000), (MSR.tscAuxiliary, 3), (MSR.gsBase, 0x7F00_0000_1000),
        ] as [(UInt32, UInt64)])
    func `a written register reads back`(number: UInt32, value: UInt64) throws {
        let m = try TestMachine(.long64)
        write(m, number, value)
        #expect(m.vector == nil)
        m.set(Register.rax, 0)
        m.run([0x0F, 0x32])
        #expect(m.get(Register.rdx) << 32 | m.get(Register.rax) == value)
    }

    @Test(
        arguments: [
            (MSR.lstar, 0x8000_0000_0000), (MSR.pat, 0x2), (0x250, 0x02), (MSR.mtrrDefaultType, 0x100),
            (MSR.efer, 1 << 12), (MSR.efer, 0x401), (0x1234_5678, 0), (MSR.mtrrCapability, 0), (0x10A, 0),
        ] as [(UInt32, UInt64)])
    func `reserved values and unknown registers raise #GP`(number: UInt32, value: UInt64) throws {
        let m = try TestMachine(.long64)
        write(m, number, value)
        #expect(m.vector == 13)
    }

    @Test func `the time-stamp counter can be set, and the adjustment follows`() throws {
        let m = try TestMachine(.long64)
        let before = m.cpu.s.tscOffset
        write(m, MSR.timeStampCounter, 0)
        #expect(m.cpu.s.tscAdjust == m.cpu.s.tscOffset &- before)
        #expect(m.cpu.timeStampCounter < 1 << 40)
    }

    @Test func `the paravirtual clock publishes one line for all vCPUs`() throws {
        let m = try TestMachine(.long64)
        write(m, MSR.kvmSystemTime, 0x7_0001)
        #expect(m.load(0x70000, size: 4) & 1 == 0)
        #expect(m.load(0x70000, size: 4) > 0)
        #expect(m.load(0x70008) == 0)
        #expect(m.load(0x7001D, size: 1) == 1)
        // 2 GHz: half a nanosecond per tick.
        let shift = Int8(bitPattern: UInt8(m.load(0x7001C, size: 1)))
        let ticks: UInt64 = 2_000_000_000
        let shifted = shift < 0 ? ticks >> UInt64(-shift) : ticks << UInt64(shift)
        let nanoseconds = shifted.multipliedFullWidth(by: m.load(0x70018, size: 4))
        #expect(nanoseconds.high << 32 | nanoseconds.low >> 32 >= 999_999_998)
    }

    @Test(arguments: [1, 1_000, 999_999_999, 1_000_000_000, 2_399_999_999, 5_000_000_000] as [UInt64])
    func `ticks of one second are a second of nanoseconds`(frequency: UInt64) {
        let time = ParavirtualClock.nanoseconds(ticks: frequency, frequency: frequency)
        #expect(time <= 1_000_000_000)
        #expect(time >= 999_999_990)
    }

    @Test func `RDMSR is privileged`() throws {
        let m = try TestMachine(.long64, privilege: 3)
        m.run([0x0F, 0x32])
        #expect(m.vector == 13)
    }
}

@Suite struct ProcessorModelTests {
    private func identify(_ m: TestMachine, _ leaf: UInt32, _ subleaf: UInt32 = 0) -> CPUIDResult {
        CPUModel.answer(leaf, subleaf, m.cpu)
    }

    @Test func `features never exceed the host's, except those that the engine provides`() throws {
        let m = try TestMachine(.long64)
        let own: UInt32 = 1 << 21 | 1 << 24 | 1 << 31 | 1 << 27
        #expect(identify(m, 1).ecx & ~(CPUModel.host(1).ecx | own) == 0)
        #expect(identify(m, 7).ebx & ~(CPUModel.host(7).ebx | 2) == 0)
        // No AVX-512.
        #expect(identify(m, 7).ebx & (1 << 16) == 0)
        // No SVM, no MONITOR.
        #expect(identify(m, 0x8000_0001).ecx & 4 == 0)
        #expect(identify(m, 1).ecx & 8 == 0)
    }

    @Test func `OSXSAVE follows CR4`() throws {
        let m = try TestMachine(.long64)
        #expect(identify(m, 1).ecx & (1 << 27) == 0)
        m.cpu.s.cr4 |= CR4.osXSAVE
        #expect(identify(m, 1).ecx & (1 << 27) != 0)
    }

    @Test func `the hypervisor leaf says KVM`() throws {
        let m = try TestMachine(.long64)
        let leaf = identify(m, 0x4000_0000)
        let name = [leaf.ebx, leaf.ecx, leaf.edx].flatMap { word in
            (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32($0 * 8)) }
        }
        #expect(name == Array("KVMKVMKVM".utf8) + [0, 0, 0])
        #expect(identify(m, 0x4000_0010).eax == 2_000_000)
    }

    @Test func `leaves that do not exist are zero`() throws {
        let m = try TestMachine(.long64)
        #expect(identify(m, 0x14) == CPUIDResult())
        #expect(identify(m, 0x7FFF_FFFF) == CPUIDResult())
        #expect(identify(m, 0xFFFF_FFFF) == CPUIDResult())
    }

    @Test func `XSETBV checks the combination`() throws {
        for (value, faults) in [(7, false), (5, true), (6, true), (0xF, true), (1, false)] as [(UInt64, Bool)]
        {
            let m = try TestMachine(.long64)
            m.cpu.s.cr4 |= CR4.osXSAVE
            m.set(Register.rax, value)
            m.set(Register.rdx, 0)
            m.run([0x0F, 0x01, 0xD1])
            #expect((m.vector == 13) == faults)
        }
    }
}
