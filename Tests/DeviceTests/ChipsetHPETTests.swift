import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

@Suite struct ChipsetHPETTests {
    private let bench = ChipsetBench()
    private let legacy = Recorder<Bool>()

    private func makeHPET(enabled: Bool = true) -> HPET {
        let hpet = HPET(bench.context, onLegacyReplacement: { [legacy] in legacy.record($0) })
        if enabled { set(hpet, 0x10, 1) }
        return hpet
    }
    private func get(_ hpet: HPET, _ offset: UInt64, _ width: AccessWidth = .qword) -> UInt64 {
        hpet.read(region: 0, offset: offset, width: width)
    }
    private func set(_ hpet: HPET, _ offset: UInt64, _ value: UInt64, _ width: AccessWidth = .dword) {
        hpet.write(region: 0, offset: offset, width: width, value: value)
    }
    private func wait(_ ticks: UInt64) { bench.clock.advance(by: ticks * 10) }

    @Test func `the capabilities say three 64-bit timers at 100 MHz`() {
        let hpet = makeHPET(enabled: false)
        #expect(get(hpet, 0) == 0x0098_9680_8086_A201)
        #expect(get(hpet, 4, .dword) == 10_000_000)
        #expect(get(hpet, 0x100) == 0x00F0_0000_0000_8030)
        #expect(get(hpet, 0x108) == .max)
        #expect(get(hpet, 0x168) == 0)
        #expect(get(hpet, 0x3F8) == 0)
    }

    @Test func `the counter counts while it is enabled`() {
        let hpet = makeHPET(enabled: false)
        wait(1000)
        #expect(get(hpet, 0xF0) == 0)
        set(hpet, 0xF0, 0xFFFF_FFF0)
        set(hpet, 0xF4, 1)
        set(hpet, 0x10, 1)
        wait(32)
        #expect(get(hpet, 0xF0) == 0x2_0000_0010)
        #expect(get(hpet, 0xF4, .dword) == 2)
        set(hpet, 0x10, 0)
        wait(1000)
        #expect(get(hpet, 0xF0) == 0x2_0000_0010)
    }

    @Test func `a one-shot comparator fires once`() {
        let hpet = makeHPET()
        set(hpet, 0x100, 20 << 9 | 4)
        set(hpet, 0x108, 5000, .qword)
        wait(4999)
        #expect(bench.lines.rises(20) == 0)
        wait(1)
        #expect(bench.lines.rises(20) == 1)
        wait(1_000_000)
        #expect(bench.lines.rises(20) == 1)
        #expect(!bench.lines.isHigh(20))
        #expect(bench.clock.armedCount == 0)
    }

    @Test func `Linux programs a periodic legacy timer`() {
        let hpet = makeHPET(enabled: false)
        set(hpet, 0xF0, 0)
        set(hpet, 0xF4, 0)
        set(hpet, 0x10, 3)
        #expect(legacy.all == [true])
        // Enabled, periodic, set value, 32 bits; then the first match and the period.
        set(hpet, 0x100, 0x14C)
        set(hpet, 0x108, 150_000)
        set(hpet, 0x108, 100_000)
        wait(150_000)
        #expect(bench.lines.rises(0) == 1)
        wait(300_000)
        #expect(bench.lines.rises(0) == 4)
        #expect(get(hpet, 0x108) == 550_000)
        set(hpet, 0x10, 1)
        #expect(legacy.all == [true, false])
    }

    @Test func `the second legacy timer is line 8 and the third keeps its route`() {
        let hpet = makeHPET()
        set(hpet, 0x10, 3)
        set(hpet, 0x120, 4)
        set(hpet, 0x128, 100, .qword)
        set(hpet, 0x140, 21 << 9 | 4)
        set(hpet, 0x148, 100, .qword)
        wait(100)
        #expect(Set(bench.lines.takeChanges().map(\.line)) == [8, 21])
    }

    @Test func `a level stays until its status bit is written`() {
        let hpet = makeHPET()
        set(hpet, 0x100, 20 << 9 | 6)
        set(hpet, 0x108, 100, .qword)
        wait(100)
        #expect(bench.lines.isHigh(20))
        #expect(get(hpet, 0x20) == 1)
        set(hpet, 0x20, 2)
        #expect(bench.lines.isHigh(20))
        set(hpet, 0x20, 1)
        #expect(!bench.lines.isHigh(20))
        #expect(get(hpet, 0x20) == 0)
    }

    @Test func `a disabled level timer sets its status without a line`() {
        let hpet = makeHPET()
        set(hpet, 0x100, 20 << 9 | 2)
        set(hpet, 0x108, 100, .qword)
        wait(100)
        #expect(get(hpet, 0x20) == 1)
        #expect(bench.lines.takeChanges().isEmpty)
        #expect(bench.clock.firedCount == 0)
    }

