internal import ByteLayout
public import DeviceModel
public import PCIBus
internal import Synchronization

/// The registers of a virtio device on PCI (VIRTIO 1.3 §4.1), without the legacy interface.
///
/// Confinement: any thread. Its lock is taken by register accesses other than notifications, and is the
/// outermost of the device: completions on worker threads never need it.
public final class VirtioPCITransport: PCIFunctionHandler {
    struct Saved: Codable, Sendable, Equatable {
        var deviceFeatureSelect: UInt32
        var driverFeatureSelect: UInt32
        var driverFeatures: UInt64
        var queueSelect: UInt16
        var signals: VirtioSignals.Saved
        var queues: [VirtioQueue.Saved]
    }

    private struct State {
        var deviceFeatureSelect: UInt32 = 0
        var driverFeatureSelect: UInt32 = 0
        var driverFeatures: UInt64 = 0
        var queueSelect: UInt16 = 0
    }

    private let device: any VirtioDevice
    private let link: VirtioLink
    private let state = Mutex(State())
    private var signals: VirtioSignals { link.signals }

    init(_ device: any VirtioDevice) {
        self.device = device
        link = device.link
        // Weak, because the device owns the link.
        link.retry.connect { [weak device] queue in device?.notify(queue: queue) }
    }

    private var offeredFeatures: UInt64 { device.features | VirtioFeature.transport }

    // MARK: BAR accesses

