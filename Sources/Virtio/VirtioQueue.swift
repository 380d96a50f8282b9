internal import GuestMemory
internal import Synchronization

/// Registers of one queue in the common configuration (VIRTIO 1.3 §4.1.4.3).
struct QueueRegisters: Codable, Sendable, Equatable {
    var size: UInt16
    var vector = VirtioSignals.noVector
    var isEnabled = false
    var descriptors: UInt64 = 0
    var available: UInt64 = 0
    var used: UInt64 = 0
}

/// One virtqueue of a device: its registers, and the ring while it is enabled. What the driver does wrong
/// ends in DEVICE_NEEDS_RESET and an empty queue; a device sees well-formed chains only.
///
/// A chain remembers the life of the queue that it came from, so that a completion that arrives after a
/// reset changes nothing.
///
/// Confinement: any thread. Its lock is a leaf; interrupts are sent after it is released.
public final class VirtioQueue: Sendable {
    struct Saved: Codable, Sendable, Equatable {
        var registers: QueueRegisters
        var nextAvailable: UInt16
        var nextUsed: UInt16
    }

    private struct State {
        var registers: QueueRegisters
        var ring: SplitQueue?
        /// Set by a fault, by pause and while a reset waits: no chain is taken.
        var isBroken = false
        var isStopped = false
        /// Counts the enables and resets.
        var epoch: UInt64 = 0
        /// A `service` call is at work, and will publish at its end.
        var isBatching = false
    }

    public let index: Int
    /// The largest size that the driver may choose, a power of two.
    public let maximumSize: UInt16
    private let memory: GuestMemory
    private let signals: VirtioSignals
    private let retry: QueueRetry
    private let state: Mutex<State>
    /// Requests to look at the queue; the thread that moves it from zero does the work of all.
    private let kicks = Atomic<UInt64>(0)

    init(index: Int, maximumSize: UInt16, memory: GuestMemory, signals: VirtioSignals, retry: QueueRetry) {
        precondition(maximumSize.nonzeroBitCount == 1, "a queue size is a power of two")
        self.index = index
        self.maximumSize = maximumSize
        self.memory = memory
        self.signals = signals
        self.retry = retry
        state = Mutex(State(registers: QueueRegisters(size: maximumSize)))
    }

    // MARK: For devices

    /// Chains taken and not completed.
    public var inFlight: Int { state.withLock { $0.ring?.inFlight ?? 0 } }
    public var isEnabled: Bool { state.withLock { $0.ring != nil } }

    /// Takes the next chain; nil when there is none, when the queue is full of requests in flight, or when it
    /// is stopped, disabled or broken.
    public func pop() -> DescriptorChain? {
        guard signals.isRunning else { return nil }
        return attempt { state throws(QueueFault) in
            guard !state.isStopped else { return nil }
            var chain = try state.ring?.pop()
            chain?.epoch = state.epoch
            return chain
        } ?? nil
    }

    /// Returns the chain taken last, which the device held, to the ring; it will be popped again.
    public func unpop(_ chain: DescriptorChain) {
        state.withLock { state in
            if chain.epoch == state.epoch { state.ring?.unpop() }
        }
    }

    /// Gives a chain back with `written` bytes stored in its writable part, and interrupts the driver if it
    /// wants that. Returns whether the device must look at the queue again, because it had stopped taking
    /// chains at the limit of requests in flight.
    @discardableResult
    public func complete(_ chain: DescriptorChain, written: Int) -> Bool {
        var vector: UInt16?
        attempt { state throws(QueueFault) -> Void in
            guard chain.epoch == state.epoch else { return }
            try state.ring?.push(head: chain.head, written: UInt32(clamping: written))
            if !state.isBatching, try state.ring?.publish() == true { vector = state.registers.vector }
        }
        let wasFull = retire(chain)
        if let vector { signals.interruptForQueue(vector: vector) }
        return wasFull
    }

    /// Also on a broken queue: a reset waits for the last chain in flight. Returns whether the queue was full
    /// until now.
    @discardableResult
    private func retire(_ chain: DescriptorChain) -> Bool {
        state.withLock { state in
            guard chain.epoch == state.epoch, let wasFull = state.ring?.isFull else { return false }
            state.ring?.retire()
            return wasFull
        }
    }

    /// The driver broke the protocol of the device beyond an answer to `chain`, which is given up.
    public func fail(_ chain: DescriptorChain, _ fault: QueueFault) {
        attempt { _ throws(QueueFault) -> Void in throw fault }
        retire(chain)
    }

    /// Hands every available chain to `handle`, with the driver's notifications suppressed and the used ring
    /// published once at the end. If another thread is already at it, that thread looks again instead, so
    /// `handle` never runs twice at a time for one queue. No lock is held while it runs. It ends early when
    /// `condition` does not hold; the device calls again when it does. A queue that does not run empty is
    /// left after four times its size, and `notify` comes again from the timer thread.
    public func service(while condition: () -> Bool = { true }, _ handle: (DescriptorChain) -> Void) {
        guard kicks.wrappingAdd(1, ordering: .acquiringAndReleasing).oldValue == 0 else { return }
        var budget = 4 * Int(maximumSize)
        while true {
            let seen = kicks.load(ordering: .acquiring)
            repeat {
                begin()
                while budget > 0, condition(), let chain = pop() {
                    handle(chain)
                    budget -= 1
                }
            } while finish() && condition() && budget > 0
            if budget == 0 {
                kicks.store(0, ordering: .releasing)
                return retry.schedule(index)
            }
            if kicks.compareExchange(expected: seen, desired: 0, ordering: .acquiringAndReleasing).exchanged {
                return
            }
        }
    }

