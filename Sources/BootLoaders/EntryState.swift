internal import ByteLayout
internal import GuestMemory
internal import X86Architecture

/// Processor states at a kernel's first instruction, and the tables in memory that they point to.
enum EntryState {
    static let codeSelector: UInt16 = 0x10
    static let dataSelector: UInt16 = 0x18

    /// Attributes as `SegmentState` holds them: present, DPL 0, accessed, page granular.
    private enum Attributes {
        static let code32: UInt32 = 0xC09B
        static let code64: UInt32 = 0xA09B
        static let data: UInt32 = 0xC093
        static let busyTask: UInt32 = 0x8B
    }

    /// Flat 32-bit protected mode, paging and interrupts off.
    static func protectedMode(entry: UInt64) -> VCPUState {
        var state = flat(codeAttributes: Attributes.code32, entry: entry)
        state.cr0 = CR0.protectionEnable | CR0.extensionType
        return state
    }

    /// 64-bit mode over the identity map at `LowMemory.pageTables`, interrupts off.
    static func longMode(entry: UInt64) -> VCPUState {
        var state = flat(codeAttributes: Attributes.code64, entry: entry)
        state.cr0 = CR0.protectionEnable | CR0.extensionType | CR0.numericError | CR0.paging
        state.cr3 = PlacementMap.LowMemory.pageTables
        state.cr4 = CR4.physicalAddressExtension
        state.efer = EFER.longModeEnable | EFER.longModeActive
        return state
    }

    private static func flat(codeAttributes: UInt32, entry: UInt64) -> VCPUState {
        var state = VCPUState()
        state.rip = entry
        state.rflags = RFlags.alwaysOne.rawValue
        state.gpr = [UInt64](repeating: 0, count: 16)
        state.gpr[4] = PlacementMap.LowMemory.stackTop
        state.segments = [SegmentState](
            repeating: SegmentState(
                selector: dataSelector, base: 0, limit: .max, attributes: Attributes.data), count: 6)
        state.segments[Int(SegmentRegister.cs.rawValue)] = SegmentState(
            selector: codeSelector, base: 0, limit: .max, attributes: codeAttributes)
        state.tr = SegmentState(selector: 0, base: 0, limit: 0x67, attributes: Attributes.busyTask)
        state.ldtr = SegmentState(selector: 0, base: 0, limit: 0, attributes: SegmentState.unusable)
        state.gdtr = TableRegister(base: PlacementMap.LowMemory.descriptorTable, limit: 4 * 8 - 1)
        state.idtr = TableRegister(base: 0, limit: 0)
        return state
    }

    /// Null, null, code at 0x10 and data at 0x18.
    static func placeDescriptorTable(in places: inout PlacementMap, longMode: Bool) throws(BootError) {
        var table: [UInt8] = []
        let code = longMode ? Attributes.code64 : Attributes.code32
        for descriptor in [0, 0, flatDescriptor(code), flatDescriptor(Attributes.data)] as [UInt64] {
            table.append(littleEndian: descriptor)
        }
        try places.place("descriptor table", table, at: PlacementMap.LowMemory.descriptorTable)
    }

    /// Base 0, limit 4 GiB (SDM vol. 3 §3.4.5).
    private static func flatDescriptor(_ attributes: UInt32) -> UInt64 {
        let access = UInt64(attributes & 0xFF), flags = UInt64(attributes >> 12) & 0xF
        return 0xFFFF | access << 40 | 0xF << 48 | flags << 52
    }

    /// Maps the first 4 GiB to themselves with 2 MiB pages (SDM vol. 3 §4.5): one PML4, one page-directory
    /// pointer table, four page directories.
    static func placeIdentityMap(in places: inout PlacementMap) throws(BootError) {
        let directories: UInt64 = 4
        let start = PlacementMap.LowMemory.pageTables
        let presentWritable: UInt64 = 3, pageSize: UInt64 = 0x80
        var tables: [UInt8] = []
        tables.reserveCapacity(6 * 4096)
        func pad() { tables.append(contentsOf: repeatElement(0, count: (4096 - tables.count % 4096) % 4096)) }
        tables.append(littleEndian: (start + 4096) | presentWritable)
        pad()
        for index in 0..<directories {
            tables.append(littleEndian: (start + (2 + index) * 4096) | presentWritable)
        }
        pad()
        for page in 0..<(directories * 512) {
            tables.append(littleEndian: page << 21 | presentWritable | pageSize)
        }
        try places.place("page tables", tables, at: start)
    }

    /// The words of the BIOS data area that kernels read to find out where low memory ends and which serial
    /// ports exist; a BIOS would have written them.
    static func placeBIOSDataArea(in places: inout PlacementMap) throws(BootError) {
        var area = [UInt8](repeating: 0, count: 0x100)
        area.store(littleEndian: UInt16(0x3F8), at: 0x00)  // COM1
        area.store(littleEndian: UInt16(0x9FC0), at: 0x0E)  // segment of the extended BIOS data area
        area.store(littleEndian: UInt16(639), at: 0x13)  // KiB of base memory
        try places.place("BIOS data area", area, at: 0x400)
        try places.install("extended BIOS data area", [1], at: 0x9_FC00)
    }
}
