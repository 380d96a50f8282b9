internal import Glibc
internal import LinuxHost
internal import MachineControl
internal import MachineSpec
internal import Synchronization

/// From the options of `ospite run` to a running machine, and on to its exit status.
enum Launcher {
    static func run(_ command: RunCommand) throws(RunFailure) -> Int32 {
        let request = try MachineRequest(command)
        try fillStandardDescriptors()
        let signals = try host { () throws(HostError) in try SignalDescriptor(Supervisor.signals) }
        HostSignals.ignoreBrokenPipes()
        let folder = try RuntimeFolder(name: request.spec.name)
        defer { folder.remove() }

        let terminal = request.usesStandardStreams ? Terminal() : nil
        let keyboard = try terminal.map { _ throws(RunFailure) in
            try host { () throws(HostError) in try Descriptor.pipe() }
        }
        var files = OpenedFiles()
        defer { files.removeLeftovers() }
        var spec = try request.open(into: &files, keyboard: keyboard?.reader)
        var screen = try ScreenProcess(
            request.display, request.screenAccess, folder: folder, files: &files, spec: &spec)
        do throws(SpecError) {
            try spec.validate(resourceCount: files.descriptors.count)
        } catch {
            throw .usage(error)
        }
        let machine = try host { () throws(HostError) in
            let viewer = try screen?.start()
            return try start(spec, resources: files.descriptors, keptLock: folder.lock, screen: viewer)
        }
        let desk = requestDesk(at: folder.controlSocket, &files)
        let gateway = try host { () throws(HostError) in
            let gateway = try screen?.gateway()
            try gateway?.start()
            return gateway
        }
        if let screen { Console.say("ospite: \(screen.invitation).") }
        if let invitation = request.debuggerInvitation { Console.say("ospite: \(invitation)") }
        // Our ends would keep the screen's process from noticing that the machine is gone.
        screen = nil
        files.closeAll()
        files.placePerfMap(process: machine.child.identifier)
        let supervisor = Supervisor(
            machine: machine, signals: signals, terminal: terminal, keyboard: keyboard?.writer, desk: desk)
        let status = supervisor.run()
        gateway?.stop()
        return status
    }

    /// A machine runs without, too.
    private static func requestDesk(at path: String, _ files: inout OpenedFiles) -> RequestDesk? {
        do throws(HostError) {
            return RequestDesk(try files.listen(at: .unixSocket(path: path)))
        } catch {
            Console.say("ospite: The discs of this machine cannot be changed: \(error).")
            return nil
        }
    }

    /// Starts the machine's process and sends it the description.
    private static func start(
        _ spec: MachineSpec, resources: [Descriptor], keptLock: Descriptor, screen: ChildProcess?
    ) throws(HostError) -> MachineProcess {
        let program = try HostCall.sibling("ospite-vmm")
        let (ours, theirs) = try Descriptor.socketPair(packets: true)
        let lifetime = try Descriptor.pipe()
        let null = try Descriptor.open("/dev/null", flags: O_RDWR)
        // The order that InheritedDescriptor promises.
        let inherited =
            [null, null, HostCall.standardError, theirs, lifetime.reader] + resources + [keptLock]
        let child = try ChildProcess(path: program, arguments: ["--lifetime"], descriptors: inherited)
        let socket = ControlSocket(ours)
        // A process that is gone already is told by its end.
        try? socket.send(MachineCommand.configure(spec, resourceCount: resources.count).frame)
        return MachineProcess(child: child, screen: screen, control: socket, lifetime: lifetime.writer)
    }

    /// A program started without standard descriptors would get its own files under their numbers.
    private static func fillStandardDescriptors() throws(RunFailure) {
        for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
            let null = try host { () throws(HostError) in try Descriptor.open("/dev/null", flags: O_RDWR) }
            // The lowest free number is the missing one.
            precondition(null.number == descriptor, "a descriptor got another number than the lowest")
            fillers.withLock { $0.append(null) }
        }
    }

    /// They stay open to the end.
    private static let fillers = Mutex<[Descriptor]>([])

    private static func host<T>(_ body: () throws(HostError) -> T) throws(RunFailure) -> T {
        do throws(HostError) {
            return try body()
        } catch {
            throw .host("The machine cannot be started: \(error).")
        }
    }
}

/// The process of a machine, as its owner holds it.
struct MachineProcess {
    let child: ChildProcess
    /// Shows its screen.
    let screen: ChildProcess?
    let control: ControlSocket
    /// While this descriptor is open the machine has an owner.
    let lifetime: Descriptor
}
