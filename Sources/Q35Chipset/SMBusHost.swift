/// The host side of an SMBus: its registers, and the memories of 256 bytes that alone are on the bus, from
/// address 50h on. They are protected from writing (System Management Bus 2.0 §5.5 for the commands).
///
/// A command is over when the access that starts it returns, but for blocks that software fetches byte by
/// byte: each of these waits for the last one's status to be cleared.
///
/// Confinement: a value; its owner locks.
struct SMBusHost {
    static let firstAddress: UInt8 = 0x50
    private static let bufferSize = 32

    /// A block that is read byte by byte.
    struct Transfer: Codable, Sendable, Equatable {
        /// Which of the memories sends.
        var chip: UInt8
        /// Bytes to come after this one; nil: as long as software wants.
        var rest: UInt8?
        /// The next byte is under way: its arrival shows when somebody looks. On real wires there is time
        /// until then to say that it is the last one.
        var isUnderWay = false
        /// Software has said so in time.
        var isLast = false
    }

    /// Everything that commands change.
    struct State: Codable, Sendable, Equatable {
        var status: UInt8 = 0, control: UInt8 = 0, command: UInt8 = 0, address: UInt8 = 0
        var data0: UInt8 = 0, data1: UInt8 = 0, blockByte: UInt8 = 0, packetError: UInt8 = 0
        var auxiliaryStatus: UInt8 = 0, auxiliaryControl: UInt8 = 0
        var receiveAddress: UInt8 = 0x44, slaveCommand: UInt8 = 0
        var buffer = [UInt8](repeating: 0, count: SMBusHost.bufferSize)
        var bufferIndex: UInt8 = 0
        var transfer: Transfer?
        /// Where each memory reads next.
        var places = [UInt8](repeating: 0, count: MemoryModule.most)
        /// CRC-8 of the packet so far.
        var crc: UInt8 = 0

        /// Whether indices are in range.
        var isPossible: Bool {
            buffer.count == SMBusHost.bufferSize && bufferIndex < UInt8(SMBusHost.bufferSize)
                && places.count == MemoryModule.most && transfer.map { $0.chip < MemoryModule.most } ?? true
        }
    }

    private(set) var state = State()
    /// At most `MemoryModule.most`, of 256 bytes each.
    let memories: [[UInt8]]
    /// HOSTC.
    var configuration: UInt8 = 0

    init(memories: [[UInt8]]) {
        precondition(memories.count <= MemoryModule.most && memories.allSatisfy { $0.count == 256 })
        self.memories = memories
    }

    mutating func reset() { state = State() }

    /// `state` is possible. A transfer from a memory that is not there is over.
    mutating func restore(_ state: State) {
        self.state = state
        if let transfer = state.transfer, Int(transfer.chip) >= memories.count { finish(0) }
    }

    /// The level of the interrupt.
    var requestsInterrupt: Bool {
        state.control & SMBusControl.interruptEnable != 0
            && configuration & SMBusConfiguration.systemManagement == 0
            && state.status & SMBusStatus.requests != 0
    }

    // MARK: Ports

    mutating func read(_ register: Int) -> UInt8 {
        switch register {
        case SMBusRegister.status:
            receiveNext()
            defer { state.status |= SMBusStatus.inUse }
            return state.status
        case SMBusRegister.control:
            state.bufferIndex = 0
            return state.control
        case SMBusRegister.command: return state.command
        case SMBusRegister.address: return state.address
        case SMBusRegister.data0: return state.data0
        case SMBusRegister.data1: return state.data1
        case SMBusRegister.block: return usesBuffer ? takeFromBuffer() : state.blockByte
        case SMBusRegister.packetError: return state.packetError
        case SMBusRegister.receiveAddress: return state.receiveAddress
        case SMBusRegister.auxiliaryStatus: return state.auxiliaryStatus
        case SMBusRegister.auxiliaryControl: return state.auxiliaryControl
        // All wires are high.
        case SMBusRegister.linkPins, SMBusRegister.busPins: return 0x07
        case SMBusRegister.slaveCommand: return state.slaveCommand
        default: return 0
        }
    }

    mutating func write(_ register: Int, _ value: UInt8) {
        switch register {
        case SMBusRegister.status: clearStatus(value)
        case SMBusRegister.control: control(value)
        case SMBusRegister.command: state.command = value
        case SMBusRegister.address: state.address = value
        case SMBusRegister.data0: state.data0 = value
        case SMBusRegister.data1: state.data1 = value
        case SMBusRegister.block:
            if usesBuffer { putIntoBuffer(value) } else { state.blockByte = value }
        case SMBusRegister.packetError: state.packetError = value
        case SMBusRegister.receiveAddress: state.receiveAddress = value & 0x7F
        case SMBusRegister.auxiliaryStatus: state.auxiliaryStatus &= ~(value & SMBusAuxiliary.packetError)
        case SMBusRegister.auxiliaryControl:
            state.auxiliaryControl = value & (SMBusAuxiliary.checksPackets | SMBusAuxiliary.usesBuffer)
        case SMBusRegister.slaveCommand: state.slaveCommand = value & 0x07
        default: break
        }
    }

    private var usesBuffer: Bool { state.auxiliaryControl & SMBusAuxiliary.usesBuffer != 0 }

    private mutating func takeFromBuffer() -> UInt8 {
        defer { state.bufferIndex = (state.bufferIndex + 1) % UInt8(Self.bufferSize) }
        return state.buffer[Int(state.bufferIndex)]
    }

