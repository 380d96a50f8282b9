import DeviceModel
import GuestMemory
import TestKit
import Testing

@testable import USBDevices

/// What a hostile guest may tell an xHCI controller of places that are no memory.
@Suite struct XHCIHostileTests {
    private typealias Driver = XHCITestDriver
    private static let input: UInt64 = 0x2000

    /// The end of memory, the controller's own registers, and the end of all addresses.
    static let nowhere: [UInt64] = [
        XHCITestDriver.ram, XHCITestDriver.bar, XHCITestDriver.bar + 0x2000, 0xFFFF_FFFF_FFFF_FFC0,
    ]
    /// Contexts whose second half, or second neighbour, is not there.
    static let straddling: [UInt64] = [XHCITestDriver.ram - 16, XHCITestDriver.ram - 32]

    private let driver: XHCITestDriver
    init() throws {
        driver = try XHCITestDriver()
        try driver.start()
    }

    private var isBroken: Bool {
        let wanted = XHCIStatus.controllerError | XHCIStatus.halted
        return driver.read(XHCIRegister.status) & wanted == wanted
    }

    /// Whether everything works after the guest has begun anew.
    private func worksAfterReset() throws -> Bool {
        try driver.start()
        let slot = try driver.startHuman(Driver.tablet)
        try driver.transfer(slot, 3, 8)
        return try driver.controller.point(x: 7, y: 0, wheel: 0, buttons: 0)
            && driver.takeEvent()?.code == TRBCompletion.shortPacket
    }

    // MARK: Contexts

