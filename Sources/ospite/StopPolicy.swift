/// How a machine is brought to its end by signals: ask, then insist, then kill. Times are milliseconds of a
/// monotonic clock.
struct StopPolicy {
    enum Action: Equatable { case pressPowerButton, stop, kill, none }

    /// How long a guest may take to power off after the button.
    static let patience: Int64 = 10_000
    /// How long the machine's process may take to stop.
    static let stopPatience: Int64 = 2_000

    private enum State { case running, asked, stopping, killed }
    private var state = State.running
    /// When `deadlinePassed` is due; nil: never.
    private(set) var deadline: Int64?

    /// SIGINT or SIGTERM.
    mutating func signalled(at now: Int64) -> Action {
        switch state {
        case .running:
            state = .asked
            deadline = now + Self.patience
            return .pressPowerButton
        case .asked: return stopRequested(at: now)
        case .stopping, .killed: return .none
        }
    }

    /// Ctrl-A X, a hang-up, or a second signal.
    mutating func stopRequested(at now: Int64) -> Action {
        switch state {
        case .running, .asked:
            state = .stopping
            deadline = now + Self.stopPatience
            return .stop
        case .stopping, .killed: return .none
        }
    }

    /// The clock; call when `deadline` may have passed.
    mutating func tick(at now: Int64) -> Action {
        guard let due = deadline, now >= due else { return .none }
        switch state {
        case .asked: return stopRequested(at: now)
        case .stopping:
            state = .killed
            deadline = nil
            return .kill
        case .running, .killed:
            deadline = nil
            return .none
        }
    }

    /// The owner wanted the end, so a machine that died of it is no error.
    var endWasAskedFor: Bool { state == .stopping || state == .killed }
}
