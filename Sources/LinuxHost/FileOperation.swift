internal import CLinux
public import Glibc

/// One operation on an open file, as the kernel takes it.
///
/// - Safety: the vectors and the memory that they name stay valid, and the descriptor open, until the
///   operation completed.
@unsafe public struct FileOperation: @unchecked Sendable {
    public enum Kind: Sendable {
        /// preadv at `offset`.
        case read
        /// pwritev at `offset`.
        case write
        /// fdatasync.
        case synchronize
        /// fallocate with `mode` (FALLOC_FL_...) on `length` bytes at `offset`.
        case allocate(mode: Int32)
    }
    public let kind: Kind
    public let descriptor: Int32
    public let offset: UInt64
    /// Bytes of an `allocate`.
    public let length: UInt64
    public let vectors: UnsafeMutablePointer<iovec>?
    /// At most 1024 (IOV_MAX).
    public let vectorCount: Int

    public init(
        _ kind: Kind, descriptor: Int32, offset: UInt64 = 0, length: UInt64 = 0,
        vectors: UnsafeMutablePointer<iovec>? = nil, vectorCount: Int = 0
    ) {
        precondition((0...1024).contains(vectorCount), "more vectors than the kernel takes")
        unsafe self.kind = kind
        unsafe self.descriptor = descriptor
        unsafe self.offset = offset
        unsafe self.length = length
        unsafe self.vectors = vectors
        unsafe self.vectorCount = vectorCount
    }

    /// Reads or writes on the calling thread as far as the host's page cache allows it without waiting for
    /// a disk. Returns the bytes moved or a negative errno value: EAGAIN when nothing could be moved,
    /// EOPNOTSUPP when the file cannot be asked.
    public func attemptWithoutWaiting() -> Int {
        let result: Int
        // SAFETY: whoever made the operation promised valid vectors.
        switch unsafe kind {
        case .read:
            result = unsafe ospite_read_without_waiting(descriptor, vectors, Int32(vectorCount), offset)
        case .write:
            result = unsafe ospite_write_without_waiting(descriptor, vectors, Int32(vectorCount), offset)
        case .synchronize, .allocate: return -Int(EOPNOTSUPP)
        }
        return result < 0 ? -Int(ospite_get_errno()) : result
    }
}
