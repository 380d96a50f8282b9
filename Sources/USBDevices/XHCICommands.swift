internal import GuestMemory

/// Commands, xHCI 1.1 §4.6.
extension XHCILogic {
    enum CommandStep { case none, done, waitsForDisks }

    private typealias Result = (code: UInt32, slot: Int)

    /// Takes the next command off its ring.
    mutating func runCommand() -> CommandStep {
        guard registers.isRunning, registers.isCommandRingRunning, !isPaused, !eventsWait,
            let (address, command) = nextCommand()
        else { return .none }
        guard canBegin(command) else {
            isHeld = true
            return .waitsForDisks
        }
        registers.commandRing.address = address &+ TRB.size
        let (code, slot) = execute(command)
        post(completion(code, of: address, slot: slot))
        return .done
    }

    func completion(_ code: UInt32, of address: UInt64, slot: Int) -> TRB {
        TRB(
            parameter: address, status: code << 24,
            control: UInt32(slot) << 24 | TRBType.commandCompletion << 10)
    }

    private mutating func nextCommand() -> (address: UInt64, command: TRB)? {
        var place = registers.commandRing
        for _ in 0..<TransferDescriptor.mostLinks {
            guard let command = try? memory.load(TRB.self, at: GuestAddress(place.address)) else { break }
            guard command.isOfCycle == place.cycle else { return nil }
            guard command.type == TRBType.link else {
                registers.commandRing = place
                return (place.address, command)
            }
            place.address = command.parameter & ~0xF
            if command.has(TRBFlag.toggleCycle) { place.cycle.toggle() }
        }
        // Outside memory, or links without a command between them.
        breakDown()
        return nil
    }

    /// What takes an endpoint away waits for the disk that works for it.
    private func canBegin(_ command: TRB) -> Bool {
        let harmless: Set = [
            TRBType.enableSlot, TRBType.evaluateContext, TRBType.noOperationCommand, TRBType.addressDevice,
        ]
        guard !harmless.contains(command.type), let port = slot(command)?.port else { return true }
        return inFlight[port] == nil
    }

    private func slot(_ command: TRB) -> Slot? {
        let index = command.slot - 1
        return registers.slots.indices.contains(index) ? registers.slots[index] : nil
    }

    private mutating func execute(_ command: TRB) -> Result {
        switch command.type {
        case TRBType.enableSlot:
            let enabled = Int(registers.configuration & 0xFF)
            guard let index = registers.slots.prefix(enabled).firstIndex(where: { $0 == nil }) else {
                return (TRBCompletion.noSlots, 0)
            }
            registers.slots[index] = Slot()
            return (TRBCompletion.success, index + 1)
        case TRBType.noOperationCommand: return (TRBCompletion.success, 0)
        case TRBType.disableSlot...TRBType.resetDevice:
            guard let slot = slot(command) else { return (TRBCompletion.slotNotEnabled, command.slot) }
            return (executeOnSlot(command, slot, command.slot - 1), command.slot)
        default: return (TRBCompletion.blockError, 0)
        }
    }

    private mutating func executeOnSlot(_ command: TRB, _ slot: Slot, _ index: Int) -> UInt32 {
        switch command.type {
        case TRBType.disableSlot:
            registers.slots[index] = nil
            setContext(of: slot, state: 0, address: 0)
            return TRBCompletion.success
        case TRBType.addressDevice: return addressDevice(command, slot, index)
        case TRBType.configureEndpoint: return configure(command, slot, index)
        case TRBType.evaluateContext: return evaluate(command, slot)
        case TRBType.resetDevice: return resetDevice(slot, index)
        default: return executeOnEndpoint(command, index)
        }
    }

    private func setContext(of slot: Slot, state: UInt32, address: UInt32) {
        guard slot.context != 0, var context = context(at: slot.context) else { return }
        context.words.3 = state << 27 | address
        store(context, at: slot.context)
    }

    // MARK: Slots

    /// §4.6.5.
    private mutating func addressDevice(_ command: TRB, _ old: Slot, _ index: Int) -> UInt32 {
        let input = command.parameter & ~0xF, isBlocked = command.has(TRBFlag.noAddress)
        guard let flags = context(at: input), var slotContext = context(at: input &+ XHCIContext.size),
            var endpointContext = context(at: input &+ 2 * XHCIContext.size),
            let output = try? memory.load(
                UInt64.self, at: GuestAddress(registers.contextArray &+ UInt64(index + 1) * 8))
        else { return TRBCompletion.blockError }
        guard flags.words.0 == 0, flags.words.1 == 3 else { return TRBCompletion.blockError }
        // There are no hubs behind the root's.
        let port = Int(slotContext.words.1 >> 16 & 0xFF) - 1
        guard slotContext.words.0 & 0xF_FFFF == 0, registers.ports.indices.contains(port) else {
            return TRBCompletion.blockError
        }
        guard old.state == .enabled || !isBlocked && old.state == .initial else {
            return TRBCompletion.contextState
        }
        // Two slots cannot have one device.
        let other = self.slot(ofPort: port)
        guard other == nil || other == index, isReachable(port) else { return TRBCompletion.transactionError }
        var slot = Slot()
        slot.state = isBlocked ? .initial : .addressed
        slot.port = port
        slot.context = output & ~0x3F
        slotContext.words.3 =
            UInt32(slot.state.rawValue) << 27 | (isBlocked ? 0 : UInt32(index + 1))
        var endpoint = Self.endpoint(endpointContext)
        endpoint.type = EndpointType.control
        slot.endpoints[0] = endpoint
        endpointContext.words.0 =
            endpointContext.words.0 & ~7 | UInt32(EndpointState.running.rawValue)
        guard store(slotContext, at: slot.context),
            store(endpointContext, at: slot.context &+ XHCIContext.size)
        else { return TRBCompletion.blockError }
        registers.slots[index] = slot
        return TRBCompletion.success
    }

