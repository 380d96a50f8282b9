/// The command line.
struct Options {
    var cases: UInt64 = 200_000
    var seed: UInt64 = 1
    var modes: [OracleMode] = OracleMode.allCases
    var row: UInt16?
    var only: UInt64?
    var workers = 2
    var forever = false
    var report = false
    var translated = false
    var verified = false
    /// Cases of one mode: 64-bit code gets five parts of eight, 32-bit code two, 16-bit code one.
    func share(_ mode: OracleMode) -> UInt64 {
        guard modes.count == 3 else { return cases / UInt64(modes.count) }
        switch mode {
        case .bits64: return cases / 8 * 5
        case .bits32: return cases / 4
        case .bits16: return cases / 8
        }
    }
    /// Mismatches to print per worker before it goes on in silence.
    var shown = 8

    static let usage = """
        Usage: ospite-oracle [--cases N] [--seed N] [--mode 64|32|16] [--row N] [--case N] [--workers N]
                             [--shown N] [--forever] [--rows-report]
        Runs random instructions on the host's processor and on the software CPU and compares what they do.
        --cases N     cases in all, shared out among the modes (default 200000)
        --seed N      the same seed gives the same cases (default 1)
        --row N       only the row with this number of Instructions.table
        --case N      only this case of the seed; needs --mode
        --forever     goes on with further seeds until something differs; a line per minute
        --translated  on the software CPU's translator instead of its interpreter
        --verify      the same, compared with the interpreter besides; the interpreter's results count
        --rows-report prints how often every row ran
        """

    init(_ arguments: [String]) throws {
        var rest = arguments[...]
        func number(_ name: String) throws -> UInt64 {
            guard let text = rest.popFirst(), let value = UInt64(text) else {
                throw OracleError("\(name) needs a number\n\(Self.usage)")
            }
            return value
        }
        while let argument = rest.popFirst() {
            switch argument {
            case "--cases": cases = try number(argument)
            case "--seed": seed = try number(argument)
            case "--row": row = UInt16(clamping: try number(argument))
            case "--case": only = try number(argument)
            case "--workers": workers = Int(clamping: max(1, min(64, try number(argument))))
            case "--shown": shown = Int(clamping: try number(argument))
            case "--mode":
                guard let mode = OracleMode(rawValue: Int(clamping: try number(argument))) else {
                    throw OracleError("--mode is 64, 32 or 16\n\(Self.usage)")
                }
                modes = [mode]
            case "--forever": forever = true
            case "--rows-report": report = true
            case "--translated": translated = true
            case "--verify": (translated, verified) = (true, true)
            default: throw OracleError("unknown argument \(argument)\n\(Self.usage)")
            }
        }
        if only != nil {
            guard modes.count == 1 else { throw OracleError("--case needs --mode\n\(Self.usage)") }
            workers = 1
        }
    }
}
