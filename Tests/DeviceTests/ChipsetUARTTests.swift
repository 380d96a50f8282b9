import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

@Suite struct ChipsetUARTTests {
    private let bench = ChipsetBench()
    private let spaces = Recorder<Void>()
    private let base: UInt16 = 0x3F8

    private func makeUART(fifo: UInt8 = 0x01) -> UART16550 {
        let uart = UART16550(
            bench.context, transmit: { [bytes = bench.bytes] in bytes.record($0) },
            onReceiveSpace: { [spaces] in spaces.record(()) })
        uart.output(base + 2, fifo)
        uart.output(base + 4, 0x08)
        return uart
    }
    private var sent: String { String(decoding: bench.bytes.all.joined(), as: UTF8.self) }

    @Test func `Linux finds a 16550A`() {
        let uart = makeUART(fifo: 0)
        uart.output(base + 1, 0)
        #expect(uart.input(base + 1) == 0)
        uart.output(base + 1, 0x0F)
        #expect(uart.input(base + 1) == 0x0F)
        uart.output(base + 1, 0xFF)
        #expect(uart.input(base + 1) == 0x0F)
        uart.output(base + 1, 0)
        uart.output(base + 4, 0x1A)
        #expect(uart.input(base + 6) & 0xF0 == 0x90)
        uart.output(base + 4, 0)
        #expect(uart.input(base + 2) & 0xC0 == 0)
        uart.output(base + 2, 0x01)
        #expect(uart.input(base + 2) & 0xC0 == 0xC0)
        uart.output(base + 7, 0x5A)
        #expect(uart.input(base + 7) == 0x5A)
        #expect(uart.input(base + 5) == 0x60)
    }

    @Test func `characters leave in batches, a line at once and the rest after two milliseconds`() {
        let uart = makeUART()
        uart.output(base + 3, 0x03)
        for byte in "hello\nlogin: ".utf8 { uart.output(base, byte) }
        #expect(bench.bytes.all == [Array("hello\n".utf8)])
        bench.clock.advance(by: 2_000_000)
        #expect(sent == "hello\nlogin: ")
        for _ in 0..<200 { uart.output(base, 0x78) }
        #expect(bench.bytes.all.map(\.count).max() == 64)
        uart.pause()
        #expect(sent.utf8.count == 213)
    }

    @Test func `a short word length cuts characters`() {
        let uart = makeUART()
        uart.output(base + 3, 0x02)
        uart.output(base, 0xC1)
        uart.flush()
        #expect(bench.bytes.all == [[0x41]])
    }

    @Test func `a break sends nothing`() {
        let uart = makeUART()
        uart.output(base + 3, 0x43)
        uart.output(base, 0x41)
        uart.flush()
        #expect(bench.bytes.all.isEmpty)
    }

    @Test func `the divisor latch hides data and interrupt enable`() {
        let uart = makeUART()
        uart.output(base + 1, 0x05)
        uart.output(base + 3, 0x83)
        uart.output(base, 0x01)
        uart.output(base + 1, 0x02)
        #expect(uart.input(base) == 0x01)
        #expect(uart.input(base + 1) == 0x02)
        uart.output(base + 3, 0x03)
        #expect(uart.input(base + 1) == 0x05)
        uart.flush()
        #expect(bench.bytes.all.isEmpty)
    }

    @Test func `enabling the transmitter interrupt fires it, and identification clears it`() {
        let uart = makeUART()
        uart.output(base + 1, 0x02)
        #expect(bench.lines.isHigh(4))
        #expect(uart.input(base + 2) == 0xC2)
        #expect(!bench.lines.isHigh(4))
        #expect(uart.input(base + 2) == 0xC1)
        uart.output(base, 0x41)
        #expect(uart.input(base + 2) == 0xC2)
        uart.output(base + 1, 0x02)
        #expect(!bench.lines.isHigh(4))
    }

