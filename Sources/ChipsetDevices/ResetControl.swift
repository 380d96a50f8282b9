public import DeviceModel
import Synchronization

/// The reset control register of PCI chipsets at CF9h (PIIX3 §2.6.2) and system control port A at 92h.
/// CF9h lies inside the PCI configuration address register CF8h, which takes 32-bit accesses only: attach
/// this device to the port bus before the PCI host bridge.
///
/// Confinement: any thread.
public final class ResetControl: PortDevice {
    public static let kind = "reset-control"
    public let ports: [ClosedRange<UInt16>] = [0x92...0x92, 0xCF9...0xCF9]

    public struct Saved: Codable, Sendable, Equatable {
        /// Port CF9h bits 2..1.
        var control: UInt8
        /// Port 92h without bit 0.
        var portA: UInt8
    }

    private enum Control {
        static let hard: UInt8 = 1 << 1, resetProcessor: UInt8 = 1 << 2
    }
    private enum PortA {
        static let fastReset: UInt8 = 1 << 0, a20: UInt8 = 1 << 1
    }
    /// Address line 20 is never masked; the bit is kept for software that asks.
    private let state = Mutex(Saved(control: 0, portA: PortA.a20))
    private let report: @Sendable (MachineEvent) -> Void

    public init(_ context: DeviceContext) { report = context.report }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        let value = state.withLock { port == 0x92 ? $0.portA : $0.control }
        return UInt32(value) | 0xFFFF_FF00
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        let resets = state.withLock { state in
            if port == 0x92 {
                state.portA = byte & ~PortA.fastReset
                return byte & PortA.fastReset != 0
            }
            // A rising RST_CPU resets; the register itself does not survive that.
            let rises = byte & ~state.control & Control.resetProcessor != 0
            state.control = byte & (Control.hard | Control.resetProcessor)
            return rises
        }
        if resets { report(.reset) }
    }

    public func reset() { state.withLock { $0 = Saved(control: 0, portA: PortA.a20) } }
    public func save() -> Saved { state.withLock { $0 } }
    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.control & ~6 == 0, saved.portA & 1 == 0 else {
            throw RestoreError(Self.kind, "a reserved bit is set")
        }
        state.withLock { $0 = saved }
    }
}
