/// The host's side of the SMBus, as registers (ICH9 data sheet 316972 §20.2) and the transfer that goes on. A
/// value; its device locks.
struct SMBusHost: Codable, Sendable, Equatable {
    /// HST_STS, §20.2.1.
    private enum Status {
        static let busy: UInt8 = 0x01, done: UInt8 = 0x02, deviceError: UInt8 = 0x04, failed: UInt8 = 0x10
        static let inUse: UInt8 = 0x40, byteDone: UInt8 = 0x80
        /// That a write of ones clears.
        static let clearable: UInt8 = 0xFE
    }
    /// HST_CNT, §20.2.2.
    private enum Control {
        static let interrupts: UInt8 = 0x01, kill: UInt8 = 0x02, lastByte: UInt8 = 0x20, start: UInt8 = 0x40
        static let kept: UInt8 = 0xBF
    }
    /// SMB_CMD of HST_CNT.
    private enum Command: UInt8 {
        case quick, byte, byteData, wordData, processCall, block, i2cRead, blockProcess
    }
    private enum Register {
        static let status: UInt64 = 0, control: UInt64 = 2, command: UInt64 = 3, address: UInt64 = 4
        static let data0: UInt64 = 5, data1: UInt64 = 6, block: UInt64 = 7, check: UInt64 = 8
        static let auxiliaryControl: UInt64 = 13
    }
    /// AUX_CTL, bit E32B: blocks go through a buffer.
    private static let usesBuffer: UInt8 = 0x02
    private static let bufferSize = 32
    private static let firstModule: UInt8 = 0x50

    private var status: UInt8 = 0
    private var control: UInt8 = 0
    private var command: UInt8 = 0
    private var address: UInt8 = 0
    private var data: [UInt8] = [0, 0]
    /// HOST_BLOCK_DB without the buffer.
    private var blockByte: UInt8 = 0
    private var buffer = [UInt8](repeating: 0, count: bufferSize)
    /// Where the next access to HOST_BLOCK_DB goes in the buffer, §20.2.7.
    private var bufferPlace: UInt8 = 0
    private var check: UInt8 = 0
    private var auxiliaryControl: UInt8 = 0
    /// What each EEPROM reads next when it is not told an address.
    private var places = [UInt8](repeating: 0, count: SMBusController.mostModules)
    /// A transfer byte by byte: the module that is read, and how many bytes are left if that is known.
    private var reading: UInt8?
    private var left: UInt8?
    /// Software has seen the byte that is there. LAST_BYTE means that byte when it is set before, and the
    /// next one when it is set after that: on a real bus the next one takes a while.
    private var isSeen = false
    private var isLast = false

    /// For tests of damaged states.
    mutating func setPlaces(_ places: [UInt8]) { self.places = places }

    /// Of a state that comes from outside.
    var isPossible: Bool {
        data.count == 2 && buffer.count == Self.bufferSize && places.count == SMBusController.mostModules
            && bufferPlace < Self.bufferSize && (reading ?? 0) < SMBusController.mostModules
    }

    /// Until software has cleared what it was told.
    var wantsInterrupt: Bool {
        control & Control.interrupts != 0
            && status & (Status.done | Status.deviceError | Status.failed | Status.byteDone) != 0
    }

    // MARK: Registers

    mutating func read(_ place: UInt64) -> UInt8 {
        switch place {
        case Register.status:
            // A semaphore: who reads 0 has the controller.
            defer { status |= Status.inUse }
            return status
        case Register.control:
            bufferPlace = 0
            return control
        case Register.command: return command
        case Register.address: return address
        case Register.data0: return data[0]
        case Register.data1: return data[1]
        case Register.block:
            guard auxiliaryControl & Self.usesBuffer != 0, reading == nil else {
                isSeen = true
                return blockByte
            }
            defer { bufferPlace = (bufferPlace + 1) % UInt8(Self.bufferSize) }
            return buffer[Int(bufferPlace)]
        case Register.check: return check
        case Register.auxiliaryControl: return auxiliaryControl
        default: return 0
        }
    }

