internal import BlockStorage
internal import GuestMemory

/// Blocks of a ring that belong together, §4.11.
struct TransferDescriptor {
    /// More blocks than any driver chains, and more bytes than any command moves in one transfer.
    static let mostBlocks = 2048, mostBytes = 32 << 20
    /// A ring goes through so many segments to its next block at most.
    static let mostLinks = 64

    private(set) var blocks: [(address: UInt64, block: TRB)] = []
    private(set) var count = 0
    /// After its last block.
    var end: RingPlace

    /// False when it cannot be.
    mutating func append(_ block: TRB, at address: UInt64) -> Bool {
        blocks.append((address, block))
        guard block.hasBuffer else { return true }
        count += block.length
        return block.length <= (block.has(TRBFlag.immediate) ? 8 : 0x1_0000) && count <= Self.mostBytes
    }

    /// The guest's memory for the first `count` bytes; nil when it is none, or in a block itself.
    func buffers(_ memory: GuestMemory, _ count: Int, forWriting: Bool) -> [HostBuffer]? {
        var result: [HostBuffer] = [], rest = count
        for (_, block) in blocks where block.hasBuffer && block.length > 0 && rest > 0 {
            let part = min(block.length, rest)
            guard !block.has(TRBFlag.immediate),
                let buffer = try? HostBuffer(
                    memory, GuestAddress(block.parameter), count: part, forWriting: forWriting)
            else { return nil }
            if result.isEmpty || !result[result.count - 1].merge(buffer) { result.append(buffer) }
            rest -= part
        }
        return rest == 0 ? result : nil
    }

    /// The first bytes that came with it, at most `limit`; nil when they are no memory.
    func load(_ memory: GuestMemory, _ limit: Int) -> [UInt8]? {
        var bytes: [UInt8] = []
        for (_, block) in blocks where block.hasBuffer && bytes.count < limit {
            let part = min(block.length, limit - bytes.count)
            if block.has(TRBFlag.immediate) {
                bytes += (0..<part).map { UInt8(truncatingIfNeeded: block.parameter >> UInt64(8 * $0)) }
            } else if part > 0 {
                guard let more = try? memory.bytes(GuestAddress(block.parameter), count: part) else {
                    return nil
                }
                bytes += more
            }
        }
        return bytes
    }

    /// Stores bytes that the transfer has room for; false when that is no memory.
    func store(_ memory: GuestMemory, _ bytes: [UInt8]) -> Bool {
        var place = 0
        for (_, block) in blocks where block.hasBuffer && place < bytes.count {
            let part = min(block.length, bytes.count - place)
            guard !block.has(TRBFlag.immediate),
                (try? memory.write(Array(bytes[place..<place + part]), at: GuestAddress(block.parameter)))
                    != nil
            else { return false }
            place += part
        }
        return true
    }

    /// The host stored the first `count` bytes.
    func noteStore(_ memory: GuestMemory, _ count: Int) {
        var rest = count
        for (_, block) in blocks where block.hasBuffer && rest > 0 {
            let part = min(block.length, rest)
            memory.noteStore(GuestAddress(block.parameter), count: part)
            rest -= part
        }
    }
}

extension TRB {
    fileprivate var hasBuffer: Bool {
        type == TRBType.normal || type == TRBType.data || type == TRBType.isochronous
    }
}

/// Transfers, xHCI 1.1 §4.11.
extension XHCILogic {
    private enum Found { case nothing, descriptor(TransferDescriptor), fault(at: UInt64) }

    /// The next descriptor of a ring, once all of it is there.
    private func nextDescriptor(_ ring: RingPlace) -> Found {
        var place = ring, links = 0
        var descriptor = TransferDescriptor(end: ring)
        for _ in 0..<TransferDescriptor.mostBlocks {
            let address = place.address
            guard let block = try? memory.load(TRB.self, at: GuestAddress(address)) else {
                return .fault(at: address)
            }
            guard block.isOfCycle == place.cycle else { return .nothing }
            switch block.type {
            case TRBType.link:
                links += 1
                guard links <= TransferDescriptor.mostLinks else { return .fault(at: address) }
                place.address = block.parameter & ~0xF
                if block.has(TRBFlag.toggleCycle) { place.cycle.toggle() }
            case TRBType.normal...TRBType.isochronous, TRBType.eventData, TRBType.noOperation:
                place.address = address &+ TRB.size
                guard descriptor.append(block, at: address) else { return .fault(at: address) }
                if !block.has(TRBFlag.chain) {
                    descriptor.end = place
                    return .descriptor(descriptor)
                }
            default: return .fault(at: address)
            }
        }
        return .fault(at: place.address)
    }

