internal import CLinux
internal import Glibc

/// An open file descriptor of the host, closed when the last reference goes. Any thread.
public final class Descriptor: Sendable {
    /// The kernel's number; valid while this object lives.
    public let number: Int32

    /// Takes ownership of an open descriptor: nobody else closes it.
    public init(adopting number: Int32) {
        precondition(number >= 0, "a descriptor number is not negative")
        self.number = number
    }

    deinit { _ = close(number) }

    /// Opens `path` with close-on-exec; `flags` are O_RDONLY, O_RDWR and friends.
    public static func open(_ path: String, flags: Int32, mode: UInt32 = 0o600) throws(HostError)
        -> Descriptor
    {
        let number = try retrying("opening \(path)") {
            // SAFETY: the string lives for the call.
            unsafe Int(ospite_open(path, flags | O_CLOEXEC, mode))
        }
        return Descriptor(adopting: Int32(number))
    }

    /// A second descriptor of the same open file, with close-on-exec.
    public func duplicate() throws(HostError) -> Descriptor {
        let number = try retrying("duplicating a descriptor") {
            Int(ospite_fcntl(self.number, F_DUPFD_CLOEXEC, 0))
        }
        return Descriptor(adopting: Int32(number))
    }

    /// Whether reads and writes return `.wouldBlock` instead of waiting. A property of the open file, which
    /// other descriptors and processes may share.
    public func setNonBlocking(_ enabled: Bool) throws(HostError) {
        let flags = try retrying("reading descriptor flags") { Int(ospite_fcntl(number, F_GETFL, 0)) }
        let wanted = enabled ? flags | Int(O_NONBLOCK) : flags & ~Int(O_NONBLOCK)
        guard wanted != flags else { return }
        _ = try retrying("changing descriptor flags") { Int(ospite_fcntl(number, F_SETFL, wanted)) }
    }

    /// Whether a program started by exec inherits the descriptor.
    public func setInherited(_ inherited: Bool) throws(HostError) {
        let flag = inherited ? 0 : Int(FD_CLOEXEC)
        _ = try retrying("changing descriptor inheritance") { Int(ospite_fcntl(number, F_SETFD, flag)) }
    }

    /// What kind of file it is, how large, and what it may be used for.
    public func facts() throws(HostError) -> FileFacts {
        var size: UInt64 = 0
        var kind: Int32 = 0
        var access: Int32 = 0
        // SAFETY: three out parameters that live for the call.
        let result = unsafe ospite_file_facts(number, &size, &kind, &access)
        guard result == 0 else { throw .last("looking at an open file") }
        return FileFacts(
            size: size, kind: kind == 0 ? .regular : kind == 1 ? .blockDevice : .other,
            isReadable: access & O_ACCMODE != O_WRONLY, isWritable: access & O_ACCMODE != O_RDONLY,
            bypassesCache: access & ~O_ACCMODE != 0)
    }

    /// Locks the whole file for this open file description (fcntl OFD locks), without waiting. The lock goes
    /// when the last descriptor of the open file is closed, in whatever process.
    /// - Throws: EAGAIN when somebody else holds a conflicting lock.
    public func lock(exclusive: Bool) throws(HostError) {
        _ = try retrying("locking a file that another process is using") {
            Int(ospite_lock_file(number, exclusive ? 1 : 0))
        }
    }

    /// Gives the lock of `lock` back, for all descriptors of the open file.
    public func unlock() { _ = ospite_lock_file(number, -1) }

    /// Sets the size of a regular file or memfd, in bytes.
    public func resize(to size: UInt64) throws(HostError) {
        guard let size = Int(exactly: size) else { throw HostError("resizing a file", code: EFBIG) }
        _ = try retrying("resizing a file") { Int(ftruncate(number, size)) }
    }
}

/// What fstat and the open flags say about a descriptor.
public struct FileFacts: Equatable, Sendable {
    public enum Kind: Sendable { case regular, blockDevice, other }
    /// In bytes; 0 for what has no size.
    public let size: UInt64
    public let kind: Kind
    public let isReadable: Bool
    public let isWritable: Bool
    /// Opened with O_DIRECT.
    public let bypassesCache: Bool
}

/// Repeats a system call that a signal interrupted; any other failure throws with the reason.
func retrying(_ action: @autoclosure () -> String, _ call: () -> Int) throws(HostError) -> Int {
    while true {
        let result = call()
        if result >= 0 { return result }
        let code = ospite_get_errno()
        if code != EINTR { throw HostError(action(), code: code) }
    }
}
