internal import CLinux
internal import Glibc

/// Adopts the result of a system call that makes a descriptor.
private func adopt(_ action: String, _ number: Int32) throws(HostError) -> Descriptor {
    guard number >= 0 else { throw .last(action) }
    return Descriptor(adopting: number)
}

/// An eventfd: a counter that threads, processes and KVM add to, and that becomes readable. Any thread.
public final class EventCounter: Sendable {
    public let descriptor: Descriptor

    public init() throws(HostError) {
        descriptor = try adopt("creating an event counter", ospite_event_descriptor(0))
    }

    /// Takes over an eventfd that somebody else made.
    public init(_ descriptor: Descriptor) { self.descriptor = descriptor }

    /// Adds one. Saturates when nobody reads for 2^64 signals.
    public func signal() {
        var one: UInt64 = 1
        // SAFETY: eight bytes. A full counter is as readable as it can be, so EAGAIN needs nothing.
        while unsafe Glibc.write(descriptor.number, &one, 8) < 0, ospite_get_errno() == EINTR {}
    }

    /// The signals since the last call; 0 when there were none.
    public func take() -> UInt64 {
        var count: UInt64 = 0
        while true {
            // SAFETY: eight bytes.
            let result = unsafe Glibc.read(descriptor.number, &count, 8)
            if result == 8 { return count }
            if result < 0, ospite_get_errno() == EINTR { continue }
            return 0
        }
    }
}

/// A timerfd on CLOCK_MONOTONIC, for event loops. Any thread.
public final class TimerDescriptor: Sendable {
    public let descriptor: Descriptor

    public init() throws(HostError) {
        descriptor = try adopt("creating a timer", ospite_timer_descriptor())
    }

    /// Becomes readable at `deadline` (`HostTime.monotonic` nanoseconds), then every `interval` unless 0.
    public func arm(at deadline: UInt64, interval: UInt64 = 0) throws(HostError) {
        guard ospite_timer_set(descriptor.number, max(deadline, 1), interval) == 0 else {
            throw .last("arming a timer")
        }
    }

    public func disarm() throws(HostError) {
        guard ospite_timer_set(descriptor.number, 0, 0) == 0 else { throw .last("disarming a timer") }
    }

    /// Expirations since the last call.
    public func take() -> UInt64 { EventCounter(descriptor).take() }
}

/// Signals of the process, read as data. Make it before any other thread starts, so that all threads inherit
/// the blocked set and the signals come here and nowhere else.
public final class SignalDescriptor: Sendable {
    public let descriptor: Descriptor

    public init(_ signals: [Int32]) throws(HostError) {
        // SAFETY: the array lives for the call.
        let number = unsafe ospite_signal_descriptor(signals, Int32(signals.count))
        descriptor = try adopt("watching signals", number)
    }

    /// The next signal's number, or nil when none is pending.
    public func next() -> Int32? {
        let number = ospite_signal_next(descriptor.number)
        return number > 0 ? number : nil
    }
}

/// Process-wide and per-thread signal settings.
public enum HostSignals {
    /// The signal that takes a vCPU thread out of KVM_RUN: SIGRTMIN of glibc's applications.
    public static let interruptVCPU: Int32 = 34

    /// A write to a closed pipe then fails with EPIPE instead of killing the process.
    public static func ignoreBrokenPipes() { ospite_signal_ignore(SIGPIPE) }

    /// `signal` then interrupts system calls and does nothing else.
    public static func makeInterrupting(_ signal: Int32) throws(HostError) {
        guard ospite_signal_interrupts(signal) == 0 else { throw .last("installing a signal handler") }
    }

    /// Blocks or unblocks `signal` on the calling thread.
    public static func setBlocked(_ signal: Int32, _ blocked: Bool) {
        _ = ospite_signal_mask(signal, blocked ? 1 : 0)
    }
}

