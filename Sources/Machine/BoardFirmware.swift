internal import BootLoaders
internal import ChipsetDevices
internal import DeviceModel
internal import GuestMemory
internal import Synchronization
internal import X86Architecture

/// What a PC's firmware does, for machines that have none.
extension Board {
    /// The end of S3: what lost its power is reset, PCI resources are assigned, and the boot processor goes
    /// to the guest's waking vector in real mode (ACPI 6.5 §5.2.10, table 5.13). Memory, the power management
    /// and the clock stay as they are.
    /// Returns the state of the boot processor; nil when real mode cannot reach the vector, or there is none.
    func wakeUp() throws(BoardError) -> VCPUState? {
        for device in devices where !(device is ACPIPowerManagement || device is RTC) { device.reset() }
        guard spec.firmware == nil else { return nil }
        try assignResources()
        let offset: UInt64 = 12, reach: UInt32 = 0x10_0000
        let place = GuestAddress(firmwareControl.load(ordering: .relaxed) + offset)
        guard let vector = try? memory.load(UInt32.self, at: place), (1..<reach).contains(vector) else {
            return nil
        }
        var state = VCPUState()
        state.cr0 = CR0.extensionType
        state.segments[Int(SegmentRegister.cs.rawValue)] = SegmentState(
            selector: UInt16(vector >> 4), base: UInt64(vector & ~0xF), limit: 0xFFFF, attributes: 0x9B)
        state.rip = UInt64(vector & 0xF)
        return state
    }

    /// A BIOS leaves its timer tick running: the interrupt controllers count from vectors 8 and 70h, with the
    /// timer's line open alone, and the timer divides by 65,536 (18.2 Hz). Multiboot kernels get this state,
    /// which the boot loaders of real machines leave to them; Linux and PVH kernels expect nothing.
    func leaveTimerTick() {
        let writes: [(port: UInt16, value: UInt32)] = [
            // ICW1 to ICW4 of both controllers, then the masks (8259A data sheet).
            (0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0xA0, 0x11), (0xA1, 0x70), (0xA1, 0x02),
            (0xA1, 0x01), (0x21, 0xFA), (0xA1, 0xFF),
            // Counter 0: both bytes, mode 2, 0 is 65,536.
            (0x43, 0x34), (0x40, 0), (0x40, 0),
        ]
        for (port, value) in writes { platform.portWrite(port, width: .byte, value: value) }
    }
}