    /// `notify` comes again from the timer thread, for a device whose `service` ended because it had done
    /// enough for one turn.
    public func serveLater() { retry.schedule(index) }

    private func begin() {
        attempt { state throws(QueueFault) -> Void in
            state.isBatching = true
            guard signals.isRunning else { return }
            try state.ring?.suppressNotifications()
        }
    }

    /// Publishes; returns whether chains arrived meanwhile that nobody will announce.
    private func finish() -> Bool {
        var vector: UInt16?
        let more = attempt { state throws(QueueFault) in
            // In one step with publishing: a completion on another thread publishes itself from now on.
            state.isBatching = false
            if try state.ring?.publish() == true { vector = state.registers.vector }
            guard signals.isRunning, !state.isStopped, state.ring?.isFull == false else { return false }
            return try state.ring?.enableNotifications() ?? false
        }
        if more == nil { state.withLock { $0.isBatching = false } }
        if let vector { signals.interruptForQueue(vector: vector) }
        return more ?? false
    }

    /// Asks for a notification of the next chain, for a device that pops outside `service` and found none.
    /// Returns true when chains are there already.
    public func armNotifications() -> Bool {
        attempt { state throws(QueueFault) in
            guard signals.isRunning, !state.isStopped, state.ring?.isFull == false else { return false }
            return try state.ring?.enableNotifications() ?? false
        } ?? false
    }

    /// Runs `body` unless the queue is broken; a fault breaks it and asks the driver for a reset.
    @discardableResult
    private func attempt<T>(_ body: (inout State) throws(QueueFault) -> T) -> T? {
        let (result, failed): (T?, Bool) = state.withLock { state in
            guard !state.isBroken else { return (nil, false) }
            do { return (try body(&state), false) } catch {
                state.isBroken = true
                return (nil, true)
            }
        }
        if failed { signals.requestReset() }
        return result
    }

    // MARK: For transports

    var registers: QueueRegisters { state.withLock { $0.registers } }

    /// Changes the registers. Sizes and addresses of an enabled queue do not change (§4.1.4.3.2).
    func configure(_ change: (inout QueueRegisters) -> Void) {
        state.withLock { state in
            var wanted = state.registers
            change(&wanted)
            wanted.isEnabled = state.registers.isEnabled
            wanted.vector = signals.checkedVector(wanted.vector)
            if wanted.isEnabled {
                state.registers.vector = wanted.vector
            } else {
                state.registers = wanted
            }
        }
    }

    /// Enables the queue (§4.1.4.3.2). Impossible rings leave it disabled and ask for a reset.
    func enable(eventIndex: Bool, indirect: Bool) {
        let fault = state.withLock { state -> QueueFault? in
            guard !state.registers.isEnabled else { return nil }
            do throws(QueueFault) {
                state.ring = try makeRing(state.registers, eventIndex, indirect, nil)
                state.registers.isEnabled = true
                state.isBroken = false
                state.epoch &+= 1
                return nil
            } catch { return error }
        }
        if fault != nil { signals.requestReset() }
    }

    private func makeRing(
        _ registers: QueueRegisters, _ eventIndex: Bool, _ indirect: Bool, _ saved: Saved?
    ) throws(QueueFault) -> SplitQueue {
        guard registers.size <= maximumSize else { throw .badSize(registers.size) }
        let areas = SplitQueue.Areas(
            descriptors: registers.descriptors, available: registers.available, used: registers.used,
            size: registers.size)
        return try SplitQueue(
            memory, areas, eventIndex: eventIndex, indirect: indirect,
            nextAvailable: saved?.nextAvailable ?? 0,
            nextUsed: saved?.nextUsed ?? 0, isNew: saved == nil)
    }

    /// No chain is taken from now on; what is in flight may still be completed.
    func stop() { state.withLock { $0.isStopped = true } }
    func start() { state.withLock { $0.isStopped = false } }
    var isStopped: Bool { state.withLock { $0.isStopped } }

    /// Back to the state after a device or queue reset; completions that are still to come are dropped.
    func reset() {
        state.withLock { state in
            state.registers = QueueRegisters(size: maximumSize)
            state.ring = nil
            state.isBroken = false
            state.epoch &+= 1
        }
    }

    func save() -> Saved {
        state.withLock {
            Saved(
                registers: $0.registers, nextAvailable: $0.ring?.nextAvailable ?? 0,
                nextUsed: $0.ring?.nextUsed ?? 0)
        }
    }

    /// - Throws: `QueueFault` when an enabled queue's rings are impossible.
    func restore(_ saved: Saved, eventIndex: Bool, indirect: Bool) throws(QueueFault) {
        var registers = saved.registers
        registers.vector = signals.checkedVector(registers.vector)
        let ring = registers.isEnabled ? try makeRing(registers, eventIndex, indirect, saved) : nil
        state.withLock { state in
            state.registers = registers
            state.ring = ring
            state.isBroken = false
            state.epoch &+= 1
        }
    }
}
