import ByteLayout
import GuestMemory
import Synchronization
import Testing

@testable import BootLoaders

/// A simple packer for LZ4's legacy frames: it finds matches by the last place of each four bytes.
enum LZ4Packer {
    static let blockSize = 8 << 20

    static func pack(_ content: [UInt8]) -> [UInt8] {
        var frame: [UInt8] = [0x02, 0x21, 0x4C, 0x18]
        for start in stride(from: 0, to: content.count, by: blockSize) {
            let block = block(Array(content[start..<min(start + blockSize, content.count)]))
            frame.append(littleEndian: UInt32(block.count))
            frame += block
        }
        return frame
    }

    private static func block(_ content: [UInt8]) -> [UInt8] {
        var output: [UInt8] = [], places: [UInt32: Int] = [:]
        var at = 0, literalsFrom = 0
        // The last five bytes are literals.
        let end = content.count - 5
        while at + 4 <= end, let four = content.load(littleEndian: UInt32.self, at: at) {
            let before = places.updateValue(at, forKey: four)
            guard let before, at - before <= 0xFFFF else {
                at += 1
                continue
            }
            var length = 4
            while at + length < end, content[before + length] == content[at + length] {
                length += 1
            }
            sequence(&output, content[literalsFrom..<at], match: (at - before, length))
            at += length
            literalsFrom = at
        }
        sequence(&output, content[literalsFrom...], match: nil)
        return output
    }

    private static func sequence(
        _ output: inout [UInt8], _ literals: ArraySlice<UInt8>, match: (distance: Int, length: Int)?
    ) {
        let more = match.map { $0.length - 4 } ?? 0
        output.append(UInt8(min(literals.count, 15) << 4 | min(more, 15)))
        extend(&output, literals.count)
        output += literals
        guard let match else { return }
        output.append(littleEndian: UInt16(match.distance))
        extend(&output, more)
    }

    private static func extend(_ output: inout [UInt8], _ length: Int) {
        guard length >= 15 else { return }
        output += [UInt8](repeating: 255, count: (length - 15) / 255)
        output.append(UInt8((length - 15) % 255))
    }
}

@Suite struct PackedKernelTests {
    private func unpack(_ frame: [UInt8], size: Int) -> [UInt8]? {
        var stream = LZ4Stream(frame, in: 0..<frame.count, size: size), content: [UInt8] = []
        while let more = stream?.next(), more, let piece = stream?.piece { content += piece }
        return stream?.left == 0 ? content : nil
    }

    private func content(_ count: Int, seed: UInt64) -> [UInt8] {
        var random = SeededGenerator(seed: seed)
        var bytes: [UInt8] = []
        while bytes.count < count {
            switch Int.random(in: 0..<4, using: &random) {
            case 0:
                bytes += (0..<Int.random(in: 1...40, using: &random)).map { _ in UInt8(random.next() & 0xFF) }
            case 1: bytes += [UInt8](repeating: 7, count: Int.random(in: 1...600, using: &random))
            default:
                let start = Int.random(in: 0...bytes.count, using: &random)
                bytes += bytes[start..<min(bytes.count, start + Int.random(in: 0...90, using: &random))]
            }
        }
        return Array(bytes.prefix(count))
    }

    @Test func `a frame written by hand gives its content`() {
        // Five literals, a match of 10 that overlaps itself at distance 2, five literals.
        let block: [UInt8] = [0x56] + Array("abcde".utf8) + [2, 0, 0x50] + Array("fghi!".utf8)
        var frame: [UInt8] = [0x02, 0x21, 0x4C, 0x18]
        frame.append(littleEndian: UInt32(block.count))
        frame += block
        #expect(unpack(frame, size: 20) == Array("abcdedededededefghi!".utf8))
        #expect(unpack(frame, size: 19) == nil && unpack(frame, size: 21) == nil)
    }

    @Test(arguments: [1, 12, 13, 300, 5000, 70_000])
    func `what was packed is unpacked`(count: Int) {
        let content = content(count, seed: UInt64(count))
        #expect(unpack(LZ4Packer.pack(content), size: count) == content)
    }

    @Test func `content of more than a block is unpacked`() {
        let content = [UInt8](repeating: 9, count: LZ4Packer.blockSize - 3) + content(5000, seed: 3)
        #expect(unpack(LZ4Packer.pack(content), size: content.count) == content)
    }

    @Test(
        arguments: [
            [0x10, 0x41, 0, 0, 0x00], [0x10, 0x41, 2, 0, 0x00], [0xF0, 255, 255],
            [0x4F, 1, 2, 3, 4, 1, 0, 255],
            [0x40, 1, 2], [0x10, 0x41, 1], [0x1F, 0x41, 1, 0, 255, 255, 255, 255, 255, 0],
        ] as [[UInt8]])
    func `an impossible block is refused`(block: [UInt8]) {
        var frame: [UInt8] = [0x02, 0x21, 0x4C, 0x18]
        frame.append(littleEndian: UInt32(block.count))
        frame += block
        for size in [1, 5, 64, 1000] { #expect(unpack(frame, size: size) == nil) }
        // A block that is longer than the frame.
        frame[4] = 0xFF
        #expect(unpack(frame, size: 64) == nil)
    }

    @Test func `damaged frames neither trap nor grow`() {
        var random = SeededGenerator(seed: 42)
        let content = content(3000, seed: 9), frame = LZ4Packer.pack(content)
        var survivors = 0
        for _ in 0..<20_000 {
            var damaged = frame
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                damaged[Int.random(in: 4..<frame.count, using: &random)] = UInt8(random.next() & 0xFF)
            }
            if Int.random(in: 0..<4, using: &random) == 0 {
                damaged.removeLast(Int.random(in: 1..<frame.count - 8, using: &random))
            }
            if let result = unpack(damaged, size: content.count) {
                survivors += 1
                #expect(result.count == content.count)
            }
        }
        // Damage to literals changes no length.
        #expect(survivors > 100 && survivors < 20_000)
    }

