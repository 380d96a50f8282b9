import Foundation
import LinuxHost
import Testing

@testable import SoftCPU

/// What translated code says about itself: counters for `--stats`, and names for `perf`.
@Suite struct StatisticsTests {
    /// mov ecx, 1000; 1: mov rax, [rbx]; dec ecx; jnz 1b; out F4h, al; jmp to itself
    private static let loop: [UInt8] = [
        0xB9, 0xE8, 0x03, 0, 0, 0x48, 0x8B, 0x03, 0xFF, 0xC9, 0x75, 0xF9, 0xE6, 0xF4, 0xEB, 0xFE,
    ]

    private func run(options: TranslationOptions = [], perfMap: PerfMap? = nil) throws -> TestMachine {
        try #require(HostFeatures.shared.canTranslate, "this host cannot translate")
        let machine = try TestMachine(.long64, threshold: 1, options: options, perfMap: perfMap)
        machine.platform.stopped = machine.vcpu
        machine.write(TestMachine.code, Self.loop)
        machine.set(Register.rbx, 0x80000)
        #expect(machine.vcpu.run() == .requested)
        return machine
    }

    @Test func `a loop of a thousand loads counts a thousand blocks and probes`() throws {
        let machine = try run(options: .counts)
        let counted = try #require(machine.vcpu.translationStatistics)
        // Whatever way a block was first entered: the loop's body is the block from its second round on.
        #expect((990...1010).contains(counted.entries), "\(counted.entries)")
        #expect((990...1010).contains(counted.probes), "\(counted.probes)")
        #expect((1...4).contains(counted.misses), "\(counted.misses)")
        #expect(counted.translated + counted.interpreted >= 3002)
        #expect(counted.translated + counted.interpreted <= 3010)
        #expect(counted.blocks > 0 && counted.ticks > 0 && counted.links > 0 && counted.escapes > 0)
        #expect(counted.guestBytes > 0 && counted.lineBytes > counted.guestBytes && counted.stubBytes > 0)
        #expect(counted.exits[Int(TranslatedExit.here)] > 0)
        let lines = machine.engine.statistics
        #expect(
            lines.map { $0.prefix { $0 != ":" } } == ["translated", "kept", "executed", "memory", "exits"])
        #expect(lines[0].hasPrefix("translated: \(counted.blocks) blocks in "))
        #expect(lines[3].hasPrefix("memory: \(counted.probes) probes, \(counted.misses) missed ("))
    }

    @Test func `what counts is no part of a block's expansion`() throws {
        let plain = try #require(try run().vcpu.translationStatistics)
        let counting = try #require(try run(options: .counts).vcpu.translationStatistics)
        #expect(plain.entries == 0 && plain.probes == 0)
        #expect(plain.blocks == counting.blocks && plain.guestBytes == counting.guestBytes)
        #expect(plain.lineBytes == counting.lineBytes)
    }

    @Test func `counters of several vCPUs are added up`() {
        var sum = TranslationStatistics(), one = TranslationStatistics()
        one.blocks = 3
        one.ticks = 6000
        one.guestBytes = 100
        one.lineBytes = 250
        one.stubBytes = 150
        one.probes = 1000
        one.misses = 5
        one.exits[1] = 7
        sum += one
        sum += one
        let lines = sum.lines(frequency: 1_000_000_000)
        #expect(
            lines[0] == "translated: 6 blocks in 0.0 ms, 2.00 us each; 200 bytes became 800, 4.00 times:"
                + " 2.50 in line, 1.50 in stubs")
        #expect(lines[3].hasPrefix("memory: 2000 probes, 10 missed (0.500 %);"))
        #expect(lines[4].hasPrefix("exits: go on 0, link 14, interpret 0,"))
    }

    // MARK: Names for perf

    private func temporaryFile() throws -> (file: LinuxHost.Descriptor, path: String) {
        let path = NSTemporaryDirectory() + "/ospite-perf-map-\(UUID().uuidString)"
        return (try LinuxHost.Descriptor.open(path, flags: O_RDWR | O_CREAT | O_EXCL), path)
    }

    @Test func `a perf map names each block and gate where its code is`() throws {
        let (file, path) = try temporaryFile()
        defer { unlink(path) }
        let map = PerfMap(file)
        let machine = try run(perfMap: map)
        map.flush()
        let cache = try #require(machine.vcpu.translations)
        let text = try String(contentsOfFile: path, encoding: .utf8)
        var blocks = 0
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            let start = try #require(UInt(words[0], radix: 16)),
                size = try #require(UInt(words[1], radix: 16))
            #expect(words.count == 3 && size > 0)
            #expect(cache.arena.contains(start) && cache.arena.contains(start + size - 1))
            if words[2].hasPrefix("guest_kernel_1000") { blocks += 1 }
        }
        #expect(blocks == cache.blocksTranslated)
        #expect(text.contains(" guest_kernel_10005_mov\n"))
        #expect(
            text.contains("\(String(cache.gates.fill, radix: 16)) ") && text.contains(" ospite_gate_fill\n"))
    }

    @Test func `a perf map ends at its limit and says so`() throws {
        let (file, path) = try temporaryFile()
        defer { unlink(path) }
        let map = PerfMap(file, limit: 1000)
        for number in 0..<1000 as Range<UInt> { map.add(number * 16..<number * 16 + 8, "guest_\(number)") }
        map.flush()
        let text = try String(contentsOfFile: path, encoding: .utf8)
        #expect(text.hasPrefix("0 8 guest_0\n10 8 guest_1\n"))
        #expect((900...1000).contains(text.utf8.count))
        #expect(text.hasSuffix("0 1 (the map is full: code that came later has no name here)\n"))
    }
}
