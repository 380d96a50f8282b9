import DeviceModel
import TestKit
import Testing

@testable import ChipsetDevices

@Suite struct FlashMemoryTests {
    private static let size = 4 * FlashMemory.blockSize
    private let stores = Recorder<(offset: Int, bytes: [UInt8])>()
    private let flash: FlashMemory

    init() {
        let stores = stores
        flash = FlashMemory(contents: (0..<Self.size).map { UInt8(truncatingIfNeeded: $0 >> 4) }) {
            stores.record(($0, Array($1)))
        }
    }

    private func write(_ offset: UInt64, _ value: UInt8) {
        flash.write(region: 0, offset: offset, width: .byte, value: UInt64(value))
    }
    private func read(_ offset: UInt64) -> UInt8 {
        UInt8(truncatingIfNeeded: flash.read(region: 0, offset: offset, width: .byte))
    }
    private func program(_ offset: UInt64, _ value: UInt8) {
        write(offset, 0x10)
        write(offset, value)
    }

    @Test func `the array is read in any width`() {
        #expect(flash.read(region: 0, offset: 0x100F, width: .word) == 0x0100)
        #expect(flash.read(region: 0, offset: 0x230, width: .qword) == 0x2323_2323_2323_2323)
        #expect(flash.read(region: 0, offset: UInt64(Self.size) - 1, width: .dword) == 0xFFFF_FFFF)
    }

    /// QemuFlashDetected of OVMF: what tells a flash from RAM and from ROM.
    @Test func `a firmware finds out that this is a flash`() {
        write(0x23, 0x50)
        #expect(read(0x23) == 0x02)
        write(0x23, 0x70)
        #expect(read(0x23) == 0x00)
        write(0x23, 0xFF)
        #expect(read(0x23) == 0x02)
    }

    @Test func `bytes are programmed and blocks erased, and go to the backing when the array is read`() {
        program(0x1000, 0x5A)
        program(0x1003, 0xA5)
        #expect(read(0) == 0x80 && stores.all.isEmpty)
        write(0, 0xFF)
        #expect(flash.read(region: 0, offset: 0x1000, width: .dword) == 0xA500_005A)
        let first = stores.take()
        #expect(first.map(\.offset) == [0x1000] && first.map(\.bytes) == [[0x5A, 0, 0, 0xA5]])
        write(0x2FFF, 0x20)
        write(0x2FFF, 0xD0)
        write(0, 0xFF)
        #expect(read(0x1FFF) == 0xFF && read(0x2000) == 0xFF && read(0x2FFF) == 0xFF && read(0x3000) == 0x00)
        let second = stores.take()
        #expect(second.map(\.offset) == [0x2000] && second.map(\.bytes.count) == [0x1000])
        write(0, 0xFF)
        #expect(stores.all.isEmpty, "nothing changed since")
    }

    @Test func `an erasure that is not confirmed is an error and changes nothing`() {
        write(0x1000, 0x20)
        write(0x1000, 0x00)
        #expect(read(0) == 0xA0)
        write(0, 0x50)
        #expect(read(0x1000) == 0 && stores.all.isEmpty)
    }

    @Test func `a buffered write comes at once when it is confirmed`() {
        write(0x40, 0xE8)
        write(0x40, 2)
        for (offset, byte) in [(0x40, 1), (0x41, 2), (0x47, 3)] as [(UInt64, UInt8)] { write(offset, byte) }
        write(0x40, 0xD0)
        write(0x40, 0xFF)
        #expect(flash.read(region: 0, offset: 0x40, width: .qword) == 0x0304_0404_0404_0201)
        write(0x40, 0xE8)
        write(0x40, 0)
        write(0x40, 9)
        write(0x40, 0x00)
        #expect(read(0x40) & 0x10 != 0)
        write(0x40, 0xFF)
        #expect(read(0x40) == 1)
    }

    @Test func `the identifier and the query table say what it is`() {
        write(0, 0x98)
        #expect((0x10..<0x13).map { read($0) } == Array("QRY".utf8))
        #expect(read(0x27) == 14 && read(0x2D) == 3 && read(0x2F) == 0x10)
        write(0, 0x90)
        #expect(read(0) == 0x89)
        write(0, 0xFF)
        #expect(read(0x10) == 1)
    }

    @Test func `cycles outside of the array change nothing`() {
        for offset in [UInt64(Self.size), .max] {
            program(offset, 1)
            write(offset, 0x20)
            write(offset, 0xD0)
        }
        flash.pause()
        #expect(stores.all.isEmpty)
    }

    @Test func `its state survives in the middle of a command, and impossible ones are refused`() throws {
        write(0x40, 0xE8)
        write(0x40, 1)
        write(0x40, 7)
        let saved = flash.save()
        let twinStores = Recorder<Int>()
        let twin = FlashMemory(contents: [UInt8](repeating: 0, count: Self.size)) {
            twinStores.record($0 + $1.count)
        }
        try twin.restore(saved)
        #expect(twin.save() == saved)
        for value in [8, 0xD0, 0xFF] as [UInt64] {
            twin.write(region: 0, offset: 0x41, width: .byte, value: value)
        }
        #expect(twin.read(region: 0, offset: 0x40, width: .word) == 0x0807)
        #expect(twinStores.all == [Self.size], "all of the restored array goes to its backing")
        for damage in 0..<5 {
            var damaged = saved
            switch damage {
            case 0: damaged.bytes.removeLast()
            case 1: damaged.mode = 4
            case 2: damaged.pending = 7
            case 3: damaged.expected = 257
            default: damaged.buffered = [.init(offset: 0, byte: 0), .init(offset: 0, byte: 0)]
            }
            #expect(throws: RestoreError.self, "damage \(damage)") { try twin.restore(damaged) }
        }
    }

    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `random cycles neither trap nor change the size`(seed: UInt64) {
        var random = ChipsetRandom(seed: seed)
        let commands: [UInt8] = [0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xD0, 0xE8, 0xFF]
        for _ in 0..<30_000 {
            let offset = random.chance(4) ? random.value() : UInt64(random.below(Self.size))
            let width = AccessWidth.allCases[random.below(4)]
            let value = random.chance(2) ? UInt64(commands[random.below(commands.count)]) : random.value()
            flash.write(region: 0, offset: offset, width: width, value: value)
            if random.chance(3) { _ = flash.read(region: 0, offset: offset, width: width) }
        }
        #expect(flash.save().bytes.count == Self.size)
        #expect(stores.all.allSatisfy { $0.offset + $0.bytes.count <= Self.size })
    }
}
