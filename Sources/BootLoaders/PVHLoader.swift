internal import ByteLayout
internal import GuestMemory
internal import X86Architecture

/// Starts an ELF kernel by Xen's PVH protocol (Xen docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h).
struct PVHLoader {
    private static let startMagic: UInt32 = 0x336E_C578

    static func load(_ request: BootRequest, into memory: GuestMemory) throws(BootError) -> BootPlan {
        let image = try ELFImage(request.kernel)
        let entry = try image.pvhEntry(in: request.kernel)
        var places = try lowPlaces(request, memory)
        try image.place(request.kernel, entry: entry, in: &places)
        return try finish(request, entry: entry, &places)
    }

    /// The same for a packed kernel; nil, with memory as it was, when that cannot be unpacked and entered.
    static func load(
        _ request: BootRequest, _ kernel: PackedKernel, into memory: GuestMemory
    ) throws(BootError) -> BootPlan? {
        var places = try lowPlaces(request, memory)
        guard let entry = try kernel.place(in: &places) else { return nil }
        return try finish(request, entry: entry, &places)
    }

    /// What comes before the kernel.
    private static func lowPlaces(
        _ request: BootRequest, _ memory: GuestMemory
    ) throws(BootError) -> PlacementMap {
        var places = PlacementMap(
            memory, MemoryMap(memory, reservations: request.reservations), for: request)
        try EntryState.placeBIOSDataArea(in: &places)
        try EntryState.placeDescriptorTable(in: &places, longMode: false)
        try places.claim("start information", at: PlacementMap.LowMemory.information, size: 56)
        try places.claim(
            "boot tables", at: PlacementMap.LowMemory.tables, size: PlacementMap.LowMemory.tablesLimit)
        try places.placeCommandLine(request.commandLine, limit: PlacementMap.LowMemory.commandLineLimit)
        return places
    }

    private static func finish(
        _ request: BootRequest, entry: UInt64, _ places: inout PlacementMap
    ) throws(BootError) -> BootPlan {
        let map = places.map
        var tables = LowTables()
        let modules = try places.placeModules(request, strings: &tables, initrdName: "")
        let memoryTable = try tables.append(map.hvmTable)
        let moduleTable = try tables.append(
            modules.reduce(into: []) { bytes, module in
                // hvm_modlist_entry: address, size, command line, reserved.
                for field in [module.start, module.size, module.commandLine, 0] {
                    bytes.append(littleEndian: field)
                }
            })
        try places.install("boot tables", tables.bytes[...], at: PlacementMap.LowMemory.tables)

        // hvm_start_info, version 1.
        var info: [UInt8] = []
        for field in [startMagic, 1, 0, UInt32(modules.count)] { info.append(littleEndian: field) }
        let addresses = [
            modules.isEmpty ? 0 : moduleTable, PlacementMap.LowMemory.commandLine, request.rsdp?.raw ?? 0,
            memoryTable,
        ]
        for field in addresses { info.append(littleEndian: field) }
        info.append(littleEndian: UInt32(map.entries.count))
        info.append(littleEndian: UInt32(0))
        try places.install("start information", info[...], at: PlacementMap.LowMemory.information)

        var state = EntryState.protectedMode(entry: entry)
        state.gpr[3] = PlacementMap.LowMemory.information
        return BootPlan(
            bootProtocol: .pvh, entryPoint: GuestAddress(entry), state: state,
            placements: places.placements, memoryMap: map)
    }
}
