internal import BlockStorage
internal import ByteLayout
internal import SCSICommands

/// Mass storage, Bulk-Only Transport 1.0: a command wrapper, data, a status wrapper, with a SCSI disk behind
/// it. It moves whole sectors between the disk and the guest's memory, and never more at a time than one
/// transfer has.
///
/// Confinement: a value; its controller locks. The disk is the controller's to ask.
struct USBStorage: USBFunction {
    enum Phase: UInt8, Codable, Sendable {
        case command
        /// Bytes, or none, for the host; sectors for it.
        case answer, read
        /// Sectors from the host; what a command needs to know; what nobody wants.
        case write, parameters, discard
        case status
        /// After a command that is none: until the host resets it, §6.6.1.
        case broken
    }
    /// What the disk was asked last.
    enum Work: UInt8, Codable, Sendable { case none, flush, read, write, lastFlush, ranges }
    struct Range: Codable, Sendable, Equatable {
        var sector: UInt64
        var count: UInt64
    }

    static let inEndpoint = 1, outEndpoint = 2
    /// No command has more parameters.
    static let mostParameters = 0xFFFF

    let serial: String
    var standing = USBStanding()
    private(set) var phase = Phase.command
    private var tag: UInt32 = 0
    private var isIn = false
    /// Bytes that the host expects and has not seen, or has and has not sent.
    private var residue: UInt32 = 0
    private var status = BulkOnly.passed
    /// Key, code and qualifier for who asks why.
    private var sense: [UInt8] = [0, 0, 0]
    private var packet: [UInt8] = []
    private var answer: [UInt8] = []
    private var parameters: [UInt8] = []
    private var wantedParameters = 0
    private var next = Range(sector: 0, count: 0)
    private var isDurable = false
    private var work = Work.none
    /// Of the transfer that the disk works for: bytes, of them those that the disk moves, room for more.
    private var transferCount = 0, diskCount = 0
    private var ranges: [Range] = []

    init(serial: String) { self.serial = serial }

    /// While nothing is under way.
    var isPossible: Bool {
        sense.count == 3 && (packet.isEmpty || packet.count == 16) && answer.count <= Self.mostParameters
            && wantedParameters <= Self.mostParameters && parameters.count <= wantedParameters
            && ranges.isEmpty && work == .none && (phase == .command || !packet.isEmpty || phase == .broken)
            && next.count <= SCSIDisk.largestTransfer
    }

    var identity: USBIdentity {
        USBIdentity(
            speed: .superior, product: 3, name: "Ospite USB Disk", serial: serial, interface: (8, 6, 0x50),
            endpoints: [
                .init(address: 0x80 | UInt8(Self.inEndpoint), attributes: 2, packet: 1024, burst: 15),
                .init(address: UInt8(Self.outEndpoint), attributes: 2, packet: 1024, burst: 15),
            ])
    }

    mutating func answer(_ setup: USBSetup, _ data: [UInt8]) -> [UInt8]? {
        switch (setup.type, setup.request) {
        case (0xA1, BulkOnly.getMaximumUnit): return [0]
        case (0x21, BulkOnly.reset):
            phase = .command
            return []
        default: return nil
        }
    }

    mutating func reset() { self = USBStorage(serial: serial) }

    mutating func transfer(_ transfer: USBTransfer, _ disk: SCSIDisk) -> USBOutcome {
        guard transfer.endpoint == (transfer.isIn ? Self.inEndpoint : Self.outEndpoint) else {
            return .stalls
        }
        // It was reset while the disk worked.
        guard work == .none else { return .waits }
        switch (phase, transfer.isIn) {
        case (.command, false): return takeCommand(transfer, disk)
        case (.answer, true): return give(transfer.count)
        case (.read, true): return moveSectors(transfer.count, .read)
        case (.write, false): return moveSectors(transfer.count, .write)
        case (.parameters, false): return takeParameters(transfer, disk)
        case (.discard, false): return take(transfer.count)
        case (.status, true): return giveStatus(transfer.count)
        case (.broken, _): return .stalls
        default: return .waits
        }
    }

    private mutating func breakDown() -> USBOutcome {
        phase = .broken
        return .stalls
    }

