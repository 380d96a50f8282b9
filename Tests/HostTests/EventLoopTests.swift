@testable import LinuxHost
import Synchronization
import Testing

@Suite struct EventLoopTests {
    @Test func `posted work runs in order on the loop's thread`() throws {
        let loop = try EventLoop(name: "test-loop"), box = Box(), done = Semaphore()
        try loop.start()
        for item in 0..<1000 { #expect(loop.post { box.append(item) }) }
        loop.post { done.signal() }
        done.wait()
        loop.stop()
        #expect(box.items == Array(0..<1000))
        #expect(!loop.post {})
    }

    @Test func `a handler sees data, can pause its watch and can remove it`() throws {
        let loop = try EventLoop(name: "test-loop"), box = Box(), seen = Semaphore()
        try loop.start()
        let (reader, writer) = try Descriptor.pipe()
        try reader.setNonBlocking(true)
        let watch = try loop.watch(reader, .read) { readiness in
            guard readiness.contains(.readable) else { return }
            var byte: [UInt8] = [0]
            if (try? reader.read(into: &byte)) == .moved(1) { box.append(Int(byte[0])) }
            seen.signal()
        }
        try writer.writeAll([1])
        seen.wait()
        loop.change(watch, to: [])
        try writer.writeAll([2])
        // A round trip through the loop: the paused watch had its chance to misbehave.
        let passed = Semaphore()
        loop.post { passed.signal() }
        passed.wait()
        #expect(box.items == [1])
        loop.change(watch, to: .read)
        seen.wait()
        #expect(box.items == [1, 2])
        loop.remove(watch)
        try writer.writeAll([3])
        loop.post { passed.signal() }
        passed.wait()
        #expect(box.items == [1, 2])
        loop.stop()
    }

    @Test func `the number of posted closures is bounded`() throws {
        let loop = try EventLoop(name: "not-running")
        var accepted = 0
        while loop.post({}) { accepted += 1 }
        #expect(accepted == EventLoop.postLimit)
    }

    @Test func `a hang-up is reported even to a paused watch`() throws {
        let loop = try EventLoop(name: "test-loop"), hungUp = Semaphore(), box = Box()
        try loop.start()
        var pair: (reader: Descriptor, writer: Descriptor)? = try Descriptor.pipe()
        let reader = try #require(pair).reader
        let token = Mutex<EventLoop.Watch?>(nil)
        let holder = Holder(token: token)
        let watch = try loop.watch(reader, []) { readiness in
            if readiness.contains(.hungUp) { box.append(1) }
            if let watch = holder.token.withLock({ $0 }) { loop.remove(watch) }
            hungUp.signal()
        }
        holder.token.withLock { $0 = watch }
        pair = nil
        hungUp.wait()
        loop.stop()
        #expect(box.items.first == 1)
    }
}

final class Holder: Sendable {
    let token: Mutex<EventLoop.Watch?>
    init(token: consuming Mutex<EventLoop.Watch?>) { self.token = token }
}

@Suite struct TimerQueueTests {
    @Test func `timers fire in the order of their deadlines`() throws {
        let queue = try TimerQueue(), box = Box(), done = Semaphore()
        queue.pause()
        let base = queue.now
        var timers: [TimerQueue.Timer] = []
        for place in (0..<100).map({ ($0 * 37) % 100 }) {
            let timer = queue.makeTimer {
                box.append(place)
                if place == 99 { done.signal() }
            }
            timer.arm(at: base + UInt64(place) * 1000)
            timers.append(timer)
        }
        queue.resume()
        done.wait()
        #expect(box.items == Array(0..<100))
        queue.stop()
    }

    @Test func `a paused clock stands still, fires nothing, and goes on from where it stopped`() throws {
        let queue = try TimerQueue(), box = Box(), fired = Semaphore()
        let timer = queue.makeTimer {
            box.append(1)
            fired.signal()
        }
        queue.pause()
        let time = queue.now
        timer.arm(at: 0)
        #expect(!fired.wait(until: HostTime.monotonic + 2_000_000))
        #expect(queue.now == time)
        queue.setNow(5_000_000_000)
        #expect(queue.now == 5_000_000_000)
        queue.resume()
        fired.wait()
        #expect(queue.now >= 5_000_000_000)
        #expect(box.items == [1])
        queue.stop()
    }

    /// What a thread has seen of a clock.
    private final class Sightings: Sendable {
        let latest = Atomic<UInt64>(0), count = Atomic(0), isEnding = Atomic(false)

        func read(_ queue: TimerQueue) {
            while !isEnding.load(ordering: .acquiring) {
                latest.max(queue.now, ordering: .acquiringAndReleasing)
                count.wrappingAdd(1, ordering: .acquiringAndReleasing)
            }
        }
    }

    @Test func `nobody has seen a time after the one at which a clock stands`() throws {
        let queue = try TimerQueue(), seen = Sightings()
        let reader = try HostThread(name: "reader") { seen.read(queue) }
        var late = 0
        for _ in 0..<20_000 {
            queue.pause()
            let time = queue.now, count = seen.count.load(ordering: .acquiring)
            // What was read before is told by then.
            while seen.count.load(ordering: .acquiring) < count + 2 {}
            if seen.latest.load(ordering: .acquiring) > time { late += 1 }
            queue.resume()
        }
        seen.isEnding.store(true, ordering: .releasing)
        reader.join()
        queue.stop()
        #expect(late == 0)
    }

    @Test func `a disarmed timer does not fire and re-arming replaces the deadline`() throws {
        let queue = try TimerQueue(), box = Box(), fired = Semaphore()
        let never = queue.makeTimer { box.append(1) }
        let moved = queue.makeTimer {
            box.append(2)
            fired.signal()
        }
        queue.pause()
        never.arm(at: 10)
        moved.arm(at: .max)
        never.disarm()
        never.disarm()
        moved.arm(at: 20)
        queue.resume()
        fired.wait()
        queue.pause()
        #expect(box.items == [2])
        queue.stop()
        moved.arm(at: 0)
        moved.disarm()
    }

    @Test func `a timer that arms itself for the past does not starve the others or a pause`() throws {
        let queue = try TimerQueue(), box = Box(), fired = Semaphore()
        let hog = Mutex<TimerQueue.Timer?>(nil)
        let holder = TimerHolder(timer: hog)
        let timer = queue.makeTimer {
            box.value.wrappingAdd(1, ordering: .relaxed)
            holder.timer.withLock { $0?.arm(at: 0) }
        }
        holder.timer.withLock { $0 = timer }
        let other = queue.makeTimer { fired.signal() }
        timer.arm(at: 0)
        other.arm(at: queue.now + 1000)
        fired.wait()
        queue.pause()
        let count = box.value.load(ordering: .relaxed)
        #expect(count > 0)
        #expect(!fired.wait(until: HostTime.monotonic + 1_000_000))
        #expect(box.value.load(ordering: .relaxed) == count)
        queue.stop()
    }

    @Test func `a million re-arms leave one entry and wake at the right one`() throws {
        let queue = try TimerQueue(), fired = Semaphore()
        let timer = queue.makeTimer { fired.signal() }
        for step in 0..<1_000_000 as Range<UInt64> { timer.arm(at: 1 << 60 &- step) }
        #expect(queue.armedCount == 1)
        timer.arm(at: 1)
        fired.wait()
        #expect(queue.armedCount == 0)
        queue.stop()
    }
}

final class TimerHolder: Sendable {
    let timer: Mutex<TimerQueue.Timer?>
    init(timer: consuming Mutex<TimerQueue.Timer?>) { self.timer = timer }
}
