/// A guest-physical address in bytes.
public struct GuestAddress: Hashable, Comparable, Sendable, BitwiseCopyable {
    public var raw: UInt64
    @inlinable public init(_ raw: UInt64) { self.raw = raw }
    /// Wraps at 2^64: callers check ranges, not sums.
    @inlinable public static func + (base: Self, offset: UInt64) -> Self { Self(base.raw &+ offset) }
    @inlinable public static func < (left: Self, right: Self) -> Bool { left.raw < right.raw }
    /// The 4 KiB page frame number.
    @inlinable public var page: UInt64 { raw >> 12 }
}

/// What a guest did wrong with an address. Never thrown past a device: it decides what the guest sees.
public enum GuestMemoryFault: Error, Equatable, Sendable {
    /// `count` bytes at `address` are not all RAM (a hole, a device, beyond the end, or a wrapping sum).
    case notMemory(address: UInt64, count: UInt64)
    /// The range is ROM and the access was a store.
    case readOnly(address: UInt64)
    /// An atomic ring field is not naturally aligned.
    case misaligned(address: UInt64)
}
