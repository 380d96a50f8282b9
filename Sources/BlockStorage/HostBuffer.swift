public import GuestMemory

/// Guest memory as the host's system calls see it. Keeps the memory alive; the guest may change the bytes at
/// any time, so a backend copies before it checks.
@safe public struct HostBuffer: Sendable {
    /// Start of `count` bytes, for I/O vectors. Writable only in buffers of reads.
    @unsafe public nonisolated(unsafe) let base: UnsafeMutableRawPointer
    public private(set) var count: Int
    private let memory: GuestMemory

    /// - Throws: when the range is not memory, or not RAM and `forWriting`.
    public init(
        _ memory: GuestMemory, _ address: GuestAddress, count: Int, forWriting: Bool
    ) throws(GuestMemoryFault) {
        // SAFETY: `hostPointer` proved the range; `memory` is kept for as long as the pointer.
        unsafe base = try memory.hostPointer(address, count: count, forWriting: forWriting)
        self.count = count
        self.memory = memory
    }

    /// Makes this buffer cover `next` too, when that follows directly on the host: fewer I/O vectors.
    public mutating func merge(_ next: HostBuffer) -> Bool {
        // SAFETY: only addresses are compared; both ranges were proved, and both are of the one memory.
        guard next.memory === memory, unsafe base + count == next.base else { return false }
        count += next.count
        return true
    }

    /// A copy of the bytes.
    public var bytes: [UInt8] {
        // SAFETY: `base` has `count` bytes (see init).
        unsafe Array(UnsafeRawBufferPointer(start: base, count: count))
    }

    /// Stores the first bytes of `source`, as many as fit.
    public func store(_ source: some Collection<UInt8>) {
        // SAFETY: `base` has `count` bytes, writable in a buffer of a read; `prefix` bounds the copy.
        unsafe UnsafeMutableRawBufferPointer(start: base, count: count).copyBytes(from: source.prefix(count))
    }
}
