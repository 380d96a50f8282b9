internal import BlockStorage
internal import ByteLayout

/// Commands of a disk (ATA8-ACS §7). "Extended" ones have 48-bit addresses.
private enum ATACommand {
    static let readSectors: UInt8 = 0x20, readSectorsExtended: UInt8 = 0x24
    static let readDMAExtended: UInt8 = 0x25, readMultipleExtended: UInt8 = 0x29
    static let writeSectors: UInt8 = 0x30, writeSectorsExtended: UInt8 = 0x34
    static let writeDMAExtended: UInt8 = 0x35, writeMultipleExtended: UInt8 = 0x39
    static let writeDMAForcedExtended: UInt8 = 0x3D
    static let verify: UInt8 = 0x40, verifyExtended: UInt8 = 0x42
    static let readQueued: UInt8 = 0x60, writeQueued: UInt8 = 0x61
    static let readMultiple: UInt8 = 0xC4, writeMultiple: UInt8 = 0xC5, setMultiple: UInt8 = 0xC6
    static let readDMA: UInt8 = 0xC8, writeDMA: UInt8 = 0xCA
    static let flush: UInt8 = 0xE7, flushExtended: UInt8 = 0xEA
    static let identify: UInt8 = 0xEC, setFeatures: UInt8 = 0xEF
    static let checkPower: UInt8 = 0xE5
    static let readNativeMaximum: UInt8 = 0xF8, readNativeMaximumExtended: UInt8 = 0x27
    /// Recalibrate, initialize device parameters, standby and idle: nothing to do.
    static let nothing: Set<UInt8> = [0x10, 0x91, 0xE0, 0xE1, 0xE2, 0xE3, 0xE6]
}

/// An ATA disk. It says that it is solid and has a volatile write cache.
///
/// Confinement: any thread.
final class ATADisk: SATADevice {
    static let signature: UInt32 = 0x0000_0101
    let signature: UInt32 = ATADisk.signature
    private let backend: any BlockBackend
    private let serial: String

    init(_ backend: any BlockBackend, serial: String) {
        self.backend = backend
        self.serial = serial
    }

    func isQueued(_ command: UInt8) -> Bool {
        command == ATACommand.readQueued || command == ATACommand.writeQueued
    }

    func start(_ command: SATACommand, finish: @escaping @Sendable (SATAResult) -> Void) {
        let file = command.taskFile
        switch file.command {
        case ATACommand.identify: finish(identify(command))
        case ATACommand.readDMA: transfer(.read, short(file), .register, command, finish)
        case ATACommand.readSectors, ATACommand.readMultiple:
            transfer(.read, short(file), .pio, command, finish)
        case ATACommand.readDMAExtended: transfer(.read, extended(file), .register, command, finish)
        case ATACommand.readSectorsExtended, ATACommand.readMultipleExtended:
            transfer(.read, extended(file), .pio, command, finish)
        case ATACommand.writeDMA, ATACommand.writeSectors, ATACommand.writeMultiple:
            transfer(.write, short(file), .register, command, finish)
        case ATACommand.writeDMAExtended, ATACommand.writeSectorsExtended, ATACommand.writeMultipleExtended:
            transfer(.write, extended(file), .register, command, finish)
        case ATACommand.writeDMAForcedExtended:
            transfer(.write, extended(file), .register, command, durably: true, finish)
        case ATACommand.readQueued: transfer(.read, queued(file), .queued, command, finish)
        case ATACommand.writeQueued:
            // Bit 7 of the device register: force unit access.
            transfer(.write, queued(file), .queued, command, durably: file.device & 0x80 != 0, finish)
        case ATACommand.flush, ATACommand.flushExtended:
            submit(BlockRequest(.flush)) { finish($0 ? SATAResult() : .aborted) }
        default: finish(immediate(file))
        }
    }

    /// Commands without data that end at once.
    private func immediate(_ file: ATATaskFile) -> SATAResult {
        let last = max(backend.capacity, 1) - 1
        switch file.command {
        case ATACommand.verify: return isInside(short(file)) ? SATAResult() : .notFound
        case ATACommand.verifyExtended: return isInside(extended(file)) ? SATAResult() : .notFound
        case ATACommand.setMultiple: return SATAResult()
        // Transfer modes and caches: whatever is asked for is so.
        case ATACommand.setFeatures: return SATAResult()
        // Active or idle.
        case ATACommand.checkPower: return SATAResult(count: 0xFF)
        case ATACommand.readNativeMaximum:
            let short = min(last, Self.mostShortSectors - 1)
            return SATAResult(address: short & 0xFF_FFFF, device: UInt8(short >> 24))
        case ATACommand.readNativeMaximumExtended: return SATAResult(address: last)
        default: return ATACommand.nothing.contains(file.command) ? SATAResult() : .aborted
        }
    }

    // MARK: Transfers

    /// `end`: how far the command reaches.
    private typealias Sectors = (first: UInt64, count: UInt64, end: UInt64)
    /// What commands with 28-bit addresses reach: as many sectors as words 60 and 61 of the identification
    /// can say (ATA/ATAPI-6 §6.2.1).
    static let mostShortSectors: UInt64 = 0xFFF_FFFF
    private static let unreadable = SATAResult(
        status: ATAStatus.good | ATAStatus.error, error: ATAError.uncorrectable)

