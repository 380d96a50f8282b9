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
        let spec = try request.open(into: &files, keyboard: keyboard?.reader)
        do throws(SpecError) {
            try spec.validate(resourceCount: files.descriptors.count)
        } catch {
            throw .usage(error)
        }
        let machine = try host { () throws(HostError) in
            try start(spec, resources: files.descriptors, keptLock: folder.lock)
        }
        files.closeAll()
        files.placePerfMap(process: machine.child.identifier)
        let supervisor = Supervisor(
            machine: machine, signals: signals, terminal: terminal, keyboard: keyboard?.writer)
        return supervisor.run()
    }

    /// Starts the machine's process and sends it the description.
    private static func start(
        _ spec: MachineSpec, resources: [Descriptor], keptLock: Descriptor
    ) throws(HostError) -> MachineProcess {
        let program = try machineProgram()
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
        return MachineProcess(child: child, control: socket, lifetime: lifetime.writer)
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
    let control: ControlSocket
    /// While this descriptor is open the machine has an owner.
    let lifetime: Descriptor
}
