public import DeviceModel
internal import Synchronization

/// The interrupts of one function: MSI-X vectors and the INTx pin. Shared by the function (registers) and by
/// the device behind it (events), so that neither needs the other's lock.
///
/// Confinement: any thread. Its lock is a leaf towards devices: nothing is called back but interrupt sinks.
public final class PCIInterrupts: Sendable {
    public struct Saved: Codable, Sendable, Equatable {
        public var table: [UInt32]
        public var pending: [UInt64]
        public var isPinRequested: Bool
    }

    private struct State {
        var msix: MSIXTable
        var pin: InterruptLine?
        var isPinRequested = false
        var isPinDisabled = false
        var isPinAsserted = false
    }

    private let target: any MSITarget
    private let state: Mutex<State>
    /// MSI-X vectors of this function; 0 when it has no MSI-X.
    public let vectors: Int
    /// Messages get through to the processors; what happens while they do not is lost.
    private let isForwarding = Atomic(true)

    public init(vectors: Int, target: any MSITarget) {
        self.vectors = vectors
        self.target = target
        state = Mutex(State(msix: MSIXTable(vectors: vectors)))
    }

    /// Wires the INTx pin; done by the host bridge when the function is put into a slot. A device that is not
    /// on PCI has its line here.
    public func connect(pin: InterruptLine) { state.withLock { $0.pin = pin } }

    /// A bridge above passes requests on, or does not.
    func setForwarding(_ isOpen: Bool) { isForwarding.store(isOpen, ordering: .releasing) }

    private func deliver(_ messages: [MSIMessage]) {
        guard isForwarding.load(ordering: .acquiring) else { return }
        for message in messages { target.deliver(message) }
    }

    public var isMSIXEnabled: Bool { state.withLock { $0.msix.isEnabled } }
    /// The interrupt status bit of the status register.
    var isPinRequested: Bool { state.withLock { $0.isPinRequested } }

    /// Sends MSI-X vector `vector`, or makes it pending while masked. A vector that does not exist, or MSI-X
    /// being off, sends nothing.
    public func signal(vector: Int) {
        let message = state.withLock { $0.msix.signal(vector) }
        guard let message, isForwarding.load(ordering: .acquiring) else { return }
        target.deliver(message)
    }

    /// Requests or withdraws INTx. The pin moves only while MSI-X is off and INTx is not disabled.
    public func setPin(_ requested: Bool) {
        state.withLock { state in
            state.isPinRequested = requested
            Self.drive(&state)
        }
    }

    /// Called with the lock held so that levels reach the sink in order.
    private static func drive(_ state: inout State) {
        let level = state.isPinRequested && !state.isPinDisabled && !state.msix.isEnabled
        guard level != state.isPinAsserted else { return }
        state.isPinAsserted = level
        state.pin?.set(level)
    }

    /// The registers that gate interrupts changed.
    func configure(msixEnabled: Bool, functionMasked: Bool, pinDisabled: Bool) {
        let messages = state.withLock { state in
            state.isPinDisabled = pinDisabled
            let messages = state.msix.setControl(enabled: msixEnabled, functionMasked: functionMasked)
            Self.drive(&state)
            return messages
        }
        deliver(messages)
    }

    func readTable(offset: UInt64, width: AccessWidth) -> UInt64 {
        state.withLock { $0.msix.readTable(offset: offset, width: width) }
    }

    func readPending(offset: UInt64, width: AccessWidth) -> UInt64 {
        state.withLock { $0.msix.readPending(offset: offset, width: width) }
    }

    func writeTable(offset: UInt64, width: AccessWidth, value: UInt64) {
        deliver(state.withLock { $0.msix.writeTable(offset: offset, width: width, value: value) })
    }

    func reset() {
        state.withLock { state in
            state.msix.reset()
            state.isPinRequested = false
            state.isPinDisabled = false
            Self.drive(&state)
        }
    }

    func save() -> Saved {
        state.withLock {
            Saved(table: $0.msix.words, pending: $0.msix.pending, isPinRequested: $0.isPinRequested)
        }
    }

    /// False when the state belongs to another table size.
    func restore(_ saved: Saved) -> Bool {
        state.withLock { state in
            guard state.msix.restore(words: saved.table, pending: saved.pending) else { return false }
            state.isPinRequested = saved.isPinRequested
            Self.drive(&state)
            return true
        }
    }
}
