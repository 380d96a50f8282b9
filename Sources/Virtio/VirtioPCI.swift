internal import ByteLayout
public import DeviceModel
public import PCIBus

/// What the machine and the catalogs see of any virtio device on PCI.
public protocol VirtioFunction: Device {
    /// What goes into a slot of the host bridge.
    var function: PCIFunction { get }
    var signals: VirtioSignals { get }
}

/// What else answers at the PCI function of a virtio device: a VGA beside a display, as in QEMU's
/// `virtio-vga`. BARs 1 and 4 are virtio's.
public struct VirtioCompanion: Sendable {
    public var classCode: UInt32
    /// Of BARs 0, 2 and 3.
    public var bars: [BARLayout?]
    public var rom: [UInt8]
    public var handler: any PCIFunctionHandler

    public init(classCode: UInt32, bars: [BARLayout?], rom: [UInt8], handler: any PCIFunctionHandler) {
        precondition(bars.count <= 4 && (bars.count < 2 || bars[1] == nil), "BARs 1 and 4 are virtio's")
        self.classCode = classCode
        self.bars = bars
        self.rom = rom
        self.handler = handler
    }
}

/// A virtio device with its PCI transport: one device of the machine, saved and restored as one.
public final class VirtioPCI<Behaviour: VirtioDevice>: VirtioFunction {
    public static var kind: String { Behaviour.kind }

    public struct Saved: Codable, Sendable, Equatable {
        var function: PCIFunction.Saved
        var transport: VirtioNegotiation.Saved
        var device: Behaviour.Saved
    }

    public let device: Behaviour
    public let function: PCIFunction
    private let negotiation: VirtioNegotiation
    public var signals: VirtioSignals { device.link.signals }

    /// `rom` is the function's expansion ROM, if a companion has none.
    public init(_ device: Behaviour, beside companion: VirtioCompanion? = nil, rom: [UInt8] = []) {
        self.device = device
        negotiation = VirtioNegotiation(device)
        function = PCIFunction(
            Self.layout(of: device, beside: companion, rom: companion?.rom ?? rom),
            interrupts: device.link.signals.interrupts,
            handler: VirtioPCITransport(negotiation, companion: companion?.handler))
    }

    /// §4.1.2: vendor 0x1AF4, device 0x1040 plus the device type, revision 1 or more.
    private static func layout(
        of device: Behaviour, beside companion: VirtioCompanion?, rom: [UInt8]
    ) -> PCIFunctionLayout {
        var bars = [BARLayout?](repeating: nil, count: 5)
        for (bar, layout) in (companion?.bars ?? []).enumerated() { bars[bar] = layout }
        bars[VirtioBAR.msix] = BARLayout(.memory32, size: VirtioBAR.msixSize)
        bars[VirtioBAR.registers] = BARLayout(.memory32, size: VirtioBAR.registersSize)
        return PCIFunctionLayout(
            identity: PCIIdentity(
                vendor: 0x1AF4, device: 0x1040 + device.deviceID,
                classCode: companion?.classCode ?? device.classCode, revision: 1,
                subsystemVendor: 0x1AF4, subsystem: 0x1100),
            bars: bars,
            interruptPin: 1, msix: MSIXPlacement(bar: VirtioBAR.msix, pending: VirtioBAR.msixPending),
            capabilities: capabilities(queues: device.link.queues.count, configSize: device.config.count),
            window: (capability: 4, bytes: 16..<20), rom: rom)
    }

    private static func capabilities(queues: Int, configSize: Int) -> [PCICapability] {
        let notifySize = UInt32(max(queues, 1)) * VirtioBAR.notifyMultiplier
        return [
            capability(VirtioCapability.common, at: VirtioBAR.common, size: UInt32(CommonRegister.size)),
            capability(
                VirtioCapability.notify, at: VirtioBAR.notify, size: notifySize,
                extra: VirtioBAR.notifyMultiplier),
            capability(VirtioCapability.interruptStatus, at: VirtioBAR.interruptStatus, size: 1),
            capability(VirtioCapability.device, at: VirtioBAR.device, size: UInt32(max(configSize, 4))),
            windowCapability(),
        ]
    }

    /// struct virtio_pci_cap, §4.1.4, from its length byte on: cap_len, cfg_type, bar, id, padding[2],
    /// offset, length, and what follows in some types.
    private static func capability(_ type: UInt8, at offset: UInt64, size: UInt32, extra: UInt32? = nil)
        -> PCICapability
    {
        var body: [UInt8] = [extra == nil ? 16 : 20, type, UInt8(VirtioBAR.registers), 0, 0, 0]
        body.append(littleEndian: UInt32(truncatingIfNeeded: offset))
        body.append(littleEndian: size)
        if let extra { body.append(littleEndian: extra) }
        return PCICapability(id: PCICapabilityID.vendorSpecific, body: body)
    }

    /// §4.1.4.9: BAR, offset, length and the data window are the driver's to write.
    private static func windowCapability() -> PCICapability {
        var capability = capability(VirtioCapability.configAccess, at: 0, size: 0, extra: 0)
        capability.body[2] = 0
        capability.writable = [UInt8](repeating: 0, count: capability.body.count)
        for byte in [2] + Array(6..<18) { capability.writable[byte] = 0xFF }
        return capability
    }

    public func reset() {
        negotiation.reset()
        function.reset()
    }

    public func pause() { device.pause() }
    public func resume() { device.resume() }

    public func save() -> Saved {
        Saved(function: function.save(), transport: negotiation.save(), device: device.save())
    }

    /// The machine restores while it is paused, and calls `resume` afterwards.
    public func restore(_ saved: Saved) throws(RestoreError) {
        try device.restore(saved.device)
        try negotiation.restore(saved.transport, kind: Self.kind)
        try function.restore(saved.function)
    }
}
