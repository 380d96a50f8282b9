internal import CLinux
internal import Glibc
internal import Synchronization

/// Runs operations on one file without making the caller wait: on io_uring, or on a few threads where the
/// host refuses that. Completions come on a thread of the queue.
///
/// Confinement: any thread. A thread that submits must outlive its operations (see `IOUring`).
public final class AsyncFileQueue: Sendable {
    /// Bytes moved or 0, or a negative errno value.
    public typealias Completion = @Sendable (Int32) -> Void

    public enum Method: Sendable { case ring, threads }

    @safe private struct Job: Sendable {
        let operation: FileOperation
        let completion: Completion
    }
    private struct State {
        /// Jobs that the kernel or a thread has, by slot; the slot is the ring's token.
        var running: [Job?]
        var freeSlots: [Int]
        /// Slots whose job no thread has taken yet (`threads` only).
        var unclaimed: [Int] = []
        /// Jobs that wait for a slot, oldest at `waitingStart`.
        var waiting: [Job] = []
        var waitingStart = 0
        /// Jobs whose completion has not returned.
        var outstanding = 0
        var drainers: [Parker] = []
        var threads: [HostThread] = []
        var isClosed = false
    }
    /// How operations run.
    public let method: Method
    /// Operations that may be outstanding: running, waiting, or completing.
    public let limit: Int
    private let ring: IOUring?
    private let jobsReady = Semaphore()
    private let state: Mutex<State>
    private static let stopToken = UInt64.max

    /// A queue for `file`: all its operations name that descriptor. `depth` operations run at once in the
    /// ring (or `threadCount` on threads); `limit` may be outstanding.
    public init(
        name: String, file: Descriptor, depth: Int = 128, limit: Int = 2048, prefer: Method = .ring,
        threadCount: Int = 4
    )
        throws(HostError)
    {
        let ring = prefer == .ring ? try? IOUring(entries: depth, file: file) : nil
        self.ring = ring
        self.limit = limit
        method = ring == nil ? .threads : .ring
        // One entry of the ring stays free for the stop message.
        let slots = ring.map { max($0.capacity - 1, 1) } ?? threadCount
        state = Mutex(
            State(running: Array(repeating: nil, count: slots), freeSlots: Array((0..<slots).reversed())))
        var threads: [HostThread] = []
        for index in 0..<(ring == nil ? threadCount : 1) {
            threads.append(
                try HostThread(name: ring == nil ? "\(name)-\(index)" : name) {
                    if let ring = self.ring { self.reapRing(ring) } else { self.runJobs() }
                })
        }
        state.withLock { [threads] state in state.threads = threads }
    }

    /// Starts `operation`; `completion` is called once, on a thread of the queue. False, and nothing happens,
    /// when `limit` operations are outstanding or the queue is closed.
    /// - Safety: see `FileOperation`.
    @unsafe public func submit(_ operation: FileOperation, completion: @escaping Completion) -> Bool {
        let job = unsafe Job(operation: operation, completion: completion)
        let isAccepted = state.withLock { state -> Bool in
            guard state.outstanding < limit, !state.isClosed else { return false }
            state.outstanding += 1
            state.waiting.append(job)
            return true
        }
        if isAccepted { startWaiting() }
        return isAccepted
    }

    /// Returns when nothing is outstanding. Not on a thread of the queue.
    public func drain() {
        let parker = Parker()
        while true {
            let isIdle = state.withLock { state -> Bool in
                if state.outstanding > 0 { state.drainers.append(parker) }
                return state.outstanding == 0
            }
            if isIdle { return }
            parker.park()
        }
    }

    /// Finishes what is outstanding and ends the threads. Not on a thread of the queue.
    public func close() {
        var threads: [HostThread]?
        while threads == nil {
            drain()
            // Something may have been submitted since: closed and idle must be true at once.
            threads = state.withLock { state in
                guard state.outstanding == 0 else { return nil }
                defer { state.threads = [] }
                state.isClosed = true
                return state.threads
            }
        }
        let ended = threads ?? []
        if let ring {
            if !ended.isEmpty { while !ring.submitNothing(token: Self.stopToken) { sched_yield() } }
        } else {
            for _ in ended { jobsReady.signal() }
        }
        for thread in ended { thread.join() }
    }

