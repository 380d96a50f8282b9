/// Why a machine ended, in the guest's terms.
public enum ExitReason: Equatable, Sendable {
    /// ACPI S5, or the machine's equivalent.
    case poweredOff
    /// A reset under `--no-reboot`.
    case reset
    /// The guest said that it panicked (pvpanic).
    case panicked
    /// A triple fault under `--no-reboot`.
    case tripleFault
    /// A write of this value to the debug-exit port.
    case debugExit(UInt32)
    /// The owner asked for it.
    case stopped

    /// The status that the programs end with.
    public var exitStatus: Int32 {
        switch self {
        case .poweredOff, .reset, .stopped: 0
        case .panicked, .tripleFault: 3
        case .debugExit(let value): Int32(UInt8(truncatingIfNeeded: (value << 1) | 1))
        }
    }
}

/// What a machine tells its owner.
public enum MachineReport: Equatable, Sendable {
    /// The first guest instruction is about to run on this engine: "kvm", "soft".
    case started(engine: String)
    /// One sentence that the user should see, and the machine goes on.
    case notice(String)
    /// One line of counters (`--stats`).
    case statistics(String)
    /// One plain sentence that says what to do; the machine ends with status 1.
    case failed(String)
    /// The machine ended.
    case exited(ExitReason)
    case paused
    case resumed
    /// What was asked for with a CD drive is done.
    case discChanged
    /// It is not: one plain sentence that says why, and what to do.
    case discRefused(String)

    public var frame: [UInt8] {
        var writer = WireWriter()
        let kind: UInt16
        switch self {
        case .started(let engine):
            kind = Wire.Kind.started
            writer.put(engine)
        case .notice(let text):
            kind = Wire.Kind.notice
            writer.put(text)
        case .statistics(let text):
            kind = Wire.Kind.statistics
            writer.put(text)
        case .failed(let text):
            kind = Wire.Kind.failed
            writer.put(text)
        case .exited(let reason):
            kind = Wire.Kind.exited
            writer.put(reason.code)
            writer.put(reason.detail)
        case .paused: kind = Wire.Kind.paused
        case .resumed: kind = Wire.Kind.resumed
        case .discChanged: kind = Wire.Kind.discChanged
        case .discRefused(let text):
            kind = Wire.Kind.discRefused
            writer.put(text)
        }
        return Wire.frame(kind: kind, payload: writer.bytes)
    }

    public init(frame: [UInt8]) throws(WireError) {
        var (kind, payload) = try Wire.open(frame)
        switch kind {
        case Wire.Kind.started: self = .started(engine: try payload.takeText())
        case Wire.Kind.notice: self = .notice(try payload.takeText())
        case Wire.Kind.statistics: self = .statistics(try payload.takeText())
        case Wire.Kind.failed: self = .failed(try payload.takeText())
        case Wire.Kind.exited:
            let code = try payload.take(UInt8.self)
            let detail = try payload.take(UInt32.self)
            guard let reason = ExitReason(code: code, detail: detail) else {
                throw WireError("there is no exit reason \(code)")
            }
            self = .exited(reason)
        case Wire.Kind.paused: self = .paused
        case Wire.Kind.resumed: self = .resumed
        case Wire.Kind.discChanged: self = .discChanged
        case Wire.Kind.discRefused: self = .discRefused(try payload.takeText())
        default: throw WireError("there is no report \(kind)")
        }
        try payload.finish()
    }
}

extension ExitReason {
    fileprivate var code: UInt8 {
        switch self {
        case .poweredOff: 0
        case .reset: 1
        case .panicked: 2
        case .tripleFault: 3
        case .debugExit: 4
        case .stopped: 5
        }
    }

    fileprivate var detail: UInt32 {
        if case .debugExit(let value) = self { value } else { 0 }
    }

    fileprivate init?(code: UInt8, detail: UInt32) {
        switch code {
        case 0: self = .poweredOff
        case 1: self = .reset
        case 2: self = .panicked
        case 3: self = .tripleFault
        case 4: self = .debugExit(detail)
        case 5: self = .stopped
        default: return nil
        }
    }
}
