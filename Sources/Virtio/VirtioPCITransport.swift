internal import ByteLayout
public import DeviceModel
public import PCIBus

/// The registers of a virtio device on PCI (VIRTIO 1.3 §4.1), without the legacy interface.
///
/// Confinement: any thread.
public final class VirtioPCITransport: PCIFunctionHandler {
    private let negotiation: VirtioNegotiation
    /// What answers at the BARs that are not virtio's.
    private let companion: (any PCIFunctionHandler)?
    private var signals: VirtioSignals { negotiation.signals }

    init(_ negotiation: VirtioNegotiation, companion: (any PCIFunctionHandler)? = nil) {
        self.negotiation = negotiation
        self.companion = companion
    }

    // MARK: BAR accesses

    public func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        guard bar == VirtioBAR.registers else {
            return companion?.readBAR(bar, offset: offset, width: width) ?? 0
        }
        let register = Int(offset % VirtioBAR.regionSize)
        switch offset - UInt64(register) {
        case VirtioBAR.common: return VirtioNegotiation.field(commonImage(), register, width)
        case VirtioBAR.interruptStatus: return register == 0 ? UInt64(signals.takeInterruptStatus()) : 0
        case VirtioBAR.device: return negotiation.readConfig(register, width)
        default: return 0
        }
    }

    public func directMemory(bar: Int) -> (any DirectMemory)? {
        bar == VirtioBAR.registers ? nil : companion?.directMemory(bar: bar)
    }

    public func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        guard bar == VirtioBAR.registers else {
            companion?.writeBAR(bar, offset: offset, width: width, value: value)
            return
        }
        let register = Int(offset % VirtioBAR.regionSize)
        switch offset - UInt64(register) {
        case VirtioBAR.common: writeCommon(register, width, value)
        case VirtioBAR.device: negotiation.writeConfig(register, width, value)
        case VirtioBAR.notify: negotiation.notify(register / Int(VirtioBAR.notifyMultiplier))
        default: break
        }
    }

    // MARK: Common configuration

    /// The whole structure, so that any width at any offset reads the right bytes.
    private func commonImage() -> [UInt8] {
        negotiation.withLock { state in
            var image = [UInt8](repeating: 0, count: CommonRegister.size)
            image.store(littleEndian: state.deviceFeatureSelect, at: CommonRegister.deviceFeatureSelect)
            image.store(littleEndian: negotiation.offeredHalf(state), at: CommonRegister.deviceFeature)
            image.store(littleEndian: state.driverFeatureSelect, at: CommonRegister.driverFeatureSelect)
            image.store(littleEndian: negotiation.acceptedHalf(state), at: CommonRegister.driverFeature)
            image.store(littleEndian: signals.configVector, at: CommonRegister.configVector)
            image.store(littleEndian: UInt16(negotiation.link.queues.count), at: CommonRegister.queueCount)
            image[CommonRegister.deviceStatus] = signals.status
            image[CommonRegister.configGeneration] = signals.generation
            image.store(littleEndian: state.queueSelect, at: CommonRegister.queueSelect)
            // A queue that does not exist has size 0 (§4.1.4.3.1).
            guard let queue = negotiation.selectedQueue(state) else { return image }
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

    /// Drivers write fields whole (§4.1.3.1); 64-bit fields also as two halves. Anything else is ignored.
    private func writeCommon(_ register: Int, _ width: AccessWidth, _ value: UInt64) {
        negotiation.withLock { state in
            switch (register, width) {
            case (CommonRegister.deviceFeatureSelect, .dword):
                state.deviceFeatureSelect = UInt32(truncatingIfNeeded: value)
            case (CommonRegister.driverFeatureSelect, .dword):
                state.driverFeatureSelect = UInt32(truncatingIfNeeded: value)
            case (CommonRegister.driverFeature, .dword): negotiation.acceptFeatures(value, &state)
            case (CommonRegister.configVector, .word):
                signals.configVector = UInt16(truncatingIfNeeded: value)
            case (CommonRegister.deviceStatus, .byte):
                negotiation.writeStatus(UInt8(truncatingIfNeeded: value), &state)
            case (CommonRegister.queueSelect, .word): state.queueSelect = UInt16(truncatingIfNeeded: value)
            default: writeQueue(register, width, value, state)
            }
        }
    }

    private func writeQueue(
        _ register: Int, _ width: AccessWidth, _ value: UInt64, _ state: VirtioNegotiation.State
    ) {
        guard let queue = negotiation.selectedQueue(state) else { return }
        let word = UInt16(truncatingIfNeeded: value)
        switch (register, width) {
        case (CommonRegister.queueSize, .word): queue.configure { $0.size = word }
        case (CommonRegister.queueVector, .word): queue.configure { $0.vector = word }
        case (CommonRegister.queueEnable, .word):
            if word == 1 { negotiation.enable(queue, state) }
        case (CommonRegister.queueReset, .word):
            if word == 1 { negotiation.resetQueue(queue, state) }
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
}
