import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import PCIBus
@testable import Q35Chipset

/// The SMBus controller with the memory modules of a machine of 5 GiB and a half, driven as Linux' driver
/// does.
private final class SMBusRig {
    let bus: SMBusController
    let ports = PortBus()
    let lines = RecordingInterruptSink()
    static let base: UInt16 = 0x500

    init() throws {
        let memory = try GuestMemory([.init(start: 0, size: 0x1000, kind: .ram)])
        let context = DeviceContext(
            memory: memory, clock: FakeClock(now: 0), msi: RecordingMSITarget(), lines: lines,
            report: { _ in })
        bus = SMBusController(context, memory: 0x1_6000_0000)
        let bridge = PCIHostBridge(context: context, mmio: MMIOBus(), portBus: ports)
        bridge.insert(bus.function, slot: SMBusController.slot, function: SMBusController.functionNumber)
        bus.function.writeConfig(offset: 0x20, count: 4, value: UInt32(Self.base))
        bus.function.writeConfig(offset: 4, count: 2, value: 1)
        bus.function.writeConfig(offset: 0x40, count: 1, value: 1)
    }

    func get(_ register: UInt16) -> UInt8 {
        UInt8(truncatingIfNeeded: ports.read(port: Self.base + register, width: .byte))
    }
    func set(_ register: UInt16, _ value: UInt8) {
        ports.write(port: Self.base + register, width: .byte, value: UInt32(value))
    }

    /// Starts command `kind` at a module's register; the status, which is cleared.
    func run(_ kind: UInt8, address: UInt8, command: UInt8 = 0, interrupts: Bool = false) -> UInt8 {
        set(3, command)
        set(4, address)
        set(2, 0x40 | kind << 2 | (interrupts ? 1 : 0))
        let status = get(0) & 0x9F
        if status & 0x80 == 0 { set(0, 0xFE) }
        return status
    }
    /// A byte by READ BYTE DATA.
    func byte(_ module: UInt8, _ place: UInt8) -> UInt8? {
        run(2, address: (0x50 + module) << 1 | 1, command: place) == 0x02 ? get(5) : nil
    }
}

@Suite struct SMBusTests {
    private let rig: SMBusRig
    init() throws { rig = try SMBusRig() }

