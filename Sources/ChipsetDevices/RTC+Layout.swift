/// MC146818A registers and bits (Motorola MC146818A data sheet), and the PC's CMOS bytes.
enum RTCRegister {
    static let seconds = 0, secondsAlarm = 1, minutes = 2, minutesAlarm = 3, hours = 4, hoursAlarm = 5
    static let weekday = 6, day = 7, month = 8, year = 9
    static let a = 0x0A, b = 0x0B, c = 0x0C, d = 0x0D
    static let century = 0x32
    static let time: Set<Int> = [seconds, minutes, hours, weekday, day, month, year, century]
}

/// Register A.
enum RTCControlA {
    static let updateInProgress: UInt8 = 0x80
    static let divider: UInt8 = 0x70
    /// 32.768 kHz crystal, counting.
    static let dividerRunning: UInt8 = 0x20
    /// 110b and 111b hold the divider chain in reset.
    static let dividerReset: UInt8 = 0x60
    static let rate: UInt8 = 0x0F
}

/// Register B.
enum RTCControlB {
    static let set: UInt8 = 0x80, periodic: UInt8 = 0x40, alarm: UInt8 = 0x20, update: UInt8 = 0x10
    static let binary: UInt8 = 0x04, hours24: UInt8 = 0x02
}

/// Register C, aligned with the enables of register B.
enum RTCFlags {
    static let request: UInt8 = 0x80, periodic: UInt8 = 0x40, alarm: UInt8 = 0x20, update: UInt8 = 0x10
    static let all: UInt8 = 0x70
}

/// Register D: RAM and time are valid.
enum RTCControlD { static let valid: UInt8 = 0x80 }

/// CMOS bytes that firmware reads for the memory size.
enum CMOSByte {
    /// Drive types, the first drive's in the upper half; what else is there.
    static let floppyDrives = 0x10, equipment = 0x14
    static let baseMemory = 0x15, extendedMemory = 0x17, extendedMemoryCopy = 0x30
    static let memoryAbove16MiB = 0x34
    static let memoryAbove4GiB = 0x5B
    static let processorCount = 0x5F
    static let checksum = 0x2E
    static let checksummed = 0x10...0x2D
}
