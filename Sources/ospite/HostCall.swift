internal import CLinux
internal import Glibc
internal import LinuxHost

/// The system calls of the command line that need pointers, each behind a checked face.
enum HostCall {
    /// Opens close-on-exec. `O_NONBLOCK` keeps a FIFO or a device from holding us up; `clearNonBlocking`
    /// undoes it.
    static func open(_ path: String, _ flags: Int32, mode: UInt32 = 0) throws(HostError) -> Int32 {
        let descriptor = unsafe ospite_open(path, flags | O_CLOEXEC | O_NOCTTY, mode)
        guard descriptor >= 0 else { throw .last("opening \(path)") }
        return descriptor
    }

    static func clearNonBlocking(_ descriptor: Int32) {
        let flags = ospite_fcntl(descriptor, F_GETFL, 0)
        if flags >= 0 { _ = ospite_fcntl(descriptor, F_SETFL, Int(flags & ~O_NONBLOCK)) }
    }

    static func setNonBlocking(_ descriptor: Int32) {
        let flags = ospite_fcntl(descriptor, F_GETFL, 0)
        if flags >= 0 { _ = ospite_fcntl(descriptor, F_SETFL, Int(flags | O_NONBLOCK)) }
    }

    static func status(of descriptor: Int32) throws(HostError) -> stat {
        var status = stat()
        // SAFETY: the kernel fills our own structure.
        guard unsafe fstat(descriptor, &status) == 0 else { throw .last("examining a file") }
        return status
    }

    /// Takes an open-file-description lock on the whole file; false when somebody else holds one against it.
    static func lock(_ descriptor: Int32, exclusive: Bool) throws(HostError) -> Bool {
        let setOpenFileDescriptionLock: Int32 = 37  // F_OFD_SETLK, fcntl(2)
        var request = flock()
        request.l_type = Int16(exclusive ? F_WRLCK : F_RDLCK)
        request.l_whence = Int16(SEEK_SET)
        // SAFETY: the kernel reads our own structure during the call.
        let result = unsafe withUnsafeMutablePointer(to: &request) { pointer in
            ospite_fcntl(descriptor, setOpenFileDescriptionLock, Int(bitPattern: pointer))
        }
        if result == 0 { return true }
        let error = HostError.last("locking a file")
        guard error.code == EAGAIN || error.code == EACCES else { throw error }
        return false
    }

    /// Both ends close-on-exec.
    static func pipePair() throws(HostError) -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        // SAFETY: the array holds the two descriptors that the kernel writes.
        guard unsafe pipe(&ends) == 0 else { throw .last("making a pipe") }
        for end in ends { _ = ospite_fcntl(end, F_SETFD, Int(FD_CLOEXEC)) }
        return (ends[0], ends[1])
    }

    /// A connected pair of sequenced-packet sockets, both close-on-exec.
    static func socketPair() throws(HostError) -> (ours: Int32, theirs: Int32) {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        // SAFETY: the array holds the two descriptors that the kernel writes.
        guard unsafe socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw .last("making a control socket") }
        return (ends[0], ends[1])
    }

    /// A Unix stream socket that listens at `path`, with mode 0600 from its birth.
    static func listen(at path: String) throws(HostError) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < 108 else { throw HostError("listening at \(path)", code: ENAMETOOLONG) }
        // SAFETY: the length was checked against the 108 bytes of sun_path, which begin as zeroes.
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        let socket = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else { throw .last("making a socket") }
        let mask = umask(0o177)
        // SAFETY: a sockaddr_un may be passed as a sockaddr of its size (unix(7)).
        let bound = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        let bindError = HostError.last("listening at \(path)")
        _ = umask(mask)
        guard bound == 0 else {
            _ = close(socket)
            throw bindError
        }
        guard Glibc.listen(socket, 1) == 0 else {
            _ = close(socket)
            throw .last("listening at \(path)")
        }
        return socket
    }

    /// nil at the end of the input or on an error.
    static func read(_ descriptor: Int32, atMost count: Int) -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: count)
        // SAFETY: the kernel writes at most the buffer's own count.
        let got = unsafe Glibc.read(descriptor, &buffer, count)
        if got < 0, ospite_get_errno() == EINTR || ospite_get_errno() == EAGAIN { return [] }
        return got > 0 ? Array(buffer.prefix(got)) : nil
    }

    /// Writes what the descriptor takes; the rest is lost when it is full or closed.
    static func writeAll(_ bytes: inout [UInt8], to descriptor: Int32) {
        while !bytes.isEmpty {
            // SAFETY: the array's own bytes and count.
            let count = unsafe Glibc.write(descriptor, bytes, bytes.count)
            if count < 0, ospite_get_errno() == EINTR { continue }
            guard count > 0 else { return }
            bytes.removeFirst(count)
        }
    }

    /// A descriptor that becomes readable when one of the signals arrives; they are blocked from now on.
    static func signalDescriptor(for signals: [Int32]) throws(HostError) -> Int32 {
        var set = sigset_t()
        // SAFETY: our own set.
        unsafe sigemptyset(&set)
        for signal in signals { unsafe sigaddset(&set, signal) }
        guard unsafe sigprocmask(SIG_BLOCK, &set, nil) == 0 else { throw .last("blocking signals") }
        let signalfd4 = 289
        // SAFETY: the kernel reads its own 8 bytes of the set during the call.
        let descriptor = unsafe withUnsafePointer(to: &set) { pointer in
            ospite_syscall6(
                signalfd4, -1, Int(bitPattern: pointer), 8, Int(O_CLOEXEC | O_NONBLOCK), 0, 0)
        }
        guard descriptor >= 0 else { throw .last("watching signals") }
        return Int32(descriptor)
    }

    /// Waits until one descriptor is readable or hung up; true for each that is. A negative descriptor is
    /// skipped, a negative timeout waits for ever.
    static func poll(_ descriptors: [Int32], milliseconds: Int32) -> [Bool] {
        var requests = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        // SAFETY: the array's own elements and count.
        let count = unsafe Glibc.poll(&requests, nfds_t(requests.count), milliseconds)
        return requests.map { count > 0 && $0.revents != 0 }
    }

    static func monotonicMilliseconds() -> Int64 {
        var time = timespec()
        // SAFETY: the kernel fills our own structure; CLOCK_MONOTONIC cannot fail.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
    }

    /// The path of the running program.
    static func executablePath() throws(HostError) -> String {
        var buffer = [CChar](repeating: 0, count: 4096)
        // SAFETY: the kernel writes at most count - 1 bytes, so the text ends with a NUL.
        let count = unsafe readlink("/proc/self/exe", &buffer, buffer.count - 1)
        guard count > 0 else { throw .last("finding our own program through /proc/self/exe") }
        return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// An environment variable.
    static func environment(_ name: String) -> String? {
        // SAFETY: getenv returns a NUL-terminated string; nothing here changes the environment.
        guard let value = unsafe getenv(name) else { return nil }
        return unsafe String(cString: value)
    }

    // SAFETY, for the calls below: each only reads the path, which lives during the call.

    static func isExecutable(_ path: String) -> Bool { unsafe access(path, X_OK) == 0 }
    static func removeFile(_ path: String) { _ = unsafe unlink(path) }
    static func removeFolder(_ path: String) { _ = unsafe rmdir(path) }

    /// One that exists already is no error.
    static func makeFolder(_ path: String, mode: UInt32) throws(HostError) {
        if unsafe mkdir(path, mode) != 0, ospite_get_errno() != EEXIST {
            throw .last("making the folder \(path)")
        }
    }
}
