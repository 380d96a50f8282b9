public import DeviceModel
import Synchronization

/// The high-precision event timer (IA-PC HPET specification 1.0a): a 64-bit counter at 100 MHz and three
/// comparators, all periodic-capable, at FED00000h.
///
/// Confinement: any thread.
public final class HPET: MemoryMappedDevice {
    public static let kind = "hpet"
    public static let address: UInt64 = 0xFED0_0000
    public static let size: UInt64 = 0x400
    /// Femtoseconds per tick.
    public static let period: UInt64 = 10_000_000
    /// Event timer block ID, the low half of the capabilities; ACPI's HPET table repeats it.
    public static let blockIdentifier: UInt32 = 0x8086_A201

    public struct Saved: Codable, Sendable, Equatable {
        /// Bit 0 counts, bit 1 legacy replacement.
        var configuration: UInt32
        var interruptStatus: UInt32
        /// The counter at machine time `origin` while it counts, and its value while it stands.
        var counter: UInt64
        var origin: UInt64
        var timers: [HPETTimer]
    }

    private static let timerCount = 3
    private static let nanosecondsPerTick: UInt64 = 10
    /// A periodic comparator asks its host for no more than one match in this time; faster ones coalesce.
    static let shortestInterval: UInt64 = 10_000
    private enum Register {
        static let capabilities: UInt64 = 0x000, configuration: UInt64 = 0x010, status: UInt64 = 0x020
        static let counter: UInt64 = 0x0F0, timers: UInt64 = 0x100, timersEnd: UInt64 = 0x160
    }
    private enum Configuration {
        static let enable: UInt32 = 1, legacyReplacement: UInt32 = 2
    }

    private struct State {
        var configuration: UInt32 = 0
        var interruptStatus: UInt32 = 0
        var counter: UInt64 = 0
        var origin: UInt64 = 0
        var timers: [3 of HPETTimer] = .init(repeating: HPETTimer())
        /// Lines that are high now, bit n is line n.
        var raised: UInt32 = 0

        var isCounting: Bool { configuration & Configuration.enable != 0 }
        var isLegacy: Bool { configuration & Configuration.legacyReplacement != 0 }

        func counter(at now: UInt64) -> UInt64 {
            isCounting ? counter &+ (now &- origin) / HPET.nanosecondsPerTick : counter
        }

        /// The line of timer `index`: 0 and 8 for the first two in legacy replacement (§2.3.3).
        func line(_ index: Int) -> Int {
            if isLegacy && index < 2 { return index == 0 ? 0 : 8 }
            return timers[index].line
        }
    }
    private let state = Mutex(State())
    private let clock: any MachineClock
    private let lines: any InterruptSink
    private let messages: any MSITarget
    private let timers: [LateTimer]
    private let routes: UInt32
    private let onLegacyReplacement: @Sendable (Bool) -> Void

    /// `routes` are the lines that a timer may use, bit n is line n. `onLegacyReplacement` hears when the
    /// HPET takes lines 0 and 8 from the PIT and the RTC, and gives them back.
    public init(
        _ context: DeviceContext, routes: UInt32 = 0x00F0_0000,
        onLegacyReplacement: @escaping @Sendable (Bool) -> Void = { _ in }
    ) {
        clock = context.clock
        lines = context.lines
        messages = context.msi
        self.routes = routes & 0x00FF_FFFF
        self.onLegacyReplacement = onLegacyReplacement
        timers = (0..<Self.timerCount).map { _ in LateTimer(context.clock) }
        for timer in timers { timer.connect { [weak self] in self?.locked { _, _ in } } }
    }

    /// Runs `body` between matching the past and arming for the future, and drives the level lines.
    private func locked<R: Sendable>(_ body: (inout State, UInt64) -> R) -> R {
        state.withLock { state in
            let now = clock.now
            service(&state, now)
            let result = body(&state, now)
            // The store itself may have made a match due.
            service(&state, now)
            settle(&state)
            return result
        }
    }

