internal import CLinux
internal import Glibc
internal import Synchronization

/// Waits for descriptors and runs their handlers, one after another, on one thread (epoll(7)).
///
/// Confinement: `run` on the owner's thread (or `start`, which makes one); everything else on any thread.
/// Handlers and posted work run on that thread only, and must not block.
public final class EventLoop: Sendable {
    /// What to wait for; hang-up and errors are always reported.
    public struct Interest: OptionSet, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public static let read = Interest(rawValue: 0x001)
        public static let write = Interest(rawValue: 0x004)
    }

    /// What happened (EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP).
    public struct Readiness: OptionSet, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public static let readable = Readiness(rawValue: 0x001)
        public static let writable = Readiness(rawValue: 0x004)
        public static let failed = Readiness(rawValue: 0x008)
        public static let hungUp = Readiness(rawValue: 0x010)
    }

    /// Names one `watch`; never reused.
    public struct Watch: Hashable, Sendable { fileprivate let token: UInt64 }

    /// Watches that one loop may have, and work that may wait for it: more is a refusal, not growth.
    public static let watchLimit = 4096
    public static let postLimit = 4096

    private struct Watcher {
        let descriptor: Descriptor
        let handler: @Sendable (Readiness) -> Void
    }
    private struct State {
        var watchers: [UInt64: Watcher] = [:]
        var nextToken: UInt64 = 1
        var posted: [@Sendable () -> Void] = []
        var thread: HostThread?
    }
    private let epoll: Descriptor
    private let wakeUp: EventCounter
    private let name: String
    private let state = Mutex(State())
    private let isStopping = Atomic(false)

    public init(name: String) throws(HostError) {
        let number = ospite_epoll_create()
        guard number >= 0 else { throw .last("creating an event loop") }
        self.name = name
        epoll = Descriptor(adopting: number)
        wakeUp = try EventCounter()
        guard ospite_epoll_control(number, Self.add, wakeUp.descriptor.number, Interest.read.rawValue, 0) == 0
        else { throw .last("creating an event loop") }
    }

    private static let add: Int32 = 1, delete: Int32 = 2, modify: Int32 = 3

    /// Calls `handler` on the loop's thread for as long as `descriptor` is ready for `interest`. The loop
    /// keeps the descriptor open until `remove`.
    public func watch(
        _ descriptor: Descriptor, _ interest: Interest, _ handler: @escaping @Sendable (Readiness) -> Void
    ) throws(HostError) -> Watch {
        let outcome: Result<Watch, HostError> = state.withLock { state in
            guard state.watchers.count < Self.watchLimit else {
                return .failure(HostError("watching more than \(Self.watchLimit) descriptors", code: ENOSPC))
            }
            let token = state.nextToken
            let code = ospite_epoll_control(
                epoll.number, Self.add, descriptor.number, interest.rawValue, token)
            guard code == 0 else { return .failure(.last("watching a descriptor")) }
            state.nextToken += 1
            state.watchers[token] = Watcher(descriptor: descriptor, handler: handler)
            return .success(Watch(token: token))
        }
        return try outcome.get()
    }

    /// Waits for something else from now on; an empty interest pauses the watch but for hang-ups and errors.
    public func change(_ watch: Watch, to interest: Interest) {
        state.withLock { state in
            guard let watcher = state.watchers[watch.token] else { return }
            _ = ospite_epoll_control(
                epoll.number, Self.modify, watcher.descriptor.number, interest.rawValue, watch.token)
        }
    }

    /// Ends a watch. On the loop's thread the handler does not run again; on another thread it may be running
    /// while this returns.
    public func remove(_ watch: Watch) {
        let watcher: Watcher? = state.withLock { state in
            guard let watcher = state.watchers.removeValue(forKey: watch.token) else { return nil }
            _ = ospite_epoll_control(epoll.number, Self.delete, watcher.descriptor.number, 0, 0)
            return watcher
        }
        // Outside the lock: the last reference may run a destructor that comes back here.
        _ = consume watcher
    }

    /// Runs `work` on the loop's thread. False when too much is waiting already, or the loop stops: then it
    /// will not run. What is posted while the loop is about to stop may be lost.
    @discardableResult
    public func post(_ work: @escaping @Sendable () -> Void) -> Bool {
        guard !isStopping.load(ordering: .acquiring) else { return false }
        let position = state.withLock { state -> Int? in
            guard state.posted.count < Self.postLimit else { return nil }
            state.posted.append(work)
            return state.posted.count
        }
        if position == 1 { wakeUp.signal() }
        return position != nil
    }

    /// Runs handlers until `stop`.
    public func run() {
        var tokens = [UInt64](repeating: 0, count: 64)
        var events = [UInt32](repeating: 0, count: 64)
        while !isStopping.load(ordering: .acquiring) {
            // SAFETY: both arrays have 64 elements.
            let count = unsafe ospite_epoll_wait(epoll.number, &tokens, &events, 64, -1)
            guard count > 0 else { continue }
            for index in 0..<Int(count) {
                if tokens[index] == 0 { runPosted() } else { handle(tokens[index], events[index]) }
            }
        }
        runPosted()
    }

    private func handle(_ token: UInt64, _ events: UInt32) {
        // Looked up for each event: an earlier handler of this round may have removed the watch.
        let handler = state.withLock { state in state.watchers[token]?.handler }
        handler?(Readiness(rawValue: events))
    }

    private func runPosted() {
        _ = wakeUp.take()
        let work = state.withLock { state in
            defer { state.posted = [] }
            return state.posted
        }
        for item in work { item() }
    }

    /// Runs the loop on a thread of its own.
    public func start() throws(HostError) {
        let thread = try HostThread(name: name) { self.run() }
        state.withLock { state in state.thread = thread }
    }

    /// Lets `run` return after the handlers of this round, and waits for the loop's own thread unless called
    /// on it. A stopped loop does not run again.
    public func stop() {
        isStopping.store(true, ordering: .releasing)
        wakeUp.signal()
        let thread = state.withLock { state in state.thread }
        if let thread, !thread.isCurrent { thread.join() }
    }
}
