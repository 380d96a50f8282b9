internal import ByteLayout

/// The loadable parts of a 32- or 64-bit x86 ELF executable (System V gABI, "Object Files"). Every offset and
/// size is checked against the file here, so that loaders only check guest addresses.
struct ELFImage {
    struct Segment: Equatable {
        /// Where the bytes are in the file.
        var file: Range<Int>
        var address: UInt64
        /// In memory, at least `file.count`; the rest reads as zero.
        var memorySize: UInt64
    }

    /// Program headers that a kernel may have; real ones have fewer than ten.
    static let segmentLimit = 64
    /// From the start of a file, what is read for the headers of one that comes in pieces.
    static let headLimit = 64 << 10
    /// Bytes of each PT_NOTE that are searched; Linux's notes take less than 1 KiB.
    static let noteLimit = 64 << 10

    private enum HeaderType {
        static let load: UInt32 = 1, note: UInt32 = 4
    }
    private static let machine386: UInt16 = 3, machineX8664: UInt16 = 62
    private static let littleEndian: UInt8 = 1

    let is64Bit: Bool
    /// e_entry: a virtual address for an operating system's loader, a physical one for multiboot.
    let entry: UInt64
    private(set) var segments: [Segment] = []
    private var notes: [Range<Int>] = []

    static func isPresent(in file: [UInt8]) -> Bool { file.starts(with: [0x7F, 0x45, 0x4C, 0x46]) }

    init(_ file: [UInt8]) throws(BootError) { try self.init(head: file, fileSize: file.count) }

    /// - Parameter head: the start of a file of `fileSize` bytes, with its program headers.
    init(head file: [UInt8], fileSize: Int) throws(BootError) {
        guard Self.isPresent(in: file), file.count >= 52 else {
            throw .truncated(part: "ELF header", end: 52, fileSize: UInt64(file.count))
        }
        guard file[4] == 1 || file[4] == 2 else {
            throw .malformed(field: "ELF class", value: UInt64(file[4]))
        }
        guard file[5] == Self.littleEndian else {
            throw .malformed(field: "ELF byte order", value: UInt64(file[5]))
        }
        is64Bit = file[4] == 2
        let reader = FieldReader(file, isWide: is64Bit)
        let machine = try reader.uint16(18)
        guard machine == Self.machine386 || machine == Self.machineX8664 else {
            throw .wrongProcessor(machine: machine)
        }
        entry = try reader.word(24)
        let table = try reader.word(is64Bit ? 32 : 28)
        let entrySize = Int(try reader.uint16(is64Bit ? 54 : 42))
        let count = Int(try reader.uint16(is64Bit ? 56 : 44))
        guard count >= 1, count <= Self.segmentLimit else {
            throw .malformed(field: "e_phnum", value: UInt64(count))
        }
        guard entrySize == (is64Bit ? 56 : 32) else {
            throw .malformed(field: "e_phentsize", value: UInt64(entrySize))
        }
        let headers = try Self.range(
            table, UInt64(entrySize * count), "table of program headers", in: file.count)
        for index in 0..<count {
            try add(reader, at: headers.lowerBound + index * entrySize, fileSize)
        }
        guard !segments.isEmpty else { throw .malformed(field: "number of loadable segments", value: 0) }
    }

    private mutating func add(_ reader: FieldReader, at header: Int, _ fileSize: Int) throws(BootError) {
        let type = try reader.uint32(header)
        let offset = try reader.word(header + (is64Bit ? 8 : 4))
        let address = try reader.word(header + (is64Bit ? 24 : 12))
        let filled = try reader.word(header + (is64Bit ? 32 : 16))
        let memorySize = try reader.word(header + (is64Bit ? 40 : 20))
        switch type {
        case HeaderType.load:
            guard filled <= memorySize else { throw .malformed(field: "p_filesz", value: filled) }
            guard memorySize > 0 else { return }
            guard !address.addingReportingOverflow(memorySize).overflow else {
                throw .malformed(field: "p_paddr", value: address)
            }
            let bytes = try Self.range(offset, filled, "segment", in: fileSize)
            segments.append(Segment(file: bytes, address: address, memorySize: memorySize))
        case HeaderType.note:
            notes.append(try Self.range(offset, filled, "note segment", in: fileSize))
        default: return
        }
    }

    private static func range(
        _ offset: UInt64, _ size: UInt64, _ part: String, in fileSize: Int
    ) throws(BootError) -> Range<Int> {
        let (end, wraps) = offset.addingReportingOverflow(size)
        guard !wraps, end <= UInt64(fileSize) else {
            throw .truncated(part: part, end: wraps ? .max : end, fileSize: UInt64(fileSize))
        }
        return Int(offset)..<Int(end)
    }

    // MARK: Notes

    /// The address in the note XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h).
    func pvhEntry(in file: [UInt8]) throws(BootError) -> UInt64 {
        try Self.pvhEntry(in: notes.map { file[$0.prefix(Self.noteLimit)] })
    }

    static func pvhEntry(in notes: [ArraySlice<UInt8>]) throws(BootError) -> UInt64 {
        for note in notes {
            if let entry = try pvhEntry(inNotes: Array(note)) { return entry }
        }
        throw .noEntryProtocol
    }