    /// Drives the level lines and arms the host's timers.
    private func settle(_ state: inout State) {
        driveLevels(&state)
        for index in 0..<Self.timerCount {
            let timer = state.timers[index]
            // Without an interrupt nobody waits: matches are found when a register is read.
            guard timer.isEnabled, let deadline = timer.deadline else {
                timers[index].arm(at: nil)
                continue
            }
            let earliest = timer.isPeriodic ? timer.lastMatch &+ Self.shortestInterval : 0
            timers[index].arm(at: max(deadline, earliest))
        }
    }

    private func service(_ state: inout State, _ now: UInt64) {
        guard state.isCounting else { return }
        for index in 0..<Self.timerCount {
            guard let deadline = state.timers[index].deadline, deadline <= now else { continue }
            let ticks = state.timers[index].step(past: state.counter(at: now))
            state.timers[index].deadline = ticks.flatMap { Self.deadline(now, ticks: $0) }
            state.timers[index].lastMatch = now
            signal(state: &state, index)
        }
    }

    /// Nobody waits beyond 2^56 ticks, 22 years.
    private static func deadline(_ now: UInt64, ticks: UInt64) -> UInt64? {
        ticks < 1 << 56 ? now &+ ticks &* nanosecondsPerTick : nil
    }

    /// Computes the next match of timer `index` after a store.
    private func schedule(_ state: inout State, _ index: Int, _ now: UInt64, isNew: Bool) {
        let ticks = state.timers[index].ticksToMatch(state.counter(at: now), isNew: isNew)
        state.timers[index].deadline = state.isCounting ? Self.deadline(now, ticks: ticks) : nil
    }

    private func signal(state: inout State, _ index: Int) {
        let timer = state.timers[index]
        if timer.isLevel { state.interruptStatus |= 1 << UInt32(index) }
        guard timer.isEnabled else { return }
        let isLegacyLine = state.isLegacy && index < 2
        if timer.usesMessage && !isLegacyLine {
            messages.deliver(
                MSIMessage(address: timer.route >> 32, data: UInt32(truncatingIfNeeded: timer.route)))
        } else if !timer.isLevel, allows(state, index) {
            lines.setLine(state.line(index), asserted: true)
            lines.setLine(state.line(index), asserted: false)
        }
    }

    private func allows(_ state: State, _ index: Int) -> Bool {
        (state.isLegacy && index < 2) || routes >> UInt32(state.line(index)) & 1 != 0
    }

    private func driveLevels(_ state: inout State) {
        var wanted: UInt32 = 0
        for index in 0..<Self.timerCount {
            let timer = state.timers[index]
            let isMessage = timer.usesMessage && !(state.isLegacy && index < 2)
            guard timer.isLevel, timer.isEnabled, !isMessage, allows(state, index) else { continue }
            if state.interruptStatus >> UInt32(index) & 1 != 0 { wanted |= 1 << UInt32(state.line(index)) }
        }
        let changed = wanted ^ state.raised
        state.raised = wanted
        guard changed != 0 else { return }
        for line in 0..<24 where changed >> UInt32(line) & 1 != 0 {
            lines.setLine(line, asserted: wanted >> UInt32(line) & 1 != 0)
        }
    }

    // MARK: Registers

