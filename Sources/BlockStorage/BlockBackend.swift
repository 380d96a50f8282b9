/// One request to the storage behind a disk. Buffers are guest memory, valid until the completion is called.
public struct BlockRequest: Sendable {
    public enum Operation: Sendable, Equatable {
        case read
        case write
        /// All writes completed before are durable when this completes.
        case flush
        /// The contents are no longer needed; they may read as anything.
        case discard
        /// The range reads as zeroes; storage may be freed when `mayUnmap`.
        case writeZeroes(mayUnmap: Bool)
    }
    public let operation: Operation
    /// First 512-byte sector. The device checked that the range lies inside the capacity.
    public let sector: UInt64
    /// 512-byte sectors; 0 for a flush.
    public let sectorCount: UInt64
    /// Where reads store and writes come from: `sectorCount * 512` bytes in all, each buffer of any length
    /// and alignment. Empty for the other operations.
    public let buffers: [HostBuffer]

    public init(
        _ operation: Operation, sector: UInt64 = 0, sectorCount: UInt64 = 0, buffers: [HostBuffer] = []
    ) {
        self.operation = operation
        self.sector = sector
        self.sectorCount = sectorCount
        self.buffers = buffers
    }
}

/// The storage behind a disk. Any thread; the device never has more requests outstanding than its queues
/// hold.
public protocol BlockBackend: AnyObject, Sendable {
    /// Size in 512-byte sectors; may change, then `VirtioBlock.capacityChanged` is called.
    var capacity: UInt64 { get }
    var isReadOnly: Bool { get }
    /// Starts `request`; does not block. `completion` is called once, with whether it succeeded, on any
    /// thread, also from inside this call; no lock of the backend may be held then.
    func submit(_ request: BlockRequest, completion: @escaping @Sendable (_ succeeded: Bool) -> Void)
    /// The end of a batch of `submit` calls: what was only queued starts now.
    func commit()
    /// Returns when every request submitted before has called its completion, and that call has returned.
    /// Called for a device reset on a vCPU thread, and for a pause; never on the thread that completes.
    func drain()
}

extension BlockBackend {
    public func commit() {}
}
