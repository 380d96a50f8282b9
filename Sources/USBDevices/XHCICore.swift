internal import BlockStorage
internal import DeviceModel
internal import PCIBus
internal import SCSICommands
internal import Synchronization

/// The registers of an xHCI controller, and what happens when they are accessed. Transfers begin when the
/// guest rings a doorbell, a device has news or a disk is done.
///
/// Confinement: any thread. Its lock is a leaf towards disks: nothing is asked of them while it is held.
final class XHCICore: PCIFunctionHandler {
    /// Transfers and commands that go on at once; a ring without end goes on later, and lets others work.
    private static let credit = 256, mostCommands = 256
    /// Nanoseconds until then.
    private static let pause: UInt64 = 1_000_000
    private static let microframe: UInt64 = 125_000

    private let disks: [SCSIDisk?]
    private let clock: any MachineClock
    private let interrupts: PCIInterrupts
    private let state: Mutex<XHCILogic>
    private struct Surroundings {
        var timer: (any DeviceTimer)?
        /// Somebody asks disks; who comes then leaves that to them.
        var isAsking = false
    }
    private let surroundings = Mutex(Surroundings())
    /// Ports of the devices that people use.
    private let tablet: Int?, keyboard: Int?

    init(
        _ context: DeviceContext, _ devices: [USBDevice?], _ disks: [SCSIDisk?], _ interrupts: PCIInterrupts
    ) {
        self.disks = disks
        clock = context.clock
        self.interrupts = interrupts
        tablet = devices.firstIndex { if case .tablet = $0 { true } else { false } }
        keyboard = devices.firstIndex { if case .keyboard = $0 { true } else { false } }
        state = Mutex(XHCILogic(context.memory, devices, disks))
        let timer = context.clock.makeTimer { [weak self] in self?.goOn() }
        surroundings.withLock { $0.timer = timer }
    }

    /// Changes the state, then does what that asks for.
    @discardableResult
    func change<Value: Sendable>(_ body: (inout XHCILogic) -> Value) -> Value {
        let isMessaging = interrupts.isMSIXEnabled
        let (result, signals, isExhausted) = state.withLock { state in
            state.usesMessages = isMessaging
            state.credit = Self.credit
            let result = body(&state)
            defer {
                state.signals = []
                state.isExhausted = false
            }
            if !isMessaging { interrupts.setPin(state.pin) }
            return (result, state.signals, state.isExhausted)
        }
        for vector in signals { interrupts.signal(vector: vector) }
        if isExhausted { surroundings.withLock { $0.timer }?.arm(at: clock.now &+ Self.pause) }
        askDisks()
        return result
    }

    /// One after the other, so that a disk that answers at once makes no chain of calls.
    private func askDisks() {
        let isBusy = surroundings.withLock { surroundings in
            defer { surroundings.isAsking = true }
            return surroundings.isAsking
        }
        guard !isBusy else { return }
        while true {
            let work = state.withLock { state in
                let work = state.work
                state.work = []
                return work
            }
            for (port, request) in work {
                guard let disk = disks[port] else { continue }
                disk.backend.submit(request) { [self] succeeded in
                    change { $0.diskIsDone(port, succeeded) }
                }
                disk.backend.commit()
            }
            // Who adds work after this looks for itself.
            let isDone = surroundings.withLock { surroundings in
                guard state.withLock({ $0.work.isEmpty }) else { return false }
                surroundings.isAsking = false
                return true
            }
            if isDone { return }
        }
    }

    private func goOn() { change { $0.runAll() } }

    /// MSI-X was switched, or the function was reset.
    func configurationChanged(_ range: Range<Int>, of function: PCIFunction) { change { _ in } }

    // MARK: Registers

    func readBAR(_ bar: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
        let low = UInt64(read(offset & ~3)) >> (8 * (offset & 3))
        guard width == .qword else { return low & width.mask }
        return low | UInt64(read((offset & ~3) &+ 4)) << 32
    }

