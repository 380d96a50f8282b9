public import GuestMemory

/// What a driver did wrong with a virtqueue. It never leaves the device: the device sets DEVICE_NEEDS_RESET
/// (VIRTIO 1.3 §2.1.2) and stops processing.
public enum QueueFault: Error, Equatable, Sendable {
    /// The queue size is zero, not a power of two, or above the maximum (§2.7).
    case badSize(UInt16)
    /// A ring area is not aligned as §2.7 demands, or not wholly in (writable) memory.
    case badArea(UInt64)
    /// The available index moved by more than the queue size.
    case availableJump(UInt16)
    /// A descriptor index is not below the size of its table.
    case badIndex(UInt16)
    /// A chain is longer than the queue, or a loop.
    case endlessChain
    /// A device-readable descriptor follows a device-writable one (§2.7.4.2).
    case readableAfterWritable
    /// An indirect descriptor without the feature, nested, with NEXT, or with a bad table size (§2.7.5.3).
    case badIndirect
    /// A buffer or ring field is not in memory, or is read-only and would be written.
    case memory(GuestMemoryFault)
    /// A chain of more than 2^32 - 1 bytes (§2.7.5.2).
    case tooLong
    /// A request whose framing the device cannot even answer (for example no byte for its status).
    case badRequest
}
