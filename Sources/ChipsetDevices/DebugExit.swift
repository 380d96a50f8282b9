public import DeviceModel

/// The debug-exit device at ports F4h-F7h: a write ends the machine with a status that holds the value. For
/// test kernels; built only when it is asked for. Reads give zero.
///
/// Confinement: any thread.
public final class DebugExit: PortDevice {
    public static let kind = "debug-exit"
    public let ports: [ClosedRange<UInt16>] = [0xF4...0xF7]
    private let report: @Sendable (MachineEvent) -> Void

    public init(_ context: DeviceContext) { report = context.report }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 { 0 }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        report(.debugExit(value & UInt32(truncatingIfNeeded: width.mask)))
    }

    public func reset() {}
    public func save() -> NoState { NoState() }
    public func restore(_ saved: NoState) throws(RestoreError) {}
}
