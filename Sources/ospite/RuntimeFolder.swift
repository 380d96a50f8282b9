internal import Glibc
internal import LinuxHost
internal import MachineSpec

/// The folder of a running machine, `$XDG_RUNTIME_DIR/ospite/NAME/`: whoever looks for machines looks there.
/// It holds `pid`, which is locked while the machine lives, `control`, a socket for who wants something of
/// the machine (`RequestDesk`), and `vnc`, one for viewers of the screen.
/// `vnc-tls` and `vnc-wss` are for those whose encryption ended in `ospite`: the password is asked for.
final class RuntimeFolder {
    let path: String
    /// The lock; the machine's process gets a copy, so that it holds as long as either lives.
    let lock: Descriptor

    init(name: MachineName) throws(RunFailure) {
        do throws(HostError) {
            path = try Self.root() + "/" + name.description
            try Self.makePrivateFolder(path)
            lock = try Descriptor.open(path + "/pid", flags: O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
            try Self.lock(lock, name: name)
            try lock.resize(to: 0)
            try lock.writeAll(Array("\(getpid())\n".utf8))
        } catch {
            throw .host("The machine cannot be registered: \(error). Use another --name.")
        }
    }

    /// Where viewers of this user connect to.
    var screenSocket: String { path + Self.screenName }
    private static let screenName = "/vnc"
    /// Where viewers are led to when their encryption has ended: VNC, and WebSockets.
    var encryptedScreenSocket: String { screenSocket + "-tls" }
    var encryptedBrowserSocket: String { screenSocket + "-wss" }

    /// Where other programs of this user ask for something.
    var controlSocket: String { path + Self.controlName }
    private static let controlName = "/control"

    /// The same for a machine that may be running.
    static func controlSocket(of machine: String) throws(HostError) -> String {
        try root() + "/" + machine + controlName
    }

    /// The same for a machine that may be running.
    static func screenSocket(of machine: String) throws(HostError) -> String {
        try root() + "/" + machine + screenName
    }

    /// Forgets the machine.
    func remove() {
        HostCall.removeFile(path + "/pid")
        HostCall.removeFolder(path)
    }

    private static func lock(_ file: Descriptor, name: MachineName) throws(HostError) {
        do throws(HostError) {
            try file.lock(exclusive: true)
        } catch {
            guard error.code == EAGAIN || error.code == EACCES else { throw error }
            throw HostError("a machine of the name \(name) is running", code: 0)
        }
    }

    /// The folder of all machines of this user.
    private static func root() throws(HostError) -> String {
        var path = "/tmp/ospite-\(getuid())"
        if let runtime = HostCall.environment("XDG_RUNTIME_DIR"), runtime.hasPrefix("/") {
            path = runtime + "/ospite"
        }
        try makePrivateFolder(path)
        return path
    }

    /// A folder that only we may enter. One that exists must be ours: in /tmp anybody may have made it.
    private static func makePrivateFolder(_ path: String) throws(HostError) {
        try HostCall.makeFolder(path, mode: 0o700)
        let folder = try Descriptor.open(path, flags: O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
        let (user, mode) = try HostCall.ownership(of: folder)
        guard user == getuid() else {
            throw HostError("the folder \(path) belongs to another user", code: 0)
        }
        if mode & 0o077 != 0, fchmod(folder.number, 0o700) != 0 {
            throw .last("making the folder \(path) private")
        }
    }
}
