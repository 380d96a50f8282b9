internal import CKVM
public import DeviceModel
public import LinuxHost

/// Guest writes and interrupts that pass between the kernel and event counters without our threads.
///
/// The board does not use them yet. Its local APICs are our own, so that a machine can move to the software
/// CPU at any instruction; counters raise interrupts only through the kernel's. And a write that signals a
/// counter would give the work of all virtio devices, which is the vCPUs' now, to the one event loop.
extension KVMEngine {
    /// Where a guest write is caught.
    public enum EventAddress: Hashable, Sendable {
        case port(UInt16)
        case memory(UInt64)
    }

    /// Lets guest writes to `address` signal `counter` instead of coming to the platform. `width` nil takes
    /// every size (memory only); `value` restricts it to writes of that value.
    public func addWriteEvent(
        _ address: EventAddress, width: AccessWidth?, value: UInt64? = nil, counter: EventCounter
    ) throws(HostError) {
        try setWriteEvent(address, width, value, counter, remove: false)
    }

    /// Takes back exactly one `addWriteEvent`.
    public func removeWriteEvent(
        _ address: EventAddress, width: AccessWidth?, value: UInt64? = nil, counter: EventCounter
    ) throws(HostError) {
        try setWriteEvent(address, width, value, counter, remove: true)
    }

    private func setWriteEvent(
        _ address: EventAddress, _ width: AccessWidth?, _ value: UInt64?, _ counter: EventCounter,
        remove: Bool
    ) throws(HostError) {
        let place: UInt64
        let isPort: Bool
        switch address {
        case .port(let port): (place, isPort) = (UInt64(port), true)
        case .memory(let memory): (place, isPort) = (memory, false)
        }
        try check(
            "catching guest writes",
            ospite_kvm_io_event(
                machine.number, counter.descriptor.number, place, UInt32(width?.bytes ?? 0), isPort ? 1 : 0,
                value == nil ? 0 : 1, value ?? 0, remove ? 1 : 0))
    }

    /// Lets `counter` raise the interrupt `gsi` (chips in the kernel, at least the local APICs). With
    /// `resample`, the interrupt is level-triggered and that counter is signalled when the guest ends it.
    public func addInterruptEvent(_ gsi: UInt32, counter: EventCounter, resample: EventCounter? = nil)
        throws(HostError)
    {
        try check(
            "connecting an interrupt",
            ospite_kvm_irq_event(
                machine.number, counter.descriptor.number, gsi, resample?.descriptor.number ?? -1, 0))
    }

    public func removeInterruptEvent(_ gsi: UInt32, counter: EventCounter) throws(HostError) {
        try check(
            "disconnecting an interrupt",
            ospite_kvm_irq_event(machine.number, counter.descriptor.number, gsi, -1, 1))
    }

    /// Replaces the routing table: the pins of the kernel's chips, if any, as on a PC, and `messages` by
    /// interrupt number (24 and above, at most 4,000).
    public func setMessageRoutes(_ messages: [UInt32: MSIMessage]) throws(HostError) {
        var routes: [ospite_kvm_route] = []
        if case .kernel = configuration.chips {
            for gsi in 0..<24 as Range<UInt32> {
                if gsi < 16 {
                    routes.append(
                        ospite_kvm_route(gsi: gsi, chip: gsi < 8 ? 0 : 1, pin: gsi % 8, address: 0, data: 0))
                }
                // GSI 0 is the PIT, wired to IOAPIC pin 2 on a PC.
                if gsi != 2 {
                    routes.append(
                        ospite_kvm_route(gsi: gsi, chip: 2, pin: gsi == 0 ? 2 : gsi, address: 0, data: 0))
                }
            }
        }
        for (gsi, message) in messages.sorted(by: { $0.key < $1.key }) {
            routes.append(
                ospite_kvm_route(gsi: gsi, chip: -1, pin: 0, address: message.address, data: message.data))
        }
        // SAFETY: the array lives for the call.
        try check(
            "routing interrupts",
            unsafe ospite_kvm_set_routes(machine.number, routes, Int32(clamping: routes.count)))
    }

    /// The 512-byte state of a kernel chip (0 and 1 the PICs, 2 the IOAPIC), as struct kvm_irqchip has it.
    public func chipState(_ chip: Int) throws(HostError) -> [UInt8] {
        var state = [UInt8](repeating: 0, count: 512)
        // SAFETY: 512 bytes.
        try check(
            "reading an interrupt controller",
            unsafe ospite_kvm_get_chip(machine.number, UInt32(clamping: chip), &state))
        return state
    }

    public func setChipState(_ chip: Int, _ state: [UInt8]) throws(HostError) {
        guard state.count == 512 else {
            throw HostError("the state of an interrupt controller has 512 bytes", code: 0)
        }
        // SAFETY: 512 bytes.
        try check(
            "setting an interrupt controller",
            unsafe ospite_kvm_set_chip(machine.number, UInt32(clamping: chip), state))
    }
}

/// With the local APICs in the kernel, messages go there.
extension KVMEngine: MSITarget {
    public func deliver(_ message: MSIMessage) {
        // A message that no APIC accepts is lost, as on the bus.
        _ = ospite_kvm_signal_msi(machine.number, message.address, message.data)
    }
}

/// With all chips in the kernel, lines go there.
extension KVMEngine: InterruptSink {
    public func setLine(_ line: Int, asserted: Bool) {
        guard let gsi = UInt32(exactly: line) else { return }
        _ = ospite_kvm_irq_line(machine.number, gsi, asserted ? 1 : 0)
    }
}