    // MARK: Commands

    /// §5.1 and §6.2: the wrapper is valid and means something.
    private mutating func takeCommand(_ transfer: USBTransfer, _ disk: SCSIDisk) -> USBOutcome {
        guard transfer.count == BulkOnly.commandSize, let bytes = transfer.load(BulkOnly.commandSize),
            bytes.load(littleEndian: UInt32.self, at: 0) == BulkOnly.commandSignature,
            let tag = bytes.load(littleEndian: UInt32.self, at: 4),
            let length = bytes.load(littleEndian: UInt32.self, at: 8), (1...16).contains(bytes[14])
        else { return breakDown() }
        self.tag = tag
        residue = length
        isIn = bytes[12] & 0x80 != 0
        status = BulkOnly.passed
        answer = []
        parameters = []
        wantedParameters = 0
        isDurable = false
        packet = Array(bytes[15..<15 + Int(bytes[14])])
        packet += [UInt8](repeating: 0, count: 16 - packet.count)
        (transferCount, diskCount) = (BulkOnly.commandSize, BulkOnly.commandSize)
        return begin(bytes[13] & 0xF == 0 ? understand(disk) : .failure(.noUnit), disk)
    }

    /// What was wrong with the last command is told once.
    private mutating func understand(_ disk: SCSIDisk) -> SCSIAction {
        guard packet[0] == SCSIOperation.requestSense else { return disk.understand(packet) }
        defer { sense = [0, 0, 0] }
        let bytes = SCSISense(key: sense[0], code: sense[1], qualifier: sense[2]).bytes
        return .data(Array(bytes.prefix(Int(packet[4]))))
    }

    private mutating func begin(_ action: SCSIAction, _ disk: SCSIDisk) -> USBOutcome {
        let taken = USBOutcome.taken(BulkOnly.commandSize)
        switch action {
        case .data(let bytes):
            answer = isIn ? Array(bytes.prefix(Int(residue))) : []
            goOn()
        case .failure(let sense): fail(sense)
        case .flush:
            phase = .discard
            work = .flush
            return .disk(.flush, sector: 0, count: 0)
        case .read(let first, let count): moveBlocks(first, count, isRead: true)
        case .write(let first, let count, let isDurable):
            self.isDurable = isDurable
            moveBlocks(first, count, isRead: false)
        case .writeSame:
            // The block that is repeated, unless there is none.
            wantedParameters = packet[1] & 1 == 0 ? SCSIDisk.blockSize : 0
            return expectParameters(disk)
        case .unmap(let size):
            wantedParameters = size
            return expectParameters(disk)
        }
        return taken
    }

    /// After the command: the data that the host expects in any case, then the status.
    private mutating func goOn() { phase = residue == 0 ? .status : isIn ? .answer : .discard }

    private mutating func fail(_ reason: SCSISense) {
        sense = [reason.key, reason.code, reason.qualifier]
        status = BulkOnly.failed
        answer = []
        goOn()
    }

    /// §6.7: the host and the command may expect different amounts of data.
    private mutating func moveBlocks(_ first: UInt64, _ count: UInt64, isRead: Bool) {
        let expected = isRead == isIn ? UInt64(residue) / UInt64(SCSIDisk.blockSize) : 0
        next = Range(sector: first, count: min(count, expected))
        if count > expected { status = BulkOnly.phaseError }
        guard next.count > 0 else { return goOn() }
        phase = isRead ? .read : .write
    }

    private mutating func expectParameters(_ disk: SCSIDisk) -> USBOutcome {
        phase = .parameters
        guard wantedParameters > 0 else { return run(disk) }
        if isIn || Int(residue) < wantedParameters {
            fail(.badField)
        }
        return .taken(BulkOnly.commandSize)
    }

    // MARK: Data

    private mutating func give(_ room: Int) -> USBOutcome {
        let part = Array(answer.prefix(room))
        answer.removeFirst(part.count)
        consume(part.count)
        // A short packet is the last one.
        if part.count < room || residue == 0 { phase = .status }
        return .given(part)
    }

    private mutating func take(_ count: Int) -> USBOutcome {
        consume(count)
        if residue == 0 { phase = .status }
        return .taken(count)
    }

