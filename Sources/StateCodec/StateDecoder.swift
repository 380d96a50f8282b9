/// Reads saved state (see `StateFormat`) that may come from a damaged file or a hostile peer: nothing in it
/// makes the reader trap, recurse without end, or allocate more than a small multiple of the input's size.
public struct StateDecoder: Sendable {
    /// Containers that may be inside each other.
    public static let depthLimit = 64

    public init() {}

    public func decode<T: Decodable>(_ type: T.Type, from file: [UInt8]) throws(StateError) -> T {
        let range = try StateFormat.open(file)
        let source = StateSource(bytes: file, end: range.upperBound)
        do {
            guard try source.end(of: range.lowerBound, []) == range.upperBound else {
                throw StateError(reason: .trailingBytes)
            }
            return try ValueDecoder(source: source, offset: range.lowerBound, codingPath: []).value(type)
        } catch let error as StateError {
            throw error
        } catch let error as DecodingError {
            throw Self.translate(error)
        } catch {
            throw StateError(reason: .mismatch("\(error)"))
        }
    }

    /// The standard library's own types throw its own errors.
    private static func translate(_ error: DecodingError) -> StateError {
        switch error {
        case .typeMismatch(_, let context), .dataCorrupted(let context):
            return StateError(context.codingPath, .mismatch(context.debugDescription))
        case .valueNotFound(_, let context): return StateError(context.codingPath, .missing)
        case .keyNotFound(let key, let context): return StateError(context.codingPath + [key], .missing)
        @unknown default: return StateError(reason: .mismatch("\(error)"))
        }
    }
}

/// The bytes and checked ways to read them. Every offset that comes out of here is at most `end`.
private final class StateSource {
    let bytes: [UInt8]
    let end: Int

    init(bytes: [UInt8], end: Int) {
        self.bytes = bytes
        self.end = end
    }

    func tag(_ offset: Int, _ path: [any CodingKey]) throws(StateError) -> UInt8 {
        guard offset < end else { throw StateError(path, .truncated) }
        return bytes[offset]
    }

    /// A little-endian integer of `size` <= 8 bytes.
    func integer(_ offset: Int, _ size: Int, _ path: [any CodingKey]) throws(StateError) -> UInt64 {
        guard offset <= end - size else { throw StateError(path, .truncated) }
        var value: UInt64 = 0
        for index in (0..<size).reversed() { value = value << 8 | UInt64(bytes[offset + index]) }
        return value
    }

    /// `count` bytes at `offset`, as a range.
    func run(_ offset: Int, _ count: UInt64, _ path: [any CodingKey]) throws(StateError) -> Range<Int> {
        guard offset <= end, count <= UInt64(end - offset) else { throw StateError(path, .truncated) }
        return offset..<(offset + Int(count))
    }

    /// Where the value at `offset` ends.
    func end(of offset: Int, _ path: [any CodingKey]) throws(StateError) -> Int {
        let tag = try tag(offset, path)
        switch tag {
        case StateFormat.Tag.null, StateFormat.Tag.no, StateFormat.Tag.yes: return offset + 1
        case StateFormat.Tag.unsigned...0x17:
            return try run(offset + 1, 1 << UInt64(tag & 3), path).upperBound
        case StateFormat.Tag.float: return try run(offset + 1, 4, path).upperBound
        case StateFormat.Tag.double: return try run(offset + 1, 8, path).upperBound
        case StateFormat.Tag.text, StateFormat.Tag.bytes, StateFormat.Tag.list, StateFormat.Tag.record:
            return try run(offset + 5, integer(offset + 1, 4, path), path).upperBound
        default: throw StateError(path, .malformed("unknown tag \(tag)"))
        }
    }

    /// Count and content of the list or record at `offset`. An element takes at least `least` bytes, so that
    /// the count is never more than the content can hold.
    func container(_ wanted: UInt8, _ offset: Int, least: Int, _ path: [any CodingKey]) throws(StateError)
        -> (count: Int, content: Range<Int>)
    {
        guard try tag(offset, path) == wanted else {
            throw StateError(path, .mismatch(wanted == StateFormat.Tag.list ? "not a list" : "not a record"))
        }
        let whole = try run(offset + 5, integer(offset + 1, 4, path), path)
        guard whole.count >= 4 else { throw StateError(path, .malformed("a container without a count")) }
        let count = try integer(whole.lowerBound, 4, path)
        let content = (whole.lowerBound + 4)..<whole.upperBound
        guard count <= UInt64(content.count / least) else {
            throw StateError(path, .malformed("\(count) elements in \(content.count) bytes"))
        }
        return (Int(count), content)
    }

