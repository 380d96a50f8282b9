public import DeviceModel
import GuestMemory
import Synchronization

/// The two Intel 8237A DMA controllers of a PC with their page registers (data sheet 231466): what the floppy
/// controller moves its data by. There are no requests by software and no transfers between memories.
/// ```
///   00-07 addresses and counts of channels 0 to 3, 08 status or command, 0A mask, 0B mode, 0C byte pointer,
///   0D master clear, 0E clear masks, 0F all masks; C0-DE the same of channels 4 to 7, at even ports
/// ```
/// Confinement: any thread.
public final class DMA8237: PortDevice {
    public static let kind = "dma"

    struct Channel: Codable, Sendable, Equatable {
        var baseAddress: UInt16 = 0
        var baseCount: UInt16 = 0
        var address: UInt16 = 0
        var count: UInt16 = 0
        var mode: UInt8 = 0
        var page: UInt8 = 0
        var isMasked = true
    }

    /// One controller.
    struct Unit: Codable, Sendable, Equatable {
        var channels = [Channel](repeating: Channel(), count: 4)
        var command: UInt8 = 0
        /// Counts that have run out, as bits.
        var ended: UInt8 = 0
        /// The next byte of an address or count is the upper one.
        var isUpper = false
    }

    public struct Saved: Codable, Sendable, Equatable {
        var units: [Unit]
        /// Page registers that belong to no channel.
        var spare: [UInt8]
    }

    private enum Mode {
        static let toMemory: UInt8 = 1 << 2, fromMemory: UInt8 = 2 << 2, transfer: UInt8 = 3 << 2
        static let reloads: UInt8 = 1 << 4, down: UInt8 = 1 << 5
    }
    /// Of the command register.
    private static let off: UInt8 = 1 << 2

    private let memory: GuestMemory
    private let state = Mutex(Saved(units: [Unit(), Unit()], spare: [UInt8](repeating: 0, count: 16)))

    public init(_ context: DeviceContext) { memory = context.memory }

    /// 80h is the port for diagnosis.
    public let ports: [ClosedRange<UInt16>] = [0x00...0x0F, 0x81...0x8F, 0xC0...0xDF]

    /// Channels by page register.
    private static let pages: [UInt16: Int] = [
        0x87: 0, 0x83: 1, 0x81: 2, 0x82: 3, 0x8F: 4, 0x8B: 5, 0x89: 6, 0x8A: 7,
    ]

    // MARK: Registers

    public func read(port: UInt16, width: AccessWidth) -> UInt32 {
        let value = state.withLock { state -> UInt8 in
            if (0x80...0x8F).contains(port) {
                guard let channel = Self.pages[port] else { return state.spare[Int(port & 15)] }
                return state.units[channel / 4].channels[channel % 4].page
            }
            let (unit, register) = Self.place(port)
            return Self.read(register, &state.units[unit])
        }
        return UInt32(value) | 0xFFFF_FF00
    }

    private static func place(_ port: UInt16) -> (unit: Int, register: Int) {
        port < 0x10 ? (0, Int(port)) : (1, Int(port - 0xC0) / 2)
    }

    private static func read(_ register: Int, _ unit: inout Unit) -> UInt8 {
        switch register {
        case 0..<8:
            let channel = unit.channels[register / 2]
            let value = register % 2 == 0 ? channel.address : channel.count
            defer { unit.isUpper.toggle() }
            return UInt8(unit.isUpper ? value >> 8 : value & 0xFF)
        case 8:
            defer { unit.ended = 0 }
            return unit.ended
        // What nobody has moved between memories.
        case 13: return 0
        case 15:
            return unit.channels.enumerated().reduce(0xF0) { $0 | ($1.1.isMasked ? 1 << UInt8($1.0) : 0) }
        default: return 0xFF
        }
    }

    public func write(port: UInt16, width: AccessWidth, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        state.withLock { state in
            if (0x80...0x8F).contains(port) {
                guard let channel = Self.pages[port] else { return state.spare[Int(port & 15)] = byte }
                return state.units[channel / 4].channels[channel % 4].page = byte
            }
            let (unit, register) = Self.place(port)
            Self.write(register, byte, &state.units[unit])
        }
    }

