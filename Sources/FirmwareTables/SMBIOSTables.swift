internal import ByteLayout

/// The SMBIOS structure table and its entry points (SMBIOS 3.6).
struct SMBIOSTables {
    private enum Handle {
        static let firmware: UInt16 = 0x000, system: UInt16 = 0x100, board: UInt16 = 0x200
        static let chassis: UInt16 = 0x300, processor: UInt16 = 0x400, memoryArray: UInt16 = 0x1000
        static let memoryDevice: UInt16 = 0x1100, mappedMemory: UInt16 = 0x1300, boot: UInt16 = 0x2000
        static let end: UInt16 = 0x7F00, none: UInt16 = 0xFFFF, noError: UInt16 = 0xFFFE
    }

    let system: SystemDescription

    private var structures: [SMBIOSStructure] {
        [firmware, machine, board, chassis, processor, memoryArray] + memoryDevices + mappedMemory + [
            boot, SMBIOSStructure(type: 127, handle: Handle.end),
        ]
    }

    /// All structures, ended by type 127.
    var table: [UInt8] { structures.flatMap(\.bytes) }

    /// §7.1: type 0.
    private var firmware: SMBIOSStructure {
        var structure = SMBIOSStructure(type: 0, handle: Handle.firmware)
        structure.add(string: system.manufacturer)
        structure.add(string: system.version)
        structure.add(word: 0xE000)
        structure.add(string: "01/01/2026")
        structure.add(0)
        // Characteristics: none known; extension: ACPI, a virtual machine, targeted content.
        structure.add(qword: 1 << 3)
        structure.add(0x01, 0x14)
        structure.add(0, 1, 0xFF, 0xFF)
        structure.add(word: 0)
        return structure
    }

    /// §7.2: type 1.
    private var machine: SMBIOSStructure {
        var structure = SMBIOSStructure(type: 1, handle: Handle.system)
        structure.add(string: system.manufacturer)
        structure.add(string: system.product)
        structure.add(string: system.version)
        structure.add(string: system.serialNumber)
        structure.add(bytes: mixedEndian(uuid: system.uuid))
        // Wake-up by power switch; no SKU, no family.
        structure.add(6, 0, 0)
        return structure
    }

    /// §7.3: type 2, a motherboard that hosts the rest.
    private var board: SMBIOSStructure {
        var structure = SMBIOSStructure(type: 2, handle: Handle.board)
        structure.add(string: system.manufacturer)
        structure.add(string: system.product)
        structure.add(string: system.version)
        structure.add(0, 0, 1, 0)
        structure.add(word: Handle.chassis)
        structure.add(0x0A, 0)
        return structure
    }

    /// §7.4: type 3, "other".
    private var chassis: SMBIOSStructure {
        var structure = SMBIOSStructure(type: 3, handle: Handle.chassis)
        structure.add(string: system.manufacturer)
        structure.add(1)
        structure.add(string: system.version)
        structure.add(0, 0)
        // Boot-up, power and thermal state safe; security unknown.
        structure.add(3, 3, 3, 2)
        structure.add(dword: 0)
        structure.add(0, 0, 0, 0, 0)
        return structure
    }

    /// §7.5: type 4, one socket with all processors as cores.
    private var processor: SMBIOSStructure {
        let cores = UInt16(clamping: system.processors), short = UInt8(clamping: system.processors)
        var structure = SMBIOSStructure(type: 4, handle: Handle.processor)
        structure.add(string: "CPU 0")
        // Central processor of another family.
        structure.add(3, 1)
        structure.add(string: system.manufacturer)
        structure.add(qword: 0)
        structure.add(string: system.version)
        structure.add(0)
        for speed in [0, 0, 0] as [UInt16] { structure.add(word: speed) }
        // Populated and enabled; no upgrade.
        structure.add(0x41, 1)
        for cache in [Handle.none, Handle.none, Handle.none] { structure.add(word: cache) }
        structure.add(0, 0, 0, short, short, short)
        // 64-bit capable.
        structure.add(word: 1 << 2)
        structure.add(word: 1)
        for count in [cores, cores, cores] { structure.add(word: count) }
        return structure
    }

    private var ramSize: UInt64 { system.ram.reduce(0) { $0 &+ UInt64($1.count) } }

