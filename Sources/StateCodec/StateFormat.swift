/// The binary format of saved state. All integers are little-endian.
///
/// ```
/// file    = magic "OSPS" | version u16 | reserved u16 = 0 | value | CRC-32C u32 of all before
/// value   = tag u8 ...
///   0x00 null       0x01 false      0x02 true
///   0x10..0x13 unsigned integer of 1, 2, 4, 8 bytes, the fewest that hold it
///   0x14..0x17 negative integer of 1, 2, 4, 8 bytes, two's complement
///   0x20 float: 4 bytes      0x21 double: 8 bytes
///   0x30 text: count u32, UTF-8      0x31 bytes: count u32, bytes
///   0x40 list: size u32, count u32, values      0x50 record: size u32, count u32, members
/// member  = key size u16 | key in UTF-8 | value
/// ```
/// `size` is in bytes from after itself to the end of the container, so that readers skip what they do not
/// know. Fields are found by name: an older reader ignores new ones, a newer reader sees old ones missing.
public enum StateFormat {
    public static let version: UInt16 = 1
    static let magic: [UInt8] = [0x4F, 0x53, 0x50, 0x53]
    static let headerSize = 8
    static let checksumSize = 4

    enum Tag {
        static let null: UInt8 = 0x00, no: UInt8 = 0x01, yes: UInt8 = 0x02
        static let unsigned: UInt8 = 0x10, negative: UInt8 = 0x14
        static let float: UInt8 = 0x20, double: UInt8 = 0x21
        static let text: UInt8 = 0x30, bytes: UInt8 = 0x31
        static let list: UInt8 = 0x40, record: UInt8 = 0x50
    }

    /// `value` between a header and a checksum.
    static func seal(_ value: [UInt8]) -> [UInt8] {
        var file = magic
        file.append(UInt8(truncatingIfNeeded: version))
        file.append(UInt8(truncatingIfNeeded: version >> 8))
        file += [0, 0]
        file += value
        let sum = CRC32C.checksum(file[...])
        for shift in [0, 8, 16, 24] as [UInt32] { file.append(UInt8(truncatingIfNeeded: sum >> shift)) }
        return file
    }

    /// The bytes of the value in `file`, after its header and checksum were found right.
    static func open(_ file: [UInt8]) throws(StateError) -> Range<Int> {
        guard file.count > headerSize + checksumSize else { throw StateError(reason: .truncated) }
        guard Array(file[0..<4]) == magic else { throw StateError(reason: .notSavedState) }
        let version = UInt16(file[4]) | UInt16(file[5]) << 8
        guard version == Self.version, file[6] == 0, file[7] == 0 else {
            throw StateError(reason: .unknownVersion(version))
        }
        let end = file.count - checksumSize
        var expected: UInt32 = 0
        for byte in file[end...].reversed() { expected = expected << 8 | UInt32(byte) }
        guard CRC32C.checksum(file[..<end]) == expected else { throw StateError(reason: .checksum) }
        return headerSize..<end
    }
}

/// Why a value could not be saved or a saved state not be read, and where in it.
public struct StateError: Error, Equatable, Sendable, CustomStringConvertible {
    public enum Reason: Equatable, Sendable {
        case truncated, notSavedState, checksum, tooDeep, missing, trailingBytes
        case unknownVersion(UInt16)
        /// The bytes are not what the format allows here.
        case malformed(String)
        /// The bytes are well formed, but not what the reader wants here.
        case mismatch(String)
    }
    /// Field names and list positions from the outermost: "devices.pit.channels.2.count".
    public let path: String
    public let reason: Reason

    public init(path: String = "", reason: Reason) {
        self.path = path
        self.reason = reason
    }

    init(_ path: [any CodingKey], _ reason: Reason) {
        self.init(
            path: path.map { $0.intValue.map(String.init) ?? $0.stringValue }.joined(separator: "."),
            reason: reason)
    }

    public var description: String {
        let place = path.isEmpty ? "" : " at \(path)"
        switch reason {
        case .truncated: return "saved state ends too early\(place)"
        case .notSavedState: return "this is no saved state"
        case .checksum: return "saved state is damaged: its checksum does not match"
        case .tooDeep: return "saved state is nested too deeply\(place)"
        case .missing: return "saved state lacks a field\(place)"
        case .trailingBytes: return "saved state has bytes after its end"
        case .unknownVersion(let version): return "saved state has the unknown format version \(version)"
        case .malformed(let what): return "saved state is malformed\(place): \(what)"
        case .mismatch(let what): return "saved state does not fit\(place): \(what)"
        }
    }
}

/// The Castagnoli checksum (RFC 3720 appendix B.4): reflected, initial and final value all ones.
public enum CRC32C {
    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 0 ? value >> 1 : value >> 1 ^ 0x82F6_3B78 }
    }

    public static func checksum(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        let table = table
        var value = ~UInt32(0)
        for byte in bytes { value = value >> 8 ^ table[Int(UInt8(truncatingIfNeeded: value) ^ byte)] }
        return ~value
    }
}

/// A field name or a position.
struct StateKey: CodingKey {
    let stringValue: String
    let intValue: Int?
    init(stringValue: String) {
        self.stringValue = stringValue
        intValue = nil
    }
    init(intValue: Int) {
        stringValue = String(intValue)
        self.intValue = intValue
    }
    static let parent = StateKey(stringValue: "super")
}
