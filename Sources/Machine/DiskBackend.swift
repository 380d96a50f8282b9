internal import BlockStorage
internal import DiskImages

/// A disk image behind a virtio disk. The device's queues hold fewer requests than an image takes.
final class DiskBackend: BlockBackend {
    private let image: any DiskImage

    init(_ image: any DiskImage) { self.image = image }

    var capacity: UInt64 { image.sectorCount }
    var isReadOnly: Bool { image.isReadOnly }

    func submit(_ request: BlockRequest, completion: @escaping @Sendable (_ succeeded: Bool) -> Void) {
        if !image.submit(translate(request), completion: { completion($0 == 0) }) { completion(false) }
    }

    func drain() { image.drain() }

    private func translate(_ request: BlockRequest) -> DiskRequest {
        let offset = request.sector &* 512, count = request.sectorCount &* 512
        switch request.operation {
        case .read: return .read(offset: offset, into: buffers(request))
        case .write: return .write(offset: offset, from: buffers(request))
        case .flush: return .flush
        case .discard: return .discard(offset: offset, count: count)
        case .writeZeroes(let mayUnmap): return .writeZeroes(offset: offset, count: count, mayUnmap: mayUnmap)
        }
    }

    private func buffers(_ request: BlockRequest) -> DiskBuffers {
        // SAFETY: the device keeps the buffers valid until the completion was called.
        unsafe DiskBuffers(
            request.buffers.map { unsafe UnsafeMutableRawBufferPointer(start: $0.base, count: $0.count) })
    }
}