    /// The registers take aligned double words; two of them at once are two.
    func writeBAR(_ bar: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
        guard offset & 3 == 0, width == .dword || width == .qword else { return }
        write(offset, UInt32(truncatingIfNeeded: value))
        if width == .qword { write(offset + 4, UInt32(truncatingIfNeeded: value >> 32)) }
    }

    private func read(_ offset: UInt64) -> UInt32 {
        let capability = Int(offset / 4)
        if offset < XHCIRegister.operational { return XHCICapability.words[capability] }
        if offset == XHCIRegister.microframeIndex {
            return UInt32(truncatingIfNeeded: clock.now / Self.microframe) & 0x3FFF
        }
        return state.withLock { state in
            if let (port, register) = Self.port(offset) { return state.readPort(port, register) }
            if let (interrupter, register) = Self.interrupter(offset) {
                return Self.read(state.registers.interrupters[interrupter], register)
            }
            let registers = state.registers
            switch offset {
            case XHCIRegister.command: return registers.command
            case XHCIRegister.status: return registers.status
            // 4 KiB.
            case XHCIRegister.pageSize: return 1
            case XHCIRegister.notification: return registers.notification
            // The pointer reads as zero.
            case XHCIRegister.commandRing:
                return registers.isCommandRingRunning ? XHCICommandRing.running : 0
            case XHCIRegister.contextArray: return UInt32(truncatingIfNeeded: registers.contextArray)
            case XHCIRegister.contextArray + 4:
                return UInt32(truncatingIfNeeded: registers.contextArray >> 32)
            case XHCIRegister.configuration: return registers.configuration
            default: return 0
            }
        }
    }

    private static func port(_ offset: UInt64) -> (Int, UInt64)? {
        let place = offset &- XHCIRegister.ports
        guard place < UInt64(XHCICapability.ports) * XHCIRegister.portSize else { return nil }
        return (Int(place / XHCIRegister.portSize), place % XHCIRegister.portSize)
    }

    private static func interrupter(_ offset: UInt64) -> (Int, UInt64)? {
        let place = offset &- XHCIRegister.interrupters
        guard place < UInt64(XHCICapability.interrupters) * XHCIRegister.interrupterSize else { return nil }
        return (Int(place / XHCIRegister.interrupterSize), place % XHCIRegister.interrupterSize)
    }

    private static func read(_ interrupter: Interrupter, _ register: UInt64) -> UInt32 {
        switch register {
        case 0x00: interrupter.management
        case 0x04: interrupter.moderation
        case 0x08: interrupter.tableSize
        case 0x10: UInt32(truncatingIfNeeded: interrupter.table)
        case 0x14: UInt32(truncatingIfNeeded: interrupter.table >> 32)
        case 0x18: UInt32(truncatingIfNeeded: interrupter.dequeue)
        case 0x1C: UInt32(truncatingIfNeeded: interrupter.dequeue >> 32)
        default: 0
        }
    }

    private func write(_ offset: UInt64, _ value: UInt32) {
        if let (port, register) = Self.port(offset) { return change { $0.writePort(port, register, value) } }
        if let (interrupter, register) = Self.interrupter(offset) {
            return write(interrupter: interrupter, register, value)
        }
        switch offset {
        case XHCIRegister.command: command(value)
        case XHCIRegister.status:
            change { $0.registers.status &= ~(value & XHCIStatus.clearable) }
        case XHCIRegister.notification: change { $0.registers.notification = value & 0xFFFF }
        case XHCIRegister.commandRing, XHCIRegister.commandRing + 4:
            change { $0.writeCommandRing(value, isLow: offset == XHCIRegister.commandRing) }
        case XHCIRegister.contextArray:
            change { Self.store(value & ~0x3F, &$0.registers.contextArray, isLow: true) }
        case XHCIRegister.contextArray + 4:
            change { Self.store(value, &$0.registers.contextArray, isLow: false) }
        case XHCIRegister.configuration:
            change { $0.registers.configuration = min(value & 0xFF, UInt32(XHCICapability.slots)) }
        case XHCIRegister.doorbells...XHCIRegister.doorbells + 4 * UInt64(XHCICapability.slots):
            ring(Int((offset - XHCIRegister.doorbells) / 4), Int(value & 0xFF))
        default: break
        }
    }

