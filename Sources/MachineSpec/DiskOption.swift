/// One `--disk` option: `FILE[,format=F][,bus=B][,readonly][,snapshot][,root-port=N]`. A comma inside the
/// file name is written twice.
public struct DiskOption: Equatable, Sendable {
    public var path: String
    public var format: DiskFormat = .raw
    public var bus: DiskBus = .virtio
    public var isReadOnly = false
    public var isSnapshot = false
    public var rootPort: Int?

    /// A raw image.
    public init(path: String, bus: DiskBus = .virtio) {
        self.path = path
        self.bus = bus
    }

    public init(parsing text: String) throws(SpecError) {
        var fields = Self.fields(of: text)
        path = fields.removeFirst()
        guard !path.isEmpty else {
            throw SpecError("--disk \(text.quoted) names no file: write --disk FILE.")
        }
        for field in fields {
            try apply(field)
        }
    }

    private mutating func apply(_ field: String) throws(SpecError) {
        let parts = field.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
            String.init)
        switch (parts[0], parts.count > 1 ? parts[1] : nil) {
        case ("readonly", nil): isReadOnly = true
        case ("snapshot", nil): isSnapshot = true
        case ("format", let name?):
            guard let known = Self.formats.first(where: { $0.name == name }) else {
                throw SpecError(
                    "--disk format \(name.quoted) is unknown: use \(Self.formats.map(\.name).listed).")
            }
            guard known.value == .raw else {
                throw SpecError(
                    "This version reads raw disks only: convert the \(name) image to raw and use format=raw.")
            }
            format = known.value
        case ("root-port", let text?): rootPort = try MachineSpec.rootPort(parsing: text)
        case ("bus", let name?): bus = try DiskBus(parsing: name, option: "--disk")
        default:
            throw SpecError(
                "--disk does not know \(field.quoted): use format=raw, bus=\(DiskBus.names.listed), "
                    + "readonly, snapshot or root-port=N, and write a comma in a file name twice.")
        }
    }

    private static let formats: [(name: String, value: DiskFormat)] = [
        ("raw", .raw), ("qcow2", .qcow2), ("vmdk", .vmdk), ("vdi", .vdi), ("vhd", .vhd), ("vhdx", .vhdx),
    ]

    /// Splits at single commas; two commas are one comma of the text. Never empty.
    static func fields(of text: String) -> [String] {
        var fields = [""]
        var pendingComma = false
        for character in text {
            if character == "," {
                if pendingComma { fields[fields.count - 1].append(",") }
                pendingComma.toggle()
                continue
            }
            if pendingComma {
                fields.append("")
                pendingComma = false
            }
            fields[fields.count - 1].append(character)
        }
        if pendingComma { fields.append("") }
        return fields
    }
}

/// One `--cdrom` option: `FILE[,bus=B]`, or `none` in the place of the file for an empty drive.
public struct DriveOption: Equatable, Sendable {
    /// Nil: there is no disc in the drive.
    public var path: String?
    public var bus: DiskBus = .sata

    public init(path: String) { self.path = path }

    public init(parsing text: String) throws(SpecError) {
        var fields = DiskOption.fields(of: text)
        let file = fields.removeFirst()
        guard !file.isEmpty else {
            throw SpecError("--cdrom \(text.quoted) names no file: write --cdrom FILE, or none.")
        }
        path = file == "none" ? nil : file
        for field in fields {
            guard field.hasPrefix("bus=") else {
                throw SpecError(
                    "--cdrom does not know \(field.quoted): use bus=sata or bus=ide, and write a comma in a "
                        + "file name twice.")
            }
            bus = try DiskBus(parsing: String(field.dropFirst(4)), option: "--cdrom")
        }
    }
}

/// One `--floppy` option: `FILE[,readonly][,snapshot]`.
public struct FloppyOption: Equatable, Sendable {
    /// How its file is opened.
    public var file: DiskOption

    public init(parsing text: String) throws(SpecError) {
        var fields = DiskOption.fields(of: text)
        file = DiskOption(path: fields.removeFirst())
        guard !file.path.isEmpty else {
            throw SpecError("--floppy \(text.quoted) names no file: write --floppy FILE.")
        }
        for field in fields {
            switch field {
            case "readonly": file.isReadOnly = true
            case "snapshot": file.isSnapshot = true
            default:
                throw SpecError(
                    "--floppy does not know \(field.quoted): use readonly or snapshot, and write a comma in "
                        + "a file name twice.")
            }
        }
    }
}

extension [BootDevice] {
    /// The `--boot` option: names with commas between them.
    public init(parsing text: String) throws(SpecError) {
        self = []
        for name in text.split(separator: ",", omittingEmptySubsequences: false) {
            guard let device = BootDevice.allCases.first(where: { "\($0)" == name }), !contains(device) else {
                let names = BootDevice.allCases.map { "\($0)" }.listed
                throw SpecError("--boot \(text.quoted) is no order: name each of \(names) at most once.")
            }
            append(device)
        }
    }
}

extension DiskBus {
    init(parsing name: String, option: String) throws(SpecError) {
        guard let known = Self.allCases.first(where: { $0.name == name }) else {
            throw SpecError(
                "\(option) bus \(name.quoted) is unknown: use \(Self.names.listed).")
        }
        self = known
    }
}

extension [String] {
    /// "a, b or c".
    var listed: String {
        guard count > 1, let last else { return first ?? "" }
        return dropLast().joined(separator: ", ") + " or " + last
    }
}
