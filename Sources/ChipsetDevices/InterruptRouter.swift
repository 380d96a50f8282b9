public import DeviceModel
import Synchronization

/// The board's interrupt wiring: lines 0...15 reach the PIC pair and the I/O APIC, 16...23 the I/O APIC only.
/// Line 0 (the PIT) is wired to I/O APIC pin 2, as the MADT's interrupt source override must say; line 2 is
/// the PIC's cascade and has no device.
///
/// Confinement: any thread, after `connect`.
public final class InterruptRouter: InterruptSink {
    private final class Targets: Sendable {
        let pic: (any InterruptSink)?
        let ioapic: (any InterruptSink)?
        init(pic: (any InterruptSink)?, ioapic: (any InterruptSink)?) {
            self.pic = pic
            self.ioapic = ioapic
        }
    }
    /// ACPI interrupt source override: ISA interrupt 0 is global system interrupt 2.
    public static let timerPin = 2
    private let targets = AtomicLazyReference<Targets>()

    public init() {}

    /// Wires the controllers; once, before any line moves. Lines that move earlier are lost.
    public func connect(pic: (any InterruptSink)?, ioapic: (any InterruptSink)?) {
        _ = targets.storeIfNil(Targets(pic: pic, ioapic: ioapic))
    }

    public func setLine(_ line: Int, asserted: Bool) {
        guard let targets = targets.load(), line != Self.timerPin else { return }
        if (0..<16).contains(line) { targets.pic?.setLine(line, asserted: asserted) }
        targets.ioapic?.setLine(line == 0 ? Self.timerPin : line, asserted: asserted)
    }
}
