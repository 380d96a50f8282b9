import DeviceModel
import GuestMemory
import PCIBus
import Synchronization

/// Records interrupts; keeps the last thousand messages, so that fuzzing cannot grow it.
final class BenchInterrupts: MSITarget, InterruptSink {
    private struct State {
        var messages: [MSIMessage] = []
        var count = 0
        var lines: [Int: Bool] = [:]
        var edges = 0
    }
    private let state = Mutex(State())

    func deliver(_ message: MSIMessage) {
        state.withLock { state in
            state.count += 1
            if state.messages.count >= 1000 { state.messages.removeFirst(500) }
            state.messages.append(message)
        }
    }
    func setLine(_ line: Int, asserted: Bool) {
        state.withLock { state in
            state.lines[line] = asserted
            state.edges += 1
        }
    }
    func isHigh(_ line: Int) -> Bool { state.withLock { $0.lines[line] ?? false } }
    var edges: Int { state.withLock { $0.edges } }
    var count: Int { state.withLock { $0.count } }
    /// The messages since the last call.
    func take() -> [MSIMessage] {
        state.withLock { state in
            defer { state.messages = [] }
            return state.messages
        }
    }
}

/// A clock that stands still; armed timers fire when the test says so.
final class BenchClock: MachineClock {
    private final class Timer: DeviceTimer {
        let fire: @Sendable () -> Void
        let isArmed = Mutex(false)
        init(_ fire: @escaping @Sendable () -> Void) { self.fire = fire }
        func arm(at deadline: UInt64) { isArmed.withLock { $0 = true } }
        func disarm() { isArmed.withLock { $0 = false } }
        func take() -> Bool {
            isArmed.withLock { isArmed in
                defer { isArmed = false }
                return isArmed
            }
        }
    }
    private let timers = Mutex<[Timer]>([])
    var now: UInt64 { 0 }
    var wallClock: UInt64 { 0 }
    func makeTimer(_ fire: @escaping @Sendable () -> Void) -> any DeviceTimer {
        let timer = Timer(fire)
        timers.withLock { $0.append(timer) }
        return timer
    }
    /// Fires every armed timer once; returns how many there were.
    @discardableResult
    func fireTimers() -> Int {
        let due = timers.withLock { $0.filter { $0.take() } }
        for timer in due { timer.fire() }
        return due.count
    }
}

/// A board with memory, buses and a host bridge: 16 MiB of RAM, 64 KiB of ROM below 4 GiB, 1 MiB above.
final class PCIBench {
    static let ramSize: UInt64 = 16 << 20
    static let rom: UInt64 = 0xFFFF_0000
    static let highRAM: UInt64 = 0x1_0000_0000
    static let memoryWindow: Range<UInt64> = 0xC000_0000..<0xE000_0000

    let memory: GuestMemory
    let mmio = MMIOBus()
    let portBus = PortBus()
    let interrupts = BenchInterrupts()
    let clock = BenchClock()
    let context: DeviceContext
    let bridge: PCIHostBridge

    init() throws {
        memory = try GuestMemory([
            GuestMemory.Layout(start: 0, size: Self.ramSize, kind: .ram),
            GuestMemory.Layout(start: Self.rom, size: 65_536, kind: .rom),
            GuestMemory.Layout(start: Self.highRAM, size: 1 << 20, kind: .ram),
        ])
        context = DeviceContext(
            memory: memory, clock: clock, msi: interrupts, lines: interrupts, report: { _ in })
        bridge = PCIHostBridge(context: context, mmio: mmio, portBus: portBus)
    }

    func assignResources() throws {
        try bridge.assignResources(
            memoryWindow: Self.memoryWindow, ioWindow: 0xC000..<0x1_0000, memory64Window: nil)
    }

    // MARK: Configuration accesses through ports 0xCF8 and 0xCFC

    func readConfig(_ slot: Int, _ offset: Int, _ width: AccessWidth = .dword, function: Int = 0) -> UInt32 {
        select(slot, offset, function)
        return portBus.read(port: 0xCFC + UInt16(offset & 3), width: width)
    }

    func writeConfig(
        _ slot: Int, _ offset: Int, _ value: UInt32, _ width: AccessWidth = .dword, function: Int = 0
    ) {
        select(slot, offset, function)
        portBus.write(port: 0xCFC + UInt16(offset & 3), width: width, value: value)
    }

    private func select(_ slot: Int, _ offset: Int, _ function: Int) {
        let address = 0x8000_0000 | UInt32(slot << 11 | function << 8 | offset & 0xFC)
        portBus.write(port: 0xCF8, width: .dword, value: address)
    }

    static func ecam(_ slot: Int, _ offset: Int, function: Int = 0) -> UInt64 {
        PCIHostBridge.ecamAddress + UInt64(slot << 15 | function << 12 | offset)
    }
}

/// A function with every kind of BAR, whose registers remember the last write.
final class BenchRegisters: PCIFunctionHandler {
    struct Access: Equatable {
        var bar: Int
        var offset: UInt64
        var width: AccessWidth
        var value: UInt64
    }
    private let last = Mutex<Access?>(nil)
    var lastWrite: Access? { last.withLock { $0 } }

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 { UInt64(bar) << 4 | 1 }
    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        last.withLock { $0 = Access(bar: bar, offset: offset, width: width, value: value) }
    }
}

extension PCIFunctionLayout {
    /// I/O in BAR 0, 32-bit memory with MSI-X in BAR 1, 64-bit prefetchable memory in BAR 2.
    static let bench = PCIFunctionLayout(
        identity: PCIIdentity(vendor: 0x1234, device: 0x5678, classCode: 0x02_00_00, revision: 7),
        bars: [
            BARLayout(.io, size: 32), BARLayout(.memory32, size: 0x4000),
            BARLayout(.memory64, size: 0x10_0000, prefetchable: true),
        ],
        interruptPin: 1, msix: MSIXPlacement(bar: 1, table: 0x1000, pending: 0x2000))
}

/// The generator of the fuzzers: xorshift64*, so that a seed names a run.
struct BenchRandom: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed | 1 }
    mutating func next() -> UInt64 {
        state ^= state >> 12
        state ^= state << 25
        state ^= state >> 27
        return state &* 0x2545_F491_4F6C_DD1D
    }
}
