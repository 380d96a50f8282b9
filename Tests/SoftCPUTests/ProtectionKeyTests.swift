import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

/// Protection keys where the guest program of the same name cannot look: caches, images, other engines.
@Suite struct ProtectionKeyTests {
    /// The page at 0x100000 has 4 KiB tables and key 3.
    private static let page: UInt64 = 0x10_0000, key: UInt64 = 3

    private func machine(privilege: UInt8 = 0, user: Bool = true) throws -> TestMachine {
        let m = try TestMachine(.long64, privilege: privilege) {
            $0.cr4 |= ProtectionKeys.controls | CR4.osXSAVE
            $0.xcr0 = 0x207
        }
        m.store(0x6000, 0x9007)
        for index in 0..<512 as Range<UInt64> { m.store(0x9000 + index * 8, index << 12 | 7) }
        let rights: UInt64 = user ? 7 : 3
        m.store(0x9000 + (Self.page >> 12) * 8, Self.page | rights | Self.key << 59)
        return m
    }

    private func faultCode(_ m: TestMachine) -> UInt64? { m.vector == 14 ? m.load(m.rsp) : nil }

    /// Reads, then writes, through [RBX].
    @Test(
        arguments: [
            (0, nil, nil), (1, 0x21, 0x23), (2, nil, 0x23), (3, 0x21, 0x23),
        ] as [(UInt32, UInt64?, UInt64?)], [true, false])
    func `both bits of the key are obeyed by ring 0`(
        row: (rights: UInt32, read: UInt64?, write: UInt64?), isUserPage: Bool
    ) throws {
        let accesses: [([UInt8], UInt64?)] = [([0x8A, 0x03], row.read), ([0x88, 0x03], row.write)]
        for (bytes, expected) in accesses {
            let m = try machine(user: isUserPage)
            let rights = row.rights << 6
            if isUserPage { m.cpu.setPKRU(rights) } else { m.cpu.setPKRS(rights) }
            m.set(Register.rbx, Self.page)
            m.run(bytes)
            #expect(faultCode(m) == expected)
            if expected != nil { #expect(m.cpu.s.cr2 == Self.page) }
        }
    }

    @Test func `a translation that was cached is dropped by WRPKRU`() throws {
        let m = try machine()
        m.set(Register.rbx, Self.page)
        m.run([0x88, 0x03, 0x8A, 0x03], count: 2)
        #expect(m.vector == nil)
        m.set(Register.rax, 1 << 6)
        m.set(Register.rcx, 0)
        m.set(Register.rdx, 0)
        m.run([0x0F, 0x01, 0xEF, 0x8A, 0x03], count: 2)
        #expect(faultCode(m) == 0x21)
    }

    @Test func `a translation that was cached is dropped by a write to IA32_PKRS`() throws {
        let m = try machine(user: false)
        m.set(Register.rbx, Self.page)
        m.run([0x88, 0x03], count: 1)
        m.set(Register.rax, 2 << 6)
        m.set(Register.rcx, UInt64(MSR.supervisorKeyRights))
        m.set(Register.rdx, 0)
        m.run([0x0F, 0x30, 0x88, 0x03], count: 2)
        #expect(faultCode(m) == 0x23)
    }

    @Test func `a prefix makes RDPKRU and WRPKRU undefined`() throws {
        for prefix in [0x66, 0xF2, 0xF3, 0xF0] as [UInt8] {
            for last in [0xEE, 0xEF] as [UInt8] {
                let m = try machine()
                m.set(Register.rcx, 0)
                m.set(Register.rdx, 0)
                m.run([prefix, 0x0F, 0x01, last])
                #expect(m.vector == 6)
            }
        }
    }

    @Test func `keys mean nothing outside long mode`() throws {
        let m = try TestMachine(.protected32)
        m.cpu.s.cr4 |= ProtectionKeys.controls
        m.cpu.s.pkru = .max
        #expect(m.cpu.keyDenial(.max, isUserPage: true) == [])
    }

    @Test func `the state carries both registers and forgets neither`() throws {
        let m = try machine()
        m.cpu.setPKRU(0x1234_5678)
        m.cpu.setPKRS(0x9ABC_DEF0)
        let state = m.vcpu.state()
        #expect(state.pkru == 0x1234_5678)
        #expect(state.msrs[MSR.supervisorKeyRights] == 0x9ABC_DEF0)
        m.cpu.setPKRU(0)
        m.cpu.setPKRS(0)
        #expect(m.vcpu.state().pkru == nil)
        m.vcpu.load(state)
        #expect(m.cpu.s.pkru == 0x1234_5678)
        #expect(m.cpu.s.pkrs == 0x9ABC_DEF0)
        // INIT keeps PKRU (SDM vol. 3 table 10-1).
        m.cpu.initializeProcessor()
        #expect(m.cpu.s.pkru == 0x1234_5678)
    }

    /// Components of the image, its form, and where PKRU is in it.
    @Test(
        arguments: [
            (0x200, false, 832, 840), (0x207, false, 832, 840), (0x7, false, 832, 832), (3, false, 832, 576),
            (0x200, true, 576, 584), (0x203, true, 576, 584), (0x207, true, 832, 840), (7, true, 832, 832),
        ] as [(UInt64, Bool, Int, Int)])
    func `an image has PKRU at its end`(components: UInt64, isCompacted: Bool, offset: Int, size: Int) {
        let image = StateImage(components, isCompacted: isCompacted)
        #expect(image.size == size)
        if components & ProtectionKeys.component != 0 { #expect(image.keysOffset == offset) }
    }

    @Test func `XSAVEOPT leaves PKRU out while it is zero`() throws {
        let m = try machine()
        for (rights, expected) in [(0, 0), (4, 0x200)] as [(UInt32, UInt64)] {
            m.cpu.setPKRU(rights)
            m.store(0x8_0000 + 512, 0x200)
            m.store(0x8_0000 + 832, 0x5555)
            m.set(Register.rbx, 0x8_0000)
            m.set(Register.rax, 0x200)
            m.set(Register.rdx, 0)
            m.run([0x0F, 0xAE, 0x33])
            #expect(m.vector == nil)
            #expect(m.load(0x8_0000 + 512) == expected)
            #expect(m.load(0x8_0000 + 832) == (rights == 0 ? 0x5555 : 4))
        }
    }

    @Test func `CPUID offers both kinds whatever the host has, and describes the component`() throws {
        let m = try machine()
        m.cpu.s.cr4 &= ~CR4.protectionKeys
        #expect(CPUModel.answer(7, 0, m.cpu).ecx & (1 << 3 | 1 << 4 | 1 << 31) == 1 << 3 | 1 << 31)
        m.cpu.s.cr4 |= CR4.protectionKeys
        #expect(CPUModel.answer(7, 0, m.cpu).ecx & 1 << 4 != 0)
        let leaf = CPUModel.answer(0xD, 0, m.cpu)
        #expect(leaf.eax & 0x200 != 0)
        #expect(leaf.ebx == 840)
        #expect(leaf.ecx == 840)
        #expect(CPUModel.answer(0xD, 9, m.cpu) == CPUIDResult(eax: 8, ebx: 832))
    }
}
