internal import DeviceModel
internal import Synchronization

/// The conversation between a driver and a device that is the same on every transport (VIRTIO 1.3 §2.1, §2.2,
/// §3.1): feature bits, device status, enabling and resetting queues.
///
/// Confinement: any thread. Its lock is taken by register accesses other than notifications, and is the
/// outermost of the device: completions on worker threads never need it.
final class VirtioNegotiation: Sendable {
    struct Saved: Codable, Sendable, Equatable {
        var deviceFeatureSelect: UInt32
        var driverFeatureSelect: UInt32
        var driverFeatures: UInt64
        var queueSelect: UInt16
        var signals: VirtioSignals.Saved
        var queues: [VirtioQueue.Saved]
    }

    /// Registers that a driver selects with and writes.
    struct State {
        var deviceFeatureSelect: UInt32 = 0
        var driverFeatureSelect: UInt32 = 0
        fileprivate(set) var driverFeatures: UInt64 = 0
        var queueSelect: UInt16 = 0
    }

    let device: any VirtioDevice
    let link: VirtioLink
    private let state = Mutex(State())
    var signals: VirtioSignals { link.signals }

    init(_ device: any VirtioDevice) {
        self.device = device
        link = device.link
        // Weak, because the device owns the link.
        link.retry.connect { [weak device] queue in device?.notify(queue: queue) }
    }

    func withLock<T: Sendable>(_ body: (inout State) -> T) -> T { state.withLock { body(&$0) } }

    // MARK: Features

    private var offeredFeatures: UInt64 { device.features | VirtioFeature.transport }

    /// The selected 32 bits of what the device offers.
    func offeredHalf(_ state: State) -> UInt32 { Self.half(offeredFeatures, state.deviceFeatureSelect) }
    /// The selected 32 bits of what the driver accepted.
    func acceptedHalf(_ state: State) -> UInt32 { Self.half(state.driverFeatures, state.driverFeatureSelect) }

    /// 32 bits of a feature set; selectors above 1 show nothing.
    private static func half(_ features: UInt64, _ select: UInt32) -> UInt32 {
        select < 2 ? UInt32(truncatingIfNeeded: features >> UInt64(32 * select)) : 0
    }

    func acceptFeatures(_ value: UInt64, _ state: inout State) {
        guard signals.status & DeviceStatus.featuresOK == 0, state.driverFeatureSelect < 2 else { return }
        let shift = UInt64(32 * state.driverFeatureSelect)
        state.driverFeatures =
            (state.driverFeatures & ~(0xFFFF_FFFF << shift)) | (value & 0xFFFF_FFFF) << shift
    }

    /// §6.1, §2.2.2: nothing that was not offered, and never without VERSION_1.
    private func accepts(_ features: UInt64) -> Bool {
        features & ~offeredFeatures == 0 && features & VirtioFeature.version1 != 0
    }

    // MARK: Queues

    func selectedQueue(_ state: State) -> VirtioQueue? {
        link.queues.indices.contains(Int(state.queueSelect)) ? link.queues[Int(state.queueSelect)] : nil
    }

    /// A driver enables queues between FEATURES_OK and DRIVER_OK.
    func enable(_ queue: VirtioQueue, _ state: State) {
        guard signals.status & DeviceStatus.featuresOK != 0 else { return }
        queue.enable(
            eventIndex: state.driverFeatures & VirtioFeature.eventIndex != 0,
            indirect: state.driverFeatures & VirtioFeature.indirectDescriptors != 0)
    }

    /// §2.6.1: one queue forgets everything; the others go on. Finished when this returns.
    func resetQueue(_ queue: VirtioQueue, _ state: State) {
        guard state.driverFeatures & VirtioFeature.ringReset != 0 else { return }
        disable(queue)
    }

    /// The queue holds nothing, and is as after a reset.
    func disable(_ queue: VirtioQueue) {
        let wasStopped = queue.isStopped
        queue.stop()
        device.settle(queue)
        queue.reset()
        if !wasStopped { queue.start() }
    }