    /// §7.17: type 16, system memory on the board without error correction.
    private var memoryArray: SMBIOSStructure {
        var structure = SMBIOSStructure(type: 16, handle: Handle.memoryArray)
        structure.add(3, 3, 3)
        // As large as its modules, which may be larger than what the guest has of them.
        let size = max(ramSize, system.memoryModules.reduce(0, &+))
        let kibibytes = size >> 10, isLarge = kibibytes >= 0x8000_0000
        structure.add(dword: isLarge ? 0x8000_0000 : UInt32(kibibytes))
        structure.add(word: Handle.noError)
        structure.add(word: UInt16(clamping: max(system.memoryModules.count, 1)))
        structure.add(qword: isLarge ? size : 0)
        return structure
    }

    /// §7.18.2 and §7.18.3: what a module is.
    private enum Module {
        static let memory: UInt8 = 0x07, other: UInt16 = 1 << 1
        static let ddr3: UInt8 = 0x18, synchronousUnbuffered: UInt16 = 1 << 7 | 1 << 14
    }

    private var memoryDevices: [SMBIOSStructure] {
        let modules = system.memoryModules
        guard !modules.isEmpty else { return [memoryDevice(0, ramSize, Module.memory, Module.other)] }
        return modules.enumerated().map {
            memoryDevice(UInt16(clamping: $0), $1, Module.ddr3, Module.synchronousUnbuffered)
        }
    }

    /// §7.18: type 17, a module of `size` bytes.
    private func memoryDevice(
        _ number: UInt16, _ size: UInt64, _ type: UInt8, _ detail: UInt16
    ) -> SMBIOSStructure {
        var structure = SMBIOSStructure(type: 17, handle: Handle.memoryDevice + number)
        let mebibytes = size >> 20, isLarge = mebibytes >= 0x7FFF
        structure.add(word: Handle.memoryArray)
        structure.add(word: Handle.noError)
        structure.add(word: 64)
        structure.add(word: 64)
        structure.add(word: isLarge ? 0x7FFF : UInt16(mebibytes))
        structure.add(9, 0)
        structure.add(string: "DIMM \(number)")
        structure.add(0, type)
        structure.add(word: detail)
        structure.add(word: 0)
        structure.add(string: system.manufacturer)
        structure.add(0, 0, 0, 0)
        structure.add(dword: isLarge ? UInt32(clamping: mebibytes) & 0x7FFF_FFFF : 0)
        for field in [0, 0, 0, 0] as [UInt16] { structure.add(word: field) }
        return structure
    }

    /// §7.20: type 19, one per run of addresses.
    private var mappedMemory: [SMBIOSStructure] {
        system.ram.enumerated().map { index, range in
            var structure = SMBIOSStructure(type: 19, handle: Handle.mappedMemory + UInt16(index))
            let first = range.lowerBound >> 10, last = (range.upperBound - 1) >> 10
            let isLarge = last >= UInt64(UInt32.max)
            structure.add(dword: isLarge ? .max : UInt32(first))
            structure.add(dword: isLarge ? .max : UInt32(last))
            structure.add(word: Handle.memoryArray)
            structure.add(1)
            structure.add(qword: isLarge ? range.lowerBound : 0)
            structure.add(qword: isLarge ? range.upperBound - 1 : 0)
            return structure
        }
    }

    /// §7.33: type 32, no errors detected.
    private var boot: SMBIOSStructure {
        var structure = SMBIOSStructure(type: 32, handle: Handle.boot)
        structure.add(0, 0, 0, 0, 0, 0, 0)
        return structure
    }

    /// §5.2.2: the 64-bit entry point, 24 bytes.
    static func entryPoint(table: UInt64, size: Int) -> [UInt8] {
        var bytes = Array("_SM3_".utf8) + [0, 24, 3, 6, 0, 1, 0]
        bytes.append(littleEndian: UInt32(size))
        bytes.append(littleEndian: table)
        bytes[5] = checksumComplement(bytes)
        return bytes
    }

    /// §5.2.1: the 32-bit entry point, 31 bytes, for systems that predate the other.
    func legacyEntryPoint(table address: UInt64) -> [UInt8] {
        let sizes = structures.map(\.bytes.count)
        var inner = Array("_DMI_".utf8) + [0]
        inner.append(littleEndian: UInt16(clamping: sizes.reduce(0, +)))
        inner.append(littleEndian: UInt32(truncatingIfNeeded: address))
        inner.append(littleEndian: UInt16(sizes.count))
        inner.append(0x28)
        inner[5] = checksumComplement(inner)
        var bytes = Array("_SM_".utf8) + [0, 31, 2, 8]
        bytes.append(littleEndian: UInt16(clamping: sizes.max() ?? 0))
        bytes += [UInt8](repeating: 0, count: 6) + inner
        bytes[4] = checksumComplement(bytes)
        return bytes
    }
}
