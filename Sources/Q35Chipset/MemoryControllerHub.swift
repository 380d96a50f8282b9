public import DeviceModel
public import PCIBus
internal import Synchronization

/// The host bridge of Intel's Q35 chipset at 0:0.0 (data sheet 316966 §5.1), as far as firmware uses it:
/// where ECAM is, and what the addresses from C0000h to FFFFFh show. It says that it is in a virtual machine
/// by its subsystem, as SeaBIOS and OVMF expect. There is no SMRAM: its registers hold what is written.
///
/// Confinement: any thread. Its lock comes before the function's, the bus's and the shadow memory's.
public final class MemoryControllerHub: PCIFunctionHandler {
    /// Offsets in configuration space, §5.1.
    private enum Register {
        static let ecam = 0x60, firstAttribute = 0x90, systemManagement = 0x9D, extendedManagement = 0x9E
    }
    /// PCIEXBAR, §5.1.16: bit 0 switches it on, bits 2..1 say 256, 128 or 64 buses.
    private enum ECAM {
        static let enable: UInt64 = 1 << 0
        static let addressMask: UInt64 = 0xF_FC00_0000
        static let bus: UInt64 = 1 << 20
    }

    private let shadow: ShadowMemory

    /// Puts the chipset's bridge onto the buses. The shadow memory is a device of its own, restored first.
    public static func makeBridge(
        context: DeviceContext, mmio: MMIOBus, portBus: PortBus, shadow: ShadowMemory
    ) -> PCIHostBridge {
        let hub = MemoryControllerHub(shadow)
        let bridge = PCIHostBridge(
            context: context, mmio: mmio, portBus: portBus, layout: layout, handler: hub)
        hub.connection.withLock { $0.host = bridge }
        return bridge
    }

    private struct Connection {
        weak var host: PCIHostBridge?
    }
    private let connection = Mutex(Connection())

    private init(_ shadow: ShadowMemory) { self.shadow = shadow }

    private static var layout: PCIFunctionLayout {
        PCIFunctionLayout(
            identity: PCIIdentity(
                vendor: 0x8086, device: 0x29C0, classCode: 0x06_00_00, subsystemVendor: 0x1AF4,
                subsystem: 0x1100),
            registers: [
                PCIRegister(Register.ecam, UInt64(PCIHostBridge.ecamAddress), writable: 0xF_FC00_0007),
                PCIRegister(
                    offset: Register.firstAttribute, value: [UInt8](repeating: 0, count: 7),
                    writable: [0x30] + [UInt8](repeating: 0x33, count: 6)),
                PCIRegister(Register.systemManagement, UInt8(0x02), writable: 0x78),
                PCIRegister(Register.extendedManagement, UInt8(0x38), writable: 0x87),
            ])
    }

    public func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 { width.mask }
    public func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {}

    public func configurationChanged(_ range: Range<Int>, of function: PCIFunction) {
        guard range.overlaps(Register.ecam..<Register.firstAttribute + 7) else { return }
        connection.withLock { connection in
            func word(_ offset: Int) -> UInt64 { UInt64(function.readConfig(offset: offset, count: 4)) }
            let ecam = word(Register.ecam) | word(Register.ecam + 4) << 32
            connection.host?.placeECAM(Self.window(ecam))
            shadow.apply(
                (0..<7).map { index in
                    UInt8(function.readConfig(offset: Register.firstAttribute + index, count: 1))
                })
        }
    }

    /// The reserved size decodes nothing; the address is aligned to the size.
    private static func window(_ register: UInt64) -> Range<UInt64>? {
        let size = register >> 1 & 3
        guard register & ECAM.enable != 0, size < 3 else { return nil }
        let bytes = (256 >> size) * ECAM.bus
        let start = register & ECAM.addressMask & ~(bytes - 1)
        return start..<start + bytes
    }
}
