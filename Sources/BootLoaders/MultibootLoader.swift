internal import ByteLayout
internal import GuestMemory
internal import X86Architecture

/// Starts an image by the Multiboot Specification 0.6.96.
struct MultibootLoader {
    /// EAX at the entry (§3.2).
    private static let loaderMagic: UInt64 = 0x2BAD_B002
    /// Kernels take the first word of their command line for the name of their file.
    private static let kernelName = "kernel"

    /// The information structure (§3.3).
    private enum Information {
        static let size = 116
        static let flags = 0, memoryLower = 4, memoryUpper = 8, commandLine = 16, moduleCount = 20
        static let moduleAddress = 24, mapLength = 44, mapAddress = 48, loaderName = 64
        static let hasMemory: UInt32 = 1 << 0, hasCommandLine: UInt32 = 1 << 2, hasModules: UInt32 = 1 << 3
        static let hasMap: UInt32 = 1 << 6, hasLoaderName: UInt32 = 1 << 9
    }

    static func load(_ request: BootRequest, into memory: GuestMemory) throws(BootError) -> BootPlan {
        guard let header = MultibootHeader.find(in: request.kernel) else { throw .unrecognizedFormat }
        let unknown = header.flags.intersection(.mandatory).subtracting(.understood)
        guard unknown.isEmpty else {
            throw .malformed(field: "set of multiboot flags", value: UInt64(header.flags.rawValue))
        }
        let map = MemoryMap(memory, reservations: request.reservations)
        var places = PlacementMap(memory, map, for: request)
        try EntryState.placeBIOSDataArea(in: &places)
        try RealModeVectors.install(in: places)
        try EntryState.placeDescriptorTable(in: &places, longMode: false)
        try places.claim(
            "multiboot information", at: PlacementMap.LowMemory.information, size: UInt64(Information.size))
        try places.claim(
            "boot tables", at: PlacementMap.LowMemory.tables, size: PlacementMap.LowMemory.tablesLimit)
        let line = request.commandLine.isEmpty ? kernelName : kernelName + " " + request.commandLine
        try places.placeCommandLine(line, limit: PlacementMap.LowMemory.commandLineLimit)

        let entry = try placeKernel(request.kernel, header, in: &places)
        var tables = LowTables()
        let modules = try places.placeModules(request, strings: &tables, initrdName: "initrd")
        let info = try information(modules, map, &tables)
        try places.install("boot tables", tables.bytes[...], at: PlacementMap.LowMemory.tables)
        try places.install("multiboot information", info[...], at: PlacementMap.LowMemory.information)

        var state = EntryState.protectedMode(entry: entry)
        state.gpr[0] = loaderMagic
        state.gpr[3] = PlacementMap.LowMemory.information
        return BootPlan(
            bootProtocol: .multiboot, entryPoint: GuestAddress(entry), state: state,
            placements: places.placements, memoryMap: map)
    }

    /// By the address fields when the image has them, else by its ELF headers; the entry address.
    private static func placeKernel(
        _ file: [UInt8], _ header: MultibootHeader, in places: inout PlacementMap
    ) throws(BootError) -> UInt64 {
        guard header.flags.contains(.addressFields) else {
            let image = try ELFImage(file)
            try image.place(file, entry: image.entry, in: &places)
            return image.entry
        }
        let fields = try header.addressFields(in: file)
        try places.claim("kernel", at: fields.loadAddress, size: fields.memorySize)
        try places.install("kernel", file[fields.file], at: fields.loadAddress)
        let filled = UInt64(fields.file.count)
        try places.zero("kernel", at: fields.loadAddress + filled, size: fields.memorySize - filled)
        return fields.entry
    }

    private static func information(
        _ modules: [PlacedModule], _ map: MemoryMap, _ tables: inout LowTables
    ) throws(BootError) -> [UInt8] {
        let table = map.multibootTable
        let mapAddress = try tables.append(table)
        // §3.3 mods: start, end, string, reserved; all below 4 GiB by construction.
        let moduleAddress = try tables.append(
            modules.reduce(into: []) { bytes, module in
                for field in [module.start, module.start + module.size, module.commandLine, 0] {
                    bytes.append(littleEndian: UInt32(truncatingIfNeeded: field))
                }
            })
        let name = try tables.append(string: "Ospite")

        var info = [UInt8](repeating: 0, count: Information.size)
        func store(_ value: UInt64, _ offset: Int) {
            info.store(littleEndian: UInt32(truncatingIfNeeded: value), at: offset)
        }
        let flags =
            Information.hasMemory | Information.hasCommandLine | Information.hasModules | Information.hasMap
            | Information.hasLoaderName
        store(UInt64(flags), Information.flags)
        store(639, Information.memoryLower)
        store(min(map.kibibytesAboveOneMebibyte, UInt64(UInt32.max)), Information.memoryUpper)
        store(PlacementMap.LowMemory.commandLine, Information.commandLine)
        store(UInt64(modules.count), Information.moduleCount)
        store(moduleAddress, Information.moduleAddress)
        store(UInt64(table.count), Information.mapLength)
        store(mapAddress, Information.mapAddress)
        store(name, Information.loaderName)
        return info
    }
}
