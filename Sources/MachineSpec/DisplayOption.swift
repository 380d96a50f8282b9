/// Where viewers connect to.
public enum ViewerPlace: Equatable, Sendable {
    /// A host's number, or `localhost`.
    case network(host: String, port: UInt16)
    case unixSocket(path: String)

    /// `HOST:PORT`, `[HOST]:PORT` or `unix:PATH`; no host is 127.0.0.1.
    public init(parsing text: some StringProtocol, option: String) throws(SpecError) {
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst("unix:".count))
            guard !path.isEmpty, path.utf8.count <= SerialOption.longestSocketPath else {
                throw SpecError(
                    "\(option): a socket's path has 1 to \(SerialOption.longestSocketPath) bytes.")
            }
            self = .unixSocket(path: path)
            return
        }
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]),
            port > 0
        else {
            throw SpecError(
                "\(option): \(String(text).quoted) is no place: give HOST:PORT, with the TCP port and not a "
                    + "display's number, or unix:PATH.")
        }
        var host = String(text[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        self = .network(host: host.isEmpty ? "127.0.0.1" : host, port: port)
    }
}

/// The `--display` option.
public enum DisplayOption: Equatable, Sendable {
    case none
    /// Viewers connect to the machine's folder only.
    case auto
    /// And here.
    case vnc(ViewerPlace, webSocket: ViewerPlace?)

    public init(parsing text: String) throws(SpecError) {
        let option = "--display"
        switch text {
        case "none": self = .none
        case "auto": self = .auto
        default:
            guard text.hasPrefix("vnc=") else {
                throw SpecError(
                    "\(option) \(text.quoted) is unknown: use none, auto, vnc=HOST:PORT or vnc=unix:PATH.")
            }
            let place = text.dropFirst("vnc=".count)
            let separator = ",websocket="
            guard let comma = Self.position(of: separator, in: place) else {
                self = .vnc(try ViewerPlace(parsing: place, option: option), webSocket: nil)
                return
            }
            let rest = place[comma...].dropFirst(separator.count)
            self = .vnc(
                try ViewerPlace(parsing: place[..<comma], option: option),
                webSocket: try ViewerPlace(parsing: rest, option: option))
        }
    }

    private static func position(of separator: String, in text: Substring) -> String.Index? {
        text.indices.first { text[$0...].hasPrefix(separator) }
    }
}
