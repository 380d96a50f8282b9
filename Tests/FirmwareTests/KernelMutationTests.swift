import ByteLayout
import GuestMemory
import Testing

@testable import BootLoaders

/// SplitMix64: the same sequence for the same seed on every machine.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

@Suite struct KernelMutationTests {
    static let rounds = 8_000
    /// Where the headers of the sample are: mutations elsewhere only change code.
    static let samples: [(file: [UInt8], headers: Range<Int>)] = [
        (SampleKernel.bzImage(), 0x1F0..<0x270),
        (SampleKernel.bzImage(entry64: false), 0x1F0..<0x270),
        (SampleKernel.pvh(), 0..<176),
        (SampleKernel.pvh(is64Bit: false), 0..<128),
        (SampleKernel.multibootELF(), 0..<112),
        (SampleKernel.multibootFlat(), 64..<96),
    ]
    private static let edges: [UInt64] = [
        0, 1, 2, 0x7F, 0xFF, 0x1000, 0xFFFF, 0x9_0000, 0x9_FC00, 0xA_0000, 0x10_0000, 0x400_0000, 0x7FFF_FFFF,
        0x8000_0000, 0xFFFF_F000, 0xFFFF_FFFF, 0x1_0000_0000, UInt64(Int64.max), 1 << 63, .max - 0xFFF, .max,
    ]

    private func mutate(_ file: inout [UInt8], _ headers: Range<Int>, _ random: inout SeededGenerator) {
        for _ in 0..<Int.random(in: 1...4, using: &random) {
            let offset = Int.random(in: headers, using: &random)
            let value = Self.edges.randomElement(using: &random) ?? 0
            switch Int.random(in: 0..<6, using: &random) {
            case 0: file[offset] = UInt8.random(in: .min ... .max, using: &random)
            case 1: file[offset] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 2 where offset + 2 <= file.count:
                file.store(littleEndian: UInt16(truncatingIfNeeded: value), at: offset)
            case 3 where offset + 4 <= file.count:
                file.store(littleEndian: UInt32(truncatingIfNeeded: value), at: offset)
            case 4 where offset & ~7 + 8 <= file.count:
                file.store(littleEndian: value, at: offset & ~7)
            default:
                // Truncate seldom: most mutants should get past the size checks.
                guard Int.random(in: 0..<8, using: &random) == 0 else { continue }
                file.removeLast(Int.random(in: 0..<(file.count - headers.upperBound), using: &random))
            }
        }
        // Keep multiboot's checksum right half of the time, or nothing behind it is reached.
        if let magic = headers.first(where: { file.load(littleEndian: UInt32.self, at: $0) == 0x1BAD_B002 }),
            Bool.random(using: &random), let flags = file.load(littleEndian: UInt32.self, at: magic + 4),
            magic + 12 <= file.count
        {
            file.store(littleEndian: 0 &- (MultibootHeader.magic &+ flags), at: magic + 8)
        }
    }

    @Test(arguments: samples.indices)
    func `no mutated header traps, and what is accepted stays in RAM`(sample: Int) {
        let memory = testMemory()
        let (file, headers) = Self.samples[sample]
        var random = SeededGenerator(seed: UInt64(sample) &+ 0x05D1_7E)
        var accepted = 0, refused = 0
        for round in 0..<Self.rounds {
            var mutant = file
            mutate(&mutant, headers, &random)
            do throws(BootError) {
                let plan = try KernelImage.load(
                    BootRequest(kernel: mutant, initrd: [1, 2, 3], commandLine: "x"), into: memory)
                accepted += 1
                let places = plan.placements.sorted { $0.start < $1.start }
                let areDisjoint = zip(places, places.dropFirst()).allSatisfy { $0.end <= $1.start.raw }
                let areRAM = places.allSatisfy { plan.memoryMap.isRAM($0.start.raw, size: $0.size) }
                if !areDisjoint || !areRAM || !plan.memoryMap.isRAM(plan.entryPoint.raw, size: 1) {
                    Issue.record("sample \(sample) round \(round): \(plan.placements)")
                }
            } catch {
                refused += 1
                if error.description.isEmpty { Issue.record("sample \(sample) round \(round)") }
            }
        }
        print("sample \(sample): \(accepted) mutants accepted, \(refused) refused")
        #expect(accepted > 0 && refused > 0 && accepted + refused == Self.rounds)
    }
}
