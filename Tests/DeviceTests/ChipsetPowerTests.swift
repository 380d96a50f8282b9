import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

@Suite struct ChipsetPowerTests {
    private let bench = ChipsetBench()

    private func word(_ device: ACPIPowerManagement, _ port: UInt16) -> UInt32 {
        device.read(port: port, width: .word) & 0xFFFF
    }

    @Test func `the SMI command port switches ACPI mode`() {
        let device = ACPIPowerManagement(bench.context)
        #expect(word(device, 0x604) & 1 == 0)
        device.output(0xB2, 0xA0)
        #expect(word(device, 0x604) & 1 == 1)
        #expect(device.isEnabled)
        device.write(port: 0x604, width: .word, value: 0)
        #expect(device.isEnabled, "SCI_EN is not the operating system's to clear")
        device.output(0xB2, 0xA1)
        #expect(!device.isEnabled)
        device.output(0xB3, 0x42)
        #expect(device.input(0xB3) == 0x42)
    }

    @Test func `sleep type 5 with SLP_EN powers off, once`() {
        let device = ACPIPowerManagement(bench.context)
        device.write(port: 0x604, width: .word, value: 5 << 10 | 1)
        #expect(bench.events.all.isEmpty)
        device.write(port: 0x604, width: .word, value: 5 << 10 | 1 << 13)
        #expect(bench.events.all == [.powerOff])
        #expect(word(device, 0x604) == 5 << 10, "SLP_EN reads as zero")
    }

    @Test(arguments: [2, 3, 4, 6, 7] as [UInt32])
    func `other sleep types do nothing`(type: UInt32) {
        let device = ACPIPowerManagement(bench.context)
        device.write(port: 0x604, width: .word, value: type << 10 | 1 << 13)
        #expect(bench.events.all.isEmpty)
    }

    @Test func `sleep type 0, which firmware knows, powers off`() {
        let device = ACPIPowerManagement(bench.context)
        device.write(port: 0x604, width: .word, value: 1 << 13)
        #expect(bench.events.all == [.powerOff])
        // Nothing to set up in system management mode.
        #expect(device.read(port: 0x630, width: .dword) == 0x20)
    }

    private func sleep(_ device: ACPIPowerManagement, enable: UInt32 = 0) {
        device.write(port: 0x602, width: .word, value: enable)
        device.write(port: 0x604, width: .word, value: 1 << 10 | 1 << 13)
    }

    @Test func `sleep type 1 sleeps once, until the power button`() {
        let device = ACPIPowerManagement(bench.context)
        sleep(device)
        sleep(device)
        #expect(bench.events.all == [.sleep])
        device.noteAlarm()
        #expect(bench.events.all == [.sleep], "the alarm is not enabled")
        device.pressPowerButton()
        device.pressPowerButton()
        #expect(bench.events.all == [.sleep, .wake])
        #expect(word(device, 0x600) == 0x8500, "WAK_STS, RTC_STS and PWRBTN_STS")
        sleep(device)
        #expect(bench.events.all == [.sleep, .wake, .sleep])
    }

    @Test func `an enabled alarm wakes, and one from before the sleep does at once`() {
        let device = ACPIPowerManagement(bench.context)
        sleep(device, enable: 0x400)
        device.noteAlarm()
        #expect(bench.events.all == [.sleep, .wake])
        #expect(word(device, 0x600) == 0x8400)
        sleep(device, enable: 0x400)
        #expect(bench.events.all == [.sleep, .wake, .sleep, .wake])
    }

    @Test func `a general-purpose event wakes, a reset ends the sleep unsaid`() {
        let device = ACPIPowerManagement(bench.context)
        device.write(port: 0x622, width: .word, value: 2)
        sleep(device)
        device.raise(generalPurposeEvent: 1)
        #expect(bench.events.all == [.sleep, .wake])
        device.write(port: 0x620, width: .word, value: 2)
        sleep(device)
        device.reset()
        device.pressPowerButton()
        #expect(bench.events.all == [.sleep, .wake, .sleep])
    }

    @Test func `a saved sleep goes on after it is restored`() throws {
        let device = ACPIPowerManagement(bench.context), copy = ACPIPowerManagement(bench.context)
        sleep(device)
        try copy.restore(device.save())
        copy.pressPowerButton()
        #expect(bench.events.all == [.sleep, .wake])
        #expect(copy.save().isAsleep == nil)
    }

