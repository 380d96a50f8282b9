/// Why a kernel file cannot be started directly. Every description is one plain sentence that says what to
/// do.
///
/// The sentences name no host path: the caller knows which file it opened.
public enum BootError: Error, Equatable, Sendable, CustomStringConvertible {
    /// No header of a protocol that we speak.
    case unrecognizedFormat
    /// The file is a compressed stream; `format` is the compressor's name.
    case compressed(format: String)
    /// The file ends before a part that its headers announce. In bytes from the start of the file.
    case truncated(part: String, end: UInt64, fileSize: UInt64)
    /// A field has a value that its specification does not allow.
    case malformed(field: String, value: UInt64)
    /// A Linux image whose boot protocol is older than we can start; `version` is 0xMMmm.
    case protocolTooOld(version: UInt16)
    /// An ELF file for another processor; `machine` is e_machine.
    case wrongProcessor(machine: UInt16)
    /// An ELF kernel without the note or header that says where a loader enters it.
    case noEntryProtocol
    /// The Xen PHYS32_ENTRY note is too short for an address.
    case shortEntryNote(size: Int)
    /// Something has to lie at an address where the machine has no RAM.
    case outsideRAM(part: String, start: UInt64, size: UInt64)
    /// Two things want the same guest addresses.
    case overlap(part: String, other: String, start: UInt64, size: UInt64)
    /// No free run of RAM is long enough.
    case noRoom(part: String, size: UInt64, below: UInt64)
    /// The command line is longer than the kernel or the loader accepts, in bytes.
    case commandLineTooLong(length: Int, limit: Int)
    /// The command line contains a NUL, which would end it early.
    case commandLineHasNUL
    /// More modules than the loader passes on.
    case tooManyModules(count: Int, limit: Int)

    public var description: String {
        switch self {
        case .unrecognizedFormat:
            return "The kernel file is no bzImage, no ELF kernel and no multiboot image; "
                + "give a file in one of these formats."
        case .compressed(let format):
            return "The kernel file is compressed with \(format); decompress it first and give the result."
        case .truncated(let part, let end, let fileSize):
            return "The kernel file ends at byte \(fileSize), but its \(part) reaches byte \(end); "
                + "get a complete copy of the file."
        case .malformed(let field, let value):
            return "The kernel file is damaged: its \(field) is \(hexadecimal(value)), which is not allowed; "
                + "get another copy of the file."
        case .protocolTooOld(let version):
            return "The kernel speaks Linux boot protocol \(version >> 8).\(version & 0xFF), "
                + "which is too old for a direct start; boot it from a disk or CD image instead."
        case .wrongProcessor(let machine):
            return "The kernel is built for another processor (ELF machine \(machine)); "
                + "give a kernel for x86 or x86-64."
        case .noEntryProtocol:
            return "The ELF kernel has neither a PVH entry note nor a multiboot header; "
                + "give its bzImage, or build it with CONFIG_PVH=y."
        case .shortEntryNote(let size):
            return "The kernel's PVH entry note holds \(size) bytes instead of 4 or 8; "
                + "build the kernel again or give its bzImage."
        default: return placementDescription
        }
    }

    private var placementDescription: String {
        switch self {
        case .outsideRAM(let part, let start, let size):
            return
                "The \(part) needs \(size) bytes at \(hexadecimal(start)), where the machine has no "
                + "free RAM; give the machine more memory or use another kernel."
        case .overlap(let part, let other, let start, let size):
            return "The \(part) (\(size) bytes at \(hexadecimal(start))) overlaps the \(other); "
                + "use a kernel that is linked to another address."
        case .noRoom(let part, let size, let below):
            return "The \(part) of \(size) bytes does not fit into free RAM below \(hexadecimal(below)); "
                + "give the machine more memory."
        case .commandLineTooLong(let length, let limit):
            return
                "The kernel command line has \(length) bytes, but at most \(limit) are possible; shorten it."
        case .commandLineHasNUL:
            return "The kernel command line contains a NUL character; remove it."
        case .tooManyModules(let count, let limit):
            return "\(count) modules were given, but at most \(limit) can be passed to the kernel; "
                + "pack them into fewer files."
        default: return "The kernel cannot be started."
        }
    }
}

func hexadecimal(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
