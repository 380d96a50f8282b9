internal import ByteLayout
public import GuestMemory

/// Recognizes kernel files and loads them. Every file is hostile: what is wrong with it ends in a
/// `BootError`.
public enum KernelImage: String, Sendable {
    case linux, pvh, multiboot

    /// What `file` is.
    /// - Throws: `BootError` when it is none of the formats, or cannot be started without a firmware.
    public static func recognize(_ file: [UInt8]) throws(BootError) -> KernelImage {
        if LinuxSetupHeader.isPresent(in: file) { return .linux }
        let hasMultiboot = MultibootHeader.find(in: file) != nil
        if ELFImage.isPresent(in: file) {
            // A multiboot loader starts 32-bit ELF files only; a 64-bit one with both headers means PVH.
            let image = try ELFImage(file)
            if hasMultiboot, !(image.is64Bit && (try? image.pvhEntry(in: file)) != nil) { return .multiboot }
            _ = try image.pvhEntry(in: file)
            return .pvh
        }
        if hasMultiboot { return .multiboot }
        for (format, magic) in compressedMagics where file.starts(with: magic) {
            throw .compressed(format: format)
        }
        throw .unrecognizedFormat
    }

    /// Loads `request.kernel` and what belongs to it into `memory`.
    /// - Throws: `BootError`; guest memory may then hold a part of the kernel.
    public static func load(_ request: BootRequest, into memory: GuestMemory) throws(BootError) -> BootPlan {
        switch try recognize(request.kernel) {
        case .linux:
            let request = try withLinuxWords(request)
            if request.unpacksKernel, let kernel = PackedKernel(request.kernel),
                let plan = try PVHLoader.load(request, kernel, into: memory)
            {
                return plan
            }
            return try LinuxLoader.load(request, into: memory)
        case .pvh: return try PVHLoader.load(request, into: memory)
        case .multiboot: return try MultibootLoader.load(request, into: memory)
        }
    }

    private static func withLinuxWords(_ request: BootRequest) throws(BootError) -> BootRequest {
        let words = [request.linuxWords, request.commandLine].filter { !$0.isEmpty }.joined(separator: " ")
        guard words.utf8.count <= (try LinuxSetupHeader(request.kernel)).commandLineLimit else {
            return request
        }
        var request = request
        request.commandLine = words
        return request
    }

    private static let compressedMagics: [(String, [UInt8])] = [
        ("gzip", [0x1F, 0x8B]), ("xz", [0xFD, 0x37, 0x7A, 0x58, 0x5A]), ("zstd", [0x28, 0xB5, 0x2F, 0xFD]),
        ("bzip2", [0x42, 0x5A, 0x68]), ("LZ4", [0x02, 0x21, 0x4C, 0x18]), ("LZ4", [0x04, 0x22, 0x4D, 0x18]),
    ]
}
