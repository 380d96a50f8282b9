internal import CharacterBackends
internal import DeviceModel
internal import LinuxHost
internal import MachineControl
internal import MachineSpec
internal import SoftCPU
internal import VCPUEngine
internal import X86Architecture

/// A board with its vCPUs running, and the decisions of its life: start, pause, reset, end.
///
/// Confinement: the main thread of the machine's process.
final class RunningMachine {
    private let spec: MachineSpec
    private let board: Board
    private let inbox: RunInbox
    private let events: @Sendable (MachineReport) -> Void
    private let engineName: String
    private let threads: [VCPUThread]
    private var isPaused = false
    private let started = HostTime.monotonic

    init(
        spec: MachineSpec, resources: MachineResources, inbox: RunInbox,
        events: @escaping @Sendable (MachineReport) -> Void
    ) throws(BoardError) {
        self.spec = spec
        self.inbox = inbox
        self.events = events
        let tscFrequency = TimeStampCounter.frequency()
        let board = try Board(spec: spec, resources: resources, tscFrequency: tscFrequency) {
            inbox.post(.machine($0))
        }
        self.board = board
        let engine = SoftEngine(
            memory: board.memory, vcpuCount: spec.cpuCount, tscFrequency: tscFrequency,
            codeCacheSize: Int(clamping: spec.codeCache.bytes))
        engineName = "soft"
        var threads: [VCPUThread] = []
        for index in 0..<spec.cpuCount {
            do throws(EngineError) {
                let vcpu = try engine.makeVCPU(index: index, apic: board.apics[index], platform: board.platform)
                board.links[index].connect(vcpu)
                threads.append(try Self.thread(vcpu, inbox))
            } catch {
                throw BoardError("vCPU \(index) cannot be made: \(error).")
            }
        }
        self.threads = threads
        self.engine = engine
    }

    /// Kept alive: its vCPUs refer to it.
    private let engine: SoftEngine

    private static func thread(_ vcpu: any VCPU, _ inbox: RunInbox) throws(EngineError) -> VCPUThread {
        do throws(HostError) {
            return try VCPUThread(vcpu) { inbox.post(.vcpu($0, $1)) }
        } catch {
            throw EngineError("\(error)")
        }
    }

    // MARK: Life

    /// Starts the last thread; before `run`.
    func startDevices() throws(BoardError) {
        do throws(HostError) {
            try board.eventLoop.start()
        } catch {
            throw BoardError("The machine's event loop cannot start: \(error).")
        }
    }

    /// Returns the status for the process after the last report.
    func run() throws(BoardError) -> Int32 {
        try powerOn()
        events(.started(engine: engineName))
        for thread in threads { thread.release() }
        while true {
            switch inbox.next() {
            case .command(let command):
                if let status = handle(command) { return status }
            case .machine(let event):
                if let status = try handle(event) { return status }
            case .vcpu(let index, let event):
                if let status = try handle(event, vcpu: index) { return status }
            }
        }
    }

    /// Devices and vCPUs as after power-on, kernel loaded; every vCPU is held.
    private func powerOn() throws(BoardError) {
        for thread in threads { thread.waitUntilHeld() }
        let plan = try board.powerOn()
        // The guest's time-stamp counters start near zero, all at one value: they must never differ.
        let tscOffset = 0 &- TimeStampCounter.now
        for (index, thread) in threads.enumerated() {
            var state = index == 0 ? plan.state : VCPUState()
            state.tscOffset = tscOffset
            state.activity = index == 0 ? .running : .waitingForStartup
            thread.vcpu.load(state)
        }
    }

    private func stopVCPUs() {
        for thread in threads { thread.hold() }
        for thread in threads { thread.waitUntilHeld() }
    }

    private func reset() throws(BoardError) {
        stopVCPUs()
        for device in board.devices { device.pause() }
        inbox.forgetMachineEvents()
        try powerOn()
        for device in board.devices { device.resume() }
        for thread in threads { thread.release() }
    }

    private func end(_ reason: ExitReason) -> Int32 {
        stopVCPUs()
        for device in board.devices { device.pause() }
        for backend in board.serial { backend.close() }
        for image in board.images { image.close() }
        if spec.options.contains(.statistics) { reportStatistics() }
        events(.exited(reason))
        return reason.exitStatus
    }

    private func reportStatistics() {
        let nanoseconds = HostTime.monotonic - started
        let instructions = threads.reduce(UInt64(0)) { $0 + ($1.vcpu.instructionCount ?? 0) }
        let cpu = HostTime.processCPU
        events(.statistics("guest instructions \(instructions)"))
        events(.statistics("wall time \(nanoseconds / 1_000_000) ms, host CPU time \(cpu / 1_000_000) ms"))
        for (index, image) in board.images.enumerated() {
            events(.statistics("disk \(index + 1) runs on \(image.method == .ring ? "io_uring" : "threads")"))
        }
        if cpu > 0 { events(.statistics("MIPS \(instructions * 1000 / max(cpu, 1))")) }
    }

    // MARK: Decisions

    private func handle(_ command: MachineCommand) -> Int32? {
        switch command {
        case .powerButton: board.power.pressPowerButton()
        case .stop: return end(.stopped)
        case .pause:
            if !isPaused {
                isPaused = true
                stopVCPUs()
                board.clock.pause()
                for device in board.devices { device.pause() }
            }
            events(.paused)
        case .resume:
            if isPaused {
                isPaused = false
                for device in board.devices { device.resume() }
                board.clock.resume()
                for thread in threads { thread.release() }
            }
            events(.resumed)
        case .configure: events(.notice("A machine is configured only once."))
        }
        return nil
    }

    private func handle(_ event: MachineEvent) throws(BoardError) -> Int32? {
        switch event {
        case .powerOff: return end(.poweredOff)
        case .reset:
            if spec.options.contains(.noReboot) { return end(.reset) }
            try reset()
        case .panicked(let bits):
            // Bit 0: the guest panicked. Bit 1: it loads a crash kernel and goes on.
            if bits & 1 != 0 { return end(.panicked) }
        case .debugExit(let value): return end(.debugExit(value))
        }
        return nil
    }

    private func handle(_ event: VCPUThread.Event, vcpu: Int) throws(BoardError) -> Int32? {
        switch event {
        case .shutdown:
            if spec.options.contains(.noReboot) { return end(.tripleFault) }
            try reset()
            return nil
        case .cannotGoOn(let reason):
            throw BoardError("vCPU \(vcpu) cannot go on: \(reason).")
        }
    }
}
