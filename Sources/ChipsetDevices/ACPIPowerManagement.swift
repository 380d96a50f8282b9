public import DeviceModel
import Synchronization

/// The fixed ACPI hardware (ACPI 6.5 §4.8): PM1a event block at 600h, PM1a control at 604h, PM timer at 608h,
/// GPE0 block of 2 + 2 bytes at 620h, SMI enable and status at 630h, and the SMI command port B2h that
/// switches ACPI mode on and off.
/// The system control interrupt is line 9, level-triggered.
///
/// Confinement: any thread.
public final class ACPIPowerManagement: PortDevice {
    public static let kind = "acpi-pm"
    public let ports: [ClosedRange<UInt16>] = [
        0x600...0x605, 0x608...0x60B, 0x620...0x623, 0x630...0x637, 0xB2...0xB3,
    ]

    /// What the FADT must say.
    public enum Address {
        public static let event: UInt16 = 0x600, control: UInt16 = 0x604, timer: UInt16 = 0x608
        public static let generalPurposeEvent: UInt16 = 0x620, command: UInt16 = 0xB2
    }
    /// Values for the FADT: GPE0_BLK_LEN, ACPI_ENABLE, ACPI_DISABLE, SCI_INT, and SLP_TYP of \_S5 and
    /// \_S3.
    public static let generalPurposeEventLength: UInt8 = 4
    public static let enableCommand: UInt8 = 0xA0
    public static let disableCommand: UInt8 = 0xA1
    public static let interruptLine = 9
    public static let softOffType: UInt8 = 5
    public static let suspendType: UInt8 = 1
    /// What SeaBIOS and OVMF write without a look at the tables: the number that QEMU's Q35 has.
    private static let firmwareOffType: UInt8 = 0

    public struct Saved: Codable, Sendable, Equatable {
        var status: UInt16
        var enable: UInt16
        var control: UInt16
        var eventStatus: UInt16
        var eventEnable: UInt16
        var command: UInt8
        var commandStatus: UInt8
        /// Bit 31 of the timer as last looked at.
        var timerBit: Bool
        /// In S3; absent means awake.
        var isAsleep: Bool?
    }

    /// PM1 status and enable (§4.8.3.1).
    private enum Event {
        static let timer: UInt16 = 1 << 0, global: UInt16 = 1 << 5
        static let powerButton: UInt16 = 1 << 8, sleepButton: UInt16 = 1 << 9, clock: UInt16 = 1 << 10
        static let wake: UInt16 = 1 << 15
        static let implementedStatus = timer | global | powerButton | sleepButton | clock | wake
        static let enables = timer | global | powerButton | sleepButton | clock
        /// What can end a sleep.
        static let wakers = powerButton | sleepButton | clock
    }
    /// PM1 control (§4.8.3.2).
    private enum Control {
        static let sciEnable: UInt16 = 1 << 0, busMasterReload: UInt16 = 1 << 1
        static let sleepTypeShift: UInt16 = 10, sleepType: UInt16 = 7 << 10, sleepEnable: UInt16 = 1 << 13
    }
    /// SMI_EN (ICH9 data sheet 316972 §13.8.3.12): APMC_EN says to firmware that there is nothing left to set
    /// up in system management mode, which there is not.
    private static let systemManagementEnable: UInt8 = 0x20
    private static let rate = TickRate(frequency: 3_579_545)

    private struct State {
        var status: UInt16 = 0
        var enable: UInt16 = 0
        var control: UInt16 = 0
        var eventStatus: UInt16 = 0
        var eventEnable: UInt16 = 0
        var command: UInt8 = 0
        var commandStatus: UInt8 = 0
        var timerBit = false
        var isLineRaised = false
        var isAsleep = false

        var requestsInterrupt: Bool {
            control & Control.sciEnable != 0
                && (status & enable & Event.enables != 0 || eventStatus & eventEnable != 0)
        }
        /// A waking event is there, perhaps since before the machine went to sleep (§16.1.4).
        var requestsWake: Bool {
            isAsleep && (status & enable & Event.wakers != 0 || eventStatus & eventEnable != 0)
        }
    }
    private let state = Mutex(State())
    private let clock: any MachineClock
    private let line: InterruptLine
    private let report: @Sendable (MachineEvent) -> Void
    private let timer: LateTimer

    public init(_ context: DeviceContext) {
        clock = context.clock
        line = context.line(Self.interruptLine)
        report = context.report
        timer = LateTimer(context.clock)
        timer.connect { [weak self] in self?.locked { _, _ in } }
    }

    private func locked<R: Sendable>(_ body: (inout State, UInt64) -> R) -> R {
        state.withLock { state in
            let now = clock.now
            let ticks = Self.rate.ticks(at: now)
            // TMR_STS is set whenever the top bit of the timer changes (§4.8.3.1.1).
            let timerBit = ticks >> 31 & 1 != 0
            if timerBit != state.timerBit { state.status |= Event.timer }
            state.timerBit = timerBit
            let result = body(&state, ticks)
            settle(&state, ticks)
            return result
        }
    }

    private func settle(_ state: inout State, _ ticks: UInt64) {
        if state.requestsWake { wake(&state) }
        let requests = state.requestsInterrupt
        if requests != state.isLineRaised {
            state.isLineRaised = requests
            line.set(requests)
        }
        let waits = state.enable & Event.timer != 0 && state.status & Event.timer == 0
        timer.arm(at: waits ? Self.rate.time(of: (ticks >> 31 &+ 1) << 31) : nil)
    }

