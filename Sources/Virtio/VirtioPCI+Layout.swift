/// Capability types of VIRTIO 1.3 §4.1.4.
enum VirtioCapability {
    static let common: UInt8 = 1
    static let notify: UInt8 = 2
    static let interruptStatus: UInt8 = 3
    static let device: UInt8 = 4
    static let configAccess: UInt8 = 5
}

/// Our BARs: MSI-X alone in one, so that a nested hypervisor can pass the other through; the registers in
/// four pages of the other.
enum VirtioBAR {
    static let msix = 1
    static let msixSize: UInt64 = 0x1_0000
    static let msixPending: UInt64 = 0x8000
    static let registers = 4
    static let registersSize: UInt64 = 0x4000
    static let common: UInt64 = 0x0000
    static let interruptStatus: UInt64 = 0x1000
    static let device: UInt64 = 0x2000
    static let notify: UInt64 = 0x3000
    static let regionSize: UInt64 = 0x1000
    /// Bytes between the notification addresses of two queues.
    static let notifyMultiplier: UInt32 = 4
}

/// struct virtio_pci_common_cfg, §4.1.4.3.
enum CommonRegister {
    static let deviceFeatureSelect = 0x00
    static let deviceFeature = 0x04
    static let driverFeatureSelect = 0x08
    static let driverFeature = 0x0C
    static let configVector = 0x10
    static let queueCount = 0x12
    static let deviceStatus = 0x14
    static let configGeneration = 0x15
    static let queueSelect = 0x16
    static let queueSize = 0x18
    static let queueVector = 0x1A
    static let queueEnable = 0x1C
    static let queueNotifyOffset = 0x1E
    static let queueDescriptors = 0x20
    static let queueDriver = 0x28
    static let queueDevice = 0x30
    static let queueNotifyData = 0x38
    static let queueReset = 0x3A
    static let size = 0x40
}
