public import DeviceModel

/// The state of a device that keeps none.
public struct NoState: Codable, Sendable, Equatable {
    public init() {}
}

/// The pvpanic device at port 505h: the guest writes one byte to say how it died (QEMU, docs/specs/pvpanic).
/// Reading returns the events that this machine understands.
///
/// Confinement: any thread.
public final class PanicNotifier: PortDevice {
    public static let kind = "pvpanic"
    public let ports: [ClosedRange<UInt16>] = [0x505...0x505]
    private enum Event {
        static let panicked: UInt32 = 1, crashLoaded: UInt32 = 2
    }
    private let report: @Sendable (MachineEvent) -> Void

    public init(_ context: DeviceContext) { report = context.report }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        Event.panicked | Event.crashLoaded | 0xFFFF_FF00
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let events = value & (Event.panicked | Event.crashLoaded)
        if events != 0 { report(.panicked(events)) }
    }

    public func reset() {}
    public func save() -> NoState { NoState() }
    public func restore(_ saved: NoState) throws(RestoreError) {}
}
