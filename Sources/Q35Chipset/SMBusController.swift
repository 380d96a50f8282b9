public import DeviceModel
public import PCIBus
internal import Synchronization

/// The SMBus host controller of Intel's ICH9 at 0:31.3 (data sheet 316972 §20), with the serial presence
/// detect EEPROMs of the machine's memory at 50h and up. A transaction is over when the write that starts it
/// returns; only a transfer byte by byte waits for software in between. SMIs, the slave interface and alerts
/// are not there.
///
/// Confinement: any thread.
public final class SMBusController: Device {
    public static let kind = "smbus"
    public static let slot = 31, functionNumber = 3
    /// Slots for memory on a board.
    static let mostModules = 8
    private static let bar = 4

    public struct Saved: Codable, Sendable, Equatable {
        var function: PCIFunction.Saved
        var host: SMBusHost
    }

    public let function: PCIFunction
    private let registers: SMBusRegisters

    /// - Parameter memory: the machine's, in bytes.
    public init(_ context: DeviceContext, memory: UInt64) {
        let interrupts = PCIInterrupts(vectors: 0, target: context.msi)
        registers = SMBusRegisters(MemoryModule.modules(for: memory).map(\.contents), interrupts)
        var bars = [BARLayout?](repeating: nil, count: Self.bar)
        bars.append(BARLayout(.io, size: 32))
        function = PCIFunction(
            PCIFunctionLayout(
                identity: PCIIdentity(
                    vendor: 0x8086, device: 0x2930, classCode: 0x0C_05_00, revision: 2,
                    subsystemVendor: 0x1AF4, subsystem: 0x1100),
                bars: bars, interruptPin: 2,
                // HOSTC, §20.1.13: on, SMI, I2C; the reset bit is only ever read as 0.
                registers: [PCIRegister(SMBusRegisters.hostConfiguration, UInt8(0), writable: 0x07)]),
            interrupts: interrupts, handler: registers)
    }

    // MARK: Lifecycle

    public func reset() {
        registers.host.withLock { $0 = SMBusHost() }
        function.reset()
    }

    public func save() -> Saved { Saved(function: function.save(), host: registers.host.withLock { $0 }) }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.host.isPossible else { throw RestoreError(Self.kind, "a register or a transfer") }
        registers.host.withLock { $0 = saved.host }
        try function.restore(saved.function)
    }
}

/// The registers behind the BAR.
///
/// Confinement: any thread.
private final class SMBusRegisters: PCIFunctionHandler {
    static let hostConfiguration = 0x40
    private static let isOn: UInt32 = 1
    let host = Mutex(SMBusHost())
    private let modules: [[UInt8]]
    private let interrupts: PCIInterrupts
    private let configuration = Mutex<UInt32>(0)

    init(_ modules: [[UInt8]], _ interrupts: PCIInterrupts) {
        self.modules = modules
        self.interrupts = interrupts
    }

    func configurationChanged(_ range: Range<Int>, of function: PCIFunction) {
        guard range.contains(Self.hostConfiguration) else { return }
        configuration.withLock { $0 = function.readConfig(offset: Self.hostConfiguration, count: 1) }
    }

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        host.withLock { host in
            (0..<UInt64(width.bytes)).reduce(0) { $0 | UInt64(host.read(offset &+ $1)) << ($1 * 8) }
        }
    }

    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        let configuration = configuration.withLock { $0 }
        host.withLock { host in
            for place in 0..<UInt64(width.bytes) {
                host.write(
                    offset &+ place, UInt8(truncatingIfNeeded: value >> (place * 8)), modules,
                    isOn: configuration & Self.isOn != 0)
            }
            interrupts.setPin(host.wantsInterrupt)
        }
    }
}
