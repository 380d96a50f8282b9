/// An amount of memory in bytes, as people write it: `512M`, `2G`, or a plain number of MiB.
public struct MemorySize: Hashable, Comparable, Sendable {
    /// Bytes.
    public let bytes: UInt64

    public init(bytes: UInt64) { self.bytes = bytes }

    public static func mebibytes(_ count: UInt64) -> MemorySize { MemorySize(bytes: count << 20) }
    public static func < (left: Self, right: Self) -> Bool { left.bytes < right.bytes }

    /// Reads `text`; `option` names it in the error.
    public init(parsing text: String, option: String) throws(SpecError) {
        let refusal = SpecError(
            "\(option) \(text.quoted) is not a size: write a whole number of MiB, "
                + "or a number with K, M, G or T, such as 512M or 2G.")
        var digits = Substring(text)
        var shift: UInt64 = 20
        if let unit = text.last, let known = Self.shift(of: unit) {
            shift = known
            digits.removeLast()
        }
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            let count = UInt64(digits)
        else { throw refusal }
        let (bytes, overflow) = count.multipliedReportingOverflow(by: 1 << shift)
        guard !overflow else {
            throw SpecError("\(option) \(text) is larger than a 64-bit machine can address.")
        }
        self.bytes = bytes
    }

    private static func shift(of unit: Character) -> UInt64? {
        switch unit {
        case "K", "k": 10
        case "M", "m": 20
        case "G", "g": 30
        case "T", "t": 40
        default: nil
        }
    }
}

extension String {
    /// The text between typographic marks, shortened, and with control characters made visible: user input
    /// inside a sentence of ours.
    var quoted: String {
        var shown = ""
        for scalar in unicodeScalars.prefix(120) {
            shown.unicodeScalars.append(scalar.value < 0x20 || scalar.value == 0x7F ? "\u{FFFD}" : scalar)
        }
        return "'\(shown)'"
    }
}
