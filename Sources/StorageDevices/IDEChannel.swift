internal import DeviceModel
internal import GuestMemory
internal import Synchronization

/// A channel with up to two drives: their registers, the data register and the bus master. What commands do
/// is the drives' own business (`ATADisk`, `ATAPIDrive`); the data of PIO commands goes through a small
/// memory of the channel's, in parts.
///
/// Confinement: any thread. Its lock is a leaf: no drive is called while it is held.
final class IDEChannel: Sendable {
    static let bufferSize = 64 << 10, sectorSize = 512, packetSize = 12

    struct State {
        var saved = Saved(drives: [DriveRegisters(), DriveRegisters()])
        /// Commands of earlier generations were given up by the guest.
        var generation = 0
        var inFlight = 0
    }

    /// What to do once the lock is released.
    enum Action: Sendable {
        case none
        case start(SATACommand, drive: Int, generation: Int)
    }

    let drives: [(any SATADevice)?]
    let memory: GuestMemory
    /// For data that goes through the data register.
    let scratch: GuestMemory
    private let line: InterruptLine
    private let state = Mutex(State())

    /// `drives` are two.
    init(_ context: DeviceContext, _ drives: [(any SATADevice)?], line: Int, scratch: GuestMemory) {
        precondition(drives.count == 2, "a channel has two places")
        self.drives = drives
        self.scratch = scratch
        memory = context.memory
        self.line = context.line(line)
        state.withLock { signAll(&$0) }
    }

    /// Changes the state, and then lets the drive work as it says. A drive may finish at once.
    private func change(_ body: (inout State) -> Action) {
        let action = state.withLock { state in
            let action = body(&state)
            driveLine(state.saved)
            return action
        }
        guard case .start(let command, let drive, let generation) = action else { return }
        guard let device = drives[drive] else {
            return finish(.aborted, command, generation)
        }
        device.start(command) { [self] in finish($0, command, generation) }
    }

    private func driveLine(_ saved: Saved) {
        line.set(saved.hasInterrupt && saved.control & IDEControl.noInterrupt == 0)
    }

    private func finish(_ result: SATAResult, _ command: SATACommand, _ generation: Int) {
        change { state in
            state.inFlight -= 1
            guard state.generation == generation, state.saved.phase == .working else { return .none }
            return conclude(result, command, &state)
        }
    }

    func raise(_ state: inout State) {
        state.saved.hasInterrupt = true
        state.saved.masterStatus |= IDEBusMaster.interrupt
    }

    // MARK: Registers

    func read(_ register: UInt16, width: AccessWidth) -> UInt32 {
        if register == IDERegister.data { return readData(width) }
        return state.withLock { state in
            let value = Self.value(of: register, state.saved, isThere: drives[state.saved.selected] != nil)
            if register == IDERegister.status {
                state.saved.hasInterrupt = false
                driveLine(state.saved)
            }
            return UInt32(value) | 0xFFFF_FF00
        }
    }

    /// The first drive answers for one that is not there: with nothing.
    private static func value(of register: UInt16, _ saved: Saved, isThere: Bool) -> UInt8 {
        let drive = saved.drives[saved.selected]
        let shift: UInt16 = saved.control & IDEControl.highOrder != 0 ? 8 : 0
        func byte(_ pair: UInt16) -> UInt8 { isThere ? UInt8(pair >> shift & 0xFF) : 0 }
        switch register {
        case IDERegister.error: return isThere ? drive.error : 0
        case IDERegister.count: return byte(drive.count)
        case IDERegister.low: return byte(drive.low)
        case IDERegister.mid: return byte(drive.mid)
        case IDERegister.high: return byte(drive.high)
        case IDERegister.device: return drive.device | 0xA0 | UInt8(saved.selected) << 4
        default: return isThere ? drive.status : 0
        }
    }

    /// Without telling the drive that its interrupt was seen.
    var alternateStatus: UInt8 {
        state.withLock {
            Self.value(of: IDERegister.status, $0.saved, isThere: drives[$0.saved.selected] != nil)
        }
    }

    func write(_ register: UInt16, _ value: UInt32, width: AccessWidth) {
        if register == IDERegister.data { return writeData(value, width) }
        let byte = UInt8(truncatingIfNeeded: value)
        change { state in
            guard register != IDERegister.status else { return start(byte, &state) }
            // Nothing changes under a command.
            guard state.saved.phase != .working else { return .none }
            state.saved.control &= ~IDEControl.highOrder
            if register == IDERegister.device { state.saved.selected = Int(byte >> 4 & 1) }
            for drive in 0..<2 { Self.store(byte, register, &state.saved.drives[drive]) }
            return .none
        }
    }

    /// Both drives see what is written.
    private static func store(_ byte: UInt8, _ register: UInt16, _ drive: inout DriveRegisters) {
        func shift(_ pair: inout UInt16) { pair = pair << 8 | UInt16(byte) }
        switch register {
        case IDERegister.error: shift(&drive.features)
        case IDERegister.count: shift(&drive.count)
        case IDERegister.low: shift(&drive.low)
        case IDERegister.mid: shift(&drive.mid)
        case IDERegister.high: shift(&drive.high)
        default: drive.device = byte & 0x4F
        }
    }

