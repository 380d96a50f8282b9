@testable import DiskImages
import Glibc
import LinuxHost
import Synchronization
import Testing

/// A small generator (SplitMix64), so that a failure repeats.
private struct SeededRandom: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
        return word ^ word >> 31
    }
}

@Suite struct OverlayImageTests {
    /// Ends inside a cluster.
    static let size = 9 * 65536 + 5 * 512
    static let cluster = Int(OverlayImage.clusterSize)

    struct Bench {
        let base: Descriptor
        let image: RawImage
        let disk: OverlayImage
        let original: [UInt8]

        init(size: Int = OverlayImageTests.size, method: AsyncFileQueue.Method = .ring, isInline: Bool = true)
            throws
        {
            original = RawImageTests.pattern(size, 0x5A)
            base = try Descriptor.memory("image", size: UInt64(size))
            try base.write(original, at: 0)
            image = try RawImage(base.duplicate(), readOnly: true, prefer: method, triesInline: isInline)
            disk = try OverlayImage(image, overlay: Descriptor.memory("overlay", size: 0))
        }

        func bytes(_ offset: Int, _ count: Int) -> [UInt8] {
            let buffer = TestBuffer([UInt8](repeating: 0xEE, count: count))
            #expect(disk.perform(.read(offset: UInt64(offset), into: buffer.parts([1, 2, 509]))) == 0)
            return buffer.content
        }

