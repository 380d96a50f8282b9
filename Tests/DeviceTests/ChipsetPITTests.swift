import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

@Suite struct ChipsetPITTests {
    private let bench = ChipsetBench()
    private let rate = TickRate(frequency: 1_193_182)

    /// Moves the clock to `tick` of the timer's crystal.
    private func go(to tick: UInt64) { bench.clock.advance(by: rate.time(of: tick) - bench.clock.now) }
    private func program(_ pit: PIT8254, _ channel: UInt16, _ control: UInt8, _ count: UInt16) {
        pit.output(0x43, control)
        pit.output(0x40 + channel, UInt8(count & 0xFF))
        pit.output(0x40 + channel, UInt8(count >> 8))
    }
    private func latched(_ pit: PIT8254, _ channel: UInt16) -> UInt16 {
        pit.output(0x43, UInt8(channel << 6))
        return UInt16(pit.input(0x40 + channel)) | UInt16(pit.input(0x40 + channel)) << 8
    }

    @Test func `a tick begins at the first nanosecond that reaches it`() {
        for tick in [0, 1, 2, 1_193_182, 123_456_789_012] as [UInt64] {
            #expect(rate.ticks(at: rate.time(of: tick)) == tick)
            #expect(tick == 0 || rate.ticks(at: rate.time(of: tick) - 1) == tick - 1)
        }
        #expect(scaled(.max, by: .max, over: 3) == .max)
    }

    @Test(arguments: [0x34, 0x36] as [UInt8])
    func `modes 2 and 3 interrupt once a period`(control: UInt8) {
        let pit = PIT8254(bench.context)
        program(pit, 0, control, 1193)
        go(to: 1192)
        #expect(bench.lines.rises(0) == 0)
        go(to: 1193)
        #expect(bench.lines.rises(0) == 1)
        go(to: 119_300)
        #expect(bench.lines.rises(0) == 100)
    }

    @Test(arguments: [(0x30, 1000), (0x38, 1001)] as [(UInt8, UInt64)])
    func `modes 0 and 4 interrupt once`(control: UInt8, tick: UInt64) {
        let pit = PIT8254(bench.context)
        program(pit, 0, control, 1000)
        go(to: tick - 1)
        #expect(bench.lines.rises(0) == 0)
        go(to: tick)
        #expect(bench.lines.rises(0) == 1)
        go(to: 1_000_000)
        #expect(bench.lines.rises(0) == 1)
        #expect(bench.clock.armedCount == 0)
    }

    @Test func `a count of zero is 65536`() {
        let pit = PIT8254(bench.context)
        program(pit, 0, 0x34, 0)
        go(to: 65_535)
        #expect(bench.lines.rises(0) == 0)
        go(to: 65_536)
        #expect(bench.lines.rises(0) == 1)
    }

    @Test func `a count of one does not flood the host`() {
        let pit = PIT8254(bench.context)
        program(pit, 0, 0x34, 1)
        bench.clock.advance(by: 100_000_000)
        #expect(bench.clock.firedCount <= 10_001)
        #expect(bench.clock.firedCount > 9_000)
    }

    @Test func `a late host coalesces interrupts and keeps the phase`() {
        let pit = PIT8254(bench.context)
        program(pit, 0, 0x34, 1000)
        bench.clock.jump(by: rate.time(of: 10_500))
        #expect(bench.lines.rises(0) == 1)
        go(to: 10_999)
        #expect(bench.lines.rises(0) == 1)
        go(to: 11_000)
        #expect(bench.lines.rises(0) == 2)
    }

    @Test(
        arguments: [
            (0x30, 1000, 300, 700), (0x34, 1000, 300, 700), (0x34, 1000, 1300, 700), (0x36, 1000, 300, 400),
            (0x36, 1000, 600, 800), (0x38, 1000, 1001, 0xFFFF), (0x30, 1000, 1002, 0xFFFE),
        ] as [(UInt8, UInt16, UInt64, UInt16)])
    func `a latched count says how far the counter came`(
        control: UInt8, count: UInt16, tick: UInt64, expected: UInt16
    ) {
        let pit = PIT8254(bench.context)
        program(pit, 0, control, count)
        go(to: tick)
        #expect(latched(pit, 0) == expected)
    }

    @Test func `a latch holds until it is read and a second latch is ignored`() {
        let pit = PIT8254(bench.context)
        program(pit, 0, 0x34, 1000)
        go(to: 100)
        pit.output(0x43, 0x00)
        go(to: 200)
        pit.output(0x43, 0x00)
        #expect(pit.input(0x40) == 0x84)
        #expect(pit.input(0x40) == 0x03)
        #expect(latched(pit, 0) == 800)
    }

