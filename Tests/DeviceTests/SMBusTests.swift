import DeviceModel
import StateCodec
import Testing

@testable import PCIBus
@testable import Q35Chipset

/// The SMBus controller on a bus of its own, with its ports where SeaBIOS puts them.
private final class SMBusBoard {
    static let base: UInt16 = 0x700, slot = 5
    let bench: PCIBench
    let controller: SMBusController
    /// INTB of the slot.
    private static let line = PCIHostBridge.line(slot: slot, pin: 1)

    init(modules: [MemoryModule]) throws {
        bench = try PCIBench()
        controller = SMBusController(bench.context, modules: modules)
        bench.bridge.insert(controller.function, slot: Self.slot)
        bench.writeConfig(Self.slot, 0x20, UInt32(Self.base))
        bench.writeConfig(Self.slot, 0x40, 1)
        bench.writeConfig(Self.slot, 0x04, 1)
    }

    func read(_ register: Int, _ width: AccessWidth = .byte) -> UInt32 {
        bench.portBus.read(port: Self.base + UInt16(register), width: width)
    }
    func write(_ register: Int, _ value: UInt8) {
        bench.portBus.write(port: Self.base + UInt16(register), width: .byte, value: UInt32(value))
    }
    var isHigh: Bool { bench.interrupts.isHigh(Self.line) }
    /// Without the semaphore.
    var status: UInt8 { UInt8(read(SMBusRegister.status)) & ~SMBusStatus.inUse }

    /// Clears the status, starts a command at an address and returns its status. `bits`: of the control
    /// register.
    @discardableResult
    func run(
        _ command: SMBusCommand, _ address: UInt8, reads: Bool = true, at place: UInt8 = 0, bits: UInt8 = 0
    ) -> UInt8 {
        write(SMBusRegister.status, 0xFF)
        write(SMBusRegister.address, address << 1 | (reads ? 1 : 0))
        write(SMBusRegister.command, place)
        write(SMBusRegister.control, command.rawValue << 2 | SMBusControl.start | bits)
        return status
    }
}

@Suite struct SMBusTests {
    private static let modules = MemoryModule.modules(holding: 3 << 30)
    private let board: SMBusBoard
    private let first = modules[0].description
    init() throws { board = try SMBusBoard(modules: Self.modules) }

    // MARK: Modules

    @Test(
        arguments: [
            (16, [64]), (64, [64]), (256, [256]), (1024, [1024]), (3072, [2048, 1024]),
            (1500, [1024, 256, 128, 64, 64]), (1 << 20, [UInt64](repeating: 131_072, count: 8)),
        ] as [(UInt64, [UInt64])])
    func `modules hold the memory of a machine`(mebibytes: UInt64, sizes: [UInt64]) {
        #expect(MemoryModule.modules(holding: mebibytes << 20).map { $0.size >> 20 } == sizes)
    }

    /// Annex K, bytes 4, 7 and 8: capacity / 8 x bus / chip width x ranks.
    @Test(arguments: 26...37)
    func `a module's description says its size, and has the code that belongs to it`(power: UInt64) {
        let bytes = MemoryModule(size: 1 << power, socket: 3).description
        let chip = UInt64(256 << 20) << UInt64(bytes[4] & 0xF) / 8
        let width = UInt64(4) << UInt64(bytes[7] & 7), ranks = UInt64(bytes[7] >> 3) + 1
        #expect(bytes[8] & 7 == 3 && bytes[4] & 0xF <= 6 && width <= 32 && ranks <= 4)
        #expect(chip * (64 / width) * ranks == 1 << power)
        #expect(MemoryModule.code(bytes[..<117]) == UInt16(bytes[126]) | UInt16(bytes[127]) << 8)
        #expect(MemoryModule.code(Array("123456789".utf8)) == 0x31C3)
        #expect(bytes.count == 256 && bytes[2] == 0x0B && bytes[122] == 3)
    }

    // MARK: Commands

    @Test func `only addresses of modules answer`() {
        for address in UInt8(0)..<0x80 {
            let isThere = address == 0x50 || address == 0x51
            let expected = isThere ? SMBusStatus.interrupt : SMBusStatus.deviceError
            #expect(board.run(.quick, address) == expected, "address \(address)")
        }
    }

