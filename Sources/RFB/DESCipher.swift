/// The Data Encryption Standard (FIPS 46-3), one block: what VNC's password asks for. It protects little:
/// passwords have 56 bits, and nothing else of the connection is encrypted.
struct DESCipher {
    private let roundKeys: [UInt64]

    /// - Parameter key: eight bytes, whose lowest bits are not used.
    init(key: [UInt8]) {
        precondition(key.count == 8, "a key of DES has eight bytes")
        let word = key.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let permuted = Self.permute(word, 64, Self.keyChoice1)
        var left = permuted >> 28, right = permuted & 0xFFF_FFFF
        var keys: [UInt64] = []
        for shift in Self.rotations {
            left = (left << shift | left >> (28 - shift)) & 0xFFF_FFFF
            right = (right << shift | right >> (28 - shift)) & 0xFFF_FFFF
            keys.append(Self.permute(left << 28 | right, 56, Self.keyChoice2))
        }
        roundKeys = keys
    }

    /// Encrypts eight bytes.
    func encrypt(_ block: [UInt8]) -> [UInt8] {
        precondition(block.count == 8, "a block of DES has eight bytes")
        let word = Self.permute(block.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }, 64, Self.initial)
        var left = word >> 32, right = word & 0xFFFF_FFFF
        for key in roundKeys {
            let mixed = Self.permute(right, 32, Self.expansion) ^ key
            var output: UInt64 = 0
            for box in 0..<8 {
                let six = Int(mixed >> UInt64(42 - 6 * box) & 0x3F)
                // The outer bits choose the row, the inner ones the column.
                let row = (six >> 4 & 2) | (six & 1), column = six >> 1 & 0xF
                output = output << 4 | UInt64(Self.boxes[box][row * 16 + column])
            }
            (left, right) = (right, left ^ Self.permute(output, 32, Self.mixing))
        }
        let result = Self.permute(right << 32 | left, 64, Self.final)
        return (0..<8).map { UInt8(truncatingIfNeeded: result >> UInt64(56 - 8 * $0)) }
    }

    /// Bit numbers count from 1 at the high end of `width` bits, as the standard counts.
    private static func permute(_ word: UInt64, _ width: UInt64, _ table: [UInt8]) -> UInt64 {
        table.reduce(0) { $0 << 1 | (word >> (width - UInt64($1)) & 1) }
    }

    private static let initial: [UInt8] = (0..<64).map { (place: Int) -> UInt8 in
        let row = place / 8, column = place % 8
        let first = row < 4 ? 58 + 2 * row : 49 + 2 * row
        return UInt8(first - 8 * column)
    }
    private static let final: [UInt8] = {
        var table = [UInt8](repeating: 0, count: 64)
        for (place, source) in initial.enumerated() { table[Int(source) - 1] = UInt8(place + 1) }
        return table
    }()
    private static let expansion: [UInt8] = (0..<48).map { (place: Int) -> UInt8 in
        let bit = place / 6 * 4 + place % 6 + 31
        return UInt8(bit % 32 + 1)
    }
    private static let rotations: [UInt64] = [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1]

    // swift-format-ignore
    private static let mixing: [UInt8] = [
        16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10,
        2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25,
    ]
    // swift-format-ignore
    private static let keyChoice1: [UInt8] = [
        57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18,
        10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
        63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22,
        14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4,
    ]
    // swift-format-ignore
    private static let keyChoice2: [UInt8] = [
        14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2,
        41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
    ]
    // swift-format-ignore
    private static let boxes: [[UInt8]] = [
        [
            14, 4, 13, 1, 2, 15, 11, 8, 3, 10, 6, 12, 5, 9, 0, 7,
            0, 15, 7, 4, 14, 2, 13, 1, 10, 6, 12, 11, 9, 5, 3, 8,
            4, 1, 14, 8, 13, 6, 2, 11, 15, 12, 9, 7, 3, 10, 5, 0,
            15, 12, 8, 2, 4, 9, 1, 7, 5, 11, 3, 14, 10, 0, 6, 13,
        ],
        [
            15, 1, 8, 14, 6, 11, 3, 4, 9, 7, 2, 13, 12, 0, 5, 10,
            3, 13, 4, 7, 15, 2, 8, 14, 12, 0, 1, 10, 6, 9, 11, 5,
            0, 14, 7, 11, 10, 4, 13, 1, 5, 8, 12, 6, 9, 3, 2, 15,
            13, 8, 10, 1, 3, 15, 4, 2, 11, 6, 7, 12, 0, 5, 14, 9,
        ],
        [
            10, 0, 9, 14, 6, 3, 15, 5, 1, 13, 12, 7, 11, 4, 2, 8,
            13, 7, 0, 9, 3, 4, 6, 10, 2, 8, 5, 14, 12, 11, 15, 1,
            13, 6, 4, 9, 8, 15, 3, 0, 11, 1, 2, 12, 5, 10, 14, 7,
            1, 10, 13, 0, 6, 9, 8, 7, 4, 15, 14, 3, 11, 5, 2, 12,
        ],
        [
            7, 13, 14, 3, 0, 6, 9, 10, 1, 2, 8, 5, 11, 12, 4, 15,
            13, 8, 11, 5, 6, 15, 0, 3, 4, 7, 2, 12, 1, 10, 14, 9,
            10, 6, 9, 0, 12, 11, 7, 13, 15, 1, 3, 14, 5, 2, 8, 4,
            3, 15, 0, 6, 10, 1, 13, 8, 9, 4, 5, 11, 12, 7, 2, 14,
        ],
        [
            2, 12, 4, 1, 7, 10, 11, 6, 8, 5, 3, 15, 13, 0, 14, 9,
            14, 11, 2, 12, 4, 7, 13, 1, 5, 0, 15, 10, 3, 9, 8, 6,
            4, 2, 1, 11, 10, 13, 7, 8, 15, 9, 12, 5, 6, 3, 0, 14,
            11, 8, 12, 7, 1, 14, 2, 13, 6, 15, 0, 9, 10, 4, 5, 3,
        ],
        [
            12, 1, 10, 15, 9, 2, 6, 8, 0, 13, 3, 4, 14, 7, 5, 11,
            10, 15, 4, 2, 7, 12, 9, 5, 6, 1, 13, 14, 0, 11, 3, 8,
            9, 14, 15, 5, 2, 8, 12, 3, 7, 0, 4, 10, 1, 13, 11, 6,
            4, 3, 2, 12, 9, 5, 15, 10, 11, 14, 1, 7, 6, 0, 8, 13,
        ],
        [
            4, 11, 2, 14, 15, 0, 8, 13, 3, 12, 9, 7, 5, 10, 6, 1,
            13, 0, 11, 7, 4, 9, 1, 10, 14, 3, 5, 12, 2, 15, 8, 6,
            1, 4, 11, 13, 12, 3, 7, 14, 10, 15, 6, 8, 0, 5, 9, 2,
            6, 11, 13, 8, 1, 4, 10, 7, 9, 5, 0, 15, 14, 2, 3, 12,
        ],
        [
            13, 2, 8, 4, 6, 15, 11, 1, 10, 9, 3, 14, 5, 0, 12, 7,
            1, 15, 13, 8, 10, 3, 7, 4, 12, 5, 6, 11, 0, 14, 9, 2,
            7, 11, 4, 1, 9, 12, 14, 2, 0, 6, 10, 13, 15, 3, 5, 8,
            2, 1, 14, 7, 4, 10, 8, 13, 15, 12, 9, 0, 3, 5, 6, 11,
        ],
    ]
}

/// VNC's password (RFC 6143 §7.2.2): the viewer encrypts sixteen bytes with it.
public struct VNCPassword: Sendable {
    private let key: [UInt8]

    /// Only the first eight bytes count; each with its bits in reverse.
    public init(_ text: [UInt8]) {
        let bytes = Array(text.prefix(8)) + [UInt8](repeating: 0, count: max(0, 8 - text.count))
        key = bytes.map { byte in (0..<8).reduce(UInt8(0)) { $0 << 1 | (byte >> UInt8($1) & 1) } }
    }

    /// What a viewer that knows the password answers to sixteen bytes.
    public func response(to challenge: [UInt8]) -> [UInt8] {
        let cipher = DESCipher(key: key)
        return cipher.encrypt(Array(challenge.prefix(8))) + cipher.encrypt(Array(challenge.suffix(8)))
    }

    /// Takes as long for a wrong answer as for a right one.
    func accepts(_ response: ArraySlice<UInt8>, to challenge: [UInt8]) -> Bool {
        let expected = self.response(to: challenge)
        guard response.count == expected.count else { return false }
        return zip(expected, response).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
    }
}
