public import LinuxHost
public import ScreenSurface
internal import Synchronization

/// Draws the machine's screen for the process that shows it: when that asks for a frame, at a bounded rate,
/// and only what has changed. While nobody asks, nothing is drawn. What people do at the screen comes the
/// other way.
///
/// Confinement: `start` and `show` on any thread; the rest on the screen's own.
public final class ScreenOutput: Sendable {
    /// Between two frames at least, in nanoseconds: about 30 a second.
    private static let interval: UInt64 = 33_000_000
    /// Drawing takes at most a quarter of the time of a thread.
    private static let restFactor: UInt64 = 3

    private struct State {
        var canvas: ScreenCanvas
        /// Whoever can have the screen, the first that wants it before the others.
        var sources: [any ScreenSource] = []
        /// Who had it when the last frame was drawn.
        var shown: (any ScreenSource)?
        /// The viewer waits for a frame.
        var isWanted = false
        /// Even when nothing has changed.
        var isPrompt = false
        /// In `HostTime.monotonic` nanoseconds.
        var nextFrame: UInt64 = 0

        var chosen: (any ScreenSource)? { sources.first(where: \.wantsScreen) ?? sources.last }
    }
    private let state: Mutex<State>
    private let socket: ScreenSocket
    private let loop: EventLoop
    private let timer: TimerDescriptor
    private let input: @Sendable (ScreenRequest) -> Void
    private let takesPositions: @Sendable () -> Bool
    private let watches = Mutex<[EventLoop.Watch]>([])

    /// - Parameters:
    ///   - takesPositions: whether the guest hears where the pointer is, and not only how far it moves.
    ///   - input: takes keys and movement, on the screen's thread.
    public init(
        surface: Descriptor, link: Descriptor, takesPositions: @escaping @Sendable () -> Bool = { false },
        input: @escaping @Sendable (ScreenRequest) -> Void
    ) throws(HostError) {
        state = Mutex(State(canvas: ScreenCanvas(try SurfaceMemory(surface, writable: true))))
        socket = try ScreenSocket(link)
        loop = try EventLoop(name: "screen")
        timer = try TimerDescriptor()
        self.input = input
        self.takesPositions = takesPositions
    }

    /// From now on the screen shows the first of these that has something to show, or the last.
    public func show(_ sources: [any ScreenSource]) {
        state.withLock { state in
            state.sources = sources
            state.shown = nil
        }
    }

    /// Starts the screen's thread.
    public func start() throws(HostError) {
        let timed = try loop.watch(timer.descriptor, .read) { [weak self] _ in self?.tick() }
        let linked = try loop.watch(socket.descriptor, .read) { [weak self] _ in self?.receive() }
        watches.withLock { $0 = [timed, linked] }
        try loop.start()
    }

    /// One message at a time: the loop calls again while there are more.
    private func receive() {
        switch socket.receive() {
        case .nothing: break
        case .closed:
            // Nobody looks any more; the machine goes on.
            for watch in watches.withLock({ $0 }) { loop.remove(watch) }
        case .message(let bytes):
            guard let request = ScreenLink.request(bytes) else { return }
            if case .resize(let width, let height) = request {
                state.withLock { $0.chosen }?.requestSize(width: Int(width), height: Int(height))
                return
            }
            guard case .refresh(let promptly) = request else { return input(request) }
            let next: UInt64? = state.withLock { state in
                state.isPrompt = state.isPrompt || promptly
                guard !state.isWanted else { return nil }
                state.isWanted = true
                return state.nextFrame
            }
            if let next { try? timer.arm(at: next) }
        }
    }

    private func tick() {
        _ = timer.take()
        let next: UInt64? = state.withLock { state in
            guard state.isWanted, let source = state.chosen else { return nil }
            let start = HostTime.monotonic
            if source !== state.shown { state.canvas.forget() }
            state.shown = source
            source.draw(on: &state.canvas)
            if var frame = state.canvas.takeFrame(evenWithoutDamage: state.isPrompt) {
                if source.takesSizes { frame.abilities.insert(.takesSizes) }
                if takesPositions() { frame.abilities.insert(.takesPositions) }
                socket.send(ScreenLink.bytes(frame))
                state.isWanted = false
                state.isPrompt = false
            }
            let end = HostTime.monotonic
            state.nextFrame = max(start + Self.interval, end + Self.restFactor * (end - start))
            return state.isWanted ? state.nextFrame : nil
        }
        if let next { try? timer.arm(at: next) }
    }
}