    @Test(arguments: nowhere + straddling)
    func `an input context that is not there is refused by each command`(place: UInt64) throws {
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.reset | XHCIPortStatus.power)
        let slot = try #require(try driver.command(TRBType.enableSlot)?.slot)
        try driver.memory.store(Driver.context(slot), at: GuestAddress(0x1000 + UInt64(slot) * 8))
        let refused = try driver.command(TRBType.addressDevice, place, slot: slot)
        #expect(refused?.code == TRBCompletion.blockError && refused?.slot == slot)
        #expect(try driver.contextWord(slot, 0, 3) == 0, "nothing was told of the device")
        #expect(try driver.address(slot: slot, port: Driver.tablet)?.code == TRBCompletion.success)
        for type in [TRBType.configureEndpoint, TRBType.evaluateContext] {
            #expect(try driver.command(type, place, slot: slot)?.code == TRBCompletion.blockError)
        }
        #expect(try driver.contextWord(slot, 0, 3) >> 27 == UInt32(SlotState.addressed.rawValue))
        #expect(try driver.configure(slot, [(3, 7)])?.code == TRBCompletion.success)
        #expect(!isBroken)
    }

    @Test(arguments: nowhere + straddling)
    func `a device context that is not there leaves the device without an address`(place: UInt64) throws {
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.reset | XHCIPortStatus.power)
        let slot = try #require(try driver.command(TRBType.enableSlot)?.slot)
        let entry = GuestAddress(0x1000 + UInt64(slot) * 8)
        try driver.memory.store(place, at: entry)
        let first = try driver.address(slot: slot, port: Driver.tablet)
        if place < Driver.ram {
            // The lower bits of an entry are none of the address: there is room for two contexts.
            #expect(first?.code == TRBCompletion.success)
            #expect(try driver.configure(slot, [(3, 7)])?.code == TRBCompletion.success)
            #expect(try driver.memory.load(UInt32.self, at: GuestAddress(Driver.ram - 52)) >> 27 == 3)
        } else {
            #expect(first?.code == TRBCompletion.blockError)
            #expect(try driver.configure(slot, [(3, 7)])?.code == TRBCompletion.contextState)
            try driver.memory.store(Driver.context(slot), at: entry)
            #expect(try driver.address(slot: slot, port: Driver.tablet)?.code == TRBCompletion.success)
        }
        #expect(!isBroken)
    }

    @Test(arguments: nowhere)
    func `an array of device contexts that is not there is refused`(place: UInt64) throws {
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.reset | XHCIPortStatus.power)
        let slot = try #require(try driver.command(TRBType.enableSlot)?.slot)
        driver.writeLong(XHCIRegister.contextArray, place)
        #expect(
            try driver.address(slot: slot, port: Driver.tablet)?.code == TRBCompletion.blockError)
        #expect(try driver.command(TRBType.noOperationCommand)?.code == TRBCompletion.success)
        #expect(try worksAfterReset())
    }

    @Test(arguments: nowhere)
    func `scratchpads are not asked for, and those that are offered are not looked at`(place: UInt64) throws {
        // HCSPARAMS2, §5.3.4: both parts of the number of buffers.
        #expect(driver.read(0x08) & 0xFBE0_0000 == 0)
        try driver.memory.store(place, at: GuestAddress(0x1000))
        let slot = try driver.startHuman(Driver.tablet)
        #expect(try driver.contextWord(slot, 0, 3) >> 27 == UInt32(SlotState.configured.rawValue))
        #expect(try driver.memory.load(UInt64.self, at: GuestAddress(0x1000)) == place)
    }

    // MARK: Rings

    @Test(arguments: nowhere)
    func `an endpoint whose ring is not there is in error until it has another one`(place: UInt64) throws {
        let slot = try driver.startHuman(Driver.tablet)
        func set(_ pointer: UInt64) throws -> UInt32? {
            try driver.command(TRBType.setDequeuePointer, pointer | 1, slot: slot, endpoint: 3)?.code
        }
        let stopped = try driver.command(TRBType.stopEndpoint, slot: slot, endpoint: 3)
        #expect(stopped?.code == TRBCompletion.success)
        #expect(try set(place) == TRBCompletion.success)
        driver.ring(slot, 3)
        let event = try #require(try driver.takeEvent())
        #expect(event.type == TRBType.transferEvent && event.code == TRBCompletion.blockError)
        #expect(event.parameter == place && event.slot == slot && event.endpoint == 3)
        #expect(try driver.contextWord(slot, 3, 0) & 7 == UInt32(EndpointState.faulty.rawValue))
        // More of the same brings nothing.
        for _ in 0..<10 { driver.ring(slot, 3) }
        #expect(try driver.takeEvent() == nil && !isBroken)
        let next = try driver.put(Driver.ring(slot, 3), Driver.data, 8, TRBType.normal << 10 | 0x20)
        #expect(try set(next) == TRBCompletion.success)
        driver.ring(slot, 3)
        #expect(driver.controller.point(x: 9, y: 0, wheel: 0, buttons: 0))
        #expect(try driver.takeEvent()?.parameter == next)
    }

    @Test(arguments: nowhere)
    func `a buffer that is not there is a data buffer error`(place: UInt64) throws {
        let slot = try driver.startHuman(Driver.tablet)
        let block = try driver.transfer(slot, 3, 8, at: place)
        #expect(driver.controller.point(x: 9, y: 0, wheel: 0, buttons: 0))
        let event = try #require(try driver.takeEvent())
        #expect(event.code == TRBCompletion.dataBufferError && event.parameter == block)
        #expect(try driver.contextWord(slot, 3, 0) & 7 == UInt32(EndpointState.halted.rawValue))
        #expect(!isBroken)
    }

    @Test(arguments: nowhere)
    func `a command ring that is not there breaks the controller until its reset`(place: UInt64) throws {
        driver.writeLong(XHCIRegister.commandRing, place | 1)
        driver.write(XHCIRegister.doorbells, 0)
        #expect(isBroken && driver.read(XHCIRegister.commandRing) == 0)
        driver.write(XHCIRegister.command, 5)
        driver.write(XHCIRegister.doorbells, 0)
        #expect(isBroken, "nothing but a reset mends it")
        #expect(try worksAfterReset() && !isBroken)
    }

    @Test(arguments: nowhere)
    func `an event ring that is not there breaks the controller at its first event`(place: UInt64) throws {
        try driver.memory.store(place, at: GuestAddress(0x3000))
        driver.writeLong(XHCIRegister.interrupters + 0x18, place)
        driver.writeLong(XHCIRegister.interrupters + 0x10, 0x3000)
        #expect(!isBroken)
        for port in [Driver.tablet, Driver.keyboard] { driver.write(Driver.port(port), XHCIPortStatus.reset) }
        #expect(isBroken)
        let events = driver.controller.save().registers.interrupters[0].waiting
        #expect(events.count <= XHCIController.mostWaiting)
        #expect(try worksAfterReset() && !isBroken)
    }

    @Test(arguments: nowhere + [XHCITestDriver.ram - 8].map { $0 & ~0x3F })
    func `a table of event ring segments that is not there breaks the controller at once`(
        place: UInt64
    ) throws {
        // The last one is there, and has no size that a segment may have.
        driver.writeLong(XHCIRegister.interrupters + 0x10, place)
        #expect(isBroken)
        #expect(try worksAfterReset() && !isBroken)
    }

    @Test(arguments: [0, 15, 4097, 0xFFFF] as [UInt32])
    func `a segment is neither shorter nor longer than the specification says`(size: UInt32) throws {
        try driver.memory.store(size, at: GuestAddress(0x3008))
        driver.writeLong(XHCIRegister.interrupters + 0x10, 0x3000)
        #expect(isBroken)
        #expect(try worksAfterReset())
    }

    @Test func `a table has no more segments than the capabilities say`() throws {
        for segment in 0..<0x100 as Range<UInt64> {
            try driver.memory.store(Driver.events + segment * 0x400, at: GuestAddress(0x4000 + segment * 16))
            try driver.memory.store(UInt32(16), at: GuestAddress(0x4008 + segment * 16))
        }
        driver.write(XHCIRegister.interrupters + 8, 0xFFFF)
        driver.writeLong(XHCIRegister.interrupters + 0x10, 0x4000)
        #expect(!isBroken)
        let interrupter = driver.controller.save().registers.interrupters[0]
        #expect(interrupter.segments.count == 1 << (driver.read(0x08) >> 4 & 0xF))
    }
}

