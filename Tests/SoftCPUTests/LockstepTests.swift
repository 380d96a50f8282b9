import Testing
import VCPUEngine

@testable import SoftCPU

/// `--verify`: every block is translated at its first run and checked from then on.
@Suite struct LockstepTests {
    /// 64-bit code of ring 0 that ends with a write to a port, ready to run.
    private func machine(_ bytes: [UInt8], prepare: (TestMachine) -> Void = { _ in }) throws -> TestMachine {
        try #require(HostFeatures.shared.canTranslate, "this host cannot translate")
        let machine = try TestMachine(.long64, threshold: 1, verifies: true)
        machine.platform.stopped = machine.vcpu
        machine.write(TestMachine.code, bytes + [0xE6, 0xF4, 0xEB, 0xFE])
        prepare(machine)
        return machine
    }

    /// Runs it to its end, with at least so many checks and no difference.
    @discardableResult
    private func check(_ machine: TestMachine, atLeast checks: Int) throws -> LockstepCounts {
        let exit = machine.vcpu.run()
        let counts = try #require(machine.vcpu.lockstep?.counts)
        #expect(exit == .requested)
        #expect(machine.vector == nil)
        #expect(counts.differences == 0)
        #expect(counts.checks >= checks, "\(counts.summary)")
        return counts
    }

    // MARK: Right translations

    @Test func `a loop is checked eight times before it runs by itself, and computes the same`() throws {
        // mov ecx, 5000; 1: add rax, rcx; mov [rdi], rax; adc rdx, [rdi]; dec ecx; jnz 1b
        let machine = try machine(
            [
                0xB9, 0x88, 0x13, 0, 0, 0x48, 0x01, 0xC8, 0x48, 0x89, 0x07, 0x48, 0x13, 0x17, 0xFF, 0xC9,
                0x75, 0xF3,
            ]
        ) { machine in
            machine.set(Register.rdi, 0x80000)
            machine.set(Register.rax, 0)
        }
        let counts = try check(machine, atLeast: 9)
        #expect(counts.blocks >= 2)
        #expect(machine.get(Register.rax) == 5000 * 5001 / 2)
        #expect(machine.load(0x80000) == 5000 * 5001 / 2)
    }

    @Test func `calls, returns and indirect branches are checked to their targets`() throws {
        // mov ecx, 40; 1: call f; lea rax, [rip + g]; call rax; lea rax, [rip + h]; jmp rax; g: ret n;
        // h: dec ecx; jnz 1b
        let code: [UInt8] = [
            0xB9, 40, 0, 0, 0, 0xE8, 0xF6, 0, 0, 0, 0x48, 0x8D, 0x05, 12, 0, 0, 0, 0xFF, 0xD0, 0x48, 0x8D,
            0x05, 6, 0, 0, 0, 0xFF, 0xE0, 0x90, 0xC2, 0, 0, 0xFF, 0xC9, 0x75, 0xE1,
        ]
        let machine = try machine(code) { machine in
            // f: inc rbx; ret
            machine.write(TestMachine.code + 0x100, [0x48, 0xFF, 0xC3, 0xC3])
            machine.set(Register.rbx, 0)
        }
        let counts = try check(machine, atLeast: 40)
        #expect(machine.get(Register.rbx) == 40)
        #expect(machine.rsp == TestMachine.kernelStack)
        #expect(counts.partial == 0, "\(counts.summary)")
    }

    @Test func `code that rewrites itself is checked as it is each time`() throws {
        // mov ecx, 50; 1: add eax, 1; inc byte [the immediate]; dec ecx; jnz 1b
        let code: [UInt8] = [
            0xB9, 50, 0, 0, 0, 0x83, 0xC0, 1, 0xFE, 0x05, 0xF9, 0xFF, 0xFF, 0xFF, 0xFF, 0xC9, 0x75, 0xF3,
        ]
        let machine = try machine(code) { $0.set(Register.rax, 0) }
        try check(machine, atLeast: 40)
        #expect(machine.get(Register.rax) == 50 * 51 / 2)
    }

