internal import GDBRemote
internal import LinuxHost
internal import MachineControl
internal import MachineSpec
internal import VCPUEngine

/// The connection of a debugger, its session while one is there, and what it knows about the machine.
///
/// Confinement: the main thread of the machine's process.
final class Debugger {
    let connection: DebugConnection
    /// Nil: nobody is connected.
    var session: GDBSession?
    var machine: DebuggedMachine
    /// Watchpoints that other vCPUs hit while the machine came to its stop.
    var waiting: [(vcpu: Int, stop: DebugStop)] = []

    init(_ connection: DebugConnection, _ machine: DebuggedMachine) {
        self.connection = connection
        self.machine = machine
    }

    /// Whether the debugger wants vCPU `index` to stand still while others run.
    func keepsStill(_ index: Int) -> Bool { machine.still.contains(index) }

    func setStops() { machine.setStops() }

    func send() {
        if let bytes = session?.takeOutput() { connection.send(bytes) }
    }

    /// The machine ends.
    func end(status: Int32) {
        session?.ended(status: UInt8(truncatingIfNeeded: status))
        send()
        connection.close()
    }
}

extension RunningMachine {
    static func debugger(
        _ spec: MachineSpec, _ resources: MachineResources, _ board: Board, _ threads: [VCPUThread],
        _ inbox: RunInbox
    ) throws(BoardError) -> Debugger? {
        guard let debugger = spec.debugger else { return nil }
        do throws(HostError) {
            let connection = try DebugConnection(
                listener: Descriptor(adopting: resources[debugger.listener]), loop: board.eventLoop
            ) { inbox.postDebugger() }
            return Debugger(connection, DebuggedMachine(memory: board.memory, threads: threads))
        } catch {
            throw BoardError("The debugger's socket cannot be used: \(error).")
        }
    }

    /// Does what the debugger wants. Returns the status when the machine has ended of it.
    func talkToDebugger() -> Int32? {
        guard let debugger else { return nil }
        for event in debugger.connection.takeEvents() {
            switch event {
            case .connected:
                halt(for: .debugger)
                debugger.session = GDBSession()
            case .received(let bytes):
                debugger.session?.feed(bytes)
                while let action = debugger.session?.next(&debugger.machine) {
                    if let status = perform(action, debugger) { return status }
                }
                debugger.send()
            case .disconnected: leave(debugger)
            }
        }
        return nil
    }

    private func perform(_ action: DebugAction, _ debugger: Debugger) -> Int32? {
        switch action {
        case .resume(let running, let stepping):
            if let (vcpu, stop) = debugger.waiting.popLast() {
                debugger.session?.stopped(debugger.machine.report(stop, vcpu: vcpu), vcpu: vcpu)
                return nil
            }
            debugger.machine.plan(running: running, stepping: stepping)
            goOn(for: .debugger)
        case .interrupt:
            halt(for: .debugger)
            debugger.session?.stopped(.interrupted, vcpu: 0)
        case .detach:
            debugger.send()
            leave(debugger)
        case .kill:
            debugger.send()
            return end(.stopped)
        }
        return nil
    }

    /// No trace of a debugger is left, and the machine goes on.
    private func leave(_ debugger: Debugger) {
        guard debugger.session != nil else { return }
        debugger.session = nil
        debugger.waiting = []
        halt(for: .debugger)
        debugger.machine.removeAll()
        goOn(for: .debugger)
    }

    /// A vCPU came to a place where the debugger wanted it to stop.
    func stopForDebugger(_ stop: DebugStop, vcpu: Int) {
        guard let debugger, debugger.session != nil else {
            // It has left meanwhile.
            return releaseVCPUs()
        }
        guard !isHeld(by: .debugger) else {
            // A breakpoint is found again when the vCPU goes on.
            if case .watchpoint = stop { debugger.waiting.append((vcpu, stop)) }
            return
        }
        halt(for: .debugger)
        debugger.session?.stopped(debugger.machine.report(stop, vcpu: vcpu), vcpu: vcpu)
        debugger.send()
    }
}