    private mutating func putIntoBuffer(_ value: UInt8) {
        state.buffer[Int(state.bufferIndex)] = value
        state.bufferIndex = (state.bufferIndex + 1) % UInt8(Self.bufferSize)
    }

    private mutating func clearStatus(_ value: UInt8) {
        let cleared = state.status & value
        state.status &= ~(value & (SMBusStatus.clearable | SMBusStatus.inUse))
        if cleared & SMBusStatus.byteDone != 0 { proceed() }
    }

    private mutating func control(_ value: UInt8) {
        state.control = value & ~SMBusControl.start
        if value & SMBusControl.kill != 0 {
            finish(SMBusStatus.failed)
        } else if value & SMBusControl.start != 0, state.status & SMBusStatus.busy == 0,
            configuration & SMBusConfiguration.hostEnable != 0
        {
            start()
        } else if value & SMBusControl.interruptEnable != 0 {
            receiveNext()
        }
    }

    // MARK: Commands

    private mutating func start() {
        state.crc = 0
        state.transfer = nil
        let chip = Int(state.address >> 1) - Int(Self.firstAddress)
        guard memories.indices.contains(chip), let command = SMBusCommand(rawValue: state.control >> 2 & 7)
        else { return finish(SMBusStatus.deviceError) }
        let isRead = state.address & 1 != 0
        switch command {
        case .quick: finish(SMBusStatus.interrupt)
        case .blockOfI2C: startBlock(chip, from: state.data1, rest: nil)
        case .byte where !isRead:
            // The one byte is the place to read from.
            state.places[chip] = state.command
            finish(SMBusStatus.interrupt)
        case _ where !isRead: finish(SMBusStatus.deviceError)
        case .byte:
            pack(state.address)
            state.data0 = receive(chip)
            finishPacket(chip)
        case .byteData, .wordData:
            address(chip, at: state.command)
            state.data0 = receive(chip)
            if command == .wordData { state.data1 = receive(chip) }
            finishPacket(chip)
        case .block: readBlock(chip)
        case .processCall, .blockProcessCall: finish(SMBusStatus.deviceError)
        }
    }

    /// The first byte says how many follow.
    private mutating func readBlock(_ chip: Int) {
        address(chip, at: state.command)
        let count = receive(chip)
        guard (1...UInt8(Self.bufferSize)).contains(count) else { return finish(SMBusStatus.deviceError) }
        state.data0 = count
        guard usesBuffer else {
            state.transfer = Transfer(chip: UInt8(chip), rest: count)
            return beginTransfer()
        }
        state.bufferIndex = 0
        for index in 0..<Int(count) { state.buffer[index] = receive(chip) }
        finishPacket(chip)
    }

    private mutating func startBlock(_ chip: Int, from place: UInt8, rest: UInt8?) {
        state.places[chip] = place
        state.transfer = Transfer(chip: UInt8(chip), rest: rest)
        beginTransfer()
    }

    private mutating func beginTransfer() {
        state.status |= SMBusStatus.busy
        state.transfer?.isUnderWay = true
        receiveNext()
    }

    /// The byte that is under way arrives.
    private mutating func receiveNext() {
        guard var transfer = state.transfer, transfer.isUnderWay else { return }
        transfer.isUnderWay = false
        state.blockByte = receive(Int(transfer.chip))
        transfer.isLast = state.control & SMBusControl.lastByte != 0
        if let rest = transfer.rest {
            transfer.rest = rest &- 1
            if rest <= 1 { transfer.isLast = true }
        }
        state.transfer = transfer
        state.status |= SMBusStatus.byteDone
    }

    /// Software has the byte that arrived.
    private mutating func proceed() {
        guard var transfer = state.transfer, !transfer.isUnderWay else { return }
        if transfer.isLast {
            // Blocks of I2C have no packet error code.
            guard transfer.rest != nil else { return finish(SMBusStatus.interrupt) }
            return finishPacket(Int(transfer.chip))
        }
        transfer.isUnderWay = true
        state.transfer = transfer
        // Who waits for an interrupt does not look before it comes.
        if state.control & SMBusControl.interruptEnable != 0 { receiveNext() }
    }

    // MARK: The wires

    /// Writes where to read, and turns the bus round.
    private mutating func address(_ chip: Int, at place: UInt8) {
        state.places[chip] = place
        for byte in [state.address & ~1, place, state.address] { pack(byte) }
    }

    private mutating func receive(_ chip: Int) -> UInt8 {
        let byte = memories[chip][Int(state.places[chip])]
        state.places[chip] &+= 1
        pack(byte)
        return byte
    }

    /// A byte of the packet: CRC-8 with the polynomial x^8 + x^2 + x + 1.
    private mutating func pack(_ byte: UInt8) {
        state.crc ^= byte
        for _ in 0..<8 { state.crc = state.crc & 0x80 != 0 ? state.crc << 1 ^ 0x07 : state.crc << 1 }
    }

    /// The end of what a memory sends. It knows no packet error code: its next byte stands in that place.
    private mutating func finishPacket(_ chip: Int) {
        guard state.control & SMBusControl.packetErrorCheck != 0 else {
            return finish(SMBusStatus.interrupt)
        }
        let expected = state.crc
        state.packetError = receive(chip)
        let isChecked = state.auxiliaryControl & SMBusAuxiliary.checksPackets != 0
        guard isChecked, state.packetError != expected else { return finish(SMBusStatus.interrupt) }
        state.auxiliaryStatus |= SMBusAuxiliary.packetError
        finish(SMBusStatus.deviceError)
    }

    private mutating func finish(_ status: UInt8) {
        state.transfer = nil
        state.status = state.status & ~SMBusStatus.busy | status
    }
}
