import DiskImages
import Glibc
@testable import LinuxHost
import Synchronization
import Testing

/// Memory to move from and to, kept while a test runs.
final class TestBuffer: @unchecked Sendable {
    let bytes: UnsafeMutableRawBufferPointer
    init(_ content: [UInt8]) {
        bytes = .allocate(byteCount: content.count, alignment: 4096)
        bytes.copyBytes(from: content)
    }
    deinit { bytes.deallocate() }
    var content: [UInt8] { Array(bytes) }
    /// The memory cut into parts of these sizes, the rest last.
    func parts(_ sizes: [Int] = []) -> DiskBuffers {
        var parts: [UnsafeMutableRawBufferPointer] = []
        var start = 0
        for size in sizes + [bytes.count - sizes.reduce(0, +)] {
            parts.append(UnsafeMutableRawBufferPointer(rebasing: bytes[start..<start + size]))
            start += size
        }
        return DiskBuffers(parts)
    }
}

extension DiskImage {
    /// Submits and waits.
    func perform(_ request: DiskRequest) -> Int32 {
        let done = Semaphore(), box = Box()
        let accepted = submit(request) { code in
            box.value.store(Int(code), ordering: .releasing)
            done.signal()
        }
        guard accepted else { return -1 }
        done.wait()
        return Int32(box.value.load(ordering: .acquiring))
    }
}

/// How requests reach the file.
struct ImagePath: Sendable {
    let method: AsyncFileQueue.Method
    let isInline: Bool
}

@Suite struct RawImageTests {
    static let paths = [
        ImagePath(method: .ring, isInline: false), ImagePath(method: .threads, isInline: false),
        ImagePath(method: .ring, isInline: true),
    ]

