internal import ByteLayout
internal import GuestMemory

/// How commands begin, go on and end. Everything here runs with the channel's lock held, and says what a
/// drive has to do.
extension IDEChannel {
    private static let mostSectors = UInt64(bufferSize / sectorSize)
    private static let blockSize = ATAPIDrive.blockSize,
        mostBlocks = UInt64(bufferSize / ATAPIDrive.blockSize)

    /// A command was written. One that comes while another is under way is not heard.
    func start(_ code: UInt8, _ state: inout State) -> Action {
        let drive = state.saved.selected
        guard state.saved.phase != .working, let device = drives[drive] else { return .none }
        state.saved.hasInterrupt = false
        state.saved.phase = .idle
        state.saved.transfer = Transfer()
        state.saved.command = IDECommand.modern(code)
        let registers = state.saved.drives[drive]
        switch code {
        case IDECommand.diagnostics:
            signAll(&state)
            raise(&state)
            return .none
        case IDECommand.deviceReset where device.signature != ATADisk.signature:
            state.saved.drives[drive].sign(device.signature)
            state.saved.drives[drive].status = 0
            return .none
        case let code where IDECommand.readSectors.contains(code):
            return begin(registers.short(code), isExtended: false, isWrite: false, &state)
        case let code where IDECommand.readExtended.contains(code):
            return begin(registers.extended(code), isExtended: true, isWrite: false, &state)
        case let code where IDECommand.writeSectors.contains(code):
            return begin(registers.short(code), isExtended: false, isWrite: true, &state)
        case let code where IDECommand.writeExtended.contains(code):
            return begin(registers.extended(code), isExtended: true, isWrite: true, &state)
        case let code where IDECommand.dma.contains(code): return awaitMaster(&state)
        case let code where IDECommand.queued.contains(code): return end(.aborted, &state)
        // A block is one sector.
        case IDECommand.setMultiple where registers.count & 0xFF > 1: return end(.aborted, &state)
        case IDECommand.packet where device.signature != ATADisk.signature:
            expectPacket(registers, &state)
            return .none
        case let code where IDECommand.identify.contains(code):
            return run(registers.short(code), room: Self.sectorSize, &state)
        case let code where IDECommand.extended.contains(code):
            return run(registers.extended(code), room: 0, &state)
        default: return run(registers.short(code), room: 0, &state)
        }
    }

    /// Lets the selected drive work, with `room` bytes of the channel's memory for the data.
    private func run(
        _ file: ATATaskFile, packet: [UInt8] = [], room: Int, _ state: inout State
    ) -> Action {
        let regions: [ScatterList.Region] = room > 0 ? [(UInt64(0), room)] : []
        let data = ScatterList(regions: regions, memory: scratch)
        return run(SATACommand(taskFile: file, packet: packet, data: data), &state)
    }

    private func run(_ command: SATACommand, _ state: inout State) -> Action {
        state.saved.phase = .working
        state.saved.drives[state.saved.selected].status = ATAStatus.busy
        state.inFlight += 1
        return .start(command, drive: state.saved.selected, generation: state.generation)
    }

    /// The command is over.
    private func end(_ result: SATAResult, _ state: inout State) -> Action {
        state.saved.phase = .idle
        state.saved.buffer = []
        (state.saved.position, state.saved.blockEnd) = (0, 0)
        state.saved.drives[state.saved.selected].take(result)
        state.saved.masterStatus &= ~IDEBusMaster.active
        raise(&state)
        return .none
    }

    /// A drive is done with what it was asked for.
    func conclude(_ result: SATAResult, _ command: SATACommand, _ state: inout State) -> Action {
        let usesScratch = command.data.memory === scratch
        guard !result.failed else {
            if !usesScratch { state.saved.masterStatus |= IDEBusMaster.error }
            return end(result, &state)
        }
        if state.saved.transfer.isWrite { return partWasWritten(result, &state) }
        guard usesScratch, result.bytesMoved > 0,
            let bytes = try? scratch.bytes(GuestAddress(0), count: min(result.bytesMoved, Self.bufferSize))
        else { return end(result, &state) }
        state.saved.buffer = bytes
        state.saved.position = 0
        state.saved.transfer.interruptReason = result.count
        offerBlock(&state)
        return .none
    }

    // MARK: Sectors through the data register

