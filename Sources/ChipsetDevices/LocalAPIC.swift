public import DeviceModel
import Synchronization
public import VCPUEngine
import X86Architecture

/// The local APIC of one vCPU: xAPIC page and x2APIC MSRs (SDM vol. 3 chapter 11).
///
/// Confinement: any thread. The registers are behind one lock; what the vCPU polls (`pendingVector`,
/// `hasSignal`, `acceptsExternalInterrupt`) and what senders read (`address`) are single atomic words that
/// every transition publishes. No lock is held while another APIC, the I/O APIC or `wake` is called.
public final class LocalAPIC: LocalInterruptController, Device {
    public static let kind = "lapic"
    /// The timer counts at this rate with divide-by-one, in Hz.
    public static let timerFrequency: UInt64 = 1_000_000_000
    /// A periodic timer asks its host for no more than one expiry in this time; faster ones coalesce.
    static let shortestInterval: UInt64 = 10_000

    /// What the machine gives to each local APIC.
    public struct Configuration: Sendable {
        /// Identifier and index of the vCPU, 0...254; 0 is the bootstrap processor.
        public var identifier: UInt32
        /// The guest's time-stamp counter rate in Hz, not zero.
        public var tscFrequency: UInt64
        public var readTSC: @Sendable () -> UInt64
        /// Kicks the vCPU: an interrupt or signal may be pending. Called on any thread, without locks.
        public var wake: @Sendable () -> Void
        /// A level-triggered vector ended (to the I/O APIC). Called without locks.
        public var endOfInterrupt: @Sendable (UInt8) -> Void
        /// Bits of a guest-physical address; higher ones in IA32_APIC_BASE raise #GP.
        public var physicalAddressBits: Int

        public init(
            identifier: UInt32, tscFrequency: UInt64, readTSC: @escaping @Sendable () -> UInt64,
            wake: @escaping @Sendable () -> Void, endOfInterrupt: @escaping @Sendable (UInt8) -> Void,
            physicalAddressBits: Int = 46
        ) {
            self.identifier = identifier
            self.tscFrequency = tscFrequency
            self.readTSC = readTSC
            self.wake = wake
            self.endOfInterrupt = endOfInterrupt
            self.physicalAddressBits = physicalAddressBits
        }
    }

    private enum Signal {
        static let nonMaskable: UInt32 = 1, initialize: UInt32 = 2, startup: UInt32 = 4
        /// A second NMI, which came before the vCPU looked at the first: the first would run by then.
        static let nonMaskableAgain: UInt32 = 8
        static let nonMaskables = nonMaskable | nonMaskableAgain
        static let vectorShift: UInt32 = 8
        static let hasVector: UInt32 = 0x100
    }

    public let id: UInt32
    private let configuration: Configuration
    private let bus: APICBus
    private let clock: any MachineClock
    private let timer: LateTimer
    private let state: Mutex<LocalAPICState>
    /// 0, or the deliverable vector | 100h.
    private let deliverable = Atomic<UInt32>(0)
    private let signals = Atomic<UInt32>(0)
    private let publishedAddress = Atomic<UInt64>(0)
    /// TPR in bits 7..0, PPR in bits 15..8.
    private let priorities = Atomic<UInt32>(0)
    private let external = Atomic<Bool>(false)
    private let wantsEnd = Atomic<Bool>(false)
    private let publishedBase = Atomic<UInt64>(0)

    public init(_ context: DeviceContext, bus: APICBus, _ configuration: Configuration) {
        precondition(configuration.tscFrequency > 0, "the TSC stands still")
        precondition(configuration.identifier < APICBus.largestCount, "no such local APIC identifier")
        id = configuration.identifier
        self.configuration = configuration
        self.bus = bus
        clock = context.clock
        timer = LateTimer(context.clock)
        state = Mutex(LocalAPICState(identifier: configuration.identifier))
        timer.connect { [weak self] in self?.timerFired() }
        update { _, _, _ in }
    }

    // MARK: What the vCPU and senders read without the lock

