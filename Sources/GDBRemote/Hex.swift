/// Numbers and bytes as gdb writes them.
enum Hex {
    private static let digits = Array("0123456789abcdef".utf8)

    static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    static func text(_ byte: UInt8) -> [UInt8] { [digits[Int(byte >> 4)], digits[Int(byte & 15)]] }

    static func text(_ bytes: some Sequence<UInt8>) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(2 * bytes.underestimatedCount)
        for byte in bytes { result += text(byte) }
        return result
    }

    static func number(_ value: UInt64) -> [UInt8] { Array(String(value, radix: 16).utf8) }

    /// The bytes of an even number of digits; nil for anything else.
    static func bytes(_ text: ArraySlice<UInt8>) -> [UInt8]? {
        guard text.count % 2 == 0 else { return nil }
        var result: [UInt8] = []
        result.reserveCapacity(text.count / 2)
        var high: UInt8?
        for character in text {
            guard let value = digit(character) else { return nil }
            if let first = high {
                result.append(first << 4 | value)
                high = nil
            } else {
                high = value
            }
        }
        return result
    }
}

/// What a packet holds after its command, read from the front.
struct PacketFields {
    private(set) var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    var isAtEnd: Bool { rest.isEmpty }

    /// Goes past `text` when it is next.
    mutating func skip(_ text: StaticString) -> Bool {
        let wanted = Array("\(text)".utf8)
        guard rest.starts(with: wanted) else { return false }
        rest = rest.dropFirst(wanted.count)
        return true
    }

    /// A hexadecimal number of at most 64 bits.
    mutating func number() -> UInt64? {
        var value: UInt64 = 0
        var count = 0
        while let byte = rest.first, let digit = Hex.digit(byte) {
            guard value >> 60 == 0 else { return nil }
            value = value << 4 | UInt64(digit)
            rest = rest.dropFirst()
            count += 1
        }
        return count > 0 ? value : nil
    }

    /// Two numbers with a comma between.
    mutating func pair() -> (UInt64, UInt64)? {
        guard let first = number(), skip(","), let second = number() else { return nil }
        return (first, second)
    }

    mutating func takeAll() -> ArraySlice<UInt8> {
        defer { rest = [] }
        return rest
    }
}
