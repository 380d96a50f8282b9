internal import ByteLayout

/// A piece of ACPI Machine Language, encoded (ACPI 6.5 §20.2). Terms are built inside out:
/// `AML.device("RTC", [AML.name("_HID", .eisaID("PNP0B00"))])`.
///
/// Names are ours, so a malformed one is a bug of ours.
struct AML {
    var bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }
    private init(_ opcode: [UInt8], _ parts: [AML]) { bytes = opcode + parts.flatMap(\.bytes) }

    // MARK: Names (§20.2.2)

    /// `path` as ASL writes it: `\_SB.PCI0`, `^ISA`, `_HID`; segments are padded to four with underscores.
    static func path(_ path: String) -> AML {
        var bytes: [UInt8] = []
        var rest = Substring(path)
        while let first = rest.first, first == "\\" || first == "^" {
            bytes.append(first.asciiValue ?? 0)
            rest = rest.dropFirst()
        }
        let segments = rest.split(separator: ".")
        switch segments.count {
        case 0: bytes.append(0)
        case 1: break
        case 2: bytes.append(0x2E)
        default: bytes += [0x2F, UInt8(segments.count)]
        }
        for segment in segments {
            precondition(segment.utf8.count <= 4, "a name segment has four characters")
            bytes += Array(segment.utf8) + [UInt8](repeating: 0x5F, count: 4 - segment.utf8.count)
        }
        return AML(bytes)
    }

    // MARK: Data (§20.2.3)

    static func integer(_ value: some FixedWidthInteger & UnsignedInteger) -> AML {
        let value = UInt64(value)
        var bytes: [UInt8]
        switch value {
        case 0, 1: bytes = [UInt8(value)]
        case 2...0xFF: bytes = [0x0A, UInt8(value)]
        case 0x100...0xFFFF:
            bytes = [0x0B]
            bytes.append(littleEndian: UInt16(value))
        case 0x1_0000...0xFFFF_FFFF:
            bytes = [0x0C]
            bytes.append(littleEndian: UInt32(value))
        default:
            bytes = [0x0E]
            bytes.append(littleEndian: value)
        }
        return AML(bytes)
    }

    static func string(_ text: String) -> AML { AML([0x0D] + Array(text.utf8) + [0]) }

    /// A plug-and-play identifier such as PNP0A08 as a 32-bit integer (§19.3.4).
    static func eisaID(_ id: String) -> AML {
        let text = Array(id.utf8)
        precondition(text.count == 7, "an EISA identifier is three letters and four digits")
        let letters = text[0..<3].reduce(UInt32(0)) { $0 << 5 | UInt32($1 &- 0x40) & 0x1F }
        let digits = UInt32(id.suffix(4), radix: 16) ?? 0
        return .integer((letters << 16 | digits).byteSwapped)
    }

    static func package(_ elements: [AML]) -> AML {
        precondition(elements.count <= 255, "a package with more elements is a VarPackage")
        return .block([0x12], [AML([UInt8(elements.count)])] + elements)
    }

    static func buffer(_ content: [UInt8]) -> AML {
        .block([0x11], [.integer(UInt64(content.count)), AML(content)])
    }

    /// §19.6.142 ToUUID: the first three groups are little-endian.
    static func uuid(_ bytes: [UInt8]) -> AML { .buffer(mixedEndian(uuid: bytes)) }

    // MARK: Objects (§20.2.5)

    static func name(_ path: String, _ value: AML) -> AML { AML([0x08], [.path(path), value]) }
    static func scope(_ path: String, _ terms: [AML]) -> AML { .block([0x10], [.path(path)] + terms) }
    static func device(_ path: String, _ terms: [AML]) -> AML { .block([0x5B, 0x82], [.path(path)] + terms) }

    static func method(_ path: String, arguments: UInt8, serialized: Bool = false, _ terms: [AML]) -> AML {
        precondition(arguments < 8, "a method has at most seven arguments")
        return .block([0x14], [.path(path), AML([arguments | (serialized ? 8 : 0)])] + terms)
    }

    /// A run of I/O ports that fields can be laid over.
    static func portRegion(_ path: String, port: UInt16, length: UInt8) -> AML {
        AML([0x5B, 0x80], [.path(path), AML([0x01]), .integer(port), .integer(length)])
    }

    /// One field that covers the first `bits` of a region, byte access, no lock, preserve.
    static func byteField(region: String, name: String, bits: UInt8) -> AML {
        precondition(bits < 64, "a longer field needs a longer length")
        return .block([0x5B, 0x81], [.path(region), AML([0x01]), .path(name), AML([bits])])
    }

    static func createDWordField(_ source: AML, offset: UInt8, _ name: String) -> AML {
        AML([0x8A], [source, .integer(offset), .path(name)])
    }

    // MARK: Statements and expressions (§20.2.5.3, §20.2.5.4, §20.2.6)

    static func argument(_ index: UInt8) -> AML { AML([0x68 + index]) }
    static func local(_ index: UInt8) -> AML { AML([0x60 + index]) }
    static func store(_ value: AML, _ target: AML) -> AML { AML([0x70], [value, target]) }
    static func and(_ left: AML, _ right: AML, _ target: AML) -> AML { AML([0x7B], [left, right, target]) }
    static func or(_ left: AML, _ right: AML, _ target: AML) -> AML { AML([0x7D], [left, right, target]) }
    static func equal(_ left: AML, _ right: AML) -> AML { AML([0x93], [left, right]) }
    static func not(_ value: AML) -> AML { AML([0x92], [value]) }
    static func `return`(_ value: AML) -> AML { AML([0xA4], [value]) }
    static func `if`(_ condition: AML, _ terms: [AML]) -> AML { .block([0xA0], [condition] + terms) }
    static func `else`(_ terms: [AML]) -> AML { .block([0xA1], terms) }

    // MARK: Package length (§20.2.4)

    private static func block(_ opcode: [UInt8], _ parts: [AML]) -> AML {
        let content = parts.flatMap(\.bytes)
        return AML(opcode + packageLength(content.count) + content)
    }

    /// The encoding of a length that counts its own bytes.
    static func packageLength(_ content: Int) -> [UInt8] {
        if content + 1 <= 0x3F { return [UInt8(content + 1)] }
        for extra in 1...3 {
            let total = content + 1 + extra
            guard total < 1 << (4 + 8 * extra) else { continue }
            return [UInt8(extra << 6 | total & 0xF)]
                + (0..<extra).map { UInt8(truncatingIfNeeded: total >> (4 + 8 * $0)) }
        }
        preconditionFailure("a package is shorter than 256 MiB")
    }
}

/// A UUID as tables store it: the first three groups of the written form little-endian (SMBIOS 3.6 §7.2.1).
func mixedEndian(uuid: [UInt8]) -> [UInt8] {
    precondition(uuid.count == 16, "a UUID has 16 bytes")
    return [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map { uuid[$0] }
}
