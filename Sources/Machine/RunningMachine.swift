internal import CharacterBackends
internal import DeviceModel
internal import DisplayDevices
internal import KVMEngine
internal import LinuxHost
internal import MachineControl
internal import MachineSpec
internal import SoftCPU
internal import Synchronization
internal import VCPUEngine
internal import X86Architecture

/// A board with its vCPUs running, and the decisions of its life: start, pause, reset, end.
///
/// Confinement: the main thread of the machine's process.
final class RunningMachine {
    let spec: MachineSpec
    let board: Board
    private let inbox: RunInbox
    private let events: @Sendable (MachineReport) -> Void
    private let engine: MachineEngine
    let threads: [VCPUThread]
    /// Said once the machine has started.
    private let notice: String?
    private let screenText: Descriptor?
    /// Why the machine stands still, with its clocks.
    private var holders: Set<Holder> = []
    private var isPaused: Bool { !holders.isEmpty }
    let debugger: Debugger?
    /// In ACPI S3: no vCPU runs, devices wait for what wakes the machine.
    private var isAsleep = false
    private var said: Set<String> = []
    /// The host's time-stamp counter when the machine was paused.
    private var pausedAt: UInt64 = 0
    private let started = HostTime.monotonic

    enum Holder { case owner, debugger }

    init(
        spec: MachineSpec, resources: MachineResources, inbox: RunInbox,
        events: @escaping @Sendable (MachineReport) -> Void
    ) throws(BoardError) {
        self.spec = spec
        self.inbox = inbox
        self.events = events
        screenText = spec.firmware?.screenText.map { Descriptor(adopting: resources[$0]) }
        let (system, notice) = try Self.acceleration(spec, resources)
        self.notice = notice
        let tscFrequency = TimeStampCounter.frequency()
        let sleepers = SleepingThreads()
        let board = try Board(spec: spec, resources: resources, tscFrequency: tscFrequency) { event in
            let isKnown = inbox.post(.machine(event))
            if isKnown, event == .sleep { sleepers.hold() }
        }
        self.board = board
        engine = try MachineEngine(
            spec: spec, board: board, tscFrequency: tscFrequency, system: system,
            perfMap: spec.perfMap.map { PerfMap(Descriptor(adopting: resources[$0])) })
        var threads: [VCPUThread] = []
        for index in 0..<spec.cpuCount {
            threads.append(try Self.thread(try engine.makeVCPU(index), inbox))
        }
        self.threads = threads
        debugger = try Self.debugger(spec, resources, board, threads, inbox)
        sleepers.connect(threads)
    }

    /// The KVM to use, or nil for the software CPU, and what to say about it.
    private static func acceleration(
        _ spec: MachineSpec, _ resources: MachineResources
    ) throws(BoardError) -> (KVMSystem?, notice: String?) {
        guard let kvm = spec.kvm, spec.accelerator != .soft else {
            return (nil, try AcceleratorChoice.choose(spec.accelerator, host: .absent).notice)
        }
        let system: KVMSystem
        do throws(HostError) {
            system = try KVMSystem(Descriptor(adopting: resources[kvm]))
        } catch {
            let host = HostAcceleration.unusable(reason: error.description)
            return (nil, try AcceleratorChoice.choose(spec.accelerator, host: host).notice)
        }
        let choice = try AcceleratorChoice.choose(spec.accelerator, host: .measure(system))
        return (choice.usesKVM ? system : nil, choice.notice)
    }

    private static func thread(_ vcpu: any VCPU, _ inbox: RunInbox) throws(BoardError) -> VCPUThread {
        do throws(HostError) {
            return try VCPUThread(vcpu) { inbox.post(.vcpu($0, $1)) }
        } catch {
            throw BoardError("The thread of vCPU \(vcpu.index) cannot start: \(error).")
        }
    }

    // MARK: Life

    /// Starts the last threads; before `run`.
    func startDevices() throws(BoardError) {
        do throws(HostError) {
            try board.eventLoop.start()
            try board.screenOutput?.start()
        } catch {
            throw BoardError("The machine's event loop cannot start: \(error).")
        }
    }

