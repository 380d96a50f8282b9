public import PCIBus
internal import Synchronization

/// Device status bits, VIRTIO 1.3 §2.1.
public enum DeviceStatus {
    public static let acknowledge: UInt8 = 1
    public static let driver: UInt8 = 2
    public static let driverOK: UInt8 = 4
    public static let featuresOK: UInt8 = 8
    public static let needsReset: UInt8 = 64
    public static let failed: UInt8 = 128
}

/// Everything that a device and its transport tell the driver without being asked: device status, interrupts,
/// the interrupt status register and the configuration generation.
///
/// Confinement: any thread; takes no lock of device or transport.
public final class VirtioSignals: Sendable {
    /// No MSI-X vector (§4.1.5.1.2).
    public static let noVector: UInt16 = 0xFFFF

    private struct State {
        /// Bit 0: a queue; bit 1: configuration (§4.1.4.5).
        var interruptStatus: UInt8 = 0
        var configVector = noVector
    }

    public let interrupts: PCIInterrupts
    private let statusBits = Atomic<UInt8>(0)
    private let generationCount = Atomic<UInt8>(0)
    private let faultCount = Atomic<UInt64>(0)
    private let state = Mutex(State())

    init(interrupts: PCIInterrupts) { self.interrupts = interrupts }

    public var status: UInt8 { statusBits.load(ordering: .acquiring) }
    public var isRunning: Bool {
        status & (DeviceStatus.driverOK | DeviceStatus.needsReset) == DeviceStatus.driverOK
    }
    /// Queue faults since the device was built, for statistics.
    public var faults: UInt64 { faultCount.load(ordering: .relaxed) }
    var generation: UInt8 { generationCount.load(ordering: .acquiring) }

    func addStatus(_ bits: UInt8) { statusBits.bitwiseOr(bits, ordering: .acquiringAndReleasing) }
    func setStatus(_ bits: UInt8) { statusBits.store(bits, ordering: .releasing) }

    /// The driver did something that the device cannot go on from (§2.1.2).
    public func requestReset() {
        faultCount.wrappingAdd(1, ordering: .relaxed)
        let old = statusBits.bitwiseOr(DeviceStatus.needsReset, ordering: .acquiringAndReleasing).oldValue
        guard old & DeviceStatus.needsReset == 0, old & DeviceStatus.driverOK != 0 else { return }
        interruptForConfiguration()
    }

    /// A field of the device configuration changed (§2.5.1, §4.1.5.4).
    public func configurationChanged() {
        generationCount.wrappingAdd(1, ordering: .acquiringAndReleasing)
        if status & DeviceStatus.driverOK != 0 { interruptForConfiguration() }
    }

    private func interruptForConfiguration() {
        interrupt(vector: state.withLock { $0.configVector }, statusBit: 2)
    }

    func interruptForQueue(vector: UInt16) { interrupt(vector: vector, statusBit: 1) }

    private func interrupt(vector: UInt16, statusBit: UInt8) {
        if interrupts.isMSIXEnabled {
            if vector != Self.noVector { interrupts.signal(vector: Int(vector)) }
            return
        }
        // Under the lock, so that a concurrent read-and-clear cannot lower the pin of this event.
        state.withLock { state in
            state.interruptStatus |= statusBit
            interrupts.setPin(true)
        }
    }

    /// The interrupt status register: reading clears it and withdraws INTx (§4.1.4.5.1).
    func takeInterruptStatus() -> UInt8 {
        state.withLock { state in
            defer { state.interruptStatus = 0 }
            interrupts.setPin(false)
            return state.interruptStatus
        }
    }

    /// Events that the driver has not acknowledged, for a transport without MSI-X (§4.2.2).
    var interruptStatus: UInt8 { state.withLock { $0.interruptStatus } }

    /// The driver has seen these events; the line falls with the last one.
    func acknowledgeInterrupts(_ bits: UInt8) {
        state.withLock { state in
            state.interruptStatus &= ~bits
            interrupts.setPin(state.interruptStatus != 0)
        }
    }

    /// The line's level as the interrupt status says, after a restore.
    func driveLine() { acknowledgeInterrupts(0) }

    /// A vector that the device does not have becomes `noVector`, as §4.1.5.1.2.1 demands.
    func checkedVector(_ vector: UInt16) -> UInt16 {
        Int(vector) < interrupts.vectors ? vector : Self.noVector
    }

    var configVector: UInt16 {
        get { state.withLock { $0.configVector } }
        set {
            let vector = checkedVector(newValue)
            state.withLock { $0.configVector = vector }
        }
    }

    func reset() {
        state.withLock { state in
            state = State()
            interrupts.setPin(false)
        }
        generationCount.store(0, ordering: .releasing)
        setStatus(0)
    }

    struct Saved: Codable, Sendable, Equatable {
        var status: UInt8
        var interruptStatus: UInt8
        var configVector: UInt16
        var generation: UInt8
    }

    func save() -> Saved {
        state.withLock {
            Saved(
                status: status, interruptStatus: $0.interruptStatus, configVector: $0.configVector,
                generation: generation)
        }
    }

    func restore(_ saved: Saved) {
        state.withLock {
            $0.interruptStatus = saved.interruptStatus & 3
            $0.configVector = checkedVector(saved.configVector)
        }
        generationCount.store(saved.generation, ordering: .releasing)
        let known =
            DeviceStatus.acknowledge | DeviceStatus.driver | DeviceStatus.driverOK | DeviceStatus.featuresOK
            | DeviceStatus.needsReset | DeviceStatus.failed
        setStatus(saved.status & known)
    }
}
