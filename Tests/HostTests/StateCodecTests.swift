@testable import StateCodec
import Testing

private struct Inner: Codable, Equatable {
    var name: String
    var count: UInt16
    var next: [Inner]
}
private enum Choice: Codable, Equatable {
    case nothing
    case number(Int)
    case pair(first: UInt8, second: String?)
}
private enum Mode: UInt8, Codable { case off, on }
private struct Flags: OptionSet, Codable, Hashable { let rawValue: UInt32 }

private struct Everything: Codable, Equatable {
    var truth = true
    var small: Int8 = -128
    var medium: Int32 = .min
    var large: Int64 = .min
    var unsigned: UInt64 = .max
    var single: Float = 1.5
    var double: Double = -0.1
    var text = "gr\u{FC}n \u{1F40C}"
    var bytes: [UInt8] = Array(0...255)
    var words: [UInt64] = [0, 255, 256, 65536, 1 << 32, .max]
    var nobody: Int?
    var somebody: Int? = 7
    var inners = [Inner(name: "a", count: 1, next: [Inner(name: "", count: 0, next: [])])]
    var byName: [String: Int] = ["x": 1, "y": -1]
    var byNumber: [UInt32: UInt64] = [0xC000_0080: 0x500, 1: 2]
    var choices: [Choice] = [
        .nothing, .number(-3), .pair(first: 9, second: nil), .pair(first: 1, second: "z"),
    ]
    var mode = Mode.on
    var flags = Flags(rawValue: 5)
    var empty: [Int] = []
    var holes: [Int?] = [1, nil, 3]
}
private struct Older: Codable, Equatable { var a = 1, b = "two" }
private struct Newer: Codable, Equatable {
    var a = 1, b = "two", c: Int? = nil, d: [Int]? = nil
}
private indirect enum Tower: Codable {
    case floor
    case level(Tower)
}
private class Animal: Codable { var legs = 4 }
private final class Dog: Animal {
    var name = "Rex"
    private enum Keys: CodingKey { case name }
    override init() { super.init() }
    required init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Keys.self)
        name = try container.decode(String.self, forKey: .name)
        try super.init(from: container.superDecoder())
    }
    override func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(name, forKey: .name)
        try super.encode(to: container.superEncoder())
    }
}

@Suite struct StateCodecTests {
    private func file(_ value: [UInt8]) -> [UInt8] { StateFormat.seal(value) }

    private func failure<T: Decodable>(_ type: T.Type, _ bytes: [UInt8]) -> StateError? {
        do throws(StateError) {
            _ = try StateDecoder().decode(type, from: bytes)
            return nil
        } catch {
            return error
        }
    }

    @Test func `every kind of value survives`() throws {
        let bytes = try StateEncoder().encode(Everything())
        #expect(try StateDecoder().decode(Everything.self, from: bytes) == Everything())
    }

