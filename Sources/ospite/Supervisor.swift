internal import Glibc
internal import LinuxHost
internal import MachineControl

/// Watches one machine from its start to its end: its reports, our signals and the keyboard. Confinement: the
/// main thread.
final class Supervisor {
    static let signals: [Int32] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGCHLD]

    private let machine: MachineProcess
    private let signals: SignalDescriptor
    private let terminal: Terminal?
    /// The write end of the pipe to the guest's serial port; nil: standard input goes there by itself.
    private var keyboard: Descriptor?
    private var escape = TerminalEscape()
    private var policy = StopPolicy()
    private let desk: RequestDesk?
    private var controlIsOpen = true
    private var failure: String?
    private var hasEnded = false
    private var screenHasEnded = false

    init(
        machine: MachineProcess, signals: SignalDescriptor, terminal: Terminal?, keyboard: Descriptor?,
        desk: RequestDesk?
    ) {
        self.machine = machine
        self.signals = signals
        self.terminal = terminal
        self.keyboard = keyboard
        self.desk = desk
        // A guest that does not listen must not hold us up.
        try? keyboard?.setNonBlocking(true)
    }

    /// Returns the exit status for our own process.
    func run() -> Int32 {
        terminal?.enterRaw()
        defer { terminal?.restore() }
        while true {
            let ready = HostCall.poll(
                [
                    signals.descriptor, controlIsOpen ? machine.control.descriptor : nil,
                    keyboard == nil ? nil : HostCall.standardInput,
                ] + (desk?.awaited ?? []), milliseconds: timeout())
            if ready[0], let end = takeSignals() { return finish(end) }
            if ready[1] { takeReport() }
            if ready[2] { takeKeys() }
            desk?.serve(ready[3...], machine.control)
            perform(policy.tick(at: Self.now()))
        }
    }

    private func timeout() -> Int32 {
        guard let deadline = policy.deadline else { return -1 }
        return Int32(clamping: max(0, deadline - Self.now()))
    }

    /// Handles what has arrived; the end of the machine, when that is among it.
    private func takeSignals() -> ChildProcess.End? {
        while let signal = signals.next() {
            switch signal {
            case SIGCHLD:
                noticeScreen()
                if let end = machine.child.end(waiting: false) { return end }
            case SIGINT, SIGTERM: perform(policy.signalled(at: Self.now()))
            case SIGHUP, SIGQUIT: perform(policy.stopRequested(at: Self.now()))
            case SIGTSTP: suspend()
            case SIGCONT: comeBack()
            default: break
            }
        }
        return nil
    }

    /// The machine goes on without a screen.
    private func noticeScreen() {
        guard !screenHasEnded, let end = machine.screen?.end(waiting: false) else { return }
        screenHasEnded = true
        if end != .exited(0) { Console.say("ospite: The screen's process ended early; the machine goes on.") }
    }

    /// Stops like any job, with the terminal as it was. The machine goes on.
    private func suspend() {
        terminal?.restore()
        _ = kill(getpid(), SIGSTOP)
        comeBack()
    }

    private func comeBack() {
        if let terminal, terminal.isForeground { terminal.enterRaw() }
    }

    private func takeReport() {
        do throws(HostError) {
            guard let frame = try machine.control.receive() else {
                controlIsOpen = false
                return
            }
            show(try? MachineReport(frame: frame))
        } catch {
            controlIsOpen = false
        }
    }

    private func show(_ report: MachineReport?) {
        switch report {
        case .discChanged, .discRefused: if let report { desk?.answer(report) }
        case .notice(let text): Console.say("ospite: \(text)")
        case .statistics(let text): Console.say(text)
        case .failed(let text): failure = text
        case .exited: hasEnded = true
        case .started, .paused, .resumed: break
        case nil: failure = "The machine's process sent a message that this ospite does not understand."
        }
    }

    private func takeKeys() {
        var buffer = [UInt8](repeating: 0, count: 4096)
        var count = 0
        switch try? HostCall.standardInput.read(into: &buffer) {
        case .moved(let moved): count = moved
        case .wouldBlock: break
        case .endOfFile, nil: keyboard = nil
        }
        var forGuest: [UInt8] = []
        for byte in buffer.prefix(count) {
            switch escape.feed(byte) {
            case .send(let byte): forGuest.append(byte)
            case .quit: perform(policy.stopRequested(at: Self.now()))
            case .help: for line in TerminalEscape.help { Console.say(line) }
            case .none: break
            }
        }
        // A guest that does not listen loses keys, as on a wire without flow control.
        _ = try? keyboard?.write(forGuest[...])
    }

    /// Milliseconds of the monotonic clock.
    private static func now() -> Int64 { Int64(HostTime.monotonic / 1_000_000) }

    private func perform(_ action: StopPolicy.Action) {
        switch action {
        case .pressPowerButton:
            Console.say("ospite: asked the guest to power off; once more, or ten seconds, end the machine.")
            send(.powerButton)
        case .stop: send(.stop)
        case .kill: machine.child.kill()
        case .none: break
        }
    }

    /// A machine that cannot be told is about to end, or the policy's clock will end it.
    private func send(_ command: MachineCommand) { try? machine.control.send(command.frame) }

    /// Shows the last reports and turns the end of the process into our status.
    private func finish(_ end: ChildProcess.End) -> Int32 {
        while controlIsOpen { takeReport() }
        if let screen = machine.screen, !screenHasEnded {
            // It ends by itself when the machine does; what hangs is not waited for.
            screen.kill()
            _ = screen.end(waiting: true)
        }
        terminal?.restore()
        if let failure { Console.say("ospite: \(failure)") }
        switch end {
        case .exited(let status):
            if failure == nil, !hasEnded { Console.say("ospite: The machine's process ended early.") }
            return status
        case .killed(SIGKILL) where policy.endWasAskedFor: return 0
        case .killed(SIGSYS):
            Console.say(
                "ospite: The sandbox ended the machine for a forbidden system call. "
                    + "Run it with --sandbox log and look for type=1326 in the kernel's log.")
            return 1
        case .killed(let signal):
            Console.say("ospite: The machine's process was ended by signal \(signal).")
            return 1
        }
    }
}