    static func pattern(_ count: Int, _ seed: UInt8 = 0) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 9) ^ seed }
    }

    @Test func `io_uring is used where this host allows it`() throws {
        let isAllowed = (try? IOUring(entries: 4, file: .memory("probe", size: 4096))) != nil
        let image = try RawImage(Descriptor.memory("disk", size: 4096), readOnly: false)
        #expect(image.method == (isAllowed ? .ring : .threads))
        image.close()
    }

    @Test(arguments: paths)
    func `what was written in odd parts is read back in other parts`(_ path: ImagePath) throws {
        let image = try RawImage(
            Descriptor.memory("disk", size: 1 << 20), readOnly: false, prefer: path.method,
            triesInline: path.isInline)
        let source = TestBuffer(Self.pattern(64 << 10))
        #expect(image.perform(.write(offset: 4096, from: source.parts([1, 511, 0, 4096, 3]))) == 0)
        #expect(image.perform(.flush) == 0)
        let target = TestBuffer([UInt8](repeating: 0xEE, count: 64 << 10))
        #expect(image.perform(.read(offset: 4096, into: target.parts([1000, 24, 7]))) == 0)
        #expect(target.content == source.content)
        image.close()
    }

    @Test(arguments: paths)
    func `more vectors than one call takes are continued`(_ path: ImagePath) throws {
        let image = try RawImage(
            Descriptor.memory("disk", size: 1 << 20), readOnly: false, prefer: path.method,
            triesInline: path.isInline)
        let source = TestBuffer(Self.pattern(8192, 3)),
            target = TestBuffer([UInt8](repeating: 0, count: 8192))
        let single = [Int](repeating: 1, count: 5000)
        #expect(image.perform(.write(offset: 512, from: source.parts(single))) == 0)
        #expect(image.perform(.read(offset: 512, into: target.parts(single))) == 0)
        #expect(target.content == source.content)
        image.close()
    }

    @Test(arguments: paths)
    func `requests outside the disk or not whole sectors are refused`(_ path: ImagePath) throws {
        let image = try RawImage(
            Descriptor.memory("disk", size: 8192 + 100), readOnly: false, prefer: path.method,
            triesInline: path.isInline)
        #expect(image.size == 8192 && image.hiddenBytes == 100 && image.sectorCount == 16)
        let sector = TestBuffer([UInt8](repeating: 1, count: 512))
        let odd = TestBuffer([UInt8](repeating: 1, count: 100))
        for offset in [8192, 8193, 1, .max, .max - 511, 1 << 63] as [UInt64] {
            #expect(image.perform(.read(offset: offset, into: sector.parts())) == EINVAL)
            #expect(image.perform(.write(offset: offset, from: sector.parts())) == EINVAL)
            #expect(image.perform(.discard(offset: offset, count: 512)) == EINVAL)
            #expect(image.perform(.writeZeroes(offset: offset, count: 512, mayUnmap: true)) == EINVAL)
        }
        #expect(image.perform(.discard(offset: 512, count: .max)) == EINVAL)
        #expect(image.perform(.discard(offset: 512, count: 0)) == 0)
        #expect(image.perform(.writeZeroes(offset: 0, count: .max - 511, mayUnmap: false)) == EINVAL)
        #expect(image.perform(.read(offset: 0, into: odd.parts())) == EINVAL)
        #expect(image.perform(.read(offset: 7680, into: sector.parts())) == 0)
        image.close()
    }

    @Test(arguments: paths, [true, false])
    func `discarded and zeroed ranges read as zeroes, their neighbours stay`(
        _ path: ImagePath, _ mayUnmap: Bool
    ) throws {
        let image = try RawImage(
            Descriptor.memory("disk", size: 1 << 20), readOnly: false, prefer: path.method,
            triesInline: path.isInline)
        let source = TestBuffer(Self.pattern(1 << 20, 0x55))
        #expect(image.perform(.write(offset: 0, from: source.parts())) == 0)
        #expect(image.perform(.writeZeroes(offset: 1024, count: 300 << 10, mayUnmap: mayUnmap)) == 0)
        #expect(image.perform(.discard(offset: 512 << 10, count: 4096)) == 0)
        let target = TestBuffer([UInt8](repeating: 1, count: 1 << 20))
        #expect(image.perform(.read(offset: 0, into: target.parts())) == 0)
        var expected = source.content
        for index in 1024..<(1024 + 300 << 10) { expected[index] = 0 }
        for index in (512 << 10)..<(516 << 10) { expected[index] = 0 }
        #expect(target.content == expected)
        image.close()
    }

    @Test func `what the page cache holds completes before submit returns`() throws {
        let path = "/tmp/ospite-inline-test-\(getpid())"
        defer { unlink(path) }
        let file = try Descriptor.open(path, flags: O_RDWR | O_CREAT)
        try file.write(Self.pattern(8192), at: 0)
        let image = try RawImage(file, readOnly: false)
        let buffer = TestBuffer([UInt8](repeating: 0, count: 4096)), box = Box()
        let request = DiskRequest.read(offset: 4096, into: buffer.parts())
        var probe = [UInt8](repeating: 0, count: 1)
        _ = try file.read(at: 4096, into: &probe)
        #expect(image.submit(request) { _ in box.thread.store(HostThread.currentID, ordering: .releasing) })
        image.drain()
        #expect(buffer.content == Array(Self.pattern(8192)[4096...]))
        // Some file systems cannot say whether they would wait; all that is certain is one completion.
        let thread = box.thread.load(ordering: .acquiring)
        print(
            "page cache reads complete \(thread == HostThread.currentID ? "inline" : "on the image's thread")"
        )
        #expect(thread != 0)
        image.close()
    }

    @Test func `a read-only image refuses every change and still flushes`() throws {
        let image = try RawImage(Descriptor.memory("disk", size: 4096), readOnly: true)
        let sector = TestBuffer([UInt8](repeating: 1, count: 512))
        #expect(image.perform(.write(offset: 0, from: sector.parts())) == EROFS)
        #expect(image.perform(.discard(offset: 0, count: 512)) == EROFS)
        #expect(image.perform(.writeZeroes(offset: 0, count: 512, mayUnmap: true)) == EROFS)
        #expect(image.perform(.flush) == 0)
        #expect(image.perform(.read(offset: 0, into: sector.parts())) == 0)
        #expect(sector.content == [UInt8](repeating: 0, count: 512))
        image.close()
    }

    @Test func `two machines cannot open one image for writing, readers share`() throws {
        let path = "/tmp/ospite-lock-test-\(getpid())"
        defer { unlink(path) }
        func open() throws -> Descriptor { try Descriptor.open(path, flags: O_RDWR | O_CREAT) }
        try open().resize(to: 4096)
        do {
            let first = try RawImage(open(), readOnly: false)
            let error = try #require(throws: HostError.self) { _ = try RawImage(open(), readOnly: false) }
            #expect(error.code == EAGAIN)
            #expect(throws: HostError.self) { _ = try RawImage(open(), readOnly: true) }
            first.close()
        }
        let one = try RawImage(open(), readOnly: true), two = try RawImage(open(), readOnly: true)
        #expect(throws: HostError.self) { _ = try RawImage(open(), readOnly: false) }
        one.close()
        two.close()
    }

    @Test func `what is no disk is refused`() throws {
        let (reader, _) = try Descriptor.pipe()
        #expect(throws: HostError.self) { _ = try RawImage(reader, readOnly: true) }
    }

    @Test(arguments: paths)
    func `a file that became shorter is an error, not an endless loop`(_ path: ImagePath) throws {
        let file = try Descriptor.memory("disk", size: 8192)
        let image = try RawImage(file, readOnly: false, prefer: path.method, triesInline: path.isInline)
        try file.resize(to: 4096)
        let target = TestBuffer([UInt8](repeating: 1, count: 8192))
        #expect(image.perform(.read(offset: 0, into: target.parts())) == EIO)
        image.close()
    }

    @Test(arguments: paths)
    func `thousands of requests from several threads all complete once`(_ path: ImagePath)
        throws
    {
        let image = try RawImage(
            Descriptor.memory("disk", size: 1 << 20), readOnly: false, requestLimit: 64, prefer: path.method,
            triesInline: path.isInline)
        let completed = Box(), refused = Box()
        let threads = try (0..<3).map { worker in
            try HostThread(name: "submitter") {
                let buffer = TestBuffer([UInt8](repeating: UInt8(worker), count: 4096))
                for round in 0..<2000 {
                    let offset = UInt64((round &* 7 &+ worker &* 64) % 256) * 4096
                    let request: DiskRequest =
                        round % 3 == 0
                        ? .flush
                        : round % 3 == 1
                            ? .write(offset: offset, from: buffer.parts())
                            : .read(offset: offset, into: buffer.parts())
                    while !image.submit(
                        request,
                        completion: { code in
                            withExtendedLifetime(buffer) {}
                            if code == 0 { completed.value.wrappingAdd(1, ordering: .relaxed) }
                        })
                    {
                        refused.value.wrappingAdd(1, ordering: .relaxed)
                        sched_yield()
                    }
                }
                // Operations die with the thread that submitted them.
                image.drain()
            }
        }
        for thread in threads { thread.join() }
        image.drain()
        #expect(completed.value.load(ordering: .relaxed) == 6000)
        image.close()
        #expect(image.perform(.flush) == -1)
    }
}