    public func pendingVector() -> UInt8? {
        let word = deliverable.load(ordering: .acquiring)
        return word == 0 ? nil : UInt8(truncatingIfNeeded: word)
    }
    /// Whether `takeSignal` has something.
    public var hasSignal: Bool { signals.load(ordering: .acquiring) != 0 }
    /// Whether the PIC's INTR reaches this processor (LINT0 as ExtINT, or APIC disabled).
    public var acceptsExternalInterrupt: Bool { external.load(ordering: .acquiring) }
    public var apicBase: UInt64 { publishedBase.load(ordering: .acquiring) }
    var address: APICAddress { APICAddress(raw: publishedAddress.load(ordering: .acquiring)) }
    var processorPriority: UInt8 { UInt8(truncatingIfNeeded: priorities.load(ordering: .relaxed) >> 8) }

    // MARK: Transitions

    /// Runs one transition under the lock, publishes its result, and performs its effects without the lock.
    @discardableResult
    private func update<R: Sendable>(
        _ body: (inout LocalAPICState, inout LocalAPICState.Effects, UInt64) -> R
    ) -> R {
        let (result, effects, wake) = state.withLock { state in
            var effects = LocalAPICState.Effects()
            let result = body(&state, &effects, clock.now)
            return (result, effects, publish(state))
        }
        if effects.initialize { signalInitialize() }
        if effects.nonMaskable { signalNonMaskable() }
        if wake { configuration.wake() }
        if let vector = effects.endedVector { configuration.endOfInterrupt(vector) }
        if let message = effects.message { bus.send(message, from: Int(id)) }
        return result
    }

    /// Publishes the words that are read without the lock; true when the vCPU has something new to look at.
    private func publish(_ state: borrowing LocalAPICState) -> Bool {
        let new = state.deliverable.map { Signal.hasVector | UInt32($0) } ?? 0
        let old = deliverable.exchange(new, ordering: .acquiringAndReleasing)
        publishedAddress.store(state.address.raw, ordering: .releasing)
        priorities.store(
            UInt32(state.taskPriority) | UInt32(state.processorPriority) << 8, ordering: .relaxed)
        let accepts = state.acceptsExternalInterrupt
        let accepted = external.exchange(accepts, ordering: .acquiringAndReleasing)
        publishedBase.store(state.base, ordering: .releasing)
        let wants = state.wantsEnd
        let wanted = wantsEnd.exchange(wants, ordering: .acquiringAndReleasing)
        return (new != 0 && new != old) || (accepts && !accepted) || (wants && !wanted)
    }

    /// Arms the host timer for the timer's deadline, unless its interrupt is masked: then nothing can tell
    /// whether it fired, and the registers are computed when they are read.
    private func armTimer(_ state: borrowing LocalAPICState) {
        let entry = state.localVectors[LocalVector.timer.rawValue]
        guard let deadline = state.timer.deadline, state.isEnabled, entry & LocalVector.masked == 0 else {
            timer.arm(at: nil)
            return
        }
        let earliest = state.isPeriodic ? state.timer.lastExpiry &+ Self.shortestInterval : 0
        timer.arm(at: max(deadline, earliest))
    }

    private func timerFired() {
        update { state, effects, now in
            state.advanceTimer(to: now, &effects)
            armTimer(state)
        }
    }

    /// A message from the bus.
    func receive(_ mode: DeliveryMode, _ vector: UInt8, isLevel: Bool) {
        switch mode {
        case .fixed, .lowestPriority:
            update { state, effects, _ in state.accept(vector, isLevel: isLevel, &effects) }
        case .nonMaskable:
            signalNonMaskable()
        case .initialize: signalInitialize()
        case .startup: signalStartup(vector)
        // There is no SMM, and ExtINT comes by LINT0.
        case .systemManagement, .reserved, .external: break
        }
    }

    private func signalNonMaskable() {
        let old = signals.bitwiseOr(Signal.nonMaskable, ordering: .acquiringAndReleasing).oldValue
        if old & Signal.nonMaskable != 0 {
            signals.bitwiseOr(Signal.nonMaskableAgain, ordering: .acquiringAndReleasing)
        }
        configuration.wake()
    }

