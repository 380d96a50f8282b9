internal import ByteLayout

/// The ELF kernel that a bzImage carries behind its decompressor (Linux Documentation/arch/x86/boot.rst,
/// `payload_offset`). Unpacking it here saves the guest that work; what we cannot unpack decompresses itself.
enum PackedKernel {
    /// More than any kernel; a lie about the size must not cost the host's memory.
    private static let largestKernel = 256 << 20

    /// The kernel, when it is packed with LZ4 and has a PVH entry; nil otherwise.
    static func unpack(_ file: [UInt8]) -> [UInt8]? {
        guard let header = try? LinuxSetupHeader(file), header.version >= 0x0208,
            let offset = file.load(littleEndian: UInt32.self, at: LinuxSetupHeader.Offset.payloadOffset),
            let length = file.load(littleEndian: UInt32.self, at: LinuxSetupHeader.Offset.payloadLength)
        else { return nil }
        let start = header.setupSize + Int(offset), end = start + Int(length)
        // The payload ends with the size of its content.
        guard length > 8, end <= file.count, LZ4Stream.isPresent(in: file, at: start),
            let size = file.load(littleEndian: UInt32.self, at: end - 4), size <= largestKernel,
            let kernel = LZ4Stream.content(of: file, in: start..<(end - 4), size: Int(size)),
            let image = try? ELFImage(kernel), (try? image.pvhEntry(in: kernel)) != nil
        else { return nil }
        return kernel
    }
}