    /// Goes on with every transfer of the device in a port.
    mutating func runPort(_ index: Int) {
        if let slot = slot(ofPort: index) { runSlot(slot) }
    }

    mutating func runAll() {
        for index in registers.slots.indices where registers.slots[index] != nil { runSlot(index) }
    }

    /// What one endpoint did may be what another one waited for.
    mutating func runSlot(_ slot: Int) {
        var before: UInt64
        repeat {
            before = finished
            for index in 1...31 { run(slot, index) }
        } while finished != before && credit > 0
    }

    /// Does what an endpoint's ring has, until the device waits or the credit is used up.
    mutating func run(_ slot: Int, _ index: Int) {
        while let endpoint = endpoint(slot, index), endpoint.state == .running, endpoint.isInUse,
            registers.isRunning, !isPaused, !isHeld, !eventsWait, let port = registers.slots[slot]?.port
        {
            // One transfer at a time is the disk's; requests come through endpoint 0 nevertheless.
            if inFlight[port] != nil, index != 1 { return }
            guard credit > 0 else {
                isExhausted = true
                return
            }
            credit -= 1
            switch nextDescriptor(endpoint.ring) {
            case .nothing: return
            case .fault(let address):
                setState(.faulty, slot, index)
                return postTransfer(
                    slot, index, pointer: address, TRBCompletion.blockError, residual: 0, interrupter: 0)
            case .descriptor(let descriptor):
                guard perform(descriptor, endpoint, slot, index, port) else { return }
            }
        }
    }

    /// Whether the ring may go on.
    private mutating func perform(
        _ descriptor: TransferDescriptor, _ endpoint: Endpoint, _ slot: Int, _ index: Int, _ port: Int
    ) -> Bool {
        guard isReachable(port) else {
            fail(TRBCompletion.transactionError, descriptor, slot, index)
            return false
        }
        if descriptor.blocks.allSatisfy({ $0.block.type == TRBType.noOperation }) {
            finish(descriptor, slot, index, moved: 0)
            return true
        }
        if endpoint.type == EndpointType.control {
            return control(descriptor, endpoint, slot, index, port)
        }
        let isIn = index % 2 == 1, memory = memory
        let transfer = USBTransfer(
            endpoint: index / 2, isIn: isIn, count: descriptor.count,
            load: { descriptor.load(memory, $0) })
        let outcome = registers.devices[port]?.transfer(transfer, disks[port]) ?? .stalls
        switch outcome {
        case .taken(let count): finish(descriptor, slot, index, moved: count)
        case .given(let bytes):
            guard descriptor.store(memory, bytes) else {
                fail(TRBCompletion.dataBufferError, descriptor, slot, index)
                return false
            }
            finish(descriptor, slot, index, moved: bytes.count)
        case .waits: return false
        case .stalls:
            fail(TRBCompletion.stall, descriptor, slot, index)
            return false
        case .disk(let operation, let sector, let count):
            inFlight[port] = Transfer(slot: slot, endpoint: index, descriptor: descriptor)
            ask(operation, sector, count, port)
            return false
        }
        return true
    }

    // MARK: Disks

    private mutating func ask(
        _ operation: BlockRequest.Operation, _ sector: UInt64, _ count: UInt64, _ port: Int
    ) {
        guard let transfer = inFlight[port], let disk = disks[port] else { return }
        var buffers: [HostBuffer]? = []
        if operation == .read || operation == .write {
            buffers = transfer.descriptor.buffers(
                memory, Int(count) * 512, forWriting: operation == .read)
        }
        guard let buffers, disk.isInside(sector, count) else { return diskIsDone(port, false) }
        work.append(
            (
                port,
                BlockRequest(operation, sector: sector, sectorCount: count, buffers: buffers)
            ))
    }

    /// The disk of a port has done, or failed to do, what it was asked.
    mutating func diskIsDone(_ port: Int, _ succeeded: Bool) {
        guard let transfer = inFlight[port] else { return }
        switch registers.devices[port]?.diskIsDone(succeeded) ?? .ended(0) {
        case .disk(let operation, let sector, let count): ask(operation, sector, count, port)
        case .ended(let moved):
            inFlight[port] = nil
            if transfer.endpoint % 2 == 1 { transfer.descriptor.noteStore(memory, moved) }
            finish(transfer.descriptor, transfer.slot, transfer.endpoint, moved: moved)
            runPort(port)
        }
    }

    // MARK: Control, §4.11.2.2

