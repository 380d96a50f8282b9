import DeviceModel
import GuestMemory
import StateCodec
import TestKit
import Testing

@testable import PCIBus
@testable import USBDevices

@Suite struct XHCITests {
    private typealias Driver = XHCITestDriver
    private let driver: XHCITestDriver

    init() throws {
        driver = try XHCITestDriver()
        try driver.start()
    }

    // MARK: The controller

    @Test func `the registers say what the controller is`() {
        #expect(driver.read(0) == 0x0100_0040)
        #expect(driver.read(4) == 16 << 24 | 4 << 8 | 32)
        #expect(driver.read(0x10) & 1 == 1 && driver.read(0x10) >> 16 == 0x20 / 4)
        #expect(driver.read(0x20) >> 24 == 3 && driver.read(0x30) >> 24 == 2, "USB 3 and USB 2")
        #expect(driver.read(0x28) == 8 << 8 | 1 && driver.read(0x38) == 8 << 8 | 9)
        #expect(driver.controller.function.readConfig(offset: 8, count: 4) >> 8 == 0x0C_03_30)
        #expect(driver.controller.function.readConfig(offset: 0x60, count: 1) == 0x30)
        #expect(driver.read(XHCIRegister.status) & XHCIStatus.halted == 0)
        driver.clock.advance(by: 1_250_000)
        #expect(driver.read(XHCIRegister.microframeIndex) == 10)
        driver.write(XHCIRegister.command, 0)
        #expect(driver.read(XHCIRegister.status) & XHCIStatus.halted != 0)
    }

