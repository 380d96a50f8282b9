/// Ports of the SMBus controller, from its I/O base (ICH9 data sheet 316972 §19.2).
enum SMBusRegister {
    static let status = 0x00, control = 0x02, command = 0x03, address = 0x04, data0 = 0x05, data1 = 0x06
    static let block = 0x07, packetError = 0x08, receiveAddress = 0x09, auxiliaryStatus = 0x0C
    static let auxiliaryControl = 0x0D, linkPins = 0x0E, busPins = 0x0F, slaveStatus = 0x10
    static let slaveCommand = 0x11
    /// Ports in all.
    static let count = 32
}

/// HST_STS, §19.2.1.
enum SMBusStatus {
    static let busy: UInt8 = 1 << 0
    static let interrupt: UInt8 = 1 << 1
    static let deviceError: UInt8 = 1 << 2
    static let busError: UInt8 = 1 << 3
    static let failed: UInt8 = 1 << 4
    static let alert: UInt8 = 1 << 5
    /// A semaphore of software: the first read after it was cleared finds zero.
    static let inUse: UInt8 = 1 << 6
    /// A byte has arrived, or is gone, where the buffer is not used.
    static let byteDone: UInt8 = 1 << 7
    /// What a one clears.
    static let clearable = interrupt | deviceError | busError | failed | alert | byteDone
    /// What asks for an interrupt.
    static let requests = interrupt | deviceError | busError | failed | byteDone
}

/// HST_CNT, §19.2.2.
enum SMBusControl {
    static let interruptEnable: UInt8 = 1 << 0
    static let kill: UInt8 = 1 << 1
    /// The next byte is the last one of a block.
    static let lastByte: UInt8 = 1 << 5
    /// Reads as zero.
    static let start: UInt8 = 1 << 6
    static let packetErrorCheck: UInt8 = 1 << 7
}

/// SMB_CMD, bits 4 to 2 of HST_CNT.
enum SMBusCommand: UInt8 {
    case quick = 0, byte, byteData, wordData, processCall, block, blockOfI2C, blockProcessCall
}

/// AUX_STS and AUX_CTL, §19.2.10 and §19.2.11.
enum SMBusAuxiliary {
    static let packetError: UInt8 = 1 << 0
    /// The controller itself checks the code of a packet.
    static let checksPackets: UInt8 = 1 << 0
    /// Blocks go through a buffer of 32 bytes.
    static let usesBuffer: UInt8 = 1 << 1
}

/// HOSTC in configuration space, §19.1.16.
enum SMBusConfiguration {
    static let offset = 0x40
    static let hostEnable: UInt8 = 1 << 0
    /// System management interrupts in the place of interrupts; there are none.
    static let systemManagement: UInt8 = 1 << 1
    /// Writes of blocks begin as those of I2C.
    static let formatsOfI2C: UInt8 = 1 << 2
}