    private func wake(_ state: inout State) {
        state.isAsleep = false
        state.status |= Event.wake
        report(.wake)
    }

    /// The power button: the guest's operating system decides what to do. A sleeping machine wakes up,
    /// whatever is enabled.
    public func pressPowerButton() {
        locked { state, _ in
            state.status |= Event.powerButton
            if state.isAsleep { wake(&state) }
        }
    }

    /// The alarm of the real-time clock went off.
    public func noteAlarm() { locked { state, _ in state.status |= Event.clock } }

    /// Raises general-purpose event `number`, 0...15 (hot plug).
    public func raise(generalPurposeEvent number: Int) {
        guard (0..<16).contains(number) else { return }
        locked { state, _ in state.eventStatus |= 1 << UInt16(number) }
    }

    /// Whether the operating system has taken over power management.
    public var isEnabled: Bool { state.withLock { $0.control & Control.sciEnable != 0 } }

    /// Puts the machine in ACPI mode as the SMI command does, for kernels that are loaded without firmware.
    public func enableACPI() { locked { state, _ in state.control |= Control.sciEnable } }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        locked { state, ticks in
            var value: UInt32 = 0
            for byte in 0..<UInt16(min(width.bytes, 4)) {
                value |= UInt32(Self.byte(state, port &+ byte, ticks)) << UInt32(byte * 8)
            }
            return value
        }
    }

    private static func byte(_ state: borrowing State, _ port: UInt16, _ ticks: UInt64) -> UInt8 {
        func half(_ value: UInt16) -> UInt8 { UInt8(truncatingIfNeeded: port & 1 == 0 ? value : value >> 8) }
        switch port {
        case 0x600, 0x601: return half(state.status)
        case 0x602, 0x603: return half(state.enable)
        case 0x604, 0x605: return half(state.control)
        case 0x608...0x60B: return UInt8(truncatingIfNeeded: ticks >> UInt64((port - 0x608) * 8))
        case 0x620, 0x621: return half(state.eventStatus)
        case 0x622, 0x623: return half(state.eventEnable)
        case 0x630: return systemManagementEnable
        case 0x631...0x637: return 0
        case 0xB2: return state.command
        case 0xB3: return state.commandStatus
        default: return 0xFF
        }
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let turnsOff = locked { state, _ in
            var sleepType: UInt8?
            for byte in 0..<UInt16(min(width.bytes, 4)) {
                let bits = UInt8(truncatingIfNeeded: value >> UInt32(byte * 8))
                sleepType = Self.write(&state, port &+ byte, bits) ?? sleepType
            }
            if sleepType == Self.suspendType, !state.isAsleep {
                // Said before the next waking event can be, so that nobody hears them in the other order.
                state.isAsleep = true
                report(.sleep)
            }
            return sleepType == Self.softOffType || sleepType == Self.firmwareOffType
        }
        // S3 and S5 are offered; other types do nothing, as on a board without them.
        if turnsOff { report(.powerOff) }
    }

    /// Stores one byte; returns the sleep type when SLP_EN was written.
    private static func write(_ state: inout State, _ port: UInt16, _ bits: UInt8) -> UInt8? {
        let shift = (port & 1) * 8
        let mask = UInt16(0xFF) << shift
        let word = UInt16(bits) << shift
        switch port {
        case 0x600, 0x601: state.status &= ~word
        case 0x602, 0x603: state.enable = (state.enable & ~mask | word) & Event.enables
        case 0x604, 0x605:
            // SCI_EN belongs to the SMI command; SLP_EN is write-only.
            let writable = (Control.busMasterReload | Control.sleepType) & mask
            state.control = state.control & ~writable | word & writable
            if word & Control.sleepEnable != 0 {
                return UInt8(state.control >> Control.sleepTypeShift & 7)
            }
        case 0x620, 0x621: state.eventStatus &= ~word
        case 0x622, 0x623: state.eventEnable = state.eventEnable & ~mask | word
        case 0xB2:
            state.command = bits
            if bits == enableCommand { state.control |= Control.sciEnable }
            if bits == disableCommand { state.control &= ~Control.sciEnable }
        case 0xB3: state.commandStatus = bits
        default: break
        }
        return nil
    }

    public func reset() {
        locked { state, _ in
            let (timerBit, raised) = (state.timerBit, state.isLineRaised)
            state = State()
            state.timerBit = timerBit
            state.isLineRaised = raised
        }
    }

    public func save() -> Saved {
        locked { state, _ in
            Saved(
                status: state.status, enable: state.enable, control: state.control,
                eventStatus: state.eventStatus, eventEnable: state.eventEnable, command: state.command,
                commandStatus: state.commandStatus, timerBit: state.timerBit,
                isAsleep: state.isAsleep ? true : nil)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        let control = Control.sciEnable | Control.busMasterReload | Control.sleepType
        guard saved.status & ~Event.implementedStatus == 0, saved.enable & ~Event.enables == 0,
            saved.control & ~control == 0
        else { throw RestoreError(Self.kind, "a reserved bit is set") }
        state.withLock { state in
            state.status = saved.status
            state.enable = saved.enable
            state.control = saved.control
            state.eventStatus = saved.eventStatus
            state.eventEnable = saved.eventEnable
            state.command = saved.command
            state.commandStatus = saved.commandStatus
            state.timerBit = saved.timerBit
            state.isAsleep = saved.isAsleep ?? false
            settle(&state, Self.rate.ticks(at: clock.now))
        }
    }
}
