import DeviceModel
import Foundation
import TestKit
import Testing
import X86Architecture

@testable import ChipsetDevices

/// A device on a bench, with everything that the suites of the whole chipset need.
protocol ChipsetSubject: AnyObject {
    /// One random access or stimulus; returns what the guest saw.
    func poke(_ random: inout ChipsetRandom) -> [UInt64]
    func savedState() throws -> Data
    func restore(_ data: Data) throws
    func pause()
    func reset()
}

final class DeviceSubject<D: Device>: ChipsetSubject {
    let device: D
    private let action: (D, inout ChipsetRandom) -> [UInt64]

    init(_ device: D, _ action: @escaping (D, inout ChipsetRandom) -> [UInt64]) {
        self.device = device
        self.action = action
    }
    func poke(_ random: inout ChipsetRandom) -> [UInt64] { action(device, &random) }
    func savedState() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return try encoder.encode(device.save())
    }
    func restore(_ data: Data) throws { try device.restore(JSONDecoder().decode(D.Saved.self, from: data)) }
    func pause() { device.pause() }
    func reset() { device.reset() }
}

struct ChipsetEntry: Sendable, CustomTestStringConvertible {
    let kind: String
    /// Host timers that the device owns.
    let timerCount: Int
    let make: @Sendable (ChipsetBench) -> any ChipsetSubject
    var testDescription: String { kind }
}

private let narrowWidths: [AccessWidth] = [.byte, .byte, .byte, .word, .dword]

/// A random port access, sometimes with a width that the device does not expect.
func pokePort<D: PortDevice>(_ device: D, _ random: inout ChipsetRandom) -> [UInt64] {
    let range = device.ports[random.below(device.ports.count)]
    let port = range.lowerBound + UInt16(random.below(range.count))
    let width = narrowWidths[random.below(narrowWidths.count)]
    if random.chance(2) { return [UInt64(device.read(port: port, width: width))] }
    device.write(port: port, width: width, value: UInt32(truncatingIfNeeded: random.value() & width.mask))
    return []
}

/// A random access to a register page, mostly aligned.
func pokeMemory<D: MemoryMappedDevice>(_ device: D, size: Int, _ random: inout ChipsetRandom) -> [UInt64] {
    let width = AccessWidth.allCases[random.below(4)]
    var offset = UInt64(random.below(size - 8))
    if !random.chance(4) { offset &= ~7 }
    if random.chance(2) { return [device.read(region: 0, offset: offset, width: width)] }
    device.write(region: 0, offset: offset, width: width, value: random.value() & width.mask)
    return []
}

/// Local APICs, their bus and the I/O APIC as one device.
final class APICComplex: Device {
    static let kind = "apics"
    struct Saved: Codable, Sendable, Equatable {
        var apics: [LocalAPIC.Saved]
        var ioapic: IOAPIC.Saved
    }
    let bus = APICBus()
    let apics: [LocalAPIC]
    let ioapic: IOAPIC
    /// The vCPUs that were kicked, in order.
    let wakes = Recorder<Int>()

    /// The TSC of every vCPU runs at 2 GHz from the machine's zero.
    init(_ context: DeviceContext, count: Int = 3) {
        let ioapic = IOAPIC(context, bus: bus)
        let wakes = wakes
        apics = (0..<count).map { [bus] index in
            LocalAPIC(
                context, bus: bus,
                LocalAPIC.Configuration(
                    identifier: UInt32(index), tscFrequency: 2_000_000_000,
                    readTSC: { [clock = context.clock] in clock.now * 2 }, wake: { wakes.record(index) },
                    endOfInterrupt: { ioapic.endOfInterrupt($0) }))
        }
        self.ioapic = ioapic
        bus.connect(apics)
    }