    func text(_ range: Range<Int>, _ path: [any CodingKey]) throws(StateError) -> String {
        guard let text = String(validating: bytes[range], as: UTF8.self) else {
            throw StateError(path, .malformed("text is not UTF-8"))
        }
        return text
    }
}

/// Reads the value at one offset.
private struct ValueDecoder: Decoder {
    let source: StateSource
    let offset: Int
    let codingPath: [any CodingKey]
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    init(source: StateSource, offset: Int, codingPath: [any CodingKey]) throws(StateError) {
        guard codingPath.count <= StateDecoder.depthLimit else { throw StateError(codingPath, .tooDeep) }
        self.source = source
        self.offset = offset
        self.codingPath = codingPath
    }

    func container<Key: CodingKey>(keyedBy type: Key.Type) throws -> KeyedDecodingContainer<Key> {
        KeyedDecodingContainer(try RecordReader<Key>(source, offset, codingPath))
    }
    func unkeyedContainer() throws -> any UnkeyedDecodingContainer {
        try ListReader(source, offset, codingPath)
    }
    func singleValueContainer() -> any SingleValueDecodingContainer { ScalarReader(decoder: self) }

    var isNull: Bool { (try? source.tag(offset, [])) == StateFormat.Tag.null }

    func value<T: Decodable>(_ type: T.Type) throws -> T {
        let value: Any
        if T.self == Bool.self {
            value = try boolean()
        } else if T.self == String.self {
            value = try source.text(counted(StateFormat.Tag.text, "text"), codingPath)
        } else if T.self == [UInt8].self {
            value = Array(source.bytes[try counted(StateFormat.Tag.bytes, "bytes")])
        } else if T.self == Double.self {
            value = Double(bitPattern: try pattern(StateFormat.Tag.double, 8))
        } else if T.self == Float.self {
            value = Float(bitPattern: UInt32(truncatingIfNeeded: try pattern(StateFormat.Tag.float, 4)))
        } else if let integer = T.self as? any FixedWidthInteger.Type {
            value = try self.integer(integer)
        } else {
            return try T(from: self)
        }
        guard let result = value as? T else { throw StateError(codingPath, .mismatch("not a \(T.self)")) }
        return result
    }

    private func boolean() throws(StateError) -> Bool {
        switch try source.tag(offset, codingPath) {
        case StateFormat.Tag.yes: return true
        case StateFormat.Tag.no: return false
        default: throw StateError(codingPath, .mismatch("not a truth value"))
        }
    }

    private func counted(_ wanted: UInt8, _ name: String) throws(StateError) -> Range<Int> {
        guard try source.tag(offset, codingPath) == wanted else {
            throw StateError(codingPath, .mismatch("not \(name)"))
        }
        return try source.run(offset + 5, source.integer(offset + 1, 4, codingPath), codingPath)
    }

    private func pattern(_ wanted: UInt8, _ size: Int) throws(StateError) -> UInt64 {
        guard try source.tag(offset, codingPath) == wanted else {
            throw StateError(codingPath, .mismatch("not a floating-point number"))
        }
        return try source.integer(offset + 1, size, codingPath)
    }

    private func integer<I: FixedWidthInteger>(_ type: I.Type) throws(StateError) -> I {
        let tag = try source.tag(offset, codingPath)
        guard tag >= StateFormat.Tag.unsigned, tag <= StateFormat.Tag.negative + 3 else {
            throw StateError(codingPath, .mismatch("not an integer"))
        }
        let size = 1 << Int(tag & 3)
        let pattern = try source.integer(offset + 1, size, codingPath)
        if tag < StateFormat.Tag.negative {
            if let value = I(exactly: pattern) { return value }
        } else {
            let shift = UInt64(64 - size * 8)
            if let value = I(exactly: Int64(bitPattern: pattern << shift) >> Int64(shift)) { return value }
        }
        throw StateError(codingPath, .mismatch("an integer that does not fit \(I.self)"))
    }
}

