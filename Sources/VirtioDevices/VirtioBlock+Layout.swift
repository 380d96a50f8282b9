/// Numbers of VIRTIO 1.3 §5.2.
enum BlockFeature {
    static let segmentLimit: UInt64 = 1 << 2
    static let readOnly: UInt64 = 1 << 5
    static let blockSize: UInt64 = 1 << 6
    static let flush: UInt64 = 1 << 9
    static let topology: UInt64 = 1 << 10
    static let configWriteCache: UInt64 = 1 << 11
    static let multiqueue: UInt64 = 1 << 12
    static let discard: UInt64 = 1 << 13
    static let writeZeroes: UInt64 = 1 << 14
}

enum BlockRequestType {
    static let read: UInt32 = 0
    static let write: UInt32 = 1
    static let flush: UInt32 = 4
    static let identify: UInt32 = 8
    static let discard: UInt32 = 11
    static let writeZeroes: UInt32 = 13
}

enum BlockStatus: UInt8 {
    case ok = 0
    case ioError = 1
    case unsupported = 2
}

/// struct virtio_blk_config, §5.2.4.
enum BlockConfigField {
    static let capacity = 0
    static let segmentLimit = 12
    static let blockSize = 20
    static let physicalBlockExponent = 24
    static let optimalTransfer = 28
    static let writeback = 32
    static let queueCount = 34
    static let discardSectors = 36
    static let discardSegments = 40
    static let discardAlignment = 44
    static let writeZeroesSectors = 48
    static let writeZeroesSegments = 52
    static let writeZeroesMayUnmap = 56
    static let size = 60
}
