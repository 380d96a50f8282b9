// The seam between the process and the board: everything outside this file only knows `MachineRunner.run`.

public import MachineControl
public import MachineSpec
public import VMMSandbox

/// Builds a machine and runs it to its end.
public enum MachineRunner {
    /// Runs on the main thread of `ospite-vmm`, already inside the process-wide sandbox, until the machine
    /// ends. Returns the status for the process.
    ///
    /// - `spec` has passed `MachineSpec.validate`.
    /// - `commands`: power button, stop, pause and resume arrive on the control thread.
    /// - `sandbox`: each thread that the machine starts calls `sandbox.confine(_:)` first.
    /// - `events` may be called from any thread. `.exited` or `.failed` is the last one.
    public static func run(
        spec: MachineSpec, resources: MachineResources, commands: CommandInbox, sandbox: Sandbox,
        events: @escaping @Sendable (MachineReport) -> Void
    ) -> Int32 {
        events(.failed("This build has no machine."))
        return 1
    }
}