    private static func endpoint(_ context: XHCIContext) -> Endpoint {
        let pointer = UInt64(context.words.2) | UInt64(context.words.3) << 32
        return Endpoint(
            type: UInt8(context.words.1 >> 3 & 7),
            ring: RingPlace(address: pointer & ~0xF, cycle: pointer & 1 != 0))
    }

    /// §4.6.6.
    private mutating func configure(_ command: TRB, _ old: Slot, _ index: Int) -> UInt32 {
        guard old.state == .addressed || old.state == .configured else { return TRBCompletion.contextState }
        guard !command.has(TRBFlag.deconfigure) else {
            dropEndpoints(index)
            registers.slots[index]?.state = .addressed
            setContext(
                of: old, state: UInt32(SlotState.addressed.rawValue), address: UInt32(index + 1))
            return TRBCompletion.success
        }
        let input = command.parameter & ~0xF
        guard let flags = context(at: input), let wanted = context(at: input &+ XHCIContext.size),
            var slotContext = context(at: old.context), flags.words.0 & 3 == 0, flags.words.1 & 3 == 1
        else { return TRBCompletion.blockError }
        var added: [(index: Int, context: XHCIContext)] = []
        for number in 2...31 where flags.words.1 >> UInt32(number) & 1 != 0 {
            guard let context = context(at: input &+ UInt64(number + 1) * XHCIContext.size) else {
                return TRBCompletion.blockError
            }
            // A type, and no streams.
            guard context.words.1 >> 3 & 3 != 0, context.words.0 >> 10 & 0x1F == 0 else {
                return TRBCompletion.parameterError
            }
            added.append((number, context))
        }
        for number in 2...31 where flags.words.0 >> UInt32(number) & 1 != 0 {
            set(nil, index, number)
        }
        for (number, context) in added {
            store(context, at: old.context &+ UInt64(number) * XHCIContext.size)
            set(Self.endpoint(context), index, number)
        }
        registers.slots[index]?.state = .configured
        // How many contexts there are.
        slotContext.words.0 = slotContext.words.0 & ~0xF800_0000 | wanted.words.0 & 0xF800_0000
        slotContext.words.3 = UInt32(SlotState.configured.rawValue) << 27 | UInt32(index + 1)
        store(slotContext, at: old.context)
        return TRBCompletion.success
    }

    private mutating func dropEndpoints(_ index: Int) {
        for number in 2...31 where endpoint(index, number) != nil { set(nil, index, number) }
    }

    /// §4.6.7.
    private func evaluate(_ command: TRB, _ slot: Slot) -> UInt32 {
        let input = command.parameter & ~0xF
        guard slot.state != .enabled else { return TRBCompletion.contextState }
        guard let flags = context(at: input), flags.words.0 == 0, flags.words.1 & ~3 == 0,
            let wantedSlot = context(at: input &+ XHCIContext.size),
            let wantedEndpoint = context(at: input &+ 2 * XHCIContext.size),
            var slotContext = context(at: slot.context),
            var endpointContext = context(at: slot.context &+ XHCIContext.size)
        else { return TRBCompletion.blockError }
        if flags.words.1 & 1 != 0 {
            // Exit latency; interrupter.
            slotContext.words.1 = slotContext.words.1 & ~0xFFFF | wantedSlot.words.1 & 0xFFFF
            slotContext.words.2 = slotContext.words.2 & ~0xFFC0_0000 | wantedSlot.words.2 & 0xFFC0_0000
            store(slotContext, at: slot.context)
        }
        if flags.words.1 & 2 != 0 {
            // The size of packets.
            endpointContext.words.1 =
                endpointContext.words.1 & 0xFFFF | wantedEndpoint.words.1 & 0xFFFF_0000
            store(endpointContext, at: slot.context &+ XHCIContext.size)
        }
        return TRBCompletion.success
    }

    /// §4.6.11.
    private mutating func resetDevice(_ slot: Slot, _ index: Int) -> UInt32 {
        guard slot.state == .addressed || slot.state == .configured else { return TRBCompletion.contextState }
        dropEndpoints(index)
        registers.slots[index]?.state = .initial
        registers.slots[index]?.endpoints[0]?.isInUse = false
        registers.slots[index]?.endpoints[0]?.setup = nil
        setContext(of: slot, state: UInt32(SlotState.initial.rawValue), address: 0)
        return TRBCompletion.success
    }

    // MARK: Endpoints

    private mutating func executeOnEndpoint(_ command: TRB, _ index: Int) -> UInt32 {
        guard command.endpoint > 0 else { return TRBCompletion.blockError }
        guard var endpoint = endpoint(index, command.endpoint) else {
            return TRBCompletion.endpointNotEnabled
        }
        switch command.type {
        // §4.6.9.
        case TRBType.stopEndpoint:
            guard endpoint.state == .running else { return TRBCompletion.contextState }
            stopTransfer(index, command.endpoint)
            endpoint.state = .stopped
            endpoint.isInUse = false
        // §4.6.8.
        case TRBType.resetEndpoint:
            guard endpoint.state == .halted else { return TRBCompletion.contextState }
            endpoint.state = .stopped
            endpoint.isInUse = false
        // §4.6.10.
        default:
            guard endpoint.state == .stopped || endpoint.state == .faulty else {
                return TRBCompletion.contextState
            }
            endpoint.state = .stopped
            endpoint.ring = RingPlace(
                address: command.parameter & ~0xF, cycle: command.parameter & 1 != 0)
            endpoint.setup = nil
        }
        set(endpoint, index, command.endpoint)
        return TRBCompletion.success
    }
}