    @Test(arguments: [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)] as [(UInt8, Int)])
    func `the receiver interrupts at its trigger level`(fifo: UInt8, level: Int) {
        let uart = makeUART(fifo: fifo)
        uart.output(base + 3, 0x83)
        uart.output(base, 1)
        uart.output(base + 1, 0)
        uart.output(base + 3, 0x03)
        uart.output(base + 1, 0x01)
        #expect(uart.receive([UInt8](repeating: 7, count: level - 1)) == level - 1)
        #expect(!bench.lines.isHigh(4))
        #expect(uart.receive([7]) == 1)
        #expect(bench.lines.isHigh(4))
        #expect(uart.input(base + 2) == 0xC4)
        for _ in 0..<level { #expect(uart.input(base) == 7) }
        #expect(!bench.lines.isHigh(4))
        #expect(uart.input(base + 5) & 1 == 0)
    }

    @Test func `characters below the trigger time out after four character times`() {
        let uart = makeUART(fifo: 0xC1)
        uart.output(base + 3, 0x83)
        uart.output(base, 1)
        uart.output(base + 1, 0)
        uart.output(base + 3, 0x03)
        uart.output(base + 1, 0x01)
        _ = uart.receive([1, 2])
        bench.clock.advance(by: 340_000)
        #expect(!bench.lines.isHigh(4))
        bench.clock.advance(by: 10_000)
        #expect(uart.input(base + 2) == 0xCC)
        _ = uart.input(base)
        #expect(uart.input(base + 2) == 0xC1, "reading restarts the time")
        bench.clock.advance(by: 350_000)
        #expect(uart.input(base + 2) == 0xCC)
        _ = uart.input(base)
        #expect(bench.clock.armedCount == 0)
    }

    @Test func `what does not fit stays with the back end until there is space`() {
        let uart = makeUART()
        #expect(uart.receive([UInt8](0..<100)) == 16)
        #expect(uart.receive([1]) == 0)
        for expected in 0..<16 as Range<UInt8> {
            #expect(spaces.all.isEmpty)
            #expect(uart.input(base) == expected)
        }
        #expect(spaces.all.count == 1)
        #expect(uart.receive([1]) == 1)
        _ = uart.input(base)
        #expect(spaces.all.count == 1, "nothing was refused")
    }

    @Test func `without the FIFO one character fits`() {
        let uart = makeUART(fifo: 0)
        #expect(uart.receive([1, 2]) == 1)
        #expect(uart.input(base) == 1)
        #expect(spaces.all.count == 1)
        #expect(uart.input(base + 2) == 1)
    }

    @Test func `clearing or toggling the FIFO drops what it held`() {
        let uart = makeUART()
        _ = uart.receive([1, 2, 3])
        uart.output(base + 2, 0x03)
        #expect(uart.input(base + 5) & 1 == 0)
        _ = uart.receive([1])
        uart.output(base + 2, 0x00)
        #expect(uart.input(base + 5) & 1 == 0)
        #expect(spaces.all.isEmpty)
    }

    @Test func `loopback returns characters, overruns and cuts the wire`() {
        let uart = makeUART()
        uart.output(base + 3, 0x03)
        uart.output(base + 4, 0x18)
        uart.output(base + 1, 0x04)
        for byte in 0..<17 as Range<UInt8> { uart.output(base, byte) }
        uart.flush()
        #expect(bench.bytes.all.isEmpty)
        #expect(uart.receive([9]) == 0)
        #expect(uart.input(base + 2) == 0xC6)
        #expect(uart.input(base + 5) == 0x63)
        #expect(uart.input(base + 5) == 0x61)
        for byte in 0..<16 as Range<UInt8> { #expect(uart.input(base) == byte) }
        #expect(uart.input(base) == 0)
    }

    @Test func `modem lines change in loopback with their deltas`() {
        let uart = makeUART()
        #expect(uart.input(base + 6) == 0xB0)
        uart.output(base + 1, 0x08)
        uart.output(base + 4, 0x18)
        #expect(uart.input(base + 2) == 0xC0)
        #expect(uart.input(base + 6) == 0x83, "CTS and DSR fell, DCD stayed")
        #expect(uart.input(base + 6) == 0x80)
        uart.output(base + 4, 0x1C)
        #expect(uart.input(base + 6) == 0xC0)
        uart.output(base + 4, 0x18)
        #expect(uart.input(base + 6) == 0x84, "the trailing edge of RI")
    }

    @Test func `a received break is a line status with its character`() {
        let uart = makeUART()
        uart.output(base + 1, 0x05)
        uart.receiveBreak()
        #expect(uart.input(base + 2) == 0xC6)
        #expect(uart.input(base + 5) == 0xF1)
        #expect(uart.input(base + 5) == 0x61)
        #expect(uart.input(base) == 0)
    }

    @Test func `OUT2 gates the interrupt`() {
        let uart = makeUART()
        uart.output(base + 4, 0)
        uart.output(base + 1, 0x02)
        #expect(!bench.lines.isHigh(4))
        uart.output(base + 4, 0x08)
        #expect(bench.lines.isHigh(4))
    }

    @Test func `saved fields out of range are refused`() {
        let uart = makeUART()
        for change: (inout UART16550.Saved) -> Void in [
            { $0.interruptEnable = 0x10 }, { $0.fifoControl = 0x08 }, { $0.modemControl = 0x20 },
            {
                $0.received = [UInt8](repeating: 0, count: 17); $0.receivedErrors = $0.received
            },
            { $0.received = [1] },
            {
                $0.received = [1]; $0.receivedErrors = [0x80]
            }, { $0.timedOut = true },
            { $0.modemDeltas = 0x80 }, { $0.fifoControl = 0xC0 },
        ] {
            var saved = uart.save()
            change(&saved)
            #expect(throws: RestoreError.self) { try uart.restore(saved) }
        }
    }
}
