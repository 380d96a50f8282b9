import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

/// A hostile guest: random system instructions on random registers, descriptors and gates. Nothing may trap
/// in the host, and what the engine derives from the state must stay consistent.
@Suite struct SystemRobustnessTests {
    private struct Random {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state >> 33 ^ state << 17
        }
        mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
        /// Numbers that meet edges more often than chance does.
        mutating func word() -> UInt64 {
            switch below(6) {
            case 0: return UInt64(below(0xA0))
            case 1: return 0x1F_0000 + UInt64(below(0x2_0000))
            case 2: return .max - UInt64(below(16))
            case 3: return 1 << UInt64(below(64))
            case 4: return [0xC000_0080, 0xC000_0101, 0x1B, 0x277, 0x4B56_4D01, 0x200][below(6)]
            default: return next()
            }
        }
    }

    /// First bytes; the rest of the instruction is random.
    private static let opcodes: [[UInt8]] = [
        [0x8E], [0x8C], [0x07], [0x17], [0x1F], [0x0F, 0xA1], [0x0F, 0xB2], [0xC4], [0x0F, 0xB5], [0xEA],
        [0x9A],
        [0xFF], [0xCA], [0xCB], [0xCF], [0x48, 0xCF], [0x48, 0xCB], [0xCD], [0xCC], [0xCE], [0xF1], [0x62],
        [0x0F, 0x00], [0x0F, 0x01], [0x0F, 0x02], [0x0F, 0x03], [0x0F, 0x05], [0x0F, 0x06], [0x0F, 0x07],
        [0x48, 0x0F, 0x07], [0x0F, 0x20], [0x0F, 0x21], [0x0F, 0x22], [0x0F, 0x23], [0x0F, 0x30],
        [0x0F, 0x32],
        [0x0F, 0x34], [0x0F, 0x35], [0x0F, 0xA2], [0x63], [0x6C], [0xF3, 0x6D], [0x6E], [0xF3, 0x6F], [0xE4],
        [0xE7], [0xEC], [0xEF], [0x9C], [0x9D], [0xFA], [0xFB], [0x66, 0x0F, 0x38, 0x82], [0xF3, 0x0F, 0xAE],
        [0x66, 0xCF], [0x66, 0x9D], [0x66, 0xEA], [0x66, 0x0F, 0x01],
    ]

    @Test(arguments: [TestMachine.Mode.real, .protected32, .long64])
    func `random system instructions leave the host alone`(mode: TestMachine.Mode) throws {
        var random = Random(state: 0x05D1_7E57)
        let m = try TestMachine(mode)
        let start = m.vcpu.state()
        let user = mode == .real ? start : try TestMachine(mode, privilege: 3, flags: 0x3202).vcpu.state()
        for round in 0..<4000 {
            m.vcpu.load(random.below(2) == 0 ? start : user)
            for number in 0..<16 where random.below(2) == 0 { m.set(number, random.word()) }
            // Descriptors, gates and both TSSs decay as the test goes on.
            if round % 4 == 0 {
                let place = [0x1000, 0x2000, 0x3000, 0x8000][random.below(4)] + UInt64(random.below(0xA0))
                m.store(place, random.word())
            }
            if random.below(8) == 0 { m.cpu.s.cr4 |= random.next() & 3 }
            m.cpu.s.otherFlags |= random.next() & 0x4100 & random.next()
            let opcode = Self.opcodes[random.below(Self.opcodes.count)]
            let address = m.cpu.linearRIP
            m.write(address, opcode + (0..<12).map { _ in UInt8(truncatingIfNeeded: random.next()) })
            m.step(2)
            checkConsistency(m.cpu)
        }
        // It is still a processor, once what the guest did to its page tables is undone.
        m.writePageTables()
        m.vcpu.load(start)
        m.write(m.cpu.linearRIP, [0x90])
        let before = m.cpu.s.rip
        m.step()
        #expect(m.cpu.s.rip == before + 1)
    }

    private func checkConsistency(_ cpu: CPU) {
        #expect(cpu.s.cpl <= 3)
        if !cpu.isProtected { #expect(cpu.s.cpl == 0) }
        if cpu.isProtected, cpu.isVirtual8086 { #expect(cpu.s.cpl == 3) }
        #expect(cpu.rflags & 2 != 0)
        #expect(cpu.isLongMode == (cpu.s.efer & EFER.longModeEnable != 0 && cpu.s.cr0 & CR0.paging != 0))
        let derived = (cpu.s.modeKey, cpu.s.flatSegments, cpu.s.stackMask, cpu.s.linearMask, cpu.s.tlbContext)
        cpu.modeChanged()
        #expect(
            derived == (
                cpu.s.modeKey, cpu.s.flatSegments, cpu.s.stackMask, cpu.s.linearMask, cpu.s.tlbContext
            ))
        #expect(cpu.gpr(Register.zero) == 0)
    }
}