private struct ScalarReader: SingleValueDecodingContainer {
    let decoder: ValueDecoder
    var codingPath: [any CodingKey] { decoder.codingPath }
    func decodeNil() -> Bool { decoder.isNull }
    func decode<T: Decodable>(_ type: T.Type) throws -> T { try decoder.value(type) }
}

private struct RecordReader<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let source: StateSource
    let codingPath: [any CodingKey]
    /// Where each member's value starts.
    let members: [String: Int]

    init(_ source: StateSource, _ offset: Int, _ path: [any CodingKey]) throws(StateError) {
        self.source = source
        codingPath = path
        // A member has at least a key size and a tag.
        let (count, content) = try source.container(StateFormat.Tag.record, offset, least: 3, path)
        var members: [String: Int] = [:]
        var next = content.lowerBound
        for _ in 0..<count {
            let key = try source.run(next + 2, source.integer(next, 2, path), path)
            let end = try source.end(of: key.upperBound, path)
            guard end <= content.upperBound else { throw StateError(path, .truncated) }
            guard members.updateValue(key.upperBound, forKey: try source.text(key, path)) == nil else {
                throw StateError(path, .malformed("a field appears twice"))
            }
            next = end
        }
        guard next == content.upperBound else {
            throw StateError(path, .malformed("bytes after the last field"))
        }
        self.members = members
    }

    var allKeys: [Key] { members.keys.compactMap(Key.init(stringValue:)) }
    func contains(_ key: Key) -> Bool { members[key.stringValue] != nil }

    private func decoder(_ key: any CodingKey) throws(StateError) -> ValueDecoder {
        let path = codingPath + [key]
        guard let offset = members[key.stringValue] else { throw StateError(path, .missing) }
        return try ValueDecoder(source: source, offset: offset, codingPath: path)
    }
    func decodeNil(forKey key: Key) throws -> Bool { try decoder(key).isNull }
    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T { try decoder(key).value(type) }
    func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type, forKey key: Key) throws
        -> KeyedDecodingContainer<Nested>
    { try decoder(key).container(keyedBy: type) }
    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer {
        try decoder(key).unkeyedContainer()
    }
    func superDecoder() throws -> any Decoder { try decoder(StateKey.parent) }
    func superDecoder(forKey key: Key) throws -> any Decoder { try decoder(key) }
}

private struct ListReader: UnkeyedDecodingContainer {
    let source: StateSource
    let codingPath: [any CodingKey]
    let count: Int?
    private(set) var currentIndex = 0
    private let total: Int
    private let end: Int
    private var next: Int

    init(_ source: StateSource, _ offset: Int, _ path: [any CodingKey]) throws(StateError) {
        self.source = source
        codingPath = path
        let (count, content) = try source.container(StateFormat.Tag.list, offset, least: 1, path)
        self.count = count
        total = count
        next = content.lowerBound
        end = content.upperBound
        if count == 0, !content.isEmpty { throw StateError(path, .malformed("bytes after the last element")) }
    }

    var isAtEnd: Bool { currentIndex >= total }

    /// Decodes the next element with `body` and moves past it.
    private mutating func take<T>(_ body: (ValueDecoder) throws -> T) throws -> T {
        let path = codingPath + [StateKey(intValue: currentIndex)]
        guard !isAtEnd else { throw StateError(path, .missing) }
        let after = try source.end(of: next, path)
        guard after <= end, currentIndex + 1 < total || after == end else {
            throw StateError(path, .malformed("an element leaves its list"))
        }
        let result = try body(try ValueDecoder(source: source, offset: next, codingPath: path))
        next = after
        currentIndex += 1
        return result
    }

    mutating func decodeNil() throws -> Bool {
        guard !isAtEnd else { throw StateError(codingPath, .missing) }
        guard next < end, try source.tag(next, codingPath) == StateFormat.Tag.null else { return false }
        return try take { $0.isNull }
    }
    mutating func decode<T: Decodable>(_ type: T.Type) throws -> T { try take { try $0.value(type) } }
    mutating func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type) throws
        -> KeyedDecodingContainer<Nested>
    { try take { try $0.container(keyedBy: type) } }
    mutating func nestedUnkeyedContainer() throws -> any UnkeyedDecodingContainer {
        try take { try $0.unkeyedContainer() }
    }
    mutating func superDecoder() throws -> any Decoder { try take { $0 } }
}
