public import DeviceModel
public import PCIBus
internal import Synchronization

/// The ISA bridge of Intel's ICH9 at 0:31.0 (data sheet 316972 §13.1), as far as firmware uses it. The power
/// management registers are at 600h whatever the register for them says, since firmware puts them there; the
/// legacy routing of PCI interrupts is what the ACPI tables say.
///
/// Confinement: any thread.
public final class LPCBridge: Device {
    public static let kind = "lpc-bridge"
    public static let slot = 31

    public struct Saved: Codable, Sendable, Equatable {
        var function: PCIFunction.Saved
    }

    /// Offsets in configuration space, §13.1.
    private enum Register {
        static let powerBase = 0x40, powerControl = 0x44, routeA = 0x60, serialInterrupts = 0x64
        static let routeE = 0x68, decodeRanges = 0x80, decodeEnables = 0x82, powerConfiguration = 0xA0
        static let firmwareSelect = 0xD0, firmwareDecode = 0xD8, firmwareControl = 0xDC
        static let complexBase = RootComplexRegisters.baseRegister
    }
    public let function: PCIFunction

    public init(_ context: DeviceContext, mmio: MMIOBus) {
        function = PCIFunction(
            Self.layout, interrupts: PCIInterrupts(vectors: 0, target: context.msi),
            handler: RootComplexRegisters(mmio))
    }

    private static var layout: PCIFunctionLayout {
        /// Not routed.
        let routes = UInt32(0x8080_8080)
        return PCIFunctionLayout(
            identity: PCIIdentity(
                vendor: 0x8086, device: 0x2918, classCode: 0x06_01_00, revision: 2, subsystemVendor: 0x1AF4,
                subsystem: 0x1100),
            registers: [
                PCIRegister(Register.powerBase, UInt32(1), writable: 0xFF80),
                PCIRegister(Register.powerControl, UInt8(0), writable: 0x87),
                PCIRegister(Register.routeA, routes, writable: 0x8F8F_8F8F),
                PCIRegister(Register.serialInterrupts, UInt8(0x10), writable: 0xFF),
                PCIRegister(Register.routeE, routes, writable: 0x8F8F_8F8F),
                PCIRegister(Register.decodeRanges, UInt16(0), writable: 0x1377),
                PCIRegister(Register.decodeEnables, UInt16(0), writable: 0x3F0F),
                PCIRegister(Register.powerConfiguration, UInt16(0), writable: 0x06FF),
                PCIRegister(Register.firmwareSelect, UInt64(0x0000_4567_0011_2233), writable: .max),
                PCIRegister(Register.firmwareDecode, UInt32(0x0000_FFCF), writable: 0xFFFF),
                PCIRegister(Register.firmwareControl, UInt8(0), writable: 0x1F),
                PCIRegister(Register.complexBase, UInt32(0), writable: 0xFFFF_C001),
            ])
    }

    // MARK: Lifecycle

    public func reset() { function.reset() }
    public func save() -> Saved { Saved(function: function.save()) }
    public func restore(_ saved: Saved) throws(RestoreError) { try function.restore(saved.function) }
}