    private static func write(_ register: Int, _ byte: UInt8, _ unit: inout Unit) {
        let channel = Int(byte & 3)
        switch register {
        case 0..<8:
            let isUpper = unit.isUpper
            unit.isUpper.toggle()
            func merge(_ old: UInt16) -> UInt16 {
                isUpper ? old & 0xFF | UInt16(byte) << 8 : old & 0xFF00 | UInt16(byte)
            }
            let index = register / 2
            if register % 2 == 0 {
                unit.channels[index].baseAddress = merge(unit.channels[index].baseAddress)
                unit.channels[index].address = unit.channels[index].baseAddress
            } else {
                unit.channels[index].baseCount = merge(unit.channels[index].baseCount)
                unit.channels[index].count = unit.channels[index].baseCount
            }
        case 8: unit.command = byte
        case 10: unit.channels[channel].isMasked = byte & 4 != 0
        case 11: unit.channels[channel].mode = byte & ~3
        case 12: unit.isUpper = false
        case 13:
            (unit.command, unit.ended, unit.isUpper) = (0, 0, false)
            for index in 0..<4 { unit.channels[index].isMasked = true }
        case 14: for index in 0..<4 { unit.channels[index].isMasked = false }
        case 15: for index in 0..<4 { unit.channels[index].isMasked = byte >> UInt8(index) & 1 != 0 }
        default: break
        }
    }

    // MARK: Transfers

    /// A channel of the first controller, which moves bytes.
    public func channel(_ number: Int) -> any DMAChannel {
        precondition((0..<4).contains(number), "channels 0 to 3 move bytes")
        return Line(self, number)
    }

    private final class Line: DMAChannel {
        private let controller: DMA8237
        private let number: Int
        init(_ controller: DMA8237, _ number: Int) {
            self.controller = controller
            self.number = number
        }

        func room(toMemory: Bool) -> Int {
            controller.state.withLock { state in
                let unit = state.units[0], channel = unit.channels[number]
                guard unit.command & DMA8237.off == 0, !channel.isMasked else { return 0 }
                let direction = channel.mode & Mode.transfer
                // Verifying moves nothing, but counts.
                guard direction == 0 || direction == (toMemory ? Mode.toMemory : Mode.fromMemory) else {
                    return 0
                }
                return Int(channel.count) + 1
            }
        }

        func store(_ bytes: [UInt8]) -> Bool {
            let (places, isLast, mode) = controller.advance(number, bytes.count)
            guard mode & Mode.transfer == Mode.toMemory else { return isLast }
            var done = 0
            for place in places {
                let part = Array(bytes[done..<done + place.count])
                try? controller.memory.write(part, at: GuestAddress(place.address))
                done += place.count
            }
            return isLast
        }

        func load(_ count: Int) -> (bytes: [UInt8], isLast: Bool) {
            let (places, isLast, _) = controller.advance(number, count)
            var bytes: [UInt8] = []
            for place in places {
                let part = try? controller.memory.bytes(GuestAddress(place.address), count: place.count)
                bytes += part ?? [UInt8](repeating: 0xFF, count: place.count)
            }
            return (bytes, isLast)
        }
    }

    private typealias Place = (address: UInt64, count: Int)

    /// Moves a channel on by `count` bytes, not beyond its count, and says where they are. Addresses wrap
    /// inside their page of 64 KiB. Counting down is not offered: nothing was ever written for it.
    private func advance(_ number: Int, _ count: Int) -> (places: [Place], isLast: Bool, mode: UInt8) {
        state.withLock { state in
            var channel = state.units[0].channels[number]
            let moved = min(max(count, 0), Int(channel.count) + 1)
            let page = UInt64(channel.page) << 16
            let first = min(moved, 0x1_0000 - Int(channel.address))
            var places: [Place] = [(page | UInt64(channel.address), first)]
            if moved > first { places.append((page, moved - first)) }
            channel.address &+= UInt16(truncatingIfNeeded: moved)
            let isLast = moved == Int(channel.count) + 1
            channel.count &-= UInt16(truncatingIfNeeded: moved)
            if isLast {
                state.units[0].ended |= 1 << UInt8(number)
                if channel.mode & Mode.reloads != 0 {
                    channel.address = channel.baseAddress
                    channel.count = channel.baseCount
                } else {
                    channel.isMasked = true
                }
            }
            state.units[0].channels[number] = channel
            return (places, isLast, channel.mode)
        }
    }

    // MARK: Lifecycle

    public func reset() {
        state.withLock { $0 = Saved(units: [Unit(), Unit()], spare: [UInt8](repeating: 0, count: 16)) }
    }

    public func save() -> Saved { state.withLock { $0 } }

    public func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.units.count == 2, saved.units.allSatisfy({ $0.channels.count == 4 }),
            saved.spare.count == 16
        else { throw RestoreError(Self.kind, "the number of channels") }
        state.withLock { $0 = saved }
    }
}
