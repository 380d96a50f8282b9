internal import ByteLayout
internal import GuestMemory
internal import Synchronization

/// One port of the adapter with what is plugged into it (Serial ATA AHCI 1.3.1 §3.3, §5). It fetches commands
/// from the guest's list, lowest slot first: queued ones side by side, others one at a time.
///
/// Confinement: any thread. Commands end on the device's threads. `changed` is called without a lock held.
final class AHCIPort: Sendable {
    /// The registers.
    struct Saved: Codable, Sendable, Equatable {
        var commandList: UInt64 = 0
        var received: UInt64 = 0
        var interruptStatus: UInt32 = 0
        var interruptEnable: UInt32 = 0
        var command: UInt32 = 0
        var status: UInt8 = 0x7F
        var error: UInt8 = 0
        var signature: UInt32 = .max
        var control: UInt32 = 0
        var linkError: UInt32 = 0
        var active: UInt32 = 0
        var issue: UInt32 = 0
        /// A command failed: nothing is fetched before the guest stops and starts the port.
        var isHalted = false
        /// The device has said who it is, but there was no place yet to store it.
        var owesSignature = false
        /// The guest has asked for a software reset and not yet ended it.
        var isResetting = false
    }

    private struct State {
        var registers = Saved()
        /// Slots that the device works on.
        var started: UInt32 = 0
        /// One of them is not queued, so that nothing else may start.
        var isExclusive = false
        /// Commands of earlier generations were given up by the guest.
        var generation = 0
        /// Commands of any generation that the device works on.
        var inFlight = 0
        var isServing = false
        var isPaused = false
    }
    private let memory: GuestMemory
    private let device: (any SATADevice)?
    private let state = Mutex(State())
    private let changed: @Sendable () -> Void

    init(_ memory: GuestMemory, device: (any SATADevice)?, changed: @escaping @Sendable () -> Void) {
        self.memory = memory
        self.device = device
        self.changed = changed
        state.withLock { resetLink(&$0) }
    }

    var requestsInterrupt: Bool {
        state.withLock { $0.registers.interruptStatus & $0.registers.interruptEnable != 0 }
    }

    // MARK: Registers

    func read(_ offset: UInt64) -> UInt32 {
        state.withLock { state in
            let registers = state.registers
            switch offset {
            case PortRegister.commandList: return UInt32(truncatingIfNeeded: registers.commandList)
            case PortRegister.commandListHigh: return UInt32(registers.commandList >> 32)
            case PortRegister.received: return UInt32(truncatingIfNeeded: registers.received)
            case PortRegister.receivedHigh: return UInt32(registers.received >> 32)
            case PortRegister.interruptStatus: return registers.interruptStatus
            case PortRegister.interruptEnable: return registers.interruptEnable
            case PortRegister.command: return registers.command
            case PortRegister.taskFile: return UInt32(registers.status) | UInt32(registers.error) << 8
            case PortRegister.signature: return registers.signature
            case PortRegister.status: return device == nil ? 0 : PortLink.present
            case PortRegister.control: return registers.control
            case PortRegister.error: return registers.linkError
            case PortRegister.active: return registers.active
            case PortRegister.issue: return registers.issue
            default: return 0
            }
        }
    }

    func write(_ offset: UInt64, _ value: UInt32) {
        state.withLock { Self.store(offset, value, &$0, self) }
        if offset == PortRegister.issue || offset == PortRegister.command { serve() }
        changed()
    }

