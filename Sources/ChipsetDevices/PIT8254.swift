public import DeviceModel
import Synchronization

/// The 8254 interval timer at ports 40h-43h with port 61h: counter 0 drives interrupt line 0, counter 2 the
/// speaker, whose gate and output are bits of port 61h.
///
/// Confinement: any thread.
public final class PIT8254: PortDevice {
    public static let kind = "pit"
    public struct Saved: Codable, Sendable, Equatable {
        var channels: [PITChannel]
        /// Port 61h bits 3..0.
        var systemControl: UInt8
        /// The tick up to which rises of OUT0 were turned into interrupts.
        var servicedTick: UInt64
        /// The machine time of the last interrupt.
        var lastInterrupt: UInt64
    }
    public let ports: [ClosedRange<UInt16>] = [0x40...0x43, 0x61...0x61]

    /// 1.193182 MHz: a third of the NTSC colour burst.
    private static let rate = TickRate(frequency: 1_193_182)
    /// Periodic interrupts come no faster than this, in nanoseconds; faster ones coalesce, so that a guest
    /// cannot flood its host.
    static let shortestInterval: UInt64 = 10_000
    /// Port 61h bit 4 toggles with each DRAM refresh.
    private static let refreshInterval: UInt64 = 15_085

    private struct State {
        var channels: [3 of PITChannel] = .init(repeating: PITChannel())
        var systemControl: UInt8 = 0
        var servicedTick: UInt64 = 0
        var lastInterrupt: UInt64 = 0
    }
    private let state = Mutex(State())
    private let clock: any MachineClock
    private let line: InterruptLine
    private let timer: LateTimer
    private let isLineSuppressed = Atomic<Bool>(false)

    public init(_ context: DeviceContext) {
        clock = context.clock
        line = context.line(0)
        timer = LateTimer(context.clock)
        timer.connect { [weak self] in self?.locked { _, _ in } }
        reset()
    }

    /// HPET legacy replacement takes line 0 away from the PIT (HPET specification 1.0a §2.3.3).
    public func suppressLine(_ suppressed: Bool) { isLineSuppressed.store(suppressed, ordering: .releasing) }

    /// Runs `body` between accounting for the past and arming for the future.
    private func locked<R: Sendable>(_ body: (inout State, UInt64) -> R) -> R {
        state.withLock { state in
            let now = clock.now
            let tick = Self.rate.ticks(at: now)
            service(&state, now, tick)
            let result = body(&state, tick)
            arm(state)
            return result
        }
    }

    private func service(_ state: inout State, _ now: UInt64, _ tick: UInt64) {
        if let rise = state.channels[0].nextRise(after: state.servicedTick), rise <= tick {
            state.lastInterrupt = now
            if !isLineSuppressed.load(ordering: .acquiring) { line.pulse() }
        }
        state.servicedTick = max(state.servicedTick, tick)
        for index in 0..<3 { state.channels[index].advance(to: tick) }
    }

    private func arm(_ state: borrowing State) {
        guard let rise = state.channels[0].nextRise(after: state.servicedTick) else {
            timer.arm(at: nil)
            return
        }
        let isPeriodic = [2, 3].contains(state.channels[0].mode)
        let earliest = isPeriodic ? state.lastInterrupt &+ Self.shortestInterval : 0
        timer.arm(at: max(Self.rate.time(of: rise), earliest))
    }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        let value: UInt8 = locked { state, tick in
            switch port {
            case 0x40...0x42: return state.channels[Int(port & 3)].read(tick)
            case 0x61: return systemControl(state, tick)
            default: return 0xFF
            }
        }
        return UInt32(value) | 0xFFFF_FF00
    }

    private func systemControl(_ state: borrowing State, _ tick: UInt64) -> UInt8 {
        let refresh: UInt8 = (clock.now / Self.refreshInterval) & 1 != 0 ? 0x10 : 0
        return state.systemControl | refresh | (state.channels[2].output(tick) ? 0x20 : 0)
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        locked { state, tick in
            switch port {
            case 0x40...0x42: state.channels[Int(port & 3)].write(byte, tick)
            case 0x43: Self.writeControl(&state, byte, tick)
            case 0x61:
                state.systemControl = byte & 0x0F
                state.channels[2].setGate(byte & 1 != 0, tick)
            default: break
            }
        }
    }

    private static func writeControl(_ state: inout State, _ byte: UInt8, _ tick: UInt64) {
        let select = Int(byte >> 6)
        if select == 3 {
            // Read-back: bit 5 low latches counts, bit 4 low latches status, bits 3..1 select counters.
            for index in 0..<3 where byte & (2 << UInt8(index)) != 0 {
                if byte & 0x20 == 0 { state.channels[index].latchCount(tick) }
                if byte & 0x10 == 0 { state.channels[index].latchStatus(tick) }
            }
        } else if byte & 0x30 == 0 {
            state.channels[select].latchCount(tick)
        } else {
            state.channels[select].writeControl(byte, tick)
        }
    }

    public func reset() {
        state.withLock { state in
            state = State()
            state.channels[2].gate = false
            state.servicedTick = Self.rate.ticks(at: clock.now)
            timer.arm(at: nil)
        }
    }

    public func save() -> Saved {
        locked { state, _ in
            Saved(
                channels: (0..<3).map { state.channels[$0] }, systemControl: state.systemControl,
                servicedTick: state.servicedTick, lastInterrupt: state.lastInterrupt)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        let now = clock.now
        let tick = Self.rate.ticks(at: now)
        guard saved.channels.count == 3, saved.channels.allSatisfy({ $0.isValid(at: tick) }) else {
            throw RestoreError(Self.kind, "a counter is out of range")
        }
        guard saved.systemControl < 16, saved.channels[0].gate, saved.channels[1].gate,
            saved.channels[2].gate == (saved.systemControl & 1 != 0), saved.servicedTick <= tick,
            saved.lastInterrupt <= now
        else { throw RestoreError(Self.kind, "port 61h or the time is out of range") }
        state.withLock { state in
            for index in 0..<3 { state.channels[index] = saved.channels[index] }
            state.systemControl = saved.systemControl
            state.servicedTick = saved.servicedTick
            state.lastInterrupt = saved.lastInterrupt
            arm(state)
        }
    }
}
