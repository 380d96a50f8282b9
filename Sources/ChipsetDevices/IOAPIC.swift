public import DeviceModel
import Synchronization

/// The I/O APIC (82093AA, Intel 290566, with the EOI register of version 20h): 24 inputs at FEC00000h.
///
/// Inputs are logical levels: the polarity bit of a redirection entry is kept and has no effect,
/// because the wires between our devices have no voltage.
///
/// Confinement: any thread. Messages leave after the lock is released.
public final class IOAPIC: MemoryMappedDevice, InterruptSink {
    public static let kind = "ioapic"
    public static let address: UInt64 = 0xFEC0_0000
    public static let size: UInt64 = 0x1000
    public static let pinCount = 24

    public struct Saved: Codable, Sendable, Equatable {
        var identifier: UInt8
        var select: UInt8
        var entries: [UInt64]
        /// The inputs, bit n is pin n.
        var pins: UInt32
    }

    /// Redirection entry bits (82093AA §3.2.4).
    private enum Entry {
        static let remoteRequest: UInt64 = 1 << 14
        static let level: UInt64 = 1 << 15
        static let masked: UInt64 = 1 << 16
        static let logical: UInt64 = 1 << 11
        /// All but delivery status (12), remote IRR (14) and the reserved bits 55..17.
        static let writable: UInt64 = 0xFF00_0000_0001_AFFF
    }
    private enum Register {
        static let select: UInt64 = 0x00, window: UInt64 = 0x10, endOfInterrupt: UInt64 = 0x40
        static let identifier: UInt8 = 0, version: UInt8 = 1, arbitration: UInt8 = 2, entries: UInt8 = 0x10
    }
    /// 24 entries, version 20h.
    private static let version: UInt32 = 0x20 | UInt32(pinCount - 1) << 16

    private struct State {
        var identifier: UInt8 = 0
        var select: UInt8 = 0
        var entries: [24 of UInt64] = .init(repeating: Entry.masked)
        var pins: UInt32 = 0

        /// The message of `pin` when its level asks for one now.
        mutating func serviceLevel(_ pin: Int) -> InterruptMessage? {
            let entry = entries[pin]
            guard pins >> UInt32(pin) & 1 != 0, entry & Entry.level != 0, entry & Entry.masked == 0,
                entry & Entry.remoteRequest == 0
            else { return nil }
            // Only fixed and lowest priority are answered by an EOI.
            if entry >> 8 & 7 <= 1 { entries[pin] |= Entry.remoteRequest }
            return message(pin)
        }

        func message(_ pin: Int) -> InterruptMessage {
            let entry = entries[pin]
            let destination = UInt32(truncatingIfNeeded: entry >> 56)
            let isLogical = entry & Entry.logical != 0
            return InterruptMessage(
                vector: UInt8(truncatingIfNeeded: entry),
                mode: DeliveryMode(bits: UInt32(truncatingIfNeeded: entry >> 8)),
                isLevel: entry & Entry.level != 0, destination: destination, isLogical: isLogical,
                isBroadcast: destination == 0xFF && !isLogical)
        }
    }
    private let state = Mutex(State())
    private let bus: APICBus

    public init(_ context: DeviceContext, bus: APICBus) { self.bus = bus }

    public func setLine(_ line: Int, asserted: Bool) {
        guard (0..<Self.pinCount).contains(line) else { return }
        let bit = UInt32(1) << UInt32(line)
        let message: InterruptMessage? = state.withLock { state in
            let rising = asserted && state.pins & bit == 0
            state.pins = asserted ? state.pins | bit : state.pins & ~bit
            guard rising else { return nil }
            if state.entries[line] & Entry.level != 0 { return state.serviceLevel(line) }
            // An edge on a masked input is lost (82093AA §3.2.4, interrupt mask).
            return state.entries[line] & Entry.masked == 0 ? state.message(line) : nil
        }
        if let message { bus.send(message) }
    }

    /// The EOI of a level-triggered `vector`, from a local APIC or the EOI register.
    public func endOfInterrupt(_ vector: UInt8) {
        for pin in 0..<Self.pinCount {
            let message: InterruptMessage? = state.withLock { state in
                let entry = state.entries[pin]
                guard UInt8(truncatingIfNeeded: entry) == vector, entry & Entry.level != 0 else { return nil }
                state.entries[pin] &= ~Entry.remoteRequest
                return state.serviceLevel(pin)
            }
            if let message { bus.send(message) }
        }
    }

    public func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        let value: UInt32 = state.withLock { state in
            switch offset & ~3 {
            case Register.select: return UInt32(state.select)
            case Register.window: return readWindow(state)
            default: return 0
            }
        }
        return UInt64(value) >> ((offset & 3) * 8) & width.mask
    }

    private func readWindow(_ state: borrowing State) -> UInt32 {
        switch state.select {
        case Register.identifier, Register.arbitration: return UInt32(state.identifier) << 24
        case Register.version: return Self.version
        default:
            guard let (pin, high) = Self.entry(state.select) else { return 0 }
            return UInt32(truncatingIfNeeded: high ? state.entries[pin] >> 32 : state.entries[pin])
        }
    }

    /// The pin and half of an entry register.
    private static func entry(_ select: UInt8) -> (pin: Int, high: Bool)? {
        guard select >= Register.entries, select < Register.entries + UInt8(pinCount * 2) else { return nil }
        let index = Int(select - Register.entries)
        return (index / 2, index & 1 != 0)
    }

    public func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        let value = UInt32(truncatingIfNeeded: value)
        switch offset {
        case Register.select: state.withLock { $0.select = UInt8(truncatingIfNeeded: value) }
        case Register.window: writeWindow(value)
        case Register.endOfInterrupt: endOfInterrupt(UInt8(truncatingIfNeeded: value))
        default: break
        }
    }

    private func writeWindow(_ value: UInt32) {
        let message: InterruptMessage? = state.withLock { state in
            if state.select == Register.identifier { state.identifier = UInt8(value >> 24 & 0xF) }
            guard let (pin, high) = Self.entry(state.select) else { return nil }
            let old = state.entries[pin]
            let merged =
                high ? old & 0xFFFF_FFFF | UInt64(value) << 32 : old & ~0xFFFF_FFFF | UInt64(value)
            var new = merged & Entry.writable | old & Entry.remoteRequest
            // Without level trigger there is nothing to answer: software clears remote IRR by this.
            if new & Entry.level == 0 { new &= ~Entry.remoteRequest }
            state.entries[pin] = new
            return state.serviceLevel(pin)
        }
        if let message { bus.send(message) }
    }

    public func reset() {
        state.withLock { state in
            let pins = state.pins
            state = State()
            state.pins = pins
        }
    }

    public func save() -> Saved {
        state.withLock { state in
            Saved(
                identifier: state.identifier, select: state.select,
                entries: (0..<Self.pinCount).map { state.entries[$0] }, pins: state.pins)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        let legal = Entry.writable | Entry.remoteRequest
        guard saved.identifier < 16, saved.entries.count == Self.pinCount, saved.pins >> 24 == 0,
            saved.entries.allSatisfy({ $0 & ~legal == 0 })
        else { throw RestoreError(Self.kind, "a redirection entry or pin is out of range") }
        state.withLock { state in
            state.identifier = saved.identifier
            state.select = saved.select
            state.pins = saved.pins
            for pin in 0..<Self.pinCount { state.entries[pin] = saved.entries[pin] }
        }
    }
}
