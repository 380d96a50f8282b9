/// Registers of the host bus adapter, Serial ATA AHCI 1.3.1 §3.1.
enum HBARegister {
    static let capabilities: UInt64 = 0x00, control: UInt64 = 0x04, interruptStatus: UInt64 = 0x08
    static let portsImplemented: UInt64 = 0x0C, version: UInt64 = 0x10
    static let firstPort: UInt64 = 0x100, portSize: UInt64 = 0x80
    static let size: UInt64 = 0x1000
}

/// CAP, §3.1.1: 64-bit addresses, native command queueing, AHCI only, first-generation speed, 32 slots.
enum HBACapability {
    static let addresses64: UInt32 = 1 << 31, queueing: UInt32 = 1 << 30, ahciOnly: UInt32 = 1 << 18
    static let commandListOverride: UInt32 = 1 << 24
    static let speed: UInt32 = 1 << 20, slots: UInt32 = 31 << 8
}

/// GHC, §3.1.2.
enum HBAControl {
    static let reset: UInt32 = 1 << 0, interruptEnable: UInt32 = 1 << 1, ahciEnable: UInt32 = 1 << 31
}

/// Registers of a port, §3.3.
enum PortRegister {
    static let commandList: UInt64 = 0x00, commandListHigh: UInt64 = 0x04
    static let received: UInt64 = 0x08, receivedHigh: UInt64 = 0x0C
    static let interruptStatus: UInt64 = 0x10, interruptEnable: UInt64 = 0x14, command: UInt64 = 0x18
    static let taskFile: UInt64 = 0x20, signature: UInt64 = 0x24, status: UInt64 = 0x28
    static let control: UInt64 = 0x2C, error: UInt64 = 0x30, active: UInt64 = 0x34, issue: UInt64 = 0x38
}

/// PxIS and PxIE, §3.3.5.
enum PortInterrupt {
    static let register: UInt32 = 1 << 0, pioSetup: UInt32 = 1 << 1, setDeviceBits: UInt32 = 1 << 3
    static let connectChange: UInt32 = 1 << 6, readyChange: UInt32 = 1 << 22
    static let hostError: UInt32 = 1 << 29, taskFileError: UInt32 = 1 << 30
    static let enableMask: UInt32 = 0xFDC0_00FF
}

/// PxCMD, §3.3.7.
enum PortCommand {
    static let start: UInt32 = 1 << 0, override: UInt32 = 1 << 3, receive: UInt32 = 1 << 4
    static let slotShift: UInt32 = 8
    static let receiveRunning: UInt32 = 1 << 14, running: UInt32 = 1 << 15
    /// Spin up, power on, ATAPI, LED, interface control.
    static let stored: UInt32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 24 | 1 << 25 | 0xF << 28
}

/// PxSSTS with a device that is there and active at 1.5 Gbit/s; PxSCTL's request to reset the link; PxSERR's
/// "exchanged", §3.3.10 to §3.3.12.
enum PortLink {
    static let present: UInt32 = 0x113, detectMask: UInt32 = 0xF, detectReset: UInt32 = 1
    static let exchanged: UInt32 = 1 << 26
}

/// The command header, §4.2.2: flags and length of the PRDT, bytes moved, address of the table.
enum CommandHeader {
    static let size: UInt64 = 32
    /// CFL: the command FIS has so many dwords.
    static let lengthMask: UInt32 = 0x1F, lengths: ClosedRange<UInt32> = 2...16, registerLength: UInt32 = 5
    static let atapi: UInt32 = 1 << 5, write: UInt32 = 1 << 6
    static let clearBusy: UInt32 = 1 << 10
    static let bytesMoved: UInt64 = 4, table = 8
}

/// The command table, §4.2.3: command FIS, ATAPI command, PRDT of 16-byte entries.
enum CommandTable {
    static let packet = 0x40, packetSize = 16, regions: UInt64 = 0x80, entrySize: UInt64 = 16
    /// DBC: bits 21..0 hold the count less one.
    static let countMask: UInt32 = 0x3F_FFFF
}

/// Where the HBA stores what the device sends, §4.2.1, and the types of FIS (Serial ATA 3.0 §10.3).
enum ReceivedFIS {
    static let pioSetup: UInt64 = 0x20, register: UInt64 = 0x40, setDeviceBits: UInt64 = 0x58
    static let toDevice: UInt8 = 0x27, typeRegister: UInt8 = 0x34, typePIOSetup: UInt8 = 0x5F
    static let typeDeviceBits: UInt8 = 0xA1
    static let interrupt: UInt8 = 0x40
    static let isCommand: UInt8 = 0x80
}

/// Status and error bits (ATA8-ACS §6).
enum ATAStatus {
    static let error: UInt8 = 1 << 0, dataRequest: UInt8 = 1 << 3, seekComplete: UInt8 = 1 << 4
    static let ready: UInt8 = 1 << 6, busy: UInt8 = 1 << 7
    static let good = ready | seekComplete
}
enum ATAError {
    static let aborted: UInt8 = 1 << 2, notFound: UInt8 = 1 << 4, uncorrectable: UInt8 = 1 << 6
}
