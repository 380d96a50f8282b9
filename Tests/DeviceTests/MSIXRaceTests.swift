import DeviceModel
import Foundation
import Synchronization
import Testing

@testable import PCIBus

/// A vector that one thread masks and unmasks while another one raises it.
@Suite struct MSIXRaceTests {
    /// Counts messages.
    private final class Counter: MSITarget {
        let count = Atomic(0)
        func deliver(_ message: MSIMessage) { count.add(1, ordering: .acquiringAndReleasing) }
    }

    /// The number of the round that the thread that masks may begin, and of the last one it has ended.
    private final class Rounds: Sendable {
        static let last = 20_000
        let begun = Atomic(0), ended = Atomic(0)
    }

    /// By the vector's own bit, or by that of the whole function.
    private static func mask(_ interrupts: PCIInterrupts, _ isMasked: Bool, byFunction: Bool) {
        if byFunction {
            interrupts.configure(msixEnabled: true, functionMasked: isMasked, pinDisabled: false)
        } else {
            interrupts.writeTable(offset: 12, width: .dword, value: isMasked ? 1 : 0)
        }
    }

    @Test(arguments: [false, true])
    func `no message is lost between a mask and its end`(byFunction: Bool) {
        let counter = Counter(), rounds = Rounds(), over = DispatchSemaphore(value: 0)
        let interrupts = PCIInterrupts(vectors: 1, target: counter)
        interrupts.writeTable(offset: 12, width: .dword, value: 0)
        interrupts.configure(msixEnabled: true, functionMasked: false, pinDisabled: false)
        Thread.detachNewThread {
            for round in 1...Rounds.last {
                while rounds.begun.load(ordering: .acquiring) < round { sched_yield() }
                Self.mask(interrupts, true, byFunction: byFunction)
                Self.mask(interrupts, false, byFunction: byFunction)
                rounds.ended.store(round, ordering: .releasing)
            }
            over.signal()
        }
        // In each round a signal comes before, while or after the vector is masked: ever later.
        for round in 1...Rounds.last {
            rounds.begun.store(round, ordering: .releasing)
            for _ in 0..<round % 256 { _ = rounds.ended.load(ordering: .acquiring) }
            interrupts.signal(vector: 0)
            while rounds.ended.load(ordering: .acquiring) < round { sched_yield() }
            // Whenever it came, it has been sent by now, and once.
            let sent = counter.count.load(ordering: .acquiring)
            if sent != round { Issue.record("\(sent) messages after \(round) signals") }
        }
        over.wait()
        #expect(counter.count.load(ordering: .acquiring) == Rounds.last)
        #expect(interrupts.readPending(offset: 0, width: .qword) == 0)
    }
}
