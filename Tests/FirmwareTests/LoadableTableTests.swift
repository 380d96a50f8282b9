import ByteLayout
import GuestMemory
import Testing

@testable import FirmwareTables

/// What a firmware does with the script: gives each file a place, links and sums.
private struct LinkedTables {
    private(set) var files: [String: [UInt8]]
    private(set) var addresses: [String: UInt64] = [:]
    private(set) var alignments: [String: UInt32] = [:]

    init(_ tables: LoadableTables) throws {
        files = [
            LoadableTables.File.rootPointer: tables.rootPointer, LoadableTables.File.tables: tables.tables,
        ]
        try #require(tables.script.count % 128 == 0)
        for start in stride(from: 0, to: tables.script.count, by: 128) {
            try run(Array(tables.script[start..<start + 128]))
        }
    }

    private static func name(_ entry: [UInt8], at offset: Int) -> String {
        String(decoding: entry[offset..<offset + 56].prefix { $0 != 0 }, as: UTF8.self)
    }

    private mutating func run(_ entry: [UInt8]) throws {
        func word(_ offset: Int) throws -> Int {
            Int(try #require(entry.load(littleEndian: UInt32.self, at: offset)))
        }
        let file = Self.name(entry, at: 4)
        var bytes = try #require(files[file])
        switch try word(0) {
        case 1:
            addresses[file] = file == LoadableTables.File.rootPointer ? 0xF_5A00 : 0x7FF_0040
            alignments[file] = UInt32(try word(60))
            #expect(entry[64] == (file == LoadableTables.File.rootPointer ? 2 : 1))
        case 2:
            let target = try #require(addresses[Self.name(entry, at: 60)]), offset = try word(116)
            if entry[120] == 4 {
                let old = try #require(bytes.load(littleEndian: UInt32.self, at: offset))
                bytes.store(littleEndian: old + UInt32(target), at: offset)
            } else {
                let old = try #require(bytes.load(littleEndian: UInt64.self, at: offset))
                bytes.store(littleEndian: old + target, at: offset)
            }
        case 3:
            let (offset, first) = (try word(60), try word(64)), count = try word(68)
            try #require(first + count <= bytes.count && offset < bytes.count)
            bytes[offset] = bytes[offset] &- sum(bytes[first..<first + count])
        default: Issue.record("command \(try word(0))")
        }
        files[file] = bytes
    }

    /// `count` bytes as they lie in memory; tables by their own length.
    func table(at address: UInt64) throws -> [UInt8] {
        let bytes = try #require(files[LoadableTables.File.tables])
        let start = Int(address - (try #require(addresses[LoadableTables.File.tables])))
        let count = Int(try #require(bytes.load(littleEndian: UInt32.self, at: start + 4)))
        try #require(start + count <= bytes.count)
        return Array(bytes[start..<start + count])
    }
}

@Suite struct LoadableTableTests {
    @Test(arguments: SamplePlatform.allCases)
    func `a firmware that follows the script gets the tables that we would place`(sample: SamplePlatform)
        throws
    {
        let linked = try LinkedTables(LoadableTables(sample.platform, sample.system))
        let placed = Dictionary(uniqueKeysWithValues: try sample.place().map { ($0.name, $0.bytes) })
        let root = try #require(linked.files[LoadableTables.File.rootPointer])
        #expect(root.count == 36 && sum(root) == 0 && sum(root.prefix(20)) == 0)
        let rsdt = try linked.table(at: UInt64(try #require(root.load(littleEndian: UInt32.self, at: 16))))
        let xsdt = try linked.table(at: try #require(root.load(littleEndian: UInt64.self, at: 24)))
        // The micro machine has no MCFG and no HPET.
        let count = sample.platform.hasPCI ? 5 : 3
        #expect(sum(rsdt) == 0 && sum(xsdt) == 0 && xsdt.count == 36 + count * 8)
        for index in 0..<count {
            let address = try #require(xsdt.load(littleEndian: UInt64.self, at: 36 + index * 8))
            #expect(rsdt.load(littleEndian: UInt32.self, at: 36 + index * 4) == UInt32(address))
            let table = try linked.table(at: address)
            let signature = String(decoding: table[0..<4], as: UTF8.self)
            #expect(sum(table) == 0, "\(signature)")
            // The fixed table has addresses of its own.
            if signature != "FACP" { #expect(table == placed[signature], "\(signature)") }
        }
        let fixed = try linked.table(at: try #require(xsdt.load(littleEndian: UInt64.self, at: 36)))
        let control = try #require(fixed.load(littleEndian: UInt32.self, at: 36))
        #expect(control % 64 == 0)
        #expect(try linked.table(at: UInt64(control)) == placed["FACS"])
        let dsdt = try #require(fixed.load(littleEndian: UInt64.self, at: 140))
        #expect(try linked.table(at: dsdt) == placed["DSDT"])
        #expect(fixed.load(littleEndian: UInt32.self, at: 40) == UInt32(dsdt))
        #expect(linked.alignments == [LoadableTables.File.rootPointer: 16, LoadableTables.File.tables: 64])
    }

    @Test func `the system tables are those that we would place, and the firmware fills the address in`()
        throws
    {
        let sample = SamplePlatform.fourProcessors
        let tables = try LoadableTables(sample.platform, sample.system)
        #expect(try tables.systemTables == #require(sample.place().first { $0.name == "SMBIOS" }).bytes)
        #expect(tables.systemAnchor.count == 31 && tables.systemAnchor.starts(with: "_SM_".utf8))
        #expect(tables.systemAnchor.load(littleEndian: UInt32.self, at: 24) == 0)
        #expect(sum(tables.systemAnchor) == 0 && sum(tables.systemAnchor[16...]) == 0)
    }
}