    func reset() {
        for apic in apics { apic.reset() }
        ioapic.reset()
    }
    func save() -> Saved { Saved(apics: apics.map { $0.save() }, ioapic: ioapic.save()) }
    func restore(_ saved: Saved) throws(RestoreError) {
        guard saved.apics.count == apics.count else { throw RestoreError(Self.kind, "the count") }
        for (apic, state) in zip(apics, saved.apics) { try apic.restore(state) }
        try ioapic.restore(saved.ioapic)
    }
}

private func pokeAPICs(_ complex: APICComplex, _ random: inout ChipsetRandom) -> [UInt64] {
    let apic = complex.apics[random.below(complex.apics.count)]
    switch random.below(12) {
    case 0: return [UInt64(apic.acknowledge() ?? 0), UInt64(apic.pendingVector() ?? 0)]
    case 1:
        apic.endOfInterrupt()
        return []
    case 2:
        complex.ioapic.setLine(random.below(26) - 1, asserted: random.chance(2))
        return []
    case 3, 4: return pokeMemory(complex.ioapic, size: 0x60, &random)
    case 5:
        let address = random.chance(3) ? random.value() : 0xFEE0_0000 | random.value() & 0xFFFFF
        complex.bus.deliver(MSIMessage(address: address, data: UInt32(truncatingIfNeeded: random.value())))
        return []
    case 6:
        let signal = apic.takeSignal()
        return [signal.map { "\($0)".utf8.reduce(0) { $0 &* 31 &+ UInt64($1) } } ?? 0]
    case 7: return [apic.setAPICBase(apic.apicBase ^ random.value() & 0xC00) ? 1 : 0, apic.apicBase]
    case 8:
        apic.taskPriority = UInt8(random.below(16))
        apic.setLocalPin(random.below(3), asserted: random.chance(2))
        return [UInt64(apic.taskPriority), apic.acceptsExternalInterrupt ? 1 : 0]
    case 9:
        let number = random.chance(8) ? MSR.tscDeadline : MSR.x2apicFirst + UInt32(random.below(0x44))
        if random.chance(2) { return [apic.readMSR(number) ?? 0xDEAD] }
        let deadline = random.chance(2) ? random.value() : UInt64(random.below(1 << 30))
        return [apic.writeMSR(number, deadline) ? 1 : 0]
    default:
        let width: AccessWidth = random.chance(6) ? .word : .dword
        let offset = UInt32(random.below(0x41) * 16 + (random.chance(8) ? random.below(16) : 0))
        if random.chance(2) { return [UInt64(apic.readPage(offset: offset, width: width))] }
        apic.writePage(offset: offset, width: width, value: UInt32(truncatingIfNeeded: random.value()))
        return []
    }
}

private func pokePIC(_ pic: PIC8259Pair, _ random: inout ChipsetRandom) -> [UInt64] {
    switch random.below(4) {
    case 0: return [pic.output ? UInt64(pic.acknowledge()) : 0]
    case 1:
        pic.setLine(random.below(18) - 1, asserted: random.chance(2))
        return [pic.output ? 1 : 0]
    default: return pokePort(pic, &random)
    }
}

private func pokeUART(_ uart: UART16550, _ random: inout ChipsetRandom) -> [UInt64] {
    switch random.below(6) {
    case 0: return [UInt64(uart.receive((0..<random.below(20)).map { UInt8($0) }))]
    case 1:
        uart.receiveBreak()
        return []
    default: return pokePort(uart, &random)
    }
}

private func pokeI8042(_ controller: I8042, _ random: inout ChipsetRandom) -> [UInt64] {
    switch random.below(6) {
    case 0: controller.key(KeyCode(UInt8(random.below(256))), isDown: random.chance(2))
    case 1:
        controller.move(
            PointerMovement(
                right: Int32(random.below(2000)) - 1000, down: Int32(random.below(200)) - 100,
                wheel: Int32(random.below(5)) - 2, buttons: UInt8(random.below(32))))
    case 2:
        // What the devices understand, for either of them.
        if random.chance(2) { controller.output(0x64, 0xD4) }
        controller.output(0x60, 0xE6 + UInt8(random.below(0x1A)))
    default: return pokePort(controller, &random)
    }
    return []
}