    private mutating func consume(_ moved: Int) { residue -= UInt32(min(moved, Int(residue))) }

    private mutating func moveSectors(_ count: Int, _ operation: BlockRequest.Operation) -> USBOutcome {
        let size = SCSIDisk.blockSize
        let part = min(count, Int(next.count) * size)
        guard part > 0 else { return operation == .read ? .given([]) : .taken(0) }
        // Packets hold whole sectors, so that no transfer ends within one.
        guard part % size == 0 else { return breakDown() }
        (transferCount, diskCount) = (count, part)
        work = operation == .read ? .read : .write
        return .disk(operation, sector: next.sector, count: UInt64(part / size))
    }

    private mutating func takeParameters(_ transfer: USBTransfer, _ disk: SCSIDisk) -> USBOutcome {
        let missing = wantedParameters - parameters.count
        guard let bytes = transfer.load(min(transfer.count, missing)) else { return breakDown() }
        parameters += bytes
        consume(transfer.count)
        (transferCount, diskCount) = (transfer.count, transfer.count)
        guard parameters.count == wantedParameters else { return .taken(transfer.count) }
        return run(disk)
    }

    /// A command whose parameters are all there.
    private mutating func run(_ disk: SCSIDisk) -> USBOutcome {
        let count = transferCount
        switch disk.understand(packet) {
        case .writeSame(let first, let blocks, let unmaps):
            guard parameters.allSatisfy({ $0 == 0 }) else {
                fail(.badField)
                return .taken(count)
            }
            guard blocks > 0 else { break }
            work = .ranges
            return .disk(.writeZeroes(mayUnmap: unmaps), sector: first, count: blocks)
        case .unmap:
            do throws(SCSISense) {
                let all = try disk.ranges(parameters)
                ranges = all.map { Range(sector: $0.sector, count: $0.sectorCount) }
            } catch {
                fail(error)
                return .taken(count)
            }
            guard !ranges.isEmpty else { break }
            work = .ranges
            let first = ranges.removeFirst()
            return .disk(.discard, sector: first.sector, count: first.count)
        case .failure(let sense):
            fail(sense)
            return .taken(count)
        default: break
        }
        goOn()
        return .taken(count)
    }

    // MARK: The disk

    mutating func diskIsDone(_ succeeded: Bool) -> USBProgress {
        let done = work
        work = .none
        // The host has reset it meanwhile.
        guard phase != .command, phase != .broken else { return .ended(transferCount) }
        guard succeeded else {
            ranges = []
            next.count = 0
            if done == .write { consume(transferCount) }
            fail(done == .read ? .unreadable : .unwritable)
            // The empty packet of this transfer is the data.
            if done == .read { phase = .status }
            return .ended(done == .read ? 0 : transferCount)
        }
        switch done {
        case .none, .flush, .lastFlush: goOn()
        case .ranges:
            guard ranges.isEmpty else {
                let range = ranges.removeFirst()
                work = .ranges
                return .disk(.discard, sector: range.sector, count: range.count)
            }
            goOn()
        case .read, .write: return sectorsAreMoved(isRead: done == .read)
        }
        return .ended(transferCount)
    }

    private mutating func sectorsAreMoved(isRead: Bool) -> USBProgress {
        let moved = isRead ? diskCount : transferCount
        consume(moved)
        let sectors = UInt64(diskCount / SCSIDisk.blockSize)
        next = Range(sector: next.sector &+ sectors, count: next.count - min(sectors, next.count))
        guard next.count == 0 else { return .ended(moved) }
        if isRead, diskCount < transferCount {
            phase = .status
        } else {
            goOn()
        }
        guard isDurable, !isRead else { return .ended(moved) }
        work = .lastFlush
        return .disk(.flush, sector: 0, count: 0)
    }

    // MARK: Status

    private mutating func giveStatus(_ room: Int) -> USBOutcome {
        guard room >= BulkOnly.statusSize else { return breakDown() }
        var bytes: [UInt8] = []
        bytes.append(littleEndian: BulkOnly.statusSignature)
        bytes.append(littleEndian: tag)
        bytes.append(littleEndian: residue)
        phase = .command
        return .given(bytes + [status])
    }
}
