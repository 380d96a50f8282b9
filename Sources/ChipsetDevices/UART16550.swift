public import DeviceModel
import Synchronization

/// A 16550A serial port: eight ports from `base` (3F8h with interrupt line 4 for the first).
///
/// Transmission is instant. Characters are gathered and handed to `transmit` at the end of a line, when 64
/// are there, or after two milliseconds, so that a slow reader costs no call per byte; `flush()` and
/// `pause()` hand over the rest. Reception holds at most the guest's FIFO: what does not fit stays with the
/// back end.
///
/// Confinement: any thread. `transmit` and `onReceiveSpace` run without the device's lock; `transmit` calls
/// are ordered and must not call the guest side of this device.
public final class UART16550: PortDevice {
    public static let kind = "uart"

    public struct Saved: Codable, Sendable, Equatable {
        var interruptEnable: UInt8
        var fifoControl: UInt8
        var lineControl: UInt8
        var modemControl: UInt8
        var scratch: UInt8
        var divisor: UInt16
        var received: [UInt8]
        /// Error bits of `received`, one for one.
        var receivedErrors: [UInt8]
        var overrun: Bool
        var modemDeltas: UInt8
        var transmitterInterrupt: Bool
        var timeoutAt: UInt64?
        var timedOut: Bool
    }

    public let ports: [ClosedRange<UInt16>]
    private static let batchSize = 64
    private static let batchDelay: UInt64 = 2_000_000

    private struct State {
        var registers = UARTState()
        var outgoing: [UInt8] = []
        var isLineRaised = false
        /// The back end was refused characters and waits for `onReceiveSpace`.
        var refused = false
    }
    private let state = Mutex(State())
    /// Held while `transmit` runs, so that two threads cannot swap their batches.
    private let transmitOrder = Mutex(())
    private let base: UInt16
    private let clock: any MachineClock
    private let line: InterruptLine
    private let receiveTimer: LateTimer
    private let transmitTimer: LateTimer
    private let transmit: @Sendable ([UInt8]) -> Void
    private let onReceiveSpace: @Sendable () -> Void

    /// `transmit` takes what the guest sends; it must not block. `onReceiveSpace` says that characters that
    /// `receive` did not take may be offered again.
    public init(
        _ context: DeviceContext, base: UInt16 = 0x3F8, line: Int = 4,
        transmit: @escaping @Sendable ([UInt8]) -> Void,
        onReceiveSpace: @escaping @Sendable () -> Void = {}
    ) {
        precondition(base & 7 == 0, "a serial port starts at a multiple of eight")
        self.base = base
        ports = [base...(base + 7)]
        clock = context.clock
        self.line = context.line(line)
        receiveTimer = LateTimer(context.clock)
        transmitTimer = LateTimer(context.clock)
        self.transmit = transmit
        self.onReceiveSpace = onReceiveSpace
        receiveTimer.connect { [weak self] in self?.locked { _, _ in } }
        transmitTimer.connect { [weak self] in self?.flush() }
    }

    /// Runs `body`, then drives the line and the timeout; returns its result after telling the back end about
    /// new space.
    private func locked<R: Sendable>(_ body: (inout State, UInt64) -> R) -> R {
        let (result, hasSpace) = state.withLock { state in
            let now = clock.now
            state.registers.service(now)
            let result = body(&state, now)
            let requesting = state.registers.isRequesting
            if requesting != state.isLineRaised {
                state.isLineRaised = requesting
                line.set(requesting)
            }
            receiveTimer.arm(at: state.registers.timeoutAt)
            // Offered again when the guest has taken all: one call for a FIFO, not one per byte.
            let hasSpace = state.refused && state.registers.received.isEmpty && !state.registers.isLooped
            if hasSpace { state.refused = false }
            return (result, hasSpace)
        }
        if hasSpace { onReceiveSpace() }
        return result
    }

    /// Hands characters from the back end to the guest and returns how many were taken; the rest may be
    /// offered again when `onReceiveSpace` was called.
    public func receive(_ bytes: [UInt8]) -> Int {
        locked { state, now in
            // In loopback the receiver is disconnected from the wire.
            let count = state.registers.isLooped ? 0 : min(bytes.count, state.registers.space)
            for byte in bytes.prefix(count) { state.registers.push(.init(byte: byte), now: now) }
            if count < bytes.count { state.refused = true }
            return count
        }
    }

    /// The other end sends a break.
    public func receiveBreak() {
        locked { state, now in
            guard !state.registers.isLooped, state.registers.space > 0 else { return }
            state.registers.push(.init(byte: 0, errors: UARTLineStatus.breakSeen), now: now)
        }
    }

