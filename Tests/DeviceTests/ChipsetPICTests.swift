import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

@Suite struct ChipsetPICTests {
    private func makePIC(icw4: UInt8 = 0x01, masterMask: UInt8 = 0, slaveMask: UInt8 = 0) -> PIC8259Pair {
        let pic = PIC8259Pair(ChipsetBench().context)
        // The order of Linux' init_8259A.
        pic.output(0x21, 0xFF)
        pic.output(0x20, 0x11)
        pic.output(0x21, 0x30)
        pic.output(0x21, 0x04)
        pic.output(0x21, icw4)
        pic.output(0xA0, 0x11)
        pic.output(0xA1, 0x38)
        pic.output(0xA1, 0x02)
        pic.output(0xA1, icw4 & 0x03)
        pic.output(0x21, masterMask)
        pic.output(0xA1, slaveMask)
        return pic
    }
    private func edge(_ pic: PIC8259Pair, _ line: Int) {
        pic.setLine(line, asserted: true)
        pic.setLine(line, asserted: false)
    }
    private func inService(_ pic: PIC8259Pair, _ port: UInt16 = 0x20) -> UInt8 {
        pic.output(port, 0x0B)
        return pic.input(port)
    }

    @Test(arguments: [0, 1, 3, 7, 8, 12, 15])
    func `an edge is delivered with its line's vector and ends with an EOI`(line: Int) {
        let pic = makePIC()
        #expect(!pic.output)
        edge(pic, line)
        #expect(pic.output)
        #expect(pic.acknowledge() == 0x30 + UInt8(line))
        #expect(!pic.output)
        #expect(inService(pic) == (line < 8 ? 1 << UInt8(line) : 0x04))
        #expect(inService(pic, 0xA0) == (line < 8 ? 0 : 1 << UInt8(line - 8)))
        if line >= 8 { pic.output(0xA0, 0x60 | UInt8(line & 7)) }
        pic.output(0x20, 0x60 | UInt8(line < 8 ? line : 2))
        #expect(inService(pic) == 0)
        #expect(inService(pic, 0xA0) == 0)
    }

    @Test func `a masked line waits and is delivered when the mask goes`() {
        let pic = makePIC(masterMask: 0x08)
        edge(pic, 3)
        #expect(!pic.output)
        #expect(pic.input(0x20) == 0x08)
        pic.output(0x21, 0)
        #expect(pic.output)
        #expect(pic.input(0x21) == 0)
    }

    @Test func `a lower line preempts and a higher one waits`() {
        let pic = makePIC()
        edge(pic, 4)
        #expect(pic.acknowledge() == 0x34)
        edge(pic, 6)
        #expect(!pic.output)
        edge(pic, 1)
        #expect(pic.acknowledge() == 0x31)
        pic.output(0x20, 0x20)
        #expect(inService(pic) == 0x10)
        pic.output(0x20, 0x20)
        #expect(pic.acknowledge() == 0x36)
    }

    @Test func `slave lines rank between master lines 1 and 3`() {
        let pic = makePIC()
        edge(pic, 3)
        edge(pic, 15)
        edge(pic, 9)
        #expect(pic.acknowledge() == 0x39)
        #expect(!pic.output)
        pic.output(0xA0, 0x20)
        pic.output(0x20, 0x20)
        #expect(pic.acknowledge() == 0x3F)
        pic.output(0xA0, 0x20)
        pic.output(0x20, 0x20)
        #expect(pic.acknowledge() == 0x33)
    }

    @Test func `an acknowledge without a request gives the spurious vector`() {
        let pic = makePIC()
        #expect(pic.acknowledge() == 0x37)
        #expect(inService(pic) == 0)
    }

    @Test func `a level line asks again until its wire falls`() {
        let pic = makePIC()
        pic.output(0x4D1, 0x08)
        #expect(pic.input(0x4D1) == 0x08)
        pic.setLine(11, asserted: true)
        #expect(pic.acknowledge() == 0x3B)
        pic.output(0xA0, 0x20)
        pic.output(0x20, 0x20)
        #expect(pic.output)
        pic.setLine(11, asserted: false)
        #expect(!pic.output)
    }

    @Test func `an edge line that stays high interrupts once`() {
        let pic = makePIC()
        pic.setLine(5, asserted: true)
        #expect(pic.acknowledge() == 0x35)
        pic.output(0x20, 0x20)
        #expect(!pic.output)
        pic.setLine(5, asserted: true)
        #expect(!pic.output)
    }

    @Test func `the edge control registers keep the PC's edge lines`() {
        let pic = makePIC()
        pic.output(0x4D0, 0xFF)
        pic.output(0x4D1, 0xFF)
        #expect(pic.input(0x4D0) == 0xF8)
        #expect(pic.input(0x4D1) == 0xDE)
    }