    /// Returns the status for the process after the last report.
    func run() throws(BoardError) -> Int32 {
        try powerOn()
        events(.started(engine: engine.name))
        if let notice { events(.notice(notice)) }
        if spec.debugger?.waits == true { halt(for: .debugger) }
        releaseVCPUs()
        while true {
            switch inbox.next() {
            case .debugger:
                if let status = talkToDebugger() { return status }
            case .command(let command, let descriptor):
                if let status = handle(command, descriptor) { return status }
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
        let start = try board.powerOn()
        engine.clockBegins()
        // The guest's time-stamp counters start near zero, all at one value: they must never differ.
        let tscOffset = 0 &- TimeStampCounter.now
        for (index, thread) in threads.enumerated() {
            var state = index == 0 ? start : VCPUState()
            state.tscOffset = tscOffset
            state.activity = index == 0 ? .running : .waitingForStartup
            thread.restart(state)
        }
    }

    private func stopVCPUs() {
        for thread in threads { thread.hold() }
        for thread in threads { thread.waitUntilHeld() }
    }

    /// Unless something else still keeps them from running.
    func releaseVCPUs() {
        guard !isPaused, !isAsleep else { return }
        for (index, thread) in threads.enumerated() where debugger?.keepsStill(index) != true {
            thread.release()
        }
    }

    private func reset() throws(BoardError) {
        stopVCPUs()
        isAsleep = false
        for device in board.devices { device.pause() }
        inbox.forgetMachineEvents()
        try powerOn()
        if isPaused {
            // Who paused the machine decides when it goes on; its clocks just began.
            pausedAt = TimeStampCounter.now
            return engine.clockStops()
        }
        for device in board.devices { device.resume() }
        releaseVCPUs()
    }

    func end(_ reason: ExitReason) -> Int32 {
        stopVCPUs()
        debugger?.end(status: reason.exitStatus)
        for device in board.devices { device.pause() }
        for backend in board.serial { backend.close() }
        for image in board.images { image.close() }
        for drive in board.drives { drive.close() }
        engine.finish()
        if let screenText { writeScreen(to: screenText) }
        if spec.options.contains(.statistics) { reportStatistics() }
        events(.exited(reason))
        return reason.exitStatus
    }

    /// What a VGA in text mode shows; nothing in other modes.
    private func writeScreen(to file: Descriptor) {
        let text = board.screen?.textScreen?.text ?? ""
        try? file.write(Array((text + "\n").utf8), at: 0)
    }

    private func reportStatistics() {
        let nanoseconds = HostTime.monotonic - started
        let instructions = threads.reduce(UInt64(0)) { $0 + ($1.vcpu.instructionCount ?? 0) }
        let cpu = HostTime.processCPU
        events(.statistics("engine \(engine.name)"))
        for thread in threads {
            for line in thread.vcpu.statistics { events(.statistics(line)) }
        }
        for line in engine.statistics { events(.statistics(line)) }
        events(.statistics("guest instructions \(instructions)"))
        events(.statistics("wall time \(nanoseconds / 1_000_000) ms, host CPU time \(cpu / 1_000_000) ms"))
        for (index, image) in board.images.enumerated() {
            events(.statistics("disk \(index + 1) runs on \(image.method == .ring ? "io_uring" : "threads")"))
        }
        if cpu > 0 { events(.statistics("MIPS \(instructions * 1000 / max(cpu, 1))")) }
    }

    // MARK: Pause

    /// The machine stands still from now on, with its clocks; devices have finished what they began.
    func halt(for holder: Holder) {
        let wasRunning = holders.isEmpty
        holders.insert(holder)
        guard wasRunning else { return }
        stopVCPUs()
        pausedAt = TimeStampCounter.now
        engine.clockStops()
        board.clock.pause()
        for device in board.devices { device.pause() }
    }

    func isHeld(by holder: Holder) -> Bool { holders.contains(holder) }

    /// One reason less to stand still.
    func goOn(for holder: Holder) {
        guard holders.remove(holder) != nil, holders.isEmpty else { return }
        for device in board.devices { device.resume() }
        board.clock.resume()
        engine.clockGoesOn(threads, after: TimeStampCounter.now &- pausedAt)
        releaseVCPUs()
    }

    private func pause() {
        halt(for: .owner)
        events(.paused)
    }

    private func resume() {
        goOn(for: .owner)
        events(.resumed)
    }

    // MARK: Sleep

    /// A guest can do again and again what it does once.
    private func noteOnce(_ text: String) {
        if said.insert(text).inserted { events(.notice(text)) }
    }

    /// The vCPU that asked has stopped already, before its next instruction.
    private func sleep() {
        guard !isAsleep else { return }
        isAsleep = true
        stopVCPUs()
        noteOnce("The guest sleeps (S3). Its clock's alarm or the power button wakes it.")
    }

    /// Time went on meanwhile, and so do the time-stamp counters.
    private func wake() throws(BoardError) {
        guard isAsleep else { return }
        if !isPaused { for device in board.devices { device.pause() } }
        guard let state = try board.wakeUp() else {
            noteOnce("The guest slept and left no address to wake up at: it starts anew.")
            return try reset()
        }
        isAsleep = false
        for (index, thread) in threads.enumerated() {
            let old = thread.vcpu.state()
            var new = index == 0 ? state : VCPUState()
            new.tscOffset = old.tscOffset
            new.msrs[MSR.tscAdjust] = old.msrs[MSR.tscAdjust]
            new.clockLead = old.clockLead
            new.activity = index == 0 ? .running : .waitingForStartup
            thread.restart(new)
        }
        guard !isPaused else { return }
        for device in board.devices { device.resume() }
        releaseVCPUs()
    }

    // MARK: Engines

    /// KVM gave up on a vCPU: all of them go on on the software CPU.
    private func leaveKVM(because reason: String) throws(BoardError) {
        stopVCPUs()
        try engine.moveToSoftware(threads)
        debugger?.setStops()
        events(.notice("KVM cannot go on (\(reason)); the guest continues on the software CPU."))
        releaseVCPUs()
    }

    // MARK: Decisions

    private func handle(_ command: MachineCommand, _ descriptor: Descriptor?) -> Int32? {
        switch command {
        case .powerButton: board.power.pressPowerButton()
        case .stop: return end(.stopped)
        case .pause: pause()
        case .resume: resume()
        case .insertDisc(let number):
            guard let descriptor else { return refuseDisc("No disc came with the request.") }
            change(drive: number, to: descriptor)
        case .ejectDisc(let number): change(drive: number, to: nil)
        case .configure: events(.notice("A machine is configured only once."))
        }
        return nil
    }

    private func change(drive number: UInt8, to disc: Descriptor?) {
        do throws(BoardError) {
            try board.drive(Int(number)).change(to: disc)
            events(.discChanged)
        } catch {
            events(.discRefused(error.description))
        }
    }

    private func refuseDisc(_ sentence: String) -> Int32? {
        events(.discRefused(sentence))
        return nil
    }

    private func handle(_ event: MachineEvent) throws(BoardError) -> Int32? {
        switch event {
        case .powerOff: return end(.poweredOff)
        case .sleep: sleep()
        case .wake: try wake()
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
        case .cannotExecute(let reason, let identifier):
            // The machine may have moved since, because of another vCPU.
            guard identifier == ObjectIdentifier(threads[vcpu].vcpu) else { return nil }
            guard engine.isOnKVM else { throw BoardError("vCPU \(vcpu) cannot go on: \(reason).") }
            try leaveKVM(because: reason)
            return nil
        case .cannotGoOn(let reason):
            throw BoardError("vCPU \(vcpu) cannot go on: \(reason).")
        case .debug(let stop):
            stopForDebugger(stop, vcpu: vcpu)
            return nil
        }
    }
}

/// What stops the vCPUs inside the write that puts the machine to sleep, so that the one that wrote does not
/// reach its next instruction.
private final class SleepingThreads: Sendable {
    private let threads = AtomicLazyReference<Threads>()
    private final class Threads: Sendable {
        let all: [VCPUThread]
        init(_ all: [VCPUThread]) { self.all = all }
    }

    /// Once, before a vCPU runs.
    func connect(_ threads: [VCPUThread]) { _ = self.threads.storeIfNil(Threads(threads)) }

    func hold() {
        for thread in threads.load()?.all ?? [] { thread.hold() }
    }
}
