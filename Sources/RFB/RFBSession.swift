internal import ByteLayout
public import ScreenSurface

/// What a viewer does at the machine.
public enum RFBEvent: Equatable, Sendable {
    /// A key by the number that `KeyCode` of the keyboard controller takes.
    case key(UInt8, isDown: Bool)
    case move(ScreenMovement)
    /// It would like the screen to have this size, in pixels.
    case resize(width: UInt16, height: UInt16)
}

/// How a server presents itself.
public struct RFBConfiguration: Sendable {
    public var name: String
    public var password: VNCPassword?
    /// Why nobody may connect now, as one sentence.
    public var refusal: String?

    public init(name: String, password: VNCPassword? = nil, refusal: String? = nil) {
        self.name = name
        self.password = password
        self.refusal = refusal
    }
}

/// One viewer: the server's side of the remote framebuffer protocol (RFC 6143) as a state machine over bytes.
/// The viewer is hostile: nothing that it sends makes this trap, and what waits for it is bounded.
///
/// Confinement: one thread.
public final class RFBSession {
    enum State: Equatable { case version, security, password, initialization, running, closed(String) }

    /// While more than this waits to be sent, no further rectangle is encoded.
    static let outputLowWater = 64 << 10
    /// While more than this waits, nothing that the viewer sends is looked at.
    static let outputHighWater = 512 << 10
    /// Bytes of the viewer that wait, more than its longest message.
    private static let mostInput = 16 << 10
    /// A rectangle of an update has at most so many pixels, so that `output` stays below 1 MiB.
    static let mostPixels = 64 << 10
    static let widestRectangle = 2048

    /// Answers of a WebSocket that may wait.
    public static let mostPending = outputHighWater

    let configuration: RFBConfiguration
    let framebuffer: Framebuffer
    private let challenge: [UInt8]
    var state = State.version
    /// 3, 7 or 8.
    var minorVersion = 8
    var input: [UInt8] = []
    /// Bytes of a message that are not looked at.
    var bytesToSkip = 0
    public internal(set) var output: [UInt8] = []
    public internal(set) var events: [RFBEvent] = []
    var view = ViewerView()
    var keys = KeyTranslator()
    var pointer = PointerTracker()
    /// Streams that begin with the first use and end with the viewer.
    lazy var zrle = ZRLEEncoder()
    lazy var tight = TightEncoder()
    /// Failed for its password.
    public private(set) var failedAuthentication = false

    /// - Parameter challenge: sixteen bytes that nobody can know before.
    public init(_ configuration: RFBConfiguration, _ framebuffer: Framebuffer, challenge: [UInt8]) {
        precondition(challenge.count == 16, "a challenge has sixteen bytes")
        self.configuration = configuration
        self.framebuffer = framebuffer
        self.challenge = challenge
        output = RFBNumber.version
    }

    /// The handshake is done.
    public var isRunning: Bool { state == .running }

    /// Why the connection is over: what waits in `output` is still worth sending.
    public var closeReason: String? { if case .closed(let reason) = state { reason } else { nil } }

    /// Removes the first bytes of the output, which were sent.
    public func sent(_ count: Int) { output.removeFirst(count) }

    /// Whether more bytes of the viewer are welcome now.
    public var acceptsInput: Bool {
        closeReason == nil && output.count < Self.outputHighWater && input.count < Self.mostInput
    }

    public func takeEvents() -> [RFBEvent] {
        defer { events = [] }
        return events
    }

    func close(_ reason: String) { if closeReason == nil { state = .closed(reason) } }

    /// Bytes from the viewer, at most a few KiB at a time.
    public func receive(_ bytes: ArraySlice<UInt8>) {
        guard closeReason == nil else { return }
        input += bytes
        process()
    }

    /// Looks at what has arrived, as far as there is room for answers; again after `sent`.
    public func process() {
        var place = 0
        while closeReason == nil, output.count < Self.outputHighWater {
            let skipped = min(bytesToSkip, input.count - place)
            bytesToSkip -= skipped
            place += skipped
            guard place < input.count, let used = step(input[place...]) else { break }
            place += used
        }
        input.removeFirst(min(place, input.count))
        if closeReason != nil { input = [] }
    }

    /// Takes one message; how many bytes it had, or nil when it is not complete.
    private func step(_ bytes: ArraySlice<UInt8>) -> Int? {
        var reader = ClientReader(bytes)
        switch state {
        case .version:
            guard let text = reader.take(RFBNumber.versionLength) else { return nil }
            takeVersion(text)
        case .security:
            guard let choice = reader.byte() else { return nil }
            takeSecurity(choice)
        case .password:
            guard let response = reader.take(16) else { return nil }
            takeResponse(response)
        case .initialization:
            // Shared or not: nobody is thrown out.
            guard reader.byte() != nil else { return nil }
            initialize()
        case .running:
            guard takeMessage(&reader) else { return nil }
        case .closed: return nil
        }
        return reader.place - bytes.startIndex
    }

    // MARK: Handshake (§7.1 to §7.3)

