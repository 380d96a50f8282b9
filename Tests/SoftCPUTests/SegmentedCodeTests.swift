import GuestMemory
import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

/// Translated code of segments: what branches, calls and stacks do where they wrap, and where pages and
/// segments end. Single instructions are compared with the host's processor by OracleTests.
@Suite struct SegmentedCodeTests {
    enum Way: CaseIterable { case interpreted, translated, verified }

    /// Code in real mode at `selector`:0, ready to run until it writes to a port.
    private func machine(
        _ way: Way, _ bytes: [UInt8], selector: UInt16 = 0x1000, mode: TestMachine.Mode = .real,
        change: (inout VCPUState) -> Void = { _ in }
    ) throws -> TestMachine {
        try #require(HostFeatures.shared.canTranslate, "this host cannot translate")
        let machine = try TestMachine(
            mode, threshold: way == .interpreted ? .max : 1, verifies: way == .verified
        ) { state in
            if mode == .real {
                state.segments[1].selector = selector
                state.segments[1].base = UInt64(selector) << 4
            }
            change(&state)
        }
        machine.platform.stopped = machine.vcpu
        machine.write(machine.cpu.linearRIP, bytes)
        return machine
    }

    private func finish(_ machine: TestMachine, _ way: Way) throws {
        let exit = machine.vcpu.run()
        #expect(exit == .requested)
        let translations = try #require(machine.vcpu.translations)
        #expect((translations.blocksTranslated > 0) == (way != .interpreted))
        if way == .verified {
            let counts = try #require(machine.vcpu.lockstep?.counts)
            #expect(counts.differences == 0)
            // A fault at the first instruction leaves nothing to compare.
            if machine.vcpu.cpu.linearRIP < TestMachine.handlers {
                #expect(counts.checks > 0, "\(counts.summary)")
            }
        }
    }

    /// What is compared: registers and the first half MiB of memory.
    private func result(_ machine: TestMachine) -> [UInt64] {
        (0..<8).map { machine.get($0) } + (0..<65536 as Range<UInt64>).map { machine.load($0 * 8) }
    }

    /// Runs the program in every way; returns the machine of the interpreter.
    @discardableResult
    private func compare(
        _ bytes: [UInt8], selector: UInt16 = 0x1000, mode: TestMachine.Mode = .real,
        prepare: (TestMachine) -> Void = { _ in }, change: (inout VCPUState) -> Void = { _ in },
        check: (TestMachine) -> Void = { _ in }
    ) throws -> TestMachine {
        var machines: [TestMachine] = []
        for way in Way.allCases {
            let machine = try machine(way, bytes, selector: selector, mode: mode, change: change)
            prepare(machine)
            try finish(machine, way)
            machines.append(machine)
        }
        let expected = result(machines[0])
        for (machine, way) in zip(machines, Way.allCases).dropFirst() {
            #expect(result(machine) == expected, "\(way)")
            #expect(machine.cpu.s.rip == machines[0].cpu.s.rip, "\(way)")
        }
        machines.forEach(check)
        return machines[0]
    }

    /// mov cx, 200; ...; 1: add ax, cx; push ax; call f; pop dx; add si, dx; mov [bx+4000h], ax; add bx, 2;
    /// xchg ax, di; inc di; push ds; pop es; mov es:[bx+5000h], di; xchg di, ax; mov dx, es:[bx+5000h];
    /// add ebp, edx; jcxz 3f; loop 1b; 3: out; f: push bp; mov bp, sp; add ax, [bp+4]; test al, 1; jnz 2f;
    /// inc word [3ffeh]; 2: leave; ret
    private static let work: [UInt8] = [
        0xB9, 0xC8, 0, 0x31, 0xC0, 0x31, 0xF6, 0x31, 0xDB, 1, 0xC8, 0x50, 0xE8, 0x24, 0, 0x5A, 1, 0xD6,
        0x89, 0x87, 0, 0x40, 0x83, 0xC3, 2, 0x97, 0x47, 0x1E, 7, 0x26, 0x89, 0xBF, 0, 0x50, 0x97, 0x26,
        0x8B, 0x97, 0, 0x50, 0x66, 1, 0xD5, 0xE3, 2, 0xE2, 0xDA, 0xE6, 0xF4, 0xEB, 0xFC, 0x55, 0x89,
        0xE5, 3, 0x46, 4, 0xA8, 1, 0x75, 4, 0xFF, 6, 0xFE, 0x3F, 0xC9, 0xC3,
    ]

    /// In the middle of its segment, in a page that the segment begins in, and over a page's end.
    @Test(arguments: [0x1000, 0x1001, 0x10FE, 0x1FFF] as [UInt16])
    func `calls, loops and data of two segments do what the interpreter does`(selector: UInt16) throws {
        let machine = try compare(Self.work, selector: selector)
        #expect(machine.get(Register.rcx) == 0)
        #expect(machine.get(Register.rsp) == 0x8000)
        #expect(machine.load(0x3FFE, size: 2) > 0)
    }

