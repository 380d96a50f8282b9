internal import ArgumentParser
internal import Glibc
internal import LinuxHost
internal import RFB

/// Runs the body of a command that talks to a running machine, and turns its failure into a sentence.
func reporting(_ body: () throws(RunFailure) -> Void) throws {
    HostSignals.ignoreBrokenPipes()
    do throws(RunFailure) {
        try body()
    } catch {
        Console.say("ospite: \(error.sentence)")
        throw ExitCode(error.status)
    }
}

/// `ospite screenshot`: what a machine shows now, as a PNG file.
struct ScreenshotCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "screenshot", abstract: "Writes a machine's screen to a PNG file.")

    @Argument(help: "The machine's name.")
    var name: String

    @Argument(help: "The PNG file.")
    var file: String

    func run() throws {
        try reporting { () throws(RunFailure) in
            let client = try ScreenClient(machine: name)
            let pixels = try client.capture()
            do throws(HostError) {
                let output = try Descriptor.open(file, flags: O_WRONLY | O_CREAT | O_TRUNC, mode: 0o666)
                try output.writeAll(PNGImage.file(pixels, width: client.width))
            } catch {
                throw .host("The screenshot cannot be written: \(error). Give a path that you may write.")
            }
        }
    }
}

/// `ospite type`: a text, key by key.
struct TypeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "type", abstract: "Types a text into a machine, as if on its keyboard.",
        discussion: "The guest is taken to have a US keyboard. \\n in the text is Enter, \\t Tab.")

    @Argument(help: "The machine's name.")
    var name: String

    @Argument(help: "The text: characters of a US keyboard.")
    var text: String

    @Option(help: "Milliseconds for each key.")
    var delay = 40

    func run() throws {
        try reporting { () throws(RunFailure) in
            let symbols = text.replacing("\\n", with: "\n").replacing("\\t", with: "\t").unicodeScalars.map {
                (character: $0, symbol: KeyMap.symbol(of: $0))
            }
            guard (0...10_000).contains(delay) else { throw .usage("--delay takes 0 to 10000 milliseconds.") }
            for (character, symbol) in symbols where KeyMap.stroke(symbol) == nil {
                throw .usage("A US keyboard has no key for '\(character)': leave it out.")
            }
            let client = try ScreenClient(machine: name)
            for (_, symbol) in symbols {
                try client.key(symbol: symbol, isDown: true)
                _ = usleep(UInt32(delay) * 500)
                try client.key(symbol: symbol, isDown: false)
                _ = usleep(UInt32(delay) * 500)
            }
            try client.finish()
        }
    }
}

/// `ospite key`: keys that are pressed together.
struct KeyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key", abstract: "Presses keys of a machine, such as ctrl-alt-del, f12 or enter.")

    @Argument(help: "The machine's name.")
    var name: String

    @Argument(help: "Keys that are held together, with hyphens between them; one word after the other.")
    var keys: [String]

    func run() throws {
        try reporting { () throws(RunFailure) in
            let chords = try keys.map { text throws(RunFailure) in try Self.codes(text) }
            let client = try ScreenClient(machine: name)
            for codes in chords {
                for code in codes {
                    try client.key(code: code, isDown: true)
                    _ = usleep(20_000)
                }
                for code in codes.reversed() {
                    try client.key(code: code, isDown: false)
                    _ = usleep(20_000)
                }
            }
            try client.finish()
        }
    }

    private static let names: [String: UInt32] = [
        "ctrl": 0xFFE3, "control": 0xFFE3, "alt": 0xFFE9, "altgr": 0xFFEA, "shift": 0xFFE1, "super": 0xFFEB,
        "win": 0xFFEB, "menu": 0xFF67, "del": 0xFFFF, "delete": 0xFFFF, "ins": 0xFF63, "insert": 0xFF63,
        "home": 0xFF50, "end": 0xFF57, "pgup": 0xFF55, "pageup": 0xFF55, "pgdn": 0xFF56, "pagedown": 0xFF56,
        "up": 0xFF52, "down": 0xFF54, "left": 0xFF51, "right": 0xFF53, "enter": 0xFF0D, "return": 0xFF0D,
        "esc": 0xFF1B, "escape": 0xFF1B, "tab": 0xFF09, "space": 0x20, "backspace": 0xFF08, "caps": 0xFFE5,
        "numlock": 0xFF7F, "scrolllock": 0xFF14, "print": 0xFF61, "sysrq": 0xFF61, "pause": 0xFF13,
        "minus": 0x2D,
    ]

    /// The codes of the keys in a word.
    static func codes(_ text: String) throws(RunFailure) -> [UInt8] {
        var codes: [UInt8] = []
        for part in text.lowercased().split(separator: "-", omittingEmptySubsequences: false) {
            var symbol = names[String(part)]
            if part.unicodeScalars.count == 1, let character = part.unicodeScalars.first {
                symbol = character.value
            } else if part.first == "f", let number = UInt32(part.dropFirst()), (1...12).contains(number) {
                symbol = 0xFFBD + number
            }
            guard let symbol, let stroke = KeyMap.stroke(symbol) else {
                throw .usage(
                    "The key '\(part)' in '\(text)' is unknown: use a character, f1 to f12, or a name such "
                        + "as ctrl, alt, shift, super, enter, esc, tab, space, del, up; minus for a hyphen.")
            }
            codes.append(stroke.code)
        }
        return codes
    }
}
