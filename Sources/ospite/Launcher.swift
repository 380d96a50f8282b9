internal import Glibc
internal import LinuxHost
internal import MachineControl
internal import MachineSpec

/// From the options of `ospite run` to a running machine, and on to its exit status.
enum Launcher {
    static func run(_ command: RunCommand) throws(RunFailure) -> Int32 {
        let request = try MachineRequest(command)
        try fillStandardDescriptors()
        let signals = try host { () throws(HostError) in
            try HostCall.signalDescriptor(for: Supervisor.signals)
        }
        _ = signal(SIGPIPE, SIG_IGN)
        let folder = try RuntimeFolder(name: request.spec.name)
        defer { folder.remove() }

        let usesStandardStreams = request.serial.contains(.standardStreams)
        let terminal = usesStandardStreams ? Terminal() : nil
        let keyboard = try terminal.map { _ throws(RunFailure) in
            try host { () throws(HostError) in try HostCall.pipePair() }
        }
        var files = OpenedFiles()
        defer { files.removeSockets() }
        let spec = try request.open(into: &files, keyboard: keyboard?.read)
        do throws(SpecError) {
            try spec.validate(resourceCount: files.descriptors.count)
        } catch {
            throw .usage(error)
        }
        let machine = try host { () throws(HostError) in
            try start(spec, resources: files.descriptors, keptLock: folder.lock)
        }
        files.closeAll()
        let supervisor = Supervisor(
            machine: machine, signals: signals, terminal: terminal, keyboard: keyboard?.write ?? -1)
        return supervisor.run()
    }

    /// Starts the machine's process and sends it the description.
    private static func start(
        _ spec: MachineSpec, resources: [Int32], keptLock: Int32
    ) throws(HostError) -> MachineProcess {
        let program = try machineProgram()
        let control = try HostCall.socketPair()
        let lifetime = try HostCall.pipePair()
        let null = try HostCall.open("/dev/null", O_RDWR)
        defer { for descriptor in [control.theirs, lifetime.read, null] { _ = close(descriptor) } }
        let inherited =
            [null, null, STDERR_FILENO, control.theirs, lifetime.read] + resources + [keptLock]
        precondition(inherited.firstIndex(of: control.theirs) == Int(InheritedDescriptor.control))
        let child = try ChildProcess(path: program, arguments: ["--lifetime"], descriptors: inherited)
        let socket = ControlSocket(owning: control.ours)
        try socket.send(MachineCommand.configure(spec, resourceCount: resources.count).frame)
        return MachineProcess(child: child, control: socket, lifetime: lifetime.write)
    }

    /// `ospite-vmm` beside our own program.
    private static func machineProgram() throws(HostError) -> String {
        let own = try HostCall.executablePath()
        let folder = own.lastIndex(of: "/").map { String(own[..<$0]) } ?? "."
        let path = folder + "/ospite-vmm"
        guard HostCall.isExecutable(path) else {
            throw HostError("\(path) is missing: install ospite and ospite-vmm into one folder", code: 0)
        }
        return path
    }

    /// A program started without standard descriptors would get its own files under their numbers.
    private static func fillStandardDescriptors() throws(RunFailure) {
        try host { () throws(HostError) in
            for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) < 0 {
                _ = try HostCall.open("/dev/null", O_RDWR)
            }
        }
    }

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
    let control: ControlSocket
    /// While this descriptor is open the machine has an owner.
    let lifetime: Int32
}