    @Test func `a message goes to the route's address`() {
        let hpet = makeHPET()
        set(hpet, 0x130, 0x0000_4041)
        set(hpet, 0x134, 0xFEE0_1000)
        set(hpet, 0x120, 0x4004)
        set(hpet, 0x128, 100, .qword)
        wait(100)
        #expect(bench.messages.takeMessages() == [MSIMessage(address: 0xFEE0_1000, data: 0x4041)])
        #expect(bench.lines.takeChanges().isEmpty)
    }

    @Test func `routes outside the capability drive nothing`() {
        let hpet = makeHPET()
        for line in [0, 3, 19, 24, 31] as [UInt64] {
            set(hpet, 0x100, line << 9 | 4)
            set(hpet, 0x108, get(hpet, 0xF0) + 100, .qword)
            wait(100)
        }
        #expect(bench.lines.takeChanges().isEmpty)
    }

    @Test func `a comparator that was just missed fires at once and one far behind waits`() {
        let hpet = makeHPET()
        wait(10_000_000)
        set(hpet, 0x100, 20 << 9 | 4)
        set(hpet, 0x108, get(hpet, 0xF0) - 50, .qword)
        #expect(bench.lines.rises(20) == 1)
        set(hpet, 0x108, get(hpet, 0xF0) - 5_000_000, .qword)
        wait(1_000_000)
        #expect(bench.lines.rises(20) == 1)
    }

    @Test(arguments: [1, 2, 10] as [UInt64])
    func `tiny periods do not flood the host`(period: UInt64) {
        let hpet = makeHPET()
        set(hpet, 0x100, 20 << 9 | 0x4C)
        set(hpet, 0x108, period, .qword)
        bench.clock.advance(by: 10_000_000)
        #expect(bench.clock.firedCount <= 1_001)
        #expect(bench.lines.rises(20) > 900)
    }

    @Test func `a period of zero fires once`() {
        let hpet = makeHPET()
        set(hpet, 0x100, 20 << 9 | 0x4C)
        set(hpet, 0x108, 0, .qword)
        bench.clock.advance(by: 10_000_000)
        #expect(bench.lines.rises(20) == 1)
    }

    @Test func `a 32-bit comparator matches across the wrap of its half`() {
        let hpet = makeHPET(enabled: false)
        set(hpet, 0xF0, 0xFFFF_FF00)
        set(hpet, 0x10, 1)
        set(hpet, 0x100, 20 << 9 | 0x104)
        set(hpet, 0x108, 0x100, .qword)
        wait(0x1FF)
        #expect(bench.lines.rises(20) == 0)
        wait(1)
        #expect(bench.lines.rises(20) == 1)
        wait(1 << 32)
        #expect(bench.lines.rises(20) == 2)
    }

    @Test func `a late host coalesces and keeps the phase`() {
        let hpet = makeHPET()
        set(hpet, 0x100, 20 << 9 | 0x4C)
        set(hpet, 0x108, 10_000, .qword)
        bench.clock.jump(by: 1_050_000_000)
        #expect(bench.lines.rises(20) == 1)
        #expect(get(hpet, 0x108) == 105_010_000)
        wait(10_000)
        #expect(bench.lines.rises(20) == 2)
    }

    @Test func `narrow stores change their bytes only`() {
        let hpet = makeHPET(enabled: false)
        set(hpet, 0x108, 0x1122_3344_5566_7788, .qword)
        set(hpet, 0x10A, 0xAA, .byte)
        set(hpet, 0x10E, 0xBBCC, .word)
        #expect(get(hpet, 0x108) == 0xBBCC_3344_55AA_7788)
        #expect(get(hpet, 0x10A, .word) == 0x55AA)
        set(hpet, 0x10F, 0xFFFF_FFFF, .dword)
        #expect(get(hpet, 0x108) == 0xFFCC_3344_55AA_7788)
    }

    @Test func `saved fields out of range are refused`() {
        let hpet = makeHPET()
        for change: (inout HPET.Saved) -> Void in [
            { $0.configuration = 4 }, { $0.timers.removeLast() }, { $0.origin = .max },
            { $0.timers[0].configuration = 1 << 20 }, { $0.interruptStatus = 8 },
            { $0.timers[1].lastMatch = .max }, { $0.timers[2].configuration = 0x100 },
        ] {
            var saved = hpet.save()
            change(&saved)
            #expect(throws: RestoreError.self) { try hpet.restore(saved) }
        }
    }
}
