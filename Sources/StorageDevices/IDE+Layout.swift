/// Ports of a channel in compatibility mode (PCI IDE Controller Specification 1.0 §2.1), and its line.
struct IDEPlace: Sendable {
    let command: UInt16, control: UInt16, line: Int
    static let all = [
        IDEPlace(command: 0x1F0, control: 0x3F6, line: 14),
        IDEPlace(command: 0x170, control: 0x376, line: 15),
    ]
    static let commandPorts: UInt16 = 8
}

/// The command block, ATA/ATAPI-7 volume 2 §5.
enum IDERegister {
    static let data: UInt16 = 0, error: UInt16 = 1, count: UInt16 = 2, low: UInt16 = 3, mid: UInt16 = 4
    static let high: UInt16 = 5, device: UInt16 = 6, status: UInt16 = 7
}

/// The device control register.
enum IDEControl {
    static let noInterrupt: UInt8 = 1 << 1, reset: UInt8 = 1 << 2, highOrder: UInt8 = 1 << 7
}

/// The bus master of a channel (Programming Interface for Bus Master IDE Controller 1.0 §2): eight ports.
enum IDEBusMaster {
    static let ports: UInt64 = 8
    static let command = 0, status = 2, table = 4
    static let start: UInt8 = 1 << 0, toMemory: UInt8 = 1 << 3
    static let active: UInt8 = 1 << 0, error: UInt8 = 1 << 1, interrupt: UInt8 = 1 << 2
    /// What software notes of the drives.
    static let capable: UInt8 = 3 << 5
    /// A region: le32 address, le16 count (0 is 64 KiB), le16 with "last" in bit 15. A table has 64 KiB.
    static let entrySize: UInt64 = 8, mostEntries = 8192
    static let last: UInt16 = 1 << 15
}

/// Commands by how their data moves; what a command does is the device's business.
enum IDECommand {
    static let readSectors: Set<UInt8> = [0x20, 0x21, 0xC4], readExtended: Set<UInt8> = [0x24, 0x29]
    static let writeSectors: Set<UInt8> = [0x30, 0x31, 0xC5], writeExtended: Set<UInt8> = [0x34, 0x39]
    static let dma: Set<UInt8> = [0xC8, 0xC9, 0xCA, 0xCB, 0x25, 0x35, 0x3D]
    static let identify: Set<UInt8> = [0xEC, 0xA1]
    /// Native queueing needs a SATA controller.
    static let queued: Set<UInt8> = [0x60, 0x61]
    /// Verify, read native maximum, flush: 48-bit commands without data.
    static let extended: Set<UInt8> = [0x42, 0x27, 0xEA]
    static let setMultiple: UInt8 = 0xC6
    static let packet: UInt8 = 0xA0, deviceReset: UInt8 = 0x08, diagnostics: UInt8 = 0x90
    /// What the controller asks of a device for a part of a transfer.
    static let partRead: UInt8 = 0x24, partWrite: UInt8 = 0x34
    /// The same command without "retry", which old drives had.
    static func modern(_ code: UInt8) -> UInt8 { code == 0xC9 ? 0xC8 : code == 0xCB ? 0xCA : code }
}
