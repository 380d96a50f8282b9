import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

/// What holds for every device of the catalog.
@Suite struct ChipsetSuites {
    /// Drives `subjects` with one sequence of accesses and time, comparing what each of them shows.
    private func drive(
        _ pairs: [(subject: any ChipsetSubject, bench: ChipsetBench)], _ random: inout ChipsetRandom,
        steps: Int
    ) -> Int? {
        for step in 0..<steps {
            let start = random
            var observations: [[String]] = []
            var end = random
            for pair in pairs {
                var random = start
                var seen = pair.subject.poke(&random).map { "\($0)" }
                if random.chance(2) {
                    let time = random.step()
                    if random.chance(8) {
                        pair.bench.clock.jump(by: time)
                    } else {
                        pair.bench.clock.advance(by: time)
                    }
                }
                seen += pair.bench.takeOutputs()
                observations.append(seen)
                end = random
            }
            random = end
            if observations.contains(where: { $0 != observations[0] }) {
                Issue.record("step \(step): \(observations)")
                return step
            }
        }
        return nil
    }

    @Test(arguments: chipsetCatalog)
    func `a restored twin behaves like the original`(entry: ChipsetEntry) throws {
        for seed in 1...24 as ClosedRange<UInt64> {
            var random = ChipsetRandom(seed: seed)
            let bench = ChipsetBench(now: 123_456_789)
            let original = entry.make(bench)
            #expect(drive([(original, bench)], &random, steps: 400) == nil)
            original.pause()
            let saved = try original.savedState()
            let twinBench = ChipsetBench(now: 123_456_789)
            twinBench.clock.jump(by: bench.clock.now - 123_456_789)
            let twin = entry.make(twinBench)
            try twin.restore(saved)
            _ = bench.takeOutputs()
            _ = twinBench.takeOutputs()
            if seed % 2 == 0 {
                #expect(try twin.savedState() == saved, "seed \(seed)")
            } else {
                // No access wakes the twin: its timers must run by themselves.
                for clock in [bench.clock, twinBench.clock] { clock.advance(by: 40_000_000) }
                #expect(bench.takeOutputs() == twinBench.takeOutputs(), "seed \(seed)")
            }
            let difference = drive([(original, bench), (twin, twinBench)], &random, steps: 400)
            #expect(difference == nil, "seed \(seed)")
            #expect(try twin.savedState() == original.savedState(), "seed \(seed)")
        }
    }

    @Test(arguments: chipsetCatalog)
    func `random accesses neither trap nor flood the host with timers`(entry: ChipsetEntry) throws {
        let steps = 3_000
        for seed in 100...105 as ClosedRange<UInt64> {
            var random = ChipsetRandom(seed: seed)
            let bench = ChipsetBench()
            let subject = entry.make(bench)
            #expect(drive([(subject, bench)], &random, steps: steps) == nil)
            // One firing in 10 us and timer, one per access, and a second's worth of slack for none.
            let allowed = entry.timerCount * (Int(bench.clock.now / 10_000) + steps + 10)
            #expect(bench.clock.firedCount <= allowed, "seed \(seed)")
            #expect(bench.clock.armedCount <= entry.timerCount)
            subject.reset()
            _ = try subject.savedState()
        }
    }

    @Test(arguments: chipsetCatalog)
    func `after a reset every device has the state of a new one`(entry: ChipsetEntry) throws {
        // The clock keeps time on its battery, and time-dependent fields move: compare at one time.
        guard entry.kind != RTC.kind else { return }
        let bench = ChipsetBench()
        let subject = entry.make(bench)
        let fresh = try subject.savedState()
        var random = ChipsetRandom(seed: 7)
        for _ in 0..<500 { _ = subject.poke(&random) }
        subject.reset()
        let again = try subject.savedState()
        let differs = again != fresh
        // Wires, the serial divisor and the scratch register survive a reset by design.
        #expect(!differs || [PIC8259Pair.kind, APICComplex.kind, UART16550.kind].contains(entry.kind))
    }

    @Test func `every kind is named once`() {
        #expect(Set(chipsetCatalog.map(\.kind)).count == chipsetCatalog.count)
    }
}