    /// The driver says that a queue has new chains.
    func notify(_ queue: Int) {
        if link.queues.indices.contains(queue), signals.isRunning { device.notify(queue: queue) }
    }

    // MARK: Device configuration

    func readConfig(_ offset: Int, _ width: AccessWidth) -> UInt64 {
        Self.field(device.config, offset, width)
    }

    func writeConfig(_ offset: Int, _ width: AccessWidth, _ value: UInt64) {
        let bytes = (0..<width.bytes).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) }
        state.withLock { _ in device.writeConfig(offset: offset, bytes: bytes) }
    }

    /// Little-endian bytes of `image` at `offset`; zero beyond its end.
    static func field(_ image: [UInt8], _ offset: Int, _ width: AccessWidth) -> UInt64 {
        var value: UInt64 = 0
        for byte in 0..<width.bytes where image.indices.contains(offset + byte) {
            value |= UInt64(image[offset + byte]) << UInt64(8 * byte)
        }
        return value
    }

    // MARK: Status

    func writeStatus(_ value: UInt8, _ state: inout State) {
        guard value != 0 else { return resetDevice(&state) }
        let settable =
            DeviceStatus.acknowledge | DeviceStatus.driver | DeviceStatus.driverOK | DeviceStatus.featuresOK
            | DeviceStatus.failed
        let current = signals.status
        var added = value & settable & ~current
        if added & DeviceStatus.featuresOK != 0, !accepts(state.driverFeatures) {
            added &= ~DeviceStatus.featuresOK
        }
        if (current | added) & DeviceStatus.featuresOK == 0 { added &= ~DeviceStatus.driverOK }
        signals.addStatus(added)
        guard added & DeviceStatus.driverOK != 0 else { return }
        device.activate(features: state.driverFeatures)
        for queue in link.queues where queue.isEnabled { device.notify(queue: queue.index) }
    }

    private func resetDevice(_ state: inout State) {
        let wereStopped = link.queues.map(\.isStopped)
        for queue in link.queues { queue.stop() }
        for queue in link.queues { device.settle(queue) }
        device.reset()
        for (queue, wasStopped) in zip(link.queues, wereStopped) {
            queue.reset()
            if !wasStopped { queue.start() }
        }
        signals.reset()
        state = State()
    }

    // MARK: Lifecycle

    func reset() { state.withLock { resetDevice(&$0) } }

    func save() -> Saved {
        state.withLock { state in
            Saved(
                deviceFeatureSelect: state.deviceFeatureSelect,
                driverFeatureSelect: state.driverFeatureSelect,
                driverFeatures: state.driverFeatures, queueSelect: state.queueSelect, signals: signals.save(),
                queues: link.queues.map { $0.save() })
        }
    }

    func restore(_ saved: Saved, kind: String) throws(RestoreError) {
        guard saved.queues.count == link.queues.count else {
            throw RestoreError(kind, "another number of queues")
        }
        let isNegotiated = saved.signals.status & DeviceStatus.featuresOK != 0
        guard !isNegotiated || accepts(saved.driverFeatures) else {
            throw RestoreError(kind, "features that this device does not offer")
        }
        let isRunning = saved.signals.status & DeviceStatus.driverOK != 0
        guard isNegotiated || (!isRunning && !saved.queues.contains { $0.registers.isEnabled }) else {
            throw RestoreError(kind, "running without negotiated features")
        }
        for (queue, state) in zip(link.queues, saved.queues) {
            do {
                try queue.restore(
                    state, eventIndex: saved.driverFeatures & VirtioFeature.eventIndex != 0,
                    indirect: saved.driverFeatures & VirtioFeature.indirectDescriptors != 0)
            } catch {
                throw RestoreError(kind, "queue \(queue.index): \(error)")
            }
        }
        state.withLock { state in
            state = State(
                deviceFeatureSelect: saved.deviceFeatureSelect,
                driverFeatureSelect: saved.driverFeatureSelect,
                driverFeatures: saved.driverFeatures, queueSelect: saved.queueSelect)
        }
        signals.restore(saved.signals)
        if isRunning { device.activate(features: saved.driverFeatures) }
    }
}
