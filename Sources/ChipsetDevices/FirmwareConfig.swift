import ByteLayout
public import DeviceModel
import GuestMemory
import Synchronization

/// The firmware configuration device of virtual machines (QEMU docs/specs/fw_cfg): what SeaBIOS and OVMF ask
/// for memory sizes, tables and settings. Selector at port 510h, one byte at a time at 511h, and transfers
/// straight to memory through the address register at 514h-51Bh. Nothing in it can be written.
///
/// Confinement: any thread. Functions that compute an item run without the device's lock.
public final class FirmwareConfig: PortDevice {
    public static let kind = "fw-cfg"
    public let ports: [ClosedRange<UInt16>] = [0x510...0x511, 0x514...0x51B]

    public struct Saved: Codable, Sendable, Equatable {
        var selector: UInt16
        /// Bytes of the selected item that were read or skipped.
        var offset: UInt32
        /// The upper half of the DMA address.
        var addressHigh: UInt32
    }

    private enum Port {
        static let selector: UInt16 = 0x510, data: UInt16 = 0x511
        static let addressHigh: UInt16 = 0x514, addressLow: UInt16 = 0x518
    }
    /// Bytes beyond an item's end that one transfer fills with zeroes; a longer one is a mistake.
    private static let longestFill = 64 << 10
    /// Copied at a time.
    private static let chunk = 1 << 20

    private struct State {
        var selector: UInt16 = 0
        var offset = 0
        var addressHigh: UInt32 = 0
        /// The selected item; nil until it is looked at.
        var selected: [UInt8]?
    }
    private let items: [UInt16: FirmwareConfigContents.Item]
    private let memory: GuestMemory
    private let state = Mutex(State())

    public init(_ context: DeviceContext, _ contents: FirmwareConfigContents) {
        memory = context.memory
        items = contents.bySelector
    }

    // MARK: Ports

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        switch port {
        case Port.selector: return UInt32(state.withLock { $0.selector }) | 0xFFFF_0000
        case Port.data: return UInt32(nextByte()) | 0xFFFF_FF00
        default:
            var value: UInt32 = 0
            let first = Int(port &- Port.addressHigh)
            for byte in 0..<min(width.bytes, 4) {
                let place = first + byte
                let field = place < 8 ? FirmwareConfigDMA.signature[place] : 0xFF
                value |= UInt32(field) << UInt32(8 * byte)
            }
            return value
        }
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        switch (port, width) {
        case (Port.selector, .word): select(UInt16(truncatingIfNeeded: value))
        // The register is big-endian.
        case (Port.addressHigh, .dword): state.withLock { $0.addressHigh = value.byteSwapped }
        case (Port.addressLow, .dword):
            let high = state.withLock { state in
                defer { state.addressHigh = 0 }
                return state.addressHigh
            }
            transfer(GuestAddress(UInt64(high) << 32 | UInt64(value.byteSwapped)))
        default: break
        }
    }

    private func select(_ selector: UInt16) {
        state.withLock { state in
            state.selector = selector
            state.offset = 0
            state.selected = nil
        }
    }

    /// The bytes of the selected item; those of an unknown one are none.
    private func selected() -> [UInt8] {
        let (known, selector) = state.withLock { ($0.selected, $0.selector) }
        if let known { return known }
        let bytes = items[selector]?.bytes ?? []
        state.withLock { if $0.selector == selector { $0.selected = bytes } }
        return bytes
    }

    private func nextByte() -> UInt8 {
        let bytes = selected()
        return state.withLock { state in
            guard state.offset < bytes.count else { return 0 }
            defer { state.offset += 1 }
            return bytes[state.offset]
        }
    }

    // MARK: DMA

    /// Does what the 16 bytes at `address` ask for, and says there how it went. Bytes that are not in memory
    /// ask for nothing.
    private func transfer(_ address: GuestAddress) {
        guard let request = try? memory.bytes(address, count: FirmwareConfigDMA.size),
            let control = request.load(littleEndian: UInt32.self, at: 0)?.byteSwapped,
            let length = request.load(littleEndian: UInt32.self, at: FirmwareConfigDMA.lengthOffset),
            let target = request.load(littleEndian: UInt64.self, at: FirmwareConfigDMA.addressOffset)
        else { return }
        if control & FirmwareConfigDMA.select != 0 { select(UInt16(control >> 16)) }
        var succeeded = true
        let count = Int(length.byteSwapped)
        if control & FirmwareConfigDMA.read != 0 {
            succeeded = copy(count, to: GuestAddress(target.byteSwapped))
        } else if control & FirmwareConfigDMA.write != 0 {
            succeeded = false
        } else if control & FirmwareConfigDMA.skip != 0 {
            let end = selected().count
            state.withLock { $0.offset = min($0.offset + count, max($0.offset, end)) }
        }
        let result = succeeded ? 0 : FirmwareConfigDMA.error
        try? memory.store(result.byteSwapped, at: address)
    }

    /// Copies from the item's current place on; what the item does not have is zeroes.
    private func copy(_ count: Int, to target: GuestAddress) -> Bool {
        let bytes = selected()
        let start = min(state.withLock { $0.offset }, bytes.count)
        let end = min(start + count, bytes.count)
        let fill = count - (end - start)
        guard fill <= Self.longestFill else { return false }
        do throws(GuestMemoryFault) {
            var place = start
            while place < end {
                let next = min(place + Self.chunk, end)
                try memory.write(Array(bytes[place..<next]), at: target + UInt64(place - start))
                place = next
            }
            if fill > 0 {
                let zeroes = [UInt8](repeating: 0, count: fill)
                try memory.write(zeroes, at: target + UInt64(end - start))
            }
        } catch {
            return false
        }
        state.withLock { $0.offset = end }
        return true
    }

    // MARK: Lifecycle

    public func reset() { state.withLock { $0 = State() } }

    public func save() -> Saved {
        state.withLock {
            Saved(
                selector: $0.selector, offset: UInt32(clamping: $0.offset), addressHigh: $0.addressHigh)
        }
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard Int(saved.offset) <= items[saved.selector]?.size ?? 0 else {
            throw RestoreError(Self.kind, "a place beyond the item's end")
        }
        state.withLock {
            $0 = State(
                selector: saved.selector, offset: Int(saved.offset), addressHigh: saved.addressHigh)
        }
    }
}
