/// A channel of the PC's DMA controller as the device on it sees it: what the guest has programmed decides
/// where bytes go, and how many. Any thread.
public protocol DMAChannel: AnyObject, Sendable {
    /// Bytes that may move now, up to 64 Ki; 0 when the channel is masked or programmed the other way.
    func room(toMemory: Bool) -> Int
    /// Moves the first bytes to memory, at most `room`. Returns whether the count has run out, which tells
    /// the device to end its transfer. Bytes for what is no RAM are lost.
    func store(_ bytes: [UInt8]) -> Bool
    /// Moves at most `count` bytes from memory; what is no memory reads as ones.
    func load(_ count: Int) -> (bytes: [UInt8], isLast: Bool)
}