    /// A bzImage around a packed ELF kernel.
    private func image(_ kernel: [UInt8], tweak: (inout [UInt8]) -> Void = { _ in }) -> [UInt8] {
        var payload = LZ4Packer.pack(kernel)
        payload.append(littleEndian: UInt32(kernel.count))
        return SampleKernel.bzImage { file in
            let start = SampleKernel.codeBytes.count
            file.store(littleEndian: UInt32(start), at: 0x248)
            file.store(littleEndian: UInt32(payload.count), at: 0x24C)
            file += payload
            tweak(&file)
        }
    }

    @Test func `a bzImage that we can unpack is entered by PVH, and by its own code when we may not`() throws
    {
        var request = BootRequest(kernel: image(SampleKernel.pvh()))
        #expect(try KernelImage.load(request, into: testMemory()).bootProtocol == .linux64)
        request.unpacksKernel = true
        let plan = try KernelImage.load(request, into: testMemory())
        #expect(plan.bootProtocol == .pvh)
        let direct = try KernelImage.load(BootRequest(kernel: SampleKernel.pvh()), into: testMemory())
        #expect(plan.entryPoint == direct.entryPoint && plan.placements == direct.placements)
    }

    @Test func `what we cannot unpack starts by its own code`() throws {
        let kernels = [
            SampleKernel.bzImage(), image([1, 2, 3, 4, 5]),
            image(SampleKernel.pvh()) { $0[3 * 512 + 4096] ^= 1 },
            image(SampleKernel.pvh()) { $0.store(littleEndian: UInt32.max, at: $0.count - 4) },
            image(SampleKernel.pvh()) { $0.store(littleEndian: UInt32(12), at: 0x24C) },
            image(SampleKernel.pvh()) { $0.store(littleEndian: UInt32(7), at: 0x24C) },
        ]
        for kernel in kernels {
            var request = BootRequest(kernel: kernel)
            request.unpacksKernel = true
            #expect(try KernelImage.load(request, into: testMemory()).bootProtocol == .linux64)
        }
    }

    @Test func `a bzImage gets the machine's words in front of the user's, where both fit`() throws {
        func line(_ words: String, _ kernel: [UInt8], _ own: String, unpacks: Bool = true) throws -> String {
            var request = BootRequest(kernel: kernel, commandLine: own)
            request.linuxWords = words
            request.unpacksKernel = unpacks
            let memory = testMemory()
            let plan = try KernelImage.load(request, into: memory)
            let place = try #require(plan.placements.first { $0.part == "command line" })
            let bytes = try memory.bytes(place.start, count: Int(place.size))
            return String(decoding: bytes.dropLast(), as: UTF8.self)
        }
        let packed = image(SampleKernel.pvh())
        #expect(try line("a.b", packed, "c=d") == "a.b c=d")
        #expect(try line("a.b", packed, "c=d", unpacks: false) == "a.b c=d")
        #expect(try line("a.b", packed, "") == "a.b")
        #expect(try line("", packed, "c=d") == "c=d")
        #expect(try line("a.b", SampleKernel.pvh(), "c=d") == "c=d")
        let limit = try LinuxSetupHeader(packed).commandLineLimit
        let long = String(repeating: "x", count: limit - 4)
        #expect(try line("a.b", packed, long) == "a.b " + long)
        #expect(try line("a.b", packed, long + "x") == long + "x")
    }

    @Test func `the installed kernels start, unpacked where they are packed with LZ4`() throws {
        let paths = filesMatching("/boot/vmlinuz-*")
        if paths.isEmpty { print("not checked: /boot has no vmlinuz-*; install linux-image-cloud-amd64") }
        for path in paths {
            guard let kernel = fileContent(path) else {
                print("not checked: \(path) cannot be read by this user")
                continue
            }
            var request = BootRequest(kernel: kernel, commandLine: "console=ttyS0")
            request.unpacksKernel = true
            let announced = Mutex<[Range<UInt64>]>([])
            request.announce = { place, count in
                announced.withLock { $0.append(place.raw..<place.raw + UInt64(count)) }
            }
            let plan = try KernelImage.load(request, into: testMemory(mebibytes: 512))
            print("\(path): \(plan.bootProtocol)")
            if path.contains("cloud") { #expect(plan.bootProtocol == .pvh) }
            let ranges = announced.withLock { $0 }
            #expect(ranges.isEmpty == (plan.bootProtocol != .pvh))
            for range in ranges {
                #expect(range.count >= 4 << 20)
                #expect(
                    plan.placements.contains {
                        $0.part == "kernel segment" && $0.start.raw == range.lowerBound
                            && range.upperBound <= $0.end
                    })
            }
        }
    }
}
