public import GuestMemory

/// A run of guest bytes that a descriptor names. It was wholly in memory when the chain was read.
public struct GuestBuffer: Sendable, Equatable {
    public var address: GuestAddress
    /// Bytes, 1 to 2^32 - 1.
    public var count: Int
    public init(address: GuestAddress, count: Int) {
        self.address = address
        self.count = count
    }
}

/// The buffers of one request, copied out of the descriptor table once: what the driver does to the table
/// afterwards changes nothing. Descriptors of length 0 are dropped.
public struct DescriptorChain: Sendable {
    /// The index to give back in the used ring.
    public let head: UInt16
    /// Device-readable buffers, in order.
    public internal(set) var readable: [GuestBuffer] = []
    /// Device-writable buffers, in order.
    public internal(set) var writable: [GuestBuffer] = []
    /// Sums; both together are below 2^32.
    public internal(set) var readableCount = 0
    public internal(set) var writableCount = 0
    /// Which life of the queue the chain belongs to.
    var epoch: UInt64 = 0

    init(head: UInt16) { self.head = head }

    /// Up to `count` bytes of the readable part from `offset` on; shorter when the part ends. The caller
    /// bounds `count`.
    public func read(_ memory: GuestMemory, offset: Int, count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        for piece in Self.slice(readable, offset: offset, count: count) {
            // A buffer stays memory for ever, since regions are fixed: a fault here cannot happen.
            guard let part = try? memory.bytes(piece.address, count: piece.count) else { break }
            bytes += part
        }
        return bytes
    }

    /// Stores `bytes` into the writable part at `offset`, as many as fit; returns how many did.
    @discardableResult
    public func write(_ bytes: [UInt8], _ memory: GuestMemory, offset: Int = 0) -> Int {
        var done = 0
        for piece in Self.slice(writable, offset: offset, count: bytes.count) {
            let part = Array(bytes[done..<(done + piece.count)])
            guard (try? memory.write(part, at: piece.address)) != nil else { break }
            done += piece.count
        }
        return done
    }

    /// The buffers that hold bytes `offset..<offset + count` of all `buffers` in a row, cut at their end.
    public static func slice(_ buffers: [GuestBuffer], offset: Int, count: Int) -> [GuestBuffer] {
        var result: [GuestBuffer] = []
        var skip = max(offset, 0)
        var left = max(count, 0)
        for buffer in buffers where left > 0 {
            guard skip < buffer.count else {
                skip -= buffer.count
                continue
            }
            let part = min(buffer.count - skip, left)
            result.append(GuestBuffer(address: buffer.address + UInt64(skip), count: part))
            skip = 0
            left -= part
        }
        return result
    }
}
