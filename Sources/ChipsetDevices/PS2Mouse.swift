/// How a pointing device that only knows distances moved since the last time.
public struct PointerMovement: Equatable, Sendable {
    /// To the right and down, in counts of the device.
    public var right: Int32, down: Int32
    /// Steps of the wheel towards the user.
    public var wheel: Int32
    /// Left, right and middle in bits 0 to 2; side buttons in 3 and 4.
    public var buttons: UInt8

    public init(right: Int32 = 0, down: Int32 = 0, wheel: Int32 = 0, buttons: UInt8 = 0) {
        self.right = right
        self.down = down
        self.wheel = wheel
        self.buttons = buttons
    }
}

/// A mouse of the PS/2 (IBM PS/2 technical reference, "Mouse") with the wheel of Microsoft's IntelliMouse and
/// the five buttons of its Explorer, for who asks for them by a row of sample rates. Pure.
///
/// Confinement: a value; its controller locks.
struct PS2Mouse {
    struct Saved: Codable, Sendable, Equatable {
        /// Bytes that wait: answers, and the rest of a packet.
        var output: [UInt8]
        var steps: [Step]
        var lastButtons: UInt8
        var sampleRate: UInt8
        var resolution: UInt8
        var identity: UInt8
        var isReporting: Bool
        var isRemote: Bool
        var isWrapping: Bool
        var isScaled: Bool
        var pendingCommand: UInt8
        /// The last two sample rates that were set.
        var rates: [UInt8]
        var lastSent: UInt8
    }
    /// What moved while the buttons stayed as they are.
    struct Step: Codable, Sendable, Equatable {
        var right: Int32 = 0, down: Int32 = 0, wheel: Int32 = 0
        var buttons: UInt8 = 0
        var isStill: Bool { right == 0 && down == 0 && wheel == 0 }
    }

    private enum Command {
        static let scaleOff: UInt8 = 0xE6, scaleOn: UInt8 = 0xE7, resolution: UInt8 = 0xE8
        static let status: UInt8 = 0xE9, stream: UInt8 = 0xEA, read: UInt8 = 0xEB, endWrap: UInt8 = 0xEC
        static let wrap: UInt8 = 0xEE, remote: UInt8 = 0xF0, identify: UInt8 = 0xF2, rate: UInt8 = 0xF3
        static let enable: UInt8 = 0xF4, disable: UInt8 = 0xF5, defaults: UInt8 = 0xF6
        static let resend: UInt8 = 0xFE, reset: UInt8 = 0xFF
    }
    private enum Answer {
        static let acknowledge: UInt8 = 0xFA, resend: UInt8 = 0xFE, error: UInt8 = 0xFC, passed: UInt8 = 0xAA
    }
    private enum Identity { static let plain: UInt8 = 0, wheel: UInt8 = 3, explorer: UInt8 = 4 }

    /// Clicks that wait for a guest that does not look; movement between two of them adds up.
    static let mostSteps = 16
    private static let mostOutput = 16
    /// Far beyond any screen: what is not read for long is not worth more.
    private static let farthest: Int32 = 1 << 16

    private var output: [UInt8] = []
    private var steps: [Step] = []
    private var lastButtons: UInt8 = 0
    private var sampleRate: UInt8 = 100
    private var resolution: UInt8 = 2
    private(set) var identity = Identity.plain
    private(set) var isReporting = false
    private var isRemote = false
    private var isWrapping = false
    private var isScaled = false
    private var pendingCommand: UInt8 = 0
    private var rates: [UInt8] = []
    private var lastSent: UInt8 = 0

    var hasByte: Bool { !output.isEmpty || (streams && !steps.isEmpty) }
    private var streams: Bool { isReporting && !isRemote && !isWrapping }

    mutating func takeByte() -> UInt8? {
        if output.isEmpty, streams, !steps.isEmpty { appendPacket() }
        guard !output.isEmpty else { return nil }
        let byte = output.removeFirst()
        if byte != Answer.resend { lastSent = byte }
        return byte
    }

    // MARK: Movement

    mutating func move(_ movement: PointerMovement) {
        guard isReporting else {
            // Who switches reporting on later learns of the buttons with the next movement.
            return
        }
        let buttons = movement.buttons & 0x1F
        if let last = steps.last, last.buttons == buttons || steps.count == Self.mostSteps {
            steps[steps.count - 1] = Self.sum(last, movement, buttons)
        } else {
            let step = Self.sum(Step(), movement, buttons)
            guard !step.isStill || (steps.last?.buttons ?? lastButtons) != buttons else { return }
            steps.append(step)
        }
    }

    private static func sum(_ step: Step, _ movement: PointerMovement, _ buttons: UInt8) -> Step {
        func add(_ left: Int32, _ right: Int32) -> Int32 {
            min(max(left.addingReportingOverflow(right).partialValue, -farthest), farthest)
        }
        func bounded(_ value: Int32) -> Int32 { min(max(value, -farthest), farthest) }
        return Step(
            right: add(step.right, bounded(movement.right)), down: add(step.down, bounded(movement.down)),
            wheel: add(step.wheel, bounded(movement.wheel)), buttons: buttons)
    }

    /// Takes from `value` what one packet can say.
    private static func take(_ value: inout Int32, _ range: ClosedRange<Int32>) -> Int32 {
        let part = min(max(value, range.lowerBound), range.upperBound)
        value -= part
        return part
    }