    @Test func `ports show what is in them, and a reset makes a USB 2 device reachable`() throws {
        let connected = XHCIPortStatus.connected | XHCIPortStatus.connectChange
        let stick = driver.read(Driver.port(Driver.stick))
        #expect(stick & 3 == 3 && stick >> 10 & 0xF == 4 && stick >> 5 & 0xF == XHCILink.active)
        let tablet = driver.read(Driver.port(Driver.tablet))
        #expect(tablet & (connected | 2) == connected && tablet >> 5 & 0xF == XHCILink.polling)
        #expect(driver.read(Driver.port(4)) & 1 == 0)
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.reset)
        let after = driver.read(Driver.port(Driver.tablet))
        #expect(after & 3 == 3 && after & XHCIPortStatus.resetChange != 0 && after >> 10 & 0xF == 3)
        let event = try #require(try driver.takeEvent())
        #expect(event.type == TRBType.portStatusChange && event.parameter == UInt64(Driver.tablet) << 24)
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.resetChange)
        #expect(driver.read(Driver.port(Driver.tablet)) & XHCIPortStatus.resetChange == 0)
    }

    @Test func `slots are enabled as many as there may be, and disabled`() throws {
        for slot in 1...8 { #expect(try driver.command(TRBType.enableSlot)?.slot == slot) }
        #expect(try driver.command(TRBType.enableSlot)?.code == TRBCompletion.noSlots)
        #expect(try driver.command(TRBType.disableSlot, slot: 3)?.code == TRBCompletion.success)
        #expect(try driver.command(TRBType.disableSlot, slot: 3)?.code == TRBCompletion.slotNotEnabled)
        #expect(try driver.command(TRBType.enableSlot)?.slot == 3)
        #expect(try driver.command(TRBType.noOperationCommand)?.code == TRBCompletion.success)
        #expect(try driver.command(55)?.code == TRBCompletion.blockError)
    }

    @Test func `a device gets its address, blocked or not, and only one slot`() throws {
        let slot = try #require(try driver.connect(port: Driver.tablet))
        #expect(try driver.contextWord(slot, 0, 3) == 2 << 27 | UInt32(slot))
        #expect(try driver.contextWord(slot, 1, 0) & 7 == 1)
        let again = try driver.address(slot: slot, port: Driver.tablet)
        #expect(again?.code == TRBCompletion.contextState)
        let other = try #require(try driver.command(TRBType.enableSlot)?.slot)
        #expect(
            try driver.address(slot: other, port: Driver.tablet)?.code == TRBCompletion.transactionError)
        #expect(try driver.address(slot: other, port: 4)?.code == TRBCompletion.transactionError)
        #expect(try driver.address(slot: other, port: 99)?.code == TRBCompletion.blockError)
    }

    @Test func `descriptors tell of each device`() throws {
        for (port, product, strings) in [
            (Driver.stick, UInt8(3), "Ospite USB Disk"), (Driver.tablet, 1, "Ospite Tablet"),
            (Driver.keyboard, 2, "Ospite Keyboard"),
        ] {
            let slot = try #require(try driver.connect(port: port))
            let device = try driver.control(slot, 0x80, USBRequest.getDescriptor, 0x100, length: 64)
            #expect(device.code == TRBCompletion.success && device.data.count == 18)
            #expect(device.data[10] == product && device.data[3] == (port == Driver.stick ? 3 : 2))
            let short = try driver.control(slot, 0x80, USBRequest.getDescriptor, 0x200, length: 9)
            let whole = try driver.control(slot, 0x80, USBRequest.getDescriptor, 0x200, length: 255)
            #expect(short.data == Array(whole.data.prefix(9)) && Int(short.data[2]) == whole.data.count)
            let name = try driver.control(slot, 0x80, USBRequest.getDescriptor, 0x302, 0x409, length: 255)
            #expect(name.data.dropFirst(2).filter { $0 != 0 } == Array(strings.utf8))
            let store = try driver.control(slot, 0x80, USBRequest.getDescriptor, 0xF00, length: 22)
            #expect(store.code == (port == Driver.stick ? TRBCompletion.success : TRBCompletion.stall))
        }
    }

    @Test func `a stall halts endpoint 0 until software has reset it`() throws {
        let slot = try #require(try driver.connect(port: Driver.tablet))
        #expect(try driver.control(slot, 0x80, USBRequest.getDescriptor, 0x600, length: 10).code == 6)
        #expect(try driver.contextWord(slot, 1, 0) & 7 == 2)
        #expect(try driver.control(slot, 0x80, USBRequest.getConfiguration, length: 1).code == nil)
        let stopped = try driver.command(TRBType.stopEndpoint, slot: slot, endpoint: 1)
        #expect(stopped?.code == TRBCompletion.contextState)
        #expect(try driver.command(TRBType.resetEndpoint, slot: slot, endpoint: 1)?.code == 1)
        let next = try driver.put(Driver.ring(slot, 1), 0, 0, TRBType.noOperation << 10)
        let moved = try driver.command(
            TRBType.setDequeuePointer, next | 1, slot: slot, endpoint: 1)
        #expect(moved?.code == TRBCompletion.success)
        #expect(try driver.contextWord(slot, 1, 2) == UInt32(next) | 1)
        #expect(try driver.control(slot, 0x80, USBRequest.getConfiguration, length: 1).data == [0])
    }

    @Test func `a device that is reset loses its endpoints, and may be addressed anew`() throws {
        let slot = try driver.startHuman(Driver.tablet)
        #expect(try driver.contextWord(slot, 0, 3) >> 27 == 3 && driver.contextWord(slot, 3, 0) & 7 == 1)
        #expect(try driver.command(TRBType.resetDevice, slot: slot)?.code == TRBCompletion.success)
        #expect(try driver.contextWord(slot, 0, 3) >> 27 == 1 && driver.contextWord(slot, 3, 0) & 7 == 0)
        let stop = try driver.command(TRBType.stopEndpoint, slot: slot, endpoint: 3)
        #expect(stop?.code == TRBCompletion.endpointNotEnabled)
        #expect(try driver.command(TRBType.resetDevice, slot: slot)?.code == TRBCompletion.contextState)
        #expect(try driver.address(slot: slot, port: Driver.tablet)?.code == TRBCompletion.success)
    }

    // MARK: Interrupts

    private var isPinHigh: Bool { (16...23).contains { driver.lines.isHigh($0) } }

    @Test func `the pin follows the pending bit, and messages clear it`() throws {
        #expect(!isPinHigh)
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.reset)
        #expect(isPinHigh && driver.read(XHCIRegister.interrupters) == 3)
        driver.write(XHCIRegister.interrupters, 3)
        #expect(!isPinHigh)
        #expect(try driver.takeEvent() != nil)
        let function = driver.controller.function
        driver.write(XHCIRegister.msixTable, 0xFEE0_0000)
        driver.write(XHCIRegister.msixTable + 8, 0x41)
        driver.write(XHCIRegister.msixTable + 12, 0)
        var capability = Int(function.readConfig(offset: 0x34, count: 1))
        while function.readConfig(offset: capability, count: 1) != 0x11 {
            capability = Int(function.readConfig(offset: capability + 1, count: 1))
        }
        function.writeConfig(offset: capability + 2, count: 2, value: 0x8000)
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.resetChange)
        driver.write(Driver.port(Driver.tablet), XHCIPortStatus.reset)
        #expect(driver.messages.takeMessages().map(\.data) == [0x41])
        #expect(driver.read(XHCIRegister.interrupters) == 2 && !isPinHigh)
        // Busy: the next event brings no message before software is done.
        driver.write(Driver.port(Driver.keyboard), XHCIPortStatus.reset)
        #expect(driver.messages.takeMessages().isEmpty)
        _ = try driver.takeEvent()
        #expect(driver.messages.takeMessages().count == 1)
    }

    @Test func `events wait for room in the ring, and commands for events`() throws {
        try driver.start(eventEntries: 16)
        for _ in 0..<30 {
            try driver.put(Driver.commands, 0, 0, TRBType.noOperationCommand << 10)
        }
        driver.write(XHCIRegister.doorbells, 0)
        var events: [Driver.Event] = []
        for _ in 0..<20 {
            while let event = try driver.takeEvent(acknowledges: false) { events.append(event) }
            driver.acknowledge()
        }
        #expect(events.count { $0.type == TRBType.hostController } >= 1)
        #expect(events.count { $0.type == TRBType.commandCompletion } == 30)
        #expect(Set(events.filter { $0.type == TRBType.commandCompletion }.map(\.parameter)).count == 30)
    }

    @Test func `a command ring can be stopped`() throws {
        #expect(try driver.command(TRBType.noOperationCommand) != nil)
        #expect(driver.read(XHCIRegister.commandRing) == XHCICommandRing.running)
        driver.write(XHCIRegister.commandRing, XHCICommandRing.stop)
        #expect(driver.read(XHCIRegister.commandRing) == 0)
        #expect(try driver.takeEvent()?.code == TRBCompletion.commandRingStopped)
    }

    // MARK: People

    @Test func `the tablet says where the pointer is once somebody asks`() throws {
        #expect(!driver.controller.point(x: 1, y: 2, wheel: 0, buttons: 0), "nobody listens")
        let slot = try driver.startHuman(Driver.tablet)
        #expect(!driver.controller.point(x: 1, y: 2, wheel: 0, buttons: 0))
        let report = try driver.control(slot, 0x81, USBRequest.getDescriptor, 0x2200, length: 255)
        #expect(report.data == HIDTablet.description)
        try driver.transfer(slot, 3, 8)
        #expect(try driver.takeEvents() == [], "it waits for news")
        #expect(driver.controller.point(x: 0x1234, y: 0x7FFF, wheel: 0, buttons: 1))
        let event = try #require(try driver.takeEvent())
        #expect(event.code == TRBCompletion.shortPacket && event.length == 2 && event.endpoint == 3)
        #expect(try driver.dataBytes(6) == [1, 0x34, 0x12, 0xFF, 0x7F, 0])
        // The same place again is no news.
        try driver.transfer(slot, 3, 8)
        #expect(driver.controller.point(x: 0x1234, y: 0x7FFF, wheel: 0, buttons: 1))
        #expect(try driver.takeEvent() == nil)
        #expect(driver.controller.point(x: 0x1234, y: 0x7FFF, wheel: 2, buttons: 0))
        #expect(try driver.takeEvent() != nil)
        #expect(try driver.dataBytes(6) == [0, 0x34, 0x12, 0xFF, 0x7F, 0xFE])
    }

    @Test func `clicks wait for a guest that is slow, and movement between them is forgotten`() throws {
        let slot = try driver.startHuman(Driver.tablet)
        driver.ring(slot, 3)
        for place in 0..<50 as Range<UInt16> {
            #expect(driver.controller.point(x: place, y: 0, wheel: 0, buttons: place / 10 % 2 == 0 ? 0 : 1))
        }
        for (place, buttons) in [(9, 0), (19, 1), (29, 0), (39, 1), (49, 0)] as [(UInt8, UInt8)] {
            try driver.transfer(slot, 3, 8)
            #expect(try driver.takeEvent() != nil)
            #expect(try driver.dataBytes(2) == [buttons, place])
        }
        try driver.transfer(slot, 3, 8)
        #expect(try driver.takeEvent() == nil)
    }

    @Test func `somebody listens to the tablet from its first transfer until its endpoint stops`() throws {
        let tablet = try #require(driver.controller.tablet)
        #expect(!tablet.isListening)
        let slot = try driver.startHuman(Driver.tablet)
        try driver.transfer(slot, 3, 8)
        #expect(tablet.isListening)
        let stop = try driver.command(TRBType.stopEndpoint, slot: slot, endpoint: 3)
        #expect(stop?.code == TRBCompletion.success && !tablet.isListening)
        #expect(!driver.controller.point(x: 1, y: 1, wheel: 0, buttons: 0))
    }

    @Test func `a transfer that waits when its endpoint stops is told of`() throws {
        let slot = try driver.startHuman(Driver.tablet)
        let place = try driver.transfer(slot, 3, 8)
        try driver.put(
            Driver.commands, 0, 0, TRBType.stopEndpoint << 10 | UInt32(slot) << 24 | 3 << 16)
        driver.write(XHCIRegister.doorbells, 0)
        let events = try driver.takeEvents()
        #expect(events.map(\.code) == [TRBCompletion.stopped, TRBCompletion.success])
        #expect(events.first?.parameter == place && events.first?.length == 8)
        // It goes on where it was.
        driver.ring(slot, 3)
        #expect(driver.controller.point(x: 7, y: 0, wheel: 0, buttons: 0))
        #expect(try driver.takeEvent()?.parameter == place)
    }

    @Test func `a tablet that sleeps wakes the host, if it may`() throws {
        let slot = try driver.startHuman(Driver.tablet)
        try driver.transfer(slot, 3, 8)
        let port = Driver.port(Driver.tablet)
        driver.write(port, XHCIPortStatus.linkWrite | XHCILink.suspended << 5)
        #expect(!driver.controller.point(x: 1, y: 0, wheel: 0, buttons: 0), "nobody would hear of it")
        #expect(driver.read(port) >> 5 & 0xF == XHCILink.suspended, "it may not")
        driver.write(port, XHCIPortStatus.linkWrite)
        _ = try driver.takeEvents()
        #expect(try driver.control(slot, 0, USBRequest.setFeature, USBFeature.remoteWakeup).code == 1)
        try driver.transfer(slot, 3, 8)
        driver.write(port, XHCIPortStatus.linkChange)
        driver.write(port, XHCIPortStatus.linkWrite | XHCILink.suspended << 5)
        #expect(driver.controller.point(x: 2, y: 0, wheel: 0, buttons: 0))
        #expect(driver.read(port) >> 5 & 0xF == XHCILink.resume)
        #expect(try driver.takeEvents().map(\.type) == [TRBType.portStatusChange])
        driver.write(port, XHCIPortStatus.linkWrite)
        #expect(try driver.takeEvents().map(\.type).contains(TRBType.transferEvent))
    }

    @Test func `the keyboard tells of keys, modifiers and too many of them, and has lamps`() throws {
        let slot = try driver.startHuman(Driver.keyboard)
        driver.ring(slot, 3)
        func next() throws -> [UInt8] {
            try driver.transfer(slot, 3, 8)
            #expect(try driver.takeEvent()?.code == TRBCompletion.success)
            return try driver.dataBytes(8)
        }
        // Left Shift and A; then right Ctrl.
        for code in [0x2A, 0x1E, 0x9D] as [UInt8] { #expect(driver.controller.key(code, isDown: true)) }
        #expect(driver.controller.key(0x1E, isDown: true), "held")
        #expect(try next() == [2, 0, 0, 0, 0, 0, 0, 0])
        #expect(try next() == [2, 0, 4, 0, 0, 0, 0, 0])
        #expect(try next() == [0x12, 0, 4, 0, 0, 0, 0, 0])
        for code in 0x02...0x07 as ClosedRange<UInt8> { #expect(driver.controller.key(code, isDown: true)) }
        for _ in 0..<5 { _ = try next() }
        #expect(try next() == [0x12, 0, 1, 1, 1, 1, 1, 1])
        #expect(try driver.control(slot, 0x21, HIDRequest.setReport, 0x200, sends: [2]).code == 1)
        guard case .keyboard(let keyboard)? = driver.controller.save().registers.devices[10] else {
            Issue.record("no keyboard")
            return
        }
        #expect(keyboard.lamps == 2)
    }

    @Test func `keys have the usages of the tables`() {
        let some: [(UInt8, UInt8)] = [
            (0x01, 0x29), (0x1E, 0x04), (0x2C, 0x1D), (0x39, 0x2C), (0x1C, 0x28), (0x3B, 0x3A), (0x44, 0x43),
            (0x57, 0x44), (0x58, 0x45), (0x47, 0x5F), (0x53, 0x63), (0x56, 0x64), (0xC8, 0x52), (0xDB, 0xE3),
            (0x1D, 0xE0), (0x36, 0xE5), (0x38, 0xE2), (0x3A, 0x39), (0x52, 0x62),
        ]
        for (code, usage) in some { #expect(HIDUsage.keys[code] == usage, "\(code)") }
    }

    // MARK: State

    @Test func `state survives a save and restore, with a transfer that waits`() throws {
        let slot = try driver.startHuman(Driver.tablet)
        try driver.transfer(slot, 3, 8)
        let stick = try driver.startStick()
        try driver.sendCommand(stick, [0x12, 0, 0, 0, 36, 0], length: 36, isIn: true)
        driver.controller.pause()
        let saved = try StateEncoder().encode(driver.controller.save())
        let other = try XHCITestDriver()
        try other.memory.write(driver.memory.bytes(GuestAddress(0), count: 2 << 20), at: GuestAddress(0))
        try other.controller.restore(
            StateDecoder().decode(XHCIController.Saved.self, from: saved))
        #expect(other.controller.save() == driver.controller.save())
        other.controller.resume()
        #expect(other.controller.point(x: 0x55, y: 0, wheel: 0, buttons: 0))
        #expect(try other.dataBytes(2) == [0, 0x55])
    }

    @Test func `an impossible state is refused`() throws {
        let good = driver.controller.save()
        let changes: [(inout XHCIController.Registers) -> Void] = [
            { $0.ports.removeLast() }, { $0.slots.append(nil) }, { $0.devices[0] = nil },
            { $0.devices[3] = .tablet(HIDTablet()) }, { $0.interrupters[0].entry = 64 },
            { $0.configuration = 33 }, { $0.command = 1 << 20 }, { $0.interrupters.removeAll() },
            { $0.slots[0] = Slot(state: .configured, port: nil) }, { $0.slots[0] = Slot(port: 16) },
            { $0.devices[0] = .storage(USBStorage(serial: "other")) },
        ]
        for (index, change) in changes.enumerated() {
            var bad = good
            change(&bad.registers)
            #expect(throws: RestoreError.self, "\(index)") { try driver.controller.restore(bad) }
        }
        #expect(driver.controller.save() == good)
    }
}
