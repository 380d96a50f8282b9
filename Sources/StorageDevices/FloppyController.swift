public import BlockStorage
public import DeviceModel
internal import GuestMemory
public import LinuxHost
internal import Synchronization

/// Intel's 82077AA floppy controller with up to two drives, each with a disk in it. Data moves by DMA only; a
/// command that asks for programmed transfers fails. What the guest writes is collected in a command of at
/// most nine bytes: how many follow on the first is a table.
///
/// Confinement: any thread. Its lock is a leaf: no disk is asked while it is held.
public final class FloppyController: PortDevice {
    public static let kind = "floppy"
    static let line = 6, sectorSize = 512
    /// A cylinder of the largest disk.
    static let bufferSize = 2 * 36 * sectorSize

    public struct Drive: Sendable {
        let backend: any BlockBackend
        let geometry: FloppyGeometry
        /// - Returns: nil when no disk has the size of `backend`.
        public init?(_ backend: any BlockBackend) {
            guard let geometry = FloppyGeometry(sectorCount: backend.capacity) else { return nil }
            self.backend = backend
            self.geometry = geometry
        }
    }

    public struct Saved: Codable, Sendable, Equatable {
        var output: UInt8 = 0
        var tape: UInt8 = 0
        var rate: UInt8 = 2
        var command: [UInt8] = []
        var result: [UInt8] = []
        /// What of the result was read.
        var position = 0
        var cylinders: [UInt8] = [0, 0, 0, 0]
        /// Drives whose disk may be another one, as bits.
        var changed: UInt8 = 3
        /// What SENSE INTERRUPT STATUS will say: status 0 by drive.
        var interrupts: [UInt8?] = [nil, nil, nil, nil]
        var isRequesting = false
        var specified: [UInt8] = [0, 0]
        var configured: [UInt8] = [0, 0]
        var perpendicular: UInt8 = 0
        var isLocked = false
        var lastSector: UInt8 = 0
    }

    struct State {
        var saved = Saved()
        /// A disk works on the command.
        var isWorking = false
        /// Commands of earlier generations were given up by the guest.
        var generation = 0
    }

    let drives: [Drive]
    let channel: any DMAChannel
    /// The data of a command on its way.
    let scratch: GuestMemory
    private let line: InterruptLine
    private let state = Mutex(State())

    public init(
        _ context: DeviceContext, _ drives: [Drive], channel: any DMAChannel
    ) throws(HostError) {
        precondition((1...2).contains(drives.count), "one or two drives")
        self.drives = drives
        self.channel = channel
        scratch = try GuestMemory([.init(start: 0, size: UInt64(Self.bufferSize), kind: .ram)])
        line = context.line(Self.line)
    }

    // MARK: Registers

    /// 3F6 is the hard disk's.
    public let ports: [ClosedRange<UInt16>] = [0x3F2...0x3F5, 0x3F7...0x3F7]

    /// Changes the state, and then begins what it says.
    private func change(_ body: (inout State) -> FloppyTransfer?) {
        let (transfer, generation) = state.withLock { state in
            let transfer = body(&state)
            if transfer != nil { state.isWorking = true }
            driveLine(state.saved)
            return (transfer, state.generation)
        }
        if let transfer { perform(transfer, generation) }
    }

