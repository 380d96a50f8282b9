import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

/// What the translation caches forget, and what they keep: by INVLPG of one part of a page of 2 MiB, and by a
/// change of address space.
@Suite struct ForgottenTranslationTests {
    /// Code is in a page of 4 KiB at the first address; at the second there is a page of 2 MiB with all RAM.
    private static let pages: UInt64 = 0xFFFF_FFFF_8000_0000, large: UInt64 = 0xFFFF_FFFF_8020_0000
    private static let directory: UInt64 = 0xA000, table: UInt64 = 0xC000

    /// - Parameter prevents: supervisor code may not use user pages, and has a cache of its own.
    private func machine(threshold: UInt16, prevents: Bool = false) throws -> TestMachine {
        let machine = try TestMachine(.long64, threshold: threshold) { state in
            state.cr4 |= CR4.supervisorExecutionPrevention | CR4.pageGlobalEnable
            if prevents { state.cr4 |= CR4.supervisorAccessPrevention }
            state.gpr[Register.rsp] = Self.large + 0x20000
            state.rip = Self.pages
            for register in [Register.rax, Register.rbx, Register.rcx] { state.gpr[register] = 0 }
        }
        machine.platform.stopped = machine.vcpu
        machine.store(0x4FF8, 0x9003)
        machine.store(0x9000 + 510 * 8, Self.directory | 3)
        machine.store(Self.directory, 0xB003)
        machine.store(0xB000, 0x12103)
        machine.store(Self.directory + 8, 0x183)
        // The same in pages of 4 KiB, but for one.
        for page in 0..<512 as Range<UInt64> { machine.store(Self.table + page * 8, page << 12 | 0x103) }
        machine.store(Self.table + 0x13 * 8, 0x14103)
        return machine
    }

    /// mov qword [the directory's second entry], the table; mov rdx, another part of the page; invlpg [rdx]
    private static let split: [UInt8] = [
        0x48, 0xC7, 0x04, 0x25, 0x08, 0xA0, 0, 0, 0x03, 0xC0, 0, 0,
        0x48, 0xC7, 0xC2, 0x00, 0x20, 0x21, 0x80, 0x0F, 0x01, 0x3A,
    ]

