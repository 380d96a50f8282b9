internal import CLinux
internal import Glibc
internal import MachineControl
internal import MachineSpec

/// A machine without a guest (`ospite run --idle`): it echoes its first serial port, powers off when its
/// button is pressed, and otherwise waits. The proofs of life cycle and terminal handling use it.
enum IdleMachine {
    static func run(
        spec: MachineSpec, resources: MachineResources, commands: CommandInbox,
        events: @escaping @Sendable (MachineReport) -> Void
    ) -> Int32 {
        commands.listen { command, _ in
            switch command {
            case .powerButton: end(.poweredOff, events)
            case .stop: end(.stopped, events)
            case .pause: events(.paused)
            case .resume: events(.resumed)
            case .insertDisc, .ejectDisc: events(.discRefused("This machine has no CD drive."))
            case .configure: events(.notice("A machine is configured only once."))
            }
        }
        events(.started(engine: "none"))
        if case .stream(let input?, let output) = spec.serialPorts.first {
            echo(from: resources[input], to: resources[output])
        }
        // The control thread ends the process.
        while true { _ = poll(nil, 0, -1) }
    }

    private static func end(_ reason: ExitReason, _ events: (MachineReport) -> Void) {
        events(.exited(reason))
        exit(reason.exitStatus)
    }

    /// Until the end of the input, or of the reader of the output.
    private static func echo(from input: Int32, to output: Int32) {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            // SAFETY: at most the buffer's own count is written, and at most that is read back.
            let count = unsafe read(input, &buffer, buffer.count)
            if count < 0, ospite_get_errno() == EINTR { continue }
            guard count > 0, unsafe write(output, buffer, count) > 0 else { return }
        }
    }
}
