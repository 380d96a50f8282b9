internal import CLinux
internal import Glibc
internal import Synchronization

/// Puts one thread to sleep until another one wakes it. A wake-up that comes first is kept, once: no order of
/// `park` and `unpark` loses it.
///
/// Confinement: one thread parks; any thread unparks.
@safe public final class Parker: Sendable {
    private static let empty: UInt32 = 0
    private static let notified: UInt32 = 1
    private static let parked: UInt32 = 2
    /// On the heap, because the kernel compares and queues by its address.
    private nonisolated(unsafe) let word: UnsafeMutablePointer<Atomic<UInt32>>

    public init() {
        // SAFETY: one element, initialised here and freed in deinit.
        unsafe word = .allocate(capacity: 1)
        unsafe word.initialize(to: Atomic(Self.empty))
    }

    deinit {
        // SAFETY: allocated in init; no thread can be parked, because it would hold a reference.
        unsafe word.deinitialize(count: 1)
        unsafe word.deallocate()
    }

    /// Sleeps until `unpark`, or until `deadline` (`HostTime.monotonic` nanoseconds). Returns whether it was
    /// unparked; a wake-up that waited is used up.
    @discardableResult
    public func park(until deadline: UInt64? = nil) -> Bool {
        // SAFETY: `word` is valid while self lives.
        if unsafe word.pointee.compareExchange(
            expected: Self.empty, desired: Self.parked, ordering: .acquiringAndReleasing
        ).original == Self.notified {
            unsafe word.pointee.store(Self.empty, ordering: .releasing)
            return true
        }
        while true {
            let result = unsafe ospite_futex_wait(word, Self.parked, deadline ?? .max)
            if unsafe word.pointee.load(ordering: .acquiring) == Self.notified || result == ETIMEDOUT {
                // A wake-up may arrive together with the deadline: the exchange decides.
                return unsafe word.pointee.exchange(Self.empty, ordering: .acquiringAndReleasing)
                    == Self.notified
            }
        }
    }

    /// Wakes the parked thread, or lets its next `park` return at once.
    public func unpark() {
        // SAFETY: `word` is valid while self lives.
        if unsafe word.pointee.exchange(Self.notified, ordering: .acquiringAndReleasing) == Self.parked {
            unsafe ospite_futex_wake(word, 1)
        }
    }
}

/// Counts permits; threads wait for one. Any thread.
@safe public final class Semaphore: Sendable {
    private nonisolated(unsafe) let permits: UnsafeMutablePointer<Atomic<UInt32>>

    public init(permits count: UInt32 = 0) {
        // SAFETY: one element, initialised here and freed in deinit.
        unsafe permits = .allocate(capacity: 1)
        unsafe permits.initialize(to: Atomic(count))
    }

    deinit {
        // SAFETY: allocated in init; a waiting thread holds a reference.
        unsafe permits.deinitialize(count: 1)
        unsafe permits.deallocate()
    }

    /// Adds a permit.
    public func signal() {
        // SAFETY: valid while self lives.
        unsafe _ = permits.pointee.wrappingAdd(1, ordering: .releasing)
        unsafe ospite_futex_wake(permits, 1)
    }

    /// Takes a permit, waiting until there is one; false when `deadline` (`HostTime.monotonic`) passed first.
    @discardableResult
    public func wait(until deadline: UInt64? = nil) -> Bool {
        while true {
            // SAFETY: valid while self lives.
            var seen = unsafe permits.pointee.load(ordering: .acquiring)
            while seen > 0 {
                let (done, original) = unsafe permits.pointee.compareExchange(
                    expected: seen, desired: seen - 1, ordering: .acquiringAndReleasing)
                if done { return true }
                seen = original
            }
            if unsafe ospite_futex_wait(permits, 0, deadline ?? .max) == ETIMEDOUT { return false }
        }
    }
}
