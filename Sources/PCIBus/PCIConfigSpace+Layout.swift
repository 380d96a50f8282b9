/// Offsets and bits of the type 0 configuration header (PCI Local Bus 3.0 §6.1, §6.2).
enum ConfigRegister {
    static let vendor = 0x00
    static let device = 0x02
    static let command = 0x04
    static let status = 0x06
    static let revision = 0x08
    static let classCode = 0x09
    static let cacheLineSize = 0x0C
    static let latencyTimer = 0x0D
    static let headerType = 0x0E
    static let firstBAR = 0x10
    static let subsystemVendor = 0x2C
    static let subsystem = 0x2E
    static let expansionROM = 0x30
    static let capabilities = 0x34
    static let interruptLine = 0x3C
    static let interruptPin = 0x3D
    static let firstCapability = 0x40
}

/// Expansion ROM base address register, §6.2.5.2: bit 0 switches the ROM on, if memory space is on too.
enum ConfigExpansionROM {
    static let enable: UInt32 = 1 << 0
    /// The address is in bits 31..11.
    static let smallest = 2048
    static let largest = 16 << 20
}

/// Command register, §6.2.2.
enum ConfigCommand {
    static let ioSpace: UInt16 = 1 << 0
    static let memorySpace: UInt16 = 1 << 1
    static let busMaster: UInt16 = 1 << 2
    static let parityErrorResponse: UInt16 = 1 << 6
    static let systemError: UInt16 = 1 << 8
    static let interruptDisable: UInt16 = 1 << 10
    static let writable =
        ioSpace | memorySpace | busMaster | parityErrorResponse | systemError | interruptDisable
}

/// Status register, low byte, §6.2.3. Nothing of ours ever sets the error bits of the high byte, so their
/// write-one-to-clear behaviour is that of a constant zero.
enum ConfigStatus {
    static let interrupt: UInt8 = 1 << 3
    static let capabilityList: UInt8 = 1 << 4
}

/// Capability identifiers (PCI Code and ID Assignment §2).
public enum PCICapabilityID {
    public static let msi: UInt8 = 0x05
    public static let vendorSpecific: UInt8 = 0x09
    public static let bridgeSubsystem: UInt8 = 0x0D
    public static let express: UInt8 = 0x10
    public static let msix: UInt8 = 0x11
}

/// MSI-X message control (PCI 3.0 §6.8.2.3), the word at offset 2 of the capability.
enum MSIXControl {
    static let enable: UInt16 = 1 << 15
    static let functionMask: UInt16 = 1 << 14
}
