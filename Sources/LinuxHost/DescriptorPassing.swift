internal import CLinux
internal import Glibc

/// Descriptors in messages of Unix sockets (SCM_RIGHTS, unix(7)).
public enum DescriptorPassing {
    /// Descriptors that one message may carry.
    public static let descriptorLimit = 64

    /// One received message.
    public struct Message: Sendable {
        public let bytes: [UInt8]
        public let descriptors: [Descriptor]
        /// The peer sent more descriptors than were asked for; the surplus is closed.
        public let wasTruncated: Bool
    }

    /// Sends `bytes` (at least one) and `descriptors` in one message. Returns the bytes sent: on a stream it
    /// may be fewer, and the descriptors went with the first of them; nil when the socket has no room.
    public static func send(_ bytes: [UInt8], _ descriptors: [Descriptor], over socket: Descriptor)
        throws(HostError) -> Int?
    {
        precondition(!bytes.isEmpty && descriptors.count <= descriptorLimit, "a message we cannot send")
        let numbers = descriptors.map(\.number)
        while true {
            // SAFETY: both arrays live for the call, with the counts given.
            let sent = unsafe ospite_send_descriptors(
                socket.number, bytes, bytes.count, numbers, Int32(numbers.count))
            if sent >= 0 { return sent }
            let code = ospite_get_errno()
            if code == EAGAIN { return nil }
            if code != EINTR { throw HostError("sending descriptors", code: code) }
        }
    }

    /// Receives at most `byteLimit` bytes and `limit` descriptors; nil when nothing waits on a non-blocking
    /// socket. No bytes means that the peer closed.
    public static func receive(from socket: Descriptor, byteLimit: Int, limit: Int = descriptorLimit)
        throws(HostError) -> Message?
    {
        precondition(byteLimit > 0 && (0...descriptorLimit).contains(limit), "limits out of range")
        var bytes = [UInt8](repeating: 0, count: byteLimit)
        var numbers = [Int32](repeating: -1, count: max(limit, 1))
        var count = Int32(limit)
        var truncated: Int32 = 0
        while true {
            count = Int32(limit)
            // SAFETY: both arrays have the capacities given.
            let received = unsafe ospite_receive_descriptors(
                socket.number, &bytes, bytes.count, &numbers, &count, &truncated)
            if received >= 0 {
                bytes.removeLast(bytes.count - received)
                return Message(
                    bytes: bytes, descriptors: numbers.prefix(Int(count)).map { Descriptor(adopting: $0) },
                    wasTruncated: truncated != 0)
            }
            let code = ospite_get_errno()
            if code == EAGAIN { return nil }
            if code != EINTR { throw HostError("receiving descriptors", code: code) }
        }
    }

    /// The user and process at the other end of a connected Unix socket, when it connected.
    public static func peer(of socket: Descriptor) throws(HostError) -> (user: UInt32, process: Int32) {
        var user: UInt32 = 0
        var process: Int32 = 0
        // SAFETY: two out parameters.
        guard unsafe ospite_peer_credentials(socket.number, &user, &process) == 0 else {
            throw .last("asking for the peer of a socket")
        }
        return (user, process)
    }
}
