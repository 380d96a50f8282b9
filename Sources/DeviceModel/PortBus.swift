public import Synchronization

/// The I/O port space: 65,536 ports, each of at most one device. Accesses that no device decodes read as ones
/// and write nothing, as on a PC.
///
/// Confinement: any thread. Devices are added while the machine is built; ranges may move later (PCI BARs).
public final class PortBus: Sendable {
    private struct Range {
        let first: UInt16
        let last: UInt16
        let device: any PortDevice
    }
    private struct State {
        /// Index + 1 into `ranges` for every port; 0 is nobody.
        var owner = [UInt16](repeating: 0, count: 65536)
        var ranges: [Range?] = []
    }
    private let state = Mutex(State())

    public init() {}

    /// Adds all ranges of `device`.
    public func attach(_ device: some PortDevice) {
        for range in device.ports { map(device, range) }
    }

    /// Gives `range` to `device`; the ports that are already taken keep their owner.
    /// Returns a handle for `unmap`.
    @discardableResult
    public func map(_ device: some PortDevice, _ range: ClosedRange<UInt16>) -> Int {
        state.withLock { state in
            let slot: Int
            let entry = Range(first: range.lowerBound, last: range.upperBound, device: device)
            if let free = state.ranges.firstIndex(where: { $0 == nil }) {
                slot = free
                state.ranges[free] = entry
            } else {
                slot = state.ranges.count
                state.ranges.append(entry)
            }
            for port in range where state.owner[Int(port)] == 0 {
                state.owner[Int(port)] = UInt16(slot + 1)
            }
            return slot
        }
    }

    public func unmap(_ handle: Int) {
        state.withLock { state in
            guard state.ranges.indices.contains(handle), let entry = state.ranges[handle] else { return }
            for port in entry.first...entry.last where state.owner[Int(port)] == UInt16(handle + 1) {
                state.owner[Int(port)] = 0
            }
            state.ranges[handle] = nil
        }
    }

    private func device(at port: UInt16) -> (any PortDevice)? {
        state.withLock { state in
            let owner = state.owner[Int(port)]
            return owner == 0 ? nil : state.ranges[Int(owner) - 1]?.device
        }
    }

    /// An IN instruction. A port without a device reads as ones.
    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        guard let device = device(at: port) else { return UInt32(truncatingIfNeeded: width.mask) }
        return device.read(port: port, width: width) & UInt32(truncatingIfNeeded: width.mask)
    }

    /// An OUT instruction.
    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        device(at: port)?.write(
            port: port, width: width, value: value & UInt32(truncatingIfNeeded: width.mask))
    }
}