    private static func store(_ offset: UInt64, _ value: UInt32, _ state: inout State, _ port: AHCIPort) {
        func low(_ register: UInt64, _ mask: UInt32) -> UInt64 {
            register & ~0xFFFF_FFFF | UInt64(value & mask)
        }
        func high(_ register: UInt64) -> UInt64 { register & 0xFFFF_FFFF | UInt64(value) << 32 }
        let registers = state.registers
        switch offset {
        case PortRegister.commandList: state.registers.commandList = low(registers.commandList, ~0x3FF)
        case PortRegister.commandListHigh: state.registers.commandList = high(registers.commandList)
        case PortRegister.received: state.registers.received = low(registers.received, ~0xFF)
        case PortRegister.receivedHigh: state.registers.received = high(registers.received)
        case PortRegister.interruptStatus: state.registers.interruptStatus &= ~value
        case PortRegister.interruptEnable:
            state.registers.interruptEnable = value & PortInterrupt.enableMask
        case PortRegister.command: port.storeCommand(value, &state)
        case PortRegister.control:
            let resets = registers.control & PortLink.detectMask == PortLink.detectReset
            state.registers.control = value & 0xFFF
            // The link comes up again when the request ends, §10.4.2.
            if resets, value & PortLink.detectMask == 0 {
                port.resetLink(&state)
                state.registers.linkError |= PortLink.exchanged
                state.registers.interruptStatus |= PortInterrupt.connectChange
            }
        case PortRegister.error: state.registers.linkError &= ~value
        // Bits are set while the port runs, §3.3.13 and §3.3.14.
        case PortRegister.active where registers.command & PortCommand.start != 0:
            state.registers.active |= value
        case PortRegister.issue where registers.command & PortCommand.start != 0:
            state.registers.issue |= value
        default: break
        }
    }

    private func storeCommand(_ value: UInt32, _ state: inout State) {
        let old = state.registers.command
        var new = value & PortCommand.stored
        if new & PortCommand.start != 0 { new |= PortCommand.running }
        if new & PortCommand.receive != 0 { new |= PortCommand.receiveRunning }
        if value & PortCommand.override != 0 {
            state.registers.status &= ~(ATAStatus.busy | ATAStatus.dataRequest)
        }
        // The interface control field reads as idle: what it asks for is done.
        state.registers.command = new & 0x0FFF_FFFF
        if old & PortCommand.start != 0, new & PortCommand.start == 0 { abandon(&state) }
        if new & PortCommand.receive != 0, state.registers.owesSignature { sendSignature(&state) }
    }

    /// The guest gives up every command.
    private func abandon(_ state: inout State) {
        state.registers.issue = 0
        state.registers.active = 0
        state.registers.isHalted = false
        state.registers.status &= ~(ATAStatus.busy | ATAStatus.dataRequest)
        state.started = 0
        state.isExclusive = false
        state.generation += 1
    }

    // MARK: Link

    /// The device is there again as after power-on, and says who it is.
    private func resetLink(_ state: inout State) {
        abandon(&state)
        guard let device else { return }
        device.reset()
        state.registers.isResetting = false
        sendSignature(&state)
    }

    /// A register FIS with the signature, and what the port keeps of it.
    private func sendSignature(_ state: inout State) {
        guard let device else { return }
        state.registers.signature = device.signature
        state.registers.status = ATAStatus.good
        // Diagnostics passed.
        state.registers.error = 1
        state.registers.owesSignature = state.registers.command & PortCommand.receive == 0
        var result = SATAResult(error: 1)
        result.count = UInt16(device.signature & 0xFF)
        result.address = UInt64(device.signature >> 8)
        store(result, &state)
    }

    // MARK: Commands

    /// Starts commands until none may start. Runs once at a time: who finds it running leaves its work to it.
    private func serve() {
        let mayServe = state.withLock { state in
            defer { state.isServing = true }
            return !state.isServing
        }
        guard mayServe else { return }
        while let (slot, generation) = state.withLock({ Self.nextSlot(&$0) }) { begin(slot, generation) }
    }

    private static func nextSlot(_ state: inout State) -> (slot: Int, generation: Int)? {
        let registers = state.registers
        let waiting = registers.issue & ~state.started
        guard waiting != 0, registers.command & PortCommand.start != 0, !registers.isHalted,
            !state.isExclusive, !state.isPaused
        else {
            state.isServing = false
            return nil
        }
        let slot = waiting.trailingZeroBitCount
        let bit = UInt32(1) << UInt32(slot)
        if registers.active & bit == 0 {
            guard state.started == 0 else {
                state.isServing = false
                return nil
            }
            state.isExclusive = true
            state.registers.status |= ATAStatus.busy
        }
        state.started |= bit
        state.inFlight += 1
        let number = UInt32(slot) << PortCommand.slotShift
        state.registers.command = registers.command & ~(0x1F << PortCommand.slotShift) | number
        return (slot, state.generation)
    }

