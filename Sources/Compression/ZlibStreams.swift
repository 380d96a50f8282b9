internal import CZlib

/// Compresses one stream in pieces that a reader can use as they come (RFC 1950, zlib). Confinement: one
/// thread at a time.
@safe public final class Deflater {
    private nonisolated(unsafe) let stream: UnsafeMutableRawPointer
    private var level: Int32

    /// - Parameter level: 0, fast, to 9, small.
    public init(level: Int = 6) {
        self.level = Int32(min(max(level, 0), 9))
        guard let stream = unsafe ospite_deflate_new(self.level) else { preconditionFailure("no memory") }
        unsafe self.stream = unsafe stream
    }

    deinit { unsafe ospite_deflate_free(stream) }

    /// For what comes next.
    public func setLevel(_ new: Int) {
        let new = Int32(min(max(new, 0), 9))
        // SAFETY: the stream lives as long as we do.
        if new != level, unsafe ospite_deflate_level(stream, new) == 0 { level = new }
    }

    /// All of `bytes`, flushed; `finishing` ends the stream.
    public func compress(_ bytes: [UInt8], finishing: Bool = false) -> [UInt8] {
        var output = [UInt8](repeating: 0, count: ospite_deflate_bound(bytes.count))
        // SAFETY: both arrays' own storage and counts.
        let count = unsafe bytes.withUnsafeBytes { input in
            unsafe output.withUnsafeMutableBytes { output in
                unsafe ospite_deflate(
                    stream, input.baseAddress, input.count, output.baseAddress, output.count,
                    finishing ? 1 : 0)
            }
        }
        precondition(count >= 0, "the output has room for what cannot be compressed")
        output.removeLast(output.count - count)
        return output
    }
}

/// Decompresses one stream in pieces. Confinement: one thread at a time.
@safe public final class Inflater {
    private nonisolated(unsafe) let stream: UnsafeMutableRawPointer

    public init() {
        guard let stream = unsafe ospite_inflate_new() else { preconditionFailure("no memory") }
        unsafe self.stream = unsafe stream
    }

    deinit { unsafe ospite_inflate_free(stream) }

    /// At most `limit` bytes of what `bytes` holds; nil for what is no zlib stream.
    public func decompress(_ bytes: [UInt8], limit: Int) -> [UInt8]? {
        var output = [UInt8](repeating: 0, count: max(limit, 1))
        var taken = 0
        // SAFETY: both arrays' own storage and counts.
        let count = unsafe bytes.withUnsafeBytes { input in
            unsafe output.withUnsafeMutableBytes { output in
                unsafe ospite_inflate(
                    stream, input.baseAddress, input.count, output.baseAddress, output.count, &taken)
            }
        }
        guard count >= 0 else { return nil }
        return Array(output.prefix(count))
    }
}

/// The CRC-32 of PNG, zip and Ethernet, going on from `crc`.
public func crc32(_ bytes: [UInt8], from crc: UInt32 = 0) -> UInt32 {
    // SAFETY: the array's own storage and count.
    unsafe bytes.withUnsafeBytes { unsafe ospite_crc32(crc, $0.baseAddress, $0.count) }
}
