public import DeviceModel
import Synchronization

/// The 8042 keyboard controller of the PC/AT at ports 60h and 64h, with a keyboard in its first connector and
/// a mouse in the second (IBM PS/2 technical reference, "Keyboard/Auxiliary Device Controller").
///
/// Confinement: any thread.
public final class I8042: PortDevice {
    public static let kind = "i8042"
    public let ports: [ClosedRange<UInt16>] = [0x60...0x60, 0x64...0x64]

    public struct Saved: Codable, Sendable, Equatable {
        /// Command byte at 0, and 31 bytes that software may keep.
        var memory: [UInt8]
        var output: UInt8
        /// The output buffer holds a byte.
        var isFull: Bool
        var isAuxiliary: Bool
        var lastWasCommand: Bool
        /// The command whose data byte comes next on port 60h; 0 when none.
        var pendingCommand: UInt8
        var outputPort: UInt8
        /// The translation has seen that a key goes up, and not yet which.
        var releaseFollows: Bool
        var keyboard: PS2Keyboard.Saved
        var mouse: PS2Mouse.Saved
    }

    private enum Status {
        static let outputFull: UInt8 = 0x01, system: UInt8 = 0x04, command: UInt8 = 0x08
        static let notInhibited: UInt8 = 0x10, auxiliary: UInt8 = 0x20
    }
    private enum CommandByte {
        static let keyboardInterrupt: UInt8 = 0x01, auxiliaryInterrupt: UInt8 = 0x02, system: UInt8 = 0x04
        static let keyboardDisabled: UInt8 = 0x10, auxiliaryDisabled: UInt8 = 0x20
        static let translates: UInt8 = 0x40
    }
    private enum OutputPort {
        static let notReset: UInt8 = 0x01, a20: UInt8 = 0x02
        static let initial: UInt8 = 0xCF & ~0x0C
    }

    private struct State {
        var memory: [32 of UInt8] = .init(repeating: 0)
        var output: UInt8 = 0
        var isFull = false
        var isAuxiliary = false
        var lastWasCommand = false
        var pendingCommand: UInt8 = 0
        var outputPort = OutputPort.initial
        var releaseFollows = false
        var keyboard = PS2Keyboard()
        var mouse = PS2Mouse()
        var raised: (keyboard: Bool, auxiliary: Bool) = (false, false)

        mutating func put(_ byte: UInt8, auxiliary: Bool = false) {
            output = byte
            isFull = true
            isAuxiliary = auxiliary
        }

        /// An empty output buffer takes the next byte of a device whose clock runs, the keyboard's first.
        mutating func fill() {
            guard !isFull else { return }
            if memory[0] & CommandByte.keyboardDisabled == 0 {
                while let byte = keyboard.takeByte() {
                    guard memory[0] & CommandByte.translates != 0 else { return put(byte) }
                    if byte == ScanCodes.release {
                        releaseFollows = true
                        continue
                    }
                    let code = ScanCodes.translated(byte)
                    defer { releaseFollows = false }
                    return put(releaseFollows ? code | 0x80 : code)
                }
            }
            if memory[0] & CommandByte.auxiliaryDisabled == 0, let byte = mouse.takeByte() {
                put(byte, auxiliary: true)
            }
        }
    }
    private let state = Mutex(State())
    private let keyboardLine: InterruptLine
    private let auxiliaryLine: InterruptLine
    private let report: @Sendable (MachineEvent) -> Void

    public init(_ context: DeviceContext) {
        keyboardLine = context.line(1)
        auxiliaryLine = context.line(12)
        report = context.report
    }

    private func locked<R: Sendable>(_ body: (inout State) -> R) -> R {
        state.withLock { state in
            let result = body(&state)
            // A byte that was read lowers its line before the next one raises it: an edge for each.
            driveLines(&state)
            state.fill()
            driveLines(&state)
            return result
        }
    }

