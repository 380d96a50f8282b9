import Glibc
import LinuxHost
import MachineSpec
import Synchronization
import Testing

/// Whatever a guest does at the buses, the machine goes on: no trap, no hang, no growth, and after a reset it
/// boots. `OSPITE_FUZZ_ROUNDS` makes the walks longer (a round is 20 steps), `OSPITE_FUZZ_SEED` others.
@Suite(.serialized) struct BusFuzzTests {
    private static let stepsPerRound = 20
    /// Bytes that the process may grow by from the first tenth of a walk to its end; other tests run
    /// meanwhile.
    private static let growthLimit = 64 << 20

    private func setting(_ name: String) -> Int? { getenv(name).flatMap { Int(String(cString: $0)) } }
    private func rounds(_ usual: Int) -> Int { max(setting("OSPITE_FUZZ_ROUNDS") ?? 0, usual) }
    private func seed(_ usual: UInt64) -> UInt64 {
        usual &+ UInt64(bitPattern: Int64(setting("OSPITE_FUZZ_SEED") ?? 0))
    }

    @Test func `a guest that does anything at ports, memory, PCI and APICs cannot stop the machine`() throws {
        try walk(.buses, rounds: rounds(300_000), seed: seed(0xB05))
    }

    @Test(arguments: VideoAdapter.allCases)
    func `a guest that does anything to a machine with firmware cannot stop it`(
        video: VideoAdapter
    ) throws {
        try walk(.buses, rounds: rounds(75_000), seed: seed(0xB105), hasFirmware: true, video: video)
    }

    @Test func `a guest that builds impossible queues cannot stop the machine`() throws {
        try walk(.queues, rounds: rounds(100_000), seed: seed(0x9E0E))
    }

    @Test(arguments: [BusFuzzer.Aim.buses, .queues])
    func `a guest that does anything to the micro machine cannot stop it`(aim: BusFuzzer.Aim) throws {
        try walk(aim, rounds: rounds(40_000), seed: seed(0x3C0), on: .micro)
    }

