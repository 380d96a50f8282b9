/// The name of a machine: also the name of its folder under the runtime directory, so it holds no slash and
/// does not begin with a dot.
public struct MachineName: Hashable, Sendable, CustomStringConvertible {
    /// Longest name in bytes: it has to fit a Unix socket path (108 bytes) with the runtime directory.
    public static let longest = 48

    public let description: String

    public init(_ text: String) throws(SpecError) {
        guard !text.isEmpty, text.utf8.count <= Self.longest, Self.isWellFormed(text) else {
            throw SpecError(
                "--name \(text.quoted) cannot be used: a name has 1 to \(Self.longest) letters, digits, "
                    + "dots, hyphens or underscores, and begins with a letter or digit.")
        }
        description = text
    }

    private static func isWellFormed(_ text: String) -> Bool {
        let plain: (UInt8) -> Bool = {
            (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0)
        }
        guard let first = text.utf8.first, plain(first) else { return false }
        return text.utf8.allSatisfy { plain($0) || $0 == 0x2D || $0 == 0x2E || $0 == 0x5F }
    }
}