    mutating func write(_ place: UInt64, _ value: UInt8, _ modules: [[UInt8]], isOn: Bool) {
        switch place {
        case Register.status: clear(value, modules)
        case Register.control:
            control = value & Control.kept
            if value & Control.kill != 0 { return end(Status.failed) }
            if reading != nil {
                if value & Control.lastByte != 0, !isSeen { isLast = true }
            } else if value & Control.start != 0, isOn {
                start(modules)
            }
        case Register.command: command = value
        case Register.address: address = value
        case Register.data0: data[0] = value
        case Register.data1: data[1] = value
        case Register.block:
            guard auxiliaryControl & Self.usesBuffer != 0 else { return blockByte = value }
            buffer[Int(bufferPlace)] = value
            bufferPlace = (bufferPlace + 1) % UInt8(Self.bufferSize)
        case Register.check: check = value
        case Register.auxiliaryControl: auxiliaryControl = value & 0x03
        default: break
        }
    }

    private mutating func clear(_ value: UInt8, _ modules: [[UInt8]]) {
        let hadByte = status & Status.byteDone != 0
        status &= ~(value & Status.clearable)
        if hadByte, value & Status.byteDone != 0 { goOn(modules) }
    }

    private mutating func end(_ flags: UInt8) {
        reading = nil
        left = nil
        status = status & ~Status.busy | flags
    }

    // MARK: Transactions

    /// The number of the module that is spoken to.
    private func module(_ modules: [[UInt8]]) -> Int? {
        let number = Int(address >> 1) - Int(Self.firstModule)
        return modules.indices.contains(number) ? number : nil
    }

    /// The next byte of a module.
    private mutating func take(_ module: Int, _ modules: [[UInt8]]) -> UInt8 {
        defer { places[module] &+= 1 }
        return modules[module][Int(places[module])]
    }

    /// EEPROMs are protected: they take an address and nothing to keep.
    private mutating func start(_ modules: [[UInt8]]) {
        guard let module = module(modules), let kind = Command(rawValue: control >> 2 & 7) else {
            return end(Status.deviceError)
        }
        let reads = address & 1 != 0
        switch kind {
        case .quick: return end(Status.done)
        case .byte:
            if reads { data[0] = take(module, modules) } else { places[module] = command }
            return end(Status.done)
        case .byteData where reads, .wordData where reads:
            places[module] = command
            data[0] = take(module, modules)
            if kind == .wordData { data[1] = take(module, modules) }
            return end(Status.done)
        case .block where reads: readBlock(module, modules)
        case .i2cRead:
            // The address is in DATA1 (§5.21.1.2); whether the slave address says read is of no account.
            places[module] = data[1]
            readOn(module, nil, modules)
        default: return end(Status.deviceError)
        }
    }

    /// The first byte of a block says how many follow.
    private mutating func readBlock(_ module: Int, _ modules: [[UInt8]]) {
        places[module] = command
        let count = take(module, modules)
        guard (1...UInt8(Self.bufferSize)).contains(count) else { return end(Status.deviceError) }
        data[0] = count
        guard auxiliaryControl & Self.usesBuffer == 0 else {
            for place in 0..<Int(count) { buffer[place] = take(module, modules) }
            bufferPlace = 0
            return end(Status.done)
        }
        readOn(module, count, modules)
    }

    /// Byte by byte: the first one is there.
    private mutating func readOn(_ module: Int, _ count: UInt8?, _ modules: [[UInt8]]) {
        reading = UInt8(module)
        left = count
        status |= Status.busy
        fetch(module, modules)
    }

    private mutating func fetch(_ module: Int, _ modules: [[UInt8]]) {
        blockByte = take(module, modules)
        isSeen = false
        isLast = control & Control.lastByte != 0
        status |= Status.byteDone
    }

    /// Software has taken a byte.
    private mutating func goOn(_ modules: [[UInt8]]) {
        guard let reading, modules.indices.contains(Int(reading)) else { return }
        if let count = left { left = count - 1 }
        if left == 0 || isLast { return end(Status.done) }
        fetch(Int(reading), modules)
    }
}
