/// A hardware address of Ethernet (IEEE 802), of one station.
public struct HardwareAddress: Hashable, Sendable, CustomStringConvertible {
    /// Exactly 6.
    public let bytes: [UInt8]

    /// Nil unless there are six bytes and they name one station: not a group, and not zero.
    public init?(bytes: [UInt8]) {
        guard bytes.count == 6, bytes[0] & 1 == 0, bytes.contains(where: { $0 != 0 }) else { return nil }
        self.bytes = bytes
    }

    /// `52:54:00:12:34:56`.
    public init?(parsing text: some StringProtocol) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        let bytes = parts.compactMap { $0.utf8.count == 2 ? UInt8($0, radix: 16) : nil }
        guard parts.count == 6, bytes.count == 6 else { return nil }
        self.init(bytes: bytes)
    }

    /// The one of a machine's adapter that was given none: the same each time for the same UUID.
    public init(of uuid: MachineUUID, adapter: Int) {
        // FNV-1a over what makes it different.
        var hash: UInt32 = 2_166_136_261
        for byte in uuid.bytes + [UInt8(truncatingIfNeeded: adapter)] {
            hash = (hash ^ UInt32(byte)) &* 16_777_619
        }
        // Locally administered, as virtual machines' are.
        bytes = [0x52, 0x54, 0] + [16, 8, 0].map { UInt8(truncatingIfNeeded: hash >> $0) }
    }

    public var description: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
    }
}

/// One `--net` option: `none`, or `unplugged[,mac=ADDRESS][,rom=FILE]`. A comma inside the file name is
/// written twice.
public struct NetworkOption: Equatable, Sendable {
    /// Where the adapter's option ROM comes from.
    public enum ROM: Equatable, Sendable {
        case usual, none
        case file(String)

        public var isFile: Bool { if case .file = self { true } else { false } }
    }
    public var address: HardwareAddress?
    public var rom = ROM.usual

    /// Nil for `none`: no adapter.
    public static func parse(_ text: String) throws(SpecError) -> NetworkOption? {
        var fields = DiskOption.fields(of: text)
        let kind = fields.removeFirst()
        if kind == "none", fields.isEmpty { return nil }
        guard kind == "unplugged" else {
            throw SpecError(
                "--net \(text.quoted): this version has no networks yet, only adapters without a cable: use "
                    + "unplugged, or none.")
        }
        var option = NetworkOption()
        for field in fields { try option.apply(field) }
        return option
    }

    private mutating func apply(_ field: String) throws(SpecError) {
        let parts = field.split(separator: "=", maxSplits: 1).map(String.init)
        switch (parts.first, parts.count > 1 ? parts[1] : nil) {
        case ("mac", let text?):
            guard let address = HardwareAddress(parsing: text) else {
                throw SpecError(
                    "--net mac=\(text.quoted) is no hardware address of a station: write six bytes in "
                        + "hexadecimal, such as 52:54:00:12:34:56.")
            }
            self.address = address
        case ("rom", "none"?): rom = .none
        case ("rom", let path?): rom = .file(path)
        default:
            throw SpecError(
                "--net does not know \(field.quoted): use mac=ADDRESS, rom=FILE or rom=none, and write a "
                    + "comma in a file name twice.")
        }
    }
}
