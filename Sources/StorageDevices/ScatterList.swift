internal import BlockStorage
internal import GuestMemory

/// The guest's memory that the data of a command goes to or comes from.
///
/// The list was read once, when the command came: what the guest changes later has no effect.
struct ScatterList: Sendable {
    typealias Region = (address: UInt64, count: Int)
    /// Address and count of each region, as far as they were read.
    let regions: [Region]
    let memory: GuestMemory

    /// Bytes that the regions have room for.
    var room: Int { regions.reduce(0) { $0 + $1.count } }

    /// The first `count` bytes of the regions, or nil when they are not all memory.
    func buffers(_ count: Int, forWriting: Bool) -> [HostBuffer]? {
        var result: [HostBuffer] = [], rest = count
        for region in regions where rest > 0 {
            let part = min(region.count, rest)
            guard
                let buffer = try? HostBuffer(
                    memory, GuestAddress(region.address), count: part, forWriting: forWriting)
            else { return nil }
            if result.isEmpty || !result[result.count - 1].merge(buffer) { result.append(buffer) }
            rest -= part
        }
        return rest == 0 ? result : nil
    }

    /// Tells the engines that the first `count` bytes of the regions changed.
    func noteStore(_ count: Int) {
        var rest = count
        for region in regions where rest > 0 {
            let part = min(region.count, rest)
            memory.noteStore(GuestAddress(region.address), count: part)
            rest -= part
        }
    }

    /// Stores `bytes`, as many as there is room for; nil when the regions are no memory.
    func store(_ bytes: [UInt8]) -> Int? {
        var place = 0
        for region in regions where place < bytes.count {
            let part = min(region.count, bytes.count - place)
            guard
                (try? memory.write(Array(bytes[place..<place + part]), at: GuestAddress(region.address)))
                    != nil
            else { return nil }
            place += part
        }
        return place
    }

    /// The first bytes of the regions, at most `count`; nil when they are no memory.
    func load(_ count: Int) -> [UInt8]? {
        var bytes: [UInt8] = []
        for region in regions where bytes.count < count {
            let part = min(region.count, count - bytes.count)
            guard let more = try? memory.bytes(GuestAddress(region.address), count: part) else { return nil }
            bytes += more
        }
        return bytes
    }
}
