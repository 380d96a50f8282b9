/// What SMBIOS says about a machine to its inventory tools.
public struct SystemDescription: Sendable, Equatable, Codable {
    /// In the order of the written form, 16 bytes.
    public var uuid: [UInt8]
    public var manufacturer = "Ospite"
    public var product = "Ospite virtual machine"
    public var version = "1"
    /// Empty: not specified.
    public var serialNumber = ""
    /// Where RAM is, ascending; in bytes.
    public var ram: [Range<UInt64>]
    public var processors: Int
    /// Bytes of each DDR3 module that tells its size over the SMBus as well; empty: nothing else tells it,
    /// and one module of no certain kind holds everything.
    public var memoryModules: [UInt64] = []

    public init(uuid: [UInt8], ram: [Range<UInt64>], processors: Int) {
        self.uuid = uuid
        self.ram = ram
        self.processors = processors
    }
}
