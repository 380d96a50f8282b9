import LinuxHost
import Synchronization
import Testing

@Suite struct ThreadTests {
    @Test func `a thread runs its body before join returns`() throws {
        let box = Box()
        let thread = try HostThread(name: "a-name-longer-than-the-kernel-takes") {
            box.value.store(1, ordering: .releasing)
            box.thread.store(HostThread.currentID, ordering: .releasing)
        }
        thread.join()
        thread.join()
        #expect(box.value.load(ordering: .acquiring) == 1)
        #expect(box.thread.load(ordering: .acquiring) != HostThread.currentID)
    }

    @Test func `a wake-up before the sleep is kept once`() {
        let parker = Parker()
        parker.unpark()
        parker.unpark()
        #expect(parker.park(until: 0))
        #expect(!parker.park(until: 0))
        #expect(!parker.park(until: HostTime.monotonic + 1_000_000))
    }

    @Test func `no wake-up is lost in fifty thousand hand-overs`() throws {
        let here = Parker(), there = Parker(), box = Box()
        let rounds = 50_000
        let thread = try HostThread(name: "echo") {
            for _ in 0..<rounds {
                // A deadline in the past at times: the wake-up then races with the time-out.
                while !there.park(until: box.value.load(ordering: .relaxed) % 3 == 0 ? 1 : nil) {}
                box.value.wrappingAdd(1, ordering: .relaxed)
                here.unpark()
            }
        }
        for _ in 0..<rounds {
            there.unpark()
            here.park()
        }
        thread.join()
        #expect(box.value.load(ordering: .relaxed) == rounds)
    }

    @Test func `a semaphore lets as many through as it was signalled`() throws {
        let semaphore = Semaphore(permits: 1), box = Box()
        let threads = try (0..<4).map { _ in
            try HostThread(name: "taker") {
                for _ in 0..<1000 {
                    semaphore.wait()
                    box.value.wrappingAdd(1, ordering: .relaxed)
                }
            }
        }
        for _ in 0..<3999 { semaphore.signal() }
        for thread in threads { thread.join() }
        #expect(box.value.load(ordering: .relaxed) == 4000)
        #expect(!semaphore.wait(until: 1))
    }
}

/// Counters that test threads share.
final class Box: Sendable {
    let value = Atomic(0)
    let thread = Atomic<Int32>(0)
    let log = Mutex<[Int]>([])
    func append(_ item: Int) { log.withLock { $0.append(item) } }
    var items: [Int] { log.withLock { $0 } }
}
