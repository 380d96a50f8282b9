public import DeviceModel
public import PCIBus
internal import Synchronization

/// The SMBus controller of Intel's ICH9 at 0:31.3 (data sheet 316972 §19) as a host, without its slave side.
/// On the bus are the configuration memories of the memory modules.
///
/// Confinement: any thread.
public final class SMBusController: Device {
    public static let kind = "smbus"
    public static let slot = LPCBridge.slot, functionNumber = 3

    public struct Saved: Codable, Sendable, Equatable {
        var function: PCIFunction.Saved
        var host: SMBusHost.State
    }

    public let function: PCIFunction
    private let registers: SMBusRegisters

    /// At most eight modules, from address 50h on.
    public init(_ context: DeviceContext, modules: [MemoryModule]) {
        let interrupts = PCIInterrupts(vectors: 0, target: context.msi)
        registers = SMBusRegisters(SMBusHost(memories: modules.map(\.description)), interrupts)
        typealias HostControl = SMBusConfiguration
        let enables = HostControl.hostEnable | HostControl.systemManagement | HostControl.formatsOfI2C
        function = PCIFunction(
            PCIFunctionLayout(
                identity: PCIIdentity(
                    vendor: 0x8086, device: 0x2930, classCode: 0x0C_05_00, revision: 2,
                    subsystemVendor: 0x1AF4, subsystem: 0x1100),
                bars: [nil, nil, nil, nil, BARLayout(.io, size: UInt64(SMBusRegister.count))],
                // INTB, as the chipset has it after a reset (D31IP, §10.1.55).
                interruptPin: 2,
                registers: [PCIRegister(HostControl.offset, UInt8(0), writable: enables)]),
            interrupts: interrupts, handler: registers)
    }

    // MARK: Lifecycle

    public func reset() {
        function.reset()
        registers.reset()
    }

    public func save() -> Saved { Saved(function: function.save(), host: registers.state) }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.host.isPossible else { throw RestoreError(Self.kind, "a place in a buffer") }
        try function.restore(saved.function)
        registers.restore(saved.host)
    }
}

/// The ports behind BAR 4.
private final class SMBusRegisters: PCIFunctionHandler {
    private let interrupts: PCIInterrupts
    private let host: Mutex<SMBusHost>

    init(_ host: SMBusHost, _ interrupts: PCIInterrupts) {
        self.host = Mutex(host)
        self.interrupts = interrupts
    }

    var state: SMBusHost.State { host.withLock { $0.state } }

    /// The pin follows with the lock held, so that levels keep their order.
    private func change<Result>(_ body: (inout SMBusHost) -> sending Result) -> sending Result {
        host.withLock { host in
            defer { interrupts.setPin(host.requestsInterrupt) }
            return body(&host)
        }
    }

    func reset() { change { $0.reset() } }
    func restore(_ state: SMBusHost.State) { change { $0.restore(state) } }

    func configurationChanged(_ range: Range<Int>, of function: PCIFunction) {
        guard range.contains(SMBusConfiguration.offset) else { return }
        change {
            $0.configuration = UInt8(
                truncatingIfNeeded: function.readConfig(offset: SMBusConfiguration.offset, count: 1))
        }
    }

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        change { host in
            var value: UInt64 = 0
            for byte in 0..<UInt64(width.bytes) {
                value |= UInt64(host.read(Int(clamping: offset &+ byte))) << (8 * byte)
            }
            return value
        }
    }

    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        change { host in
            for byte in 0..<UInt64(width.bytes) {
                host.write(Int(clamping: offset &+ byte), UInt8(truncatingIfNeeded: value >> (8 * byte)))
            }
        }
    }
}