        func baseContent() throws -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: original.count)
            _ = try base.read(at: 0, into: &bytes)
            return bytes
        }
    }

    @Test(arguments: [1, 2, 3, 4] as [UInt64], [true, false])
    func `random requests do what they do to an array, and the image stays`(seed: UInt64, isInline: Bool)
        throws
    {
        let bench = try Bench(method: seed % 2 == 0 ? .ring : .threads, isInline: isInline)
        var random = SeededRandom(state: seed)
        var model = bench.original
        // A discarded sector may read as anything until it is written.
        var isKnown = [Bool](repeating: true, count: Self.size / 512)
        for step in 0..<400 {
            let first = Int.random(in: 0..<isKnown.count, using: &random)
            let most = random.next() % 4 == 0 ? isKnown.count : 40
            let sectors = Int.random(in: 1...min(most, isKnown.count - first), using: &random)
            let range = first * 512..<(first + sectors) * 512
            switch random.next() % 8 {
            case 0...2:
                let source = TestBuffer(RawImageTests.pattern(range.count, UInt8(truncatingIfNeeded: step)))
                #expect(
                    bench.disk.perform(.write(offset: UInt64(range.lowerBound), from: source.parts([3]))) == 0
                )
                model.replaceSubrange(range, with: source.content)
                for sector in first..<first + sectors { isKnown[sector] = true }
            case 3:
                #expect(
                    bench.disk.perform(
                        .writeZeroes(
                            offset: UInt64(range.lowerBound), count: UInt64(range.count),
                            mayUnmap: step % 2 == 0)) == 0)
                model.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
                for sector in first..<first + sectors { isKnown[sector] = true }
            case 4:
                #expect(
                    bench.disk.perform(
                        .discard(offset: UInt64(range.lowerBound), count: UInt64(range.count))) == 0)
                for sector in first..<first + sectors { isKnown[sector] = false }
            default:
                let seen = bench.bytes(range.lowerBound, range.count)
                for sector in 0..<sectors where isKnown[first + sector] {
                    let part = seen[sector * 512..<(sector + 1) * 512]
                    let start = (first + sector) * 512
                    guard !part.elementsEqual(model[start..<start + 512]) else { continue }
                    Issue.record("seed \(seed), step \(step): sector \(first + sector) differs")
                    return
                }
            }
        }
        #expect(bench.disk.perform(.flush) == 0)
        bench.disk.close()
        #expect(try bench.baseContent() == bench.original)
    }

    @Test func `a write of a part of a cluster keeps the rest of it`() throws {
        let bench = try Bench()
        let source = TestBuffer([UInt8](repeating: 0xAB, count: 1024))
        let offset = Self.cluster + 4096
        #expect(bench.disk.perform(.write(offset: UInt64(offset), from: source.parts())) == 0)
        var expected = bench.original
        expected.replaceSubrange(offset..<offset + 1024, with: source.content)
        #expect(bench.bytes(0, Self.size) == expected)
        #expect(bench.disk.isInOverlay(1) && !bench.disk.isInOverlay(0) && !bench.disk.isInOverlay(2))
        bench.disk.close()
    }

    @Test(arguments: [AsyncFileQueue.Method.ring, .threads])
    func `writers of one cluster at the same time lose nothing`(_ method: AsyncFileQueue.Method) throws {
        // Each sector of each cluster is written by one request; all requests are under way together.
        let bench = try Bench(size: 4 * Self.cluster, method: method, isInline: false)
        let sectors = 4 * Self.cluster / 512
        let failures = Box()
        var buffers: [TestBuffer] = []
        for sector in 0..<sectors {
            buffers.append(TestBuffer([UInt8](repeating: UInt8(sector & 0xFF) ^ 0x33, count: 512)))
        }
        // Neighbours are far apart in time, so that every cluster has several writers at any moment.
        for start in 0..<64 {
            for sector in stride(from: start, to: sectors, by: 64) {
                let request = DiskRequest.write(offset: UInt64(sector * 512), from: buffers[sector].parts())
                let isAccepted = bench.disk.submit(request) { code in
                    if code != 0 { failures.value.wrappingAdd(1, ordering: .relaxed) }
                }
                #expect(isAccepted)
            }
        }
        bench.disk.drain()
        #expect(failures.value.load(ordering: .relaxed) == 0)
        let seen = bench.bytes(0, 4 * Self.cluster)
        var wrong: [Int] = []
        for sector in 0..<sectors {
            let expected = [UInt8](repeating: UInt8(sector & 0xFF) ^ 0x33, count: 512)
            let start = sector * 512
            if !seen[start..<start + 512].elementsEqual(expected) { wrong.append(sector) }
        }
        #expect(wrong == [])
        bench.disk.close()
        #expect(try bench.baseContent() == bench.original)
    }

    @Test func `what does not fit is refused`() throws {
        let bench = try Bench()
        let sector = TestBuffer([UInt8](repeating: 1, count: 512))
        for offset in [UInt64(Self.size), 1, .max, .max - 511, 1 << 63] {
            #expect(bench.disk.perform(.read(offset: offset, into: sector.parts())) == EINVAL)
            #expect(bench.disk.perform(.write(offset: offset, from: sector.parts())) == EINVAL)
            #expect(bench.disk.perform(.discard(offset: offset, count: 512)) == EINVAL)
            #expect(bench.disk.perform(.writeZeroes(offset: offset, count: 512, mayUnmap: true)) == EINVAL)
        }
        #expect(bench.disk.perform(.writeZeroes(offset: 0, count: .max - 511, mayUnmap: true)) == EINVAL)
        #expect(bench.disk.perform(.discard(offset: 512, count: 0)) == 0)
        bench.disk.close()
        #expect(bench.disk.perform(.flush) == -1)
    }

    @Test func `a disk of more than 16 TiB is refused, one of 16 TiB is not`() throws {
        for (size, fits) in [(OverlayImage.largestDisk, true), (OverlayImage.largestDisk + 512, false)] {
            let image = try RawImage(Descriptor.memory("image", size: size), readOnly: true)
            let overlay = try Descriptor.memory("overlay", size: 0)
            let disk = try? OverlayImage(image, overlay: overlay)
            #expect((disk != nil) == fits)
            guard let disk else {
                image.close()
                continue
            }
            #expect(disk.perform(.writeZeroes(offset: 512, count: size - 1024, mayUnmap: true)) == 0)
            #expect(disk.isInOverlay(0) && disk.isInOverlay(Int(size / OverlayImage.clusterSize) - 1))
            disk.close()
        }
    }

    @Test func `the cluster map finds runs across words`() {
        var map = ClusterMap(count: 300)
        map.insert(60..<70)
        map.insert(128..<256)
        #expect(map.run(in: 0..<300).clusters == 0..<60)
        #expect(map.run(in: 60..<300).isPresent && map.run(in: 60..<300).clusters == 60..<70)
        #expect(map.run(in: 61..<65).clusters == 61..<65)
        #expect(map.run(in: 70..<300).clusters == 70..<128)
        #expect(map.containsAll(128..<256) && !map.containsAll(127..<256) && !map.containsAll(128..<257))
        #expect(map.run(in: 256..<300).clusters == 256..<300)
        #expect(map.containsAll(0..<0))
    }
}
