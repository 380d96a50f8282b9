internal import Glibc
public import LinuxHost
internal import Synchronization

/// A serial line on open descriptors: standard input and output, a file, a pipe, a terminal.
///
/// Output goes through a queue of 64 KiB and a thread that writes it as soon as the descriptor takes it.
/// A reader that is gone ends the output; the end of the input ends the input; neither ends anything else.
public final class DescriptorBackend: CharacterBackend {
    private struct State {
        var watch: EventLoop.Watch?
        var isReading = false
        var isAlwaysReady = false
        var hasEnded = false
    }
    private let input: Descriptor?
    private let output: Descriptor?
    private let loop: EventLoop?
    /// Bytes that may be written.
    private let limit: UInt64
    private let queue: OutputQueue
    private let feed = InputFeed()
    private let parker = Parker()
    private let isStopping = Atomic(false)
    private let retryIsPosted = Atomic(false)
    private let state = Mutex(State())
    private let writer = Mutex<HostThread?>(nil)

    /// Reads `input` on `loop` and writes to `output`; either may be missing. Makes the process ignore
    /// SIGPIPE, since a reader may go at any time.
    public convenience init(
        input: Descriptor?, output: Descriptor?, loop: EventLoop, name: String = "serial-out"
    )
        throws(HostError)
    {
        try self.init(input: input, output: output, loop: loop, name: name, patience: OutputQueue.patience)
    }

    /// Bytes of one run that go to a file, 1 GiB: a guest that writes without end does not fill the host's
    /// disk.
    public static let fileLimit: UInt64 = 1 << 30

    /// Only writes, to a file that is open for it: at most `limit` bytes, and then a line that says so.
    public convenience init(
        file: Descriptor, name: String = "serial-out", limit: UInt64 = DescriptorBackend.fileLimit
    ) throws(HostError) {
        try self.init(
            input: nil, output: file, loop: nil, name: name, patience: OutputQueue.patience, limit: limit)
    }

    init(
        input: Descriptor?, output: Descriptor?, loop: EventLoop?, name: String, patience: UInt64,
        limit: UInt64 = .max
    ) throws(HostError) {
        HostSignals.ignoreBrokenPipes()
        self.input = input
        self.output = output
        self.loop = loop
        self.limit = limit
        queue = OutputQueue(hasConsumer: output != nil, patience: patience)
        guard let output else { return }
        let thread = try HostThread(name: name) { self.writeOut(to: output) }
        writer.withLock { writer in writer = thread }
    }

    public var droppedBytes: UInt64 { queue.dropped }

    public func write(_ bytes: [UInt8]) {
        guard !isStopping.load(ordering: .relaxed) else { return }
        queue.append(bytes) { parker.unpark() }
    }

    private func writeOut(to output: Descriptor) {
        var room = limit
        while true {
            guard room > 0 else {
                let words = "\n[ospite: the guest has written \(limit) bytes; what follows is not kept]\n"
                _ = try? output.write(Array(words.utf8)[...])
                return queue.detachConsumer(dropping: true)
            }
            // No more than PIPE_BUF: after poll said so, writing that much does not block.
            let chunk = queue.peek(limit: Int(min(room, 4096)))
            if chunk.isEmpty {
                if isStopping.load(ordering: .acquiring) { return }
                parker.park()
                continue
            }
            do throws(HostError) {
                guard try output.wait(forWriting: true, milliseconds: 100) else {
                    if isStopping.load(ordering: .acquiring) { return }
                    continue
                }
                switch try output.write(chunk[...]) {
                case .moved(let count):
                    queue.consume(count)
                    room -= UInt64(count)
                case .wouldBlock: continue
                case .endOfFile: queue.consume(chunk.count, dropping: true)
                }
            } catch {
                // A full file system may have room again later; a broken pipe is not repaired.
                guard error.code == ENOSPC || error.code == EDQUOT else {
                    return queue.detachConsumer(dropping: true)
                }
                queue.consume(chunk.count, dropping: true)
            }
        }
    }

    // MARK: Input

    public func start(_ receiver: @escaping @Sendable (ArraySlice<UInt8>) -> Int) {
        feed.setReceiver(receiver)
        setReading(true)
    }

    public func receiverHasRoom() {
        guard let loop, feed.isBlocked, !retryIsPosted.exchange(true, ordering: .acquiringAndReleasing) else {
            return
        }
        let isPosted = loop.post {
            self.retryIsPosted.store(false, ordering: .releasing)
            if self.feed.retry() { self.setReading(true) }
        }
        if !isPosted { retryIsPosted.store(false, ordering: .releasing) }
    }

    /// One read's worth, on the loop's thread.
    private func readInput() {
        let mayRead = state.withLock { state in state.isReading && !state.hasEnded }
        guard let input, mayRead else { return }
        var buffer = [UInt8](repeating: 0, count: InputFeed.readLimit)
        guard let transfer = try? input.read(into: &buffer) else { return endInput() }
        switch transfer {
        case .wouldBlock: return
        case .endOfFile: return endInput()
        case .moved(let count):
            if !feed.offer(buffer[..<count]) { return setReading(false) }
        }
        if state.withLock({ state in state.isAlwaysReady }) { loop?.post { self.readInput() } }
    }

    /// Stops or goes on listening, for back-pressure. A watch that only pauses would still report a hang-up,
    /// over and over.
    private func setReading(_ reading: Bool) {
        guard let input, let loop else { return }
        let (old, mayRead) = state.withLock { state -> (EventLoop.Watch?, Bool) in
            defer { state.watch = nil }
            state.isReading = reading
            return (state.watch, reading && !state.hasEnded)
        }
        if let old { loop.remove(old) }
        guard mayRead else { return }
        if let watch = try? loop.watch(input, .read, { _ in self.readInput() }) {
            let isTooLate = state.withLock { state in
                if !state.hasEnded { state.watch = watch }
                return state.hasEnded
            }
            if isTooLate { loop.remove(watch) }
        } else {
            // epoll refuses regular files and /dev/null, which are always ready: those are read step by step.
            state.withLock { state in state.isAlwaysReady = true }
            loop.post { self.readInput() }
        }
    }

    private func endInput() {
        let watch = state.withLock { state -> EventLoop.Watch? in
            state.hasEnded = true
            defer { state.watch = nil }
            return state.watch
        }
        if let watch { loop?.remove(watch) }
    }

    public func close() {
        endInput()
        queue.waitUntilEmpty(deadline: HostTime.monotonic &+ 2_000_000_000)
        isStopping.store(true, ordering: .releasing)
        parker.unpark()
        let thread = writer.withLock { writer in writer.take() }
        thread?.join()
    }
}
