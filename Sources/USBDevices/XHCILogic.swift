internal import BlockStorage
internal import DeviceModel
internal import GuestMemory
internal import SCSICommands

/// What a controller does, apart from whom it tells: registers and rings, and what is to be done once the
/// lock is released.
///
/// Confinement: a value; `XHCICore` locks.
struct XHCILogic {
    /// A transfer that a disk works for.
    struct Transfer {
        let slot: Int, endpoint: Int
        let descriptor: TransferDescriptor
    }

    let memory: GuestMemory
    /// Behind the device of each port, if it is storage.
    let disks: [SCSIDisk?]
    var registers: XHCIController.Registers
    /// Of each port.
    var inFlight: [Transfer?]
    /// Interrupters whose vectors are to be sent.
    var signals: [Int] = []
    /// What disks are to be asked.
    var work: [(port: Int, request: BlockRequest)] = []
    /// A ring has more than it may have done at once: the rest is for later.
    var isExhausted = false
    /// Transfers that may still begin before others get the thread.
    var credit = 0
    /// Transfers that have ended.
    var finished: UInt64 = 0
    /// No transfer begins: the machine pauses, or a command waits for the disks.
    var isPaused = false, isHeld = false
    /// Whether vectors are sent: then nobody clears the pending bit.
    var usesMessages = false

    init(_ memory: GuestMemory, _ devices: [USBDevice?], _ disks: [SCSIDisk?]) {
        self.memory = memory
        self.disks = disks
        registers = XHCIController.Registers(devices: devices)
        inFlight = [Transfer?](repeating: nil, count: devices.count)
        powerPorts()
    }

    /// §5.4.2: nothing goes on until the guest resets the controller.
    mutating func breakDown() {
        registers.status |= XHCIStatus.controllerError | XHCIStatus.halted
        registers.isCommandRingRunning = false
    }

    /// HCRST, or power-on. Disks do not work then.
    mutating func reset() {
        var devices = registers.devices
        for index in devices.indices { devices[index]?.reset() }
        registers = XHCIController.Registers(devices: devices)
        powerPorts()
    }

    // MARK: Event rings, §4.9.4

    /// Events wait for room: nothing begins that would make more of them.
    var eventsWait: Bool { registers.interrupters.contains { !$0.waiting.isEmpty } }

    mutating func post(_ event: TRB, to index: Int = 0) {
        guard registers.interrupters.indices.contains(index),
            !registers.interrupters[index].segments.isEmpty,
            registers.interrupters[index].waiting.count < XHCIController.mostWaiting
        else { return }
        registers.interrupters[index].waiting.append(event)
        flush(index)
    }

    /// Puts what waits into the ring, as long as it has room.
    mutating func flush(_ index: Int) {
        var interrupter = registers.interrupters[index], posted = 0, hasNews = false
        guard !interrupter.segments.isEmpty else { return }
        while posted < interrupter.waiting.count {
            let place = (interrupter.segment, interrupter.entry)
            let next = interrupter.next(place), software = interrupter.dequeue & ~0xF
            guard interrupter.address(next) != software else { break }
            // The last place says that the ring is full, once.
            let isLast =
                interrupter.address(interrupter.next(next)) == software && !interrupter.isFull
            let full = TRB(
                parameter: 0, status: TRBCompletion.eventRingFull << 24,
                control: TRBType.hostController << 10)
            let event = isLast ? full : interrupter.waiting[posted]
            guard store(event, at: interrupter.address(place), cycle: interrupter.cycle) else {
                return breakDown()
            }
            (interrupter.segment, interrupter.entry) = next
            if next == (0, 0) { interrupter.cycle.toggle() }
            hasNews = true
            if isLast { interrupter.isFull = true } else { posted += 1 }
        }
        interrupter.waiting.removeFirst(posted)
        if interrupter.waiting.isEmpty { interrupter.isFull = false }
        registers.interrupters[index] = interrupter
        if hasNews { raise(index) }
    }

