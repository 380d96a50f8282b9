/// A description of a machine that we refuse: one plain sentence that says what to do.
public struct SpecError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ sentence: String) { description = sentence }
}