    @Test func `automatic EOI leaves nothing in service`() {
        let pic = makePIC(icw4: 0x03)
        edge(pic, 4)
        #expect(pic.acknowledge() == 0x34)
        #expect(inService(pic) == 0)
        edge(pic, 6)
        #expect(pic.output)
    }

    @Test func `rotation on EOI makes the served line the lowest`() {
        let pic = makePIC()
        edge(pic, 4)
        _ = pic.acknowledge()
        pic.output(0x20, 0xA0)
        edge(pic, 4)
        edge(pic, 5)
        #expect(pic.acknowledge() == 0x35)
        pic.output(0x20, 0x20)
        #expect(pic.acknowledge() == 0x34)
    }

    @Test func `set priority and specific rotation choose the lowest line`() {
        let pic = makePIC()
        pic.output(0x20, 0xC0 | 5)
        edge(pic, 0)
        edge(pic, 6)
        #expect(pic.acknowledge() == 0x36)
        pic.output(0x20, 0xE0 | 6)
        edge(pic, 7)
        #expect(pic.acknowledge() == 0x37)
    }

    @Test func `rotation in automatic EOI mode can be set and cleared`() {
        let pic = makePIC(icw4: 0x03)
        pic.output(0x20, 0x80)
        edge(pic, 0)
        _ = pic.acknowledge()
        edge(pic, 0)
        edge(pic, 1)
        #expect(pic.acknowledge() == 0x31)
        pic.output(0x20, 0x00)
        #expect(pic.acknowledge() == 0x30)
    }

    @Test func `special mask mode lets lower priorities through a masked level in service`() {
        let pic = makePIC()
        edge(pic, 3)
        _ = pic.acknowledge()
        edge(pic, 6)
        #expect(!pic.output)
        pic.output(0x21, 0x08)
        pic.output(0x20, 0x68)
        #expect(pic.acknowledge() == 0x36)
        pic.output(0x20, 0x48)
        pic.output(0x20, 0x66)
        edge(pic, 7)
        #expect(!pic.output)
    }

    @Test func `special fully nested mode lets a better slave line through`() {
        let pic = makePIC(icw4: 0x11)
        edge(pic, 12)
        #expect(pic.acknowledge() == 0x3C)
        edge(pic, 9)
        #expect(pic.output)
        #expect(pic.acknowledge() == 0x39)
    }

    @Test func `a poll acknowledges and says the level`() {
        let pic = makePIC()
        pic.output(0x20, 0x0C)
        #expect(pic.input(0x20) == 0)
        edge(pic, 5)
        pic.output(0x20, 0x0C)
        #expect(pic.input(0x20) == 0x85)
        #expect(inService(pic) == 0x20)
    }

    @Test func `a single controller needs no ICW3`() {
        let pic = PIC8259Pair(ChipsetBench().context)
        pic.output(0x20, 0x12)
        pic.output(0x21, 0x40)
        pic.output(0x21, 0xFE)
        #expect(pic.input(0x21) == 0xFE)
        edge(pic, 0)
        #expect(pic.acknowledge() == 0x40)
    }

    @Test func `the output hook hears every change`() {
        let changes = Recorder<Bool>()
        let pic = PIC8259Pair(ChipsetBench().context) { changes.record($0) }
        for byte in [0x30, 4, 1, 0] as [UInt8] {
            if byte == 0x30 { pic.output(0x20, 0x11) }
            pic.output(0x21, byte)
        }
        edge(pic, 1)
        edge(pic, 1)
        _ = pic.acknowledge()
        #expect(changes.all == [true, false])
    }

    @Test func `a saved state with an impossible priority is refused`() {
        let pic = makePIC()
        var saved = pic.save()
        saved.master.highest = 8
        #expect(throws: RestoreError.self) { try pic.restore(saved) }
        saved = pic.save()
        saved.slave.levelInputs = 0xFF
        #expect(throws: RestoreError.self) { try pic.restore(saved) }
    }

    @Test func `the router sends ISA lines to both controllers and the timer to pin 2`() {
        let (pic, ioapic) = (RecordingInterruptSink(), RecordingInterruptSink())
        let router = InterruptRouter()
        router.setLine(3, asserted: true)
        router.connect(pic: pic, ioapic: ioapic)
        for line in [0, 2, 9, 20] { router.setLine(line, asserted: true) }
        #expect(pic.takeChanges().map(\.line) == [0, 9])
        #expect(ioapic.takeChanges().map(\.line) == [2, 9, 20])
    }
}
