internal import Glibc

/// The process itself.
public enum HostProcess {
    /// Ends at once, without clean-up: for a state in which nothing may run on.
    public static func abort() -> Never { Glibc.abort() }
}