/// A guest that does anything at all.
@Suite struct XHCIWalkTests {
    private typealias Driver = XHCITestDriver

    /// A place that may be memory, a ring, a context, registers or nothing.
    private static func place(_ random: inout ChipsetRandom) -> UInt64 {
        switch random.below(6) {
        case 0: random.value()
        case 1: Driver.ram - UInt64(random.below(128))
        case 2: Driver.bar + UInt64(random.below(0x4000))
        case 3: Driver.ring(random.below(9), random.below(32)) + UInt64(random.below(32) * 16)
        case 4: 0x1000 * UInt64(1 + random.below(8))
        default: Driver.data + UInt64(random.below(0x1_0000))
        }
    }

    private static func block(_ random: inout ChipsetRandom) -> (UInt64, UInt32, UInt32) {
        let type = UInt32(random.chance(8) ? random.below(64) : 1 + random.below(8))
        let status = random.chance(4) ? UInt32(truncatingIfNeeded: random.value()) : UInt32(random.below(600))
        let flags = UInt32(truncatingIfNeeded: random.value()) & 0x3_03FE
        // Setup packets of the usual requests, and anything.
        let setup = UInt64(random.below(256)) | UInt64(random.below(16)) << 8 | UInt64(0x12) << 48
        return (random.chance(3) ? setup : place(&random), status, type << 10 | flags)
    }

    private static func command(_ random: inout ChipsetRandom) -> (UInt64, UInt32, UInt32) {
        let type = UInt32(random.chance(16) ? random.below(64) : 9 + random.below(15))
        let target = UInt32(random.below(random.chance(8) ? 256 : 5)) << 24 | UInt32(random.below(32)) << 16
        let flags: UInt32 = random.chance(8) ? TRBFlag.noAddress : 0
        return (random.chance(2) ? 0x2000 : place(&random), 0, type << 10 | target | flags)
    }

    /// An input context that may be a good one.
    private static func fillInput(_ driver: XHCITestDriver, _ random: inout ChipsetRandom) throws {
        for word in 0..<UInt64(random.below(64)) {
            let value = random.chance(3) ? place(&random) : UInt64(random.below(1 << 20))
            try driver.memory.store(
                UInt32(truncatingIfNeeded: value), at: GuestAddress(0x2000 + word * 4))
        }
        guard random.chance(2) else { return }
        try driver.memory.store(UInt32(0), at: GuestAddress(0x2000))
        try driver.memory.store(UInt32(random.chance(2) ? 3 : 0x1D), at: GuestAddress(0x2004))
        try driver.memory.store(UInt32(3 << 20 | 1 << 27), at: GuestAddress(0x2020))
        try driver.memory.store(UInt32(1 + random.below(17)) << 16, at: GuestAddress(0x2024))
    }

