import Testing
import VCPUEngine
import X86Architecture

@testable import SoftCPU

/// Code that translations take to be at one address, and branches that lead from page to page: what happens
/// when the guest's mappings say otherwise.
@Suite struct CodePlaceTests {
    /// Where four pages of supervisor code are mapped, one after the other.
    private static let pages: UInt64 = 0xFFFF_FFFF_8000_0000
    /// The page table of them, and its entry for page `number`.
    private static let table: UInt64 = 0xB000
    private static func entry(_ physical: UInt64) -> UInt64 { physical | 0x103 }

    /// A machine that starts in the first page, with what the four are mapped to; SMEP is on.
    private func machine(_ physical: [UInt64]) throws -> TestMachine {
        try #require(HostFeatures.shared.canTranslate, "this host cannot translate")
        let machine = try TestMachine(.long64, threshold: 1) { state in
            state.cr4 |= CR4.supervisorExecutionPrevention | CR4.pageGlobalEnable
            state.rip = Self.pages
            state.gpr[Register.rax] = 0
        }
        machine.platform.stopped = machine.vcpu
        machine.store(0x4FF8, 0x9003)
        machine.store(0x9000 + 510 * 8, 0xA003)
        machine.store(0xA000, Self.table | 3)
        for (number, page) in physical.enumerated() {
            machine.store(Self.table + UInt64(number) * 8, Self.entry(page))
        }
        return machine
    }

    /// mov ecx, 100; 1: call `distance` from the page's start; dec ecx; jnz 1b
    private func hundredCalls(_ code: inout [UInt8], to distance: Int) {
        code += [0xB9, 100, 0, 0, 0]
        let relative = UInt32(distance - code.count - 5)
        code += [0xE8] + (0..<4).map { UInt8(truncatingIfNeeded: relative >> ($0 * 8)) }
        code += [0xFF, 0xC9, 0x75, 0xF7]
    }

    /// A hundred calls each to the same code in pages 1 and 2, by turns: after ten of them it is translated
    /// for anywhere.
    private func callInTurn(_ code: inout [UInt8], times: Int) {
        for _ in 0..<times {
            hundredCalls(&code, to: 0x1000)
            hundredCalls(&code, to: 0x2000)
        }
    }

    /// lea rdx, [rip + 0]; add rax, rdx; ret
    private static let addsItsPlace: [UInt8] = [
        0x48, 0x8D, 0x15, 0, 0, 0, 0, 0x48, 0x01, 0xD0, 0xC3,
    ]

    /// mov qword [entry of page 1], the entry for `physical`
    private func mapSecondPage(_ code: inout [UInt8], _ physical: UInt64) {
        let value = UInt32(Self.entry(physical))
        code += [0x48, 0xC7, 0x04, 0x25, 0x08, 0xB0, 0, 0]
        code += (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }

    @Test func `a linked branch to another page follows the page when it is mapped anew`() throws {
        let machine = try machine([0x12000, 0x13000])
        var code: [UInt8] = []
        hundredCalls(&code, to: 0x1000)
        mapSecondPage(&code, 0x14000)
        // mov rdx, page 1; invlpg [rdx]
        code += [0x48, 0xC7, 0xC2, 0x00, 0x10, 0x00, 0x80, 0x0F, 0x01, 0x3A]
        hundredCalls(&code, to: 0x1000)
        mapSecondPage(&code, 0x15000)
        // mov rdx, cr4; btr edx, 7; mov cr4, rdx; bts edx, 7; mov cr4, rdx
        code += [0x0F, 0x20, 0xE2, 0x0F, 0xBA, 0xF2, 7, 0x0F, 0x22, 0xE2, 0x0F, 0xBA, 0xEA, 7]
        code += [0x0F, 0x22, 0xE2]
        hundredCalls(&code, to: 0x1000)
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        // add eax, 1; 100h; 10000h; ret
        machine.write(0x13000, [0x05, 1, 0, 0, 0, 0xC3])
        machine.write(0x14000, [0x05, 0, 1, 0, 0, 0xC3])
        machine.write(0x15000, [0x05, 0, 0, 1, 0, 0xC3])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 100 + 100 << 8 + 100 << 16)
        let links = try #require(machine.vcpu.translations).farLinks
        // The second page's function was entered by a link in each of its places.
        #expect(links.made >= 3)
        #expect(links.cuts >= 2)
    }

