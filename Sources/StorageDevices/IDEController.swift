internal import BlockStorage
public import DeviceModel
internal import GuestMemory
public import LinuxHost
public import PCIBus
internal import Synchronization

/// The IDE function of Intel's PIIX3 (data sheet 290550 §2.3): two channels at the ports and lines that PCs
/// always had, with two drives each and bus masters behind BAR 4. For systems that know no other controller.
///
/// Confinement: any thread.
public final class IDEController: PortDevice {
    public static let kind = "ide"
    public static let mostDrives = 4

    public struct Saved: Codable, Sendable, Equatable {
        var function: PCIFunction.Saved
        var channels: [IDEChannel.Saved]
        var trays: [CDTray.Saved?]
    }

    private let channels: [IDEChannel]
    private let trays: [CDTray?]
    public let function: PCIFunction

    /// The first two are on the first channel. A channel without drives is there: software that waits for one
    /// that is busy for ever waits long.
    public init(_ context: DeviceContext, _ attachments: [SATAAttachment]) throws(HostError) {
        precondition((1...Self.mostDrives).contains(attachments.count), "one to four drives")
        var drives: [(any SATADevice)?] = attachments.map(\.device)
        while drives.count < Self.mostDrives { drives.append(nil) }
        trays = attachments.map(\.tray)
        var channels: [IDEChannel] = []
        for first in stride(from: 0, to: drives.count, by: 2) {
            let scratch = try GuestMemory([.init(start: 0, size: UInt64(IDEChannel.bufferSize), kind: .ram)])
            channels.append(
                IDEChannel(
                    context, Array(drives[first..<first + 2]), line: IDEPlace.all[first / 2].line,
                    scratch: scratch))
        }
        self.channels = channels
        let timing: UInt16 = 0x8000
        function = PCIFunction(
            PCIFunctionLayout(
                identity: PCIIdentity(
                    vendor: 0x8086, device: 0x7010, classCode: 0x01_01_80, subsystemVendor: 0x1AF4,
                    subsystem: 0x1100),
                bars: [nil, nil, nil, nil, BARLayout(.io, size: 2 * IDEBusMaster.ports)],
                // Timing of the channels, which are on; of their second drives; of Ultra DMA.
                registers: [
                    PCIRegister(0x40, timing, writable: ~0), PCIRegister(0x42, timing, writable: ~0),
                    PCIRegister(0x44, UInt8(0), writable: ~0), PCIRegister(0x48, UInt32(0), writable: ~0),
                ]),
            interrupts: PCIInterrupts(vectors: 0, target: context.msi), handler: IDEBusMasters(channels))
    }

    // MARK: Ports

    public var ports: [ClosedRange<UInt16>] {
        zip(channels, IDEPlace.all).flatMap { _, place in
            [place.command...place.command + IDEPlace.commandPorts - 1, place.control...place.control]
        }
    }

    private func place(of port: UInt16) -> (IDEChannel, register: UInt16?)? {
        for (channel, place) in zip(channels, IDEPlace.all) {
            if port == place.control { return (channel, nil) }
            let register = port &- place.command
            if register < IDEPlace.commandPorts { return (channel, register) }
        }
        return nil
    }

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        guard let (channel, register) = place(of: port) else { return ~0 }
        guard let register else { return UInt32(channel.alternateStatus) | 0xFFFF_FF00 }
        return channel.read(register, width: width)
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        guard let (channel, register) = place(of: port) else { return }
        guard let register else { return channel.control(UInt8(truncatingIfNeeded: value)) }
        channel.write(register, value, width: width)
    }

    // MARK: Lifecycle

    public func reset() {
        for channel in channels { channel.reset() }
        function.reset()
    }

    public func pause() { for channel in channels { channel.drain() } }

    public func save() -> Saved {
        Saved(function: function.save(), channels: channels.map(\.saved), trays: trays.map { $0?.saved })
    }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.channels.count == channels.count, saved.channels.allSatisfy(\.isPossible) else {
            throw RestoreError(Self.kind, "a channel")
        }
        guard saved.trays.count == trays.count,
            zip(trays, saved.trays).allSatisfy({ ($0 == nil) == ($1 == nil) })
        else { throw RestoreError(Self.kind, "a disk where a CD drive is") }
        for (channel, state) in zip(channels, saved.channels) { channel.restore(state) }
        for (tray, state) in zip(trays, saved.trays) {
            if let tray, let state, !tray.restore(state) { throw RestoreError(Self.kind, "a CD drive") }
        }
        try function.restore(saved.function)
    }
}

/// BAR 4: the bus masters of both channels.
private final class IDEBusMasters: PCIFunctionHandler {
    private let channels: [IDEChannel]
    init(_ channels: [IDEChannel]) { self.channels = channels }

    private func channel(_ offset: UInt64) -> (IDEChannel, Int)? {
        let index = Int(offset / IDEBusMaster.ports)
        return channels.indices.contains(index) ? (channels[index], Int(offset % IDEBusMaster.ports)) : nil
    }

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        var value: UInt64 = 0
        for byte in 0..<UInt64(width.bytes) {
            guard let (channel, place) = channel(offset &+ byte) else { continue }
            value |= UInt64(channel.readMaster(place)) << (8 * byte)
        }
        return value
    }

    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        for byte in 0..<UInt64(width.bytes) {
            guard let (channel, place) = channel(offset &+ byte) else { continue }
            channel.writeMaster(place, UInt8(truncatingIfNeeded: value >> (8 * byte)))
        }
    }
}
