public import DeviceModel
public import Virtio

/// Random numbers (VIRTIO 1.3 §5.4). A request gets at most 4 KiB, so that a notification costs at most
/// 256 KiB of the host's randomness; the driver asks again for more.
///
/// Confinement: any thread.
public final class VirtioEntropy: VirtioDevice {
    public static let kind = "virtio-rng"
    static let queueSize: UInt16 = 64
    static let largestAnswer = 4096

    public struct Saved: Codable, Sendable, Equatable {
        public init() {}
    }

    public let link: VirtioLink
    private let source: @Sendable (Int) -> [UInt8]

    /// `source` returns that many random bytes; it may be called on any thread, and must not block.
    public init(_ context: DeviceContext, source: @escaping @Sendable (_ count: Int) -> [UInt8]) {
        self.source = source
        link = VirtioLink(context, queueSizes: [Self.queueSize])
    }

    public let deviceID: UInt16 = 4
    /// "Other" device without a class of its own.
    public let classCode: UInt32 = 0xFF_00_00
    public var features: UInt64 { 0 }
    public var config: [UInt8] { [] }

    public func notify(queue: Int) {
        guard link.queues.indices.contains(queue) else { return }
        let queue = link.queues[queue]
        queue.service { chain in
            let bytes = source(min(chain.writableCount, Self.largestAnswer))
            queue.complete(chain, written: chain.write(bytes, link.memory))
        }
    }

    public func reset() {}
    public func save() -> Saved { Saved() }
    public func restore(_ saved: Saved) throws(RestoreError) {}
}