    private static func store(_ value: UInt32, _ register: inout UInt64, isLow: Bool) {
        register =
            isLow
            ? register & ~0xFFFF_FFFF | UInt64(value) : register & 0xFFFF_FFFF | UInt64(value) << 32
    }

    private func write(interrupter index: Int, _ register: UInt64, _ value: UInt32) {
        change { state in
            switch register {
            case 0x00:
                var management = state.registers.interrupters[index].management
                management &= ~(value & XHCIInterrupter.pending)
                management =
                    management & ~XHCIInterrupter.enable | value & XHCIInterrupter.enable
                state.registers.interrupters[index].management = management
                state.signal(index)
            case 0x04: state.registers.interrupters[index].moderation = value
            case 0x08: state.registers.interrupters[index].tableSize = value & 0xFFFF
            case 0x10: Self.store(value & ~0x3F, &state.registers.interrupters[index].table, isLow: true)
            case 0x14:
                Self.store(value, &state.registers.interrupters[index].table, isLow: false)
                state.beginEventRing(index)
            case 0x18, 0x1C: state.writeDequeue(index, value, isLow: register == 0x18)
            default: break
            }
        }
        // There may be room for events again.
        if register >= 0x18 { runCommands() }
    }

    // MARK: Commands

    private func command(_ value: UInt32) {
        if value & (XHCICommandRegister.reset | XHCICommandRegister.lightReset) != 0 { return resetAll() }
        let stops = state.withLock { $0.registers.isRunning } && value & XHCICommandRegister.run == 0
        if stops {
            // What is under way ends before the controller says that it is halted, §5.4.1.1.
            change { $0.isHeld = true }
            waitUntilIdle()
        }
        change { state in
            state.isHeld = false
            state.registers.command = value & XHCICommandRegister.kept
            // There is nothing to be saved that memory would have to keep; so nothing can be restored.
            if value & XHCICommandRegister.restore != 0 {
                state.registers.status |= XHCIStatus.restoreError
            }
            guard state.registers.status & XHCIStatus.controllerError == 0 else { return }
            if value & XHCICommandRegister.run != 0 {
                state.registers.status &= ~XHCIStatus.halted
                for index in 0..<XHCICapability.interrupters { state.signal(index) }
                state.runAll()
            } else {
                state.registers.status |= XHCIStatus.halted
                state.registers.isCommandRingRunning = false
            }
        }
    }

    private func resetAll() {
        change { $0.isHeld = true }
        waitUntilIdle()
        change { state in
            state.reset()
            state.isHeld = false
        }
    }

    private func waitUntilIdle() {
        while state.withLock({ $0.inFlight.contains { $0 != nil } }) { drain() }
    }

    private func drain() { for disk in disks { disk?.backend.drain() } }

    /// Doorbell 0 is the command ring's, the others are the slots'.
    private func ring(_ number: Int, _ target: Int) {
        guard number > 0 else {
            let begins = change { state in
                guard state.registers.isRunning, target == 0 else { return false }
                state.registers.isCommandRingRunning = true
                return true
            }
            if begins { runCommands() }
            return
        }
        change { $0.ring(slot: number - 1, endpoint: target) }
    }

    /// Each ring of the doorbell takes a bounded number, so that no thread serves for ever; software's look
    /// at their events goes on with the rest.
    private func runCommands() {
        var hasWaited = false
        for _ in 0..<Self.mostCommands {
            let step = change { $0.runCommand() }
            if step == .none { break }
            if step == .waitsForDisks {
                hasWaited = true
                drain()
            }
        }
        if hasWaited {
            change { state in
                state.isHeld = false
                state.runAll()
            }
        }
    }

    // MARK: People

