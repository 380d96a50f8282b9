/// Selectors of the firmware configuration device (QEMU docs/specs/fw_cfg, "Standard items"; the numbers
/// between are those that firmware asks for).
public enum FirmwareConfigKey {
    public static let signature: UInt16 = 0x00, features: UInt16 = 0x01, uuid: UInt16 = 0x02
    public static let memorySize: UInt16 = 0x03, noGraphics: UInt16 = 0x04, processors: UInt16 = 0x05
    public static let kernelAddress: UInt16 = 0x07, kernelSize: UInt16 = 0x08
    public static let initialAddress: UInt16 = 0x0A, initialSize: UInt16 = 0x0B
    public static let bootMenu: UInt16 = 0x0E, processorLimit: UInt16 = 0x0F
    public static let kernelEntry: UInt16 = 0x10, kernelData: UInt16 = 0x11, initialData: UInt16 = 0x12
    public static let commandLineAddress: UInt16 = 0x13, commandLineSize: UInt16 = 0x14
    public static let commandLineData: UInt16 = 0x15
    public static let setupAddress: UInt16 = 0x16, setupSize: UInt16 = 0x17, setupData: UInt16 = 0x18
    public static let directory: UInt16 = 0x19
    /// Files have the selectors from here on, in the order of the directory.
    public static let firstFile: UInt16 = 0x20
    /// The ISA timer interrupt arrives at I/O APIC input 2 (x86 only).
    public static let timerOverride: UInt16 = 0x8002
}

/// The directory, selector 19h: be32 count, then entries of 64 bytes.
/// ```
///  be32 size | be16 selector | be16 reserved | 56 bytes of name with its NUL
/// ```
enum FirmwareConfigDirectory {
    static let nameSize = 56
}

/// What a DMA address points to (fw_cfg, "Guest-side DMA Interface"): be32 control, be32 length, be64
/// address; the selector is in bits 31..16 of the control.
enum FirmwareConfigDMA {
    static let size = 16
    static let lengthOffset = 4, addressOffset = 8
    static let error: UInt32 = 1 << 0, read: UInt32 = 1 << 1, skip: UInt32 = 1 << 2
    static let select: UInt32 = 1 << 3, write: UInt32 = 1 << 4
    /// What the address register reads as: "QEMU CFG", the first byte first.
    static let signature = Array("QEMU CFG".utf8)
}
