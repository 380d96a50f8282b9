internal import ByteLayout

/// What is said before TLS between a viewer and the process that shows the screen (rfbproto, "VeNCrypt"), as
/// a state machine over bytes. To the viewer it is a server that offers encryption and nothing else, to the
/// screen a viewer that knows only what has no encryption:
///
///     viewer                   relay                   screen
///                <- version           <- version
///     version ->                                version ->
///                                     <- type 1 or 2
///                <- type 19                        type ->
///     type 19 ->
///                <- 0.2
///     0.2 ->
///                <- 0, 1, subtype
///     subtype ->
///                <- 1
///
/// Then TLS begins on the viewer's side, and what the screen says after its type goes into it: a challenge,
/// or that all is well. A screen that lets nobody in says so before there is TLS.
///
/// Both sides are hostile: nothing that they send makes this trap, and it keeps little of it.
public struct VeNCryptRelay {
    public enum Outcome: Equatable, Sendable {
        case negotiating
        /// TLS begins; what the viewer and the screen said too early is in `viewerRest` and `screenRest`.
        case encrypts
        /// What waits for the viewer is still worth sending.
        case over(String)
    }
    private enum ViewerStep { case version, screen, type, encryptionVersion, subtype }
    private enum ScreenStep { case version, types, refusal, isReady }
    /// What is kept of one who says too much too early, in bytes, about; a refusal is shorter, too.
    private static let mostInput = 1024

    public private(set) var outcome = Outcome.negotiating
    public private(set) var viewerRest: [UInt8] = [], screenRest: [UInt8] = []
    private var viewerStep = ViewerStep.version, screenStep = ScreenStep.version
    private var toViewer = RFBNumber.version, toScreen: [UInt8] = []
    private var subtype = RFBNumber.VeNCrypt.x509None
    private var minorVersion = 8
    /// Why the screen lets nobody in.
    private var refusal: [UInt8]?

    public init() {}

    /// Whether more bytes of either side are welcome; else they have to wait for the other's.
    public var acceptsViewerBytes: Bool { viewerRest.count < Self.mostInput }
    public var acceptsScreenBytes: Bool { screenRest.count < Self.mostInput && refusal == nil }
    /// The screen lets nobody in, and has no more to say; the viewer is told as soon as its version is known.
    public var isRefused: Bool { refusal != nil }

    public mutating func takeOutputForViewer() -> [UInt8] {
        defer { toViewer = [] }
        return toViewer
    }

    public mutating func takeOutputForScreen() -> [UInt8] {
        defer { toScreen = [] }
        return toScreen
    }

    public mutating func receiveFromViewer(_ bytes: ArraySlice<UInt8>) {
        viewerRest += bytes
        while outcome == .negotiating, stepViewer() {}
    }

    public mutating func receiveFromScreen(_ bytes: ArraySlice<UInt8>) {
        screenRest += bytes
        while outcome == .negotiating, refusal == nil, stepScreen() {}
        while outcome == .negotiating, stepViewer() {}
    }

    private static func take(_ count: Int, from bytes: inout [UInt8]) -> [UInt8]? {
        guard bytes.count >= count else { return nil }
        defer { bytes.removeFirst(count) }
        return Array(bytes.prefix(count))
    }

    private static func number(_ bytes: [UInt8]) -> UInt32 { bytes.reduce(0) { $0 << 8 | UInt32($1) } }

    // MARK: The viewer

    /// Whether something was understood, and more may follow.
    private mutating func stepViewer() -> Bool {
        switch viewerStep {
        case .version:
            guard let text = Self.take(RFBNumber.versionLength, from: &viewerRest) else { return false }
            guard let version = RFBNumber.minorVersion(text[...]) else {
                outcome = .over("it is no viewer")
                return false
            }
            minorVersion = version
            viewerStep = .screen
        case .screen: return offer()
        case .type:
            guard let type = Self.take(1, from: &viewerRest) else { return false }
            guard type[0] == RFBNumber.Security.veNCrypt else {
                toViewer.append(bigEndian: UInt32(1))
                appendText(Self.hint)
                outcome = .over("it wants another security type")
                return false
            }
            toViewer += RFBNumber.VeNCrypt.version
            viewerStep = .encryptionVersion
        case .encryptionVersion:
            guard let version = Self.take(2, from: &viewerRest) else { return false }
            guard version == RFBNumber.VeNCrypt.version else {
                toViewer.append(RFBNumber.VeNCrypt.versionFails)
                outcome = .over("it knows another VeNCrypt")
                return false
            }
            toViewer += [RFBNumber.VeNCrypt.versionSuits, 1]
            toViewer.append(bigEndian: subtype)
            viewerStep = .subtype
        case .subtype:
            guard let choice = Self.take(4, from: &viewerRest) else { return false }
            guard Self.number(choice) == subtype else {
                toViewer.append(RFBNumber.VeNCrypt.subtypeFails)
                outcome = .over("it wants another subtype")
                return false
            }
            toViewer.append(RFBNumber.VeNCrypt.subtypeSuits)
            outcome = .encrypts
        }
        return true
    }

    private static let hint = "This screen is encrypted: use a viewer that knows VeNCrypt with X.509."

    /// Once the screen has said whom it lets in: version 3.8 is the one that ends with a reason inside TLS.
    private mutating func offer() -> Bool {
        guard refusal != nil || screenStep == .isReady else { return false }
        guard refusal == nil, minorVersion == 8 else {
            // No security type, and why (RFC 6143 §7.1.2).
            if minorVersion == 3 { toViewer.append(bigEndian: UInt32(0)) } else { toViewer.append(0) }
            appendText(refusal.map { String(decoding: $0, as: UTF8.self) } ?? Self.hint)
            outcome = .over("it may not connect")
            return false
        }
        toViewer += [1, RFBNumber.Security.veNCrypt]
        viewerStep = .type
        return true
    }

    private mutating func appendText(_ text: String) {
        let bytes = Array(text.utf8)
        toViewer.append(bigEndian: UInt32(bytes.count))
        toViewer += bytes
    }

    // MARK: The screen

    private mutating func stepScreen() -> Bool {
        switch screenStep {
        case .version:
            guard let text = Self.take(RFBNumber.versionLength, from: &screenRest) else { return false }
            guard RFBNumber.minorVersion(text[...]) == 8 else {
                outcome = .over("the screen speaks another version")
                return false
            }
            toScreen += RFBNumber.version
            screenStep = .types
        case .types:
            guard let count = screenRest.first, let list = Self.take(1 + Int(count), from: &screenRest)
            else { return false }
            if count == 0 {
                screenStep = .refusal
            } else if list.dropFirst().contains(RFBNumber.Security.password) {
                choose(RFBNumber.Security.password, RFBNumber.VeNCrypt.x509Password)
            } else if list.dropFirst().contains(RFBNumber.Security.none) {
                choose(RFBNumber.Security.none, RFBNumber.VeNCrypt.x509None)
            } else {
                outcome = .over("the screen has another security type")
                return false
            }
        case .refusal:
            guard screenRest.count >= 4 else { return false }
            let length = Int(min(Self.number(Array(screenRest.prefix(4))), UInt32(Self.mostInput)))
            guard let text = Self.take(4 + length, from: &screenRest) else { return false }
            refusal = Array(text.dropFirst(4))
            return false
        case .isReady: return false
        }
        return true
    }

    private mutating func choose(_ type: UInt8, _ new: UInt32) {
        toScreen.append(type)
        subtype = new
        screenStep = .isReady
    }
}