    private func begin(
        _ file: ATATaskFile, isExtended: Bool, isWrite: Bool, _ state: inout State
    ) -> Action {
        let limit: UInt64 = isExtended ? 0x1_0000 : 0x100
        var transfer = Transfer(isWrite: isWrite)
        transfer.next = isExtended ? file.address : file.shortAddress
        transfer.rest = file.count == 0 ? limit : UInt64(file.count)
        state.saved.transfer = transfer
        guard drives[state.saved.selected]?.signature == ATADisk.signature else {
            return run(file, room: 0, &state)
        }
        // Parts are asked for with 48-bit addresses, which would reach further.
        guard isExtended || transfer.next + transfer.rest <= ATADisk.mostShortSectors else {
            return end(.notFound, &state)
        }
        guard isWrite else { return fetchSectors(&state) }
        expectSectors(&state)
        return .none
    }

    /// Asks for as many sectors as the buffer holds.
    private func fetchSectors(_ state: inout State) -> Action {
        let transfer = state.saved.transfer, count = min(transfer.rest, Self.mostSectors)
        state.saved.transfer.next += count
        state.saved.transfer.rest -= count
        let file = ATATaskFile(
            command: IDECommand.partRead, features: 0, address: transfer.next, count: UInt16(count),
            device: 0x40)
        return run(file, room: Int(count) * Self.sectorSize, &state)
    }

    /// A block of the buffer is there to be read, and the guest is told.
    private func offerBlock(_ state: inout State) {
        let drive = state.saved.selected, transfer = state.saved.transfer
        let rest = state.saved.buffer.count - state.saved.position
        let block = transfer.isPacket ? min(rest, max(transfer.limit, 2)) : min(rest, Self.sectorSize)
        state.saved.blockEnd = state.saved.position + block
        state.saved.phase = .dataIn
        state.saved.drives[drive].status = ATAStatus.good | ATAStatus.dataRequest
        state.saved.drives[drive].error = 0
        if transfer.isPacket {
            // To the host; how many bytes.
            state.saved.drives[drive].count = 2
            state.saved.drives[drive].mid = UInt16(block & 0xFF)
            state.saved.drives[drive].high = UInt16(block >> 8)
        }
        raise(&state)
    }

    func blockWasRead(_ state: inout State) -> Action {
        if state.saved.position < state.saved.buffer.count {
            offerBlock(&state)
            return .none
        }
        if state.saved.transfer.rest > 0 {
            return state.saved.transfer.isPacket ? fetchBlocks(&state) : fetchSectors(&state)
        }
        if state.saved.transfer.isPacket {
            return end(SATAResult(count: state.saved.transfer.interruptReason), &state)
        }
        // Nobody is told of the end of a read.
        state.saved.phase = .idle
        state.saved.buffer = []
        (state.saved.position, state.saved.blockEnd) = (0, 0)
        state.saved.drives[state.saved.selected].status = ATAStatus.good
        return .none
    }

    /// The guest may write the sectors that the buffer takes.
    private func expectSectors(_ state: inout State) {
        let count = min(state.saved.transfer.rest, Self.mostSectors)
        state.saved.transfer.count = count
        state.saved.buffer = [UInt8](repeating: 0, count: Int(count) * Self.sectorSize)
        state.saved.position = 0
        state.saved.blockEnd = Self.sectorSize
        state.saved.phase = .dataOut
        state.saved.drives[state.saved.selected].status = ATAStatus.good | ATAStatus.dataRequest
        state.saved.drives[state.saved.selected].error = 0
    }

    func blockWasWritten(_ state: inout State) -> Action {
        guard state.saved.position == state.saved.buffer.count else {
            state.saved.blockEnd = min(
                state.saved.blockEnd + Self.sectorSize, state.saved.buffer.count)
            raise(&state)
            return .none
        }
        let transfer = state.saved.transfer
        // The memory is our own, as large as the buffer.
        try? scratch.write(state.saved.buffer, at: GuestAddress(0))
        let file = ATATaskFile(
            command: IDECommand.partWrite, features: 0, address: transfer.next,
            count: UInt16(transfer.count), device: 0x40)
        return run(file, room: state.saved.buffer.count, &state)
    }

    private func partWasWritten(_ result: SATAResult, _ state: inout State) -> Action {
        let count = state.saved.transfer.count
        state.saved.transfer.next += count
        state.saved.transfer.rest -= min(count, state.saved.transfer.rest)
        guard state.saved.transfer.rest > 0 else { return end(result, &state) }
        expectSectors(&state)
        raise(&state)
        return .none
    }

    // MARK: Packets, ATA/ATAPI-7 volume 2 §11.8

