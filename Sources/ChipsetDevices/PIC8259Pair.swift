public import DeviceModel
import Synchronization

/// The two cascaded 8259A interrupt controllers of a PC with their edge/level control registers: master at
/// ports 20h-21h, slave at A0h-A1h (on the master's input 2), ELCR at 4D0h-4D1h.
///
/// Confinement: any thread. `onOutputChange` runs outside the lock; two changes may be reported out of order,
/// so the receiver looks at `output`.
public final class PIC8259Pair: PortDevice, InterruptSink {
    public static let kind = "pic"
    public struct Saved: Codable, Sendable, Equatable {
        var master: PIC8259Chip
        var slave: PIC8259Chip
    }
    public let ports: [ClosedRange<UInt16>] = [0x20...0x21, 0xA0...0xA1, 0x4D0...0x4D1]

    private static let cascadeInput = 2
    private static let cascadeBit: UInt8 = 1 << 2
    /// Inputs 0, 1, 2, 8 and 13 are edge-triggered whatever the ELCR says (PIIX4, ELCR1/ELCR2).
    private static let masterELCRMask: UInt8 = 0xF8
    private static let slaveELCRMask: UInt8 = 0xDE

    private struct State {
        var master = PIC8259Chip()
        var slave = PIC8259Chip()

        /// Drives the cascade wire from the slave's INT and returns the master's.
        mutating func settle() -> Bool {
            let slavePending = slave.pendingInput() != nil
            // The cascade is a level: a request that went away takes its wire with it.
            master.setLine(PIC8259Pair.cascadeInput, asserted: slavePending)
            if slavePending {
                master.requested |= PIC8259Pair.cascadeBit
            } else {
                master.requested &= ~PIC8259Pair.cascadeBit
            }
            return master.pendingInput(cascade: PIC8259Pair.cascadeBit) != nil
        }
    }
    private let state = Mutex(State())
    private let outputLevel = Atomic<Bool>(false)
    private let onOutputChange: @Sendable (Bool) -> Void

    /// `onOutputChange` hears each change of INTR.
    public init(_ context: DeviceContext, onOutputChange: @escaping @Sendable (Bool) -> Void = { _ in }) {
        self.onOutputChange = onOutputChange
    }

    /// The INTR wire.
    public var output: Bool { outputLevel.load(ordering: .acquiring) }

    private func update<R: Sendable>(_ body: (inout State) -> R) -> R {
        let (result, change) = state.withLock { state in
            let result = body(&state)
            let level = state.settle()
            let old = outputLevel.exchange(level, ordering: .acquiringAndReleasing)
            return (result, level == old ? nil : level)
        }
        if let change { onOutputChange(change) }
        return result
    }

    public func setLine(_ line: Int, asserted: Bool) {
        guard (0..<16).contains(line), line != Self.cascadeInput else { return }
        update { state in
            if line < 8 {
                state.master.setLine(line, asserted: asserted)
            } else {
                state.slave.setLine(line - 8, asserted: asserted)
            }
        }
    }

    /// The INTA cycle: takes the highest request into service and returns its vector. Without a request it
    /// returns the spurious vector of input 7, which is not in service afterwards.
    public func acknowledge() -> UInt8 {
        update { state in
            guard let input = state.master.pendingInput(cascade: Self.cascadeBit) else {
                return state.master.vectorBase | 7
            }
            state.master.acknowledge(input)
            guard input == Self.cascadeInput else { return state.master.vectorBase | UInt8(input) }
            guard let slaveInput = state.slave.pendingInput() else { return state.slave.vectorBase | 7 }
            state.slave.acknowledge(slaveInput)
            return state.slave.vectorBase | UInt8(slaveInput)
        }
    }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        let value: UInt8 = update { state in
            switch port {
            case 0x20, 0x21: return Self.read(&state.master, isData: port & 1 != 0, cascade: Self.cascadeBit)
            case 0xA0, 0xA1: return Self.read(&state.slave, isData: port & 1 != 0, cascade: 0)
            case 0x4D0: return state.master.levelInputs
            case 0x4D1: return state.slave.levelInputs
            default: return 0xFF
            }
        }
        return UInt32(value) | 0xFFFF_FF00
    }

    private static func read(_ chip: inout PIC8259Chip, isData: Bool, cascade: UInt8) -> UInt8 {
        if chip.pollPending {
            // OCW3 P: the next read is an INTA that returns the level instead of a vector.
            chip.pollPending = false
            guard let input = chip.pendingInput(cascade: cascade) else { return 0 }
            chip.acknowledge(input)
            return 0x80 | UInt8(input)
        }
        if isData { return chip.masked }
        return chip.readsInService ? chip.inService : chip.requested
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        update { state in
            switch port {
            case 0x20: state.master.writeCommand(byte)
            case 0x21: state.master.writeData(byte)
            case 0xA0: state.slave.writeCommand(byte)
            case 0xA1: state.slave.writeData(byte)
            case 0x4D0: state.master.setLevelInputs(byte & Self.masterELCRMask)
            case 0x4D1: state.slave.setLevelInputs(byte & Self.slaveELCRMask)
            default: break
            }
        }
    }

    public func reset() {
        update { state in
            let (master, slave) = (state.master.lines, state.slave.lines)
            state = State()
            // The wires keep their level; devices drive them again when they change.
            state.master.lines = master
            state.slave.lines = slave
        }
    }

    public func save() -> Saved { state.withLock { Saved(master: $0.master, slave: $0.slave) } }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.master.isValid, saved.slave.isValid,
            saved.master.levelInputs & ~Self.masterELCRMask == 0,
            saved.slave.levelInputs & ~Self.slaveELCRMask == 0
        else { throw RestoreError(Self.kind, "a field is out of range") }
        update { state in
            state.master = saved.master
            state.slave = saved.slave
        }
    }
}
