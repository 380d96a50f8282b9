public import DeviceModel
internal import PCIBus

/// A virtio device with its registers in memory (VIRTIO 1.3 §4.2), without the legacy interface, on an
/// interrupt line of its own: one device of the machine, saved and restored as one. The line is high while an
/// event is not acknowledged.
///
/// Confinement: any thread.
public final class VirtioMMIO<Behaviour: VirtioDevice>: MemoryMappedDevice {
    public static var kind: String { Behaviour.kind }

    public struct Saved: Codable, Sendable, Equatable {
        var negotiation: VirtioNegotiation.Saved
        var device: Behaviour.Saved
    }

    /// How much memory the registers take.
    public static var size: UInt64 { MMIORegister.size }

    public let device: Behaviour
    private let negotiation: VirtioNegotiation
    private var signals: VirtioSignals { negotiation.signals }

    public init(_ device: Behaviour, line: InterruptLine) {
        self.device = device
        negotiation = VirtioNegotiation(device)
        device.link.signals.interrupts.connect(pin: line)
    }

    // MARK: Registers

    /// Registers are read as aligned 32 bits (§4.2.2.2), the configuration in any way. Anything else is 0.
    public func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        if offset >= MMIORegister.config {
            return negotiation.readConfig(Int(offset - MMIORegister.config), width)
        }
        return width == .dword ? UInt64(readRegister(offset)) : 0
    }

    public func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        if offset >= MMIORegister.config {
            return negotiation.writeConfig(Int(offset - MMIORegister.config), width, value)
        }
        if width == .dword { writeRegister(offset, UInt32(truncatingIfNeeded: value)) }
    }

    private func readRegister(_ register: UInt64) -> UInt32 {
        switch register {
        case MMIORegister.magic: return MMIOValue.magic
        case MMIORegister.version: return MMIOValue.version
        case MMIORegister.deviceID: return UInt32(device.deviceID)
        case MMIORegister.vendorID: return MMIOValue.vendor
        case MMIORegister.interruptStatus: return UInt32(signals.interruptStatus)
        case MMIORegister.status: return UInt32(signals.status)
        case MMIORegister.configGeneration: return UInt32(signals.generation)
        // There is no shared memory region: its length is -1, and so is its base (§4.2.2).
        case MMIORegister.sharedMemoryLengthLow...MMIORegister.sharedMemoryBaseHigh: return .max
        default: return negotiation.withLock { readSelected(register, $0) }
        }
    }

    private func readSelected(_ register: UInt64, _ state: VirtioNegotiation.State) -> UInt32 {
        if register == MMIORegister.deviceFeatures { return negotiation.offeredHalf(state) }
        // A queue that does not exist has the maximum 0 (§4.2.2, QueueSizeMax).
        guard let queue = negotiation.selectedQueue(state) else { return 0 }
        switch register {
        case MMIORegister.queueSizeMaximum: return UInt32(queue.maximumSize)
        case MMIORegister.queueReady: return queue.isEnabled ? 1 : 0
        default: return 0
        }
    }

    private func writeRegister(_ register: UInt64, _ value: UInt32) {
        switch register {
        case MMIORegister.queueNotify: negotiation.notify(Int(value))
        case MMIORegister.interruptAcknowledge:
            signals.acknowledgeInterrupts(UInt8(truncatingIfNeeded: value))
        default: negotiation.withLock { writeSelected(register, value, &$0) }
        }
    }

    private func writeSelected(_ register: UInt64, _ value: UInt32, _ state: inout VirtioNegotiation.State) {
        switch register {
        case MMIORegister.deviceFeatureSelect: state.deviceFeatureSelect = value
        case MMIORegister.driverFeatureSelect: state.driverFeatureSelect = value
        case MMIORegister.driverFeatures: negotiation.acceptFeatures(UInt64(value), &state)
        case MMIORegister.queueSelect: state.queueSelect = UInt16(clamping: value)
        case MMIORegister.status: negotiation.writeStatus(UInt8(truncatingIfNeeded: value), &state)
        default:
            guard let queue = negotiation.selectedQueue(state) else { return }
            writeQueue(register, value, queue, state)
        }
    }

    private func writeQueue(
        _ register: UInt64, _ value: UInt32, _ queue: VirtioQueue, _ state: VirtioNegotiation.State
    ) {
        switch register {
        case MMIORegister.queueSize: queue.configure { $0.size = UInt16(clamping: value) }
        case MMIORegister.queueReady:
            // The driver may take a queue away again, and sees when it is done by reading (§4.2.2.2).
            if value & 1 == 0 { negotiation.disable(queue) } else { negotiation.enable(queue, state) }
        case MMIORegister.queueReset:
            if value & 1 != 0 { negotiation.resetQueue(queue, state) }
        case MMIORegister.queueDescriptorsLow: queue.configure { $0.descriptors.setLow(value) }
        case MMIORegister.queueDescriptorsHigh: queue.configure { $0.descriptors.setHigh(value) }
        case MMIORegister.queueDriverLow: queue.configure { $0.available.setLow(value) }
        case MMIORegister.queueDriverHigh: queue.configure { $0.available.setHigh(value) }
        case MMIORegister.queueDeviceLow: queue.configure { $0.used.setLow(value) }
        case MMIORegister.queueDeviceHigh: queue.configure { $0.used.setHigh(value) }
        default: break
        }
    }

    // MARK: Lifecycle

    public func reset() { negotiation.reset() }
    public func pause() { device.pause() }
    public func resume() { device.resume() }

    public func save() -> Saved { Saved(negotiation: negotiation.save(), device: device.save()) }

    /// The machine restores while it is paused, and calls `resume` afterwards.
    public func restore(_ saved: Saved) throws(RestoreError) {
        try device.restore(saved.device)
        try negotiation.restore(saved.negotiation, kind: Self.kind)
        signals.driveLine()
    }
}

extension UInt64 {
    fileprivate mutating func setLow(_ half: UInt32) { self = self & ~0xFFFF_FFFF | UInt64(half) }
    fileprivate mutating func setHigh(_ half: UInt32) { self = self & 0xFFFF_FFFF | UInt64(half) << 32 }
}
