internal import CLinux
internal import Glibc
internal import LinuxHost

/// The few system calls of the command line that need pointers, each behind a checked face.
enum HostCall {
    /// Our own standard descriptors; never closed.
    static let standardInput = Descriptor(adopting: STDIN_FILENO)
    static let standardOutput = Descriptor(adopting: STDOUT_FILENO)
    static let standardError = Descriptor(adopting: STDERR_FILENO)

    /// Waits until one descriptor is readable or hung up; true for each that is. nil is skipped, a negative
    /// timeout waits for ever.
    static func poll(_ descriptors: [Descriptor?], milliseconds: Int32) -> [Bool] {
        var requests = descriptors.map { pollfd(fd: $0?.number ?? -1, events: Int16(POLLIN), revents: 0) }
        // SAFETY: the array's own elements and count.
        let count = unsafe Glibc.poll(&requests, nfds_t(requests.count), milliseconds)
        return requests.map { count > 0 && $0.revents != 0 }
    }

    /// The path of the running program.
    static func executablePath() throws(HostError) -> String {
        var buffer = [CChar](repeating: 0, count: 4096)
        // SAFETY: the kernel writes at most the buffer's own count and says how much.
        let count = unsafe readlink("/proc/self/exe", &buffer, buffer.count)
        guard count > 0 else { throw .last("finding our own program through /proc/self/exe") }
        return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// An environment variable.
    static func environment(_ name: String) -> String? {
        // SAFETY: getenv returns a NUL-terminated string; nothing here changes the environment.
        guard let value = unsafe getenv(name) else { return nil }
        return unsafe String(cString: value)
    }

    /// The owner and the mode of an open file.
    static func ownership(of file: Descriptor) throws(HostError) -> (user: UInt32, mode: UInt32) {
        var status = stat()
        // SAFETY: the kernel fills our own structure.
        guard unsafe fstat(file.number, &status) == 0 else { throw .last("examining a file") }
        return (status.st_uid, status.st_mode)
    }

    /// Whether the path itself, not what a link there names, is a socket.
    static func isSocket(_ path: String) -> Bool {
        var status = stat()
        // SAFETY: the kernel reads the path and fills our own structure.
        return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
    }

    /// A program that is installed beside our own.
    static func sibling(_ program: String) throws(HostError) -> String {
        let own = try executablePath()
        let folder = own.lastIndex(of: "/").map { String(own[..<$0]) } ?? "."
        let path = folder + "/" + program
        guard isExecutable(path) else {
            throw HostError("\(path) is missing: install ospite and \(program) into one folder", code: 0)
        }
        return path
    }

    // SAFETY, for the calls below: each only reads the path, which lives during the call.

    static func isExecutable(_ path: String) -> Bool { unsafe access(path, X_OK) == 0 }
    static func removeFile(_ path: String) { _ = unsafe unlink(path) }
    static func removeFolder(_ path: String) { _ = unsafe rmdir(path) }

    /// In place of what has the new name already.
    static func renameFile(_ path: String, to name: String) throws(HostError) {
        if unsafe rename(path, name) != 0 { throw .last("renaming \(path) to \(name)") }
    }

    /// One that exists already is no error.
    static func makeFolder(_ path: String, mode: UInt32) throws(HostError) {
        if unsafe mkdir(path, mode) != 0, ospite_get_errno() != EEXIST {
            throw .last("making the folder \(path)")
        }
    }
}
