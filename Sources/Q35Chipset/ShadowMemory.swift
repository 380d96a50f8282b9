public import DeviceModel
public import GuestMemory
internal import Synchronization

/// The memory from C0000h to FFFFFh, which the memory controller shows as RAM or as what is on the bus there:
/// the firmware's ROM at its end, nothing elsewhere (Intel Q35 data sheet 316966 §5.1.19, PAM0 to PAM6).
///
/// The engines see RAM in either case. A segment that is to show the bus gets a copy of it, and the bytes of
/// the RAM under it are kept here meanwhile. So stores to a segment that the guest has made read-only are not
/// held back; they are gone when the segment changes its attributes.
///
/// Confinement: any thread.
public final class ShadowMemory: Device {
    public static let kind = "shadow-memory"
    public static let start: UInt64 = 0xC_0000, end: UInt64 = 0x10_0000

    public struct Saved: Codable, Sendable, Equatable {
        /// By segment, a value of `Mode`.
        var modes: [UInt8]
        /// By segment: the bytes of RAM that are not shown; empty for none, or for zeroes.
        var hidden: [[UInt8]]
    }

    /// What a segment shows, and where stores to it go.
    private enum Mode: UInt8 {
        case memory = 0
        case bus = 1
        /// Reads from the bus, stores to RAM: how a firmware copies itself into RAM. The RAM then holds what
        /// was shown.
        case busThroughMemory = 2
    }
    /// A register's half governs one segment; the low half of PAM0 does nothing.
    private struct Segment {
        let start: UInt64, size: Int
        /// Index of the register and the bits of its half.
        let register: Int, shift: UInt8
    }
    private static let segments: [Segment] = {
        let small = (0..<12).map { index in
            Segment(
                start: start + UInt64(index) * 0x4000, size: 0x4000, register: 1 + index / 2,
                shift: index % 2 == 0 ? 0 : 4)
        }
        return small + [Segment(start: 0xF_0000, size: 0x1_0000, register: 0, shift: 4)]
    }()
    private enum Attribute { static let read: UInt8 = 1, write: UInt8 = 2 }

    private struct State {
        var modes = [Mode](repeating: .memory, count: segments.count)
        var hidden = [[UInt8]](repeating: [], count: segments.count)
    }
    private let memory: GuestMemory
    /// What is on the bus at `start`, 256 KiB.
    private let bus: [UInt8]
    private let state = Mutex(State())

    /// - Parameter firmware: its end is shown below 1 MiB, at most 128 KiB of it.
    public init(_ memory: GuestMemory, firmware: [UInt8]) {
        self.memory = memory
        let shown = Array(firmware.suffix(0x2_0000))
        bus = [UInt8](repeating: 0xFF, count: Int(Self.end - Self.start) - shown.count) + shown
    }

    /// The memory controller's attributes changed; `registers` are PAM0 to PAM6.
    func apply(_ registers: [UInt8]) {
        precondition(registers.count == 7, "PAM0 to PAM6")
        state.withLock { state in
            for (index, segment) in Self.segments.enumerated() {
                let attributes = registers[segment.register] >> segment.shift
                let mode: Mode =
                    attributes & Attribute.read != 0
                    ? .memory : attributes & Attribute.write != 0 ? .busThroughMemory : .bus
                if mode != state.modes[index] { change(index, to: mode, &state) }
            }
        }
    }

    private func change(_ index: Int, to mode: Mode, _ state: inout State) {
        let segment = Self.segments[index], place = GuestAddress(segment.start)
        switch (state.modes[index], mode) {
        case (.bus, .memory):
            let hidden = state.hidden[index]
            let bytes = hidden.isEmpty ? [UInt8](repeating: 0, count: segment.size) : hidden
            try? memory.write(bytes, at: place)
            state.hidden[index] = []
        case (.busThroughMemory, .memory): state.hidden[index] = []
        case (.bus, .busThroughMemory): showBus(segment)
        default:
            state.hidden[index] = (try? memory.bytes(place, count: segment.size)) ?? []
            showBus(segment)
        }
        state.modes[index] = mode
    }

    private func showBus(_ segment: Segment) {
        let first = Int(segment.start - Self.start)
        try? memory.write(Array(bus[first..<first + segment.size]), at: GuestAddress(segment.start))
    }

    /// RAM keeps its bytes; what the guest stored to a shown ROM is gone. The memory controller's own reset
    /// then shows the bus everywhere.
    public func reset() {
        state.withLock { state in
            for (index, segment) in Self.segments.enumerated() where state.modes[index] != .memory {
                showBus(segment)
            }
        }
    }

    public func save() -> Saved {
        state.withLock { Saved(modes: $0.modes.map(\.rawValue), hidden: $0.hidden) }
    }

    /// Before the memory controller is restored; the bytes that are shown belong to the machine's memory.
    public func restore(_ saved: Saved) throws(RestoreError) {
        let modes = saved.modes.compactMap { Mode(rawValue: $0) }
        guard saved.modes.count == Self.segments.count, modes.count == saved.modes.count,
            saved.hidden.count == modes.count
        else { throw RestoreError(Self.kind, "the number of segments, or a mode") }
        for (index, segment) in Self.segments.enumerated() {
            let count = saved.hidden[index].count
            guard count == 0 || (count == segment.size && modes[index] != .memory) else {
                throw RestoreError(Self.kind, "the size of a segment")
            }
        }
        state.withLock { state in
            state.modes = modes
            state.hidden = saved.hidden
        }
    }
}