    private func expectPacket(_ registers: DriveRegisters, _ state: inout State) {
        let drive = state.saved.selected
        let limit = Int(registers.mid & 0xFF) | Int(registers.high & 0xFF) << 8
        state.saved.transfer = Transfer(isPacket: true)
        // Odd limits mean one less, and none the largest.
        state.saved.transfer.limit = limit == 0 ? 0xFFFE : max(limit & ~1, 2)
        state.saved.buffer = [UInt8](repeating: 0, count: Self.packetSize)
        (state.saved.position, state.saved.blockEnd) = (0, Self.packetSize)
        state.saved.phase = .packet
        // A command, to the drive.
        state.saved.drives[drive].count = 1
        state.saved.drives[drive].status = ATAStatus.good | ATAStatus.dataRequest
        state.saved.drives[drive].error = 0
    }

    func packetCame(_ state: inout State) -> Action {
        let packet = state.saved.buffer
        let usesMaster = state.saved.drives[state.saved.selected].features & 1 != 0
        state.saved.packet = packet
        if usesMaster { return awaitMaster(&state) }
        // Long reads come in parts.
        var count: UInt64?
        if packet[0] == PacketCommand.read10 { count = UInt64(packet[7]) << 8 | UInt64(packet[8]) }
        if packet[0] == PacketCommand.read12 { count = packet[6..<10].reduce(0) { $0 << 8 | UInt64($1) } }
        guard let count, count > 0 else {
            let file = state.saved.drives[state.saved.selected].short(IDECommand.packet)
            return run(file, packet: packet, room: Self.bufferSize, &state)
        }
        state.saved.transfer.next = packet[2..<6].reduce(0) { $0 << 8 | UInt64($1) }
        state.saved.transfer.rest = count
        return fetchBlocks(&state)
    }

    private func fetchBlocks(_ state: inout State) -> Action {
        let transfer = state.saved.transfer, count = min(transfer.rest, Self.mostBlocks)
        state.saved.transfer.next += count
        state.saved.transfer.rest -= count
        var packet: [UInt8] = [PacketCommand.read12, 0]
        packet.append(bigEndian: UInt32(truncatingIfNeeded: transfer.next))
        packet.append(bigEndian: UInt32(count))
        packet += [0, 0]
        let file = state.saved.drives[state.saved.selected].short(IDECommand.packet)
        return run(file, packet: packet, room: Int(count) * Self.blockSize, &state)
    }

    // MARK: Bus master

    private func awaitMaster(_ state: inout State) -> Action {
        state.saved.phase = .awaitingBusMaster
        state.saved.drives[state.saved.selected].status = ATAStatus.good | ATAStatus.dataRequest
        guard state.saved.masterStatus & IDEBusMaster.active != 0 else { return .none }
        return startMaster(&state)
    }

    /// Reads the regions, once, and lets the drive work.
    func startMaster(_ state: inout State) -> Action {
        let code = state.saved.command, registers = state.saved.drives[state.saved.selected]
        guard let regions = regions(state.saved.table) else {
            state.saved.masterStatus |= IDEBusMaster.error
            return end(.aborted, &state)
        }
        let isExtended = [0x25, 0x35, 0x3D].contains(code)
        let packet = state.saved.transfer.isPacket ? state.saved.packet : []
        // Parts are for the data register only.
        state.saved.transfer = Transfer(isPacket: state.saved.transfer.isPacket)
        return run(
            SATACommand(
                taskFile: isExtended ? registers.extended(code) : registers.short(code), packet: packet,
                data: ScatterList(regions: regions, memory: memory)), &state)
    }

    /// Nil: the table is no memory.
    private func regions(_ table: UInt32) -> [ScatterList.Region]? {
        // No command moves more.
        let longest = 65_536 * Self.sectorSize
        var regions: [ScatterList.Region] = [], total = 0
        for index in 0..<UInt64(IDEBusMaster.mostEntries) where total < longest {
            let place = GuestAddress(UInt64(table) + index * IDEBusMaster.entrySize)
            guard let entry = try? memory.bytes(place, count: Int(IDEBusMaster.entrySize)),
                let address = entry.load(littleEndian: UInt32.self, at: 0),
                let count = entry.load(littleEndian: UInt16.self, at: 4),
                let flags = entry.load(littleEndian: UInt16.self, at: 6)
            else { return nil }
            let bytes = count & ~1 == 0 ? 0x1_0000 : Int(count & ~1)
            regions.append((UInt64(address & ~1), bytes))
            total += bytes
            if flags & IDEBusMaster.last != 0 { break }
        }
        return regions
    }
}
