/// Writes any `Encodable` value as saved state (see `StateFormat`).
///
/// The order of a dictionary's entries is that of the dictionary: equal values need not give equal bytes.
public struct StateEncoder: Sendable {
    public init() {}

    /// The sealed bytes of `value`.
    /// - Throws: for what the format cannot hold: integers of more than 64 bits, keys of more than 65,535
    ///   bytes.
    public func encode<T: Encodable>(_ value: T) throws(StateError) -> [UInt8] {
        let node = StateNode()
        do {
            try node.encode(value, [])
            var bytes: [UInt8] = []
            try node.write(to: &bytes, [])
            return StateFormat.seal(bytes)
        } catch let error as StateError {
            throw error
        } catch EncodingError.invalidValue(_, let context) {
            throw StateError(context.codingPath, .mismatch(context.debugDescription))
        } catch {
            throw StateError(reason: .mismatch("\(error)"))
        }
    }
}

/// A value under construction. Containers are filled after they were handed out, so it is a reference.
private final class StateNode {
    enum Content {
        /// Nothing was encoded: an empty record, as a type without fields gives.
        case empty
        /// A complete value with its tag.
        case scalar([UInt8])
        case list([StateNode])
        case record([(key: String, value: StateNode)])
    }
    var content = Content.empty

    func append() -> StateNode {
        let node = StateNode()
        if case .list(var items) = content {
            content = .empty  // so that `items` is the only reference
            items.append(node)
            content = .list(items)
        } else {
            content = .list([node])
        }
        return node
    }

    func member(_ key: any CodingKey) -> StateNode {
        let node = StateNode()
        guard case .record(var members) = content else {
            content = .record([(key.stringValue, node)])
            return node
        }
        content = .empty
        if let index = members.firstIndex(where: { $0.key == key.stringValue }) {
            members[index].value = node
        } else {
            members.append((key.stringValue, node))
        }
        content = .record(members)
        return node
    }

    var count: Int {
        if case .list(let items) = content { return items.count }
        return 0
    }

    func encode<T: Encodable>(_ value: T, _ path: [any CodingKey]) throws {
        switch value {
        case let value as Bool: content = .scalar([value ? StateFormat.Tag.yes : StateFormat.Tag.no])
        case let value as String: content = .scalar(Self.counted(StateFormat.Tag.text, Array(value.utf8)))
        case let value as Double:
            content = .scalar([StateFormat.Tag.double] + Self.bytes(value.bitPattern, 8))
        case let value as Float:
            content = .scalar([StateFormat.Tag.float] + Self.bytes(UInt64(value.bitPattern), 4))
        case let value as any FixedWidthInteger: content = .scalar(try Self.integer(value, path))
        default:
            // By type, not by cast: an empty array of anything casts to bytes.
            if T.self == [UInt8].self, let bytes = value as? [UInt8] {
                content = .scalar(Self.counted(StateFormat.Tag.bytes, bytes))
            } else {
                try value.encode(to: NodeEncoder(node: self, codingPath: path))
            }
        }
    }

    private static func bytes(_ value: UInt64, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
    }

    private static func counted(_ tag: UInt8, _ content: [UInt8]) -> [UInt8] {
        [tag] + bytes(UInt64(content.count), 4) + content
    }

    private static func integer(_ value: some FixedWidthInteger, _ path: [any CodingKey]) throws -> [UInt8] {
        if let value = UInt64(exactly: value) {
            let (code, size) =
                value <= 0xFF ? (0, 1) : value <= 0xFFFF ? (1, 2) : value <= 0xFFFF_FFFF ? (2, 4) : (3, 8)
            return [StateFormat.Tag.unsigned + UInt8(code)] + bytes(value, size)
        }
        guard let value = Int64(exactly: value) else {
            throw StateError(path, .mismatch("an integer of more than 64 bits"))
        }
        let (code, size) =
            Int8(exactly: value) != nil
            ? (0, 1) : Int16(exactly: value) != nil ? (1, 2) : Int32(exactly: value) != nil ? (2, 4) : (3, 8)
        return [StateFormat.Tag.negative + UInt8(code)] + bytes(UInt64(bitPattern: value), size)
    }

