internal import CLinux
internal import Glibc

/// A system call of the host that failed: what we wanted, and the host's reason.
public struct HostError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What was being done, as the start of a sentence: "mapping 1024 MiB of guest memory".
    public let action: String
    /// The errno value; 0 when the failure has no system error.
    public let code: Int32

    public init(_ action: String, code: Int32) {
        self.action = action
        self.code = code
    }

    /// The error of the system call that just failed on this thread.
    public static func last(_ action: String) -> HostError { HostError(action, code: ospite_get_errno()) }

    public var description: String {
        guard code != 0 else { return action }
        // SAFETY: strerror returns a NUL-terminated string that stays valid until the next call here.
        return unsafe "\(action): \(String(cString: strerror(code)))"
    }
}