    @Test func `code and data that cross pages are checked`() throws {
        // mov ecx, 50; jmp 1f; ... f: inc rax; ret ... 1: sub rsp, 28h; call f; add rsp, 28h;
        // mov [rdi], rax (over a page's end); dec ecx; jnz 1b
        let machine = try machine([0xB9, 50, 0, 0, 0, 0xE9, 0xF0, 0x0F, 0, 0]) { machine in
            machine.write(TestMachine.code + 0xF00, [0x48, 0xFF, 0xC0, 0xC3])
            machine.write(
                TestMachine.code + 0xFFA,
                [0x48, 0x83, 0xEC, 0x28, 0xE8, 0xFD, 0xFE, 0xFF, 0xFF, 0x48, 0x83, 0xC4, 0x28, 0x48, 0x89]
                    + [0x07, 0xFF, 0xC9, 0x75, 0xEC, 0xE6, 0xF4, 0xEB, 0xFE])
            machine.set(Register.rax, 0)
            machine.set(Register.rdi, 0x80FFC)
        }
        try check(machine, atLeast: 20)
        #expect(machine.get(Register.rax) == 50)
        #expect(machine.load(0x80FFC) == 50)
    }

    @Test(arguments: [0x1F_0010, 0x1F_0800, 0x1F_0018, 0x1F_0004] as [UInt64])
    func `copies and pushes are checked wherever pages end`(stack: UInt64) throws {
        // mov edx, 40; 1: push rdx; push rdi; mov ecx, 1000; rep movsb; pop rdi; pop rdx; dec edx; jnz 1b
        let code: [UInt8] = [
            0xBA, 40, 0, 0, 0, 0x52, 0x57, 0xB9, 0xE8, 3, 0, 0, 0xF3, 0xA4, 0x5F, 0x5A, 0xFF, 0xCA, 0x75,
            0xF1,
        ]
        let machine = try machine(code) { machine in
            machine.set(Register.rsp, stack)
            machine.set(Register.rsi, 0x80000)
            machine.set(Register.rdi, 0xA0F00)
            for place in 0..<5000 as Range<UInt64> {
                machine.store(0x80000 + place * 8, place &* 0x9E37_79B9_7F4A_7C15)
            }
        }
        // The first push lies in two pages when the stack is at an odd place: not for translated code.
        try check(machine, atLeast: stack & 7 == 0 ? 9 : 1)
        // The fortieth copy starts where the thirty-ninth ended.
        #expect(machine.load(0xA0F00 + 992) == machine.load(0x80000 + 39 * 1000 + 992))
        #expect(machine.rsp == stack)
    }

    @Test func `flags that the manual leaves undefined, and time, are left out`() throws {
        // mov ecx, 30; 1: mul rcx; pushfq; pop rbx; rdtsc; dec ecx; jnz 1b
        let code: [UInt8] = [
            0xB9, 30, 0, 0, 0, 0x48, 0xF7, 0xE1, 0x9C, 0x5B, 0x0F, 0x31, 0xFF, 0xC9, 0x75, 0xF5,
        ]
        let counts = try check(try machine(code), atLeast: 0)
        #expect(counts.doubts[LockstepDoubt.undefined.rawValue] > 0, "\(counts.summary)")
    }

    // MARK: Wrong translations

    /// A change of two bytes in emitted code, four bytes that find them, and what the report must name.
    struct Damage: CustomTestStringConvertible {
        var testDescription: String
        var found: UInt32
        var offset: UInt
        var bytes: UInt16
        var report: String
    }

    /// The translation of: 1: add rax, 3; mov [rdi], rax; dec ecx; jnz 1b
    private static let damages = [
        Damage(testDescription: "none", found: 0x03C6_8349, offset: 2, bytes: 0x03C6, report: ""),
        Damage(
            testDescription: "another immediate", found: 0x03C6_8349, offset: 2, bytes: 0x04C6,
            report: "RAX: 10, interpreter f"),
        Damage(
            testDescription: "another register", found: 0x03C6_8349, offset: 2, bytes: 0x03C0,
            report: "R8: "),
    ]

