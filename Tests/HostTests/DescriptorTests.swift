import Glibc
@testable import LinuxHost
import Testing

@Suite struct DescriptorTests {
    @Test func `a dropped descriptor is closed once and for all`() throws {
        let (reader, number) = try {
            let (reader, writer) = try Descriptor.pipe()
            return (reader, writer.number)
        }()
        var byte: [UInt8] = [0]
        // The only writer is gone: end of file, not a wait.
        #expect(try reader.read(into: &byte) == .endOfFile)
        #expect(number != reader.number)
    }

    @Test func `a duplicate keeps the file open`() throws {
        let (reader, copy) = try {
            let (reader, writer) = try Descriptor.pipe()
            return (reader, try writer.duplicate())
        }()
        try copy.writeAll([1, 2, 3])
        var buffer = [UInt8](repeating: 0, count: 8)
        #expect(try reader.read(into: &buffer) == .moved(3))
        #expect(buffer.prefix(3) == [1, 2, 3])
    }

    @Test func `a non-blocking pipe says would-block when empty and when full`() throws {
        let (reader, writer) = try Descriptor.pipe()
        try reader.setNonBlocking(true)
        try writer.setNonBlocking(true)
        var buffer = [UInt8](repeating: 7, count: 65536)
        #expect(try reader.read(into: &buffer) == .wouldBlock)
        var written = 0
        while case .moved(let count) = try writer.write(buffer[...]) { written += count }
        #expect(written >= 4096)
        #expect(try writer.wait(forWriting: true, milliseconds: 0) == false)
        #expect(try reader.wait(forWriting: false, milliseconds: 0) == true)
    }