    @Test func `the power button raises the control interrupt until it is acknowledged`() {
        let device = ACPIPowerManagement(bench.context)
        device.output(0xB2, 0xA0)
        device.write(port: 0x602, width: .word, value: 0x100)
        device.pressPowerButton()
        #expect(bench.lines.isHigh(9))
        #expect(word(device, 0x600) == 0x100)
        device.write(port: 0x600, width: .word, value: 0x001)
        #expect(bench.lines.isHigh(9))
        device.write(port: 0x600, width: .word, value: 0x100)
        #expect(!bench.lines.isHigh(9))
    }

    @Test func `without ACPI mode or enable bit there is no interrupt`() {
        let device = ACPIPowerManagement(bench.context)
        device.write(port: 0x602, width: .word, value: 0x100)
        device.pressPowerButton()
        #expect(!bench.lines.isHigh(9))
        device.enableACPI()
        #expect(bench.lines.isHigh(9))
        device.write(port: 0x602, width: .word, value: 0)
        #expect(!bench.lines.isHigh(9))
    }

    @Test func `general-purpose events work alike`() {
        let device = ACPIPowerManagement(bench.context)
        device.enableACPI()
        device.write(port: 0x622, width: .word, value: 0x8004)
        device.raise(generalPurposeEvent: 1)
        device.raise(generalPurposeEvent: 16)
        #expect(!bench.lines.isHigh(9))
        device.raise(generalPurposeEvent: 15)
        #expect(bench.lines.isHigh(9))
        #expect(device.read(port: 0x620, width: .dword) == 0x8004_8002)
        device.output(0x621, 0x80)
        #expect(!bench.lines.isHigh(9))
        #expect(word(device, 0x620) == 0x0002)
    }

    /// Status and enable of both blocks, to be told apart byte by byte.
    private func filled() throws -> ACPIPowerManagement {
        let device = ACPIPowerManagement(bench.context)
        var saved = device.save()
        (saved.status, saved.enable, saved.control) = (0x8521, 0x0721, 0x1402)
        (saved.eventStatus, saved.eventEnable) = (0xA55A, 0x3CC3)
        try device.restore(saved)
        return device
    }
    /// What is at 600h and 620h, and ones where nothing is.
    private static let bytes: [UInt16: UInt32] = [
        0x600: 0x21, 0x601: 0x85, 0x602: 0x21, 0x603: 0x07, 0x604: 0x02, 0x605: 0x14,
        0x620: 0x5A, 0x621: 0xA5, 0x622: 0xC3, 0x623: 0x3C,
    ]

    @Test(
        arguments: [AccessWidth.byte, .word, .dword], Array(0x600...0x604) + Array(0x620...0x623) as [UInt16])
    func `a read of any width at any place has the bytes of the registers`(
        width: AccessWidth, port: UInt16
    ) throws {
        let device = try filled()
        let expected = (0..<UInt16(width.bytes)).reduce(UInt32(0)) { value, byte in
            value | (Self.bytes[port + byte] ?? 0xFF) << UInt32(8 * byte)
        }
        #expect(device.read(port: port, width: width) & UInt32(width.mask) == expected)
    }

    @Test(
        arguments: [AccessWidth.byte, .word, .dword], Array(0x600...0x603) + Array(0x620...0x623) as [UInt16])
    func `a write of any width at any place clears and sets the bytes that it covers`(
        width: AccessWidth, port: UInt16
    ) throws {
        let device = try filled()
        let value: UInt32 = 0x0421_0221
        device.write(port: port, width: width, value: value)
        for (place, old) in Self.bytes where place != 0x604 && place != 0x605 {
            let byte = Int(place) - Int(port)
            var expected = old
            if (0..<width.bytes).contains(byte) {
                let bits = value >> UInt32(8 * byte) & 0xFF
                // A status is cleared by ones; an enable is what was written, as far as there are such bits.
                let isStatus = place & 2 == 0
                let exists: UInt32 = place == 0x602 ? 0x21 : place == 0x603 ? 0x07 : 0xFF
                expected = isStatus ? old & ~bits : bits & exists
            }
            #expect(device.read(port: place, width: .byte) & 0xFF == expected, "\(place)")
        }
    }

