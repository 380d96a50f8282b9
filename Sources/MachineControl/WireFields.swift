internal import ByteLayout
internal import MachineSpec

/// A frame that breaks the protocol: what is wrong with it. Control peers are trusted with the machine but
/// not with our memory, so every field is checked.
public struct WireError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

/// Appends fields, little-endian, in the order of the format.
struct WireWriter {
    private(set) var bytes: [UInt8] = []

    mutating func put<T: FixedWidthInteger>(_ value: T) { bytes.append(littleEndian: value) }

    /// le32 length in bytes, then UTF-8.
    mutating func put(_ text: String) {
        let utf8 = Array(text.utf8.prefix(Wire.longestText))
        put(UInt32(utf8.count))
        bytes += utf8
    }

    mutating func put(_ index: ResourceIndex?) { put(index?.raw ?? Wire.noResource) }
}

/// Takes fields in the order of the format; never reads past the end.
struct WireReader {
    private let bytes: [UInt8]
    private var offset: Int

    init(_ bytes: [UInt8], from offset: Int = 0) {
        self.bytes = bytes
        self.offset = offset
    }

    mutating func take<T: FixedWidthInteger>(_: T.Type) throws(WireError) -> T {
        guard let value = bytes.load(littleEndian: T.self, at: offset) else {
            throw WireError("a field is cut off at byte \(offset)")
        }
        offset += T.bitWidth / 8
        return value
    }

    mutating func takeText() throws(WireError) -> String {
        let length = Int(try take(UInt32.self))
        guard length <= Wire.longestText, length <= bytes.count - offset else {
            throw WireError("a text of \(length) bytes does not fit")
        }
        guard let text = String(validating: bytes[offset..<offset + length], as: UTF8.self) else {
            throw WireError("a text is not UTF-8")
        }
        offset += length
        return text
    }

    mutating func takeBytes(_ count: Int) throws(WireError) -> [UInt8] {
        guard count >= 0, count <= bytes.count - offset else { throw WireError("\(count) bytes do not fit") }
        defer { offset += count }
        return Array(bytes[offset..<offset + count])
    }

    mutating func takeFlag() throws(WireError) -> Bool {
        switch try take(UInt8.self) {
        case 0: return false
        case 1: return true
        case let other: throw WireError("a flag is \(other)")
        }
    }

    mutating func takeResource() throws(WireError) -> ResourceIndex? {
        let raw = try take(UInt8.self)
        return raw == Wire.noResource ? nil : ResourceIndex(raw)
    }

    mutating func takeRequiredResource() throws(WireError) -> ResourceIndex {
        guard let index = try takeResource() else { throw WireError("a descriptor is missing") }
        return index
    }

    mutating func takeCase<T: RawRepresentable>(of _: T.Type) throws(WireError) -> T
    where T.RawValue == UInt8 {
        let raw = try take(UInt8.self)
        guard let value = T(rawValue: raw) else { throw WireError("\(T.self) has no case \(raw)") }
        return value
    }

    /// A count before a list.
    mutating func takeCount(atMost limit: Int) throws(WireError) -> Int {
        let count = Int(try take(UInt8.self))
        guard count <= limit else { throw WireError("a list of \(count) is longer than \(limit)") }
        return count
    }

    func finish() throws(WireError) {
        guard offset == bytes.count else { throw WireError("\(bytes.count - offset) bytes too many") }
    }
}