    /// Appends the finished value.
    func write(to output: inout [UInt8], _ path: [any CodingKey]) throws(StateError) {
        switch content {
        case .scalar(let bytes): output += bytes
        case .empty: output += [StateFormat.Tag.record, 4, 0, 0, 0, 0, 0, 0, 0]
        case .list(let items):
            let start = Self.open(StateFormat.Tag.list, items.count, &output)
            for (index, item) in items.enumerated() {
                try item.write(to: &output, path + [StateKey(intValue: index)])
            }
            try Self.close(start, &output, path)
        case .record(let members):
            let start = Self.open(StateFormat.Tag.record, members.count, &output)
            for member in members {
                let key = Array(member.key.utf8)
                let inner = path + [StateKey(stringValue: member.key)]
                guard key.count <= 0xFFFF else {
                    throw StateError(path, .mismatch("a key of \(key.count) bytes"))
                }
                output += Self.bytes(UInt64(key.count), 2)
                output += key
                try member.value.write(to: &output, inner)
            }
            try Self.close(start, &output, path)
        }
    }

    /// Starts a container; returns where its size goes.
    private static func open(_ tag: UInt8, _ count: Int, _ output: inout [UInt8]) -> Int {
        output.append(tag)
        let start = output.count
        output += [0, 0, 0, 0]
        output += bytes(UInt64(count), 4)
        return start
    }

    private static func close(_ start: Int, _ output: inout [UInt8], _ path: [any CodingKey])
        throws(StateError)
    {
        guard let size = UInt32(exactly: output.count - start - 4) else {
            throw StateError(path, .mismatch("more than 4 GiB in one container"))
        }
        for index in 0..<4 { output[start + index] = UInt8(truncatingIfNeeded: size >> UInt32(index * 8)) }
    }
}

private struct NodeEncoder: Encoder {
    let node: StateNode
    let codingPath: [any CodingKey]
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedEncodingContainer<Key> {
        KeyedEncodingContainer(RecordWriter(node: node, codingPath: codingPath))
    }
    func unkeyedContainer() -> any UnkeyedEncodingContainer {
        ListWriter(node: node, codingPath: codingPath)
    }
    func singleValueContainer() -> any SingleValueEncodingContainer {
        ScalarWriter(node: node, codingPath: codingPath)
    }
}

private struct ScalarWriter: SingleValueEncodingContainer {
    let node: StateNode
    let codingPath: [any CodingKey]
    func encodeNil() { node.content = .scalar([StateFormat.Tag.null]) }
    func encode<T: Encodable>(_ value: T) throws { try node.encode(value, codingPath) }
}

private struct RecordWriter<Key: CodingKey>: KeyedEncodingContainerProtocol {
    let node: StateNode
    let codingPath: [any CodingKey]

    init(node: StateNode, codingPath: [any CodingKey]) {
        self.node = node
        self.codingPath = codingPath
        if case .empty = node.content { node.content = .record([]) }
    }
    func encodeNil(forKey key: Key) { node.member(key).content = .scalar([StateFormat.Tag.null]) }
    func encode<T: Encodable>(_ value: T, forKey key: Key) throws {
        try node.member(key).encode(value, codingPath + [key])
    }
    func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type, forKey key: Key)
        -> KeyedEncodingContainer<Nested>
    {
        KeyedEncodingContainer(RecordWriter<Nested>(node: node.member(key), codingPath: codingPath + [key]))
    }
    func nestedUnkeyedContainer(forKey key: Key) -> any UnkeyedEncodingContainer {
        ListWriter(node: node.member(key), codingPath: codingPath + [key])
    }
    func superEncoder() -> any Encoder {
        NodeEncoder(node: node.member(StateKey.parent), codingPath: codingPath + [StateKey.parent])
    }
    func superEncoder(forKey key: Key) -> any Encoder {
        NodeEncoder(node: node.member(key), codingPath: codingPath + [key])
    }
}

private struct ListWriter: UnkeyedEncodingContainer {
    let node: StateNode
    let codingPath: [any CodingKey]
    var count: Int { node.count }

    init(node: StateNode, codingPath: [any CodingKey]) {
        self.node = node
        self.codingPath = codingPath
        if case .empty = node.content { node.content = .list([]) }
    }
    private var nextPath: [any CodingKey] { codingPath + [StateKey(intValue: node.count)] }
    func encodeNil() { node.append().content = .scalar([StateFormat.Tag.null]) }
    func encode<T: Encodable>(_ value: T) throws {
        let path = nextPath
        try node.append().encode(value, path)
    }
    func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type) -> KeyedEncodingContainer<Nested> {
        let path = nextPath
        return KeyedEncodingContainer(RecordWriter<Nested>(node: node.append(), codingPath: path))
    }
    func nestedUnkeyedContainer() -> any UnkeyedEncodingContainer {
        let path = nextPath
        return ListWriter(node: node.append(), codingPath: path)
    }
    func superEncoder() -> any Encoder {
        let path = nextPath
        return NodeEncoder(node: node.append(), codingPath: path)
    }
}
