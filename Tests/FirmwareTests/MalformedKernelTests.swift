import ByteLayout
import GuestMemory
import Testing

@testable import BootLoaders

/// One row per way to lie: the file, what loading it must answer, and anything else the request needs.
struct MalformedKernel: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let request: BootRequest
    let isExpected: @Sendable (BootError) -> Bool

    init(
        _ name: String, _ kernel: [UInt8], initrd: [UInt8]? = nil, commandLine: String = "",
        expecting isExpected: @escaping @Sendable (BootError) -> Bool
    ) {
        testDescription = name
        request = BootRequest(kernel: kernel, initrd: initrd, commandLine: commandLine)
        self.isExpected = isExpected
    }

    init(
        _ name: String, _ kernel: [UInt8], initrd: [UInt8]? = nil, commandLine: String = "",
        _ error: BootError
    ) {
        self.init(name, kernel, initrd: initrd, commandLine: commandLine) { $0 == error }
    }

    private static func isOutside(_ error: BootError) -> Bool {
        if case .outsideRAM = error { true } else { false }
    }
    private static func isTruncated(_ error: BootError) -> Bool {
        if case .truncated = error { true } else { false }
    }
    private static func isMalformed(_ field: String) -> @Sendable (BootError) -> Bool {
        { if case .malformed(field, _) = $0 { true } else { false } }
    }
    private static func isOverlap(_ error: BootError) -> Bool {
        if case .overlap = error { true } else { false }
    }

    static let files: [MalformedKernel] = [
        .init("an empty file", [], .unrecognizedFormat),
        .init("zeroes", [UInt8](repeating: 0, count: 10_000), .unrecognizedFormat),
        .init("a gzip stream", [0x1F, 0x8B, 8, 0], .compressed(format: "gzip")),
    ]

    static let linux: [MalformedKernel] = [
        .init("protocol 2.02", SampleKernel.bzImage(version: 0x0202), .protocolTooOld(version: 0x0202)),
        .init("a zImage", SampleKernel.bzImage { $0[0x211] = 0 }, .protocolTooOld(version: 0x020F)),
        .init("setup_sects 255", SampleKernel.bzImage { $0[0x1F1] = 255 }, expecting: isTruncated),
        .init(
            "a file that ends in the header", Array(SampleKernel.bzImage().prefix(0x210)),
            expecting: isTruncated),
        .init(
            "a file that ends in the setup", Array(SampleKernel.bzImage().prefix(1536)),
            expecting: isTruncated),
        .init(
            "a file that ends in the code", Array(SampleKernel.bzImage().prefix(4000)), expecting: isTruncated
        ),
        .init(
            "a payload beyond the file",
            SampleKernel.bzImage { $0.store(littleEndian: UInt32(4096), at: 0x24C) }, expecting: isTruncated),
        .init(
            "a payload whose end wraps",
            SampleKernel.bzImage {
                $0.store(littleEndian: UInt32.max, at: 0x248)
                $0.store(littleEndian: UInt32.max, at: 0x24C)
            }, expecting: isTruncated),
        .init(
            "an alignment that is no power of two",
            SampleKernel.bzImage { $0.store(littleEndian: UInt32(3), at: 0x230) },
            .malformed(field: "kernel_alignment", value: 3)),
        .init(
            "a preferred address that wraps",
            SampleKernel.bzImage { $0.store(littleEndian: UInt64.max, at: 0x258) },
            .malformed(field: "pref_address", value: .max)),
        .init(
            "a preferred address beyond RAM",
            SampleKernel.bzImage { $0.store(littleEndian: UInt64(0x3F0_0000), at: 0x258) },
            expecting: isOutside),
        .init(
            "a preferred address in the ROM area",
            SampleKernel.bzImage {
                $0[0x234] = 0
                $0.store(littleEndian: UInt64(0xA0000), at: 0x258)
            }, expecting: isOutside),
        .init(
            "a preferred address on the zero page",
            SampleKernel.bzImage {
                $0[0x234] = 0
                $0.store(littleEndian: UInt32(0), at: 0x260)
                $0.store(littleEndian: UInt64(0x9_1000), at: 0x258)
            }, expecting: isOverlap),
        .init(
            "init_size larger than RAM",
            SampleKernel.bzImage { $0.store(littleEndian: UInt32.max, at: 0x260) }, expecting: isOutside),
        .init(
            "an initrd larger than RAM", SampleKernel.bzImage(),
            initrd: [UInt8](repeating: 0, count: 64 << 20),
            .noRoom(part: "initrd", size: 64 << 20, below: 0x8000_0000)),
        .init(
            "no room below initrd_addr_max",
            SampleKernel.bzImage { $0.store(littleEndian: UInt32(0), at: 0x22C) }, initrd: [1],
            .noRoom(part: "initrd", size: 1, below: 1)),
        .init(
            "a command line above cmdline_size", SampleKernel.bzImage(),
            commandLine: String(repeating: "x", count: 2048), .commandLineTooLong(length: 2048, limit: 2047)),
        .init(
            "a command line above what we can place",
            SampleKernel.bzImage { $0.store(littleEndian: UInt32.max, at: 0x238) },
            commandLine: String(repeating: "x", count: 0xF001),
            .commandLineTooLong(length: 0xF001, limit: 0xF000)),
        .init("a NUL in the command line", SampleKernel.bzImage(), commandLine: "a\0b", .commandLineHasNUL),
    ]

    private static let code = SampleKernel.codeBytes
    private static let rightNote = SampleKernel.note(descriptor: SampleKernel.bytes(0x100_0010))

    private static func kernel(_ segments: [SampleKernel.Segment]) -> [UInt8] {
        SampleKernel.elf(entry: 0, segments + [.init(type: 4, address: 0, bytes: rightNote)])
    }

    static let elf: [MalformedKernel] = [
        .init("vmlinux without the note", SampleKernel.pvh(notes: []), .noEntryProtocol),
        .init(
            "a note of another vendor",
            SampleKernel.pvh(
                notes: SampleKernel.note(name: "Xem", descriptor: SampleKernel.bytes(0x100_0010))),
            .noEntryProtocol),
        .init(
            "a note with two bytes", SampleKernel.pvh(notes: SampleKernel.note(descriptor: [1, 2])),
            .shortEntryNote(size: 2)),
        .init(
            "a note cut off", SampleKernel.pvh(notes: Array(rightNote.dropLast(4))),
            .shortEntryNote(size: 4)),
        .init(
            "a note with an endless name",
            SampleKernel.pvh(notes: [255, 255, 255, 255] + rightNote.dropFirst(4)), .noEntryProtocol),
        .init(
            "an entry outside every segment",
            SampleKernel.pvh(notes: SampleKernel.note(descriptor: SampleKernel.bytes(0x200_0000))),
            .malformed(field: "entry address", value: 0x200_0000)),
        .init(
            "an entry above 4 GiB",
            SampleKernel.pvh(notes: SampleKernel.note(descriptor: SampleKernel.bytes(0x1_0100_0010))),
            .malformed(field: "entry address", value: 0x1_0100_0010)),
        .init(
            "p_filesz larger than p_memsz",
            kernel([.init(address: 0x100_0000, bytes: code, memorySize: 100)]),
            .malformed(field: "p_filesz", value: 4096)),
        .init(
            "p_filesz beyond the file",
            kernel([.init(address: 0x100_0000, bytes: code, memorySize: 1 << 40, fileSize: 1 << 40)]),
            expecting: isTruncated),
        .init(
            "p_paddr that wraps", kernel([.init(address: .max - 100, bytes: code)]),
            .malformed(field: "p_paddr", value: .max - 100)),
        .init(
            "a segment beyond RAM", kernel([.init(address: 0x400_0000, bytes: code)]), expecting: isOutside),
        .init(
            "a segment whose bss leaves RAM",
            kernel([.init(address: 0x100_0000, bytes: code, memorySize: 0x300_0001)]), expecting: isOutside),
        .init(
            "a segment in the ROM area", kernel([.init(address: 0xA_0000, bytes: code)]), expecting: isOutside
        ),
        .init(
            "overlapping segments",
            kernel([.init(address: 0x100_0000, bytes: code), .init(address: 0x100_0FFF, bytes: code)]),
            expecting: isOverlap),
        .init(
            "a segment over the low structures", kernel([.init(address: 0x9_0000, bytes: code)]),
            expecting: isOverlap),
        .init("a segment over the BIOS data", kernel([.init(address: 0, bytes: code)]), expecting: isOverlap),
        .init("no segments", SampleKernel.elf(entry: 0, []), expecting: isMalformed("e_phnum")),
        .init("only notes", kernel([]), expecting: isMalformed("number of loadable segments")),
        .init(
            "too many segments",
            kernel((0..<64).map { .init(address: 0x100_0000 + UInt64($0) << 12, bytes: [1]) }),
            expecting: isMalformed("e_phnum")),
        .init(
            "an ARM kernel",
            SampleKernel.elf(machine: 183, entry: 0, [.init(address: 0x100_0000, bytes: code)]),
            .wrongProcessor(machine: 183)),
        .init("only the ELF magic", [0x7F, 0x45, 0x4C, 0x46], expecting: isTruncated),
        .init(
            "an initrd larger than RAM", SampleKernel.pvh(), initrd: [UInt8](repeating: 0, count: 64 << 20),
            .noRoom(part: "module 1", size: 64 << 20, below: 1 << 32)),
    ]

    static let multiboot: [MalformedKernel] = [
        .init(
            "an unknown mandatory flag", SampleKernel.multibootELF(flags: 0x11),
            .malformed(field: "set of multiboot flags", value: 0x11)),
        .init(
            "header_addr below load_addr", SampleKernel.multibootFlat(header: 0x10_0000),
            expecting: isMalformed("multiboot header_addr")),
        .init(
            "a load_addr before the file", SampleKernel.multibootFlat(load: 0x10_0000),
            expecting: isMalformed("multiboot header_addr")),
        .init(
            "load_end_addr below load_addr", SampleKernel.multibootFlat(loadEnd: 0x1F_FFFF),
            expecting: isMalformed("multiboot load_end_addr")),
        .init(
            "load_end_addr beyond the file", SampleKernel.multibootFlat(loadEnd: 0xFFFF_FFFF),
            expecting: isTruncated),
        .init(
            "bss_end_addr inside the text", SampleKernel.multibootFlat(bssEnd: 0x20_0010),
            expecting: isMalformed("multiboot bss_end_addr")),
        .init(
            "bss_end_addr beyond RAM", SampleKernel.multibootFlat(bssEnd: 0xFFFF_FFFF), expecting: isOutside),
        .init(
            "an entry outside the text", SampleKernel.multibootFlat(entry: 0x10_0000),
            expecting: isMalformed("multiboot entry_addr")),
        .init(
            "text that wraps the address space",
            SampleKernel.multibootFlat(header: 0xFFFF_FF00, load: 0xFFFF_FF00, bssEnd: 0, entry: 0xFFFF_FF40),
            expecting: isOutside),
        .init(
            "a header cut off", Array(SampleKernel.multibootFlat().prefix(64 + 20)), expecting: isTruncated),
    ]
}