    private mutating func control(
        _ descriptor: TransferDescriptor, _ old: Endpoint, _ slot: Int, _ index: Int, _ port: Int
    ) -> Bool {
        var endpoint = old
        let first = descriptor.blocks[0].block
        var given: [UInt8] = []
        switch (first.type, endpoint.setup) {
        case (TRBType.setup, _):
            endpoint.setup = USBSetup(first.parameter)
            endpoint.isSetupDone = false
            set(endpoint, slot, index, isPublished: false)
            finish(descriptor, slot, index, moved: 8)
            return true
        case (TRBType.data, let setup?) where !endpoint.isSetupDone && setup.length > 0:
            guard let bytes = setup.isIn ? [] : descriptor.load(memory, Int(setup.length)),
                let answer = registers.devices[port]?.control(setup, bytes)
            else { return stall(descriptor, slot, index) }
            let room = min(Int(setup.length), descriptor.count)
            given = setup.isIn ? Array(answer.prefix(room)) : bytes
            endpoint.isSetupDone = true
        case (TRBType.status, let setup?):
            if !endpoint.isSetupDone {
                guard registers.devices[port]?.control(setup, []) != nil else {
                    return stall(descriptor, slot, index)
                }
            }
            endpoint.setup = nil
        default: return stall(descriptor, slot, index)
        }
        let isIn = old.setup?.isIn == true
        guard !isIn || descriptor.store(memory, given) else {
            fail(TRBCompletion.dataBufferError, descriptor, slot, index)
            return false
        }
        set(endpoint, slot, index, isPublished: false)
        finish(descriptor, slot, index, moved: given.count)
        return true
    }

    private mutating func stall(_ descriptor: TransferDescriptor, _ slot: Int, _ index: Int) -> Bool {
        registers.slots[slot]?.endpoints[index - 1]?.setup = nil
        fail(TRBCompletion.stall, descriptor, slot, index)
        return false
    }

    // MARK: Ends

    private mutating func setState(_ state: EndpointState, _ slot: Int, _ index: Int) {
        guard var endpoint = endpoint(slot, index) else { return }
        endpoint.state = state
        set(endpoint, slot, index)
    }

    /// The ring goes on after the descriptor, and software learns of it as it asked for.
    private mutating func finish(
        _ descriptor: TransferDescriptor, _ slot: Int, _ index: Int, moved: Int
    ) {
        // A slot that was disabled meanwhile has no endpoint.
        guard var endpoint = endpoint(slot, index) else { return }
        finished &+= 1
        endpoint.ring = descriptor.end
        set(endpoint, slot, index)
        var rest = moved, transferred = 0
        for (address, block) in descriptor.blocks {
            var part = 0
            if block.hasBuffer {
                part = min(block.length, rest)
                rest -= part
                transferred += part
            }
            let isShort = part < block.length && block.hasBuffer
            guard block.has(TRBFlag.onCompletion) || isShort && block.has(TRBFlag.shortPacket) else {
                continue
            }
            let code =
                moved < descriptor.count && (isShort || !block.hasBuffer)
                ? TRBCompletion.shortPacket : TRBCompletion.success
            if block.type == TRBType.eventData {
                postTransfer(
                    slot, index, pointer: block.parameter, code, residual: transferred,
                    interrupter: block.interrupter, flags: TRBFlag.eventData)
            } else {
                postTransfer(
                    slot, index, pointer: address, code, residual: block.hasBuffer ? block.length - part : 0,
                    interrupter: block.interrupter)
            }
            // One event for a transfer that came short; its length says all.
            if isShort { return }
        }
    }

    /// The endpoint halts where it is, §4.8.3.
    private mutating func fail(
        _ code: UInt32, _ descriptor: TransferDescriptor, _ slot: Int, _ index: Int
    ) {
        setState(.halted, slot, index)
        guard let (address, block) = descriptor.blocks.first else { return }
        postTransfer(
            slot, index, pointer: address, code, residual: block.hasBuffer ? block.length : 0,
            interrupter: block.interrupter)
    }

    /// The endpoint stops: a transfer that it waits with is told of, §4.6.9.
    mutating func stopTransfer(_ slot: Int, _ index: Int) {
        guard let endpoint = endpoint(slot, index), endpoint.isInUse,
            case .descriptor(let descriptor) = nextDescriptor(endpoint.ring),
            let (address, block) = descriptor.blocks.first
        else { return }
        postTransfer(
            slot, index, pointer: address, TRBCompletion.stopped,
            residual: block.hasBuffer ? block.length : 0, interrupter: block.interrupter)
    }

    private mutating func postTransfer(
        _ slot: Int, _ index: Int, pointer: UInt64, _ code: UInt32, residual: Int, interrupter: Int,
        flags: UInt32 = 0
    ) {
        post(
            TRB(
                parameter: pointer, status: code << 24 | UInt32(residual & 0xFF_FFFF),
                control: UInt32(slot + 1) << 24 | UInt32(index) << 16 | TRBType.transferEvent << 10 | flags),
            to: interrupter)
    }
}