    /// Bytes 4, 7 and 8 of JEDEC's table: megabits of a chip, its width and the ranks, the width of the bus.
    private func mebibytes(_ module: UInt8) throws -> Int {
        let density = Int(try #require(rig.byte(module, 4)) & 15)
        let rank = Int(try #require(rig.byte(module, 7)))
        let bus = 8 << Int(try #require(rig.byte(module, 8)) & 7)
        return (256 << density) / 8 * (bus / (4 << (rank & 7))) * ((rank >> 3 & 7) + 1)
    }

    @Test func `the modules add up to the machine's memory, and their checksums are right`() throws {
        #expect(try (0..<3).map { try mebibytes($0) } == [4096, 1024, 512])
        #expect(rig.byte(3, 0) == nil)
        for module in 0..<3 as Range<UInt8> {
            let bytes = try (0..<128).map { try #require(rig.byte(module, $0)) }
            #expect(bytes[0] == 0x92 && bytes[2] == 0x0B)
            var sum = 0
            for byte in bytes[0..<117] {
                sum ^= Int(byte) << 8
                for _ in 0..<8 { sum = sum << 1 ^ (sum & 0x8000 != 0 ? 0x1_1021 : 0) }
            }
            #expect(Int(bytes[126]) | Int(bytes[127]) << 8 == sum)
        }
    }

    @Test func `bytes, words and what follows them are read; nothing is written`() {
        #expect(rig.run(0, address: 0xA0) == 0x02)
        #expect(rig.run(3, address: 0xA1, command: 128) == 0x02)
        #expect(rig.get(5) == UInt8(ascii: "O") && rig.get(6) == UInt8(ascii: "s"))
        // The address alone, then two bytes from there.
        #expect(rig.run(1, address: 0xA0, command: 129) == 0x02)
        #expect(rig.run(1, address: 0xA1) == 0x02 && rig.get(5) == UInt8(ascii: "s"))
        #expect(rig.run(1, address: 0xA1) == 0x02 && rig.get(5) == UInt8(ascii: "p"))
        for kind in [2, 3, 4, 5, 7] as [UInt8] { #expect(rig.run(kind, address: 0xA0) == 0x04) }
        #expect(rig.run(2, address: 0x21) == 0x04 && rig.run(2, address: 0xFF) == 0x04)
    }

    /// The two ways in which Linux' driver says which byte is the last.
    @Test(arguments: [1, 2, 6], [false, true])
    func `an I2C block is read byte by byte`(count: Int, polls: Bool) {
        rig.set(6, 128)
        let most = UInt8(0x18)
        rig.set(4, 0xA0)
        var text: [UInt8] = []
        for index in 0..<count {
            let isLast = index == count - 1
            if index == 0 { rig.set(2, most | 0x40 | (isLast ? 0x20 : 0)) }
            if polls, index > 0 { rig.set(2, most | (isLast ? 0x20 : 0)) }
            #expect(rig.get(0) & 0x83 == 0x81)
            text.append(rig.get(7))
            if !polls, index == count - 2 { rig.set(2, most | 0x20) }
            rig.set(0, 0x80)
        }
        #expect(text == Array("Ospite".utf8.prefix(count)))
        #expect(rig.get(0) & 0x83 == 0x02)
    }

    @Test(arguments: [false, true])
    func `a block says its length, with the buffer and without`(buffer: Bool) {
        rig.set(13, buffer ? 2 : 0)
        // The byte at 16 is 69h: too long. That at 13 is FCh. That at 19, 30h; at 21, 11h: 17 bytes.
        #expect(rig.run(5, address: 0xA1, command: 16) == 0x04)
        let status = rig.run(5, address: 0xA1, command: 21)
        #expect(rig.get(5) == 17)
        var bytes: [UInt8] = []
        if buffer {
            #expect(status == 0x02)
            _ = rig.get(2)
            for _ in 0..<17 { bytes.append(rig.get(7)) }
        } else {
            for _ in 0..<17 {
                #expect(rig.get(0) & 0x81 == 0x81)
                bytes.append(rig.get(7))
                rig.set(0, 0x80)
            }
            #expect(rig.get(0) & 0x83 == 0x02)
        }
        #expect(bytes == (22..<39).map { rig.byte(0, $0) ?? 0 })
    }

    @Test func `interrupts come when they are asked for and go with the status`() {
        let line = PCIHostBridge.line(slot: SMBusController.slot, pin: 1)
        #expect(rig.run(2, address: 0xA1) == 0x02)
        #expect(!rig.lines.isHigh(line))
        rig.set(3, 0)
        rig.set(4, 0xA1)
        rig.set(2, 0x49)
        #expect(rig.lines.isHigh(line))
        rig.set(0, 0x02)
        #expect(!rig.lines.isHigh(line))
    }

    @Test func `a transfer that is killed ends, one that is off never starts`() {
        rig.set(6, 0)
        rig.set(4, 0xA0)
        rig.set(2, 0x58)
        #expect(rig.get(0) & 0x81 == 0x81)
        rig.set(2, 0x02)
        #expect(rig.get(0) & 0x11 == 0x10)
        rig.set(0, 0xFE)
        rig.bus.function.writeConfig(offset: 0x40, count: 1, value: 0)
        #expect(rig.run(2, address: 0xA1) == 0)
    }

    @Test func `a transfer survives, and what nobody could have saved is refused`() throws {
        rig.set(6, 130)
        rig.set(4, 0xA0)
        rig.set(2, 0x58)
        let twin = try SMBusRig()
        try twin.bus.restore(rig.bus.save())
        #expect(twin.get(7) == UInt8(ascii: "p"))
        twin.set(0, 0x80)
        #expect(twin.get(7) == UInt8(ascii: "i"))
        #expect(twin.get(0) & 0xC1 == 0x81 && twin.get(0) & 0x40 != 0, "who reads it first has the bus")
        var damaged = rig.bus.save()
        damaged.host.setPlaces([1, 2])
        #expect(throws: RestoreError.self) { try twin.bus.restore(damaged) }
    }
}