    @Test func `a stack pointer of 16 bits wraps, and the rest of ESP stays`() throws {
        // mov cx, 100; 1: push ax; push cx; inc ax; pop dx; pop bx; loop 1b; out
        try compare([0xB9, 100, 0, 0x50, 0x51, 0x40, 0x5A, 0x5B, 0xE2, 0xF9, 0xE6, 0xF4]) { machine in
            machine.set(Register.rsp, 0x1234_0002)
        }
    }

    @Test func `branches wrap at 64 KiB`() throws {
        // 0: mov cx, 40; 1: jmp 20h; 20h: jmp fff0h; 30h: loop 1b; out
        var code = [UInt8](repeating: 0x90, count: 0x38)
        code.replaceSubrange(0..<5, with: [0xB9, 40, 0, 0xEB, 0x1B])
        code.replaceSubrange(0x20..<0x23, with: [0xE9, 0xCD, 0xFF])
        code.replaceSubrange(0x30..<0x34, with: [0xE2, 0xD1, 0xE6, 0xF4])
        for selector in [0x1000, 0x1001] as [UInt16] {
            let machine = try compare(code, selector: selector) { machine in
                // inc ax; test ax, 1; jz 1f; inc bx; 1: jmp 30h
                machine.write(
                    UInt64(selector) << 4 + 0xFFF0, [0x40, 0xA9, 1, 0, 0x74, 1, 0x43, 0xE9, 0x36, 0])
                machine.set(Register.rax, 0)
                machine.set(Register.rbx, 0)
            }
            #expect(machine.get(Register.rax) == 40)
            #expect(machine.get(Register.rbx) == 20)
        }
    }

    @Test func `code is at home in each segment that it is called in`() throws {
        // mov cx, 100; 1: call 1000:100h; call 1010:0; loop 1b; out
        var code: [UInt8] = [
            0xB9, 100, 0, 0x9A, 0, 1, 0, 0x10, 0x9A, 0, 0, 0x10, 0x10, 0xE2, 0xF4, 0xE6, 0xF4,
        ]
        code += [UInt8](repeating: 0x90, count: 0x100 - code.count)
        // call 3f; 3: pop dx; add bx, dx; test cl, 1; jnz 4f; inc si; 4: retf
        code += [0xE8, 0, 0, 0x5A, 1, 0xD3, 0xF6, 0xC1, 1, 0x75, 1, 0x46, 0xCB]
        let machine = try compare(code) { machine in
            machine.set(Register.rbx, 0)
            machine.set(Register.rsi, 0)
        }
        // 103h in one segment, 3 in the other.
        #expect(machine.get(Register.rbx) == 100 * 0x106)
        #expect(machine.get(Register.rsi) == 100)
    }

    @Test func `a store to the next instructions is seen`() throws {
        // mov cx, 50; 1: add ax, 1; inc byte cs:[5]; loop 1b; out
        let machine = try compare(
            [0xB9, 50, 0, 0x83, 0xC0, 1, 0x2E, 0xFE, 6, 5, 0, 0xE2, 0xF6, 0xE6, 0xF4]
        ) { $0.set(Register.rax, 0) }
        #expect(machine.get(Register.rax) == 50 * 51 / 2)
    }

    // MARK: Data beside code

    /// Puts data and stack in the segment of the code, with the stack in its page.
    private func share(_ state: inout VCPUState) {
        state.segments[2].base = TestMachine.code
        state.segments[3].base = TestMachine.code
        state.gpr[4] = 0xF00
    }

    /// How often a store to code counted in the page of the code.
    private func codeStores(_ machine: TestMachine) -> UInt32 {
        machine.memory.pages.word(Int(TestMachine.code >> 12)) / PageMap.generationStep
    }

    @Test func `data and stack beside code slow it down, and change none of it`() throws {
        // mov cx, 4000; 1: push cx; call f; pop dx; add [300h], dx; test cl, cl; jnz 2f; inc byte [102h];
        // 2: loop 1b; out; f: (at 100h) add si, 1 (the byte at 102h); ret
        var code: [UInt8] = [
            0xB9, 0xA0, 0x0F, 0x51, 0xE8, 0xF9, 0, 0x5A, 1, 0x16, 0, 3, 0x84, 0xC9, 0x75, 5, 0x2E, 0xFE, 6,
            2, 1, 0xE2, 0xEC, 0xE6, 0xF4,
        ]
        code += [UInt8](repeating: 0, count: 0x100 - code.count) + [0x83, 0xC6, 1, 0xC3]
        let machine = try compare(code, prepare: { $0.set(Register.rsi, 0) }, change: share) { machine in
            #expect(codeStores(machine) < 400, "of 16,000 stores")
        }
        // What is added grows at each multiple of 256, once that round's call is over.
        var expected: UInt64 = 0
        for round in 1...4000 as ClosedRange<UInt64> { expected += 16 - round / 256 }
        #expect(machine.get(Register.rsi) == expected)
    }