    private func begin(_ slot: Int, _ generation: Int) {
        let list = state.withLock { $0.registers.commandList }
        let header = GuestAddress(list + UInt64(slot) * CommandHeader.size)
        guard let fetched = fetch(header) else {
            // What the list says is not in memory, or the FIS has a length that is none: a fatal error of
            // the host bus, §6.1.
            return finish(slot, generation) { state in
                state.registers.interruptStatus |= PortInterrupt.hostError
                state.registers.isHalted = true
            }
        }
        guard let device else { return finish(slot, generation) { $0.registers.isHalted = true } }
        guard fetched.fis[0] == ReceivedFIS.toDevice, fetched.length >= CommandHeader.registerLength else {
            // Nothing else is a command, nor is a part of one.
            return finish(slot, generation) { conclude(slot, .aborted, &$0) }
        }
        guard fetched.fis[1] & ReceivedFIS.isCommand != 0 else {
            return control(fetched.fis, slot, generation)
        }
        let command = fetched.command
        if device.isQueued(command.taskFile.command) {
            // The device has taken it: the slot's state is in the active bits now.
            state.withLock { state in
                if state.generation == generation { state.registers.issue &= ~(1 << UInt32(slot)) }
            }
        }
        device.start(command) { [self] result in
            if result.bytesMoved > 0 {
                try? memory.store(UInt32(clamping: result.bytesMoved), at: header + CommandHeader.bytesMoved)
            }
            finish(slot, generation) { conclude(slot, result, &$0) }
            serve()
            changed()
        }
    }

    private struct Fetched {
        let fis: [UInt8]
        /// Of the FIS, in dwords, as the header has it.
        let length: UInt32
        let command: SATACommand
    }

    /// Reads the command of a slot once. Nil: a part of it is not in memory, or it has an illegal length.
    private func fetch(_ header: GuestAddress) -> Fetched? {
        guard let bytes = try? memory.bytes(header, count: Int(CommandHeader.size)),
            let flags = bytes.load(littleEndian: UInt32.self, at: 0),
            let pointer = bytes.load(littleEndian: UInt64.self, at: CommandHeader.table)
        else { return nil }
        let table = pointer & ~0x7F, length = flags & CommandHeader.lengthMask
        guard CommandHeader.lengths.contains(length),
            let head = try? memory.bytes(
                GuestAddress(table), count: CommandTable.packet + CommandTable.packetSize),
            let regions = regions(table, entries: Int(flags >> 16))
        else { return nil }
        let packet = flags & CommandHeader.atapi != 0 ? Array(head[CommandTable.packet...]) : []
        let command = SATACommand(
            taskFile: ATATaskFile(head), packet: packet,
            data: ScatterList(regions: regions, memory: memory))
        return Fetched(fis: head, length: length, command: command)
    }

    /// No command moves more: 65,536 sectors.
    private static let longestTransfer = 65_536 * 512

    private func regions(_ table: UInt64, entries: Int) -> [ScatterList.Region]? {
        var regions: [ScatterList.Region] = [], total = 0
        for index in 0..<UInt64(entries) where total < Self.longestTransfer {
            let place = GuestAddress(table &+ CommandTable.regions &+ index * CommandTable.entrySize)
            guard let entry = try? memory.bytes(place, count: Int(CommandTable.entrySize)),
                let address = entry.load(littleEndian: UInt64.self, at: 0),
                let count = entry.load(littleEndian: UInt32.self, at: 12)
            else { return nil }
            let bytes = Int(count & CommandTable.countMask) + 1
            regions.append((address & ~1, bytes))
            total += bytes
        }
        return regions
    }

