/// Ctrl-A on the terminal begins a command to Ospite instead of input for the guest.
struct TerminalEscape {
    enum Action: Equatable { case send(UInt8), quit, help, none }

    private static let prefix: UInt8 = 0x01
    private var isArmed = false

    /// What one byte of the keyboard means.
    mutating func feed(_ byte: UInt8) -> Action {
        guard isArmed else {
            guard byte == Self.prefix else { return .send(byte) }
            isArmed = true
            return .none
        }
        isArmed = false
        switch byte {
        case Self.prefix: return .send(Self.prefix)
        case UInt8(ascii: "x"), UInt8(ascii: "X"): return .quit
        case UInt8(ascii: "h"), UInt8(ascii: "H"), UInt8(ascii: "?"): return .help
        default: return .none
        }
    }

    static let help = [
        "Ctrl-A X       end the machine now",
        "Ctrl-A H       this list",
        "Ctrl-A Ctrl-A  send Ctrl-A to the guest",
    ]
}