    private func takeVersion(_ text: ArraySlice<UInt8>) {
        guard let version = RFBNumber.minorVersion(text) else { return close("it is no viewer") }
        minorVersion = version
        let type =
            configuration.password == nil ? RFBNumber.Security.none : RFBNumber.Security.password
        if let refusal = configuration.refusal {
            // No security type, and why.
            if minorVersion == 3 { output.append(bigEndian: UInt32(0)) } else { output.append(0) }
            appendText(refusal)
            return close("it may not connect now")
        }
        guard minorVersion == 3 else {
            output += [1, type]
            state = .security
            return
        }
        output.append(bigEndian: UInt32(type))
        begin(type)
    }

    private func takeSecurity(_ choice: UInt8) {
        let offered =
            configuration.password == nil ? RFBNumber.Security.none : RFBNumber.Security.password
        guard choice == offered else { return close("it wants another security type") }
        begin(choice)
    }

    private func begin(_ type: UInt8) {
        if type == RFBNumber.Security.password {
            output += challenge
            state = .password
        } else {
            if minorVersion == 8 { output.append(bigEndian: UInt32(0)) }
            state = .initialization
        }
    }

    private func takeResponse(_ response: ArraySlice<UInt8>) {
        guard let password = configuration.password, password.accepts(response, to: challenge) else {
            failedAuthentication = true
            output.append(bigEndian: UInt32(1))
            if minorVersion == 8 { appendText("The password is wrong.") }
            return close("its password is wrong")
        }
        output.append(bigEndian: UInt32(0))
        state = .initialization
    }

    private func initialize() {
        view.resize(framebuffer.width, framebuffer.height)
        output.append(bigEndian: UInt16(framebuffer.width))
        output.append(bigEndian: UInt16(framebuffer.height))
        PixelFormat.native.append(to: &output)
        appendText(configuration.name)
        state = .running
    }

    func appendText(_ text: String) {
        let bytes = Array(text.utf8)
        output.append(bigEndian: UInt32(bytes.count))
        output += bytes
    }

    // MARK: The screen

    /// Whether the viewer waits for news of the screen.
    public var wantsFrames: Bool { state == .running && (view.requested != nil || view.continuous != nil) }

    /// Whether it waits for a picture of now, even if nothing has changed.
    public var needsFreshFrame: Bool { wantsFrames && view.needsFreshFrame }

    /// The framebuffer has changed.
    public func screenChanged(_ change: Framebuffer.Change) {
        view.needsFreshFrame = false
        guard state == .running else { return }
        keepingCursor { $0.note(framebuffer.abilities) }
        if change.isResized {
            view.sizeHasChanged()
        } else {
            view.add(change)
        }
    }

    /// Changes what the viewer can take; sends again what the cursor covers when that changes who draws it.
    func keepingCursor(_ body: (inout ViewerView) -> Void) {
        let before = view.seesCursorInPicture
        body(&view)
        if view.seesCursorInPicture != before, let place = framebuffer.cursorPlace { view.repaint(place) }
    }

    /// Another viewer would like the screen to have this size.
    public func otherViewerWishes(width: UInt16, height: UInt16) {
        view.wish = ViewerView.Wish(width: Int(width), height: Int(height), isOwn: false)
    }

    /// The viewer is gone: what it held is let go.
    public func disconnect() {
        for event in keys.releaseAll() { events.append(.key(event.code, isDown: event.isDown)) }
        if pointer.buttons != 0 { events.append(.move(pointer.release())) }
        close("it is gone")
    }
}

/// Turns positions and wheel buttons of a viewer into movement. Pure.
struct PointerTracker {
    private(set) var buttons: UInt8 = 0
    private var last: (x: Int32, y: Int32)?
    private var mask: UInt8 = 0
    private var place: ScreenPlace?

    /// - Parameters:
    ///   - screen: what the viewer shows.
    ///   - isRelative: the viewer sends distances from 7FFFh.
    mutating func move(
        _ newMask: UInt8, _ x: UInt16, _ y: UInt16, on screen: ScreenRectangle, isRelative: Bool
    ) -> RFBEvent {
        place = isRelative ? nil : Self.place(Int(x), Int(y), on: screen)
        let x = Int32(x), y = Int32(y)
        let right: Int32, down: Int32
        if isRelative {
            (right, down) = (x - 0x7FFF, y - 0x7FFF)
            last = nil
        } else {
            (right, down) = last.map { (x - $0.x, y - $0.y) } ?? (0, 0)
            last = (x, y)
        }
        let pressed = newMask & ~mask
        let wheel: Int32 = (pressed & 0x10 != 0 ? 1 : 0) - (pressed & 0x08 != 0 ? 1 : 0)
        mask = newMask
        // Left, middle, right of the protocol; left, right, middle of a mouse.
        buttons = newMask & 1 | (newMask & 4) >> 1 | (newMask & 2) << 1
        return .move(
            ScreenMovement(right: right, down: down, wheel: wheel, buttons: buttons, place: place))
    }

    /// All buttons go up where the pointer is.
    mutating func release() -> ScreenMovement {
        buttons = 0
        return ScreenMovement(place: place)
    }

    /// The middle of a pixel: a guest that rounds either way finds the same one.
    private static func place(_ x: Int, _ y: Int, on screen: ScreenRectangle) -> ScreenPlace {
        func part(_ value: Int, of side: Int) -> UInt16 {
            let pixels = max(side, 1), pixel = min(value, pixels - 1)
            return UInt16((2 * pixel + 1) * 0x1_0000 / (2 * pixels))
        }
        return ScreenPlace(x: part(x, of: screen.width), y: part(y, of: screen.height))
    }
}
