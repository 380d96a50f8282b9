/// The host's end of a serial port or console: bytes out of the guest, bytes into it.
public protocol CharacterBackend: AnyObject, Sendable {
    /// Takes bytes from the guest, in order. Waits at most `OutputQueue.patience` while a reader that was
    /// there a moment ago is slow, never again until it reads on; what then does not fit is dropped and
    /// counted. Any thread.
    func write(_ bytes: [UInt8])

    /// From now on `receiver` gets what the outside sends: it is called on the event loop's thread, takes as
    /// many bytes as it has room for and returns that number. When it takes less than all, nothing more is
    /// read from the outside until `receiverHasRoom`. Call once.
    func start(_ receiver: @escaping @Sendable (ArraySlice<UInt8>) -> Int)

    /// The receiver can take bytes again. Cheap when none wait. Any thread, any lock held.
    func receiverHasRoom()

    /// Bytes of the guest that nobody got.
    var droppedBytes: UInt64 { get }

    /// Writes out what is queued, as far as the reader takes it within two seconds, and ends. Not on the
    /// event loop's thread.
    func close()
}

/// Nobody at the other end: takes everything, sends nothing.
public final class NullBackend: CharacterBackend {
    public init() {}
    public func write(_ bytes: [UInt8]) {}
    public func start(_ receiver: @escaping @Sendable (ArraySlice<UInt8>) -> Int) {}
    public func receiverHasRoom() {}
    public var droppedBytes: UInt64 { 0 }
    public func close() {}
}