    private func driveLines(_ state: inout State) {
        let enabled = state.memory[0]
        let keyboard = state.isFull && !state.isAuxiliary && enabled & CommandByte.keyboardInterrupt != 0
        let auxiliary = state.isFull && state.isAuxiliary && enabled & CommandByte.auxiliaryInterrupt != 0
        if keyboard != state.raised.keyboard { keyboardLine.set(keyboard) }
        if auxiliary != state.raised.auxiliary { auxiliaryLine.set(auxiliary) }
        state.raised = (keyboard, auxiliary)
    }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        let value: UInt8 = locked { state in
            if port == 0x60 {
                // An empty buffer gives its last byte again.
                state.isFull = false
                return state.output
            }
            var status = Status.notInhibited
            if state.isFull { status |= Status.outputFull }
            if state.isFull && state.isAuxiliary { status |= Status.auxiliary }
            if state.lastWasCommand { status |= Status.command }
            if state.memory[0] & CommandByte.system != 0 { status |= Status.system }
            return status
        }
        return UInt32(value) | 0xFFFF_FF00
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        let resets = locked { state in
            state.lastWasCommand = port == 0x64
            return port == 0x64 ? Self.command(&state, byte) : Self.data(&state, byte)
        }
        if resets { report(.reset) }
    }

    /// A byte at port 64h; true when it resets the machine.
    private static func command(_ state: inout State, _ byte: UInt8) -> Bool {
        state.pendingCommand = 0
        switch byte {
        case 0x20...0x3F: state.put(state.memory[Int(byte & 0x1F)])
        case 0x60...0x7F, 0xD1...0xD4: state.pendingCommand = byte
        case 0xA7: state.memory[0] |= CommandByte.auxiliaryDisabled
        case 0xA8: state.memory[0] &= ~CommandByte.auxiliaryDisabled
        // Interface tests: both connectors are sound.
        case 0xA9, 0xAB: state.put(0)
        case 0xAA:
            state.memory[0] |= CommandByte.system
            state.put(0x55)
        case 0xAD: state.memory[0] |= CommandByte.keyboardDisabled
        case 0xAE: state.memory[0] &= ~CommandByte.keyboardDisabled
        // Input port: keyboard not locked, manufacturing jumper open.
        case 0xC0: state.put(0xA0)
        case 0xD0: state.put(outputPortValue(state))
        case 0xDD: state.outputPort &= ~OutputPort.a20
        case 0xDF: state.outputPort |= OutputPort.a20
        // Test inputs: both clock lines idle low, as nothing drives them.
        case 0xE0: state.put(0)
        // Pulses the output-port bits that are zero; bit 0 is the processor's reset.
        case 0xF0...0xFF: return byte & OutputPort.notReset == 0
        default: break
        }
        return false
    }

    /// The output port with its buffer-full bits.
    private static func outputPortValue(_ state: State) -> UInt8 {
        let keyboard: UInt8 = state.isFull && !state.isAuxiliary ? 0x10 : 0
        let auxiliary: UInt8 = state.isFull && state.isAuxiliary ? 0x20 : 0
        return state.outputPort & ~0x30 | keyboard | auxiliary
    }

    /// A byte at port 60h; true when it resets the machine.
    private static func data(_ state: inout State, _ byte: UInt8) -> Bool {
        let command = state.pendingCommand
        state.pendingCommand = 0
        switch command {
        case 0x60...0x7F: state.memory[Int(command & 0x1F)] = byte
        case 0xD1:
            state.outputPort = byte
            return byte & OutputPort.notReset == 0
        case 0xD2: state.put(byte)
        case 0xD3: state.put(byte, auxiliary: true)
        // A byte for a device starts its clock.
        case 0xD4:
            state.memory[0] &= ~CommandByte.auxiliaryDisabled
            state.mouse.receive(byte)
        default:
            state.memory[0] &= ~CommandByte.keyboardDisabled
            state.keyboard.receive(byte)
        }
        return false
    }

    // MARK: What a person does

    /// A key goes down, again when it is held, or up.
    public func key(_ key: KeyCode, isDown: Bool) { locked { $0.keyboard.key(key, isDown: isDown) } }

    /// The mouse moves, or one of its buttons does.
    public func move(_ movement: PointerMovement) { locked { $0.mouse.move(movement) } }

    /// Scroll Lock, Num Lock and Caps Lock in bits 0 to 2, as the guest has set them.
    public var lamps: UInt8 { state.withLock { $0.keyboard.lamps } }

    // MARK: Lifecycle

    public func reset() {
        locked { state in
            let raised = state.raised
            state = State()
            state.raised = raised
        }
    }

    public func save() -> Saved {
        state.withLock { state in
            Saved(
                memory: (0..<32).map { state.memory[$0] }, output: state.output, isFull: state.isFull,
                isAuxiliary: state.isAuxiliary, lastWasCommand: state.lastWasCommand,
                pendingCommand: state.pendingCommand, outputPort: state.outputPort,
                releaseFollows: state.releaseFollows, keyboard: state.keyboard.saved,
                mouse: state.mouse.saved)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        let pending = saved.pendingCommand
        guard saved.memory.count == 32,
            pending == 0 || (0x60...0x7F).contains(pending) || (0xD1...0xD4).contains(pending)
        else { throw RestoreError(Self.kind, "memory or pending command is out of range") }
        guard let keyboard = PS2Keyboard(saved.keyboard) else {
            throw RestoreError(Self.kind, "the keyboard")
        }
        guard let mouse = PS2Mouse(saved.mouse) else { throw RestoreError(Self.kind, "the mouse") }
        locked { state in
            for index in 0..<32 { state.memory[index] = saved.memory[index] }
            state.output = saved.output
            state.isFull = saved.isFull
            state.isAuxiliary = saved.isAuxiliary
            state.lastWasCommand = saved.lastWasCommand
            state.pendingCommand = pending
            state.outputPort = saved.outputPort
            state.releaseFollows = saved.releaseFollows
            state.keyboard = keyboard
            state.mouse = mouse
        }
    }
}
