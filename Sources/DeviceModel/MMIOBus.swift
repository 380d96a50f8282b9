public import Synchronization

/// Guest-physical ranges that are devices. Ranges may overlap when a guest programs its BARs so: the one
/// mapped last wins, and an unmap uncovers the other. Nobody's addresses read as ones.
///
/// Confinement: any thread.
public final class MMIOBus: Sendable {
    private struct Mapping {
        let handle: Int
        let start: UInt64
        let size: UInt64
        let region: Int
        let device: any MemoryMappedDevice
        let direct: (any DirectMemory)?
    }
    private struct State {
        var mappings: [Mapping] = []
        var nextHandle = 1
    }
    private let state = Mutex(State())
    /// Who remembers what `direct` told.
    public let directAccess = DirectAccess()

    public init() {}

    /// Maps `size` bytes at `start`; the device sees offsets from `start` and `region`.
    /// A range that wraps 2^64 is cut at the end of the address space.
    @discardableResult
    public func map(_ device: some MemoryMappedDevice, region: Int = 0, at start: UInt64, size: UInt64) -> Int
    {
        let direct = device.directMemory(region: region)
        defer { directAccess.revoke() }
        return state.withLock { state in
            let handle = state.nextHandle
            state.nextHandle += 1
            let size = min(size, UInt64.max - start)
            state.mappings.insert(
                Mapping(
                    handle: handle, start: start, size: size, region: region, device: device, direct: direct),
                at: 0)
            return handle
        }
    }

    public func unmap(_ handle: Int) {
        state.withLock { state in state.mappings.removeAll { $0.handle == handle } }
        directAccess.revoke()
    }

    /// Host address of the page of 4,096 bytes at `page` if all of it is direct memory, else 0. It is good
    /// until `directAccess` asks for it back. `storing`: the device hears that stores may follow.
    public func directPage(at page: UInt64, storing: Bool) -> UInt {
        let found: (memory: any DirectMemory, number: Int)? = state.withLock { state in
            for mapping in state.mappings {
                let distance = page &- mapping.start
                guard distance < mapping.size || mapping.start &- page < 4096 else { continue }
                // The first that has any byte of it must have them all.
                guard let direct = mapping.direct, distance & 4095 == 0, distance < mapping.size,
                    mapping.size - distance >= 4096, distance < UInt64(direct.size)
                else { return nil }
                return (direct, Int(distance >> 12))
            }
            return nil
        }
        guard let found else { return 0 }
        if storing { found.memory.noteDirectStores(page: found.number, by: directAccess) }
        return found.memory.hostPage(found.number)
    }

    private func find(_ address: UInt64) -> Mapping? {
        state.withLock { state in
            for mapping in state.mappings where address &- mapping.start < mapping.size { return mapping }
            return nil
        }
    }

    /// A load of `width` bytes. One that straddles the end of a device's range is split into bytes.
    public func read(_ address: UInt64, width: AccessWidth) -> UInt64 {
        guard let mapping = find(address) else { return width.mask }
        let offset = address &- mapping.start
        if mapping.size - offset >= UInt64(width.bytes) {
            return mapping.device.read(region: mapping.region, offset: offset, width: width) & width.mask
        }
        var value: UInt64 = 0
        for byte in 0..<UInt64(width.bytes) {
            value |= read(address &+ byte, width: .byte) << (byte * 8)
        }
        return value
    }

    /// A store of `width` bytes.
    public func write(_ address: UInt64, width: AccessWidth, value: UInt64) {
        guard let mapping = find(address) else { return }
        let offset = address &- mapping.start
        if mapping.size - offset >= UInt64(width.bytes) {
            mapping.device.write(
                region: mapping.region, offset: offset, width: width, value: value & width.mask)
            return
        }
        for byte in 0..<UInt64(width.bytes) {
            write(address &+ byte, width: .byte, value: (value >> (byte * 8)) & 0xFF)
        }
    }
}