    @Test(arguments: damages)
    func `a damaged translation is found before it does any harm`(damage: Damage) throws {
        let code: [UInt8] = [
            0x48, 0x83, 0xC0, 3, 0x48, 0x89, 0x07, 0xFF, 0xC9, 0x75, 0xF5, 0xE6, 0xF4, 0xEB, 0xFE,
        ]
        let machine = try machine(code) { machine in
            machine.set(Register.rax, 0)
            machine.set(Register.rcx, 4)
            machine.set(Register.rdi, 0x80000)
        }
        // Four checks, so that nothing leads to the code yet.
        try check(machine, atLeast: 4)
        let address = BlockCache.find(machine.cpu.s.blockTable, TestMachine.code, machine.cpu.s.modeKey)
        try #require(address != 0)
        let block = BlockView(address: address)
        let translations = try #require(machine.vcpu.translations)
        let place = try #require(
            (0..<200 as Range<UInt>).map { block.b.code + $0 }
                .first { UInt32(bitPattern: translations.arena.word($0)) == damage.found })
        // Through the mapping that is writable.
        let writable = place &+ damage.offset &- UInt(bitPattern: translations.arena.distance)
        try #require(UnsafeMutablePointer<UInt16>(bitPattern: writable)).pointee = damage.bytes
        machine.cpu.s.rip = TestMachine.code
        machine.set(Register.rcx, 100)
        let exit = machine.vcpu.run()
        if damage.report.isEmpty {
            #expect(exit == .requested)
            #expect(machine.get(Register.rax) == 104 * 3)
            return
        }
        guard case .failed(let reason) = exit else {
            Issue.record("the run ended with \(exit)")
            return
        }
        #expect(reason.contains(damage.report), "\(reason)")
        #expect(reason.contains("10000: 48 83 c0 03 add"), "\(reason)")
        #expect(machine.vcpu.lockstep?.counts.differences == 1)
        // What the guest sees is the interpreter's work.
        #expect(machine.get(Register.rax) % 3 == 0)
        #expect(machine.load(0x80000) == machine.get(Register.rax))
    }

    @Test func `a wrong store and a wrong branch are found`() throws {
        // 1: add rax, 3; mov [rdi], rax; dec ecx; jnz 1b
        let code: [UInt8] = [
            0x48, 0x83, 0xC0, 3, 0x48, 0x89, 0x07, 0xFF, 0xC9, 0x75, 0xF5, 0xE6, 0xF4, 0xEB, 0xFE,
        ]
        // The interpreter's ops are damaged this time: the same difference, seen from the other side.
        let damages: [(name: String, report: String, (inout MicroOp, Int) -> Void)] = [
            ("store", "byte at physical 80000", { op, index in if index == 1 { op.displacement += 16 } }),
            ("branch", "RIP", { op, index in if index == 3 { op.immediate &+= 4 } }),
        ]
        for damage in damages {
            let machine = try machine(code) { machine in
                machine.set(Register.rax, 0)
                machine.set(Register.rcx, 4)
                machine.set(Register.rdi, 0x80000)
            }
            try check(machine, atLeast: 4)
            let address = BlockCache.find(machine.cpu.s.blockTable, TestMachine.code, machine.cpu.s.modeKey)
            try #require(address != 0)
            let ops = try #require(
                UnsafeMutablePointer<MicroOp>(bitPattern: BlockView(address: address).b.ops))
            for index in 0..<4 { damage.2(&ops[index], index) }
            machine.cpu.s.rip = TestMachine.code
            machine.set(Register.rcx, 100)
            guard case .failed(let reason) = machine.vcpu.run() else {
                Issue.record("the damaged \(damage.name) was not found")
                continue
            }
            #expect(reason.contains(damage.report), "\(reason)")
        }
    }
}