    @Test func `code that runs at two addresses in turn finds itself at each`() throws {
        let machine = try machine([0x12000, 0x13000, 0x13000])
        var code: [UInt8] = []
        callInTurn(&code, times: 3)
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        machine.write(0x13000, Self.addsItsPlace)
        #expect(machine.vcpu.run() == .requested)
        let once = (Self.pages + 0x1007) &+ (Self.pages + 0x2007)
        #expect(machine.get(Register.rax) == once &* 300)
    }

    @Test func `calls to code that is for anywhere do not come out each time`() throws {
        let machine = try machine([0x12000, 0x13000, 0x13000])
        var code: [UInt8] = []
        callInTurn(&code, times: 10)
        for _ in 0..<20 { hundredCalls(&code, to: 0x1000) }
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        machine.write(0x13000, Self.addsItsPlace)
        #expect(machine.vcpu.run() == .requested)
        let once = (Self.pages + 0x1007) &* 3000 &+ (Self.pages + 0x2007) &* 1000
        #expect(machine.get(Register.rax) == once)
        let statistics = try #require(machine.vcpu.translations).statistics
        // One or two for each place that calls.
        #expect(statistics.exits[Int(TranslatedExit.far)] < 100, "\(statistics.exits)")
    }

    @Test func `indirect calls to code that runs at two addresses find it at each`() throws {
        let machine = try machine([0x12000, 0x13000, 0x13000])
        var code: [UInt8] = []
        callInTurn(&code, times: 10)
        // mov ecx, 100; 1: mov rbx, page 1; call rbx; mov rbx, page 2; call rbx; dec ecx; jnz 1b
        code += [0xB9, 100, 0, 0, 0]
        for page in [0x10, 0x20] as [UInt8] { code += [0x48, 0xC7, 0xC3, 0, page, 0, 0x80, 0xFF, 0xD3] }
        code += [0xFF, 0xC9, 0x75, 0xEA]
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        machine.write(0x13000, Self.addsItsPlace)
        #expect(machine.vcpu.run() == .requested)
        let once = (Self.pages + 0x1007) &+ (Self.pages + 0x2007)
        #expect(machine.get(Register.rax) == once &* 1100)
        let statistics = try #require(machine.vcpu.translations).statistics
        #expect(statistics.exits[Int(TranslatedExit.branch)] < 50, "\(statistics.exits)")
    }

