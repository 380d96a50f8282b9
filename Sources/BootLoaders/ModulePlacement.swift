internal import ByteLayout
internal import GuestMemory

/// A file in guest memory that a kernel is told about.
struct PlacedModule {
    var start: UInt64
    var size: UInt64
    /// Guest address of its NUL-terminated string.
    var commandLine: UInt64
}

extension PlacementMap {
    /// More than any multiboot system uses; the list has to fit into the low tables.
    static let moduleLimit = 64

    /// Places the initrd and the other modules as high as possible below 4 GiB, and their strings into
    /// `tables`.
    mutating func placeModules(
        _ request: BootRequest, strings tables: inout LowTables, initrdName: String
    ) throws(BootError) -> [PlacedModule] {
        var files: [(file: [UInt8], commandLine: String)] = []
        if let initrd = request.initrd, !initrd.isEmpty { files.append((initrd, initrdName)) }
        for module in request.modules { files.append((module.file, module.commandLine)) }
        guard files.count <= Self.moduleLimit else {
            throw .tooManyModules(count: files.count, limit: Self.moduleLimit)
        }
        var placed: [PlacedModule] = []
        for (index, entry) in files.enumerated() {
            let part = "module \(index + 1)"
            let start = try claimHighest(part, size: UInt64(entry.file.count), below: 1 << 32)
            try install(part, entry.file[...], at: start)
            placed.append(
                PlacedModule(
                    start: start, size: UInt64(entry.file.count),
                    commandLine: try tables.append(string: entry.commandLine)))
        }
        return placed
    }
}

/// Tables and strings of PVH and multiboot, packed into the low structures' area.
struct LowTables {
    private(set) var bytes: [UInt8] = []

    /// Appends `table` at an 8-byte boundary; its guest address.
    mutating func append(_ table: [UInt8]) throws(BootError) -> UInt64 {
        bytes.append(contentsOf: repeatElement(0, count: (8 - bytes.count % 8) % 8))
        let offset = UInt64(bytes.count)
        let size = offset + UInt64(table.count), limit = PlacementMap.LowMemory.tablesLimit
        guard size <= limit else {
            throw .noRoom(
                part: "boot information", size: size, below: PlacementMap.LowMemory.tables + limit)
        }
        bytes.append(contentsOf: table)
        return PlacementMap.LowMemory.tables + offset
    }

    mutating func append(string: String) throws(BootError) -> UInt64 {
        let text = Array(string.utf8)
        guard !text.contains(0) else { throw .commandLineHasNUL }
        return try append(text + [0])
    }
}
