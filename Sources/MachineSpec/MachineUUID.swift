/// The identity that firmware tables give the guest (RFC 9562 §4: 16 bytes, text in 8-4-4-4-12 digits).
public struct MachineUUID: Hashable, Sendable, CustomStringConvertible {
    /// Exactly 16 bytes, in text order.
    public let bytes: [UInt8]

    /// nil unless there are 16 bytes.
    public init?(bytes: [UInt8]) {
        guard bytes.count == 16 else { return nil }
        self.bytes = bytes
    }

    public init(parsing text: String) throws(SpecError) {
        let groups = text.split(separator: "-", omittingEmptySubsequences: false)
        guard groups.map(\.utf8.count) == [8, 4, 4, 4, 12] else { throw Self.refusal(text) }
        var bytes: [UInt8] = []
        var high: UInt8?
        for digit in groups.joined().utf8 {
            guard let value = Self.value(of: digit) else { throw Self.refusal(text) }
            if let first = high {
                bytes.append(first << 4 | value)
                high = nil
            } else {
                high = value
            }
        }
        self.bytes = bytes
    }

    /// A random UUID (version 4).
    public static func random() -> MachineUUID {
        var generator = SystemRandomNumberGenerator()
        var bytes = (0..<16).map { _ in UInt8.random(in: 0...255, using: &generator) }
        bytes[6] = bytes[6] & 0x0F | 0x40
        bytes[8] = bytes[8] & 0x3F | 0x80
        return MachineUUID(known: bytes)
    }

    private init(known bytes: [UInt8]) { self.bytes = bytes }

    public var description: String {
        var text = ""
        for (index, byte) in bytes.enumerated() {
            if [4, 6, 8, 10].contains(index) { text += "-" }
            text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        return text
    }

    private static func value(of digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x41...0x46: digit - 0x41 + 10
        case 0x61...0x66: digit - 0x61 + 10
        default: nil
        }
    }

    private static func refusal(_ text: String) -> SpecError {
        SpecError(
            "--uuid \(text.quoted) is not a UUID: write 32 hexadecimal digits in groups, such as "
                + "123e4567-e89b-42d3-a456-426614174000.")
    }
}
