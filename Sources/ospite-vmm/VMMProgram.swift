internal import Glibc
internal import LinuxHost
internal import Machine
internal import MachineControl
internal import MachineSpec
internal import VMMSandbox

/// The process of one machine. It is born with every descriptor that it needs, opens nothing, and is inside
/// its sandbox before it looks at anything that comes from a guest or an image.
@main
enum VMMProgram {
    private static let usage: Int32 = 64

    static func main() {
        switch Array(CommandLine.arguments.dropFirst()) {
        case ["--lifetime"]: exit(runMachine(hasLifetime: true))
        case []: exit(runMachine(hasLifetime: false))
        case ["--sandbox-self-test"]: exit(SandboxSelfTest.run())
        case let arguments where arguments.count == 3 && arguments[0] == "--sandbox-probe":
            exit(SandboxSelfTest.probe(threadClass: arguments[1], call: arguments[2]))
        default:
            say("ospite-vmm is started by ospite: use ospite run.")
            exit(usage)
        }
    }

    private static func runMachine(hasLifetime: Bool) -> Int32 {
        guard fcntl(InheritedDescriptor.control, F_GETFD) >= 0 else {
            say("ospite-vmm is started by ospite: use ospite run.")
            return usage
        }
        let control = ControlSocket(Descriptor(adopting: InheritedDescriptor.control))
        let tell: @Sendable (MachineReport) -> Void = { report in
            // An owner that is gone needs no report.
            try? control.send(report.frame)
        }
        do throws(HostError) {
            return try run(control, hasLifetime: hasLifetime, tell: tell)
        } catch {
            tell(.failed("The machine's process cannot start: \(error)."))
            return 1
        }
    }

    private static func run(
        _ control: ControlSocket, hasLifetime: Bool, tell: @escaping @Sendable (MachineReport) -> Void
    ) throws(HostError) -> Int32 {
        HostSignals.ignoreBrokenPipes()
        guard let (spec, resources) = try configuration(from: control, tell: tell) else { return 1 }
        ProcessSetup.closeStrangers(resourceCount: resources.count)
        ProcessSetup.setName(spec.name)
        try ProcessPrivileges.renounce()
        let sandbox = Sandbox(mode: spec.sandbox)
        try sandbox.confineProcess()
        HostThread.onStart { name in
            // A thread that cannot be fenced in must not run at all.
            guard (try? sandbox.confine(ThreadClass(threadNamed: name))) != nil else { _exit(1) }
        }
        let commands = CommandInbox()
        if hasLifetime { try OwnerThreads.watchLifetime() }
        try OwnerThreads.readCommands(from: control, into: commands, tell: tell)
        // A thread that cannot be fenced in must not run at all.
        let confineMain = { if (try? sandbox.confine(.main)) == nil { _exit(1) } }
        if spec.options.contains(.idle) {
            confineMain()
            return IdleMachine.run(spec: spec, resources: resources, commands: commands, events: tell)
        }
        return MachineRunner.run(
            spec: spec, resources: resources, commands: commands, whenBuilt: confineMain, events: tell)
    }

    /// The first frame. nil after a report that it is not one.
    private static func configuration(
        from control: ControlSocket, tell: (MachineReport) -> Void
    ) throws(HostError) -> (MachineSpec, MachineResources)? {
        guard let frame = try control.receive() else { return nil }
        do throws(WireError) {
            guard case .configure(let spec, let count) = try MachineCommand(frame: frame) else {
                tell(.failed("The machine's process was sent a command before its description."))
                return nil
            }
            return (spec, MachineResources(count: count))
        } catch {
            tell(.failed("The machine's process refuses its description: \(error)."))
            return nil
        }
    }

    static func say(_ sentence: String) {
        let bytes = Array((sentence + "\n").utf8)
        // SAFETY: the array's own bytes and count.
        _ = unsafe write(STDERR_FILENO, bytes, bytes.count)
    }
}