    /// Hands over what was gathered.
    public func flush() {
        transmitOrder.withLock { _ in
            let bytes = state.withLock { state in
                let bytes = state.outgoing
                state.outgoing = []
                return bytes
            }
            if !bytes.isEmpty { transmit(bytes) }
        }
    }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        let value: UInt8 = locked { state, now in
            switch port &- base {
            case UARTRegister.data:
                if state.registers.divisorLatchOpen {
                    return UInt8(truncatingIfNeeded: state.registers.divisor)
                }
                return state.registers.takeReceived(now: now)
            case UARTRegister.interruptEnable:
                return state.registers.divisorLatchOpen
                    ? UInt8(state.registers.divisor >> 8) : state.registers.interruptEnable
            case UARTRegister.interruptIdentification: return state.registers.readIdentification()
            case UARTRegister.lineControl: return state.registers.lineControl
            case UARTRegister.modemControl: return state.registers.modemControl
            case UARTRegister.lineStatus: return state.registers.readLineStatus()
            case UARTRegister.modemStatus: return state.registers.readModemStatus()
            case UARTRegister.scratch: return state.registers.scratch
            default: return 0xFF
            }
        }
        return UInt32(value) | 0xFFFF_FF00
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        let isFull = locked { state, now in
            switch port &- base {
            case UARTRegister.data where state.registers.divisorLatchOpen:
                state.registers.divisor = state.registers.divisor & 0xFF00 | UInt16(byte)
            case UARTRegister.data: return send(byte, &state, now)
            case UARTRegister.interruptEnable where state.registers.divisorLatchOpen:
                state.registers.divisor = state.registers.divisor & 0xFF | UInt16(byte) << 8
            case UARTRegister.interruptEnable: state.registers.writeInterruptEnable(byte)
            case UARTRegister.interruptIdentification: state.registers.writeFIFOControl(byte)
            case UARTRegister.lineControl: state.registers.writeLineControl(byte, now: now)
            case UARTRegister.modemControl: state.registers.writeModemControl(byte)
            case UARTRegister.scratch: state.registers.scratch = byte
            default: break
            }
            return false
        }
        if isFull { flush() }
    }

    /// Sends one character; true when the batch should go now.
    private func send(_ byte: UInt8, _ state: inout State, _ now: UInt64) -> Bool {
        let length = 5 + (state.registers.lineControl & UARTLineControl.wordLength)
        let character = byte & UInt8(truncatingIfNeeded: (1 << UInt16(length)) - 1)
        state.registers.transmitterInterrupt = true
        if state.registers.isLooped {
            state.registers.push(.init(byte: character), now: now)
            return false
        }
        // A break holds the wire low: nothing gets through.
        guard state.registers.lineControl & UARTLineControl.breakControl == 0 else { return false }
        if state.outgoing.isEmpty { transmitTimer.arm(at: now &+ Self.batchDelay) }
        state.outgoing.append(character)
        return state.outgoing.count >= Self.batchSize || character == UInt8(ascii: "\n")
    }

    public func pause() { flush() }

    public func reset() {
        flush()
        locked { state, _ in
            // MR leaves the scratch register and the divisor latch alone (data sheet table I).
            let (scratch, divisor) = (state.registers.scratch, state.registers.divisor)
            state.registers = UARTState()
            state.registers.scratch = scratch
            state.registers.divisor = divisor
        }
    }

    public func save() -> Saved {
        locked { state, _ in
            let registers = state.registers
            return Saved(
                interruptEnable: registers.interruptEnable, fifoControl: registers.fifoControl,
                lineControl: registers.lineControl, modemControl: registers.modemControl,
                scratch: registers.scratch, divisor: registers.divisor,
                received: registers.received.map(\.byte), receivedErrors: registers.received.map(\.errors),
                overrun: registers.overrun, modemDeltas: registers.modemDeltas,
                transmitterInterrupt: registers.transmitterInterrupt, timeoutAt: registers.timeoutAt,
                timedOut: registers.timedOut)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        func check(_ condition: Bool, _ reason: String) throws(RestoreError) {
            if !condition { throw RestoreError(Self.kind, reason) }
        }
        try check(saved.interruptEnable < 16 && saved.modemDeltas < 16, "interrupt enable or modem status")
        try check(saved.fifoControl & ~0xC1 == 0, "FIFO control")
        try check(saved.fifoControl & 1 != 0 || saved.fifoControl == 0, "FIFO trigger without FIFO")
        try check(saved.modemControl & ~UARTModemControl.writable == 0, "modem control")
        let capacity = saved.fifoControl & 1 != 0 ? UARTState.fifoSize : 1
        try check(
            saved.received.count <= capacity && saved.received.count == saved.receivedErrors.count, "the FIFO"
        )
        try check(saved.receivedErrors.allSatisfy { $0 & ~UARTLineStatus.errors == 0 }, "error bits")
        try check(!saved.received.isEmpty || (saved.timeoutAt == nil && !saved.timedOut), "the timeout")
        locked { state, _ in
            var registers = UARTState()
            registers.interruptEnable = saved.interruptEnable
            registers.fifoControl = saved.fifoControl
            registers.lineControl = saved.lineControl
            registers.modemControl = saved.modemControl
            registers.scratch = saved.scratch
            registers.divisor = saved.divisor
            registers.received = zip(saved.received, saved.receivedErrors).map { .init(byte: $0, errors: $1) }
            registers.overrun = saved.overrun
            registers.modemDeltas = saved.modemDeltas
            registers.transmitterInterrupt = saved.transmitterInterrupt
            registers.timeoutAt = saved.timeoutAt
            registers.timedOut = saved.timedOut
            state.registers = registers
            state.refused = true
        }
    }
}
