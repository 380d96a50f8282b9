internal import ByteLayout
public import DeviceModel
internal import Synchronization
public import Virtio

/// What a network card is connected to. Any thread; must not block and must not call the card back from
/// inside.
public protocol NetworkBackend: AnyObject, Sendable {
    /// Whether there is a cable; fixed for the life of the machine in this version.
    var hasLink: Bool { get }
    /// Takes a frame that the guest sends: 14 to `VirtioNetwork.largestFrame` bytes, from the destination's
    /// address to the end of the payload, without the check sequence. One that cannot be passed on is
    /// dropped. Called only while there is a link.
    func send(_ frame: [UInt8])
}

/// No cable.
public final class UnpluggedCable: NetworkBackend {
    public init() {}
    public let hasLink = false
    public func send(_ frame: [UInt8]) {}
}

/// A network card with one pair of queues and no offloads (VIRTIO 1.3 §5.1): the guest learns its address
/// and whether there is a link. Frames for the guest do not come in this version, so its buffers stay where
/// they are.
///
/// Confinement: any thread.
public final class VirtioNetwork: VirtioDevice {
    public static let kind = "virtio-net"
    static let queueSize: UInt16 = 256
    /// An Ethernet header with a VLAN tag, and the payload that drivers send to a card that names no other
    /// size (§5.1.4.2).
    public static let largestFrame = 18 + 1500
    static let smallestFrame = 14
    /// Bytes of an Ethernet address.
    public static let addressSize = 6

    public struct Saved: Codable, Sendable, Equatable {
        public init() {}
    }

    public let link: VirtioLink
    private let address: [UInt8]
    private let backend: any NetworkBackend
    /// Frames that were too short or too long, or nothing but a header, since the machine started.
    private let dropped = Atomic<UInt64>(0)

    /// `address` has `addressSize` bytes.
    public init(_ context: DeviceContext, address: [UInt8], backend: any NetworkBackend) {
        precondition(address.count == Self.addressSize, "an Ethernet address has six bytes")
        self.address = address
        self.backend = backend
        link = VirtioLink(context, queueSizes: [Self.queueSize, Self.queueSize])
    }

    public let deviceID: UInt16 = 1
    /// Ethernet controller.
    public let classCode: UInt32 = 0x02_00_00
    public var features: UInt64 { NetworkFeature.address | NetworkFeature.status }

    public var config: [UInt8] {
        var image = address
        image.append(littleEndian: backend.hasLink ? NetworkStatus.linkUp : 0)
        return image
    }

    public var droppedFrames: UInt64 { dropped.load(ordering: .relaxed) }

    public func notify(queue: Int) {
        guard queue == NetworkQueue.transmit else { return }
        let queue = link.queues[NetworkQueue.transmit]
        queue.service { chain in
            if backend.hasLink { transmit(chain) }
            queue.complete(chain, written: 0)
        }
    }

    private func transmit(_ chain: DescriptorChain) {
        let count = chain.readableCount - NetworkQueue.headerSize
        guard (Self.smallestFrame...Self.largestFrame).contains(count) else {
            dropped.wrappingAdd(1, ordering: .relaxed)
            return
        }
        // The header asks for what was not offered, or for nothing.
        backend.send(chain.read(link.memory, offset: NetworkQueue.headerSize, count: count))
    }

    // MARK: Lifecycle

    public func reset() {}
    public func save() -> Saved { Saved() }
    public func restore(_ saved: Saved) throws(RestoreError) {}
}