    /// The device control register; the end of a request for a reset resets both drives.
    func control(_ value: UInt8) {
        let resets = state.withLock { state in
            let wasResetting = state.saved.control & IDEControl.reset != 0
            state.saved.control = value
            let isResetting = value & IDEControl.reset != 0
            if isResetting { for drive in 0..<2 { state.saved.drives[drive].status = ATAStatus.busy } }
            driveLine(state.saved)
            return wasResetting && !isResetting
        }
        if resets { resetDrives() }
    }

    private func resetDrives() {
        giveUp()
        for drive in drives { drive?.reset() }
        change { state in
            signAll(&state)
            return .none
        }
    }

    /// Waits for what is under way: its data goes to the memory of the channel.
    private func giveUp() {
        state.withLock { state in
            state.generation += 1
            state.saved.phase = .idle
            state.saved.buffer = []
            (state.saved.position, state.saved.blockEnd) = (0, 0)
            state.saved.hasInterrupt = false
        }
        drain()
    }

    func signAll(_ state: inout State) {
        for (index, drive) in drives.enumerated() {
            guard let drive else { continue }
            state.saved.drives[index].sign(drive.signature)
            // Drives with packets are not ready before their first command.
            state.saved.drives[index].status = drive.signature == ATADisk.signature ? ATAStatus.good : 0
        }
        state.saved.selected = 0
    }

    // MARK: Data

    private func readData(_ width: AccessWidth) -> UInt32 {
        var value: UInt32 = 0
        change { state in
            guard state.saved.phase == .dataIn else { return .none }
            for index in 0..<min(width.bytes, state.saved.blockEnd - state.saved.position) {
                value |= UInt32(state.saved.buffer[state.saved.position + index]) << UInt32(8 * index)
            }
            state.saved.position = min(state.saved.position + width.bytes, state.saved.blockEnd)
            return state.saved.position == state.saved.blockEnd ? blockWasRead(&state) : .none
        }
        return value
    }

    private func writeData(_ value: UInt32, _ width: AccessWidth) {
        change { state in
            guard [.dataOut, .packet].contains(state.saved.phase) else { return .none }
            for index in 0..<min(width.bytes, state.saved.blockEnd - state.saved.position) {
                let byte = UInt8(truncatingIfNeeded: value >> UInt32(8 * index))
                state.saved.buffer[state.saved.position + index] = byte
            }
            state.saved.position = min(state.saved.position + width.bytes, state.saved.blockEnd)
            guard state.saved.position == state.saved.blockEnd else { return .none }
            return state.saved.phase == .packet ? packetCame(&state) : blockWasWritten(&state)
        }
    }

    // MARK: Bus master

    func readMaster(_ offset: Int) -> UInt8 {
        state.withLock { state in
            switch offset {
            case IDEBusMaster.command: return state.saved.masterCommand
            case IDEBusMaster.status: return state.saved.masterStatus
            case IDEBusMaster.table..<IDEBusMaster.table + 4:
                return UInt8(state.saved.table >> UInt32(8 * (offset - IDEBusMaster.table)) & 0xFF)
            default: return 0
            }
        }
    }

    func writeMaster(_ offset: Int, _ value: UInt8) {
        change { state in
            switch offset {
            case IDEBusMaster.command:
                let wasOn = state.saved.masterCommand & IDEBusMaster.start != 0
                state.saved.masterCommand = value & (IDEBusMaster.start | IDEBusMaster.toMemory)
                guard value & IDEBusMaster.start != 0 else {
                    state.saved.masterStatus &= ~IDEBusMaster.active
                    return .none
                }
                if !wasOn { state.saved.masterStatus |= IDEBusMaster.active }
                return state.saved.phase == .awaitingBusMaster ? startMaster(&state) : .none
            case IDEBusMaster.status:
                let cleared = value & (IDEBusMaster.error | IDEBusMaster.interrupt)
                state.saved.masterStatus =
                    state.saved.masterStatus & ~cleared & ~IDEBusMaster.capable
                    | value & IDEBusMaster.capable
            case IDEBusMaster.table..<IDEBusMaster.table + 4:
                let shift = UInt32(8 * (offset - IDEBusMaster.table))
                state.saved.table = (state.saved.table & ~(0xFF << shift) | UInt32(value) << shift) & ~3
            default: break
            }
            return .none
        }
    }

    // MARK: Lifecycle

    func reset() {
        giveUp()
        for drive in drives { drive?.reset() }
        change { state in
            state.saved = Saved(drives: [DriveRegisters(), DriveRegisters()])
            signAll(&state)
            return .none
        }
    }

    /// Returns when nothing is under way.
    func drain() {
        while state.withLock({ $0.inFlight > 0 }) { for drive in drives { drive?.drain() } }
    }

    var saved: Saved { state.withLock { $0.saved } }

    func restore(_ saved: Saved) {
        change { state in
            state.saved = saved
            state.generation += 1
            return .none
        }
    }
}