    @Test func `flags that changed code beside data begins to read are there`() throws {
        // mov cx, 4000; 1: push cx; pop dx; add ax, dx; jmp 3f; 2: cmp cx, 100; jne 4f; mov byte [102h], 11h;
        // 4: loop 1b; out; 3: (at 100h) mov bx, bx; xor bp, bp (becomes adc bp, bp); adc si, 0; jmp 2b
        var code: [UInt8] = [
            0xB9, 0xA0, 0x0F, 0x51, 0x5A, 1, 0xD0, 0xE9, 0xF6, 0, 0x83, 0xF9, 0x64, 0x75, 6, 0x2E, 0xC6, 6,
            2, 1, 0x11, 0xE2, 0xEC, 0xE6, 0xF4,
        ]
        code += [UInt8](repeating: 0, count: 0x100 - code.count)
        code += [0x89, 0xDB, 0x31, 0xED, 0x83, 0xD6, 0, 0xE9, 0, 0xFF]
        try compare(code, change: share) { machine in
            #expect(codeStores(machine) < 200, "of 4,000 stores")
        }
    }

    // MARK: Loads of segments

    @Test func `segments that change in a loop are those of the next access`() throws {
        // mov cx, 60; 1: mov ax, cx; shl ax, 4; mov es, ax; mov es:[2], cx; les di, [100h]; add si, es:[di];
        // mov ds, bx; inc word [104h]; push es; pop ds; add bp, [di]; mov ds, bx; loop 1b; out
        let code: [UInt8] = [
            0xB9, 60, 0, 0x89, 0xC8, 0xC1, 0xE0, 4, 0x8E, 0xC0, 0x26, 0x89, 0x0E, 2, 0, 0xC4, 0x3E, 0, 1,
            0x26,
            3, 0x35, 0x8E, 0xDB, 0xFF, 6, 4, 1, 6, 0x1F, 3, 0x2D, 0x8E, 0xDB, 0xE2, 0xDF, 0xE6, 0xF4,
        ]
        let machine = try compare(code) { machine in
            machine.set(Register.rbx, 0x40)
            // The words at 40:100, and what they point at.
            machine.store(0x500, 0x0050_0010, size: 4)
            machine.store(0x510, 7, size: 2)
        }
        #expect(machine.load(0x504, size: 2) == 60)
    }

    // MARK: Faults

    /// The instruction at `offset` raises the exception `vector`, whose handler writes to a port.
    private func expectFault(
        _ vector: UInt64, at offset: UInt64, _ code: [UInt8], prepare: (TestMachine) -> Void = { _ in },
        change: (inout VCPUState) -> Void = { _ in }
    ) throws {
        func prepareAll(_ machine: TestMachine) {
            for number in 0..<32 as Range<UInt64> {
                machine.write(TestMachine.handlers + number * 16, [0xE6, 0xF4, 0xEB, 0xFC])
            }
            prepare(machine)
        }
        let machine = try compare(code, prepare: prepareAll, change: change)
        #expect(machine.cpu.linearRIP & ~15 == TestMachine.handlers + vector * 16)
        let stack = machine.cpu.s.segments[Segment.ss].base + machine.rsp & 0xFFFF
        #expect(machine.load(stack, size: 2) == offset)
    }

    @Test func `a word at the end of a segment faults at its instruction`() throws {
        // mov cx, 30; 1: mov bx, [si]; inc si; loop 1b
        try expectFault(13, at: 3, [0xB9, 30, 0, 0x8B, 0x1C, 0x46, 0xE2, 0xFB]) {
            $0.set(Register.rsi, 0xFFF5)
        }
        // The same through the stack: mov cx, 30; 1: mov bx, [bp]; inc bp; loop 1b
        try expectFault(12, at: 3, [0xB9, 30, 0, 0x8B, 0x5E, 0, 0x45, 0xE2, 0xFA]) {
            $0.set(Register.rbp, 0xFFF5)
        }
    }