    private func driveLine(_ saved: Saved) {
        line.set(saved.isRequesting && saved.output & FloppyOutput.gate != 0)
    }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        var value: UInt8 = 0xFF
        change { state in
            switch port {
            case FloppyPort.output: value = state.saved.output
            case FloppyPort.tape: value = state.saved.tape
            case FloppyPort.status: value = Self.mainStatus(state)
            case FloppyPort.data: value = Self.takeResult(&state)
            case FloppyPort.change:
                let drive = state.saved.output & FloppyOutput.select
                // A drive answers while its motor runs.
                let isOn = state.saved.output >> (4 + drive) & 1 != 0
                value = isOn && state.saved.changed >> drive & 1 != 0 ? 0x80 : 0
            default: break
            }
            return nil
        }
        return UInt32(value) | 0xFFFF_FF00
    }

    private static func mainStatus(_ state: State) -> UInt8 {
        guard state.saved.output & FloppyOutput.runs != 0 else { return 0 }
        if state.isWorking { return FloppyStatus.busy }
        if !state.saved.result.isEmpty {
            return FloppyStatus.request | FloppyStatus.toGuest | FloppyStatus.busy
        }
        return FloppyStatus.request | (state.saved.command.isEmpty ? 0 : FloppyStatus.busy)
    }

    private static func takeResult(_ state: inout State) -> UInt8 {
        guard state.saved.result.indices.contains(state.saved.position) else { return 0xFF }
        let byte = state.saved.result[state.saved.position]
        state.saved.position += 1
        state.saved.isRequesting = false
        if state.saved.position == state.saved.result.count {
            state.saved.result = []
            state.saved.position = 0
        }
        return byte
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        switch port {
        case FloppyPort.output: output(byte)
        case FloppyPort.status where byte & 0x80 != 0:
            // A reset that ends by itself.
            giveUp()
            change { state in
                Self.softReset(&state)
                return nil
            }
        default:
            change { state in
                switch port {
                case FloppyPort.tape: state.saved.tape = byte & 3
                case FloppyPort.status, FloppyPort.change: state.saved.rate = byte & 3
                case FloppyPort.data: return takeByte(byte, &state)
                default: break
                }
                return nil
            }
        }
    }

    private func output(_ byte: UInt8) {
        let stops = state.withLock { state in
            state.saved.output & FloppyOutput.runs != 0 && byte & FloppyOutput.runs == 0
        }
        if stops { giveUp() }
        change { state in
            let ran = state.saved.output & FloppyOutput.runs != 0
            state.saved.output = byte
            if !ran, byte & FloppyOutput.runs != 0 { Self.softReset(&state) }
            return nil
        }
    }

    /// §6.3: afterwards each drive is found to be ready, which interrupts.
    private static func softReset(_ state: inout State) {
        state.saved.command = []
        state.saved.result = []
        state.saved.position = 0
        if !state.saved.isLocked { state.saved.configured = [0, 0] }
        state.saved.interrupts = (0..<4).map { FloppyResult.polled | UInt8($0) }
        state.saved.isRequesting = true
    }

    private func giveUp() {
        state.withLock { state in
            state.generation += 1
            state.saved.command = []
            state.saved.result = []
            state.saved.position = 0
            state.saved.isRequesting = false
            driveLine(state.saved)
        }
        drain()
    }

    /// One more byte of a command; at its last the command begins.
    private func takeByte(_ byte: UInt8, _ state: inout State) -> FloppyTransfer? {
        guard state.saved.output & FloppyOutput.runs != 0, !state.isWorking, state.saved.result.isEmpty else {
            return nil
        }
        state.saved.command.append(byte)
        let code = state.saved.command[0] & 0x1F
        guard let count = FloppyCommand.parameters[code] else {
            state.saved.command = []
            state.saved.result = [FloppyResult.invalid]
            return nil
        }
        guard state.saved.command.count > count else { return nil }
        let command = state.saved.command
        state.saved.command = []
        return begin(command, &state)
    }

    // MARK: Transfers

    private func perform(_ transfer: FloppyTransfer, _ generation: Int) {
        guard let run = transfer.runs.first else { return conclude(transfer, true, generation) }
        let backend = drives[transfer.drive].backend, count = run.count * Self.sectorSize
        let place = GuestAddress(UInt64(transfer.done * Self.sectorSize))
        guard let buffer = try? HostBuffer(scratch, place, count: count, forWriting: !transfer.isWrite)
        else { return conclude(transfer, false, generation) }
        let request = BlockRequest(
            transfer.isWrite ? .write : .read, sector: UInt64(run.first), sectorCount: UInt64(run.count),
            buffers: [buffer])
        var next = transfer
        next.runs.removeFirst()
        next.done += run.count
        let rest = next
        backend.submit(request) { [self] succeeded in
            if succeeded { perform(rest, generation) } else { conclude(rest, false, generation) }
        }
        backend.commit()
    }

    private func conclude(_ transfer: FloppyTransfer, _ succeeded: Bool, _ generation: Int) {
        change { state in
            state.isWorking = false
            guard state.generation == generation else { return nil }
            end(transfer, succeeded, &state)
            return nil
        }
    }

    // MARK: Lifecycle

    public func reset() {
        giveUp()
        change { state in
            state.saved = Saved()
            return nil
        }
    }

    private func drain() {
        while state.withLock({ $0.isWorking }) { for drive in drives { drive.backend.drain() } }
    }

    public func pause() { drain() }
    public func save() -> Saved { state.withLock { $0.saved } }

    public func restore(_ saved: Saved) throws(RestoreError) {
        let first = saved.command.first.map { $0 & 0x1F }
        let length = first.map { FloppyCommand.parameters[$0] ?? 0 } ?? 0
        guard saved.command.count <= length, saved.result.count <= 10,
            saved.result.isEmpty ? saved.position == 0 : saved.result.indices.contains(saved.position),
            saved.cylinders.count == 4, saved.interrupts.count == 4, saved.specified.count == 2,
            saved.configured.count == 2, saved.rate <= 3, saved.tape <= 3
        else { throw RestoreError(Self.kind, "a register, or a command that is none") }
        change { state in
            state.saved = saved
            state.generation += 1
            return nil
        }
    }
}