    @Test func `sleep is entered by the byte that has SLP_EN, whatever the width`() {
        for (port, width, value) in [
            (0x605, .byte, 0x34), (0x604, .word, 0x3400), (0x604, .dword, 0x3400), (0x603, .word, 0),
            (0x603, .dword, 0x34_0000), (0x602, .dword, 0x3400_0000),
        ] as [(UInt16, AccessWidth, UInt32)] {
            let device = ACPIPowerManagement(bench.context)
            device.write(port: port, width: width, value: value)
            let turnsOff = value != 0
            #expect(bench.events.take() == (turnsOff ? [.powerOff] : []), "\(port)")
        }
    }

    @Test func `the timer counts 3.579545 MHz in 32 bits`() {
        let device = ACPIPowerManagement(bench.context)
        bench.clock.advance(by: 1_000_000_000)
        #expect(device.read(port: 0x608, width: .dword) == 3_579_545)
        device.write(port: 0x608, width: .dword, value: 0)
        #expect(device.read(port: 0x608, width: .dword) == 3_579_545)
        #expect(device.read(port: 0x609, width: .word) & 0xFFFF == 3_579_545 >> 8 & 0xFFFF)
        #expect(device.input(0x60A) == UInt8(3_579_545 >> 16))
    }

    @Test func `the timer's carry sets its status and interrupts`() {
        let device = ACPIPowerManagement(bench.context)
        device.enableACPI()
        device.write(port: 0x602, width: .word, value: 1)
        bench.clock.advance(by: 599_000_000_000)
        #expect(!bench.lines.isHigh(9))
        bench.clock.advance(by: 1_000_000_000)
        #expect(bench.lines.isHigh(9))
        #expect(word(device, 0x600) & 1 == 1)
        device.write(port: 0x600, width: .word, value: 1)
        bench.clock.advance(by: 600_000_000_000)
        #expect(bench.lines.rises(9) == 2)
    }

    @Test func `saved reserved bits are refused`() {
        let device = ACPIPowerManagement(bench.context)
        for change: (inout ACPIPowerManagement.Saved) -> Void in [
            { $0.status = 2 }, { $0.enable = 0x8000 }, { $0.control = 0x2000 },
        ] {
            var saved = device.save()
            change(&saved)
            #expect(throws: RestoreError.self) { try device.restore(saved) }
        }
    }

    @Test func `CF9h resets on the rising edge of bit 2`() {
        let device = ResetControl(bench.context)
        device.output(0xCF9, 0x02)
        #expect(bench.events.all.isEmpty)
        device.output(0xCF9, 0x06)
        device.output(0xCF9, 0x06)
        #expect(bench.events.all == [.reset])
        #expect(device.input(0xCF9) == 0x06)
    }

    @Test func `port 92h holds the A20 bit and resets by bit 0`() {
        let device = ResetControl(bench.context)
        #expect(device.input(0x92) == 0x02)
        device.output(0x92, 0x00)
        #expect(device.input(0x92) == 0x00)
        device.output(0x92, 0x03)
        #expect(device.input(0x92) == 0x02)
        #expect(bench.events.all == [.reset])
    }

    @Test func `a panic is reported with its events`() {
        let device = PanicNotifier(bench.context)
        #expect(device.input(0x505) == 0x03)
        device.output(0x505, 0x01)
        device.output(0x505, 0xFE)
        device.output(0x505, 0xFC)
        #expect(bench.events.all == [.panicked(1), .panicked(2)])
    }

    @Test(
        arguments: [(AccessWidth.byte, 0x44), (.word, 0x3344), (.dword, 0x1122_3344)]
            as [(AccessWidth, UInt32)])
    func `debug exit reports what its width moves`(width: AccessWidth, value: UInt32) {
        let device = DebugExit(bench.context)
        device.write(port: 0xF4, width: width, value: 0x1122_3344)
        #expect(bench.events.all == [.debugExit(value)])
    }

    @Test func `the POST port keeps the last code`() {
        let device = POSTPort(bench.context)
        device.output(0x80, 0xAB)
        #expect(device.input(0x80) == 0xAB)
    }
}