    @Test func `single-byte access moves one half of the count`() {
        let pit = PIT8254(bench.context)
        pit.output(0x43, 0x14)
        pit.output(0x40, 100)
        go(to: 40)
        #expect(pit.input(0x40) == 60)
        pit.output(0x43, 0x24)
        pit.output(0x40, 2)
        go(to: 41)
        #expect(pit.input(0x40) == 1)
    }

    @Test func `read-back latches status, then count`() {
        let pit = PIT8254(bench.context)
        pit.output(0x43, 0x34)
        pit.output(0x43, 0xE2)
        #expect(pit.input(0x40) == 0xF4, "OUT high, null count, word access, mode 2")
        pit.output(0x40, 0xE8)
        pit.output(0x40, 0x03)
        go(to: 1)
        pit.output(0x43, 0xC2)
        #expect(pit.input(0x40) == 0xB4)
        #expect(UInt16(pit.input(0x40)) | UInt16(pit.input(0x40)) << 8 == 999)
    }

    @Test func `a BCD counter counts in tens`() {
        let pit = PIT8254(bench.context)
        program(pit, 0, 0x35, 0x1000)
        go(to: 1)
        #expect(latched(pit, 0) == 0x0999)
        program(pit, 0, 0x31, 0)
        let start = rate.ticks(at: bench.clock.now)
        go(to: start + 1)
        #expect(latched(pit, 0) == 0x9999)
    }

    @Test func `Linux calibrates by counter 2 and port 61h`() {
        let pit = PIT8254(bench.context)
        pit.output(0x61, (pit.input(0x61) & ~0x02) | 0x01)
        program(pit, 2, 0xB0, 59_659)
        #expect(pit.input(0x61) & 0x20 == 0)
        go(to: 59_658)
        #expect(pit.input(0x61) & 0x20 == 0)
        go(to: 59_659)
        #expect(pit.input(0x61) & 0x20 != 0)
        #expect(bench.lines.takeChanges().isEmpty)
    }

    @Test func `the gate of counter 2 stops and resumes mode 0`() {
        let pit = PIT8254(bench.context)
        pit.output(0x61, 1)
        program(pit, 2, 0xB0, 1000)
        go(to: 300)
        pit.output(0x61, 0)
        go(to: 5000)
        #expect(latched(pit, 2) == 700)
        pit.output(0x61, 1)
        go(to: 5699)
        #expect(pit.input(0x61) & 0x20 == 0)
        go(to: 5700)
        #expect(pit.input(0x61) & 0x20 != 0)
    }

    @Test(arguments: [(0xB2, true), (0xBA, false)] as [(UInt8, Bool)])
    func `modes 1 and 5 start with a rising gate`(control: UInt8, isOneShot: Bool) {
        let pit = PIT8254(bench.context)
        program(pit, 2, control, 100)
        go(to: 500)
        #expect(pit.input(0x61) & 0x20 != 0)
        pit.output(0x61, 1)
        go(to: 550)
        #expect(pit.input(0x61) & 0x20 == (isOneShot ? 0 : 0x20))
        go(to: 600)
        #expect(pit.input(0x61) & 0x20 == (isOneShot ? 0x20 : 0))
        go(to: 601)
        #expect(pit.input(0x61) & 0x20 != 0)
    }

    @Test func `a new count in mode 2 takes over at the end of the period`() {
        let pit = PIT8254(bench.context)
        program(pit, 0, 0x34, 1000)
        go(to: 500)
        pit.output(0x40, 0xC8)
        pit.output(0x40, 0x00)
        go(to: 999)
        #expect(bench.lines.rises(0) == 0)
        go(to: 1000)
        #expect(bench.lines.rises(0) == 1)
        go(to: 1200)
        #expect(bench.lines.rises(0) == 2)
    }

    @Test func `the refresh bit of port 61h toggles with time`() {
        let pit = PIT8254(bench.context)
        let first = pit.input(0x61) & 0x10
        bench.clock.advance(by: 15_085)
        #expect(pit.input(0x61) & 0x10 != first)
    }

    @Test func `legacy replacement takes the line away`() {
        let pit = PIT8254(bench.context)
        pit.suppressLine(true)
        program(pit, 0, 0x34, 1000)
        go(to: 5000)
        #expect(bench.lines.takeChanges().isEmpty)
        pit.suppressLine(false)
        go(to: 6000)
        #expect(bench.lines.rises(0) == 1)
    }

    @Test func `a saved counter that never was is refused`() {
        let pit = PIT8254(bench.context)
        var saved = pit.save()
        saved.channels[0].count = 0
        #expect(throws: RestoreError.self) { try pit.restore(saved) }
        saved = pit.save()
        saved.channels.removeLast()
        #expect(throws: RestoreError.self) { try pit.restore(saved) }
        saved = pit.save()
        saved.servicedTick = .max
        #expect(throws: RestoreError.self) { try pit.restore(saved) }
    }
}