    /// A count of zero is the largest.
    private func short(_ file: ATATaskFile) -> Sectors {
        let count = UInt64(file.count & 0xFF)
        let end = min(backend.capacity, Self.mostShortSectors)
        return (file.shortAddress, count == 0 ? 256 : count, end)
    }
    private func extended(_ file: ATATaskFile) -> Sectors {
        (file.address, file.count == 0 ? 65_536 : UInt64(file.count), backend.capacity)
    }
    /// Queued commands have their count in the features.
    private func queued(_ file: ATATaskFile) -> Sectors {
        (file.address, file.features == 0 ? 65_536 : UInt64(file.features), backend.capacity)
    }

    private func isInside(_ sectors: Sectors) -> Bool {
        sectors.first <= sectors.end && sectors.count <= sectors.end - sectors.first
    }

    private func transfer(
        _ operation: BlockRequest.Operation, _ sectors: Sectors, _ form: SATAResult.Form,
        _ command: SATACommand, durably: Bool = false, _ finish: @escaping @Sendable (SATAResult) -> Void
    ) {
        let isRead = operation == .read, count = Int(sectors.count) * 512
        func fail(_ result: SATAResult) {
            var result = result
            result.form = form == .queued ? .queued : .register
            finish(result)
        }
        guard isInside(sectors) else { return fail(.notFound) }
        guard isRead || !backend.isReadOnly, let buffers = command.data.buffers(count, forWriting: isRead)
        else {
            return fail(.aborted)
        }
        let request = BlockRequest(
            operation, sector: sectors.first, sectorCount: sectors.count, buffers: buffers)
        let done = SATAResult(form: form, bytesMoved: count)
        var failure = Self.unreadable
        failure.form = form == .queued ? .queued : .register
        submit(request) { [self, failure] succeeded in
            guard succeeded else { return finish(failure) }
            if isRead { command.data.noteStore(count) }
            guard durably else { return finish(done) }
            submit(BlockRequest(.flush)) { finish($0 ? done : failure) }
        }
    }

    private func submit(_ request: BlockRequest, _ completion: @escaping @Sendable (Bool) -> Void) {
        backend.submit(request, completion: completion)
        backend.commit()
    }

    func reset() {}
    func drain() { backend.drain() }

    // MARK: Identity

    /// IDENTIFY DEVICE (ATA8-ACS §7.16): 256 words.
    private func identify(_ command: SATACommand) -> SATAResult {
        var data = IdentifyData()
        data.set(0, 0x0040)
        let cylinders = min(backend.capacity / (16 * 63), 16_383)
        for (cylinderWord, rest) in [(1, [3: 16, 6: 63]), (54, [55: 16, 56: 63])] as [(Int, [Int: UInt16])] {
            data.set(cylinderWord, UInt16(cylinders))
            for (word, value) in rest { data.set(word, value) }
        }
        data.set(doubleWord: 57, UInt32(cylinders * 16 * 63))
        data.set(text: serial, words: 10..<20)
        data.set(text: "1", words: 23..<27)
        data.set(text: "Ospite disk", words: 27..<47)
        // One sector per interrupt; IORDY, LBA and DMA; words 64-70 and 88 are valid.
        for (word, value) in [
            (47, 0x8001), (49, 0x0F00), (50, 0x4000), (53, 0x0007), (59, 0x0101), (63, 0x0007), (64, 0x0003),
            (65, 120), (66, 120), (67, 120), (68, 120),
            // Queue depth 32; first-generation speed with queueing; ATA-4 to ATA8-ACS.
            (75, 31), (76, 0x0102), (80, 0x01F0),
            // Write cache; flushes and 48-bit addresses; forced unit access; the same as enabled.
            (82, 0x0020), (83, 0x7400), (84, 0x4040), (85, 0x0020), (86, 0x3400), (87, 0x4040), (88, 0x203F),
            // Eight logical sectors in a physical one; it does not rotate.
            (106, 0x6003), (217, 0x0001), (222, 0x1010),
        ] as [(Int, UInt16)] { data.set(word, value) }
        data.set(doubleWord: 60, UInt32(min(backend.capacity, Self.mostShortSectors)))
        data.set(doubleWord: 100, UInt32(truncatingIfNeeded: backend.capacity))
        data.set(doubleWord: 102, UInt32(truncatingIfNeeded: backend.capacity >> 32))
        guard let moved = command.data.store(data.bytes) else { return .aborted }
        return SATAResult(form: .pio, bytesMoved: moved)
    }
}

/// The 512 bytes that a device says of itself.
struct IdentifyData {
    private var words = [UInt16](repeating: 0, count: 256)

    mutating func set(_ word: Int, _ value: UInt16) { words[word] = value }
    mutating func set(doubleWord word: Int, _ value: UInt32) {
        words[word] = UInt16(truncatingIfNeeded: value)
        words[word + 1] = UInt16(value >> 16)
    }

    /// Two characters a word, the first in its upper half, padded with spaces.
    mutating func set(text: String, words range: Range<Int>) {
        let text = Array(text.utf8.filter { (0x20...0x7E).contains($0) })
        func character(_ index: Int) -> UInt16 { index < text.count ? UInt16(text[index]) : 0x20 }
        for (index, word) in range.enumerated() {
            words[word] = character(2 * index) << 8 | character(2 * index + 1)
        }
    }

    /// With the integrity word at the end: A5h, and the complement of the sum of all other bytes.
    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        for word in words.dropLast() { bytes.append(littleEndian: word) }
        bytes.append(0xA5)
        bytes.append(checksumComplement(bytes))
        return bytes
    }
}