    /// One walk on one thread, with resets and saved states on the way.
    private func walk(
        _ aim: BusFuzzer.Aim, rounds: Int, seed: UInt64, on type: MachineType = .pc,
        hasFirmware: Bool = false, video: VideoAdapter = .virtio
    ) throws {
        let target = try FuzzedBoard(type, hasFirmware: hasFirmware, video: video)
        defer { target.close() }
        #expect(try target.boots())
        var fuzzer = BusFuzzer(target, aim: aim, seed: seed)
        let watch = try FuzzWatch("\(type), \(aim) with seed \(seed)")
        var size = 0, losers: Set<String> = []
        for round in 0..<rounds {
            for _ in 0..<Self.stepsPerRound {
                watch.time {
                    fuzzer.step()
                } at: {
                    fuzzer.place
                }
            }
            if round == rounds / 10 { size = try residentSize(target) }
            target.act(at: round)
            if round % 500 == 499 {
                #expect(target.overfullQueues.isEmpty)
                losers.formUnion(target.devicesThatLoseState())
            }
            if round % 5000 == 4999 { #expect(try target.boots()) }
        }
        #expect(fuzzer.answeredKicks * 20 > fuzzer.kicks && target.faults > 0, "the walk does not arrive")
        let looks = target.looksAtDisplay.load(ordering: .relaxed)
        #expect(looks > 0 || aim == .buses, "no display ever has a picture")
        #expect(losers.isEmpty, "lost their state when it was saved and restored: \(losers.sorted())")
        let growth = try residentSize(target) - size
        judge(growth)
        try expectLife(of: target)
        watch.end()
        print(
            "\(watch.summary), \(growth >> 10) KiB more, \(looks) looks at the display, "
                + "\(fuzzer.answeredKicks) of \(fuzzer.kicks) kicks answered, \(target.faults) faults")
    }

    /// Two processors at once find what one after the other does not: orders of locks.
    @Test func `two guest processors at odds cannot stop the machine`() throws {
        let target = try FuzzedBoard()
        defer { target.close() }
        #expect(try target.boots())
        let count = rounds(80_000), seed = seed(0x2C9)
        let watch = try FuzzWatch("two processors with seed \(seed)")
        let before = try residentSize(target)
        let threads = try (0..<2 as Range<UInt64>).map { index in
            try HostThread(name: "vcpu\(index)") {
                var fuzzer = BusFuzzer(target, aim: index == 0 ? .queues : .buses, seed: seed &+ index)
                for _ in 0..<(count * Self.stepsPerRound) {
                    watch.time {
                        fuzzer.step()
                    } at: {
                        fuzzer.place
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(target.overfullQueues.isEmpty)
        let growth = try residentSize(target) - before
        judge(growth)
        try expectLife(of: target)
        watch.end()
        print("\(watch.summary), \(growth >> 10) KiB more")
    }

    private func expectLife(of target: FuzzedBoard) throws {
        #expect(try target.boots())
        let sectors = try #require(try target.firstSectors(), "the disk does not answer")
        #expect(sectors.guest == sectors.host)
    }

    /// Growth says something about the board only when no other test shares the process: Scripts/run-tests
    /// runs this suite in a process of its own and says so.
    private func judge(_ growth: Int) {
        if getenv("OSPITE_ALONE") != nil {
            #expect(growth < Self.growthLimit, "the process grew by \(growth) bytes")
        } else {
            print("growth is not judged: other tests share this process (Scripts/run-tests runs them apart)")
        }
    }

    /// Bytes of the process that are in memory, all of the guest's among them.
    private func residentSize(_ target: FuzzedBoard) throws -> Int {
        target.touchMemory()
        var text = [UInt8](repeating: 0, count: 128)
        guard
            case .moved(let count) = try Descriptor.open("/proc/self/statm", flags: O_RDONLY).read(
                into: &text)
        else { return 0 }
        let fields = String(decoding: text.prefix(count), as: UTF8.self).split(separator: " ")
        return try #require(Int(fields[1])) * 4096
    }
}

/// Sees to it that steps end, and measures the longest. Any thread.
final class FuzzWatch: Sendable {
    private static let patience: UInt64 = 120_000_000_000
    private let name: String
    private let steps = Atomic<Int>(0)
    private let longest = Mutex(Step(duration: 0, place: ""))
    private struct Step: Sendable {
        var duration: UInt64
        var place: String
    }
    private let started = HostTime.monotonic
    private let parker = Parker()
    private let thread = Mutex<HostThread?>(nil)
    private let isEnding = Atomic(false)

    init(_ name: String) throws {
        self.name = name
        let guardian = try HostThread(name: "fuzz-watch") { self.guardSteps() }
        thread.withLock { $0 = guardian }
    }

    /// `place` says where the step was, afterwards.
    func time(_ body: () -> Void, at place: () -> String) {
        let from = HostTime.monotonic
        body()
        let duration = HostTime.monotonic &- from
        // Most steps take a few microseconds.
        if duration > 1_000_000 {
            longest.withLock { if duration > $0.duration { $0 = Step(duration: duration, place: place()) } }
        }
        steps.wrappingAdd(1, ordering: .relaxed)
    }

    /// A step that takes two minutes hangs: the process ends with the number of the step.
    private func guardSteps() {
        var seen = -1
        while !isEnding.load(ordering: .acquiring) {
            let now = steps.load(ordering: .relaxed)
            if now == seen {
                print("\(name) hangs in step \(now)")
                abort()
            }
            seen = now
            parker.park(until: HostTime.monotonic &+ Self.patience)
        }
    }

    func end() {
        isEnding.store(true, ordering: .releasing)
        parker.unpark()
        thread.withLock { $0 }?.join()
    }

    var summary: String {
        let seconds = Double(HostTime.monotonic &- started) / 1e9
        return "bus fuzz, \(name): \(steps.load(ordering: .relaxed)) steps in \(Int(seconds)) s, "
            + longest.withLock { "the longest \($0.duration / 1000) us (\($0.place))" }
    }
}
