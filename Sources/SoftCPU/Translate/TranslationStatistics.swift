/// What translated code did so far, for `--stats`: of one vCPU, or of several added up.
struct TranslationStatistics {
    var blocks = 0
    /// Of the time-stamp counter, for all blocks.
    var ticks: UInt64 = 0
    var guestBytes = 0
    /// On a block's straight way, and everything else that belongs to it. Without what counts.
    var lineBytes = 0
    var stubBytes = 0
    var links = 0
    /// Links to other pages, made and cut again.
    var farLinks = 0
    var farCuts = 0
    var invalidations = 0
    /// Of those, whose code was found unchanged.
    var woken = 0
    var flushes = 0
    /// By `TranslatedExit`.
    var exits: InlineArray<10, UInt64> = .init(repeating: 0)
    /// Calls of the interpreter's bodies.
    var escapes: UInt64 = 0
    /// Instructions in translated code, and in the interpreter.
    var translated: UInt64 = 0
    var interpreted: UInt64 = 0
    /// Blocks begun, and probes in them: a block that was left early counts whole.
    var entries: UInt64 = 0
    var probes: UInt64 = 0
    /// Probes that did not find what they looked for, page crossings among them.
    var misses: UInt64 = 0
    /// Entries of the caches for data that were filled, by the interpreter too.
    var fills: UInt64 = 0
    var emptied: UInt64 = 0

    static func += (sum: inout Self, other: Self) {
        sum.blocks += other.blocks
        sum.ticks &+= other.ticks
        sum.guestBytes += other.guestBytes
        sum.lineBytes += other.lineBytes
        sum.stubBytes += other.stubBytes
        sum.links += other.links
        sum.farLinks += other.farLinks
        sum.farCuts += other.farCuts
        sum.invalidations += other.invalidations
        sum.woken += other.woken
        sum.flushes += other.flushes
        for kind in sum.exits.indices { sum.exits[kind] &+= other.exits[kind] }
        sum.escapes &+= other.escapes
        sum.translated &+= other.translated
        sum.interpreted &+= other.interpreted
        sum.entries &+= other.entries
        sum.probes &+= other.probes
        sum.misses &+= other.misses
        sum.fills &+= other.fills
        sum.emptied &+= other.emptied
    }

    /// One line for each subject.
    /// - Parameter frequency: of the time-stamp counter, in Hz.
    func lines(frequency: UInt64) -> [String] {
        let seconds = Double(ticks) / Double(max(frequency, 1))
        let guest = Double(max(guestBytes, 1)), line = Double(lineBytes), stub = Double(stubBytes)
        let all = Double(translated &+ interpreted)
        return [
            "translated: \(blocks) blocks in \(decimal(seconds * 1e3, 1)) ms,"
                + " \(decimal(seconds * 1e6 / Double(max(blocks, 1)), 2)) us each;"
                + " \(guestBytes) bytes became \(lineBytes + stubBytes),"
                + " \(decimal((line + stub) / guest, 2)) times: \(decimal(line / guest, 2)) in line,"
                + " \(decimal(stub / guest, 2)) in stubs",
            "kept: \(links) links made, \(farLinks) to other pages (\(farCuts) cut),"
                + " \(invalidations) blocks invalidated, \(woken) of them woken, emptied \(flushes) times",
            "executed: \(translated) instructions in \(entries) translated blocks,"
                + " \(interpreted) by the interpreter (\(decimal(percent(interpreted, of: all), 2)) %),"
                + " \(escapes) bodies called from blocks",
            "memory: \(probes) probes, \(misses) missed"
                + " (\(decimal(percent(misses, of: Double(probes)), 3)) %); \(fills) TLB fills,"
                + " \(decimal(Double(fills) * 1e6 / max(all, 1), 1)) in a million instructions;"
                + " \(emptied) TLB flushes",
            "exits: " + Self.exitNames.enumerated().map { "\($1) \(exits[$0])" }.joined(separator: ", "),
        ]
    }

    private static let exitNames = [
        "go on", "link", "interpret", "target", "done", "branch", "stale", "split", "far", "here",
    ]

    private func percent(_ part: UInt64, of whole: Double) -> Double {
        whole == 0 ? 0 : Double(part) * 100 / whole
    }

    /// With `digits` decimals, without Foundation.
    private func decimal(_ value: Double, _ digits: Int) -> String {
        var scale: UInt64 = 1
        for _ in 0..<digits { scale *= 10 }
        // Counters of a process do not get near the limit; what would is cut off.
        let scaled = UInt64(min(max(value * Double(scale), 0).rounded(), 9e18))
        let fraction = String(scaled % scale)
        return "\(scaled / scale)." + String(repeating: "0", count: digits - fraction.count) + fraction
    }
}

extension SoftVCPU {
    /// nil when this vCPU does not translate. Only while it is not running.
    var translationStatistics: TranslationStatistics? {
        guard let translations else { return nil }
        var result = translations.statistics
        result.farLinks = translations.farLinks.made
        result.farCuts = translations.farLinks.cuts
        result.escapes = cpu.s.translated.escapeCount
        result.translated = cpu.s.translated.instructionCount
        result.interpreted = cpu.s.instructionCount
        result.entries = cpu.s.translated.blockCount
        result.probes = cpu.s.translated.probeCount
        result.misses = cpu.s.translated.missCount
        result.fills = cpu.s.fillCount
        result.emptied = cpu.s.flushCount
        return result
    }
}
