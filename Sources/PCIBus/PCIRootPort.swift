public import DeviceModel

/// A PCI Express root port with a slot (PCI Express 4.0 §7.1.3, §7.5.3; PCI-to-PCI Bridge Architecture 1.2
/// §3.2): a function of bus 0 that the firmware or the system gives a bus and windows. The slot's device is
/// there from the start: there is no hot plug.
///
/// Without its bus master bit no interrupt message from below passes. Memory that a device behind it reads
/// and writes by itself is not held up: SeaBIOS boots from such devices and leaves the bit of bridges alone.
///
/// Confinement: any thread.
public final class PCIRootPort: Device {
    public static let kind = "pcie-root-port"

    public struct Saved: Codable, Sendable, Equatable {
        public var function: PCIFunction.Saved
    }

    public let function: PCIFunction
    let bus = SecondaryBus()

    /// `number` tells the ports and slots of a machine apart, from 1 on; `isOccupied`: a device will be put
    /// behind it.
    public init(_ context: DeviceContext, number: Int, isOccupied: Bool) {
        precondition((1...255).contains(number), "ports are counted in a byte, from 1")
        function = PCIFunction(
            PCIFunctionLayout(
                identity: PCIIdentity(vendor: 0x1B36, device: 0x000C, classCode: 0x06_04_00),
                interruptPin: 1,
                capabilities: [
                    ExpressCapability.rootPort(number: UInt8(number), isOccupied: isOccupied),
                    RootPortCapability.messages, RootPortCapability.subsystem(vendor: 0x1AF4, 0x1100),
                ],
                registers: BridgeRegister.registers),
            interrupts: PCIInterrupts(vectors: 0, target: context.msi), handler: bus)
    }

    /// What is behind it; nil for nothing.
    public var deviceFunction: PCIFunction? { bus.function }
    /// The number of the bus behind it; nil before firmware or system have given it one.
    public var busNumber: Int? { bus.number }

    // MARK: As firmware does

    /// Gives the bus behind the port a number, which ends the buses behind it.
    func assign(bus number: Int) {
        precondition((1...255).contains(number), "bus 0 is the root complex's")
        function.writeConfig(
            offset: BridgeRegister.primaryBus, count: 4, value: UInt32(number) << 8 | UInt32(number) << 16)
    }

    /// Opens a window for memory of 32-bit addresses: a run of whole MiB.
    func open(memory range: Range<UInt64>) {
        let first = UInt32(truncatingIfNeeded: range.lowerBound >> 16) & 0xFFF0
        let last = UInt32(truncatingIfNeeded: (range.upperBound - 1) >> 16) & 0xFFF0
        function.writeConfig(offset: BridgeRegister.memoryBase, count: 4, value: first | last << 16)
        enable(ConfigCommand.memorySpace | ConfigCommand.busMaster)
    }

    /// Opens a window for ports: a run of whole 4 Ki.
    func open(io range: Range<UInt64>) {
        let first = UInt32(truncatingIfNeeded: range.lowerBound >> 8) & 0xF0
        let last = UInt32(truncatingIfNeeded: (range.upperBound - 1) >> 8) & 0xF0
        function.writeConfig(offset: BridgeRegister.ioBase, count: 2, value: first | last << 8)
        enable(ConfigCommand.ioSpace | ConfigCommand.busMaster)
    }

    private func enable(_ bits: UInt16) {
        let command = function.readConfig(offset: ConfigRegister.command, count: 2) | UInt32(bits)
        function.writeConfig(offset: ConfigRegister.command, count: 2, value: command)
    }

    // MARK: Lifecycle

    public func reset() { function.reset() }
    public func save() -> Saved { Saved(function: function.save()) }
    public func restore(_ saved: Saved) throws(RestoreError) { try function.restore(saved.function) }
}
