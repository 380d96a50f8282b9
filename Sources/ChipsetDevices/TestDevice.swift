public import DeviceModel
import Synchronization

/// A device for test kernels, built with `--debug-exit` only. It has what test suites for virtual machines
/// expect of a "PC test device":
///
/// - ports E0h-E3h hold 32 bits that can be accessed in any width;
/// - ports E4h-E7h ask to forget a page, which needs nothing here;
/// - ports 2000h-2017h set the level of interrupt lines 0-23: zero is low;
/// - 64 KiB at FF000000h are bytes that only ever are accessed as a device, never as memory.
///
/// Confinement: any thread.
public final class TestDevice: PortDevice, MemoryMappedDevice {
    public static let kind = "test-device"
    public static let address: UInt64 = 0xFF00_0000
    public static let size: UInt64 = 0x1_0000
    public let ports: [ClosedRange<UInt16>] = [0xE0...0xE7, 0x2000...0x2017]

    public struct Saved: Codable, Sendable, Equatable {
        var latch: UInt32
        var bytes: [UInt8]
    }
    private static let firstLine: UInt16 = 0x2000, latchPort: UInt16 = 0xE0, flushPort: UInt16 = 0xE4
    private let state = Mutex(Saved(latch: 0, bytes: [UInt8](repeating: 0, count: Int(size))))
    private let lines: any InterruptSink

    public init(_ context: DeviceContext) { lines = context.lines }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        guard port < Self.flushPort else { return .max }
        return state.withLock { $0.latch >> (UInt32(port & 3) * 8) }
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        if port >= Self.firstLine { return lines.setLine(Int(port - Self.firstLine), asserted: value != 0) }
        guard port < Self.flushPort else { return }
        let shift = UInt32(port & 3) * 8
        let mask = UInt32(truncatingIfNeeded: width.mask) << shift
        state.withLock { $0.latch = $0.latch & ~mask | value << shift & mask }
    }

    public func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        state.withLock { state in
            var value: UInt64 = 0
            for index in 0..<width.bytes where Int(offset) + index < state.bytes.count {
                value |= UInt64(state.bytes[Int(offset) + index]) << UInt64(index * 8)
            }
            return value
        }
    }

    public func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        state.withLock { state in
            for index in 0..<width.bytes where Int(offset) + index < state.bytes.count {
                state.bytes[Int(offset) + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
            }
        }
    }

    public func reset() {
        state.withLock { $0 = Saved(latch: 0, bytes: [UInt8](repeating: 0, count: Int(Self.size))) }
    }

    public func save() -> Saved { state.withLock { $0 } }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.bytes.count == Int(Self.size) else {
            throw RestoreError(Self.kind, "not 64 KiB of bytes")
        }
        state.withLock { $0 = saved }
    }
}
