public import DeviceModel
import Synchronization

/// The diagnostic port 80h. Firmware writes progress codes there and kernels use it as a delay; it reads as
/// the last code.
///
/// Confinement: any thread.
public final class POSTPort: PortDevice {
    public static let kind = "post"
    public let ports: [ClosedRange<UInt16>] = [0x80...0x80]
    public struct Saved: Codable, Sendable, Equatable {
        var code: UInt8
    }
    private let code = Atomic<UInt8>(0)

    public init(_ context: DeviceContext) {}

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        UInt32(code.load(ordering: .relaxed)) | 0xFFFF_FF00
    }
    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        code.store(UInt8(truncatingIfNeeded: value), ordering: .relaxed)
    }
    public func reset() { code.store(0, ordering: .relaxed) }
    public func save() -> Saved { Saved(code: code.load(ordering: .relaxed)) }
    public func restore(_ saved: Saved) throws(RestoreError) { code.store(saved.code, ordering: .relaxed) }
}