    @Test func `a branch out of its segment faults where it is`() throws {
        let limit: (inout VCPUState) -> Void = { $0.segments[1].limit = 0x7FF }
        // mov cx, 30; 1: dec cx; jnz 1b; jmp 900h
        try expectFault(13, at: 6, [0xB9, 30, 0, 0x49, 0x75, 0xFD, 0xE9, 0xF7, 0x08], change: limit)
        // mov cx, 30; 1: dec cx; jz 900h; jmp 1b
        try expectFault(13, at: 4, [0xB9, 30, 0, 0x49, 0x0F, 0x84, 0xF8, 0x08, 0xEB, 0xF9], change: limit)
        // At 7c0h: mov cx, 30; 1: loop 1b; mov cx, 9; loop 810h
        try expectFault(
            13, at: 0x7C8, [0xB9, 30, 0, 0xE2, 0xFE, 0xB9, 9, 0, 0xE2, 0x46],
            change: {
                $0.segments[1].limit = 0x7FF
                $0.rip = 0x7C0
            })
        // mov ax, 900h; call ax
        try expectFault(13, at: 3, [0xB8, 0, 9, 0xFF, 0xD0], change: limit)
        // call 900h, with the stack as it was
        try expectFault(13, at: 0, [0xE8, 0xFD, 0x08], change: limit)
    }

    @Test func `a segment of data with a limit and without a right to store is minded`() throws {
        // Protected mode: 1: mov ax, fs:[si]; inc si; jmp 1b, in 16-bit code at 10000h with a base.
        for (limit, expected) in [(0x2F, 0x2F), (0x2E, 0x2E)] as [(UInt32, UInt64)] {
            for way in Way.allCases {
                let machine = try machine(way, [0x64, 0x8B, 0x04, 0x46, 0xEB, 0xFA], mode: .protected32) {
                    state in
                    state.segments[1].base = TestMachine.code
                    state.segments[1].limit = 0xFFFF
                    state.segments[1].attributes = 0x9B
                    state.rip = 0
                    state.segments[4].base = 0x80000
                    state.segments[4].limit = limit
                    state.segments[4].attributes = 0x91
                }
                machine.write(TestMachine.handlers + 13 * 16, [0xE6, 0xF4, 0xEB, 0xFC])
                machine.set(Register.rsi, 0)
                _ = machine.vcpu.run()
                #expect(machine.get(Register.rsi) == expected, "\(way)")
                #expect(machine.cpu.linearRIP == TestMachine.handlers + 13 * 16 + 2)
            }
        }
    }

    // MARK: 32 bits

    @Test func `32-bit code in a segment with a base calls, loops and returns`() throws {
        // mov ecx, 100; 1: push ecx; call f; pop edx; add ebx, edx; mov eax, fs:[esi]; add edi, eax; loop 1b;
        // out; jmp $-2; f: pop eax; push eax; add esi, 4; cs mov dx, [0]; ret
        let code: [UInt8] = [
            0xB9, 100, 0, 0, 0, 0x51, 0xE8, 0x0E, 0, 0, 0, 0x5A, 1, 0xD3, 0x64, 0x8B, 0x06, 1, 0xC7, 0xE2,
            0xF0,
            0xE6, 0xF4, 0xEB, 0xFC, 0x58, 0x50, 0x83, 0xC6, 4, 0x2E, 0x66, 0x8B, 0x15, 0, 0, 0, 0, 0xC3,
        ]
        let machine = try compare(code, mode: .protected32) { machine in
            for place in 0..<400 as Range<UInt64> { machine.store(0x80000 + place * 4, place, size: 4) }
            for register in [Register.rbx, Register.rsi, Register.rdi] { machine.set(register, 0) }
        } change: { state in
            state.segments[1].base = 0x10000
            state.rip = 0
            state.segments[2].base = 0x1000
            state.segments[4].base = 0x80000
            state.segments[4].limit = 0xFFF
        }
        #expect(machine.get(Register.rdi) == 5050)
        #expect(machine.rsp == TestMachine.kernelStack)
    }

    @Test func `flat code uses segments with a base, and addresses of 16 bits`() throws {
        // mov ecx, 100; 1: mov eax, gs:[esi]; add edi, eax; add esi, 4; a16 add bx, [si+4000h];
        // mov eax, [2ff0h]; mov [2ff4h], eax; loop 1b; out
        let code: [UInt8] = [
            0xB9, 100, 0, 0, 0, 0x65, 0x8B, 0x06, 1, 0xC7, 0x83, 0xC6, 4, 0x67, 0x66, 3, 0x9C, 0, 0x40, 0xA1,
            0xF0,
            0x2F, 0, 0, 0xA3, 0xF4, 0x2F, 0, 0, 0xE2, 0xE6, 0xE6, 0xF4,
        ]
        let machine = try compare(code, mode: .protected32) { machine in
            for place in 0..<400 as Range<UInt64> { machine.store(0x80000 + place * 4, place, size: 4) }
            machine.store(0x2FF0, 0x1234_5678, size: 4)
            for register in [Register.rbx, Register.rsi, Register.rdi] { machine.set(register, 0) }
        } change: { state in
            state.segments[5].base = 0x80000
        }
        #expect(machine.get(Register.rdi) == 99 * 50)
        #expect(machine.load(0x2FF4, size: 4) == 0x1234_5678)
    }
}
