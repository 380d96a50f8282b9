import ByteLayout

@testable import BootLoaders

/// Kernel files built by hand: valid and minimal, with a `tweak` for each test to break.
enum SampleKernel {
    static let codeBytes: [UInt8] = (0..<4096).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ 3) }

    /// A bzImage of protocol 2.15 with two setup sectors.
    static func bzImage(
        entry64: Bool = true, version: UInt16 = 0x020F, tweak: (inout [UInt8]) -> Void = { _ in }
    ) -> [UInt8] {
        var file = [UInt8](repeating: 0, count: 3 * 512)
        file[0x1F1] = 2
        file.store(littleEndian: UInt32(codeBytes.count / 16), at: 0x1F4)
        file.store(littleEndian: UInt16(0xAA55), at: 0x1FE)
        file[0x200] = 0xEB
        file[0x201] = 0x6A
        file.store(littleEndian: UInt32(0x5372_6448), at: 0x202)
        file.store(littleEndian: version, at: 0x206)
        file[0x211] = 1
        file.store(littleEndian: UInt32(0x10_0000), at: 0x214)
        file.store(littleEndian: UInt32(0x7FFF_FFFF), at: 0x22C)
        file.store(littleEndian: UInt32(0x20_0000), at: 0x230)
        file[0x234] = 1
        file.store(littleEndian: UInt16(entry64 ? 1 : 0), at: 0x236)
        file.store(littleEndian: UInt32(2047), at: 0x238)
        file.store(littleEndian: UInt32(16), at: 0x248)
        file.store(littleEndian: UInt32(1024), at: 0x24C)
        file.store(littleEndian: UInt64(0xDEAD_BEEF), at: 0x250)
        file.store(littleEndian: UInt64(0x100_0000), at: 0x258)
        file.store(littleEndian: UInt32(0x10_0000), at: 0x260)
        file += codeBytes
        tweak(&file)
        return file
    }

    struct Segment {
        var type: UInt32 = 1
        var address: UInt64
        var bytes: [UInt8]
        /// Nil: as many as there are bytes.
        var memorySize: UInt64?
        var fileSize: UInt64?
    }

    /// An ELF executable; contents follow the headers, 16-byte aligned.
    static func elf(is64Bit: Bool = true, machine: UInt16 = 62, entry: UInt64, _ segments: [Segment])
        -> [UInt8]
    {
        let headerSize = is64Bit ? 64 : 52, entrySize = is64Bit ? 56 : 32
        var file: [UInt8] =
            [0x7F, 0x45, 0x4C, 0x46, is64Bit ? 2 : 1, 1, 1, 0] + [UInt8](repeating: 0, count: 8)
        func word(_ value: UInt64) {
            if is64Bit {
                file.append(littleEndian: value)
            } else {
                file.append(littleEndian: UInt32(truncatingIfNeeded: value))
            }
        }
        for field in [2, machine] as [UInt16] { file.append(littleEndian: field) }
        file.append(littleEndian: UInt32(1))
        word(entry)
        word(UInt64(headerSize))
        word(0)
        file.append(littleEndian: UInt32(0))
        for field in [headerSize, entrySize, segments.count, 0, 0, 0] {
            file.append(littleEndian: UInt16(field))
        }
        var offset = (headerSize + entrySize * segments.count + 15) & ~15
        for segment in segments {
            file.append(littleEndian: segment.type)
            if is64Bit { file.append(littleEndian: UInt32(7)) }
            word(UInt64(offset))
            word(segment.address)
            word(segment.address)
            word(segment.fileSize ?? UInt64(segment.bytes.count))
            word(segment.memorySize ?? UInt64(segment.bytes.count))
            if !is64Bit { file.append(littleEndian: UInt32(7)) }
            word(16)
            offset = (offset + segment.bytes.count + 15) & ~15
        }
        for segment in segments {
            file += [UInt8](repeating: 0, count: (16 - file.count % 16) % 16)
            file += segment.bytes
        }
        return file
    }

    static func note(name: String = "Xen", type: UInt32 = 18, descriptor: [UInt8]) -> [UInt8] {
        let text = Array(name.utf8) + [0]
        var note: [UInt8] = []
        note.append(littleEndian: UInt32(text.count))
        note.append(littleEndian: UInt32(descriptor.count))
        note.append(littleEndian: type)
        for part in [text, descriptor] {
            note += part
            note += [UInt8](repeating: 0, count: (4 - note.count % 4) % 4)
        }
        return note
    }

    static func bytes(_ value: UInt64, count: Int = 8) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    /// A kernel like Linux's vmlinux: a foreign note before the right one.
    static func pvh(is64Bit: Bool = true, notes: [UInt8]? = nil, extra: [Segment] = []) -> [UInt8] {
        let both = note(name: "GNU", type: 3, descriptor: [1, 2, 3]) + note(descriptor: bytes(0x100_0010))
        return elf(
            is64Bit: is64Bit, machine: is64Bit ? 62 : 3, entry: 0xFFFF_FFFF_8100_0000,
            [
                Segment(address: 0x100_0000, bytes: codeBytes, memorySize: 0x3000),
                Segment(type: 4, address: 0, bytes: notes ?? both),
            ] + extra)
    }

    static func multibootHeader(flags: UInt32, fields: [UInt32] = []) -> [UInt8] {
        var header: [UInt8] = []
        for field in [0x1BAD_B002, flags, 0 &- (0x1BAD_B002 &+ flags)] + fields {
            header.append(littleEndian: field)
        }
        return header
    }

    /// As kvm-unit-tests are: ELF32 at 4 MiB.
    static func multibootELF(flags: UInt32 = 3) -> [UInt8] {
        elf(
            is64Bit: false, machine: 3, entry: 0x40_0020,
            [
                Segment(
                    address: 0x40_0000, bytes: multibootHeader(flags: flags) + codeBytes, memorySize: 0x2_0000
                )
            ])
    }

    /// With address fields and 64 bytes before the text.
    static func multibootFlat(
        header: UInt32 = 0x20_0000, load: UInt32 = 0x20_0000, loadEnd: UInt32 = 0, bssEnd: UInt32 = 0x20_8000,
        entry: UInt32 = 0x20_0040
    ) -> [UInt8] {
        [UInt8](repeating: 0x90, count: 64)
            + multibootHeader(flags: 0x1_0003, fields: [header, load, loadEnd, bssEnd, entry]) + codeBytes
    }
}