    @Test func `a store to a page makes branches from other pages find its new code`() throws {
        let machine = try machine([0x12000, 0x13000])
        var code: [UInt8] = []
        hundredCalls(&code, to: 0x1000)
        // mov byte [13002h], 1: the addition's second byte
        code += [0xC6, 0x04, 0x25, 0x02, 0x30, 0x01, 0x00, 1]
        hundredCalls(&code, to: 0x1000)
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        machine.write(0x13000, [0x05, 1, 0, 0, 0, 0xC3])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 100 + 100 * 0x101)
    }

    @Test func `a store beside code leaves its translation as it is`() throws {
        let machine = try machine([0x12000, 0x13000])
        var code: [UInt8] = []
        for value in 0..<20 as Range<UInt8> {
            hundredCalls(&code, to: 0x1000)
            // mov byte [13800h], value
            code += [0xC6, 0x04, 0x25, 0x00, 0x38, 0x01, 0x00, value]
        }
        hundredCalls(&code, to: 0x1000)
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        // add eax, 1; ret
        machine.write(0x13000, [0x05, 1, 0, 0, 0, 0xC3])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 2100)
        #expect(machine.load(0x13800) == 19)
        let statistics = try #require(machine.vcpu.translations).statistics
        // From the seventeenth on they do not count.
        #expect(statistics.invalidations == 16 && statistics.woken == 16)
    }

    /// With SMEP from the start, or after the code was translated the first time.
    @Test(arguments: [true, false])
    func `a branch that was linked to code before it changed is linked to what it became`(
        _ hasSMEP: Bool
    ) throws {
        let machine = try machine([0x12000, 0x13000])
        var code: [UInt8] = []
        if !hasSMEP {
            // mov rdx, cr4; btr edx, 20; mov cr4, rdx
            code += [0x0F, 0x20, 0xE2, 0x0F, 0xBA, 0xF2, 20, 0x0F, 0x22, 0xE2]
            hundredCalls(&code, to: 0x1000)
            // bts edx, 20; mov cr4, rdx; xor eax, eax
            code += [0x0F, 0xBA, 0xEA, 20, 0x0F, 0x22, 0xE2, 0x31, 0xC0]
        }
        for value in 2..<6 as Range<UInt8> {
            hundredCalls(&code, to: 0x1000)
            // mov byte [13041h], value: the constant that is added
            code += [0xC6, 0x04, 0x25, 0x41, 0x30, 0x01, 0x00, value]
        }
        hundredCalls(&code, to: 0x1000)
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        // jmp 40h; at 40h: add eax, 1; ret
        machine.write(0x13000, [0xEB, 0x3E])
        machine.write(0x13040, [0x05, 1, 0, 0, 0, 0xC3])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 100 * (1 + 2 + 3 + 4 + 5))
        let statistics = try #require(machine.vcpu.translations).statistics
        #expect(statistics.woken >= (hasSMEP ? 4 : 3))
        #expect(statistics.exits[Int(TranslatedExit.stale)] < 20, "\(statistics.exits)")
    }

    /// add eax, imm32; ret: the constant's last three bytes lie in the page behind.
    private static let addition = 0xFFE
    private func writeAddition(_ machine: TestMachine, _ page: UInt64, _ tails: [(UInt64, UInt8)]) {
        machine.write(page + UInt64(Self.addition), [0x05, 1])
        for (second, value) in tails { machine.write(second, [value, 0, 0, 0xC3]) }
    }

    @Test func `an instruction in two pages follows the second one when that is mapped anew`() throws {
        let machine = try machine([0x12000, 0x13000])
        var code: [UInt8] = []
        hundredCalls(&code, to: Self.addition)
        mapSecondPage(&code, 0x14000)
        // mov rdx, page 1; invlpg [rdx]
        code += [0x48, 0xC7, 0xC2, 0x00, 0x10, 0x00, 0x80, 0x0F, 0x01, 0x3A]
        hundredCalls(&code, to: Self.addition)
        mapSecondPage(&code, 0x15000)
        // mov rdx, cr4; btr edx, 7; mov cr4, rdx; bts edx, 7; mov cr4, rdx
        code += [0x0F, 0x20, 0xE2, 0x0F, 0xBA, 0xF2, 7, 0x0F, 0x22, 0xE2, 0x0F, 0xBA, 0xEA, 7]
        code += [0x0F, 0x22, 0xE2]
        hundredCalls(&code, to: Self.addition)
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        writeAddition(machine, 0x12000, [(0x13000, 0), (0x14000, 1), (0x15000, 2)])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 100 * 1 + 100 * 0x101 + 100 * 0x201)
        expectFewExits(machine)
    }

    @Test func `an instruction in two pages is a new one after a store to either`() throws {
        let machine = try machine([0x12000, 0x13000])
        var code: [UInt8] = []
        hundredCalls(&code, to: Self.addition)
        // mov byte [13000h], 1
        code += [0xC6, 0x04, 0x25, 0x00, 0x30, 0x01, 0x00, 1]
        hundredCalls(&code, to: Self.addition)
        // mov byte [12FFFh], 2
        code += [0xC6, 0x04, 0x25, 0xFF, 0x2F, 0x01, 0x00, 2]
        hundredCalls(&code, to: Self.addition)
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        writeAddition(machine, 0x12000, [(0x13000, 0)])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 100 * 1 + 100 * 0x101 + 100 * 0x102)
        expectFewExits(machine)
    }

    @Test func `an instruction in two pages runs at two addresses in turn`() throws {
        // Twice the same first page, with another one behind it each time.
        let machine = try machine([0x12000, 0x13000, 0x14000, 0x13000])
        var code: [UInt8] = []
        for _ in 0..<3 {
            hundredCalls(&code, to: 0x1000 + Self.addition)
            hundredCalls(&code, to: 0x3000 + Self.addition)
        }
        machine.store(Self.table + 4 * 8, Self.entry(0x15000))
        machine.write(0x12000, code + [0xE6, 0xF4, 0xEB, 0xFE])
        writeAddition(machine, 0x13000, [(0x14000, 1), (0x15000, 2)])
        #expect(machine.vcpu.run() == .requested)
        #expect(machine.get(Register.rax) == 300 * 0x101 + 300 * 0x201)
    }

    /// The instruction was translated: else it would have led out a hundred times for each of its forms.
    private func expectFewExits(_ machine: TestMachine) {
        var exits: UInt64 = 0
        if let counts = machine.vcpu.translations?.statistics.exits {
            for kind in counts.indices { exits += UInt64(counts[kind]) }
        }
        #expect((1..<100).contains(exits))
    }
}
