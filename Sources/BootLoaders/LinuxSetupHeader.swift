internal import ByteLayout

/// The setup header of a bzImage, Linux Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header").
/// Offsets are from the start of the file and the same in the zero page.
struct LinuxSetupHeader: Equatable {
    enum Offset {
        static let setupSectors = 0x1F1, systemSize = 0x1F4, bootFlag = 0x1FE, jump = 0x200, signature = 0x202
        static let version = 0x206, loaderType = 0x210, loadFlags = 0x211, code32Start = 0x214
        static let ramdiskImage = 0x218, ramdiskSize = 0x21C, commandLinePointer = 0x228
        static let initrdAddressMaximum = 0x22C, kernelAlignment = 0x230, relocatableKernel = 0x234
        static let extendedLoadFlags = 0x236, commandLineSize = 0x238, payloadOffset = 0x248
        static let payloadLength = 0x24C, setupData = 0x250, preferredAddress = 0x258, initSize = 0x260
        /// The zero page keeps other things from here on.
        static let limit = 0x290
    }
    static let signature: UInt32 = 0x5372_6448  // "HdrS"
    static let loadedHigh: UInt8 = 1
    static let kernel64: UInt16 = 1
    /// bzImages of all ages are linked to here.
    static let classicLoadAddress: UInt64 = 0x10_0000
    /// In a 64-bit image, startup_64 is this far after startup_32.
    static let entry64Offset: UInt64 = 0x200

    var version: UInt16
    /// Bytes before the protected-mode code.
    var setupSize: Int
    /// First byte after the header in the file.
    var headerEnd: Int
    var code32Start: UInt32
    /// The last address that an initrd may occupy.
    var initrdAddressMaximum: UInt64
    var kernelAlignment: UInt64
    var isRelocatable: Bool
    var hasEntry64: Bool
    /// In bytes, without the NUL.
    var commandLineLimit: Int
    var preferredAddress: UInt64
    /// Bytes the kernel needs from its load address until it manages memory itself; at least its own size.
    var memoryNeeded: UInt64

    static func isPresent(in file: [UInt8]) -> Bool {
        file.load(littleEndian: UInt32.self, at: Offset.signature) == signature
            && file.load(littleEndian: UInt16.self, at: Offset.bootFlag) == 0xAA55
    }

    private static func field<T: FixedWidthInteger>(
        _: T.Type, _ offset: Int, in file: [UInt8]
    ) throws(BootError) -> T {
        guard let value = file.load(littleEndian: T.self, at: offset) else {
            throw .truncated(
                part: "setup header", end: UInt64(offset + T.bitWidth / 8), fileSize: UInt64(file.count))
        }
        return value
    }

    /// Reads and checks the header.
    init(_ file: [UInt8]) throws(BootError) {
        func field<T: FixedWidthInteger & UnsignedInteger>(_: T.Type, _ offset: Int) throws(BootError) -> T {
            try Self.field(T.self, offset, in: file)
        }
        version = try field(UInt16.self, Offset.version)
        // 2.03 is the first with the 32-bit entry as it is today and initrd_addr_max.
        guard version >= 0x0203 else { throw .protocolTooOld(version: version) }
        guard try field(UInt8.self, Offset.loadFlags) & Self.loadedHigh != 0 else {
            throw .protocolTooOld(version: version)
        }
        let sectors = Int(try field(UInt8.self, Offset.setupSectors))
        setupSize = ((sectors == 0 ? 4 : sectors) + 1) * 512
        guard setupSize < file.count else {
            throw .truncated(
                part: "setup code", end: UInt64(setupSize) + 1, fileSize: UInt64(file.count))
        }
        headerEnd = min(
            Offset.signature + Int(try field(UInt8.self, Offset.jump + 1)), Offset.limit, setupSize)
        code32Start = try field(UInt32.self, Offset.code32Start)
        initrdAddressMaximum = UInt64(try field(UInt32.self, Offset.initrdAddressMaximum))

        let since205 = version >= 0x0205, since206 = version >= 0x0206
        kernelAlignment = since205 ? UInt64(try field(UInt32.self, Offset.kernelAlignment)) : 0
        isRelocatable = since205 ? try field(UInt8.self, Offset.relocatableKernel) != 0 : false
        commandLineLimit = since206 ? Int(try field(UInt32.self, Offset.commandLineSize)) : 255
        let extendedFlags = version >= 0x020C ? try field(UInt16.self, Offset.extendedLoadFlags) : 0
        hasEntry64 = extendedFlags & Self.kernel64 != 0
        let since20A = version >= 0x020A
        preferredAddress =
            since20A ? try field(UInt64.self, Offset.preferredAddress) : Self.classicLoadAddress
        let initSize = since20A ? UInt64(try field(UInt32.self, Offset.initSize)) : 0

        let codeSize = UInt64(file.count - setupSize)
        memoryNeeded = max(initSize, codeSize)
        if isRelocatable {
            if kernelAlignment == 0 { kernelAlignment = 0x10_0000 }
            guard kernelAlignment & (kernelAlignment - 1) == 0, kernelAlignment <= 1 << 30 else {
                throw .malformed(field: "kernel_alignment", value: kernelAlignment)
            }
        }
        try checkSizes(file, codeSize: codeSize)
    }

    /// What the header says about the protected-mode code must fit into the `codeSize` bytes that there are.
    private func checkSizes(_ file: [UInt8], codeSize: UInt64) throws(BootError) {
        // syssize counts 16-byte units, and the last one may be cut short.
        let announced = UInt64(try Self.field(UInt32.self, Offset.systemSize, in: file)) * 16
        guard announced <= codeSize + 15, !hasEntry64 || codeSize > Self.entry64Offset else {
            throw .truncated(
                part: "protected-mode code", end: UInt64(setupSize) + max(announced, Self.entry64Offset + 1),
                fileSize: UInt64(file.count))
        }
        guard version >= 0x0208 else { return }
        let offset = UInt64(try Self.field(UInt32.self, Offset.payloadOffset, in: file))
        let length = UInt64(try Self.field(UInt32.self, Offset.payloadLength, in: file))
        guard length == 0 || offset + length <= codeSize else {
            throw .truncated(
                part: "compressed payload", end: UInt64(setupSize) + offset + length,
                fileSize: UInt64(file.count))
        }
    }
}