    ///     byte 0   bit 0 left, 1 right, 2 middle, 3 one, 4 and 5 signs of byte 1 and 2
    ///     byte 1   to the right; byte 2   up; byte 3   wheel, and two buttons of the Explorer
    private mutating func appendPacket() {
        var step = steps.first ?? Step(buttons: lastButtons)
        let right = Self.take(&step.right, -255...255), down = Self.take(&step.down, -255...255)
        let up = -down
        var wheel: Int32 = 0
        switch identity {
        case Identity.wheel: wheel = Self.take(&step.wheel, -128...127)
        case Identity.explorer: wheel = Self.take(&step.wheel, -8...7)
        default: step.wheel = 0
        }
        lastButtons = step.buttons
        if !steps.isEmpty {
            if step.isStill { steps.removeFirst() } else { steps[0] = step }
        }
        let signs: UInt8 = (right < 0 ? 0x10 : 0) | (up < 0 ? 0x20 : 0)
        output.append(0x08 | signs | lastButtons & 0x07)
        output.append(UInt8(truncatingIfNeeded: right))
        output.append(UInt8(truncatingIfNeeded: up))
        switch identity {
        case Identity.wheel: output.append(UInt8(truncatingIfNeeded: wheel))
        case Identity.explorer:
            output.append(UInt8(truncatingIfNeeded: wheel & 0x0F) | (lastButtons & 0x18) << 1)
        default: break
        }
    }

    // MARK: Commands

    private mutating func answer(_ bytes: UInt8...) {
        for byte in bytes where output.count < Self.mostOutput { output.append(byte) }
    }

    /// A byte from the controller.
    mutating func receive(_ byte: UInt8) {
        let command = pendingCommand
        pendingCommand = 0
        if isWrapping, byte != Command.endWrap, byte != Command.reset { return answer(byte) }
        // An answer takes the place of what of a packet was not read.
        output = []
        if command != 0 { return parameter(byte, of: command) }
        switch byte {
        case Command.resolution, Command.rate: pendingCommand = byte
        case Command.scaleOff, Command.scaleOn: isScaled = byte == Command.scaleOn
        case Command.status: return answerStatus()
        case Command.stream: isRemote = false
        case Command.remote: isRemote = true
        case Command.endWrap: isWrapping = false
        case Command.wrap: isWrapping = true
        case Command.read:
            answer(Answer.acknowledge)
            return appendPacket()
        case Command.identify: return answer(Answer.acknowledge, identity)
        case Command.enable:
            isReporting = true
            steps = []
        case Command.disable:
            isReporting = false
            steps = []
        case Command.defaults: setDefaults()
        case Command.resend: return answer(lastSent)
        case Command.reset:
            setDefaults()
            identity = Identity.plain
            isWrapping = false
            return answer(Answer.acknowledge, Answer.passed, Identity.plain)
        default: return answer(Answer.resend)
        }
        answer(Answer.acknowledge)
    }

    private mutating func parameter(_ byte: UInt8, of command: UInt8) {
        if command == Command.resolution {
            guard byte <= 3 else { return answer(Answer.resend) }
            resolution = byte
        } else {
            guard [10, 20, 40, 60, 80, 100, 200].contains(byte) else { return answer(Answer.resend) }
            sampleRate = byte
            if rates == [200, 100], byte == 80 { identity = Identity.wheel }
            if rates == [200, 200], byte == 80, identity == Identity.wheel { identity = Identity.explorer }
            rates = rates.suffix(1) + [byte]
        }
        answer(Answer.acknowledge)
    }

    private mutating func answerStatus() {
        let mode: UInt8 = (isRemote ? 0x40 : 0) | (isReporting ? 0x20 : 0) | (isScaled ? 0x10 : 0)
        let buttons = (lastButtons & 1) << 2 | (lastButtons & 4) >> 1 | (lastButtons & 2) >> 1
        answer(Answer.acknowledge, mode | buttons, resolution, sampleRate)
    }

    private mutating func setDefaults() {
        sampleRate = 100
        resolution = 2
        isReporting = false
        isRemote = false
        isScaled = false
        steps = []
        rates = []
    }

    // MARK: Saved state

    var saved: Saved {
        Saved(
            output: output, steps: steps, lastButtons: lastButtons, sampleRate: sampleRate,
            resolution: resolution, identity: identity, isReporting: isReporting, isRemote: isRemote,
            isWrapping: isWrapping, isScaled: isScaled, pendingCommand: pendingCommand, rates: rates,
            lastSent: lastSent)
    }

    init() {}

    /// Nil when the state is none of a mouse's.
    init?(_ saved: Saved) {
        let reach = -Self.farthest...Self.farthest
        guard saved.output.count <= Self.mostOutput, saved.steps.count <= Self.mostSteps,
            saved.steps.allSatisfy({
                reach.contains($0.right) && reach.contains($0.down) && reach.contains($0.wheel)
                    && $0.buttons <= 0x1F
            }), saved.lastButtons <= 0x1F, saved.resolution <= 3, saved.rates.count <= 2,
            [Identity.plain, Identity.wheel, Identity.explorer].contains(saved.identity),
            [0, Command.resolution, Command.rate].contains(saved.pendingCommand)
        else { return nil }
        output = saved.output
        steps = saved.steps
        lastButtons = saved.lastButtons
        sampleRate = saved.sampleRate
        resolution = saved.resolution
        identity = saved.identity
        isReporting = saved.isReporting
        isRemote = saved.isRemote
        isWrapping = saved.isWrapping
        isScaled = saved.isScaled
        pendingCommand = saved.pendingCommand
        rates = saved.rates
        lastSent = saved.lastSent
    }
}
