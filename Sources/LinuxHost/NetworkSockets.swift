internal import CLinux
internal import Glibc

/// A TCP address in numbers; `localhost` is 127.0.0.1.
public struct NetworkAddress: Equatable, Sendable, CustomStringConvertible {
    /// 4 or 16 bytes.
    private let bytes: [UInt8]
    /// 0 lets the host choose when listening.
    public let port: UInt16
    private let host: String

    /// Nil for what is no number of an IPv4 or IPv6 address.
    public init?(host: String, port: UInt16) {
        let number = host == "localhost" ? "127.0.0.1" : host
        var buffer = [UInt8](repeating: 0, count: 16)
        // SAFETY: inet_pton reads the string and writes at most 16 bytes.
        if unsafe inet_pton(AF_INET, number, &buffer) == 1 {
            bytes = Array(buffer.prefix(4))
        } else if unsafe inet_pton(AF_INET6, number, &buffer) == 1 {
            bytes = buffer
        } else {
            return nil
        }
        self.port = port
        self.host = host
    }

    /// Only programs of this host reach it.
    public var isLoopback: Bool {
        bytes.count == 4 ? bytes[0] == 127 : bytes == [UInt8](repeating: 0, count: 15) + [1]
    }

    public var description: String { bytes.count == 4 ? "\(host):\(port)" : "[\(host)]:\(port)" }

    /// Calls `body` with the address as the kernel wants it.
    fileprivate func withSocketAddress(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        // SAFETY: each structure lives during the call and has the size that we say.
        if bytes.count == 4 {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            unsafe withUnsafeMutableBytes(of: &address.sin_addr) { unsafe $0.copyBytes(from: bytes) }
            return unsafe withUnsafePointer(to: &address) { pointer in
                unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        }
        var address = sockaddr_in6()
        address.sin6_family = sa_family_t(AF_INET6)
        address.sin6_port = port.bigEndian
        unsafe withUnsafeMutableBytes(of: &address.sin6_addr) { unsafe $0.copyBytes(from: bytes) }
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe body($0, socklen_t(MemoryLayout<sockaddr_in6>.size))
            }
        }
    }

    fileprivate var family: Int32 { bytes.count == 4 ? AF_INET : AF_INET6 }
}

extension Descriptor {
    /// A TCP socket that listens; what it accepts sends small packets at once (TCP_NODELAY).
    public static func listen(at address: NetworkAddress, backlog: Int32 = 16) throws(HostError)
        -> Descriptor
    {
        let number = socket(address.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard number >= 0 else { throw .last("creating a socket") }
        let listener = Descriptor(adopting: number)
        var one: Int32 = 1
        // SAFETY: one integer each.
        unsafe setsockopt(number, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        unsafe setsockopt(number, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
        guard unsafe address.withSocketAddress({ unsafe bind(number, $0, $1) }) == 0 else {
            throw .last("binding \(address)")
        }
        guard Glibc.listen(number, backlog) == 0 else { throw .last("listening at \(address)") }
        return listener
    }

    /// The port that a listening TCP socket got.
    public func localPort() throws(HostError) -> UInt16 {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        // SAFETY: the kernel writes at most `length` bytes of our own structure; both families have the port
        // in bytes 2 and 3.
        let port: UInt16? = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            let raw = unsafe UnsafeMutableRawPointer(pointer)
            let result = unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(number, $0, &length)
            }
            return result == 0 ? unsafe UInt16(bigEndian: raw.load(fromByteOffset: 2, as: UInt16.self)) : nil
        }
        guard let port else { throw .last("asking for a socket's port") }
        return port
    }

    /// Anonymous memory of a fixed size, which no holder can make smaller: reading it never faults.
    public static func sealedMemory(_ name: String, size: UInt64) throws(HostError) -> Descriptor {
        // MFD_CLOEXEC 1, MFD_ALLOW_SEALING 2; F_ADD_SEALS 1033; F_SEAL_SEAL 1, SHRINK 2, GROW 4.
        // SAFETY: the string lives for the call.
        let number = unsafe ospite_memfd_create(name, 3)
        guard number >= 0 else { throw .last("creating a memory file") }
        let file = Descriptor(adopting: number)
        try file.resize(to: size)
        guard ospite_fcntl(number, 1033, 7) == 0 else { throw .last("sealing a memory file") }
        return file
    }

    /// The same file again, for reading only: who gets it cannot write.
    public func reopenedForReading() throws(HostError) -> Descriptor {
        try Descriptor.open("/proc/self/fd/\(number)", flags: O_RDONLY)
    }
}
