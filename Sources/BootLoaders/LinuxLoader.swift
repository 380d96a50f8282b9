internal import ByteLayout
internal import GuestMemory
internal import X86Architecture

/// Starts a bzImage by the Linux/x86 boot protocol: at its 64-bit entry when it has one, else at the 32-bit
/// one.
struct LinuxLoader {
    /// Offsets in the zero page, Linux Documentation/arch/x86/zero-page.rst.
    private enum ZeroPage {
        static let size = 4096
        static let textColumns = 0x07, textMode = 0x06, textRows = 0x0E, isVGA = 0x0F, textPoints = 0x10
        static let rsdp = 0x70, e820Count = 0x1E8, e820Table = 0x2D0
        static let e820Limit = 128
    }
    private static let undefinedLoader: UInt8 = 0xFF

    static func load(_ request: BootRequest, into memory: GuestMemory) throws(BootError) -> BootPlan {
        let header = try LinuxSetupHeader(request.kernel)
        guard request.modules.isEmpty else { throw .tooManyModules(count: request.modules.count, limit: 0) }
        let map = MemoryMap(memory, reservations: request.reservations)
        var places = PlacementMap(memory, map, for: request)

        // The GDT is the 32-bit entry's too; the page tables are not needed there.
        try EntryState.placeBIOSDataArea(in: &places)
        try EntryState.placeDescriptorTable(in: &places, longMode: header.hasEntry64)
        if header.hasEntry64 { try EntryState.placeIdentityMap(in: &places) }
        try places.claim(
            "zero page", at: PlacementMap.LowMemory.information, size: UInt64(ZeroPage.size))
        try places.placeCommandLine(request.commandLine, limit: header.commandLineLimit)

        let start = try placeKernel(request.kernel, header, in: &places)
        let initrd = try placeInitrd(request.initrd, header, in: &places)
        let page = try zeroPage(request, header, map, kernel: start, initrd: initrd)
        try places.install("zero page", page[...], at: PlacementMap.LowMemory.information)

        let entry = entryPoint(header, kernelStart: start, codeSize: request.kernel.count - header.setupSize)
        var state =
            header.hasEntry64 ? EntryState.longMode(entry: entry) : EntryState.protectedMode(entry: entry)
        state.gpr[6] = PlacementMap.LowMemory.information
        return BootPlan(
            bootProtocol: header.hasEntry64 ? .linux64 : .linux32, entryPoint: GuestAddress(entry),
            state: state, placements: places.placements, memoryMap: map)
    }

    /// Copies the protected-mode code to where it wants to run. A relocatable kernel below its preferred
    /// address would move itself up to it, so the preferred address is the lowest that makes sense.
    private static func placeKernel(
        _ file: [UInt8], _ header: LinuxSetupHeader, in places: inout PlacementMap
    ) throws(BootError) -> UInt64 {
        var start = header.preferredAddress
        if header.isRelocatable {
            start = max(start, LinuxSetupHeader.classicLoadAddress)
            let (sum, wraps) = start.addingReportingOverflow(header.kernelAlignment - 1)
            guard !wraps else { throw .malformed(field: "pref_address", value: start) }
            start = sum & ~(header.kernelAlignment - 1)
        }
        // The 32-bit entry and the identity map end at 4 GiB.
        guard start < 1 << 32, header.memoryNeeded <= (1 << 32) - start else {
            throw .outsideRAM(part: "kernel", start: start, size: header.memoryNeeded)
        }
        try places.claim("kernel", at: start, size: header.memoryNeeded)
        try places.install("kernel", file[header.setupSize...], at: start)
        return start
    }

    private static func placeInitrd(
        _ file: [UInt8]?, _ header: LinuxSetupHeader, in places: inout PlacementMap
    ) throws(BootError) -> (start: UInt64, size: UInt64) {
        guard let file, !file.isEmpty else { return (0, 0) }
        // ramdisk_image and ramdisk_size have 32 bits.
        let limit = min(header.initrdAddressMaximum + 1, 1 << 32)
        let start = try places.claimHighest("initrd", size: UInt64(file.count), below: limit)
        try places.install("initrd", file[...], at: start)
        return (start, UInt64(file.count))
    }

    private static func zeroPage(
        _ request: BootRequest, _ header: LinuxSetupHeader, _ map: MemoryMap, kernel: UInt64,
        initrd: (start: UInt64, size: UInt64)
    ) throws(BootError) -> [UInt8] {
        typealias Offset = LinuxSetupHeader.Offset
        var page = [UInt8](repeating: 0, count: ZeroPage.size)
        let copied = Offset.setupSectors..<max(header.headerEnd, Offset.initrdAddressMaximum)
        page.replaceSubrange(copied, with: request.kernel[copied])
        page[Offset.loaderType] = undefinedLoader
        page.store(littleEndian: UInt32(truncatingIfNeeded: kernel), at: Offset.code32Start)
        page.store(littleEndian: UInt32(truncatingIfNeeded: initrd.start), at: Offset.ramdiskImage)
        page.store(littleEndian: UInt32(truncatingIfNeeded: initrd.size), at: Offset.ramdiskSize)
        page.store(
            littleEndian: UInt32(PlacementMap.LowMemory.commandLine), at: Offset.commandLinePointer)
        // A list of our own that a file cannot forge.
        page.store(littleEndian: UInt64(0), at: Offset.setupData)
        page.store(littleEndian: request.rsdp?.raw ?? 0, at: ZeroPage.rsdp)
        guard map.entries.count <= ZeroPage.e820Limit else {
            throw .malformed(field: "number of memory ranges", value: UInt64(map.entries.count))
        }
        page[ZeroPage.e820Count] = UInt8(map.entries.count)
        let table = map.e820
        page.replaceSubrange(ZeroPage.e820Table..<(ZeroPage.e820Table + table.count), with: table)
        if request.hasTextScreen {
            page[ZeroPage.textMode] = 3
            page[ZeroPage.textColumns] = 80
            page[ZeroPage.textRows] = 25
            page[ZeroPage.isVGA] = 1
            page.store(littleEndian: UInt16(16), at: ZeroPage.textPoints)
        }
        return page
    }

    /// A code32_start that is not the classic one is a hook of the image: it moves with the code.
    private static func entryPoint(_ header: LinuxSetupHeader, kernelStart: UInt64, codeSize: Int) -> UInt64 {
        if header.hasEntry64 { return kernelStart + LinuxSetupHeader.entry64Offset }
        let hook = UInt64(header.code32Start) &- LinuxSetupHeader.classicLoadAddress
        return hook < UInt64(codeSize) ? kernelStart + hook : kernelStart
    }
}
