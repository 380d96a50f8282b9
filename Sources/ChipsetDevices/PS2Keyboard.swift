/// A keyboard of the PS/2 (IBM PS/2 technical reference, "Keyboards"): scan code sets 1 and 2, its lamps,
/// its identity and its self-test. It repeats no key by itself: whoever presses it does. Pure.
///
/// Confinement: a value; its controller locks.
struct PS2Keyboard {
    struct Saved: Codable, Sendable, Equatable {
        /// Answers to commands, which come before keys.
        var answers: [UInt8]
        /// What keys have sent.
        var codes: [UInt8]
        var pressed: [UInt8]
        var scanSet: UInt8
        var isScanning: Bool
        var lamps: UInt8
        /// The command whose parameter comes next; 0 when none.
        var pendingCommand: UInt8
        var lastSent: UInt8
    }

    private enum Command {
        static let lamps: UInt8 = 0xED, echo: UInt8 = 0xEE, scanSet: UInt8 = 0xF0, identify: UInt8 = 0xF2
        static let repetition: UInt8 = 0xF3, enable: UInt8 = 0xF4, disable: UInt8 = 0xF5
        static let defaults: UInt8 = 0xF6, resend: UInt8 = 0xFE, reset: UInt8 = 0xFF
        static let withParameter: Set<UInt8> = [lamps, scanSet, repetition]
    }
    private enum Answer {
        static let acknowledge: UInt8 = 0xFA, resend: UInt8 = 0xFE, passed: UInt8 = 0xAA
        static let identity: [UInt8] = [0xAB, 0x83]
    }

    /// Bytes that wait for a guest that does not read: about 60 strokes.
    static let capacity = 256
    /// The longest sequence of a key that goes up.
    private static let longestRelease = 6
    private static let mostAnswers = 8

    private var answers: [UInt8] = []
    private var codes: [UInt8] = []
    private var pressed: Set<UInt8> = []
    private(set) var scanSet: UInt8 = 2
    private(set) var isScanning = true
    /// Scroll Lock, Num Lock and Caps Lock in bits 0 to 2.
    private(set) var lamps: UInt8 = 0
    private var pendingCommand: UInt8 = 0
    private var lastSent: UInt8 = 0

    var hasByte: Bool { !answers.isEmpty || !codes.isEmpty }

    mutating func takeByte() -> UInt8? {
        let byte: UInt8
        if !answers.isEmpty {
            byte = answers.removeFirst()
        } else if !codes.isEmpty {
            byte = codes.removeFirst()
        } else {
            return nil
        }
        if byte != Answer.resend { lastSent = byte }
        return byte
    }

    /// A key goes down, again when it is held, or up. A press that finds no room is lost as a whole, with its
    /// release; releases of other keys always find room.
    mutating func key(_ key: KeyCode, isDown: Bool) {
        guard isScanning, key.exists else { return }
        let bytes = ScanCodes.bytes(key, isDown: isDown, set: scanSet)
        if isDown {
            let held = pressed.union([key.raw]).count
            guard codes.count + bytes.count + held * Self.longestRelease <= Self.capacity else { return }
            pressed.insert(key.raw)
        } else {
            guard pressed.remove(key.raw) != nil else { return }
        }
        codes += bytes
    }

    // MARK: Commands

    private mutating func answer(_ bytes: UInt8...) {
        for byte in bytes where answers.count < Self.mostAnswers { answers.append(byte) }
    }

    /// A byte from the controller.
    mutating func receive(_ byte: UInt8) {
        let command = pendingCommand
        pendingCommand = 0
        // A command in the place of a parameter ends the wait for it.
        if command != 0, byte < 0x80 { return parameter(byte, of: command) }
        switch byte {
        case Command.lamps, Command.repetition, Command.scanSet:
            pendingCommand = byte
            answer(Answer.acknowledge)
        case Command.echo: answer(Command.echo)
        case Command.identify: answer(Answer.acknowledge, Answer.identity[0], Answer.identity[1])
        case Command.enable:
            forgetKeys()
            isScanning = true
            answer(Answer.acknowledge)
        case Command.disable, Command.defaults:
            setDefaults()
            isScanning = byte == Command.defaults
            answer(Answer.acknowledge)
        // Which keys of set 3 repeat: set 3 is not there.
        case 0xF7...0xFA: answer(Answer.acknowledge)
        case Command.resend: answer(lastSent)
        case Command.reset:
            setDefaults()
            lamps = 0
            isScanning = true
            answers = []
            answer(Answer.acknowledge, Answer.passed)
        default: answer(Answer.resend)
        }
    }

    private mutating func parameter(_ byte: UInt8, of command: UInt8) {
        switch command {
        case Command.lamps: lamps = byte & 0x07
        case Command.scanSet:
            switch byte {
            case 0: return answer(Answer.acknowledge, scanSet)
            case 1, 2:
                scanSet = byte
                forgetKeys()
            default: return answer(Answer.resend)
            }
        default: break
        }
        answer(Answer.acknowledge)
    }

    private mutating func setDefaults() {
        scanSet = 2
        forgetKeys()
    }

    private mutating func forgetKeys() {
        codes = []
        pressed = []
    }

    // MARK: Saved state

    var saved: Saved {
        Saved(
            answers: answers, codes: codes, pressed: pressed.sorted(), scanSet: scanSet,
            isScanning: isScanning, lamps: lamps, pendingCommand: pendingCommand, lastSent: lastSent)
    }

    init() {}

    /// Nil when the state is none of a keyboard's.
    init?(_ saved: Saved) {
        guard saved.answers.count <= Self.mostAnswers, saved.codes.count <= Self.capacity,
            saved.pressed.count <= 256, 1...2 ~= saved.scanSet, saved.lamps <= 7,
            saved.pendingCommand == 0 || Command.withParameter.contains(saved.pendingCommand)
        else { return nil }
        answers = saved.answers
        codes = saved.codes
        pressed = Set(saved.pressed)
        scanSet = saved.scanSet
        isScanning = saved.isScanning
        lamps = saved.lamps
        pendingCommand = saved.pendingCommand
        lastSent = saved.lastSent
    }
}