    @Test func `scalars, lists and classes survive at the top`() throws {
        #expect(try StateDecoder().decode(Int.self, from: StateEncoder().encode(-7)) == -7)
        #expect(
            try StateDecoder().decode([Bool].self, from: StateEncoder().encode([true, false])) == [
                true, false,
            ])
        #expect(try StateDecoder().decode(Int?.self, from: StateEncoder().encode(nil as Int?)) == nil)
        let dog = Dog()
        dog.legs = 3
        dog.name = "Ina"
        let copy = try StateDecoder().decode(Dog.self, from: StateEncoder().encode(dog))
        #expect(copy.legs == 3 && copy.name == "Ina")
    }

    @Test func `new optional fields are absent in old files and ignored by old readers`() throws {
        let old = try StateEncoder().encode(Older())
        #expect(try StateDecoder().decode(Newer.self, from: old) == Newer())
        let new = try StateEncoder().encode(Newer(c: 5, d: [1, 2]))
        #expect(try StateDecoder().decode(Older.self, from: new) == Older())
    }

    @Test func `the checksum is CRC-32C`() {
        #expect(CRC32C.checksum(Array("123456789".utf8)[...]) == 0xE306_9283)
        #expect(CRC32C.checksum([]) == 0)
    }

    @Test func `the layout is the documented one`() throws {
        let bytes = try StateEncoder().encode(["a": 300])
        #expect(
            bytes.dropLast(4) == [
                0x4F, 0x53, 0x50, 0x53, 1, 0, 0, 0, 0x50, 10, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x61, 0x11, 0x2C, 1,
            ])
    }

    @Test func `a file cut anywhere, or with any bit flipped, is refused`() throws {
        let bytes = try StateEncoder().encode(Everything())
        for count in 0..<bytes.count { #expect(failure(Everything.self, Array(bytes[..<count])) != nil) }
        for bit in 0..<bytes.count * 8 {
            var damaged = bytes
            damaged[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(failure(Everything.self, damaged) != nil)
        }
    }

    @Test func `a value cut anywhere under a right checksum is refused`() throws {
        let value = Array(try StateEncoder().encode(Everything()).dropFirst(8).dropLast(4))
        for count in 0..<value.count {
            #expect(failure(Everything.self, file(Array(value[..<count]))) != nil)
        }
        #expect(failure(Everything.self, file(value + [0]))?.reason == .trailingBytes)
    }

    @Test func `two hundred thousand damaged files with right checksums never trap`() throws {
        let value = Array(try StateEncoder().encode(Everything()).dropFirst(8).dropLast(4))
        var random = SeededGenerator(seed: 0x0511_7E57)
        var refused = 0
        for _ in 0..<200_000 {
            var damaged = value
            for _ in 0...Int.random(in: 0..<4, using: &random) {
                let index = Int.random(in: 0..<damaged.count, using: &random)
                switch Int.random(in: 0..<6, using: &random) {
                case 0: damaged[index] = UInt8.random(in: 0...255, using: &random)
                case 1: damaged[index] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 2:
                    damaged[index] = [0, 1, 0x10, 0x17, 0x40, 0x50, 0x7F, 0x80, 0xFF].randomElement(
                        using: &random)!
                case 3 where damaged.count > 1: damaged.remove(at: index)
                case 4: damaged.insert(UInt8.random(in: 0...255, using: &random), at: index)
                default: for byte in index..<min(index + 4, damaged.count) { damaged[byte] = 0xFF }
                }
            }
            if failure(Everything.self, file(damaged)) != nil { refused += 1 }
        }
        // Most damage changes structure; some only changes a number, which is for the device to check.
        #expect(refused > 100_000 && refused < 200_000)
    }

    @Test func `nesting is limited on both sides of the limit`() throws {
        func tower(_ height: Int) throws -> [UInt8] {
            var tower = Tower.floor
            for _ in 0..<height { tower = .level(tower) }
            return try StateEncoder().encode(tower)
        }
        #expect(failure(Tower.self, try tower(20)) == nil)
        #expect(failure(Tower.self, try tower(200))?.reason == .tooDeep)
    }

    @Test func `a count beyond the content and a field given twice are malformed`() {
        let list: [UInt8] = [0x40, 6, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0x7F, 0x10, 1]
        guard case .malformed? = failure([Int].self, file(list))?.reason else {
            Issue.record("accepted a count of two thousand million")
            return
        }
        let record: [UInt8] = [0x50, 14, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0x61, 0x10, 1, 1, 0, 0x61, 0x10, 2]
        guard case .malformed? = failure([String: Int].self, file(record))?.reason else {
            Issue.record("accepted a field twice")
            return
        }
    }

    @Test func `an error names the place and the reason`() throws {
        struct Good: Encodable { var list = [Inner(name: "a", count: 1, next: [])], x = 1 }
        struct Bad: Decodable { struct Item: Decodable { var name: Int }; var list: [Item] }
        struct Lacking: Decodable { struct Item: Decodable { var nobody: Int }; var list: [Item] }
        struct Narrow: Decodable { var x: Bool }
        let bytes = try StateEncoder().encode(Good())
        #expect(
            failure(Bad.self, bytes) == StateError(path: "list.0.name", reason: .mismatch("not an integer")))
        #expect(failure(Lacking.self, bytes) == StateError(path: "list.0.nobody", reason: .missing))
        #expect(failure(Narrow.self, bytes)?.path == "x")
        let large = try StateEncoder().encode(["x": 300])
        #expect(failure([String: UInt8].self, large)?.path == "x")
    }

    @Test func `foreign files are told apart from damaged ones`() throws {
        var bytes = try StateEncoder().encode(1)
        bytes[0] = 0x58
        #expect(failure(Int.self, bytes)?.reason == .notSavedState)
        bytes = try StateEncoder().encode(1)
        bytes[4] = 9
        #expect(failure(Int.self, bytes)?.reason == .unknownVersion(9))
        #expect(failure(Int.self, [])?.reason == .truncated)
    }
}

/// SplitMix64: the same numbers on every run.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
        return value ^ value >> 31
    }
}
