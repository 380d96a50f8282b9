internal import Glibc
internal import LinuxHost
internal import MachineSpec
internal import ScreenSurface

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
    private let password: [UInt8]?
    /// How to see the screen, for the user.
    private(set) var invitation = ""

    /// Opens everything, and puts the machine's ends into `files` and `spec`. Nil when nobody asked for a
    /// screen, or when it cannot be shown and nobody asked for it by name.
    init?(
        _ option: DisplayOption, password: [UInt8]?, folder: RuntimeFolder, files: inout OpenedFiles,
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
        self.password = password
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
                listeners.append((.viewers, try files.listen(at: place)))
                invitation = "the screen is at \(Self.text(place))"
                if let webSocket {
                    listeners.append((.browsers, try files.listen(at: webSocket)))
                    invitation += " and, for browsers, at \(Self.text(webSocket))"
                }
            }
        } catch {
            throw .host("--display cannot be used: \(error). Choose another place.")
        }
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
        if let password {
            let pipe = try Descriptor.pipe()
            try pipe.writer.writeAll(password)
            arguments += ["--password", "\(inherited.count)"]
            inherited.append(pipe.reader)
        }
        return try ChildProcess(path: program, arguments: arguments, descriptors: inherited)
    }
}
