internal import Glibc
internal import LinuxHost
internal import MachineSpec

/// The folder of a running machine, `$XDG_RUNTIME_DIR/ospite/NAME/`: whoever looks for machines looks there.
/// It holds `pid`, which is locked while the machine lives.
final class RuntimeFolder {
    let path: String
    /// The lock; the machine's process gets a copy, so that it holds as long as either lives.
    let lock: Int32

    init(name: MachineName) throws(RunFailure) {
        do throws(HostError) {
            path = try Self.root() + "/" + name.description
            try Self.makePrivateFolder(path)
            lock = try HostCall.open(path + "/pid", O_RDWR | O_CREAT, mode: 0o600)
            guard try HostCall.lock(lock, exclusive: true) else {
                throw HostError("a machine of the name \(name) is running", code: 0)
            }
        } catch {
            throw .host("The machine cannot be registered: \(error). Use another --name.")
        }
        _ = ftruncate(lock, 0)
        var text = Array("\(getpid())\n".utf8)
        HostCall.writeAll(&text, to: lock)
    }

    /// Forgets the machine.
    func remove() {
        HostCall.removeFile(path + "/pid")
        HostCall.removeFolder(path)
    }

    /// The folder of all machines of this user.
    private static func root() throws(HostError) -> String {
        if let runtime = HostCall.environment("XDG_RUNTIME_DIR"), runtime.hasPrefix("/") {
            let path = runtime + "/ospite"
            try makePrivateFolder(path)
            return path
        }
        let path = "/tmp/ospite-\(getuid())"
        try makePrivateFolder(path)
        return path
    }

    /// A folder that only we may enter. One that exists must be ours: in /tmp anybody may have made it.
    private static func makePrivateFolder(_ path: String) throws(HostError) {
        try HostCall.makeFolder(path, mode: 0o700)
        let descriptor = try HostCall.open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
        defer { _ = close(descriptor) }
        let status = try HostCall.status(of: descriptor)
        guard status.st_uid == getuid() else {
            throw HostError("the folder \(path) belongs to another user", code: 0)
        }
        if status.st_mode & 0o077 != 0, fchmod(descriptor, 0o700) != 0 {
            throw .last("making the folder \(path) private")
        }
    }
}