    public func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        guard bar == VirtioBAR.registers else { return 0 }
        let register = Int(offset % VirtioBAR.regionSize)
        switch offset - UInt64(register) {
        case VirtioBAR.common: return Self.field(commonImage(), register, width)
        case VirtioBAR.interruptStatus: return register == 0 ? UInt64(signals.takeInterruptStatus()) : 0
        case VirtioBAR.device: return Self.field(device.config, register, width)
        default: return 0
        }
    }

    public func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        guard bar == VirtioBAR.registers else { return }
        let register = Int(offset % VirtioBAR.regionSize)
        switch offset - UInt64(register) {
        case VirtioBAR.common: writeCommon(register, width, value)
        case VirtioBAR.device:
            let bytes = (0..<width.bytes).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) }
            state.withLock { _ in device.writeConfig(offset: register, bytes: bytes) }
        case VirtioBAR.notify:
            let queue = register / Int(VirtioBAR.notifyMultiplier)
            if link.queues.indices.contains(queue), signals.isRunning { device.notify(queue: queue) }
        default: break
        }
    }

    /// Little-endian bytes of `image` at `offset`; zero beyond its end.
    private static func field(_ image: [UInt8], _ offset: Int, _ width: AccessWidth) -> UInt64 {
        var value: UInt64 = 0
        for byte in 0..<width.bytes where image.indices.contains(offset + byte) {
            value |= UInt64(image[offset + byte]) << UInt64(8 * byte)
        }
        return value
    }

    // MARK: Common configuration

    /// The whole structure, so that any width at any offset reads the right bytes.
    private func commonImage() -> [UInt8] {
        state.withLock { state in
            var image = [UInt8](repeating: 0, count: CommonRegister.size)
            image.store(littleEndian: state.deviceFeatureSelect, at: CommonRegister.deviceFeatureSelect)
            let offered = Self.half(offeredFeatures, state.deviceFeatureSelect)
            image.store(littleEndian: offered, at: CommonRegister.deviceFeature)
            image.store(littleEndian: state.driverFeatureSelect, at: CommonRegister.driverFeatureSelect)
            let accepted = Self.half(state.driverFeatures, state.driverFeatureSelect)
            image.store(littleEndian: accepted, at: CommonRegister.driverFeature)
            image.store(littleEndian: signals.configVector, at: CommonRegister.configVector)
            image.store(littleEndian: UInt16(link.queues.count), at: CommonRegister.queueCount)
            image[CommonRegister.deviceStatus] = signals.status
            image[CommonRegister.configGeneration] = signals.generation
            image.store(littleEndian: state.queueSelect, at: CommonRegister.queueSelect)
            // A queue that does not exist has size 0 (§4.1.4.3.1).
            guard let queue = selectedQueue(state) else { return image }
            let registers = queue.registers
            image.store(littleEndian: registers.size, at: CommonRegister.queueSize)
            image.store(littleEndian: registers.vector, at: CommonRegister.queueVector)
            image.store(littleEndian: UInt16(registers.isEnabled ? 1 : 0), at: CommonRegister.queueEnable)
            image.store(littleEndian: UInt16(queue.index), at: CommonRegister.queueNotifyOffset)
            image.store(littleEndian: registers.descriptors, at: CommonRegister.queueDescriptors)
            image.store(littleEndian: registers.available, at: CommonRegister.queueDriver)
            image.store(littleEndian: registers.used, at: CommonRegister.queueDevice)
            image.store(littleEndian: UInt16(queue.index), at: CommonRegister.queueNotifyData)
            return image
        }
    }

    private func selectedQueue(_ state: State) -> VirtioQueue? {
        link.queues.indices.contains(Int(state.queueSelect)) ? link.queues[Int(state.queueSelect)] : nil
    }

    /// 32 bits of a feature set; selectors above 1 show nothing.
    private static func half(_ features: UInt64, _ select: UInt32) -> UInt32 {
        select < 2 ? UInt32(truncatingIfNeeded: features >> UInt64(32 * select)) : 0
    }

    /// Drivers write fields whole (§4.1.3.1); 64-bit fields also as two halves. Anything else is ignored.
    private func writeCommon(_ register: Int, _ width: AccessWidth, _ value: UInt64) {
        state.withLock { state in
            switch (register, width) {
            case (CommonRegister.deviceFeatureSelect, .dword):
                state.deviceFeatureSelect = UInt32(truncatingIfNeeded: value)
            case (CommonRegister.driverFeatureSelect, .dword):
                state.driverFeatureSelect = UInt32(truncatingIfNeeded: value)
            case (CommonRegister.driverFeature, .dword): acceptFeatures(value, &state)
            case (CommonRegister.configVector, .word):
                signals.configVector = UInt16(truncatingIfNeeded: value)
            case (CommonRegister.deviceStatus, .byte): writeStatus(UInt8(truncatingIfNeeded: value), &state)
            case (CommonRegister.queueSelect, .word): state.queueSelect = UInt16(truncatingIfNeeded: value)
            default: writeQueue(register, width, value, state)
            }
        }
    }

    private func acceptFeatures(_ value: UInt64, _ state: inout State) {
        guard signals.status & DeviceStatus.featuresOK == 0, state.driverFeatureSelect < 2 else { return }
        let shift = UInt64(32 * state.driverFeatureSelect)
        state.driverFeatures =
            (state.driverFeatures & ~(0xFFFF_FFFF << shift)) | (value & 0xFFFF_FFFF) << shift
    }

    private func writeQueue(_ register: Int, _ width: AccessWidth, _ value: UInt64, _ state: State) {
        guard let queue = selectedQueue(state) else { return }
        let word = UInt16(truncatingIfNeeded: value)
        switch (register, width) {
        case (CommonRegister.queueSize, .word): queue.configure { $0.size = word }
        case (CommonRegister.queueVector, .word): queue.configure { $0.vector = word }
        case (CommonRegister.queueEnable, .word):
            if word == 1, signals.status & DeviceStatus.featuresOK != 0 { enable(queue, state) }
        case (CommonRegister.queueReset, .word): if word == 1 { resetQueue(queue, state) }
        case (CommonRegister.queueDescriptors..<CommonRegister.queueDescriptors + 8, _):
            queue.configure {
                Self.store(value, register - CommonRegister.queueDescriptors, width, &$0.descriptors)
            }
        case (CommonRegister.queueDriver..<CommonRegister.queueDriver + 8, _):
            queue.configure { Self.store(value, register - CommonRegister.queueDriver, width, &$0.available) }
        case (CommonRegister.queueDevice..<CommonRegister.queueDevice + 8, _):
            queue.configure { Self.store(value, register - CommonRegister.queueDevice, width, &$0.used) }
        default: break
        }
    }

    private static func store(_ value: UInt64, _ offset: Int, _ width: AccessWidth, _ field: inout UInt64) {
        switch (offset, width) {
        case (0, .dword): field = (field & ~0xFFFF_FFFF) | (value & 0xFFFF_FFFF)
        case (4, .dword): field = (field & 0xFFFF_FFFF) | value << 32
        case (0, .qword): field = value
        default: break
        }
    }

    private func enable(_ queue: VirtioQueue, _ state: State) {
        queue.enable(
            eventIndex: state.driverFeatures & VirtioFeature.eventIndex != 0,
            indirect: state.driverFeatures & VirtioFeature.indirectDescriptors != 0)
    }

    /// §2.6.1: one queue forgets everything; the others go on. Finished when the store returns.
    private func resetQueue(_ queue: VirtioQueue, _ state: State) {
        guard state.driverFeatures & VirtioFeature.ringReset != 0 else { return }
        let wasStopped = queue.isStopped
        queue.stop()
        device.settle(queue)
        queue.reset()
        if !wasStopped { queue.start() }
    }

    // MARK: Status

    private func writeStatus(_ value: UInt8, _ state: inout State) {
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

    /// §6.1, §2.2.2: nothing that was not offered, and never without VERSION_1.
    private func accepts(_ features: UInt64) -> Bool {
        features & ~offeredFeatures == 0 && features & VirtioFeature.version1 != 0
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

    // MARK: Configuration access capability, §4.1.4.9

    /// The window's target in our registers, if the capability names bytes of them.
    private func windowTarget(_ capability: [UInt8]) -> (offset: UInt64, width: AccessWidth)? {
        guard capability.count >= 20, capability[4] == UInt8(VirtioBAR.registers),
            let offset = capability.load(littleEndian: UInt32.self, at: 8),
            let length = capability.load(littleEndian: UInt32.self, at: 12), length <= 4,
            let width = AccessWidth(rawValue: UInt8(length)),
            UInt64(offset) + UInt64(length) <= VirtioBAR.registersSize, offset % length == 0
        else { return nil }
        return (UInt64(offset), width)
    }

    public func readConfigWindow(_ capability: [UInt8]) -> [UInt8] {
        guard let (offset, width) = windowTarget(capability) else { return [] }
        let value = readBAR(VirtioBAR.registers, offset: offset, width: width)
        return (0..<width.bytes).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) }
    }

    public func writeConfigWindow(_ capability: [UInt8]) {
        guard let (offset, width) = windowTarget(capability),
            let value = capability.load(littleEndian: UInt32.self, at: 16)
        else { return }
        writeBAR(VirtioBAR.registers, offset: offset, width: width, value: UInt64(value) & width.mask)
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