    @Test(arguments: [1, 16, .max] as [UInt16])
    func `data of another part is looked up anew`(threshold: UInt16) throws {
        let machine = try machine(threshold: threshold)
        // mov ecx, 100; 1: add `register`, [the large page + 13000h]; dec ecx; jnz 1b
        func sum(_ register: UInt8) -> [UInt8] {
            [0xB9, 100, 0, 0, 0, 0x48, 0x03, 0x04 | register << 3, 0x25, 0x00, 0x30, 0x21, 0x80]
                + [0xFF, 0xC9, 0x75, 0xF4]
        }
        machine.write(0x12000, sum(0) + Self.split + sum(3) + [0xE6, 0xF4, 0xEB, 0xFE])
        machine.store(0x13000, 1)
        machine.store(0x14000, 0x100)
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 100)
        #expect(machine.get(Register.rbx) == 100 << 8)
    }

    @Test(arguments: [1, 16, .max] as [UInt16])
    func `code of another part is looked up anew`(threshold: UInt16) throws {
        let machine = try machine(threshold: threshold)
        // mov ecx, 100; 1: call the large page + 13000h; dec ecx; jnz 1b
        func calls(at offset: Int) -> [UInt8] {
            let relative = UInt32(0x21_3000 - offset - 10)
            return [0xB9, 100, 0, 0, 0, 0xE8]
                + (0..<4).map { UInt8(truncatingIfNeeded: relative >> ($0 * 8)) }
                + [0xFF, 0xC9, 0x75, 0xF7]
        }
        var code = calls(at: 0) + Self.split
        code += calls(at: code.count)
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        // add eax, 1; ret, and: add eax, 100h; ret
        machine.write(0x13000, [0x05, 1, 0, 0, 0, 0xC3])
        machine.write(0x14000, [0x05, 0, 1, 0, 0, 0xC3])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 100 + 100 << 8)
    }

    /// mov ecx, count; mov rsi, the large page + 100000h; 1: add `register`, [rsi]; add rsi, 1000h; dec ecx;
    /// jnz 1b
    private static func sum(_ register: UInt8, of count: UInt8) -> [UInt8] {
        [0xB9, count, 0, 0, 0, 0x48, 0xC7, 0xC6, 0, 0, 0x30, 0x80, 0x48, 0x03, 0x06 | register << 3]
            + [0x48, 0x81, 0xC6, 0, 0x10, 0, 0, 0xFF, 0xC9, 0x75, 0xF2]
    }

    @Test(arguments: [1, 16, .max] as [UInt16], [1, 31, 32, 33, 100] as [UInt8])
    func `local pages of a kernel whose code is global are looked up anew`(
        threshold: UInt16, count: UInt8
    ) throws {
        let machine = try machine(threshold: threshold, prevents: true)
        machine.store(Self.directory + 8, Self.table | 3)
        for page in 0..<UInt64(count) { machine.store(Self.table + (0x100 + page) * 8, 0x13003) }
        // mov edx, count; mov rdi, the entries; 2: mov qword [rdi], 14003h; add rdi, 8; dec edx; jnz 2b;
        // mov rdx, cr3; mov cr3, rdx
        let change: [UInt8] =
            [0xBA, count, 0, 0, 0, 0x48, 0xC7, 0xC7, 0x00, 0xC8, 0x20, 0x80]
            + [0x48, 0xC7, 0x07, 0x03, 0x40, 0x01, 0x00]
            + [0x48, 0x83, 0xC7, 8, 0xFF, 0xCA, 0x75, 0xF1, 0x0F, 0x20, 0xDA, 0x0F, 0x22, 0xDA]
        machine.write(
            0x12000,
            Self.sum(0, of: count) + change + Self.sum(3, of: count) + [0xE6, 0xF4, 0xEB, 0xFE])
        machine.store(0x13000, 1)
        machine.store(0x14000, 0x100)
        #expect(machine.vcpu.run() == .requested)
        #expect(!machine.cpu.s.codeIsLocal)
        #expect(machine.get(Register.rax) == UInt64(count))
        #expect(machine.get(Register.rbx) == UInt64(count) << 8)
    }

    @Test func `a change of address space keeps a kernel's branch targets and return addresses`() throws {
        let machine = try machine(threshold: 1, prevents: true)
        let translations = try #require(machine.vcpu.translations, "this host cannot translate")
        machine.store(Self.directory + 8, Self.table | 3)
        machine.store(Self.table + 0x80 * 8, 0x80003)
        // mov ecx, 2000; 1: call f; dec ecx; jnz 1b; out; f: mov rdx, cr3; mov cr3, rdx; mov [a local page],
        // ecx; ret
        machine.write(
            0x12000,
            [0xB9, 0xD0, 7, 0, 0, 0xE8, 8, 0, 0, 0, 0xFF, 0xC9, 0x75, 0xF7, 0xE6, 0xF4, 0xEB, 0xFE]
                + [0x0F, 0x20, 0xDA, 0x0F, 0x22, 0xDA, 0x89, 0x0C, 0x25, 0, 0, 0x28, 0x80, 0xC3])
        #expect(machine.vcpu.run() == .requested)
        #expect(!machine.cpu.s.codeIsLocal && machine.load(0x80000, size: 4) == 1)
        let exits = (0..<TranslatedExit.count).map { translations.statistics.exits[$0] }
        #expect(exits.reduce(0, +) < 100, "\(exits)")
    }

    @Test func `a guest with code in very many large pages does not make the list grow`() {
        var code = LargeCode()
        code.insert(0x4000_0000, sizeShift: 30)
        #expect(code.contains(0x7FFF_F000) && !code.contains(0x8000_0000))
        code.insert(0x8020_0000, sizeShift: 21)
        #expect(code.contains(0x8020_3000) && !code.contains(0x8040_0000))
        for page in 0..<100_000 as Range<UInt64> { code.insert(page << 22, sizeShift: 22) }
        #expect(code.contains(0xFFFF_8000_0000_0000))
    }
}