    /// Moves waiting jobs into free slots and starts them.
    private func startWaiting() {
        while true {
            let next: (slot: Int, job: Job)? = state.withLock { state in
                guard state.waitingStart < state.waiting.count, let slot = state.freeSlots.popLast() else {
                    return nil
                }
                let job = state.waiting[state.waitingStart]
                state.waitingStart += 1
                if state.waitingStart == state.waiting.count || state.waitingStart >= 1024 {
                    state.waiting.removeFirst(state.waitingStart)
                    state.waitingStart = 0
                }
                state.running[slot] = job
                if ring == nil { state.unclaimed.append(slot) }
                return (slot, job)
            }
            guard let next else { return }
            guard let ring else {
                jobsReady.signal()
                continue
            }
            // SAFETY: the submitter promised that the operation's memory lives until its completion.
            if unsafe !ring.submit(next.job.operation, token: UInt64(next.slot)) {
                finish(slot: next.slot, result: unsafe Self.perform(next.job.operation))
            }
        }
    }

    /// Calls the completion of the job in `slot` and frees it.
    private func finish(slot: Int, result: Int32) {
        let job = state.withLock { state -> Job? in
            guard let job = state.running[slot] else { return nil }
            state.running[slot] = nil
            state.freeSlots.append(slot)
            return job
        }
        guard let job else { return }
        job.completion(result)
        let drainers = state.withLock { state -> [Parker] in
            state.outstanding -= 1
            guard state.outstanding == 0 else { return [] }
            defer { state.drainers = [] }
            return state.drainers
        }
        for drainer in drainers { drainer.unpark() }
    }

    private func reapRing(_ ring: IOUring) {
        var completions: [IOUring.Completion] = []
        let pause = Semaphore()
        while true {
            // A host that refuses to wait for its ring still fills it: look again after a while.
            if (try? ring.reap(into: &completions, waiting: true)) == nil {
                pause.wait(until: HostTime.monotonic &+ 1_000_000)
                continue
            }
            var isStopping = false
            for completion in completions {
                if completion.token == Self.stopToken {
                    isStopping = true
                } else {
                    finish(slot: Int(truncatingIfNeeded: completion.token), result: completion.result)
                }
            }
            if isStopping { return }
            startWaiting()
        }
    }

    // MARK: Threads

    private func runJobs() {
        while true {
            jobsReady.wait()
            let next: (slot: Int, job: Job)? = state.withLock { state in
                guard let slot = state.unclaimed.popLast(), let job = state.running[slot] else { return nil }
                return (slot, job)
            }
            guard let next else { return }
            // SAFETY: as above.
            finish(slot: next.slot, result: unsafe Self.perform(next.job.operation))
            startWaiting()
        }
    }

    /// Does `operation` now, on the calling thread.
    private static func perform(_ operation: FileOperation) -> Int32 {
        while true {
            let result: Int
            let offset = unsafe Int(truncatingIfNeeded: operation.offset)
            let number = unsafe operation.descriptor
            // SAFETY: the submitter promised valid vectors.
            switch unsafe operation.kind {
            case .read:
                result = unsafe preadv(number, operation.vectors, Int32(operation.vectorCount), offset)
            case .write:
                result = unsafe pwritev(number, operation.vectors, Int32(operation.vectorCount), offset)
            case .synchronize: result = Int(fdatasync(number))
            case .allocate(let mode):
                result = unsafe Int(
                    ospite_fallocate(number, mode, operation.offset, operation.length))
            }
            if result >= 0 { return Int32(clamping: result) }
            let code = ospite_get_errno()
            if code != EINTR { return -code }
        }
    }
}
