internal import ByteLayout

/// The header by which a kernel asks for multiboot 0.6.96 (§3.1): 4-byte aligned in the first 8 KiB.
struct MultibootHeader: Equatable {
    static let magic: UInt32 = 0x1BAD_B002
    static let searchLimit = 8192

    struct Flags: OptionSet, Equatable {
        let rawValue: UInt32
        static let pageAlignedModules = Flags(rawValue: 1 << 0), memoryInformation = Flags(rawValue: 1 << 1)
        static let videoMode = Flags(rawValue: 1 << 2), addressFields = Flags(rawValue: 1 << 16)
        /// A loader that does not know one of these bits must refuse the image.
        static let mandatory = Flags(rawValue: 0xFFFF)
        static let understood: Flags = [.pageAlignedModules, .memoryInformation, .videoMode]
    }

    /// Where the header is in the file.
    var offset: Int
    var flags: Flags

    /// The first place where magic, flags and checksum add up to zero.
    static func find(in file: [UInt8]) -> MultibootHeader? {
        for offset in stride(from: 0, to: min(file.count, searchLimit) &- 11, by: 4) {
            guard file.load(littleEndian: UInt32.self, at: offset) == magic,
                let flags = file.load(littleEndian: UInt32.self, at: offset + 4),
                let checksum = file.load(littleEndian: UInt32.self, at: offset + 8),
                magic &+ flags &+ checksum == 0
            else { continue }
            return MultibootHeader(offset: offset, flags: Flags(rawValue: flags))
        }
        return nil
    }

    /// The parts of the file by the header's own address fields, for images that are not ELF.
    struct AddressFields: Equatable {
        var file: Range<Int>
        var loadAddress: UInt64
        var memorySize: UInt64
        var entry: UInt64
    }

    /// - Throws: `BootError` when the fields contradict each other or the file.
    func addressFields(in file: [UInt8]) throws(BootError) -> AddressFields {
        func field(_ index: Int) throws(BootError) -> UInt64 {
            let position = offset + 12 + index * 4
            guard let value = file.load(littleEndian: UInt32.self, at: position) else {
                throw .truncated(
                    part: "multiboot header", end: UInt64(position + 4), fileSize: UInt64(file.count))
            }
            return UInt64(value)
        }
        let header = try field(0), load = try field(1), loadEnd = try field(2), bssEnd = try field(3)
        let entry = try field(4)
        guard header >= load, header - load <= UInt64(offset) else {
            throw .malformed(field: "multiboot header_addr", value: header)
        }
        let textOffset = UInt64(offset) - (header - load)
        let available = UInt64(file.count) - textOffset
        guard loadEnd == 0 || loadEnd >= load else {
            throw .malformed(field: "multiboot load_end_addr", value: loadEnd)
        }
        let size = loadEnd == 0 ? available : loadEnd - load
        guard size <= available else {
            throw .truncated(
                part: "multiboot text", end: textOffset + size, fileSize: UInt64(file.count))
        }
        guard bssEnd == 0 || bssEnd >= load + size else {
            throw .malformed(field: "multiboot bss_end_addr", value: bssEnd)
        }
        let memorySize = bssEnd == 0 ? size : bssEnd - load
        guard entry >= load, entry - load < size else {
            throw .malformed(field: "multiboot entry_addr", value: entry)
        }
        return AddressFields(
            file: Int(textOffset)..<Int(textOffset + size), loadAddress: load, memorySize: memorySize,
            entry: entry)
    }
}
