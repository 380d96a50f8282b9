/// Feature bits, VIRTIO 1.3 §5.1.3.
enum NetworkFeature {
    static let address: UInt64 = 1 << 5
    static let status: UInt64 = 1 << 16
}

/// struct virtio_net_config, §5.1.4, as far as our features reach: the address, le16 status.
enum NetworkStatus {
    static let linkUp: UInt16 = 1 << 0
}

/// Queues, §5.1.2, and struct virtio_net_hdr in front of every frame, §5.1.6: flags, gso_type, hdr_len,
/// gso_size, csum_start, csum_offset and num_buffers.
enum NetworkQueue {
    static let receive = 0, transmit = 1
    static let headerSize = 12
}
