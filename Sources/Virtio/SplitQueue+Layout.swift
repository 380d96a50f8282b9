/// Split virtqueue descriptor, VIRTIO 1.3 §2.7.5: le64 addr, le32 len, le16 flags, le16 next. The fields
/// lie in memory as on the wire, because the hosts are little-endian.
struct QueueDescriptor: BitwiseCopyable {
    static let size: UInt64 = 16
    static let next: UInt16 = 1 << 0
    static let write: UInt16 = 1 << 1
    static let indirect: UInt16 = 1 << 2

    var address: UInt64
    var length: UInt32
    var flags: UInt16
    var next: UInt16
}

/// Used ring element, §2.7.8: le32 id, le32 len.
struct UsedElement: BitwiseCopyable {
    static let size: UInt64 = 8
    var id: UInt32
    var length: UInt32
}

/// Offsets in the available and used rings, §2.7.6 and §2.7.8:
/// ```
/// available: flags u16 | idx u16 | ring u16[size]         | used_event u16
/// used:      flags u16 | idx u16 | ring {u32,u32}[size]   | avail_event u16
/// ```
enum RingLayout {
    static let flags: UInt64 = 0
    static let index: UInt64 = 2
    static let ring: UInt64 = 4
    /// Available ring flag: the driver wants no used-buffer notifications (§2.7.7).
    static let noInterrupt: UInt16 = 1
    /// Used ring flag: the device wants no available-buffer notifications (§2.7.10).
    static let noNotify: UInt16 = 1
    static func usedEvent(size: UInt16) -> UInt64 { ring + 2 * UInt64(size) }
    static func availableEvent(size: UInt16) -> UInt64 { ring + UsedElement.size * UInt64(size) }
    static func descriptorBytes(size: UInt16) -> UInt64 { QueueDescriptor.size * UInt64(size) }
    static func availableBytes(size: UInt16) -> UInt64 { usedEvent(size: size) + 2 }
    static func usedBytes(size: UInt16) -> UInt64 { availableEvent(size: size) + 2 }
}
