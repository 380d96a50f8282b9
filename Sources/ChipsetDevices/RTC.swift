public import DeviceModel
import Synchronization

/// The MC146818A real-time clock with 256 bytes of CMOS: index and data at ports 70h-71h for the first 128
/// bytes, 72h-73h for the others. Drives interrupt line 8. Bit 7 of port 70h (NMI mask) is ignored.
///
/// Nothing ticks here: time follows from the host's wall clock and an offset that the guest sets.
///
/// Confinement: any thread.
public final class RTC: PortDevice {
    public static let kind = "rtc"
    public let ports: [ClosedRange<UInt16>] = [0x70...0x73]

    /// What the PC's firmware finds in CMOS.
    public struct Configuration: Sendable {
        /// Bytes of RAM below and from 4 GiB.
        public var memoryBelow4GiB: UInt64
        public var memoryAbove4GiB: UInt64
        public var processorCount: Int
        /// Types of the floppy drives, at most two.
        public var floppyDrives: [UInt8] = []
        public init(memoryBelow4GiB: UInt64, memoryAbove4GiB: UInt64 = 0, processorCount: Int = 1) {
            self.memoryBelow4GiB = memoryBelow4GiB
            self.memoryAbove4GiB = memoryAbove4GiB
            self.processorCount = processorCount
        }
    }

    /// The CMOS bytes hold the alarm and control registers; time registers only while they are set.
    public struct Saved: Codable, Sendable, Equatable {
        var cmos: [UInt8]
        var index: UInt8
        var extendedIndex: UInt8
        /// Guest time minus wall time, in whole seconds, and the nanoseconds that come on top.
        var offsetSeconds: Int64
        var phase: UInt64
        var weekdayOffset: UInt8
        var frozen: Bool
        /// Register C.
        var flags: UInt8
        var servicedSecond: Int64
        var servicedPeriod: UInt64
    }

    let state: Mutex<RTCState>
    private let clock: any MachineClock
    private let line: InterruptLine
    private let timer: LateTimer
    private let isLineSuppressed = Atomic<Bool>(false)
    private let onAlarm: @Sendable () -> Void

    /// `onAlarm` hears each alarm whose interrupt is enabled.
    public init(
        _ context: DeviceContext, _ configuration: Configuration,
        onAlarm: @escaping @Sendable () -> Void = {}
    ) {
        self.onAlarm = onAlarm
        clock = context.clock
        line = context.line(8)
        timer = LateTimer(context.clock)
        state = Mutex(RTCState(configuration))
        timer.connect { [weak self] in self?.locked { _, _ in } }
        locked { $0.startServicing($1) }
    }

    /// HPET legacy replacement takes line 8 away from the clock (HPET specification 1.0a §2.3.3).
    public func suppressLine(_ suppressed: Bool) {
        state.withLock { state in
            let old = isLineSuppressed.exchange(suppressed, ordering: .acquiringAndReleasing)
            if old != suppressed, state.isRequesting { line.set(!suppressed) }
        }
    }

    /// Runs `body` between accounting for the past and arming for the future, and drives the line.
    private func locked<R: Sendable>(_ body: (inout RTCState, RTCState.Instant) -> R) -> R {
        let (result, hasAlarm) = state.withLock { state in
            let instant = RTCState.Instant(now: clock.now, wall: clock.wallClock)
            let before = state.isRequesting
            let hadAlarm = state.requestsAlarm
            state.service(instant)
            let hasAlarm = state.requestsAlarm && !hadAlarm
            let result = body(&state, instant)
            let after = state.isRequesting
            if before != after, !isLineSuppressed.load(ordering: .acquiring) { line.set(after) }
            timer.arm(at: state.nextEvent(instant))
            return (result, hasAlarm)
        }
        if hasAlarm { onAlarm() }
        return result
    }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        let value: UInt8 = locked { state, instant in
            switch port {
            case 0x70: return state.index
            case 0x71: return state.read(Int(state.index & 0x7F), instant)
            case 0x72: return state.extendedIndex
            case 0x73: return state.cmos[128 + Int(state.extendedIndex & 0x7F)]
            default: return 0xFF
            }
        }
        return UInt32(value) | 0xFFFF_FF00
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        locked { state, instant in
            switch port {
            case 0x70: state.index = byte & 0x7F
            case 0x71: state.write(Int(state.index & 0x7F), byte, instant)
            case 0x72: state.extendedIndex = byte & 0x7F
            case 0x73: state.cmos[128 + Int(state.extendedIndex & 0x7F)] = byte
            default: break
            }
        }
    }

    /// The battery keeps time and CMOS over a reset; interrupts are disabled (RESET pin).
    public func reset() {
        locked { state, _ in
            state.index = 0
            state.extendedIndex = 0
            state.cmos[RTCRegister.b] &= ~RTCFlags.all
            state.flags = 0
        }
    }

    public func save() -> Saved { locked { state, _ in state.saved } }

    public func restore(_ saved: Saved) throws(RestoreError) {
        try state.withLock { state throws(RestoreError) in
            let instant = RTCState.Instant(now: clock.now, wall: clock.wallClock)
            try state.restore(saved, instant)
            if !isLineSuppressed.load(ordering: .acquiring) { line.set(state.isRequesting) }
            timer.arm(at: state.nextEvent(instant))
        }
    }
}