    /// INIT drops what was pending before it.
    private func signalInitialize() {
        signals.store(Signal.initialize, ordering: .releasing)
        configuration.wake()
    }

    private func signalStartup(_ vector: UInt8) {
        var old = signals.load(ordering: .acquiring)
        while true {
            let kept = old & (Signal.nonMaskables | Signal.initialize)
            let new = kept | Signal.startup | UInt32(vector) << Signal.vectorShift
            let (exchanged, original) = signals.weakCompareExchange(
                expected: old, desired: new, ordering: .acquiringAndReleasing)
            if exchanged { break }
            old = original
        }
        configuration.wake()
    }

    public func takeSignal() -> ProcessorSignal? {
        var old = signals.load(ordering: .acquiring)
        while old != 0 {
            let taken: (signal: ProcessorSignal, rest: UInt32)
            if old & Signal.initialize != 0 {
                taken = (.initialize, old & ~Signal.initialize)
            } else if old & Signal.startup != 0 {
                let vector = UInt8(truncatingIfNeeded: old >> Signal.vectorShift)
                taken = (.startup(vector: vector), old & Signal.nonMaskables)
            } else {
                let both = old & Signal.nonMaskables == Signal.nonMaskables
                taken = (.nmi, both ? Signal.nonMaskable : 0)
            }
            let (exchanged, original) = signals.weakCompareExchange(
                expected: old, desired: taken.rest, ordering: .acquiringAndReleasing)
            if exchanged {
                if taken.signal == .initialize { initialize() }
                return taken.signal
            }
            old = original
        }
        return nil
    }

    private func initialize() {
        update { state, _, _ in
            state.resetRegisters()
            armTimer(state)
        }
    }

    public func acknowledge() -> UInt8? {
        guard deliverable.load(ordering: .acquiring) != 0 else { return nil }
        return update { state, _, _ in state.acknowledge() }
    }

    public func endOfInterrupt() {
        update { state, effects, _ in
            state.isEndDeferred = false
            state.endOfInterrupt(&effects)
        }
    }

    public func deferEndOfInterrupt() -> Bool { update { state, _, _ in state.deferEnd() } }
    public var wantsEndOfInterrupt: Bool { wantsEnd.load(ordering: .acquiring) }
    public func keepInService() { update { state, _, _ in state.isEndDeferred = false } }

    /// CR8: the priority class, 0...15; only bits 3..0 of a new value count.
    public var taskPriority: UInt8 {
        get { UInt8(truncatingIfNeeded: priorities.load(ordering: .relaxed)) >> 4 }
        set { update { state, _, _ in state.taskPriority = newValue << 4 } }
    }

    public func setAPICBase(_ value: UInt64) -> Bool {
        let bits = UInt64(configuration.physicalAddressBits)
        let reserved: UInt64 = bits >= 64 ? 0 : ~0 << bits
        return update { state, _, _ in
            let accepted = state.setBase(value, reservedAddressBits: reserved)
            armTimer(state)
            return accepted
        }
    }

    /// The LINT0 (`pin` 0) or LINT1 (1) input. The PIC's INTR needs it only when LINT0 is not ExtINT.
    public func setLocalPin(_ pin: Int, asserted: Bool) {
        guard pin == 0 || pin == 1 else { return }
        update { state, effects, _ in state.setPin(pin, asserted, &effects) }
    }

    // MARK: Registers

    public func readMSR(_ number: UInt32) -> UInt64? {
        if number == MSR.tscDeadline { return readDeadline() }
        guard (MSR.x2apicFirst...MSR.x2apicLast).contains(number) else { return nil }
        let register = number - MSR.x2apicFirst
        return update { state, effects, now in
            guard state.isX2APIC else { return nil }
            if register == APICRegister.commandLow { return state.command }
            state.advanceTimer(to: now, &effects)
            return state.read(register, now: now).map(UInt64.init)
        }
    }

