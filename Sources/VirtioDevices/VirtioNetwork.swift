public import DeviceModel
public import Virtio

/// A network adapter (VIRTIO 1.3 §5.1) whose cable is not plugged in: what the guest sends is gone, nothing
/// comes, and the link is down. Its option ROM is iPXE's.
///
/// Confinement: any thread.
public final class VirtioNetwork: VirtioDevice {
    public static let kind = "virtio-net"
    static let queueSize: UInt16 = 256
    private static let transmitQueue = 1
    /// §5.1.3.
    private static let hasAddress: UInt64 = 1 << 5, hasStatus: UInt64 = 1 << 16
    /// VIRTIO_NET_S_LINK_UP in the configuration's status, §5.1.4.
    static let linkIsUp: UInt16 = 1

    public struct Saved: Codable, Sendable, Equatable {
        var address: [UInt8]
    }

    public let link: VirtioLink
    private let address: [UInt8]

    /// - Parameter address: six bytes, the hardware address.
    public init(_ context: DeviceContext, address: [UInt8]) {
        precondition(address.count == 6, "a hardware address has six bytes")
        self.address = address
        link = VirtioLink(context, queueSizes: [Self.queueSize, Self.queueSize])
    }

    public let deviceID: UInt16 = 1
    /// An Ethernet controller.
    public let classCode: UInt32 = 0x02_00_00
    public var features: UInt64 { Self.hasAddress | Self.hasStatus }
    /// u8 mac[6], le16 status.
    public var config: [UInt8] { address + [0, 0] }

    public func notify(queue: Int) {
        guard queue == Self.transmitQueue else { return }
        let queue = link.queues[queue]
        queue.service { queue.complete($0, written: 0) }
    }

    public func reset() {}
    public func save() -> Saved { Saved(address: address) }
    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.address == address else { throw RestoreError(Self.kind, "another hardware address") }
    }
}
