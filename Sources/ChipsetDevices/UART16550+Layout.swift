/// PC16550D registers and bits (National Semiconductor PC16550D data sheet, table II).
enum UARTRegister {
    /// Receiver buffer / transmitter holding; divisor latch low with DLAB.
    static let data: UInt16 = 0
    /// Interrupt enable; divisor latch high with DLAB.
    static let interruptEnable: UInt16 = 1
    /// Interrupt identification (read), FIFO control (write).
    static let interruptIdentification: UInt16 = 2
    static let lineControl: UInt16 = 3
    static let modemControl: UInt16 = 4
    static let lineStatus: UInt16 = 5
    static let modemStatus: UInt16 = 6
    static let scratch: UInt16 = 7
}

enum UARTInterruptEnable {
    static let received: UInt8 = 1, transmitterEmpty: UInt8 = 2, lineStatus: UInt8 = 4, modemStatus: UInt8 = 8
}

/// Interrupt identification, in falling priority; bit 0 set means none.
enum UARTInterruptIdentification {
    static let lineStatus: UInt8 = 6, received: UInt8 = 4, timeout: UInt8 = 0xC, transmitterEmpty: UInt8 = 2
    static let modemStatus: UInt8 = 0, none: UInt8 = 1
    static let fifoEnabled: UInt8 = 0xC0
}

enum UARTFIFOControl {
    static let enable: UInt8 = 1, clearReceiver: UInt8 = 2, clearTransmitter: UInt8 = 4
    /// Bits 7..6 choose the receiver trigger level.
    static let triggerLevels = [1, 4, 8, 14]
}

enum UARTLineControl {
    static let wordLength: UInt8 = 3, breakControl: UInt8 = 0x40, divisorLatch: UInt8 = 0x80
}

enum UARTModemControl {
    static let dataTerminalReady: UInt8 = 1, requestToSend: UInt8 = 2, out1: UInt8 = 4, out2: UInt8 = 8
    static let loop: UInt8 = 0x10
    static let writable: UInt8 = 0x1F
}

enum UARTLineStatus {
    static let dataReady: UInt8 = 1, overrun: UInt8 = 2, parity: UInt8 = 4, framing: UInt8 = 8,
        breakSeen: UInt8 = 0x10
    static let holdingEmpty: UInt8 = 0x20, transmitterEmpty: UInt8 = 0x40, fifoError: UInt8 = 0x80
    /// The bits that raise the line-status interrupt and that a read clears.
    static let errors: UInt8 = 0x1E
}

enum UARTModemStatus {
    static let clearToSend: UInt8 = 0x10, dataSetReady: UInt8 = 0x20, ring: UInt8 = 0x40,
        carrier: UInt8 = 0x80
    /// Deltas, bits 3..0; the ring bit is a trailing edge.
    static let ringTrailingEdge: UInt8 = 4
}