@Suite struct MalformedKernelTests {
    private func check(_ kernel: MalformedKernel) {
        do throws(BootError) {
            _ = try KernelImage.load(kernel.request, into: testMemory())
            Issue.record("\(kernel.testDescription) was accepted")
        } catch {
            #expect(kernel.isExpected(error), "\(error)")
            #expect(error.description.hasSuffix(".") && error.description.contains(" "))
        }
    }

    @Test(arguments: MalformedKernel.files) func `what is no kernel is refused`(kernel: MalformedKernel) {
        check(kernel)
    }
    @Test(arguments: MalformedKernel.linux) func `a lying bzImage is refused`(kernel: MalformedKernel) {
        check(kernel)
    }
    @Test(arguments: MalformedKernel.elf) func `a lying ELF kernel is refused`(kernel: MalformedKernel) {
        check(kernel)
    }
    @Test(arguments: MalformedKernel.multiboot)
    func `a lying multiboot image is refused`(kernel: MalformedKernel) { check(kernel) }

    @Test func `too many modules are refused by every protocol`() {
        for kernel in [SampleKernel.bzImage(), SampleKernel.pvh(), SampleKernel.multibootELF()] {
            var request = BootRequest(kernel: kernel)
            request.modules = [BootRequest.Module](repeating: .init(file: [1]), count: 65)
            #expect(throws: BootError.self) { try KernelImage.load(request, into: testMemory()) }
        }
    }

    @Test func `module strings that do not fit are refused`() {
        var request = BootRequest(kernel: SampleKernel.multibootELF())
        request.modules = [.init(file: [1], commandLine: String(repeating: "m", count: 0x4000))]
        #expect(throws: BootError.self) { try KernelImage.load(request, into: testMemory()) }
    }
}