    var hasTablet: Bool { tablet != nil }
    var hasKeyboard: Bool { keyboard != nil }
    /// Whether a guest wants to know where the pointer is.
    var isListeningToTablet: Bool { isListening(toPort: tablet) }
    var isListeningToKeyboard: Bool { isListening(toPort: keyboard) }

    private func isListening(toPort port: Int?) -> Bool {
        port.map { port in state.withLock { $0.hears(fromPort: port) } } ?? false
    }

    /// Where the pointer is. False when no guest wants to know.
    func point(_ report: HIDTablet.Report) -> Bool {
        guard let tablet else { return false }
        return change { state in
            guard case .tablet(var device) = state.registers.devices[tablet], state.hears(fromPort: tablet)
            else { return false }
            let isNews = device.point(report)
            state.registers.devices[tablet] = .tablet(device)
            if isNews { state.deviceHasNews(at: tablet) }
            return true
        }
    }

    /// False when there is no keyboard, or nobody listens to it.
    func key(_ code: UInt8, isDown: Bool) -> Bool {
        guard let keyboard else { return false }
        return change { state in
            guard case .keyboard(var device) = state.registers.devices[keyboard],
                state.hears(fromPort: keyboard)
            else { return false }
            let isNews = device.key(code, isDown: isDown)
            state.registers.devices[keyboard] = .keyboard(device)
            if isNews { state.deviceHasNews(at: keyboard) }
            return true
        }
    }

    // MARK: Lifecycle

    /// As after power-on.
    func reset() { resetAll() }

    func pause() {
        change { $0.isPaused = true }
        waitUntilIdle()
    }

    func resume() {
        change { state in
            state.isPaused = false
            state.runAll()
        }
        runCommands()
    }

    var registers: XHCIController.Registers { state.withLock { $0.registers } }

    func restore(_ saved: XHCIController.Registers) {
        change { state in
            state.registers = saved
            state.isHeld = false
        }
    }
}

extension XHCILogic {
    /// CRCR, §5.4.5: stops the ring, or says where it is while it stands.
    mutating func writeCommandRing(_ value: UInt32, isLow: Bool) {
        guard !registers.isCommandRingRunning else {
            guard isLow, value & (XHCICommandRing.stop | XHCICommandRing.abort) != 0 else { return }
            registers.isCommandRingRunning = false
            return post(
                completion(TRBCompletion.commandRingStopped, of: registers.commandRing.address, slot: 0))
        }
        var address = registers.commandRing.address
        if isLow {
            address = address & ~0xFFFF_FFFF | UInt64(value & ~0x3F)
            registers.commandRing.cycle = value & XHCICommandRing.cycle != 0
        } else {
            address = address & 0xFFFF_FFFF | UInt64(value) << 32
        }
        registers.commandRing.address = address
    }

    /// ERDP, §5.5.2.3.3: software has handled events up to there.
    mutating func writeDequeue(_ index: Int, _ value: UInt32, isLow: Bool) {
        var dequeue = registers.interrupters[index].dequeue
        if isLow {
            // The busy bit is cleared by writing it.
            let isBusy = dequeue & XHCIInterrupter.handlerBusy & ~UInt64(value)
            dequeue = dequeue & ~0xFFFF_FFFF | UInt64(value & ~0x8) | isBusy
        } else {
            dequeue = dequeue & 0xFFFF_FFFF | UInt64(value) << 32
        }
        registers.interrupters[index].dequeue = dequeue
        let waited = eventsWait
        flush(index)
        if isLow, !registers.interrupters[index].isEmpty { raise(index) }
        if waited, !eventsWait { runAll() }
    }

    /// The doorbell of a slot, §4.7: a stopped endpoint runs again.
    mutating func ring(slot: Int, endpoint index: Int) {
        guard registers.isRunning, var endpoint = endpoint(slot, index) else { return }
        if endpoint.state == .stopped {
            endpoint.state = .running
            set(endpoint, slot, index)
        }
        registers.slots[slot]?.endpoints[index - 1]?.isInUse = true
        runSlot(slot)
    }
}
