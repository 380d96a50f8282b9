public import DeviceModel
import Synchronization

/// The debug output of SeaBIOS and OVMF at port 402h: text, for who works on firmware. It reads as E9h, by
/// which the firmware knows it.
///
/// Confinement: any thread. `write` gets the text line by line, in order, and must not block.
public final class FirmwareLog: PortDevice {
    public static let kind = "firmware-log"
    public let ports: [ClosedRange<UInt16>] = [0x402...0x402]

    public struct Saved: Codable, Sendable, Equatable {
        /// Of a line that has not ended.
        var line: [UInt8]
    }
    private static let presence: UInt32 = 0xE9
    private static let longestLine = 256
    private let line = Mutex<[UInt8]>([])
    private let write: @Sendable ([UInt8]) -> Void

    public init(write: @escaping @Sendable ([UInt8]) -> Void) { self.write = write }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 { Self.presence | 0xFFFF_FF00 }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        line.withLock { line in
            line.append(UInt8(truncatingIfNeeded: value))
            guard line.last == 0x0A || line.count >= Self.longestLine else { return }
            write(line)
            line = []
        }
    }

    public func reset() { line.withLock { $0 = [] } }
    public func save() -> Saved { Saved(line: line.withLock { $0 }) }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.line.count < Self.longestLine else { throw RestoreError(Self.kind, "a line too long") }
        line.withLock { $0 = saved.line }
    }
}
