@testable import CharacterBackends
import Glibc
import LinuxHost
import Synchronization
import Testing

/// A device with room for some bytes.
private final class Receiver: Sendable {
    private struct State { var bytes: [UInt8] = [], room: Int }
    private let state: Mutex<State>
    let called = Semaphore()
    init(room: Int = .max) { state = Mutex(State(room: room)) }
    func take(_ bytes: ArraySlice<UInt8>) -> Int {
        let count = state.withLock { state in
            let count = min(bytes.count, state.room)
            state.bytes += bytes.prefix(count)
            if state.room != .max { state.room -= count }
            return count
        }
        called.signal()
        return count
    }
    func makeRoom(_ count: Int) { state.withLock { $0.room += count } }
    var bytes: [UInt8] { state.withLock { $0.bytes } }
    func waitFor(_ count: Int) { while bytes.count < count { called.wait() } }
}

extension Descriptor {
    fileprivate func readExactly(_ count: Int) throws -> [UInt8] {
        var result: [UInt8] = []
        while result.count < count {
            var buffer = [UInt8](repeating: 0, count: count - result.count)
            guard case .moved(let moved) = try read(into: &buffer) else { break }
            result += buffer.prefix(moved)
        }
        return result
    }
}

@Suite struct CharacterBackendTests {
    @Test func `guest bytes reach the descriptor in order`() throws {
        let (reader, writer) = try Descriptor.pipe()
        // A busy host may keep the reader away for longer than a guest waits by itself; nothing is dropped
        // here.
        let backend = try DescriptorBackend(
            input: nil, output: writer, loop: nil, name: "out", patience: 60_000_000_000)
        let text = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let thread = try HostThread(name: "guest") {
            for start in stride(from: 0, to: text.count, by: 1000) {
                backend.write(Array(text[start..<start + 1000]))
            }
        }
        #expect(try reader.readExactly(text.count) == text)
        thread.join()
        backend.close()
        #expect(backend.droppedBytes == 0)
    }

    @Test func `a reader that stops reading costs bytes, counted, and no memory`() throws {
        let (reader, writer) = try Descriptor.pipe()
        let backend = try DescriptorBackend(
            input: nil, output: writer, loop: nil, name: "out", patience: 1_000_000)
        let chunk = [UInt8](repeating: 0x61, count: 10_000)
        for _ in 0..<100 { backend.write(chunk) }
        #expect(backend.droppedBytes > 500_000)
        // Reading again revives the line.
        try reader.setNonBlocking(true)
        var received = 0
        var buffer = [UInt8](repeating: 0, count: 65536)
        while received < 1_000_000 - Int(backend.droppedBytes) {
            if case .moved(let count) = try reader.read(into: &buffer) {
                received += count
            } else {
                sched_yield()
            }
        }
        let dropped = backend.droppedBytes
        backend.write([1, 2, 3])
        _ = try reader.wait(forWriting: false, milliseconds: -1)
        #expect(try reader.read(into: &buffer) == .moved(3))
        #expect(backend.droppedBytes == dropped)
        backend.close()
    }

    @Test func `a reader that is gone ends the output only`() throws {
        var pipe: (reader: Descriptor, writer: Descriptor)? = try Descriptor.pipe()
        let backend = try DescriptorBackend(file: try #require(pipe).writer)
        pipe = nil
        backend.write([1, 2, 3])
        backend.close()
        #expect(backend.droppedBytes == 3)
    }

    @Test func `a guest that writes without end does not fill a file`() throws {
        let path = "/tmp/ospite-output-test-\(getpid())"
        defer { unlink(path) }
        let backend = try DescriptorBackend(
            file: .open(path, flags: O_RDWR | O_CREAT | O_TRUNC), limit: 10_000)
        let chunk = (0..<1000).map { UInt8(truncatingIfNeeded: $0) }
        for _ in 0..<200 { backend.write(chunk) }
        backend.close()
        #expect(backend.droppedBytes == 190_000)
        let words = "\n[ospite: the guest has written 10000 bytes; what follows is not kept]\n"
        let expected = (0..<10).flatMap { _ in chunk } + Array(words.utf8)
        let content = try Descriptor.open(path, flags: O_RDONLY).readExactly(expected.count + 1)
        #expect(content == expected)
    }

    @Test func `input waits while the device has no room`() throws {
        let loop = try EventLoop(name: "loop")
        try loop.start()
        let (reader, writer) = try Descriptor.pipe()
        let backend = try DescriptorBackend(input: reader, output: nil, loop: loop)
        let receiver = Receiver(room: 3)
        backend.start { receiver.take($0) }
        try writer.writeAll(Array(1...10))
        receiver.waitFor(3)
        try writer.writeAll([11])
        #expect(receiver.bytes == [1, 2, 3])
        receiver.makeRoom(4)
        // Room may be announced before the loop noticed that there was none.
        while receiver.bytes.count < 7 { backend.receiverHasRoom() }
        #expect(receiver.bytes == Array(1...7))
        receiver.makeRoom(100)
        while receiver.bytes.count < 11 { backend.receiverHasRoom() }
        #expect(receiver.bytes == Array(1...11))
        backend.close()
        loop.stop()
    }

    @Test func `a regular file is read to its end although epoll refuses it`() throws {
        let loop = try EventLoop(name: "loop")
        try loop.start()
        let path = "/tmp/ospite-input-test-\(getpid())"
        defer { unlink(path) }
        let content = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 / 3) }
        try Descriptor.open(path, flags: O_RDWR | O_CREAT).writeAll(content)
        let backend = try DescriptorBackend(input: .open(path, flags: O_RDONLY), output: nil, loop: loop)
        let receiver = Receiver()
        backend.start { receiver.take($0) }
        receiver.waitFor(content.count)
        #expect(receiver.bytes == content)
        backend.close()
        loop.stop()
    }

    @Test func `a client gets the past, then the present, and is followed by the next`() throws {
        let path = "/tmp/ospite-socket-test-\(getpid())"
        defer { unlink(path) }
        let loop = try EventLoop(name: "loop")
        try loop.start()
        let backend = try SocketBackend(listener: .listen(unixPath: path), loop: loop)
        let receiver = Receiver()
        backend.start { receiver.take($0) }
        let past = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 / 5) }
        backend.write(past)
        let kept = Array(past.suffix(64 << 10))
        do {
            let client = try Descriptor.connect(unixPath: path)
            #expect(try client.readExactly(kept.count) == kept)
            backend.write([9, 8, 7])
            #expect(try client.readExactly(3) == [9, 8, 7])
            try client.writeAll([5, 6])
            receiver.waitFor(2)
            #expect(receiver.bytes == [5, 6])
        }
        let second = try Descriptor.connect(unixPath: path)
        #expect(try second.readExactly(kept.count) == Array((past + [9, 8, 7]).suffix(64 << 10)))
        #expect(backend.droppedBytes == 0)
        backend.close()
        #expect(try second.readExactly(1).isEmpty)
        loop.stop()
    }

    @Test func `a client that does not read does not hold the guest for long`() throws {
        let path = "/tmp/ospite-socket-slow-\(getpid())"
        defer { unlink(path) }
        let loop = try EventLoop(name: "loop")
        try loop.start()
        let backend = try SocketBackend(listener: .listen(unixPath: path), loop: loop, patience: 1_000_000)
        let client = try Descriptor.connect(unixPath: path)
        while !backend.hasClient { sched_yield() }
        for _ in 0..<300 { backend.write([UInt8](repeating: 1, count: 10_000)) }
        #expect(backend.droppedBytes > 0)
        withExtendedLifetime(client) {}
        backend.close()
        loop.stop()
    }
}
