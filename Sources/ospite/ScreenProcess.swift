internal import Glibc
internal import LinuxHost
internal import MachineSpec
internal import ScreenSurface
internal import ViewerGateway

/// What viewers need beyond a way to the screen, but not those who come through the machine's folder.
struct ScreenAccess {
    /// The password's bytes; nil: none.
    var password: [UInt8]?
    /// For TLS; nil: none.
    var identity: TLSIdentity?
}

/// The process that shows a machine's screen, before it is started: its ends of what it shares with the
/// machine, and its listening sockets.
struct ScreenProcess {
    private enum Kind: String { case local = "--local", viewers = "--rfb", browsers = "--websocket" }

    private let name: MachineName
    private let sandbox: SandboxMode
    private let program: String
    private let link: Descriptor
    private let surface: Descriptor
    private var listeners: [(kind: Kind, descriptor: Descriptor)] = []
    private let access: ScreenAccess
    /// Where viewers come with TLS. Behind each place is a socket of the screen's process in the machine's
    /// folder.
    private var places: [ViewerGateway.Place] = []
    /// How to see the screen, for the user.
    private(set) var invitation = ""

    /// Opens everything, and puts the machine's ends into `files` and `spec`. Nil when nobody asked for a
    /// screen, or when it cannot be shown and nobody asked for it by name.
    init?(
        _ option: DisplayOption, _ access: ScreenAccess, folder: RuntimeFolder, files: inout OpenedFiles,
        spec: inout MachineSpec
    ) throws(RunFailure) {
        guard option != .none else { return nil }
        do throws(HostError) {
            program = try HostCall.sibling("ospite-display")
        } catch {
            guard option == .auto else { throw .host("The screen cannot be shown: \(error).") }
            Console.say("ospite: The screen cannot be shown: \(error).")
            return nil
        }
        name = spec.name
        sandbox = spec.sandbox
        self.access = access
        do throws(HostError) {
            let memory = try Descriptor.sealedMemory("screen", size: UInt64(SurfaceMemory.fileSize))
            surface = try memory.reopenedForReading()
            let (ours, theirs) = try Descriptor.socketPair(packets: true)
            link = ours
            spec.display = DisplaySpec(surface: files.addScreen(memory), link: files.addScreen(theirs))
            let socket = folder.screenSocket
            listeners = [(.local, try files.listen(at: .unixSocket(path: socket)))]
            invitation = "the screen is at \(socket)"
            if case .vnc(let place, let webSocket) = option {
                try open(place, .viewers, behind: folder.encryptedScreenSocket, &files)
                invitation = "the screen is at \(Self.text(place))"
                if let webSocket {
                    try open(webSocket, .browsers, behind: folder.encryptedBrowserSocket, &files)
                    invitation += " and, for browsers, at \(Self.text(webSocket))"
                }
                if access.identity != nil { invitation += ", with TLS" }
            }
        } catch {
            throw .host("--display cannot be used: \(error). Choose another place.")
        }
    }

    /// Listens for viewers; with TLS here, and the screen's process at `socket`.
    private mutating func open(
        _ place: ViewerPlace, _ kind: Kind, behind socket: String, _ files: inout OpenedFiles
    ) throws(HostError) {
        let listener = try files.listen(at: place)
        guard access.identity != nil else { return listeners.append((kind, listener)) }
        listeners.append((kind, try files.listen(at: .unixSocket(path: socket))))
        places.append(
            ViewerGateway.Place(kind == .viewers ? .viewers : .browsers, listener: listener, screen: socket))
    }

    /// What ends TLS, not started; nil: viewers come without.
    func gateway() throws(HostError) -> ViewerGateway? {
        guard let identity = access.identity else { return nil }
        return try ViewerGateway(identity, places)
    }

    private static func text(_ place: ViewerPlace) -> String {
        switch place {
        case .network(let host, let port): "\(host.contains(":") ? "[\(host)]" : host):\(port)"
        case .unixSocket(let path): path
        }
    }

    func start() throws(HostError) -> ChildProcess {
        let null = try Descriptor.open("/dev/null", flags: O_RDWR)
        var inherited = [null, null, HostCall.standardError, link, surface]
        var arguments = ["--name", name.description, "--sandbox", sandbox == .log ? "log" : "on"]
        for listener in listeners {
            arguments += [listener.kind.rawValue, "\(inherited.count)"]
            inherited.append(listener.descriptor)
        }
        if let password = access.password {
            let pipe = try Descriptor.pipe()
            try pipe.writer.writeAll(password)
            arguments += ["--password", "\(inherited.count)"]
            inherited.append(pipe.reader)
        }
        return try ChildProcess(path: program, arguments: arguments, descriptors: inherited)
    }
}