    @Test func `positioned reads and writes do not share a position, and end at the end`() throws {
        let file = try Descriptor.memory("test", size: 100)
        try file.write([1, 2, 3, 4], at: 96)
        var tail = [UInt8](repeating: 9, count: 10)
        #expect(try file.read(at: 98, into: &tail) == 2)
        #expect(tail.prefix(2) == [3, 4])
        #expect(
            try file.facts()
                == FileFacts(
                    size: 100, kind: .regular, isReadable: true, isWritable: true, bypassesCache: false))
        #expect(throws: HostError.self) { try file.write([1], at: .max) }
    }

    @Test func `an error names the action and the host's reason`() throws {
        let error = try #require(throws: HostError.self) {
            _ = try Descriptor.open("/nonexistent/file", flags: O_RDONLY)
        }
        #expect(error.code == ENOENT)
        #expect(error.description == "opening /nonexistent/file: No such file or directory")
    }

    @Test func `an event counter adds up and is empty after it was taken`() throws {
        let counter = try EventCounter()
        #expect(counter.take() == 0)
        for _ in 0..<5 { counter.signal() }
        #expect(counter.take() == 5)
        #expect(counter.take() == 0)
    }

    @Test func `a timer descriptor becomes readable when its time comes`() throws {
        let timer = try TimerDescriptor()
        #expect(timer.take() == 0)
        try timer.arm(at: HostTime.monotonic + 1_000_000)
        #expect(try timer.descriptor.wait(forWriting: false, milliseconds: 10_000))
        #expect(timer.take() == 1)
        try timer.arm(at: HostTime.monotonic + 3_600_000_000_000)
        try timer.disarm()
        #expect(try timer.descriptor.wait(forWriting: false, milliseconds: 1) == false)
    }

    @Test func `descriptors travel over a socket and refer to the same file`() throws {
        let (here, there) = try Descriptor.socketPair()
        let file = try Descriptor.memory("shared", size: 16)
        #expect(try DescriptorPassing.send([42], [file, file], over: here) == 1)
        let message = try #require(try DescriptorPassing.receive(from: there, byteLimit: 8))
        #expect(message.bytes == [42])
        #expect(message.descriptors.count == 2)
        #expect(!message.wasTruncated)
        try message.descriptors[1].write([5, 6], at: 3)
        var bytes = [UInt8](repeating: 0, count: 2)
        #expect(try file.read(at: 3, into: &bytes) == 2)
        #expect(bytes == [5, 6])
    }

    @Test func `surplus descriptors are closed and reported`() throws {
        let (here, there) = try Descriptor.socketPair(packets: true)
        let (reader, writer) = try Descriptor.pipe()
        _ = try DescriptorPassing.send([1], Array(repeating: writer, count: 5), over: here)
        do {
            let message = try #require(try DescriptorPassing.receive(from: there, byteLimit: 1, limit: 2))
            #expect(message.descriptors.count == 2)
            #expect(message.wasTruncated)
        }
        _ = consume writer
        var byte: [UInt8] = [0]
        #expect(try reader.read(into: &byte) == .endOfFile)
    }

    @Test func `a closed peer is a message without bytes, and an empty socket is nil`() throws {
        var pair: (Descriptor, Descriptor)? = try Descriptor.socketPair()
        let there = try #require(pair).1
        try there.setNonBlocking(true)
        #expect(try DescriptorPassing.receive(from: there, byteLimit: 4) == nil)
        pair = nil
        let message = try #require(try DescriptorPassing.receive(from: there, byteLimit: 4))
        #expect(message.bytes.isEmpty && message.descriptors.isEmpty)
    }

    @Test func `a signal is read as data`() throws {
        let signals = try SignalDescriptor([SIGUSR2])
        #expect(signals.next() == nil)
        pthread_kill(pthread_self(), SIGUSR2)
        #expect(signals.next() == SIGUSR2)
        #expect(signals.next() == nil)
    }

    @Test func `a terminal is raw until it is restored, and what is no terminal is refused`() throws {
        let (reader, _) = try Descriptor.pipe()
        #expect(RawTerminal(reader) == nil)
        let terminal = try Descriptor.open("/dev/ptmx", flags: O_RDWR | O_NOCTTY)
        func isCanonical() -> Bool {
            var settings = termios()
            tcgetattr(terminal.number, &settings)
            return settings.c_lflag & tcflag_t(ICANON) != 0
        }
        #expect(isCanonical())
        let raw = try #require(RawTerminal(terminal))
        #expect(!isCanonical())
        raw.restore()
        #expect(isCanonical())
    }

    @Test func `a ring holds as many operations as it has entries`() throws {
        guard let ring = try? IOUring(entries: 4, file: .memory("disk", size: 4096)) else {
            print("skipped: this host refuses io_uring")
            return
        }
        for token in 1...4 as ClosedRange<UInt64> { #expect(ring.submitNothing(token: token)) }
        #expect(!ring.submitNothing(token: 5))
        var completions: [IOUring.Completion] = []
        try ring.reap(into: &completions, waiting: true)
        #expect(completions.map(\.token).sorted() == [1, 2, 3, 4])
        #expect(completions.allSatisfy { $0.result == 0 })
        try ring.reap(into: &completions, waiting: false)
        #expect(completions.isEmpty && ring.submitNothing(token: 6))
    }

    @Test func `a ring opens nothing and touches no file but its own`() throws {
        let file = try Descriptor.memory("disk", size: 4096),
            other = try Descriptor.memory("other", size: 4096)
        guard let ring = try? IOUring(entries: 4, file: file) else {
            print("skipped: this host refuses io_uring")
            return
        }
        /// The result of one entry.
        func result(opcode: UInt8, flags: UInt8, file: Int32) throws -> Int32 {
            let isSubmitted = ring.submitEntry { entry in
                entry.storeBytes(of: opcode, as: UInt8.self)
                entry.storeBytes(of: flags, toByteOffset: 1, as: UInt8.self)
                entry.storeBytes(of: file, toByteOffset: 4, as: Int32.self)
            }
            try #require(isSubmitted)
            var completions: [IOUring.Completion] = []
            try ring.reap(into: &completions, waiting: true)
            return try #require(completions.first).result
        }
        let own = IOUring.fixedFile
        #expect(try result(opcode: IOUring.Opcode.synchronize, flags: own, file: 0) == 0)
        // By number, the own file too; the second place of the table, which is empty.
        #expect(try result(opcode: IOUring.Opcode.synchronize, flags: 0, file: other.number) == -EACCES)
        #expect(try result(opcode: IOUring.Opcode.synchronize, flags: 0, file: file.number) == -EACCES)
        #expect(try result(opcode: IOUring.Opcode.synchronize, flags: own, file: 1) == -EBADF)
        // OPENAT, CLOSE, CONNECT, SOCKET, FILES_UPDATE, SPLICE, OPENAT2
        for opcode in [18, 19, 16, 45, 20, 30, 28] as [UInt8] {
            #expect(try result(opcode: opcode, flags: own, file: 0) == -EACCES, "\(opcode)")
        }
        // The table stays as it is.
        let number = UInt64(other.number)
        #expect(throws: HostError.self) {
            try ring.register(IOUring.Registration.files, [number], count: 1)
        }
        #expect(throws: HostError.self) {
            try ring.register(IOUring.Registration.restrictions, [1 | 18 << 16, 0], count: 1)
        }
    }

    @Test func `the peer of a socket pair is this process`() throws {
        let (here, _there) = try Descriptor.socketPair()
        let peer = try DescriptorPassing.peer(of: here)
        #expect(peer.process == getpid())
        #expect(peer.user == geteuid())
        _ = _there
    }
}

extension DescriptorPassing.Message: Equatable {
    public static func == (left: Self, right: Self) -> Bool { left.bytes == right.bytes }
}