    @Test func `bytes and words are read from where the command says`() {
        #expect(board.run(.byteData, 0x51, at: 2) == SMBusStatus.interrupt)
        #expect(board.read(SMBusRegister.data0) == 0x0B)
        #expect(board.run(.wordData, 0x50, at: 0) == SMBusStatus.interrupt)
        #expect(board.read(SMBusRegister.data0, .word) == 0x1092)
        #expect(board.run(.byte, 0x50, reads: false, at: 126) == SMBusStatus.interrupt)
        for place in 126..<130 {
            #expect(board.run(.byte, 0x50) == SMBusStatus.interrupt)
            #expect(board.read(SMBusRegister.data0) == UInt32(first[place]))
        }
    }

    @Test(arguments: [SMBusCommand.byteData, .wordData, .block, .processCall, .blockProcessCall])
    func `what would write is refused`(command: SMBusCommand) {
        #expect(board.run(command, 0x50, reads: false) == SMBusStatus.deviceError)
        #expect(board.run(.processCall, 0x50) == SMBusStatus.deviceError)
        #expect(board.run(.byteData, 0x50, at: 0) == SMBusStatus.interrupt)
        #expect(board.read(SMBusRegister.data0) == 0x92)
    }

    @Test func `a block comes through the buffer`() {
        board.write(SMBusRegister.auxiliaryControl, SMBusAuxiliary.usesBuffer)
        // Byte 1 holds 16.
        #expect(board.run(.block, 0x50, at: 1) == SMBusStatus.interrupt)
        #expect(board.read(SMBusRegister.data0) == 16)
        _ = board.read(SMBusRegister.control)
        for place in 2..<18 { #expect(board.read(SMBusRegister.block) == UInt32(first[place])) }
        // Byte 0 holds 92h, which is no count; byte 13 none.
        #expect(board.run(.block, 0x50, at: 0) == SMBusStatus.deviceError)
        #expect(board.run(.block, 0x50, at: 13) == SMBusStatus.deviceError)
    }

    /// Software that polls says after the byte before the last one that one more is wanted.
    @Test(arguments: [1, 2, 7, 32, 40])
    func `a block of I2C comes byte by byte to who polls`(count: Int) {
        board.write(SMBusRegister.data1, 250)
        var bytes: [UInt8] = []
        let last = SMBusControl.lastByte, command = SMBusCommand.blockOfI2C
        board.run(command, 0x50, reads: false, bits: count == 1 ? last : 0)
        while bytes.count < count {
            if !bytes.isEmpty {
                let bits = bytes.count + 1 == count ? last : 0
                board.write(SMBusRegister.control, command.rawValue << 2 | bits)
            }
            #expect(board.status == SMBusStatus.byteDone | SMBusStatus.busy)
            bytes.append(UInt8(board.read(SMBusRegister.block)))
            board.write(SMBusRegister.status, SMBusStatus.byteDone)
        }
        #expect(board.status == SMBusStatus.interrupt)
        #expect(bytes == (0..<count).map { first[(250 + $0) % 256] })
    }

    /// With interrupts software says it before it clears the status of the byte before the last one.
    @Test(arguments: [SMBusCommand.block, .blockOfI2C])
    func `a block of n bytes makes n interrupts and one more`(command: SMBusCommand) {
        board.write(SMBusRegister.data1, 2)
        board.write(SMBusRegister.status, 0xFF)
        board.write(SMBusRegister.address, 0xA1)
        board.write(SMBusRegister.command, 1)
        let bits = command.rawValue << 2 | SMBusControl.interruptEnable
        board.write(SMBusRegister.control, bits | SMBusControl.start)
        for place in 2..<18 {
            #expect(board.isHigh)
            #expect(board.bench.readConfig(SMBusBoard.slot, 6, .word) & 8 != 0)
            #expect(board.status == SMBusStatus.byteDone | SMBusStatus.busy)
            #expect(board.read(SMBusRegister.block) == UInt32(first[place]))
            if place == 16 { board.write(SMBusRegister.control, bits | SMBusControl.lastByte) }
            board.write(SMBusRegister.status, SMBusStatus.byteDone)
        }
        #expect(board.isHigh && board.status == SMBusStatus.interrupt)
        board.write(SMBusRegister.status, SMBusStatus.interrupt)
        #expect(!board.isHigh)
    }

    @Test func `a packet error code that no memory sends is an error where it is checked`() {
        let bits = SMBusControl.packetErrorCheck
        #expect(board.run(.byteData, 0x50, at: 2, bits: bits) == SMBusStatus.interrupt)
        #expect(board.read(SMBusRegister.packetError) == UInt32(first[3]))
        board.write(SMBusRegister.auxiliaryControl, SMBusAuxiliary.checksPackets)
        #expect(board.run(.byteData, 0x50, at: 2, bits: bits) == SMBusStatus.deviceError)
        #expect(board.read(SMBusRegister.auxiliaryStatus) == 1)
        board.write(SMBusRegister.auxiliaryStatus, 1)
        #expect(board.read(SMBusRegister.auxiliaryStatus) == 0)
    }

    // MARK: The controller

    @Test func `the semaphore is free once`() {
        board.write(SMBusRegister.status, SMBusStatus.inUse)
        #expect(board.read(SMBusRegister.status) & UInt32(SMBusStatus.inUse) == 0)
        #expect(board.read(SMBusRegister.status) & UInt32(SMBusStatus.inUse) != 0)
        board.write(SMBusRegister.status, SMBusStatus.inUse)
        #expect(board.read(SMBusRegister.status) & UInt32(SMBusStatus.inUse) == 0)
    }

    @Test func `a controller that is off runs no command, one that is killed ends with a failure`() {
        board.bench.writeConfig(SMBusBoard.slot, 0x40, 0)
        #expect(board.run(.quick, 0x50) == 0)
        board.bench.writeConfig(SMBusBoard.slot, 0x40, 1)
        #expect(board.run(.blockOfI2C, 0x50) == SMBusStatus.byteDone | SMBusStatus.busy)
        // No second command beside the first.
        board.write(SMBusRegister.control, SMBusControl.start)
        #expect(board.status & SMBusStatus.interrupt == 0)
        board.write(SMBusRegister.control, SMBusControl.kill)
        #expect(board.status & ~SMBusStatus.byteDone == SMBusStatus.failed)
        #expect(board.run(.quick, 0x50, bits: SMBusControl.kill) == SMBusStatus.failed)
        #expect(board.run(.quick, 0x50) == SMBusStatus.interrupt)
    }

    @Test func `system management interrupts are nobody's`() {
        board.run(.quick, 0x50, bits: SMBusControl.interruptEnable)
        #expect(board.isHigh)
        board.bench.writeConfig(SMBusBoard.slot, 0x40, 3)
        #expect(!board.isHigh)
    }

    @Test func `a transfer goes on after a restore, and one from no module is over`() throws {
        board.write(SMBusRegister.data1, 8)
        board.run(.blockOfI2C, 0x51)
        board.write(SMBusRegister.status, SMBusStatus.byteDone)
        let saved = board.controller.save()
        let state = try StateEncoder().encode(saved)
        let twin = try SMBusBoard(modules: Self.modules)
        try twin.controller.restore(StateDecoder().decode(SMBusController.Saved.self, from: state))
        #expect(twin.controller.save() == saved)
        #expect(twin.status == SMBusStatus.byteDone | SMBusStatus.busy)
        #expect(twin.read(SMBusRegister.block) == UInt32(first[9]))
        let smaller = try SMBusBoard(modules: [])
        try smaller.controller.restore(saved)
        #expect(smaller.status & SMBusStatus.busy == 0)
        var broken = saved
        broken.host.bufferIndex = 32
        #expect(throws: RestoreError.self) { try twin.controller.restore(broken) }
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func `any bytes at its ports leave it alive`(seed: UInt64) {
        var random = BenchRandom(seed: seed)
        for _ in 0..<20_000 {
            let value = random.next(), register = Int(value % 32)
            let width = [AccessWidth.byte, .word, .dword][Int((value >> 8) % 3)]
            if value >> 16 & 3 == 0 {
                _ = board.read(register, width)
            } else {
                board.bench.portBus.write(
                    port: SMBusBoard.base + UInt16(register), width: width,
                    value: UInt32(truncatingIfNeeded: value >> 24))
            }
        }
        board.write(SMBusRegister.control, SMBusControl.kill)
        board.write(SMBusRegister.auxiliaryControl, 0)
        #expect(board.run(.byteData, 0x50, at: 0) == SMBusStatus.interrupt)
        #expect(board.read(SMBusRegister.data0) == 0x92)
    }
}
