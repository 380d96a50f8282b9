public import GuestMemory

/// A guest-visible device. Its behaviour is a state machine behind its own lock: accesses come from any vCPU
/// thread, timers and workers. What the guest does wrong has defined behaviour; nothing here may trap, block
/// for long or grow without bound on guest input.
public protocol Device: AnyObject, Sendable {
    /// Everything that the guest could tell apart, and nothing that can be derived. New fields are optional
    /// with a meaning for absence.
    associatedtype Saved: Codable & Sendable & Equatable
    /// The catalog name: "pit", "virtio-blk".
    static var kind: String { get }
    /// Back to the state after power-on.
    func reset()
    /// A consistent copy; called while the machine is paused.
    func save() -> Saved
    /// Takes over a saved state; called while paused, on a device built with the same configuration.
    /// The state is untrusted (it may come from a file or a peer): every field is range-checked.
    func restore(_ saved: Saved) throws(RestoreError)
    /// The machine stops: workers finish or park what is in flight before this returns.
    func pause()
    func resume()
}

extension Device {
    public func pause() {}
    public func resume() {}
}

/// A saved state that this device refuses, with the field and the reason.
public struct RestoreError: Error, Equatable, Sendable, CustomStringConvertible {
    public let device: String
    public let reason: String
    public init(_ device: String, _ reason: String) {
        self.device = device
        self.reason = reason
    }
    public var description: String { "cannot restore \(device): \(reason)" }
}

/// A device that answers I/O ports.
public protocol PortDevice: Device {
    /// The ports it decodes after reset, each range with its first port.
    var ports: [ClosedRange<UInt16>] { get }
    /// `width` is byte, word or dword; the result's upper bits are ignored. Undecoded bits read as ones.
    func read(port: UInt16, width: AccessWidth) -> UInt32
    func write(port: UInt16, width: AccessWidth, value: UInt32)
}

/// A device that answers a memory range; `offset` is from the start of the range it was mapped at, and the
/// access never leaves the range. `region` tells several ranges of one device apart (BAR number, or 0).
public protocol MemoryMappedDevice: Device {
    func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64
    func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64)
    /// What processors may reach without asking, from the start of `region` on; nil for most regions.
    func directMemory(region: Int) -> (any DirectMemory)?
}

extension MemoryMappedDevice {
    public func directMemory(region: Int) -> (any DirectMemory)? { nil }
}

/// What a device is given when it is built.
public struct DeviceContext: Sendable {
    public let memory: GuestMemory
    public let clock: any MachineClock
    /// Message-signalled interrupts.
    public let msi: any MSITarget
    /// ISA and PCI interrupt lines (global system interrupt numbers).
    public let lines: any InterruptSink
    /// Tells the machine about power-off, reset and panics.
    public let report: @Sendable (MachineEvent) -> Void

    public init(
        memory: GuestMemory, clock: any MachineClock, msi: any MSITarget, lines: any InterruptSink,
        report: @escaping @Sendable (MachineEvent) -> Void
    ) {
        self.memory = memory
        self.clock = clock
        self.msi = msi
        self.lines = lines
        self.report = report
    }
    public func line(_ number: Int) -> InterruptLine { InterruptLine(lines, number) }
}