    /// The half-word with the cycle bit goes last: software waits for it.
    private func store(_ event: TRB, at address: UInt64, cycle: Bool) -> Bool {
        let control = event.control & ~TRBFlag.cycle | (cycle ? TRBFlag.cycle : 0)
        let place = GuestAddress(address)
        do {
            try memory.store(event.parameter, at: place)
            try memory.store(event.status, at: place + 8)
            try memory.store(UInt16(control >> 16), at: place + TRB.cycleOffset + 2)
            try memory.storeRelease(UInt16(control & 0xFFFF), at: place + TRB.cycleOffset)
            return true
        } catch {
            return false
        }
    }

    /// §4.17.2: an interrupt, unless software still handles the last one.
    mutating func raise(_ index: Int) {
        let wasBusy = registers.interrupters[index].dequeue & XHCIInterrupter.handlerBusy != 0
        registers.interrupters[index].dequeue |= XHCIInterrupter.handlerBusy
        registers.interrupters[index].management |= XHCIInterrupter.pending
        registers.status |= XHCIStatus.eventInterrupt
        guard !wasBusy else { return }
        signal(index)
    }

    /// Sends what is pending, when software wants to know.
    mutating func signal(_ index: Int) {
        let wanted = XHCIInterrupter.pending | XHCIInterrupter.enable
        guard registers.interrupters[index].management & wanted == wanted,
            registers.command & XHCICommandRegister.interruptEnable != 0, usesMessages
        else { return }
        registers.interrupters[index].management &= ~XHCIInterrupter.pending
        signals.append(index)
    }

    /// INTx without messages.
    var pin: Bool {
        let wanted = XHCIInterrupter.pending | XHCIInterrupter.enable
        return registers.interrupters[0].management & wanted == wanted
            && registers.command & XHCICommandRegister.interruptEnable != 0
    }

    /// ERSTBA was written: the ring begins anew, §4.9.4.
    mutating func beginEventRing(_ index: Int) {
        var interrupter = registers.interrupters[index]
        interrupter.segments = []
        interrupter.waiting = []
        interrupter.isFull = false
        (interrupter.segment, interrupter.entry, interrupter.cycle) = (0, 0, true)
        for number in 0..<min(UInt64(interrupter.tableSize), UInt64(XHCICapability.mostSegments)) {
            let entry = GuestAddress(interrupter.table &+ number * 16)
            guard let start = try? memory.load(UInt64.self, at: entry),
                let size = try? memory.load(UInt32.self, at: entry + 8),
                EventRingSegment.sizes.contains(size & 0xFFFF)
            else { return breakDown() }
            interrupter.segments.append(EventRingSegment(start: start & ~0x3F, size: size & 0xFFFF))
        }
        registers.interrupters[index] = interrupter
    }

    // MARK: Contexts

    /// Double words of the context at `address`; nil when it is no memory.
    func context(at address: UInt64) -> XHCIContext? {
        try? memory.load(XHCIContext.self, at: GuestAddress(address))
    }

    /// False when it is no memory.
    @discardableResult
    func store(_ context: XHCIContext, at address: UInt64) -> Bool {
        (try? memory.store(context, at: GuestAddress(address))) != nil
    }

    /// Says in the output context how an endpoint is; nil: it is not there.
    func publish(_ endpoint: Endpoint?, slot: Int, index: Int) {
        guard let entry = registers.slots[slot] else { return }
        let place = entry.context &+ XHCIContext.size &* UInt64(index)
        guard var context = context(at: place) else { return }
        context.words.0 = context.words.0 & ~7 | UInt32(endpoint?.state.rawValue ?? 0)
        if let endpoint {
            let pointer = endpoint.ring.address | (endpoint.ring.cycle ? 1 : 0)
            context.words.2 = UInt32(truncatingIfNeeded: pointer)
            context.words.3 = UInt32(pointer >> 32)
        }
        store(context, at: place)
    }

    /// The endpoint with a device context index from 1 to 31.
    func endpoint(_ slot: Int, _ index: Int) -> Endpoint? {
        registers.slots.indices.contains(slot) && (1...31).contains(index)
            ? registers.slots[slot]?.endpoints[index - 1] : nil
    }

    mutating func set(_ endpoint: Endpoint?, _ slot: Int, _ index: Int, isPublished: Bool = true) {
        registers.slots[slot]?.endpoints[index - 1] = endpoint
        if isPublished { publish(endpoint, slot: slot, index: index) }
    }
}
