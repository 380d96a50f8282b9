/// An x86 I/O port number.
public struct Port: Hashable, Comparable, Sendable, BitwiseCopyable {
    public let raw: UInt16
    @inlinable public init(_ raw: UInt16) { self.raw = raw }
    @inlinable public static func < (left: Self, right: Self) -> Bool { left.raw < right.raw }
}

/// The size of one bus access, in bytes.
public enum AccessWidth: UInt8, Sendable, CaseIterable {
    case byte = 1, word = 2, dword = 4, qword = 8
    @inlinable public var bytes: Int { Int(rawValue) }
    /// All ones in the bits that an access of this width moves.
    @inlinable public var mask: UInt64 { self == .qword ? ~0 : (1 << (UInt64(rawValue) * 8)) - 1 }
}

/// A message-signalled interrupt: one 32-bit store to an interrupt address (Intel SDM vol. 3 §11.11).
public struct MSIMessage: Hashable, Codable, Sendable {
    public var address: UInt64
    public var data: UInt32
    public init(address: UInt64, data: UInt32) {
        self.address = address
        self.data = data
    }
}

/// Takes message-signalled interrupts to the local APICs. Any thread.
public protocol MSITarget: AnyObject, Sendable {
    func deliver(_ message: MSIMessage)
}

/// Takes the level of numbered lines: an interrupt controller or a router in front of several. Any thread.
public protocol InterruptSink: AnyObject, Sendable {
    func setLine(_ line: Int, asserted: Bool)
}

/// One interrupt wire of a device. Any thread.
public struct InterruptLine: Sendable {
    public let sink: any InterruptSink
    public let number: Int
    public init(_ sink: any InterruptSink, _ number: Int) {
        self.sink = sink
        self.number = number
    }
    public func raise() { sink.setLine(number, asserted: true) }
    public func lower() { sink.setLine(number, asserted: false) }
    public func set(_ asserted: Bool) { sink.setLine(number, asserted: asserted) }
    /// An edge: high, then low.
    public func pulse() {
        raise()
        lower()
    }
}

/// What a device may tell the machine that it is part of. Any thread.
public enum MachineEvent: Sendable, Equatable {
    /// The guest asked for power off (ACPI S5).
    case powerOff
    /// The guest asked to sleep with its memory kept (ACPI S3). Sent from the vCPU's thread in the write
    /// itself.
    case sleep
    /// What the sleeping guest waits for has come.
    case wake
    /// The guest asked for a reset (port 92, 0xCF9, keyboard controller, ACPI reset register).
    case reset
    /// The guest reported its own death (pvpanic event bits).
    case panicked(UInt32)
    /// A write to the debug-exit port; the exit status is `(value << 1) | 1`.
    case debugExit(UInt32)
}
