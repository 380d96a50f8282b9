import DeviceModel
import GuestMemory
import TestKit

@testable import ChipsetDevices

/// One device's surroundings: a clock that stands still, and recorders for everything that leaves it.
final class ChipsetBench {
    let clock: FakeClock
    let lines = RecordingInterruptSink()
    let messages = RecordingMSITarget()
    let events = Recorder<MachineEvent>()
    let bytes = Recorder<[UInt8]>()
    let context: DeviceContext

    private static let memory: GuestMemory? = try? GuestMemory([.init(start: 0, size: 4096, kind: .ram)])

    init(now: UInt64 = 0) {
        clock = FakeClock(now: now)
        guard let memory = Self.memory else { preconditionFailure("the host has no page left") }
        context = DeviceContext(
            memory: memory, clock: clock, msi: messages, lines: lines,
            report: { [events] in events.record($0) })
    }

    /// Everything that left the device since the last call, in a form that can be compared.
    func takeOutputs() -> [String] {
        lines.takeChanges().map { "line \($0.line) \($0.asserted)" }
            + messages.takeMessages().map { "message \($0.address) \($0.data)" }
            + events.take().map { "event \($0)" }
            + bytes.take().map { "bytes \($0)" }
    }
}

/// A small generator (SplitMix64) whose sequence depends on nothing but its seed.
struct ChipsetRandom: RandomNumberGenerator {
    private var state: UInt64
    /// Seeds are spread by another constant than the step: otherwise each would be its neighbour's sequence
    /// shifted by one.
    init(seed: UInt64) { state = seed &* 0xD134_2543_DE82_EF95 }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
    mutating func chance(_ oneIn: Int) -> Bool { below(oneIn) == 0 }

    /// Values that hurt: zero, one, ends of ranges, single bits, and anything.
    mutating func value() -> UInt64 {
        switch below(8) {
        case 0: return 0
        case 1: return 1
        case 2: return .max
        case 3: return 1 << UInt64(below(64))
        case 4: return UInt64(below(256))
        case 5: return UInt64(below(0x10000))
        default: return next()
        }
    }

    /// A time step: usually short, now and then long.
    mutating func step() -> UInt64 {
        switch below(8) {
        case 0: return 0
        case 1: return UInt64(below(100))
        case 2, 3: return UInt64(below(20_000))
        case 4, 5: return UInt64(below(1_000_000))
        default: return UInt64(below(20_000_000))
        }
    }
}

extension PortDevice {
    func input(_ port: UInt16) -> UInt8 { UInt8(truncatingIfNeeded: read(port: port, width: .byte)) }
    func output(_ port: UInt16, _ value: UInt8) { write(port: port, width: .byte, value: UInt32(value)) }
}