    public func writeMSR(_ number: UInt32, _ value: UInt64) -> Bool {
        if number == MSR.tscDeadline {
            writeDeadline(value)
            return true
        }
        guard (MSR.x2apicFirst...MSR.x2apicLast).contains(number) else { return false }
        let register = number - MSR.x2apicFirst
        return update { state, effects, now in
            guard state.isX2APIC else { return false }
            if register == APICRegister.commandLow {
                guard value & APICLayout.commandReserved == 0 else { return false }
                state.command = value & ~UInt64(1 << 12)
                state.sendCommand(&effects)
                return true
            }
            guard let low = UInt32(exactly: value) else { return false }
            return writeRegister(&state, register, low, now, &effects)
        }
    }

    private func writeRegister(
        _ state: inout LocalAPICState, _ register: UInt32, _ value: UInt32, _ now: UInt64,
        _ effects: inout LocalAPICState.Effects
    ) -> Bool {
        let touchesTimer =
            register == APICRegister.localVectors.lowerBound || register == APICRegister.spuriousVector
            || register == APICRegister.initialCount || register == APICRegister.divideConfiguration
        if touchesTimer { state.advanceTimer(to: now, &effects) }
        let accepted = state.write(register, value, now: now, &effects)
        if touchesTimer { armTimer(state) }
        return accepted
    }

    private func readDeadline() -> UInt64 {
        update { state, effects, now in
            state.advanceTimer(to: now, &effects)
            return state.isDeadlineMode ? state.timer.tscDeadline : 0
        }
    }

    /// IA32_TSC_DEADLINE (SDM vol. 3 §11.5.4.1): zero disarms, a deadline in the past fires at once.
    private func writeDeadline(_ value: UInt64) {
        update { state, effects, now in
            state.advanceTimer(to: now, &effects)
            guard state.isDeadlineMode else { return }
            state.timer.tscDeadline = value
            state.timer.deadline = nil
            if value != 0 {
                let tsc = configuration.readTSC()
                let ticks = value > tsc ? value - tsc : 0
                let wait = scaled(ticks, by: TickRate.nanosecondsPerSecond, over: configuration.tscFrequency)
                // Rounded up, so that the guest's counter has passed the deadline when it looks.
                state.timer.deadline = ticks == 0 ? now : now &+ min(wait, .max - now - 1) &+ 1
                state.advanceTimer(to: now, &effects)
            }
            armTimer(state)
        }
    }

    public func readPage(offset: UInt32, width: AccessWidth) -> UInt32 {
        // Registers are the first four bytes of 16; the rest reads as zero.
        guard offset & 0xF < 4 else { return 0 }
        let value: UInt32 = update { state, effects, now in
            guard state.isEnabled, !state.isX2APIC else { return ~0 }
            state.advanceTimer(to: now, &effects)
            if let value = state.read(offset >> 4 & 0xFF, now: now) { return value }
            state.record(APICLayout.illegalRegister, &effects)
            return 0
        }
        return (value >> ((offset & 3) * 8)) & UInt32(truncatingIfNeeded: width.mask)
    }

    public func writePage(offset: UInt32, width: AccessWidth, value: UInt32) {
        // Only aligned 32-bit stores are defined (SDM vol. 3 §11.4.1).
        guard offset & 0xF == 0, width == .dword || width == .qword else { return }
        update { state, effects, now in
            guard state.isEnabled, !state.isX2APIC else { return }
            let register = offset >> 4 & 0xFF
            if !writeRegister(&state, register, value, now, &effects), register != APICRegister.identifier {
                state.record(APICLayout.illegalRegister, &effects)
            }
        }
    }

    public func reset() {
        signals.store(0, ordering: .releasing)
        update { state, _, _ in
            let pins = state.pins
            state = LocalAPICState(identifier: id)
            state.pins = pins
            armTimer(state)
        }
    }

    // MARK: Saved state

    /// The registers, with the deadline in machine nanoseconds.
    public func save() -> Saved {
        update { state, effects, now in
            state.advanceTimer(to: now, &effects)
            return Saved(state, signals: signals.load(ordering: .acquiring))
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        let restored = try saved.state(identifier: id)
        signals.store(saved.signals, ordering: .releasing)
        update { state, _, _ in
            state = restored
            armTimer(state)
        }
        if saved.signals != 0 { configuration.wake() }
    }
}