extension Descriptor {
    /// A pipe: what is written to `writer` comes out of `reader`.
    public static func pipe() throws(HostError) -> (reader: Descriptor, writer: Descriptor) {
        var ends: [Int32] = [-1, -1]
        // SAFETY: two descriptors are written to the array. pipe2 is system call 293.
        let result = unsafe ends.withUnsafeMutableBufferPointer {
            ospite_syscall6(293, Int(bitPattern: $0.baseAddress), Int(O_CLOEXEC), 0, 0, 0, 0)
        }
        guard result == 0 else { throw .last("creating a pipe") }
        return (Descriptor(adopting: ends[0]), Descriptor(adopting: ends[1]))
    }

    /// Two connected Unix sockets; `packets` keeps message boundaries (SOCK_SEQPACKET).
    public static func socketPair(packets: Bool = false) throws(HostError) -> (Descriptor, Descriptor) {
        var ends: [Int32] = [-1, -1]
        let kind = Int32((packets ? SOCK_SEQPACKET : SOCK_STREAM).rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        // SAFETY: two descriptors are written to the array.
        let result = unsafe socketpair(AF_UNIX, kind, 0, &ends)
        guard result == 0 else { throw .last("creating a socket pair") }
        return (Descriptor(adopting: ends[0]), Descriptor(adopting: ends[1]))
    }

    /// Anonymous memory as a file of `size` bytes.
    public static func memory(_ name: String, size: UInt64) throws(HostError) -> Descriptor {
        // SAFETY: the string lives for the call. MFD_CLOEXEC is 1.
        let file = try unsafe adopt("creating a memory file", ospite_memfd_create(name, 1))
        try file.resize(to: size)
        return file
    }

    /// A Unix stream socket that listens at `path`, which must not exist.
    public static func listen(unixPath path: String, backlog: Int32 = 4) throws(HostError) -> Descriptor {
        let socket = try unixSocket()
        guard var address = unixAddress(path) else {
            throw HostError("the socket path \(path) is longer than 107 bytes", code: 0)
        }
        // SAFETY: the address lives for the call and has the size we say.
        let bound = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(socket.number, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard bound == 0 else { throw .last("binding \(path)") }
        guard Glibc.listen(socket.number, backlog) == 0 else { throw .last("listening at \(path)") }
        return socket
    }

    /// A stream connected to the Unix socket at `path`.
    public static func connect(unixPath path: String) throws(HostError) -> Descriptor {
        let socket = try unixSocket()
        guard var address = unixAddress(path) else {
            throw HostError("the socket path \(path) is longer than 107 bytes", code: 0)
        }
        // SAFETY: as above.
        _ = try retrying("connecting to \(path)") {
            unsafe withUnsafePointer(to: &address) { pointer in
                unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe Int(Glibc.connect(socket.number, $0, socklen_t(MemoryLayout<sockaddr_un>.size)))
                }
            }
        }
        return socket
    }

    /// The next client of a listening socket, or nil when none waits on a non-blocking one.
    public func accept() throws(HostError) -> Descriptor? {
        do throws(HostError) {
            let client = try retrying("accepting a connection") {
                // accept4 is system call 288.
                ospite_syscall6(288, Int(number), 0, 0, Int(SOCK_CLOEXEC.rawValue), 0, 0)
            }
            return Descriptor(adopting: Int32(client))
        } catch {
            // A client that gave up while waiting is not our error.
            if error.code == EAGAIN || error.code == ECONNABORTED { return nil }
            throw error
        }
    }

    private static func unixSocket() throws(HostError) -> Descriptor {
        try adopt(
            "creating a socket",
            socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
    }

    private static func unixAddress(_ path: String) -> sockaddr_un? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        let capacity = MemoryLayout.size(ofValue: address.sun_path)
        guard !bytes.isEmpty, bytes.count < capacity else { return nil }
        // SAFETY: fewer bytes than the field holds; the rest stays zero.
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        return address
    }
}