    private static func write(_ driver: XHCITestDriver, _ random: inout ChipsetRandom) {
        let value = random.chance(2) ? place(&random) : random.value()
        let registers: [UInt64] = [
            XHCIRegister.command, XHCIRegister.status, XHCIRegister.commandRing, XHCIRegister.contextArray,
            XHCIRegister.configuration, XHCIRegister.interrupters + UInt64(random.below(16) * 8),
            Driver.port(1 + random.below(16)) + UInt64(random.below(4) * 4),
        ]
        switch random.below(4) {
        case 0: driver.write(UInt64(random.below(0x4000)), UInt32(truncatingIfNeeded: value))
        case 1: driver.writeLong(registers[random.below(registers.count)], value)
        case 2:
            driver.write(registers[random.below(registers.count)], UInt32(truncatingIfNeeded: value))
        // Most of the time it runs.
        default: driver.write(XHCIRegister.command, 5)
        }
    }

    private static func step(
        _ driver: XHCITestDriver, _ random: inout ChipsetRandom, _ step: Int
    ) throws {
        switch random.below(16) {
        case 0: write(driver, &random)
        case 1: _ = driver.read(UInt64(random.below(0x4000)))
        case 2, 3, 4:
            let (parameter, status, control) = command(&random)
            try driver.put(Driver.commands, parameter, status, control)
            driver.write(XHCIRegister.doorbells, 0)
        case 5: try fillInput(driver, &random)
        case 6, 7, 8, 9:
            let slot = random.below(4), endpoint = random.below(6)
            for _ in 0...random.below(4) {
                let (parameter, status, control) = block(&random)
                try driver.put(Driver.ring(slot, endpoint), parameter, status, control)
            }
            driver.ring(slot, endpoint)
        case 10:
            _ = driver.controller.point(x: UInt16(random.below(0x8000)), y: 0, wheel: 1, buttons: 0)
            _ = driver.controller.key(UInt8(random.below(256)), isDown: random.chance(2))
        case 11: driver.clock.advance(by: UInt64(random.below(3_000_000)))
        case 12 where step % 8 == 0:
            driver.controller.pause()
            let saved = driver.controller.save()
            try driver.controller.restore(saved)
            #expect(driver.controller.save() == saved)
            driver.controller.resume()
        case 13 where step % 16 == 0:
            try driver.start()
            _ = try? random.chance(2) ? driver.startStick() : driver.startHuman(10 + random.below(2))
        // A ring that goes on for ever would have events for ever.
        default: for _ in 0..<80 { if try driver.takeEvent() == nil { break } }
        }
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `whatever a guest tells the controller, its devices answer afterwards`(seed: UInt64) throws {
        var random = ChipsetRandom(seed: seed)
        let mode = seed % 2 == 0 ? MemoryDisk.Mode.immediate : .threaded
        let driver = try XHCITestDriver(MemoryDisk(sectors: 4096, mode: mode))
        try driver.start()
        var configured = 0
        for step in 0..<6000 {
            try Self.step(driver, &random, step)
            let registers = driver.controller.save().registers
            guard registers.interrupters.allSatisfy({ $0.waiting.count <= XHCIController.mostWaiting }),
                registers.status & ~XHCIStatus.all == 0
            else {
                Issue.record("step \(step)")
                return
            }
            configured += registers.slots.contains { $0?.state == .configured } ? 1 : 0
        }
        #expect(configured > 0, "some of it had effects")
        try driver.start()
        let slot = try driver.startStick()
        #expect(try driver.scsi(slot, [0x12, 0, 0, 0, 36, 0], 36, isIn: true)?.status == 0)
        #expect(try driver.dataBytes(1) == [0])
        let tablet = try driver.startHuman(Driver.tablet)
        try driver.transfer(tablet, 3, 8)
        #expect(driver.controller.point(x: 0x2345, y: 0, wheel: 0, buttons: 0))
        #expect(try driver.dataBytes(3) == [0, 0x45, 0x23])
    }
}
