internal import GuestMemory

/// A command that moves sectors: in runs, since a track need not be used to its end.
struct FloppyTransfer: Sendable {
    var drive: Int
    var isWrite: Bool
    /// Whether the data goes to the guest.
    var stores: Bool
    /// First sector of the disk and count of each run.
    var runs: [(first: Int, count: Int)]
    /// Sectors that have moved.
    var done = 0
    /// Bytes for the guest.
    var bytes: Int
    /// Cylinder, head and sector as the command named them.
    var place: (cylinder: UInt8, head: UInt8, sector: UInt8)
    var lastSector: UInt8
    var isMultiTrack: Bool
    /// The count of the DMA channel has run out.
    var isCounted: Bool
}

/// What commands do. Everything here runs with the controller's lock held.
extension FloppyController {
    /// Returns what a disk has to do.
    func begin(_ command: [UInt8], _ state: inout State) -> FloppyTransfer? {
        let unit = command.count > 1 ? command[1] & 3 : 0
        switch command[0] & 0x1F {
        case FloppyCommand.specify: state.saved.specified = Array(command[1...2])
        case FloppyCommand.driveStatus: state.saved.result = [driveStatus(command[1], state)]
        case FloppyCommand.interruptStatus: tellInterrupt(&state)
        case FloppyCommand.recalibrate: seek(unit, to: 0, &state)
        case FloppyCommand.seek:
            let old = Int(state.saved.cylinders[Int(unit)]), by = Int(command[2])
            guard command[0] & FloppyCommand.relative != 0 else {
                seek(unit, to: command[2], &state)
                return nil
            }
            let inwards = command[0] & FloppyCommand.inwards != 0
            seek(unit, to: UInt8(clamping: inwards ? old + by : old - by), &state)
        case FloppyCommand.read, FloppyCommand.readDeleted, FloppyCommand.write, FloppyCommand.writeDeleted,
            FloppyCommand.verify:
            return beginTransfer(command, &state)
        case FloppyCommand.readIdentifier:
            let cylinder = state.saved.cylinders[Int(unit)]
            let isThere =
                drives.indices.contains(Int(unit)) && cylinder < drives[Int(unit)].geometry.cylinders
            fail(command[1], isThere ? 0 : FloppyResult.noMark, (cylinder, command[1] >> 2 & 1, 1), &state)
        case FloppyCommand.format: return beginFormat(command, &state)
        case FloppyCommand.dump: state.saved.result = dump(state.saved)
        case FloppyCommand.version: state.saved.result = [0x90]
        case FloppyCommand.perpendicular: state.saved.perpendicular = command[1]
        case FloppyCommand.configure: state.saved.configured = Array(command[2...3])
        default:
            state.saved.isLocked = command[0] & 0x80 != 0
            state.saved.result = [state.saved.isLocked ? 0x10 : 0]
        }
        return nil
    }

    private func driveStatus(_ selection: UInt8, _ state: State) -> UInt8 {
        let unit = Int(selection & 3)
        var status = FloppyResult.ready | FloppyResult.twoSides | selection & 7
        if drives.indices.contains(unit), drives[unit].backend.isReadOnly {
            status |= FloppyResult.writeProtected
        }
        if state.saved.cylinders[unit] == 0 { status |= FloppyResult.track0 }
        return status
    }

    private func tellInterrupt(_ state: inout State) {
        state.saved.isRequesting = false
        guard let unit = state.saved.interrupts.firstIndex(where: { $0 != nil }),
            let status = state.saved.interrupts[unit]
        else { return state.saved.result = [FloppyResult.invalid] }
        state.saved.interrupts[unit] = nil
        state.saved.result = [status, state.saved.cylinders[unit]]
    }

