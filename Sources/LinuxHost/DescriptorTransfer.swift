internal import CLinux
internal import Glibc

/// What one read or write did.
public enum Transfer: Equatable, Sendable {
    /// Bytes moved, at least one.
    case moved(Int)
    /// The other end is gone, or the file ends here.
    case endOfFile
    /// A non-blocking descriptor has nothing to read or no room.
    case wouldBlock
}

extension Descriptor {
    /// Reads at most `buffer.count` bytes (which must not be 0) to the start of `buffer`.
    public func read(into buffer: inout [UInt8]) throws(HostError) -> Transfer {
        precondition(!buffer.isEmpty, "an empty read cannot tell the end of the file")
        // SAFETY: the kernel writes at most `count` bytes of the array's storage.
        return try transfer("reading") {
            unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(number, $0.baseAddress!, $0.count) }
        }
    }

    /// Writes as many of `bytes` as fit now.
    public func write(_ bytes: ArraySlice<UInt8>) throws(HostError) -> Transfer {
        guard !bytes.isEmpty else { return .moved(0) }
        // SAFETY: the kernel reads at most `count` bytes of the slice's storage.
        return try transfer("writing") {
            unsafe bytes.withUnsafeBytes { unsafe Glibc.write(number, $0.baseAddress!, $0.count) }
        }
    }

    /// Writes all of `bytes`, waiting as long as it takes, also on a non-blocking descriptor.
    public func writeAll(_ bytes: [UInt8]) throws(HostError) {
        var rest = bytes[...]
        while !rest.isEmpty {
            switch try write(rest) {
            case .moved(let count): rest = rest.dropFirst(count)
            case .endOfFile: throw HostError("writing", code: EPIPE)
            case .wouldBlock: _ = try wait(forWriting: true, milliseconds: -1)
            }
        }
    }

    /// Fills `buffer` from `offset` of a file; returns the bytes read, fewer only at the end of the file.
    public func read(at offset: UInt64, into buffer: inout [UInt8]) throws(HostError) -> Int {
        // SAFETY: the array's storage.
        try unsafe buffer.withUnsafeMutableBytes { unsafe fill($0, from: offset) }.get()
    }

    /// The `count` bytes from `offset` of a file, fewer only at the end of the file.
    public func read(at offset: UInt64, count: Int) throws(HostError) -> [UInt8] {
        var result = Result<Int, HostError>.success(0)
        // SAFETY: the array's room; what was read into it becomes the array.
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { room, done in
            result = unsafe fill(
                UnsafeMutableRawBufferPointer(start: room.baseAddress, count: count), from: offset)
            done = (try? result.get()) ?? 0
        }
        _ = try result.get()
        return bytes
    }

    /// How many bytes were read.
    private func fill(
        _ room: UnsafeMutableRawBufferPointer, from offset: UInt64
    ) -> Result<Int, HostError> {
        Result { () throws(HostError) in
            guard let start = Int(exactly: offset) else { throw HostError("reading a file", code: EINVAL) }
            var done = 0
            while unsafe done < room.count {
                let from = done
                // SAFETY: the rest of the room.
                let count = try retrying("reading a file") {
                    unsafe pread(number, room.baseAddress! + from, room.count - from, start &+ from)
                }
                if count == 0 { break }
                done += count
            }
            return done
        }
    }

    /// Writes all of `bytes` at `offset` of a file.
    public func write(_ bytes: [UInt8], at offset: UInt64) throws(HostError) {
        guard let start = Int(exactly: offset) else { throw HostError("writing a file", code: EINVAL) }
        var done = 0
        while done < bytes.count {
            let from = done
            // SAFETY: the rest of the array's storage.
            let count = try retrying("writing a file") {
                unsafe bytes.withUnsafeBytes {
                    unsafe pwrite(number, $0.baseAddress! + from, $0.count - from, start &+ from)
                }
            }
            if count == 0 { throw HostError("writing a file", code: EIO) }
            done += count
        }
    }

    /// Waits until the descriptor can be read or written, or hung up; false after `milliseconds`
    /// (-1 waits for ever).
    public func wait(forWriting: Bool, milliseconds: Int32) throws(HostError) -> Bool {
        let count = try retrying("waiting for a descriptor") {
            var item = pollfd(fd: number, events: Int16(forWriting ? POLLOUT : POLLIN), revents: 0)
            // SAFETY: one item that lives for the call.
            return unsafe Int(poll(&item, 1, milliseconds))
        }
        return count > 0
    }

    private func transfer(_ action: String, _ call: () -> Int) throws(HostError) -> Transfer {
        while true {
            let count = call()
            if count > 0 { return .moved(count) }
            if count == 0 { return .endOfFile }
            let code = ospite_get_errno()
            if code == EAGAIN { return .wouldBlock }
            if code != EINTR { throw HostError(action, code: code) }
        }
    }
}
