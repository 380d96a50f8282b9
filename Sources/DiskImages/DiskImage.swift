public import LinuxHost

/// Host memory that a request reads from or writes to: the parts of one guest transfer, in order.
///
/// - Safety: whoever makes one keeps the memory valid until the request's completion was called.
@safe public struct DiskBuffers: @unchecked Sendable {
    /// The parts; the guest may change their bytes at any time.
    public let parts: [UnsafeMutableRawBufferPointer]
    /// Bytes in all parts.
    public let count: Int

    /// - Safety: see the type.
    @unsafe public init(_ parts: [UnsafeMutableRawBufferPointer]) {
        unsafe self.parts = parts
        // SAFETY: only the counts are read; they add up to less than the address space.
        count = unsafe parts.reduce(0) { $0 + $1.count }
    }
}

/// What a disk can be asked to do. Offsets and counts are in bytes, multiples of `DiskImage.sectorSize`.
public enum DiskRequest: Sendable {
    case read(offset: UInt64, into: DiskBuffers)
    case write(offset: UInt64, from: DiskBuffers)
    /// Everything that completed before is on stable storage when this completes.
    case flush
    /// The range's content does not matter any more. It may read as anything until it is written.
    case discard(offset: UInt64, count: UInt64)
    /// The range reads as zeroes; `mayUnmap` allows giving its storage back.
    case writeZeroes(offset: UInt64, count: UInt64, mayUnmap: Bool)
}

/// The content of a disk. Any thread.
///
/// Formats conform; devices use it. A device's guest chooses offsets and counts: what does not fit completes
/// with EINVAL, what a read-only image does not allow with EROFS.
public protocol DiskImage: AnyObject, Sendable {
    /// In bytes, a multiple of `sectorSize`.
    var size: UInt64 { get }
    var isReadOnly: Bool { get }
    /// How requests run on this host; for statistics.
    var method: AsyncFileQueue.Method { get }
    /// Requests that may be under way.
    var requestLimit: Int { get }
    /// Starts a request. `completion` is called exactly once with 0 or an errno value, on a thread of the
    /// image or, for what needs no waiting, on the caller's before this returns. Returns false, and does not
    /// call it, when `requestLimit` requests are under way: the device
    /// keeps the request and tries again after a completion.
    func submit(_ request: DiskRequest, completion: @escaping @Sendable (_ code: Int32) -> Void) -> Bool
    /// Returns when no request is under way and no completion runs. Not from a completion.
    func drain()
    /// Drains, and gives up the image's threads. Nothing may be submitted afterwards.
    func close()
}

extension DiskImage {
    /// The unit of offsets and counts, in bytes.
    public static var sectorSize: UInt64 { 512 }
    public var sectorCount: UInt64 { size / Self.sectorSize }
}
