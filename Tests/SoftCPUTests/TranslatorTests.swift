import Testing
import VCPUEngine

@testable import SoftCPU

/// Translated code, every block from its first run on: what single instructions in OracleTests do not show.
@Suite struct TranslatorTests {
    /// Runs 64-bit code of ring 0 until it writes to a port.
    private func run(_ bytes: [UInt8], prepare: (TestMachine) -> Void = { _ in }) throws -> TestMachine {
        try #require(HostFeatures.shared.canTranslate, "this host cannot translate")
        let machine = try TestMachine(.long64, threshold: 1)
        machine.platform.stopped = machine.vcpu
        machine.write(TestMachine.code, bytes + [0xE6, 0xF4, 0xEB, 0xFE])
        prepare(machine)
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.vector == nil)
        let translations = try #require(machine.vcpu.translations)
        #expect(translations.blocksTranslated > 0)
        return machine
    }

    @Test func `the direction flag is set for a copy and clear afterwards`() throws {
        // std; rep movsb; cld; twice, so that the block after STD is known
        let once: [UInt8] = [0xFD, 0xF3, 0xA4, 0xFC]
        let machine = try run(once) { machine in
            machine.store(0x80000, 0x4433_2211, size: 4)
            machine.set(Register.rsi, 0x80003)
            machine.set(Register.rdi, 0x80004)
            machine.set(Register.rcx, 4)
        }
        #expect(machine.load(0x80001, size: 4) == 0x4433_2211)
        #expect(machine.get(Register.rdi) == 0x80000)
        #expect(!machine.cpu.directionFlag)
    }

    @Test func `more calls than the return stack holds return one by one`() throws {
        // mov ecx, 40000; call f; (out) ... f: inc rax; dec ecx; jz 1f; call f; 1: ret
        let code: [UInt8] = [0xB9, 0x40, 0x9C, 0, 0, 0xE8, 6, 0, 0, 0]
        let function: [UInt8] = [0x48, 0xFF, 0xC0, 0xFF, 0xC9, 0x74, 5, 0xE8, 0xF4, 0xFF, 0xFF, 0xFF, 0xC3]
        let machine = try run(code) { machine in
            machine.write(TestMachine.code + 16, function)
            machine.set(Register.rsp, 0x1F_0000)
            machine.set(Register.rax, 0)
        }
        #expect(machine.get(Register.rax) == 40000)
        #expect(machine.get(Register.rsp) == 0x1F_0000)
    }

    @Test func `a block in front of a call that crosses a page leads to the call, not to the called`() throws
    {
        // mov ecx, 50; jmp 1f; ... f: inc rax; ret ... 1: sub rsp, 28h; call f; add rsp, 28h; dec ecx; jnz 1b
        let machine = try run([0xB9, 50, 0, 0, 0, 0xE9, 0xF0, 0x0F, 0, 0]) { machine in
            machine.write(TestMachine.code + 0xF00, [0x48, 0xFF, 0xC0, 0xC3])
            machine.write(
                TestMachine.code + 0xFFA,
                [0x48, 0x83, 0xEC, 0x28, 0xE8, 0xFD, 0xFE, 0xFF, 0xFF, 0x48, 0x83, 0xC4, 0x28, 0xFF, 0xC9]
                    + [0x75, 0xEF, 0xE6, 0xF4, 0xEB, 0xFE])
            machine.set(Register.rax, 0)
        }
        #expect(machine.get(Register.rax) == 50)
        #expect(machine.get(Register.rsp) == TestMachine.kernelStack)
    }

    @Test func `a loop that rewrites its own addition sees each new value`() throws {
        // mov ecx, 50; 1: add eax, 1; inc byte [the immediate]; dec ecx; jnz 1b
        let code: [UInt8] = [
            0xB9, 50, 0, 0, 0, 0x83, 0xC0, 1, 0xFE, 0x05, 0xF9, 0xFF, 0xFF, 0xFF, 0xFF, 0xC9, 0x75, 0xF3,
        ]
        let machine = try run(code) { $0.set(Register.rax, 0) }
        #expect(machine.get(Register.rax) == 50 * 51 / 2)
    }

    @Test(arguments: [0x1F_0010, 0x1F_0800, 0x1F_0018, 0x1F_0004] as [UInt64])
    func `pushes and pops in a row are right wherever the stack's page ends`(stack: UInt64) throws {
        // mov ecx, 40; 1: push rcx, rbx, rdx, rsi; pop rdi, r8, r9, r10; dec ecx; jnz 1b
        let code: [UInt8] = [
            0xB9, 40, 0, 0, 0, 0x51, 0x53, 0x52, 0x56, 0x5F, 0x41, 0x58, 0x41, 0x59, 0x41, 0x5A, 0xFF, 0xC9,
            0x75, 0xF1,
        ]
        let machine = try run(code) { machine in
            machine.set(Register.rsp, stack)
            for (register, value) in [(Register.rbx, 11), (Register.rdx, 22), (Register.rsi, 33)] {
                machine.set(register, UInt64(value))
            }
        }
        #expect([Register.rdi, 8, 9, 10].map { machine.get($0) } == [33, 22, 11, 1])
        #expect(machine.get(Register.rsp) == stack)
    }

    @Test func `branches to a block that lost its memory groups find the one without`() throws {
        // mov ecx, 1000; 1: mov rsp, rdx; push rcx, rbx; pop rdi, rsi; jmp 2f; 2: sub rdx, 8; dec ecx; jnz 1b
        let code: [UInt8] = [
            0xB9, 0xE8, 3, 0, 0, 0x48, 0x89, 0xD4, 0x51, 0x53, 0x5F, 0x5E, 0xEB, 0, 0x48, 0x83, 0xEA, 8,
            0xFF, 0xC9, 0x75, 0xEF,
        ]
        let machine = try run(code) { machine in
            machine.set(Register.rdx, 0x1F_0800)
            machine.set(Register.rbx, 11)
        }
        #expect([Register.rdi, Register.rsi].map { machine.get($0) } == [11, 1])
        let exits = try #require(machine.vcpu.translations, "this host cannot translate").statistics.exits
        #expect(exits[Int(TranslatedExit.split)] == 1)
        #expect(exits[Int(TranslatedExit.stale)] < 10)
    }

    @Test(arguments: [0x80FFC, 0x80FF8, 0x81000, 0x81078, 0x7FFFC] as [UInt64])
    func `an operand in another page than its base is found without a walk`(base: UInt64) throws {
        // mov ecx, 1000; 1: mov rax, [rbx+8]; add [rbx-120], rax; dec ecx; jnz 1b
        let code: [UInt8] = [
            0xB9, 0xE8, 3, 0, 0, 0x48, 0x8B, 0x43, 8, 0xEB, 0, 0x48, 0x01, 0x43, 0x88, 0xFF, 0xC9, 0x75, 0xF2,
        ]
        let machine = try run(code) { machine in
            machine.store(base + 8, 3, size: 8)
            machine.store(base - 120, 5, size: 8)
            machine.set(Register.rbx, base)
        }
        #expect(machine.load(base - 120, size: 8) == 3005)
        #expect(machine.cpu.s.fillCount < 50)
    }

    @Test func `an NMI between STI and the next instruction waits for that`() throws {
        // sti; inc rax; jmp to itself
        let machine = try TestMachine(.long64, threshold: 1)
        machine.platform.stopped = machine.vcpu
        machine.write(TestMachine.code, [0xFB, 0x48, 0xFF, 0xC0, 0xEB, 0xFE])
        machine.write(TestMachine.handlers + 2 * 16, [0xE6, 0xF4, 0xEB, 0xFE])
        machine.set(Register.rax, 0)
        machine.cpu.s.interruptHeld = false
        machine.cpu.s.attention = 0
        let translations = try #require(machine.vcpu.translations, "this host cannot translate")
        let block = BlockView(address: try machine.vcpu.findBlock(singleStep: false))
        try #require(machine.vcpu.translate(block, translations))
        machine.vcpu.enterTranslated(block.b.code, translations)
        // Nothing is linked yet: the block of STI leads out.
        try #require(machine.cpu.s.rip == TestMachine.code + 1)
        #expect(machine.cpu.interruptFlag && machine.cpu.s.interruptShadow)
        machine.cpu.s.nmiPending = true
        machine.cpu.requestAttention()
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.load(machine.rsp) == TestMachine.code + 4)
        #expect(machine.get(Register.rax) == 1)
        #expect(!machine.cpu.s.interruptShadow)
    }

    @Test func `a return to the address at the return stack's bottom goes where it says`() throws {
        // mov rax, 7FFFFFFFFFFFh; push rax; ret: nothing is mapped there
        let machine = try TestMachine(.long64, threshold: 1)
        machine.platform.stopped = machine.vcpu
        machine.write(TestMachine.code, [0x48, 0xB8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0, 0, 0x50, 0xC3])
        // The page-fault handler ends it.
        machine.write(TestMachine.handlers + 14 * 16, [0xE6, 0xF4, 0xEB, 0xFE])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.cpu.s.cr2 == 0x7FFF_FFFF_FFFF)
        #expect(machine.load(machine.rsp + 8) == 0x7FFF_FFFF_FFFF)
    }

    @Test(
        .enabled(
            if: HostFeatures.shared.contains(.sha, isVEX: false), "this processor has no SHA instructions"))
    func `a misaligned operand of a SHA instruction does what this processor does`() throws {
        let machine = try TestMachine(.long64, threshold: 1)
        machine.platform.stopped = machine.vcpu
        // sha256msg2 xmm2, [rdi]; out; the handler of #GP ends it, too
        machine.write(TestMachine.code, [0x0F, 0x38, 0xCD, 0x17, 0xE6, 0xF4, 0xEB, 0xFE])
        machine.write(TestMachine.handlers + 13 * 16, [0xE6, 0xF4, 0xEB, 0xFE])
        machine.set(Register.rdi, 0x80001)
        #expect(machine.vcpu.run() == .requested)
        #expect((machine.cpu.s.rip >= TestMachine.handlers) == !CPUModel.isAMD)
    }

    /// mov ecx, 20; 1: call code + 1000h; dec ecx; jnz 1b; mov dword [code + `offset`], "setb bl; ret";
    /// xor ebx, ebx; call code + 1000h
    private static func callsThenStores(at offset: UInt16) -> [UInt8] {
        [0xB9, 20, 0, 0, 0, 0xE8, 0xF6, 0x0F, 0, 0, 0xFF, 0xC9, 0x75, 0xF7, 0xC7, 0x04, 0x25]
            + [UInt8(truncatingIfNeeded: offset), UInt8(offset >> 8), 1, 0]
            + [0x0F, 0x92, 0xC3, 0xC3, 0x31, 0xDB, 0xE8, 0xE0, 0x0F, 0, 0]
    }

    @Test func `a block passes flags on to code that a store put behind it`() throws {
        try #require(TestMachine.code == 0x10000)
        let machine = try run(Self.callsThenStores(at: 0x1020)) { machine in
            // mov eax, -1; add eax, 1; jmp 20h; at 20h: xor edx, edx; ret
            machine.write(0x11000, [0xB8, 0xFF, 0xFF, 0xFF, 0xFF, 0x83, 0xC0, 1, 0xEB, 0x16])
            machine.write(0x11020, [0x31, 0xD2, 0xC3, 0x90])
        }
        #expect(machine.get(Register.rbx) == 1)
        #expect(try #require(machine.vcpu.translations).statistics.woken == 0)
    }

    /// Blocks that many branches leave, in front of one that is always taken.
    @Test(arguments: 0..<9)
    func `a block passes flags on by each of its branches`(_ others: Int) throws {
        let machine = try run(Self.callsThenStores(at: 0x1F00)) { machine in
            var code: [UInt8] = [0xB8, 0xFF, 0xFF, 0xFF, 0xFF, 0x83, 0xC0, 1]
            for target in 0...others {
                // jnz and at last jz: code that replaces all flags
                let place = target == others ? 0xF00 : 0x800 + target * 16
                code += [0x0F, target == others ? 0x84 : 0x85]
                let distance = place - code.count - 4
                code += [UInt8(truncatingIfNeeded: distance), UInt8(distance >> 8), 0, 0]
                machine.write(0x11000 + UInt64(place), [0x31, 0xD2, 0xC3, 0x90])
            }
            machine.write(0x11000, code + [0x31, 0xD2, 0xC3])
        }
        #expect(machine.get(Register.rbx) == 1)
    }

    @Test func `a block wakes beside code that changed and still replaces the flags`() throws {
        var code = Self.callsThenStores(at: 0x1020)
        // The store: xor ebx, edx; ret
        code.replaceSubrange(21..<25, with: [0x31, 0xD3, 0xC3, 0x90])
        let machine = try run(code) { machine in
            machine.write(0x11000, [0xB8, 0xFF, 0xFF, 0xFF, 0xFF, 0x83, 0xC0, 1, 0xEB, 0x16])
            machine.write(0x11020, [0x31, 0xD2, 0xC3, 0x90])
        }
        #expect(machine.get(Register.rbx) == machine.get(Register.rdx))
        #expect(try #require(machine.vcpu.translations).statistics.woken == 1)
    }
}
