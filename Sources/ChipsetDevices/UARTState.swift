import DeviceModel

/// The registers of a 16550A. The transmitter is instant: the holding register is always empty.
struct UARTState: Sendable {
    /// A received character with its own error bits (break).
    struct Character: Equatable, Sendable, Codable {
        var byte: UInt8
        var errors: UInt8 = 0
    }
    static let fifoSize = 16

    var interruptEnable: UInt8 = 0
    /// FCR bits 7..6 and 0.
    var fifoControl: UInt8 = 0
    var lineControl: UInt8 = 0
    var modemControl: UInt8 = 0
    var scratch: UInt8 = 0
    /// The reset value is not defined; 12 is 9600 baud.
    var divisor: UInt16 = 12
    /// At most `capacity` characters.
    var received: [Character] = []
    var overrun = false
    /// Deltas of the modem status, bits 3..0.
    var modemDeltas: UInt8 = 0
    var transmitterInterrupt = false
    /// When the character timeout happens, in machine time, and whether it did.
    var timeoutAt: UInt64?
    var timedOut = false

    init() { received.reserveCapacity(Self.fifoSize) }

    var fifoEnabled: Bool { fifoControl & UARTFIFOControl.enable != 0 }
    var capacity: Int { fifoEnabled ? Self.fifoSize : 1 }
    var space: Int { max(0, capacity - received.count) }
    var isLooped: Bool { modemControl & UARTModemControl.loop != 0 }
    var divisorLatchOpen: Bool { lineControl & UARTLineControl.divisorLatch != 0 }
    private var triggerLevel: Int { fifoEnabled ? UARTFIFOControl.triggerLevels[Int(fifoControl >> 6)] : 1 }

    /// Four character times at the programmed speed, 10 bits each, in nanoseconds; between 100 us and 20 ms.
    var timeoutInterval: UInt64 {
        let bit = 16 * UInt64(max(1, divisor)) * TickRate.nanosecondsPerSecond / 1_843_200
        return max(100_000, min(20_000_000, 40 * bit))
    }

    var modemLines: UInt8 {
        guard isLooped else {
            return UARTModemStatus.clearToSend | UARTModemStatus.dataSetReady | UARTModemStatus.carrier
        }
        var lines: UInt8 = 0
        if modemControl & UARTModemControl.requestToSend != 0 { lines |= UARTModemStatus.clearToSend }
        if modemControl & UARTModemControl.dataTerminalReady != 0 { lines |= UARTModemStatus.dataSetReady }
        if modemControl & UARTModemControl.out1 != 0 { lines |= UARTModemStatus.ring }
        if modemControl & UARTModemControl.out2 != 0 { lines |= UARTModemStatus.carrier }
        return lines
    }

    var lineStatus: UInt8 {
        var status = UARTLineStatus.holdingEmpty | UARTLineStatus.transmitterEmpty
        if let first = received.first { status |= UARTLineStatus.dataReady | first.errors }
        if overrun { status |= UARTLineStatus.overrun }
        if fifoEnabled && received.contains(where: { $0.errors != 0 }) { status |= UARTLineStatus.fifoError }
        return status
    }

    /// Interrupt identification bits 3..0.
    var identification: UInt8 {
        if interruptEnable & UARTInterruptEnable.lineStatus != 0, lineStatus & UARTLineStatus.errors != 0 {
            return UARTInterruptIdentification.lineStatus
        }
        if interruptEnable & UARTInterruptEnable.received != 0 {
            if received.count >= triggerLevel { return UARTInterruptIdentification.received }
            if timedOut { return UARTInterruptIdentification.timeout }
        }
        if interruptEnable & UARTInterruptEnable.transmitterEmpty != 0, transmitterInterrupt {
            return UARTInterruptIdentification.transmitterEmpty
        }
        if interruptEnable & UARTInterruptEnable.modemStatus != 0, modemDeltas != 0 {
            return UARTInterruptIdentification.modemStatus
        }
        return UARTInterruptIdentification.none
    }

    /// The interrupt wire, which a PC passes through OUT2.
    var isRequesting: Bool {
        modemControl & UARTModemControl.out2 != 0 && identification != UARTInterruptIdentification.none
    }

    /// Adds a character that came in; one too many is an overrun.
    mutating func push(_ character: Character, now: UInt64) {
        if received.count >= capacity {
            overrun = true
            // Without the FIFO the newer character wins; with it the shift register is overwritten.
            if !fifoEnabled { received = [character] }
        } else {
            received.append(character)
        }
        restartTimeout(now)
    }

    private mutating func restartTimeout(_ now: UInt64) {
        timedOut = false
        timeoutAt = fifoEnabled && !received.isEmpty ? now &+ timeoutInterval : nil
    }

    mutating func service(_ now: UInt64) {
        guard let at = timeoutAt, at <= now else { return }
        timeoutAt = nil
        timedOut = !received.isEmpty
    }

    mutating func takeReceived(now: UInt64) -> UInt8 {
        guard !received.isEmpty else { return 0 }
        let character = received.removeFirst()
        restartTimeout(now)
        return character.byte
    }

    mutating func readIdentification() -> UInt8 {
        let value = identification
        if value == UARTInterruptIdentification.transmitterEmpty { transmitterInterrupt = false }
        return value | (fifoEnabled ? UARTInterruptIdentification.fifoEnabled : 0)
    }

    mutating func readLineStatus() -> UInt8 {
        let value = lineStatus
        overrun = false
        if !received.isEmpty { received[0].errors = 0 }
        return value
    }

    mutating func readModemStatus() -> UInt8 {
        defer { modemDeltas = 0 }
        return modemLines | modemDeltas
    }

    mutating func writeInterruptEnable(_ value: UInt8) {
        let old = interruptEnable
        interruptEnable = value & 0x0F
        // Enabling it while the holding register is empty interrupts at once.
        if interruptEnable & ~old & UARTInterruptEnable.transmitterEmpty != 0 { transmitterInterrupt = true }
    }

    mutating func writeFIFOControl(_ value: UInt8) {
        let toggles = (value ^ fifoControl) & UARTFIFOControl.enable != 0
        let clears = value & UARTFIFOControl.enable != 0 && value & UARTFIFOControl.clearReceiver != 0
        if toggles || clears {
            received.removeAll(keepingCapacity: true)
            timeoutAt = nil
            timedOut = false
        }
        // The other bits program only while the FIFOs are enabled (data sheet §8.4).
        fifoControl = value & UARTFIFOControl.enable != 0 ? value & 0xC1 : 0
    }

    mutating func writeLineControl(_ value: UInt8, now: UInt64) {
        let starts = value & ~lineControl & UARTLineControl.breakControl != 0
        lineControl = value
        if starts && isLooped { push(Character(byte: 0, errors: UARTLineStatus.breakSeen), now: now) }
    }

    mutating func writeModemControl(_ value: UInt8) {
        let before = modemLines
        modemControl = value & UARTModemControl.writable
        let after = modemLines
        let changed = (before ^ after) >> 4 & ~UARTModemStatus.ringTrailingEdge
        let ringEnded = before & ~after & UARTModemStatus.ring != 0
        modemDeltas |= changed | (ringEnded ? UARTModemStatus.ringTrailingEdge : 0)
    }
}
