import ByteLayout
import Foundation
import GuestMemory
import Testing

@testable import FirmwareTables

/// The configurations whose tables are pinned: a small PC, one with everything, and the micro machine.
enum SamplePlatform: String, CaseIterable, Sendable {
    case oneProcessor = "pc-1", fourProcessors = "pc-4", micro = "micro"

    var platform: PlatformDescription {
        switch self {
        case .oneProcessor:
            var platform = PlatformDescription(processors: 1)
            platform.hasKeyboardController = false
            platform.panicPort = nil
            return platform
        case .fourProcessors:
            var platform = PlatformDescription(processors: 4)
            platform.serialPorts = PlatformDescription.SerialPort.standard
            platform.hasVGA = true
            platform.pciWindow64 = .init(start: 0x80_0000_0000, size: 0x80_0000_0000)
            return platform
        case .micro:
            var platform = PlatformDescription(processors: 2)
            platform.hasPCI = false
            platform.hasLegacyController = false
            platform.hasKeyboardController = false
            platform.hpetAddress = nil
            platform.virtio = [
                .init(window: .init(start: 0xD000_0000, size: 0x1000), interrupt: 16),
                .init(window: .init(start: 0xD000_1000, size: 0x1000), interrupt: 17),
            ]
            return platform
        }
    }

    var system: SystemDescription {
        var ram: [Range<UInt64>] = [0..<(512 << 20)]
        if self == .fourProcessors { ram = [0..<0xC000_0000, (1 << 32)..<0x1_8000_0000] }
        return SystemDescription(uuid: (0..<16).map { $0 }, ram: ram, processors: platform.apicIDs.count)
    }

    /// Every table by name, as it lies in guest memory.
    func place() throws -> [(name: String, bytes: [UInt8])] {
        let memory = testMemory()
        let placed = try FirmwareTableArea.place(platform, system, in: memory)
        return try placed.tables.map { ($0.name, try memory.bytes($0.start, count: Int($0.size))) }
    }
}

func sum(_ bytes: some Sequence<UInt8>) -> UInt8 { bytes.reduce(0, &+) }

