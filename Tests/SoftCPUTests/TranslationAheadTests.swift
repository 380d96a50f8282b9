import Testing
import X86Architecture

@testable import SoftCPU

/// Blocks that are translated along with one that leads to them.
@Suite struct TranslationAheadTests {
    /// 0: test ecx, ecx; je 10h; jmp 20h. 10h: dec ecx; jmp 0. 20h: inc ecx; jmp 0.
    private func machine(verifies: Bool = false) throws -> TestMachine {
        let machine = try TestMachine(.long64, threshold: 16, verifies: verifies)
        machine.write(TestMachine.code, [0x85, 0xC9, 0x74, 0x0C, 0xEB, 0x1A])
        machine.write(TestMachine.code + 0x10, [0xFF, 0xC9, 0xEB, 0xEC])
        machine.write(TestMachine.code + 0x20, [0xFF, 0xC1, 0xEB, 0xDC])
        return machine
    }

    private func block(_ machine: TestMachine, at offset: UInt64, runs: UInt16) throws -> BlockView {
        machine.cpu.s.rip = TestMachine.code + offset
        let block = BlockView(address: try machine.vcpu.findBlock(singleStep: false))
        block.b.runs = runs
        return block
    }

    @Test(.enabled(if: HostFeatures.shared.canTranslate, "this host cannot translate"))
    func `a block that has run a few times is translated with one that leads to it`() throws {
        let machine = try machine()
        let often = try block(machine, at: 0x10, runs: 4), seldom = try block(machine, at: 0x20, runs: 1)
        let first = try block(machine, at: 0, runs: 16)
        #expect(machine.vcpu.translate(first, try #require(machine.vcpu.translations)))
        #expect(first.b.code != 0)
        #expect(often.b.code != 0)
        #expect(seldom.b.code == 0)
        #expect(machine.vcpu.translations?.blocksTranslated == 2)
    }

    @Test(.enabled(if: HostFeatures.shared.canTranslate, "this host cannot translate"))
    func `a block from another state of the page is not`() throws {
        let machine = try machine()
        let often = try block(machine, at: 0x10, runs: 4)
        // mov byte [B0h], 1, beside its own code: what was decoded from the page before may not hold.
        machine.cpu.s.rip = TestMachine.code + 0x80
        machine.write(TestMachine.code + 0x80, [0xC6, 0x05, 0x29, 0, 0, 0, 1, 0xEB, 0xFE])
        machine.step(1)
        let first = try block(machine, at: 0, runs: 16)
        #expect(machine.vcpu.translate(first, try #require(machine.vcpu.translations)))
        #expect(often.b.generation != first.b.generation)
        #expect(often.b.code == 0)
    }

    @Test(.enabled(if: HostFeatures.shared.canTranslate, "this host cannot translate"))
    func `with comparison each is translated alone`() throws {
        let machine = try machine(verifies: true)
        let often = try block(machine, at: 0x10, runs: 4)
        let first = try block(machine, at: 0, runs: 16)
        #expect(machine.vcpu.translate(first, try #require(machine.vcpu.translations)))
        #expect(often.b.code == 0)
    }
}