    public func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        locked { state, now in self.register(state, offset & ~7, now) >> ((offset & 7) * 8) & width.mask }
    }

    private func register(_ state: State, _ offset: UInt64, _ now: UInt64) -> UInt64 {
        switch offset {
        case Register.capabilities: return Self.period << 32 | UInt64(Self.blockIdentifier)
        case Register.configuration: return UInt64(state.configuration)
        case Register.status: return UInt64(state.interruptStatus)
        case Register.counter: return state.counter(at: now)
        case Register.timers..<Register.timersEnd:
            let timer = state.timers[Int(offset - Register.timers) / 0x20]
            switch offset & 0x1F {
            case 0x00:
                return UInt64(routes) << 32 | UInt64(timer.configuration | HPETTimer.Bits.capabilities)
            case 0x08: return timer.comparator
            case 0x10: return timer.route
            default: return 0
            }
        default: return 0
        }
    }

    public func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        let shift = (offset & 7) * 8
        let mask = width.mask << shift
        let bits = (value << shift) & mask
        let legacyChange = locked { state, now in
            let wasLegacy = state.isLegacy
            write(&state, offset & ~7, bits, mask, now)
            return state.isLegacy == wasLegacy ? nil : state.isLegacy
        }
        if let legacyChange { onLegacyReplacement(legacyChange) }
    }

    /// Stores the bits of `mask` in the 64-bit register at `offset`.
    private func write(_ state: inout State, _ offset: UInt64, _ bits: UInt64, _ mask: UInt64, _ now: UInt64)
    {
        switch offset {
        case Register.configuration:
            guard mask & 3 != 0 else { return }
            let counter = state.counter(at: now)
            state.configuration = UInt32(bits & 3)
            state.counter = counter
            state.origin = now
            for index in 0..<Self.timerCount { schedule(&state, index, now, isNew: false) }
        case Register.status: state.interruptStatus &= ~UInt32(truncatingIfNeeded: bits & 7)
        case Register.counter:
            // Defined only while the counter stands; a running one takes the value as well.
            state.counter = state.counter(at: now) & ~mask | bits
            state.origin = now
            for index in 0..<Self.timerCount { schedule(&state, index, now, isNew: false) }
        case Register.timers..<Register.timersEnd:
            writeTimer(&state, Int(offset - Register.timers) / 0x20, offset & 0x1F, bits, mask, now)
        default: break
        }
    }

    private func writeTimer(
        _ state: inout State, _ index: Int, _ offset: UInt64, _ bits: UInt64, _ mask: UInt64,
        _ now: UInt64
    ) {
        switch offset {
        case 0x00:
            let old = UInt64(state.timers[index].configuration)
            state.timers[index].writeConfiguration(UInt32(truncatingIfNeeded: old & ~mask | bits))
            if !state.timers[index].isLevel { state.interruptStatus &= ~(1 << UInt32(index)) }
            schedule(&state, index, now, isNew: false)
        case 0x08:
            let setsValue = state.timers[index].configuration & HPETTimer.Bits.setValue != 0
            let old =
                state.timers[index].isPeriodic && !setsValue
                ? state.timers[index].period : state.timers[index].comparator
            state.timers[index].writeComparator(old & ~mask | bits)
            // In periodic mode the store of the period alone leaves the comparator where it was.
            schedule(&state, index, now, isNew: !state.timers[index].isPeriodic || setsValue)
        case 0x10: state.timers[index].route = state.timers[index].route & ~mask | bits
        default: break
        }
    }

    public func reset() {
        let wasLegacy = locked { state, _ in
            let (wasLegacy, raised) = (state.isLegacy, state.raised)
            state = State()
            state.raised = raised
            return wasLegacy
        }
        if wasLegacy { onLegacyReplacement(false) }
    }

    public func save() -> Saved {
        locked { state, _ in
            Saved(
                configuration: state.configuration, interruptStatus: state.interruptStatus,
                counter: state.counter, origin: state.origin,
                timers: (0..<Self.timerCount).map { state.timers[$0] })
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        let now = clock.now
        guard saved.configuration < 4, saved.interruptStatus < 8, saved.origin <= now else {
            throw RestoreError(Self.kind, "configuration, status or time is out of range")
        }
        let areLegal = saved.timers.allSatisfy {
            $0.configuration & ~HPETTimer.Bits.writable == 0 && $0.lastMatch <= now
                && ($0.configuration & HPETTimer.Bits.width32 == 0 || ($0.comparator | $0.period) >> 32 == 0)
        }
        guard saved.timers.count == Self.timerCount, areLegal else {
            throw RestoreError(Self.kind, "a timer is out of range")
        }
        let isLegacy = state.withLock { state in
            state.configuration = saved.configuration
            state.interruptStatus = saved.interruptStatus
            state.counter = saved.counter
            state.origin = saved.origin
            for index in 0..<Self.timerCount { state.timers[index] = saved.timers[index] }
            settle(&state)
            return state.isLegacy
        }
        onLegacyReplacement(isLegacy)
    }
}
