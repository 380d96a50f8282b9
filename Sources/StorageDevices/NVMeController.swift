public import BlockStorage
public import DeviceModel
public import PCIBus

/// An NVM Express 1.4 controller with one disk as its only namespace: an administrator's queue and up to 16
/// more, each with an MSI-X vector. BAR 0 is its registers.
///
/// Confinement: any thread.
public final class NVMeController: Device {
    public static let kind = "nvme"
    /// With the administrator's.
    static let queueCount = 17
    /// Of the administrator, and of all other queues together: under way, or ended without room to say so.
    static let mostCommands = 512
    static let errorEntries = 4

    public struct Saved: Codable, Sendable, Equatable {
        var function: PCIFunction.Saved
        var registers: Registers
    }

    private let core: NVMeCore
    public let function: PCIFunction

    /// `serial` has at most 20 ASCII characters, and is no other controller's in the machine.
    public init(_ context: DeviceContext, _ backend: any BlockBackend, serial: String) {
        let interrupts = PCIInterrupts(vectors: Self.queueCount, target: context.msi)
        let core = NVMeCore(context.memory, backend, NVMeIdentity(serial: serial), interrupts)
        self.core = core
        function = PCIFunction(
            PCIFunctionLayout(
                // There is no number of our own; systems know the kind of device by its class.
                identity: PCIIdentity(
                    vendor: 0x1B36, device: 0x00F5, classCode: 0x01_08_02, revision: 1,
                    subsystemVendor: 0x1AF4, subsystem: 0x1100),
                bars: [BARLayout(.memory64, size: NVMeRegister.size)],
                interruptPin: 1,
                msix: MSIXPlacement(
                    bar: 0, table: NVMeRegister.msixTable, pending: NVMeRegister.msixPending)),
            interrupts: interrupts, handler: core)
    }

    public func reset() {
        core.reset()
        function.reset()
    }

    public func pause() { core.pause() }
    public func resume() { core.resume() }
    public func save() -> Saved { Saved(function: function.save(), registers: core.registers) }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.registers.isPossible, core.restore(saved.registers) else {
            throw RestoreError(Self.kind, "a register or a queue")
        }
        try function.restore(saved.function)
    }
}