@Suite struct FirmwareTableTests {
    @Test(arguments: SamplePlatform.allCases)
    func `every pointer leads to a table whose checksum is right`(sample: SamplePlatform) throws {
        let memory = testMemory()
        let placed = try FirmwareTableArea.place(sample.platform, sample.system, in: memory)
        func table(_ address: UInt64, _ signature: String) throws -> [UInt8] {
            let header = try memory.bytes(GuestAddress(address), count: 8)
            #expect(header.prefix(4).elementsEqual(signature.utf8))
            let size = try #require(header.load(littleEndian: UInt32.self, at: 4))
            let bytes = try memory.bytes(GuestAddress(address), count: Int(size))
            if signature != "FACS" { #expect(sum(bytes) == 0, "\(signature)") }
            return bytes
        }
        #expect(placed.rsdp.raw % 16 == 0)
        let root = try memory.bytes(placed.rsdp, count: 36)
        #expect(root.prefix(8).elementsEqual("RSD PTR ".utf8) && sum(root.prefix(20)) == 0 && sum(root) == 0)
        let rsdt = try table(UInt64(try #require(root.load(littleEndian: UInt32.self, at: 16))), "RSDT")
        let xsdt = try table(try #require(root.load(littleEndian: UInt64.self, at: 24)), "XSDT")
        let names =
            sample == .micro ? ["FACP", "APIC", "WAET"] : ["FACP", "APIC", "MCFG", "HPET", "WAET"]
        for (index, name) in names.enumerated() {
            let old = try #require(rsdt.load(littleEndian: UInt32.self, at: 36 + index * 4))
            let new = try #require(xsdt.load(littleEndian: UInt64.self, at: 36 + index * 8))
            #expect(UInt64(old) == new)
            _ = try table(new, name)
        }
        #expect(xsdt.count == 36 + names.count * 8)
        let fixed = try table(try #require(xsdt.load(littleEndian: UInt64.self, at: 36)), "FACP")
        let control = try #require(fixed.load(littleEndian: UInt32.self, at: 36))
        #expect(control % 64 == 0)
        _ = try table(UInt64(control), "FACS")
        let dsdt = try #require(fixed.load(littleEndian: UInt32.self, at: 40))
        #expect(fixed.load(littleEndian: UInt64.self, at: 140) == UInt64(dsdt))
        _ = try table(UInt64(dsdt), "DSDT")
    }

    @Test(arguments: SamplePlatform.allCases)
    func `the tables stay in their area and apart`(sample: SamplePlatform) throws {
        let placed = try FirmwareTableArea.place(sample.platform, sample.system, in: testMemory())
        var end: UInt64 = 0xE_0000
        for table in placed.tables {
            #expect(table.start.raw >= end, "\(table.name)")
            end = table.start.raw + table.size
        }
        #expect(end <= 0x10_0000)
    }

    @Test func `the fixed table says what the machine has`() throws {
        let expected: [(SamplePlatform, UInt16)] = [(.oneProcessor, 0x05), (.fourProcessors, 0x03)]
        for (sample, boot) in expected {
            let fixed = FixedTable.build(sample.platform).bytes
            #expect(fixed.count == 276)
            #expect(fixed.load(littleEndian: UInt16.self, at: 109) == boot)
            #expect(fixed.load(littleEndian: UInt16.self, at: 46) == 9)
            let flags = try #require(fixed.load(littleEndian: UInt32.self, at: 112))
            #expect(flags & 1 << 10 != 0 && flags & 1 << 4 == 0 && flags & 1 << 20 == 0)
            #expect(fixed.load(littleEndian: UInt64.self, at: 120) == 0xCF9 && fixed[128] == 6)
            // The generic addresses agree with the old blocks.
            for (old, new) in [(56, 148), (64, 172), (76, 208), (80, 220)] {
                let port = try #require(fixed.load(littleEndian: UInt32.self, at: old))
                #expect(port != 0 && fixed.load(littleEndian: UInt64.self, at: new + 4) == UInt64(port))
                #expect(fixed[new] == 1)
            }
        }
    }

    @Test func `processors beyond APIC id 254 get x2APIC structures`() {
        var platform = PlatformDescription(processors: 3)
        platform.apicIDs = [0, 254, 255]
        let body = Array(InterruptTable.build(platform).bytes.dropFirst(44))
        var types: [UInt8] = []
        var offset = 0
        while offset < body.count {
            types.append(body[offset])
            offset += Int(body[offset + 1])
        }
        #expect(offset == body.count && types == [0, 0, 9, 1, 2, 2, 4, 10])
    }

    @Test func `tables that do not fit are refused`() {
        var platform = PlatformDescription(processors: 4096)
        #expect(throws: FirmwareTableError.self) {
            try FirmwareTableArea.place(platform, SamplePlatform.oneProcessor.system, in: testMemory())
        }
        platform = PlatformDescription(processors: 1024)
        #expect(throws: Never.self) {
            try FirmwareTableArea.place(platform, SamplePlatform.oneProcessor.system, in: testMemory())
        }
        let port = PlatformDescription.SerialPort.standard[0]
        platform.serialPorts = [PlatformDescription.SerialPort](repeating: port, count: 5)
        #expect(throws: FirmwareTableError.notExpressible("more than four serial ports")) {
            try FirmwareTableArea.place(platform, SamplePlatform.oneProcessor.system, in: testMemory())
        }
    }

    /// Type 17 (SMBIOS 3.6 §7.18): size in MiB at 0Ch, or at 1Ch where that is 7FFFh; type at 12h.
    @Test func `SMBIOS names every memory module`() throws {
        var system = SamplePlatform.oneProcessor.system
        system.memoryModules = [128 << 30, 256 << 20]
        let tables = try LoadableTables(SamplePlatform.oneProcessor.platform, system)
        let table = tables.systemTables
        var place = 0, found: [UInt32] = []
        while place + 4 <= table.count, table[place] != 127 {
            if table[place] == 16 { #expect(table[place + 0x0D] == 2) }
            if table[place] == 17 {
                let short = try #require(table.load(littleEndian: UInt16.self, at: place + 0x0C))
                let long = try #require(table.load(littleEndian: UInt32.self, at: place + 0x1C))
                found.append(short == 0x7FFF ? long : UInt32(short))
                #expect(table[place + 0x12] == 0x18)
            }
            place += Int(table[place + 1])
            while table[place] != 0 || table[place + 1] != 0 { place += 1 }
            place += 2
        }
        #expect(found == [131_072, 256])
    }

    @Test func `SMBIOS structures chain to the end`() throws {
        let tables = try SamplePlatform.fourProcessors.place()
        let table = try #require(tables.first { $0.name == "SMBIOS" }).bytes
        let entries = try #require(tables.first { $0.name == "SMBIOS entry points" }).bytes
        #expect(sum(entries.prefix(24)) == 0 && sum(entries[32..<63]) == 0 && sum(entries[48..<63]) == 0)
        #expect(entries.load(littleEndian: UInt32.self, at: 12) == UInt32(table.count))
        var types: [UInt8] = []
        var offset = 0
        while offset < table.count, types.last != 127 {
            types.append(table[offset])
            if table[offset] == 1 {
                #expect(
                    Array(table[offset + 8..<offset + 12]) == [3, 2, 1, 0], "UUID fields are little-endian")
            }
            offset += Int(table[offset + 1])
            while table[offset] != 0 || table[offset + 1] != 0 { offset += 1 }
            offset += 2
        }
        #expect(types == [0, 1, 2, 3, 4, 16, 17, 19, 19, 32, 127] && offset == table.count)
        #expect(entries.load(littleEndian: UInt16.self, at: 32 + 28) == UInt16(types.count))
    }

    @Test(arguments: [(0, 1), (0x3E, 1), (0x3F, 2), (0xFFD, 2), (0xFFE, 3), (0xF_FFFC, 3), (0xF_FFFD, 4)])
    func `a package length counts its own bytes`(content: Int, expected: Int) {
        let bytes = AML.packageLength(content)
        #expect(bytes.count == expected && Int(bytes[0] >> 6) == expected - 1)
        let low = bytes.count == 1 ? Int(bytes[0]) : Int(bytes[0] & 0xF)
        let value = bytes.dropFirst().enumerated().reduce(low) { $0 | Int($1.element) << (4 + 8 * $1.offset) }
        #expect(value == content + expected)
    }
}

/// The pinned bytes. `OSPITE_BLESS=1 swift test --filter GoldenTableTests` writes them anew; read the
/// difference before you commit it.
@Suite struct GoldenTableTests {
    private func text(_ tables: [(name: String, bytes: [UInt8])]) -> String {
        tables.map { table in
            let rows = stride(from: 0, to: table.bytes.count, by: 32).map { start in
                table.bytes[start..<min(start + 32, table.bytes.count)]
                    .map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            }
            return ([table.name + " \(table.bytes.count)"] + rows).joined(separator: "\n") + "\n"
        }.joined()
    }

    @Test(arguments: SamplePlatform.allCases)
    func `the tables are the pinned ones`(sample: SamplePlatform) throws {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Golden/\(sample.rawValue).hex")
        let actual = text(try sample.place())
        if ProcessInfo.processInfo.environment["OSPITE_BLESS"] == "1" {
            try actual.write(to: file, atomically: true, encoding: .utf8)
        }
        let pinned = try String(contentsOf: file, encoding: .utf8)
        for (ours, theirs) in zip(actual.split(separator: "\n"), pinned.split(separator: "\n"))
        where ours != theirs {
            Issue.record("\(ours) instead of \(theirs)")
            break
        }
        #expect(actual == pinned)
    }
}
