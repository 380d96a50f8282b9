internal import DeviceModel
internal import PCIBus
internal import Synchronization

/// The root complex register block of the ICH9 (data sheet 316972 §10), where the ISA bridge's register says.
/// All that is in it is the statement that the watchdog does not reset the machine: there is none.
///
/// Confinement: any thread.
final class RootComplexRegisters: MemoryMappedDevice, PCIFunctionHandler {
    static let kind = "root-complex-registers"
    /// RCBA in the configuration space of the ISA bridge, §13.1.36: bit 0 switches the block on.
    static let baseRegister = 0xF0

    struct Saved: Codable, Sendable, Equatable {}

    private static let enable: UInt64 = 1, addressMask: UInt64 = 0xFFFF_C000, size: UInt64 = 0x4000
    /// GCS, §10.1.76, and its bit NR.
    private static let generalControl: UInt64 = 0x3410, noReboot: UInt64 = 0x20

    private struct Mapping {
        var address: UInt64?
        var handle = 0
    }
    private let mmio: MMIOBus
    private let mapping = Mutex(Mapping())

    init(_ mmio: MMIOBus) { self.mmio = mmio }

    func configurationChanged(_ range: Range<Int>, of function: PCIFunction) {
        guard range.overlaps(Self.baseRegister..<Self.baseRegister + 4) else { return }
        mapping.withLock { mapping in
            let register = UInt64(function.readConfig(offset: Self.baseRegister, count: 4))
            let wanted = register & Self.enable != 0 ? register & Self.addressMask : nil
            guard wanted != mapping.address else { return }
            if mapping.address != nil { mmio.unmap(mapping.handle) }
            mapping.address = wanted
            if let wanted { mapping.handle = mmio.map(self, at: wanted, size: Self.size) }
        }
    }

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 { width.mask }
    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {}

    func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        offset == Self.generalControl ? Self.noReboot : 0
    }
    func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {}

    func reset() {}
    func save() -> Saved { Saved() }
    func restore(_ saved: Saved) throws(RestoreError) {}
}