    private static func pvhEntry(inNotes bytes: [UInt8]) throws(BootError) -> UInt64? {
        let physicalEntry32: UInt32 = 18
        var position = 0
        // Every round advances by at least the 12 bytes of a note's header.
        while bytes.count - position >= 12 {
            guard let nameSize = bytes.load(littleEndian: UInt32.self, at: position),
                let size = bytes.load(littleEndian: UInt32.self, at: position + 4),
                let type = bytes.load(littleEndian: UInt32.self, at: position + 8)
            else { break }
            let name = position + 12
            let descriptor = name + (Int(nameSize) + 3) & ~3
            let next = descriptor + (Int(size) + 3) & ~3
            let isXen =
                nameSize == 4 && bytes.count - name >= 4
                && bytes[name..<(name + 4)].elementsEqual([0x58, 0x65, 0x6E, 0])
            if isXen, type == physicalEntry32 {
                let wanted = Int(size)
                guard wanted == 4 || wanted == 8, bytes.count - descriptor >= wanted else {
                    throw .shortEntryNote(size: min(wanted, max(bytes.count - descriptor, 0)))
                }
                return wanted == 4
                    ? UInt64(bytes.load(littleEndian: UInt32.self, at: descriptor) ?? 0)
                    : bytes.load(littleEndian: UInt64.self, at: descriptor) ?? 0
            }
            guard next <= bytes.count else { break }
            position = next
        }
        return nil
    }

    /// For `collect`.
    var emptyNotes: [[UInt8]] { notes.map { _ in [] } }

    /// Adds what `piece` at `offset` of the file has of the notes, when the pieces come in order.
    func collect(_ found: inout [[UInt8]], _ piece: ArraySlice<UInt8>, at offset: Int) {
        for (index, note) in notes.enumerated() {
            found[index] += Self.common(note.prefix(Self.noteLimit), piece, at: offset)
        }
    }

    /// What `piece` at `offset` of the file has of `range`.
    private static func common(
        _ range: Range<Int>, _ piece: ArraySlice<UInt8>, at offset: Int
    ) -> ArraySlice<UInt8> {
        let both = range.clamped(to: offset..<(offset + piece.count))
        return piece.dropFirst(both.lowerBound - offset).prefix(both.count)
    }

    // MARK: Placing

    /// Copies all segments to their physical addresses. The entry must lie in one of them, below 4 GiB.
    func place(_ file: [UInt8], entry: UInt64, in places: inout PlacementMap) throws(BootError) {
        // Claim everything before the first byte moves, so that a refused kernel leaves memory alone.
        try claim(in: &places)
        try check(entry: entry)
        try install(file[...], at: 0, in: places)
        try zeroRests(in: places)
    }

    /// Takes the memory of all segments.
    func claim(in places: inout PlacementMap) throws(BootError) {
        for segment in segments {
            try places.claim(Self.part, at: segment.address, size: segment.memorySize)
        }
        // Not the rest, which is given back to the host.
        for segment in segments { places.announce(segment.address, size: UInt64(segment.file.count)) }
    }
    private static let part = "kernel segment"

    /// Gives it back, zeroed.
    func release(from places: inout PlacementMap) throws(BootError) {
        for segment in segments {
            try places.zero(Self.part, at: segment.address, size: segment.memorySize)
            places.release(at: segment.address)
        }
    }

    func check(entry: UInt64) throws(BootError) {
        guard entry < 1 << 32,
            segments.contains(where: { entry >= $0.address && entry - $0.address < $0.memorySize })
        else { throw .malformed(field: "entry address", value: entry) }
    }

    /// Copies what `piece` at `offset` of the file has of the segments.
    func install(
        _ piece: ArraySlice<UInt8>, at offset: Int, in places: PlacementMap
    ) throws(BootError) {
        for segment in segments {
            let bytes = Self.common(segment.file, piece, at: offset)
            guard !bytes.isEmpty else { continue }
            let place = max(offset - segment.file.lowerBound, 0)
            try places.install(Self.part, bytes, at: segment.address + UInt64(place))
        }
    }

    /// Zeroes what the file has nothing for.
    func zeroRests(in places: PlacementMap) throws(BootError) {
        for segment in segments {
            let filled = UInt64(segment.file.count)
            try places.zero(Self.part, at: segment.address + filled, size: segment.memorySize - filled)
        }
    }
}

/// Fields whose width depends on the ELF class.
private struct FieldReader {
    let file: [UInt8]
    let isWide: Bool
    init(_ file: [UInt8], isWide: Bool) {
        self.file = file
        self.isWide = isWide
    }

    private func field<T: FixedWidthInteger>(_: T.Type, _ offset: Int) throws(BootError) -> T {
        guard let value = file.load(littleEndian: T.self, at: offset) else {
            throw .truncated(
                part: "ELF header", end: UInt64(offset + T.bitWidth / 8), fileSize: UInt64(file.count))
        }
        return value
    }
    func uint16(_ offset: Int) throws(BootError) -> UInt16 { try field(UInt16.self, offset) }
    func uint32(_ offset: Int) throws(BootError) -> UInt32 { try field(UInt32.self, offset) }
    /// An address, offset or size: 4 or 8 bytes.
    func word(_ offset: Int) throws(BootError) -> UInt64 {
        isWide ? try field(UInt64.self, offset) : UInt64(try field(UInt32.self, offset))
    }
}