    /// A register FIS that is no command carries the device control register: bit 2 resets the device.
    private func control(_ fis: [UInt8], _ slot: Int, _ generation: Int) {
        let wantsReset = fis[15] & 4 != 0
        finish(slot, generation) { state in
            state.registers.issue &= ~(1 << UInt32(slot))
            state.registers.status &= ~ATAStatus.busy
            let ends = state.registers.isResetting && !wantsReset
            state.registers.isResetting = wantsReset
            guard ends else { return }
            device?.reset()
            sendSignature(&state)
        }
    }

    /// The device is done with a command; `conclude` runs unless the guest has given it up.
    private func finish(_ slot: Int, _ generation: Int, _ conclude: (inout State) -> Void) {
        state.withLock { state in
            state.inFlight -= 1
            guard state.generation == generation else { return }
            state.started &= ~(1 << UInt32(slot))
            state.isExclusive = false
            conclude(&state)
        }
    }

    /// Tells the guest how a command ended: what the device sends, the registers, the interrupt.
    private func conclude(_ slot: Int, _ result: SATAResult, _ state: inout State) {
        let bit = UInt32(1) << UInt32(slot)
        if result.form == .queued {
            if !result.failed { state.registers.active &= ~bit }
        } else if !result.failed {
            state.registers.issue &= ~bit
        }
        state.registers.status = result.status
        state.registers.error = result.error
        store(result, &state)
        switch result.form {
        case .register: state.registers.interruptStatus |= PortInterrupt.register
        case .pio: state.registers.interruptStatus |= PortInterrupt.pioSetup
        case .queued: state.registers.interruptStatus |= PortInterrupt.setDeviceBits
        }
        guard result.failed else { return }
        state.registers.interruptStatus |= PortInterrupt.taskFileError
        state.registers.isHalted = true
    }

    /// Stores the FIS that the device sends; it is lost when the guest has no place for it.
    private func store(_ result: SATAResult, _ state: inout State) {
        guard state.registers.command & PortCommand.receive != 0 else { return }
        var fis: [UInt8] = [ReceivedFIS.typeRegister, ReceivedFIS.interrupt, result.status, result.error]
        let place: UInt64
        if result.form == .queued {
            fis[0] = ReceivedFIS.typeDeviceBits
            // Busy and data request are not among the bits.
            fis[2] &= 0x77
            fis.append(littleEndian: ~state.registers.active)
            place = ReceivedFIS.setDeviceBits
        } else {
            for shift in [0, 8, 16] as [UInt64] {
                fis.append(UInt8(truncatingIfNeeded: result.address >> shift))
            }
            fis.append(result.device)
            for shift in [24, 32, 40] as [UInt64] {
                fis.append(UInt8(truncatingIfNeeded: result.address >> shift))
            }
            fis.append(0)
            fis.append(littleEndian: result.count)
            fis += [0, 0, 0, 0, 0, 0]
            place = result.form == .pio ? ReceivedFIS.pioSetup : ReceivedFIS.register
        }
        if result.form == .pio {
            fis[0] = ReceivedFIS.typePIOSetup
            // From the device.
            fis[1] |= 0x20
            fis[15] = result.status
            fis.store(littleEndian: UInt16(truncatingIfNeeded: result.bytesMoved), at: 16)
        }
        try? memory.write(fis, at: GuestAddress(state.registers.received + place))
    }

    // MARK: Lifecycle

    /// The adapter is reset; commands of the past are given up.
    func reset() {
        state.withLock { state in
            state.registers = Saved()
            resetLink(&state)
        }
        changed()
    }

    func pause() {
        state.withLock { $0.isPaused = true }
        while state.withLock({ $0.inFlight > 0 }) { device?.drain() }
    }

    func resume() {
        state.withLock { $0.isPaused = false }
        serve()
        changed()
    }

    var saved: Saved { state.withLock { $0.registers } }

    /// False, and no change, for registers that this port cannot have.
    func restore(_ saved: Saved) -> Bool {
        guard saved.commandList & 0x3FF == 0, saved.received & 0xFF == 0, saved.control < 0x1000,
            saved.interruptEnable & ~PortInterrupt.enableMask == 0
        else { return false }
        state.withLock { state in
            state.registers = saved
            state.started = 0
            state.isExclusive = false
            state.generation += 1
        }
        return true
    }
}