    private func seek(_ unit: UInt8, to cylinder: UInt8, _ state: inout State) {
        let drive = Int(unit)
        var status = FloppyResult.seekEnd | unit
        if drives.indices.contains(drive) {
            let last = UInt8(drives[drive].geometry.cylinders - 1)
            state.saved.cylinders[drive] = min(cylinder, last)
            state.saved.changed &= ~(1 << unit)
        } else {
            status |= FloppyResult.abnormal | FloppyResult.equipment
        }
        state.saved.interrupts[drive] = status
        state.saved.isRequesting = true
    }

    private func dump(_ saved: Saved) -> [UInt8] {
        saved.cylinders + saved.specified
            + [
                saved.lastSector, saved.perpendicular & 0x7F | (saved.isLocked ? 0x80 : 0),
                saved.configured[0], saved.configured[1],
            ]
    }

    private typealias Place = (cylinder: UInt8, head: UInt8, sector: UInt8)

    /// The seven bytes at the end of what moves data, with status 1; success when that is zero.
    private func fail(
        _ selection: UInt8, _ status1: UInt8, _ place: (cylinder: UInt8, head: UInt8, sector: UInt8),
        status2: UInt8 = 0, _ state: inout State
    ) {
        let isGood = status1 == 0 && status2 == 0
        state.saved.result = [
            (isGood ? 0 : FloppyResult.abnormal) | selection & 7, status1, status2, place.cylinder,
            place.head, place.sector, FloppyCommand.sectorSizeCode,
        ]
        state.saved.isRequesting = true
    }

    // MARK: Reads and writes

    /// Command, drive and head, C, H, R, N, last sector, gap, length.
    private func beginTransfer(_ command: [UInt8], _ state: inout State) -> FloppyTransfer? {
        let code = command[0] & 0x1F, unit = Int(command[1] & 3)
        let place = (cylinder: command[2], head: command[3], sector: command[4]), last = command[6]
        func refuse(_ status1: UInt8, _ status2: UInt8 = 0) -> FloppyTransfer? {
            fail(command[1], status1, place, status2: status2, &state)
            return nil
        }
        guard drives.indices.contains(unit) else { return refuse(FloppyResult.noMark) }
        let drive = drives[unit], geometry = drive.geometry
        let isWrite = code == FloppyCommand.write || code == FloppyCommand.writeDeleted
        let stores = code == FloppyCommand.read || code == FloppyCommand.readDeleted
        guard !isWrite || !drive.backend.isReadOnly else { return refuse(FloppyResult.notWritable) }
        state.saved.lastSector = last
        // "Implied seek" of the configuration.
        if state.saved.configured[0] & 0x40 != 0, place.cylinder < geometry.cylinders {
            state.saved.cylinders[unit] = place.cylinder
        }
        guard place.cylinder == state.saved.cylinders[unit] else {
            return refuse(FloppyResult.noData, FloppyResult.wrongCylinder)
        }
        guard command[5] == FloppyCommand.sectorSizeCode, place.head < geometry.heads,
            command[1] >> 2 & 1 == place.head, (1...last).contains(place.sector), last <= geometry.sectors
        else { return refuse(FloppyResult.noData) }
        let isMultiTrack = command[0] & FloppyCommand.multiTrack != 0
        let track = Int(place.cylinder) * geometry.heads + Int(place.head)
        var runs = [(track * geometry.sectors + Int(place.sector) - 1, Int(last - place.sector) + 1)]
        if isMultiTrack, place.head == 0 { runs.append(((track + 1) * geometry.sectors, Int(last))) }
        let most = runs.reduce(0) { $0 + $1.1 } * Self.sectorSize
        // Bit 0 asks for transfers by program.
        let usesDMA = state.saved.specified[1] & 1 == 0 && state.saved.output & FloppyOutput.gate != 0
        let room = code == FloppyCommand.verify ? most : usesDMA ? channel.room(toMemory: stores) : 0
        guard room > 0 else { return refuse(FloppyResult.overrun) }
        var transfer = FloppyTransfer(
            drive: unit, isWrite: isWrite, stores: stores, runs: [], bytes: min(room, most), place: place,
            lastSector: last, isMultiTrack: isMultiTrack, isCounted: code == FloppyCommand.verify)
        var rest = (transfer.bytes + Self.sectorSize - 1) / Self.sectorSize
        for run in runs where rest > 0 {
            transfer.runs.append((run.0, min(run.1, rest)))
            rest -= min(run.1, rest)
        }
        if isWrite { fetch(&transfer) }
        return transfer
    }

