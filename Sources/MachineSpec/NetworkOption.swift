/// One `--net` option: `unplugged[,mac=ADDRESS][,rom=FILE|off][,root-port=N]`. A comma inside the file name
/// is written twice.
public struct NetworkOption: Equatable, Sendable {
    /// Which expansion ROM the card has.
    public enum ROM: Equatable, Sendable {
        /// The one that the distribution's package has for it, on a machine with a firmware.
        case usual
        case off
        case file(path: String)
    }

    public var connection: NetworkConnection = .unplugged
    public var address: MACAddress?
    public var rom = ROM.usual
    public var rootPort: Int?

    /// Nil for `none`: there is no card.
    public static func parse(_ text: String) throws(SpecError) -> NetworkOption? {
        var fields = DiskOption.fields(of: text)
        let name = fields.removeFirst()
        if name == "none", fields.isEmpty { return nil }
        guard let connection = NetworkConnection.allCases.first(where: { "\($0)" == name }) else {
            throw SpecError(
                "This version has no networks yet: instead of --net \(text.quoted) use --net unplugged, a "
                    + "card without a cable, or --net none.")
        }
        var option = NetworkOption()
        option.connection = connection
        for field in fields { try option.apply(field) }
        return option
    }

    private mutating func apply(_ field: String) throws(SpecError) {
        let parts = field.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
            String.init)
        switch (parts[0], parts.count > 1 ? parts[1] : "") {
        case ("mac", let text): address = try MACAddress(parsing: text)
        case ("rom", "off"): rom = .off
        case ("rom", let path) where !path.isEmpty: rom = .file(path: path)
        case ("root-port", let text): rootPort = try MachineSpec.rootPort(parsing: text)
        default:
            throw SpecError(
                "--net does not know \(field.quoted): use mac=ADDRESS, rom=FILE, rom=off or root-port=N.")
        }
    }
}

extension MachineSpec {
    /// The value of `root-port=`.
    static func rootPort(parsing text: String) throws(SpecError) -> Int {
        guard let number = Int(text), (1...mostRootPorts).contains(number) else {
            throw SpecError(
                "root-port=\(text) is none: write the number of a port that --pcie-root-ports makes, "
                    + "from 1 on.")
        }
        return number
    }
}
