internal import LinuxHost
internal import RFB
internal import ScreenSurface
internal import Synchronization

/// Between one machine and its viewers: takes over frames when somebody waits for one, and sends on what
/// viewers do.
///
/// Confinement: everything on the thread of `run`; handlers of the loop are declared to run anywhere, and run
/// there.
final class DisplayHub: @unchecked Sendable {
    /// More at once are turned away.
    static let mostViewers = 16
    /// What the machine has not taken yet; then viewers have to wait.
    private static let mostRequests = 256
    /// Nanoseconds for a handshake, and between looks at who is late.
    private static let patience: UInt64 = 30_000_000_000, interval: UInt64 = 10_000_000_000
    /// After so many wrong passwords nobody may try for a while.
    private static let mostFailures = 3
    private static let penalty: UInt64 = 10_000_000_000

    private let options: DisplayOptions
    private let loop: EventLoop
    private let link: ScreenSocket
    private let surface: SurfaceMemory
    private let timer: TimerDescriptor
    private let framebuffer = Framebuffer()
    private let listeners: [Descriptor]
    private var viewers: [ObjectIdentifier: ViewerConnection] = [:]
    private var linkWatch: EventLoop.Watch?
    private var requests: [ScreenRequest] = []
    /// The machine owes a frame; at once.
    private var isFrameDue = false, isPromptDue = false
    private var failures = 0
    private var blockedUntil: UInt64 = 0
    private var isEnding = false

    init(_ options: DisplayOptions) throws(HostError) {
        self.options = options
        loop = try EventLoop(name: "display")
        link = try ScreenSocket(Descriptor(adopting: DisplayDescriptor.link))
        surface = try SurfaceMemory(Descriptor(adopting: DisplayDescriptor.surface), writable: false)
        timer = try TimerDescriptor()
        listeners = options.listeners.map { Descriptor(adopting: $0.descriptor) }
        linkWatch = try loop.watch(link.descriptor, .read) { [weak self] _ in self?.linkIsReady() }
        _ = try loop.watch(timer.descriptor, .read) { [weak self] _ in self?.dropLate() }
        for (listener, option) in zip(listeners, options.listeners) {
            try listener.setNonBlocking(true)
            _ = try loop.watch(listener, .read) { [weak self] _ in
                self?.accept(from: listener, option.kind)
            }
        }
    }

    /// Until the machine is gone.
    func run() { loop.run() }

    // MARK: The machine

    private func linkIsReady() {
        flushRequests()
        while !isEnding {
            switch link.receive() {
            case .nothing: return requestFrames()
            case .closed:
                isEnding = true
                loop.stop()
            case .message(let bytes):
                guard let frame = ScreenLink.frame(bytes) else { continue }
                take(frame)
            }
        }
    }

    private func take(_ frame: ScreenFrame) {
        isFrameDue = false
        isPromptDue = false
        let change = framebuffer.apply(frame) { start, count, pixels, place in
            surface.read(start, count: count, into: &pixels, at: place)
        }
        for viewer in viewers.values { viewer.session.screenChanged(change) }
        for viewer in Array(viewers.values) { viewer.pump() }
    }

    /// Asks the machine for a frame when a viewer waits for one.
    private func requestFrames() {
        let sessions = viewers.values.map(\.session)
        if !isPromptDue, sessions.contains(where: \.needsFreshFrame) {
            isPromptDue = true
            isFrameDue = true
            send(.refresh(promptly: true))
        } else if !isFrameDue, sessions.contains(where: \.wantsFrames) {
            isFrameDue = true
            send(.refresh(promptly: false))
        }
    }

    private func send(_ request: ScreenRequest) {
        requests.append(request)
        flushRequests()
    }

    private func flushRequests() {
        let sent = requests.firstIndex { !link.send(ScreenLink.bytes($0)) } ?? requests.count
        requests.removeFirst(sent)
        if let linkWatch { loop.change(linkWatch, to: requests.isEmpty ? .read : [.read, .write]) }
    }

    /// Viewers wait while the machine does not take what they do.
    var hasRoomForRequests: Bool { requests.count < Self.mostRequests }

    // MARK: Viewers

    private func accept(from listener: Descriptor, _ kind: DisplayOptions.Kind) {
        guard let socket = try? listener.accept() else { return }
        let now = HostTime.monotonic
        // What is not kept is closed.
        guard viewers.count < Self.mostViewers, (try? socket.setNonBlocking(true)) != nil else { return }
        let password = kind == .local ? nil : options.password
        let refusal =
            password != nil && now < blockedUntil ? "Too many wrong passwords: wait ten seconds." : nil
        let challenge = (0..<16).map { _ in UInt8.random(in: 0...255) }
        let session = RFBSession(
            RFBConfiguration(name: options.name, password: password, refusal: refusal), framebuffer,
            challenge: challenge)
        let webSocket = kind == .browsers ? WebSocket(trustsAnyOrigin: password != nil) : nil
        let viewer = ViewerConnection(
            socket, session, webSocket, hub: self, deadline: now + Self.patience)
        guard viewer.start(on: loop) else { return }
        if viewers.isEmpty { try? timer.arm(at: now + Self.interval, interval: Self.interval) }
        viewers[ObjectIdentifier(viewer)] = viewer
        viewer.pump()
    }

    /// After anything that a viewer did.
    func viewerActed(_ viewer: ViewerConnection) {
        for event in viewer.session.takeEvents() {
            switch event {
            case .key(let code, let isDown): send(.key(code, isDown: isDown))
            case .move(let movement): send(.move(movement))
            case .resize(let width, let height):
                for other in viewers.values where other !== viewer {
                    other.session.otherViewerWishes(width: width, height: height)
                }
                send(.resize(width: width, height: height))
            }
        }
        requestFrames()
    }

    func viewerIsGone(_ viewer: ViewerConnection) {
        viewer.session.disconnect()
        viewerActed(viewer)
        if viewer.session.failedAuthentication {
            failures += 1
            if failures >= Self.mostFailures {
                failures = 0
                blockedUntil = HostTime.monotonic + Self.penalty
            }
        }
        viewers[ObjectIdentifier(viewer)] = nil
        if viewers.isEmpty { try? timer.disarm() }
    }

    /// Ends connections that do not finish their handshake.
    private func dropLate() {
        _ = timer.take()
        let now = HostTime.monotonic
        for viewer in Array(viewers.values) where !viewer.session.isRunning && viewer.deadline < now {
            viewer.end()
        }
        for viewer in Array(viewers.values) { viewer.pump() }
    }
}
