internal import DeviceModel
internal import GuestMemory
internal import LinuxHost
public import MachineControl
public import MachineSpec
internal import SoftCPU
internal import Synchronization
internal import VCPUEngine
internal import X86Architecture

/// Builds a machine and runs it to its end.
public enum MachineRunner {
    /// Runs on the main thread of `ospite-vmm`, already inside the process-wide sandbox, until the machine
    /// ends. Returns the status for the process.
    ///
    /// - `spec` has passed `MachineSpec.validate`.
    /// - `whenBuilt` runs on the calling thread between building the machine and starting it: what only the
    ///   building needs can be given up.
    /// - `commands`: power button, stop, pause and resume arrive on the control thread.
    /// - Each thread that the machine starts is fenced in by its name (`HostThread.onStart`, which the
    ///   process sets; `ThreadClass` in VMMSandbox has the names).
    /// - `events` may be called from any thread. `.exited` or `.failed` is the last one.
    public static func run(
        spec: MachineSpec, resources: MachineResources, commands: CommandInbox, whenBuilt: () -> Void = {},
        events: @escaping @Sendable (MachineReport) -> Void
    ) -> Int32 {
        let inbox = RunInbox()
        commands.listen { inbox.post(.command($0, $1)) }
        do throws(BoardError) {
            let machine = try RunningMachine(spec: spec, resources: resources, inbox: inbox, events: events)
            try machine.startDevices()
            whenBuilt()
            return try machine.run()
        } catch {
            events(.failed(error.description))
            return 1
        }
    }
}

/// What happens to a running machine, in the order in which it happened.
enum RunEvent: Sendable {
    case command(MachineCommand, Descriptor?)
    case machine(MachineEvent)
    case vcpu(Int, VCPUThread.Event)
    /// The debugger's connection has something.
    case debugger
}

/// Where events wait for the main thread. A guest that floods it with the same event adds nothing.
final class RunInbox: Sendable {
    private let events = Mutex<[RunEvent]>([])
    private let parker = Parker()
    private static let capacity = 1024

    /// Returns whether there was room.
    @discardableResult func post(_ event: RunEvent) -> Bool {
        let hasRoom = events.withLock { events in
            let hasRoom = events.count < Self.capacity
            if hasRoom { events.append(event) }
            return hasRoom
        }
        parker.unpark()
        return hasRoom
    }

    /// There is always room for one, and one is enough.
    func postDebugger() {
        events.withLock { events in
            let isThere = events.contains { event in
                if case .debugger = event { true } else { false }
            }
            if !isThere { events.append(.debugger) }
        }
        parker.unpark()
    }

    func next() -> RunEvent {
        while true {
            if let event = events.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { return event }
            parker.park()
        }
    }

    /// Drops what devices and vCPUs said before a reset.
    func forgetMachineEvents() {
        events.withLock { events in
            events.removeAll { event in
                switch event {
                case .command, .debugger: false
                case .machine, .vcpu: true
                }
            }
        }
    }
}
