internal import Glibc
internal import LinuxHost

/// A transfer between buffers and a file that may take several operations: the vectors that are left.
///
/// Confinement: one thread at a time (the submitter, then the completions).
@safe final class VectorTransfer: @unchecked Sendable {
    /// IOV_MAX: vectors of one operation.
    private static let vectorLimit = 1024
    private let vectors: UnsafeMutablePointer<iovec>
    private let count: Int
    private var first = 0
    private var offset: UInt64

    init(_ buffers: DiskBuffers, offset: UInt64) {
        // SAFETY: room for one vector per part, initialised below and freed in deinit.
        let parts = unsafe buffers.parts.filter { $0.count > 0 }
        unsafe vectors = .allocate(capacity: max(parts.count, 1))
        for index in unsafe parts.indices {
            let part = unsafe parts[index]
            unsafe (vectors + index).initialize(to: iovec(iov_base: part.baseAddress, iov_len: part.count))
        }
        count = unsafe parts.count
        self.offset = offset
    }

    deinit { unsafe vectors.deallocate() }

    /// The next operation: as many vectors as one call takes.
    /// - Safety: keep `self` and the buffers until it completed.
    @unsafe func operation(_ kind: FileOperation.Kind, on descriptor: Descriptor) -> FileOperation {
        unsafe FileOperation(
            kind, descriptor: descriptor.number, offset: offset, vectors: vectors + first,
            vectorCount: min(count - first, Self.vectorLimit))
    }

    /// `bytes` more were moved. Returns whether that was all.
    func advance(by bytes: Int) -> Bool {
        var rest = bytes
        offset &+= UInt64(bytes)
        // SAFETY: `first` stays below `count`.
        while first < count, unsafe vectors[first].iov_len <= rest {
            rest -= unsafe vectors[first].iov_len
            first += 1
        }
        if first < count, rest > 0 {
            let base = unsafe vectors[first].iov_base
            let length = unsafe vectors[first].iov_len
            unsafe vectors[first] = iovec(iov_base: base.map { unsafe $0 + rest }, iov_len: length - rest)
        }
        return first == count
    }
}

/// A run of zero bytes to write from.
@safe final class ZeroBlock: @unchecked Sendable {
    /// The largest block, in bytes: large enough that the system call does not matter.
    static let limit: UInt64 = 1 << 20
    let size: Int
    private let bytes: UnsafeMutableRawBufferPointer

    init(_ size: Int) {
        self.size = size
        // SAFETY: allocated and zeroed here, freed in deinit.
        unsafe bytes = .allocate(byteCount: size, alignment: 4096)
        unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { unsafe bytes.deallocate() }

    /// The first `count` bytes. The caller keeps this object while they are used.
    func buffers(_ count: Int) -> DiskBuffers {
        precondition(count <= size, "more zeroes than there are")
        return unsafe DiskBuffers([UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])])
    }
}
