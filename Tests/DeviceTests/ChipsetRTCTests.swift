import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

@Suite struct ChipsetRTCTests {
    private let bench = ChipsetBench()
    /// The fake clock's epoch, 2026-01-01 00:00:00, is a Thursday.
    private func makeRTC(_ configuration: RTC.Configuration = .init(memoryBelow4GiB: 1 << 30)) -> RTC {
        RTC(bench.context, configuration)
    }
    private func get(_ rtc: RTC, _ index: UInt8) -> UInt8 {
        rtc.output(0x70, index)
        return rtc.input(0x71)
    }
    private func set(_ rtc: RTC, _ index: UInt8, _ value: UInt8) {
        rtc.output(0x70, index)
        rtc.output(0x71, value)
    }
    /// Century, year, month, day, weekday, hours, minutes, seconds.
    private func time(_ rtc: RTC) -> [UInt8] { [0x32, 9, 8, 7, 6, 4, 2, 0].map { get(rtc, $0) } }
    private func wait(_ seconds: UInt64) { bench.clock.advance(by: seconds * 1_000_000_000) }

    @Test(
        arguments: [
            (0, 1970, 1, 1, 0, 0, 0, 4), (951_782_400, 2000, 2, 29, 0, 0, 0, 2),
            (4_107_542_399, 2100, 2, 28, 23, 59, 59, 0),
            (4_107_542_400, 2100, 3, 1, 0, 0, 0, 1), (-1, 1969, 12, 31, 23, 59, 59, 3),
            (1_767_225_600, 2026, 1, 1, 0, 0, 0, 4),
        ] as [(Int64, Int, Int, Int, Int, Int, Int, Int)])
    func `civil time follows the calendar`(
        seconds: Int64, year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int, weekday: Int
    ) {
        let time = CivilTime(secondsSinceEpoch: seconds)
        #expect(
            time == CivilTime(year: year, month: month, day: day, hour: hour, minute: minute, second: second))
        #expect(time.secondsSinceEpoch == seconds)
        #expect(time.weekday == weekday)
    }

    @Test func `every day of eight centuries converts there and back`() {
        var previous = CivilTime(secondsSinceEpoch: -12_000_000_000)
        for day in 1..<292_200 as Range<Int64> {
            let time = CivilTime(secondsSinceEpoch: -12_000_000_000 + day * 86_400)
            #expect(time.secondsSinceEpoch == -12_000_000_000 + day * 86_400)
            let follows = time.day == previous.day + 1 || (time.day == 1 && previous.day >= 28)
            guard follows else {
                Issue.record("\(previous) then \(time)")
                return
            }
            previous = time
        }
    }

    @Test func `the time is the host's, in BCD and 24 hours`() {
        let rtc = makeRTC()
        wait(13 * 3600 + 45 * 60 + 59)
        #expect(time(rtc) == [0x20, 0x26, 0x01, 0x01, 0x05, 0x13, 0x45, 0x59])
        set(rtc, 0x0B, 0x06)
        #expect(time(rtc) == [20, 26, 1, 1, 5, 13, 45, 59])
    }

    @Test(
        arguments: [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)] as [(UInt64, UInt8)]
    )
    func `twelve-hour mode has no hour zero`(hour: UInt64, expected: UInt8) {
        let rtc = makeRTC()
        set(rtc, 0x0B, 0x00)
        wait(hour * 3600)
        #expect(get(rtc, 4) == expected)
    }

    @Test func `the guest sets the time as Linux does`() {
        let rtc = makeRTC()
        bench.clock.advance(by: 700_000_000)
        set(rtc, 0x0B, get(rtc, 0x0B) | 0x80)
        let a = get(rtc, 0x0A)
        set(rtc, 0x0A, a | 0x70)
        for (index, value) in [
            (9, 0x31), (8, 0x12), (7, 0x31), (6, 0x04), (4, 0x23), (2, 0x59), (0, 0x58), (0x32, 0x19),
        ]
            as [(UInt8, UInt8)]
        { set(rtc, index, value) }
        wait(5)
        #expect(get(rtc, 0) == 0x58, "frozen while it is set")
        set(rtc, 0x0B, get(rtc, 0x0B) & 0x7F)
        set(rtc, 0x0A, a)
        bench.clock.advance(by: 499_999_999)
        #expect(get(rtc, 0) == 0x58)
        bench.clock.advance(by: 1)
        #expect(get(rtc, 0) == 0x59, "half a second after the divider started")
        wait(1)
        #expect(time(rtc) == [0x19, 0x32, 0x01, 0x01, 0x05, 0x00, 0x00, 0x00])
    }

    @Test func `a store without SET changes the running clock`() {
        let rtc = makeRTC()
        wait(10)
        set(rtc, 4, 0x22)
        wait(1)
        #expect(time(rtc) == [0x20, 0x26, 0x01, 0x01, 0x05, 0x22, 0x00, 0x11])
    }

    @Test(arguments: [0xFF, 0x00, 0xAA] as [UInt8])
    func `impossible times carry over and do no harm`(value: UInt8) {
        let rtc = makeRTC()
        for mode in [0x80, 0x84, 0x86, 0x82] as [UInt8] {
            set(rtc, 0x0B, mode)
            for index in [0, 2, 4, 6, 7, 8, 9, 0x32] as [UInt8] { set(rtc, index, value) }
            set(rtc, 0x0B, mode & 0x7F)
            wait(1)
            #expect((1...0x31).contains(get(rtc, 7)))
            #expect((1...7).contains(get(rtc, 6)))
        }
    }

    @Test func `update in progress announces the next second`() {
        let rtc = makeRTC()
        bench.clock.advance(by: 999_000_000)
        #expect(get(rtc, 0x0A) == 0x26)
        bench.clock.advance(by: 900_000)
        #expect(get(rtc, 0x0A) == 0xA6)
        bench.clock.advance(by: 100_000)
        #expect(get(rtc, 0x0A) == 0x26)
        set(rtc, 0x0A, 0xFF)
        #expect(get(rtc, 0x0A) == 0x7F)
    }

    @Test func `update-ended interrupts come once a second until register C is read`() {
        let rtc = makeRTC()
        set(rtc, 0x0B, 0x12)
        bench.clock.advance(by: 1_000_000_000)
        #expect(bench.lines.isHigh(8))
        wait(3)
        #expect(bench.lines.rises(8) == 1)
        #expect(get(rtc, 0x0C) & 0x90 == 0x90)
        #expect(!bench.lines.isHigh(8))
        wait(1)
        #expect(bench.lines.rises(8) == 2)
    }

    @Test(
        arguments: [(3, 122_071), (6, 976_563), (15, 500_000_001), (1, 3_906_251), (2, 7_812_501)]
            as [(UInt8, UInt64)])
    func `periodic interrupts follow the rate`(rate: UInt8, nanoseconds: UInt64) {
        let rtc = makeRTC()
        set(rtc, 0x0A, 0x20 | rate)
        set(rtc, 0x0B, 0x42)
        for _ in 0..<10 {
            bench.clock.advance(by: nanoseconds)
            #expect(bench.lines.isHigh(8))
            #expect(get(rtc, 0x0C) & 0xC0 == 0xC0)
        }
        #expect(bench.lines.rises(8) == 10)
        set(rtc, 0x0A, 0x20)
        bench.clock.advance(by: nanoseconds)
        #expect(!bench.lines.isHigh(8))
    }

    @Test(
        arguments: [(0x00, 0x01, 0x00, 60), (0x30, 0xFF, 0xC0, 30), (0x05, 0x00, 0x02, 7205)]
            as [(UInt8, UInt8, UInt8, UInt64)])
    func `an alarm comes at its time`(second: UInt8, minute: UInt8, hour: UInt8, after: UInt64) {
        let rtc = makeRTC()
        set(rtc, 1, second)
        set(rtc, 3, minute)
        set(rtc, 5, hour)
        set(rtc, 0x0B, 0x22)
        wait(after - 1)
        #expect(!bench.lines.isHigh(8))
        wait(1)
        #expect(bench.lines.isHigh(8))
        #expect(get(rtc, 0x0C) & 0xA0 == 0xA0)
    }

    @Test func `flags are set without an interrupt, and without a timer`() {
        let rtc = makeRTC()
        _ = get(rtc, 0x0C)
        bench.clock.jump(by: 200_000_000_000_000)
        #expect(get(rtc, 0x0C) & 0xF0 == 0x70, "update, periodic and the alarm at midnight")
        #expect(bench.lines.takeChanges().isEmpty)
        #expect(bench.clock.firedCount == 0)
    }

    @Test func `CMOS tells firmware the memory`() {
        let rtc = makeRTC(.init(memoryBelow4GiB: 3 << 30, memoryAbove4GiB: 5 << 30, processorCount: 4))
        func word(_ index: UInt8) -> Int { Int(get(rtc, index)) | Int(get(rtc, index + 1)) << 8 }
        #expect(word(0x15) == 640)
        #expect(word(0x17) == 0xFFFF)
        #expect(word(0x34) * 65_536 == (3 << 30) - (16 << 20))
        #expect((word(0x5B) | Int(get(rtc, 0x5D)) << 16) * 65_536 == 5 << 30)
        #expect(get(rtc, 0x5F) == 3)
        #expect(get(rtc, 0x0D) == 0x80)
        let sum = (0x10...0x2D as ClosedRange<UInt8>).reduce(0) { $0 + Int(get(rtc, $1)) }
        #expect(Int(get(rtc, 0x2E)) << 8 | Int(get(rtc, 0x2F)) == sum)
    }

    @Test func `small memory does not wrap below zero`() {
        let rtc = makeRTC(.init(memoryBelow4GiB: 640 << 10))
        #expect([0x17, 0x18, 0x30, 0x31, 0x34, 0x35].allSatisfy { get(rtc, $0) == 0 })
    }

    @Test func `the NMI bit of the index is ignored and banks are apart`() {
        let rtc = makeRTC()
        set(rtc, 0xC0, 0x12)
        #expect(get(rtc, 0x40) == 0x12)
        rtc.output(0x72, 0xC0)
        rtc.output(0x73, 0x34)
        #expect(rtc.input(0x73) == 0x34)
        #expect(get(rtc, 0x40) == 0x12)
        set(rtc, 0xFF, 0x56)
        #expect(get(rtc, 0x7F) == 0x56)
    }

    @Test func `a reset disables interrupts and keeps the time`() {
        let rtc = makeRTC()
        set(rtc, 4, 0x07)
        set(rtc, 0x0B, 0x12)
        wait(1)
        rtc.reset()
        #expect(!bench.lines.isHigh(8))
        #expect(get(rtc, 0x0B) == 0x02)
        #expect(get(rtc, 4) == 0x07)
        #expect(bench.clock.armedCount == 0)
    }

    @Test func `saved fields out of range are refused`() {
        let rtc = makeRTC()
        for change: (inout RTC.Saved) -> Void in [
            { $0.cmos.removeLast() }, { $0.index = 128 }, { $0.offsetSeconds = .max },
            { $0.offsetSeconds = .min },
            { $0.phase = 1_000_000_000 }, { $0.weekdayOffset = 7 }, { $0.flags = 1 }, { $0.frozen = true },
            { $0.servicedPeriod = .max }, { $0.servicedSecond = .min },
        ] {
            var saved = rtc.save()
            change(&saved)
            #expect(throws: RestoreError.self) { try rtc.restore(saved) }
        }
    }
}
