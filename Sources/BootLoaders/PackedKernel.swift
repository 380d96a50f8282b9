internal import ByteLayout
internal import GuestMemory

/// The ELF kernel that a bzImage carries behind its decompressor (Linux Documentation/arch/x86/boot.rst,
/// `payload_offset`). Unpacking it here saves the guest that work; what we cannot unpack decompresses itself.
struct PackedKernel {
    /// More than any kernel; a lie about the size must not cost the host's time.
    private static let largestKernel = 256 << 20

    private let file: [UInt8]
    private let frame: Range<Int>
    private let size: Int

    /// The kernel in `file`, when it is packed with LZ4; nil otherwise.
    init?(_ file: [UInt8]) {
        guard let header = try? LinuxSetupHeader(file), header.version >= 0x0208,
            let offset = file.load(littleEndian: UInt32.self, at: LinuxSetupHeader.Offset.payloadOffset),
            let length = file.load(littleEndian: UInt32.self, at: LinuxSetupHeader.Offset.payloadLength)
        else { return nil }
        let start = header.setupSize + Int(offset), end = start + Int(length)
        // The payload ends with the size of its content.
        guard length > 8, end <= file.count, let size = file.load(littleEndian: UInt32.self, at: end - 4),
            size <= Self.largestKernel
        else { return nil }
        self.file = file
        frame = start..<(end - 4)
        self.size = Int(size)
    }

    /// Copies the kernel's segments to their physical addresses, a block at a time; returns its PVH entry.
    /// Nil, with memory as it was: it is malformed, or has no such entry.
    func place(in places: inout PlacementMap) throws(BootError) -> UInt64? {
        guard var stream = LZ4Stream(file, in: frame, size: size), stream.next(),
            let image = try? ELFImage(head: Array(stream.piece.prefix(ELFImage.headLimit)), fileSize: size)
        else { return nil }
        try image.claim(in: &places)
        var notes = image.emptyNotes, offset = 0
        repeat {
            try image.install(stream.piece, at: offset, in: places)
            image.collect(&notes, stream.piece, at: offset)
            offset = size - stream.left
        } while stream.next()
        guard stream.left == 0, let entry = try? ELFImage.pvhEntry(in: notes.map { $0[...] }) else {
            try image.release(from: &places)
            return nil
        }
        try image.check(entry: entry)
        try image.zeroRests(in: places)
        return entry
    }
}
