/// Registers of a virtio device in memory, VIRTIO 1.3 §4.2.2, table 4.1. All are 32 bits wide but the
/// configuration.
enum MMIORegister {
    static let magic: UInt64 = 0x000
    static let version: UInt64 = 0x004
    static let deviceID: UInt64 = 0x008
    static let vendorID: UInt64 = 0x00C
    static let deviceFeatures: UInt64 = 0x010
    static let deviceFeatureSelect: UInt64 = 0x014
    static let driverFeatures: UInt64 = 0x020
    static let driverFeatureSelect: UInt64 = 0x024
    static let queueSelect: UInt64 = 0x030
    static let queueSizeMaximum: UInt64 = 0x034
    static let queueSize: UInt64 = 0x038
    static let queueReady: UInt64 = 0x044
    static let queueNotify: UInt64 = 0x050
    static let interruptStatus: UInt64 = 0x060
    static let interruptAcknowledge: UInt64 = 0x064
    static let status: UInt64 = 0x070
    static let queueDescriptorsLow: UInt64 = 0x080
    static let queueDescriptorsHigh: UInt64 = 0x084
    static let queueDriverLow: UInt64 = 0x090
    static let queueDriverHigh: UInt64 = 0x094
    static let queueDeviceLow: UInt64 = 0x0A0
    static let queueDeviceHigh: UInt64 = 0x0A4
    static let sharedMemoryLengthLow: UInt64 = 0x0B0
    static let sharedMemoryBaseHigh: UInt64 = 0x0BC
    static let queueReset: UInt64 = 0x0C0
    static let configGeneration: UInt64 = 0x0FC
    static let config: UInt64 = 0x100
    /// Registers and configuration, with room.
    static let size: UInt64 = 0x1000
}

enum MMIOValue {
    /// "virt", little-endian.
    static let magic: UInt32 = 0x7472_6976
    static let version: UInt32 = 2
    /// QEMU's, which drivers know.
    static let vendor: UInt32 = 0x554D_4551
}
