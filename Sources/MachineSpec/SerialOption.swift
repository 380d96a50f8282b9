/// One `--serial` option, or `--console`.
public enum SerialOption: Equatable, Sendable {
    case none
    case standardStreams
    /// Output only; the file is created or emptied.
    case file(path: String)
    /// A Unix stream socket that we listen on.
    case unixSocket(path: String)

    /// Longest path in `sockaddr_un`, less the NUL (unix(7)).
    static let longestSocketPath = 107

    /// - Parameter option: its name, for what is wrong with it.
    public init(parsing text: String, option: String = "--serial") throws(SpecError) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(
            String.init)
        let rest = parts.count > 1 ? parts[1] : nil
        switch (parts[0], rest) {
        case ("none", nil): self = .none
        case ("stdio", nil): self = .standardStreams
        case ("file", let path?) where !path.isEmpty: self = .file(path: path)
        case ("unix", let path?) where !path.isEmpty:
            guard path.utf8.count <= Self.longestSocketPath else {
                throw SpecError(
                    "\(option) unix: the path is longer than \(Self.longestSocketPath) bytes: shorten it."
                )
            }
            self = .unixSocket(path: path)
        default:
            throw SpecError("\(option) \(text.quoted) is unknown: use stdio, file:PATH, unix:PATH or none.")
        }
    }
}