private func pokePowerManagement(_ device: ACPIPowerManagement, _ random: inout ChipsetRandom) -> [UInt64] {
    switch random.below(10) {
    case 0: device.pressPowerButton()
    case 1: device.raise(generalPurposeEvent: random.below(20) - 2)
    case 2: device.write(port: 0xB2, width: .byte, value: random.chance(3) ? 0xA1 : 0xA0)
    default: return pokePort(device, &random)
    }
    return []
}

/// A device of ports alone, without timers.
private func plainEntry<D: PortDevice>(
    _ type: D.Type, _ make: @escaping @Sendable (ChipsetBench) -> D
) -> ChipsetEntry {
    ChipsetEntry(kind: D.kind, timerCount: 0) { DeviceSubject(make($0), pokePort) }
}

// swift-format-ignore
let chipsetCatalog: [ChipsetEntry] = [
    ChipsetEntry(kind: PIC8259Pair.kind, timerCount: 0) { DeviceSubject(PIC8259Pair($0.context), pokePIC) },
    ChipsetEntry(kind: PIT8254.kind, timerCount: 1) { DeviceSubject(PIT8254($0.context), pokePort) },
    ChipsetEntry(kind: APICComplex.kind, timerCount: 3) { DeviceSubject(APICComplex($0.context), pokeAPICs) },
    ChipsetEntry(kind: HPET.kind, timerCount: 3) {
        DeviceSubject(HPET($0.context)) { pokeMemory($0, size: 0x180, &$1) }
    },
    ChipsetEntry(kind: RTC.kind, timerCount: 1) {
        DeviceSubject(RTC($0.context, .init(memoryBelow4GiB: 1 << 30)), pokeRTC)
    },
    ChipsetEntry(kind: UART16550.kind, timerCount: 2) { bench in
        let bytes = bench.bytes
        return DeviceSubject(UART16550(bench.context, transmit: { bytes.record($0) }), pokeUART)
    },
    ChipsetEntry(kind: ACPIPowerManagement.kind, timerCount: 1) {
        DeviceSubject(ACPIPowerManagement($0.context), pokePowerManagement)
    },
    plainEntry(ResetControl.self) { ResetControl($0.context) },
    ChipsetEntry(kind: I8042.kind, timerCount: 0) { DeviceSubject(I8042($0.context), pokeI8042) },
    plainEntry(DMA8237.self) { DMA8237($0.context) },
    plainEntry(PanicNotifier.self) { PanicNotifier($0.context) },
    plainEntry(DebugExit.self) { DebugExit($0.context) },
    ChipsetEntry(kind: TestDevice.kind, timerCount: 0) {
        DeviceSubject(TestDevice($0.context)) { device, random in
            random.chance(2)
                ? pokePort(device, &random) : pokeMemory(device, size: Int(TestDevice.size), &random)
        }
    },
    plainEntry(POSTPort.self) { POSTPort($0.context) },
    plainEntry(FirmwareLog.self) { bench in
        let bytes = bench.bytes
        return FirmwareLog { bytes.record($0) }
    },
    plainEntry(FirmwareConfig.self) { FirmwareConfig($0.context, FirmwareConfigContents()) },
]

/// Chooses registers 0-0Fh and the century more often than plain CMOS.
private func pokeRTC(_ rtc: RTC, _ random: inout ChipsetRandom) -> [UInt64] {
    if random.chance(4) { return pokePort(rtc, &random) }
    rtc.output(0x70, random.chance(10) ? 0x32 : UInt8(random.below(16)))
    if random.chance(2) { return [UInt64(rtc.input(0x71))] }
    rtc.output(0x71, UInt8(truncatingIfNeeded: random.value()))
    return []
}