    /// The data of a write, with zeroes to the end of the last sector.
    private func fetch(_ transfer: inout FloppyTransfer) {
        let (bytes, isLast) = channel.load(transfer.bytes)
        transfer.isCounted = isLast
        let whole = transfer.runs.reduce(0) { $0 + $1.count } * Self.sectorSize
        let padded = bytes + [UInt8](repeating: 0, count: max(whole - bytes.count, 0))
        // The memory is our own, as large as a cylinder.
        try? scratch.write(Array(padded.prefix(Self.bufferSize)), at: GuestAddress(0))
    }

    /// Command, drive and head, N, sectors, gap, filler; the guest's memory has C, H, R and N of each sector.
    private func beginFormat(_ command: [UInt8], _ state: inout State) -> FloppyTransfer? {
        let unit = Int(command[1] & 3), head = command[1] >> 2 & 1, sectors = command[3]
        let cylinder = state.saved.cylinders[unit], place = (cylinder: cylinder, head: head, sector: sectors)
        func refuse(_ status1: UInt8) -> FloppyTransfer? {
            fail(command[1], status1, place, &state)
            return nil
        }
        guard drives.indices.contains(unit) else { return refuse(FloppyResult.noMark) }
        let geometry = drives[unit].geometry
        guard !drives[unit].backend.isReadOnly else { return refuse(FloppyResult.notWritable) }
        guard command[2] == FloppyCommand.sectorSizeCode, (1...geometry.sectors).contains(Int(sectors)) else {
            return refuse(FloppyResult.noData)
        }
        let wanted = Int(sectors) * 4
        guard channel.room(toMemory: false) >= wanted else { return refuse(FloppyResult.overrun) }
        _ = channel.load(wanted)
        let filler = [UInt8](repeating: command[5], count: Int(sectors) * Self.sectorSize)
        try? scratch.write(filler, at: GuestAddress(0))
        let first = (Int(cylinder) * geometry.heads + Int(head)) * geometry.sectors
        return FloppyTransfer(
            drive: unit, isWrite: true, stores: false, runs: [(first, Int(sectors))], bytes: 0, place: place,
            lastSector: sectors, isMultiTrack: false, isCounted: true)
    }

    /// The disk is done.
    func end(_ transfer: FloppyTransfer, _ succeeded: Bool, _ state: inout State) {
        let selection = UInt8(transfer.drive) | (transfer.place.head & 1) << 2
        guard succeeded else {
            return fail(
                selection, FloppyResult.dataError, transfer.place, status2: FloppyResult.dataError, &state)
        }
        var isCounted = transfer.isCounted
        if transfer.stores, let bytes = try? scratch.bytes(GuestAddress(0), count: transfer.bytes) {
            isCounted = channel.store(bytes)
        }
        // Without the signal that the count has run out, it would have gone on behind the last sector.
        fail(
            selection, isCounted ? 0 : FloppyResult.endOfCylinder, Self.place(after: transfer), &state)
    }

    /// Where the next sector would be.
    private static func place(after transfer: FloppyTransfer) -> Place {
        var place = transfer.place
        for _ in 0..<transfer.done {
            guard place.sector >= transfer.lastSector else {
                place.sector += 1
                continue
            }
            place.sector = 1
            guard transfer.isMultiTrack, place.head == 0 else {
                place.cylinder &+= 1
                if transfer.isMultiTrack { place.head = 0 }
                continue
            }
            place.head = 1
        }
        return place
    }
}
