internal import BlockStorage
internal import Synchronization

/// A SATA CD and DVD drive: ATAPI commands in ATA PACKET (ATA8-ACS §7.33, SFF-8020i, MMC-5).
///
/// Confinement: any thread.
final class ATAPIDrive: SATADevice {
    let signature: UInt32 = 0xEB14_0101
    let tray: CDTray
    private let sense = Mutex(SenseData.none)
    static let blockSize = 2048
    static let sectorsPerBlock: UInt64 = 4

    /// Why the last command failed (SPC-4 §4.5): sense key, and additional code with its qualifier.
    struct SenseData: Equatable, Sendable {
        var key: UInt8
        var code: UInt8
        var qualifier: UInt8 = 0
        static let none = SenseData(key: 0, code: 0)
        static let noMedium = SenseData(key: 2, code: 0x3A)
        static let mediumChanged = SenseData(key: 6, code: 0x28)
        static let unreadable = SenseData(key: 3, code: 0x11)
        static let unknownCommand = SenseData(key: 5, code: 0x20)
        static let outOfRange = SenseData(key: 5, code: 0x21)
        static let badField = SenseData(key: 5, code: 0x24)
        static let locked = SenseData(key: 5, code: 0x53, qualifier: 2)
    }

    private enum ATACommand {
        static let deviceReset: UInt8 = 0x08, packet: UInt8 = 0xA0, identifyPacket: UInt8 = 0xA1
        static let setFeatures: UInt8 = 0xEF, checkPower: UInt8 = 0xE5
        static let nothing: Set<UInt8> = [0xE0, 0xE1, 0xE2, 0xE3, 0xE6, 0xE7]
    }
    /// The interrupt reason in the count: command done, to the host.
    private static let completed: UInt16 = 3

    init(_ tray: CDTray) { self.tray = tray }

    func isQueued(_ command: UInt8) -> Bool { false }

    func start(_ command: SATACommand, finish: @escaping @Sendable (SATAResult) -> Void) {
        switch command.taskFile.command {
        case ATACommand.packet:
            guard command.packet.count >= 12 else { return finish(.aborted) }
            carryOut(command, finish)
        case ATACommand.identifyPacket: finish(identify(command))
        case ATACommand.deviceReset: finish(signed(SATAResult(status: 0, error: 1)))
        case ATACommand.setFeatures: finish(SATAResult())
        case ATACommand.checkPower: finish(SATAResult(count: 0xFF))
        case let other where ATACommand.nothing.contains(other): finish(SATAResult())
        // IDENTIFY DEVICE among them: the signature says what this is.
        default: finish(signed(.aborted))
        }
    }

    private func signed(_ result: SATAResult) -> SATAResult {
        var result = result
        result.count = UInt16(signature & 0xFF)
        result.address = UInt64(signature >> 8)
        return result
    }

    private func identify(_ command: SATACommand) -> SATAResult {
        var data = IdentifyData()
        // ATAPI, CD-ROM, removable, 12-byte packets.
        data.set(0, 0x85C0)
        data.set(text: "ospite-cd", words: 10..<20)
        data.set(text: "1", words: 23..<27)
        data.set(text: "Ospite CD", words: 27..<47)
        for (word, value) in [
            (49, 0x0F00), (50, 0x4000), (53, 0x0007), (63, 0x0007), (64, 0x0003), (65, 120), (66, 120),
            (67, 120), (68, 120), (76, 0x0002), (80, 0x01F0), (82, 0x4010), (83, 0x4000), (84, 0x4000),
            (85, 0x4010), (87, 0x4000), (88, 0x203F), (222, 0x1010),
        ] as [(Int, UInt16)] { data.set(word, value) }
        guard let moved = command.data.store(data.bytes) else { return .aborted }
        return SATAResult(form: .pio, bytesMoved: moved)
    }

    func reset() {
        sense.withLock { $0 = .none }
        tray.setLocked(false)
    }

    func drain() { tray.drain() }

    // MARK: Packets

    /// What a packet command gives.
    enum Answer {
        case data([UInt8])
        case nothing
        case failure(SenseData)
        case blocks(first: UInt64, count: UInt64)
    }

    private func carryOut(_ command: SATACommand, _ finish: @escaping @Sendable (SATAResult) -> Void) {
        let packet = command.packet
        // Told before anything else, but to who only asks who is there or what is wrong (SAM-5 §5.14).
        let tellsChange = ![PacketCommand.inquiry, PacketCommand.requestSense].contains(packet[0])
        if tellsChange, tray.takeChange() { return finish(fail(.mediumChanged)) }
        switch answer(packet) {
        case .nothing: finish(succeed(0))
        case .failure(let reason): finish(fail(reason))
        case .data(let bytes):
            guard let moved = command.data.store(bytes) else { return finish(fail(.badField)) }
            finish(succeed(moved))
        case .blocks(let first, let count): read(first, count, command, finish)
        }
    }

    private func succeed(_ moved: Int) -> SATAResult {
        sense.withLock { $0 = .none }
        return SATAResult(count: Self.completed, bytesMoved: moved)
    }

    /// Check condition: the sense key is in the upper half of the error register.
    private func fail(_ reason: SenseData) -> SATAResult {
        sense.withLock { $0 = reason }
        return SATAResult(
            status: ATAStatus.good | ATAStatus.error, error: reason.key << 4 | ATAError.aborted,
            count: Self.completed)
    }

    /// The reason of the last failure, which is forgotten when it is told.
    func takeSense() -> SenseData {
        sense.withLock { sense in
            defer { sense = .none }
            return sense
        }
    }

    private func read(
        _ first: UInt64, _ count: UInt64, _ command: SATACommand,
        _ finish: @escaping @Sendable (SATAResult) -> Void
    ) {
        guard let disc = tray.disc else { return finish(fail(.noMedium)) }
        let blocks = disc.capacity / Self.sectorsPerBlock
        guard first <= blocks, count <= blocks - first else { return finish(fail(.outOfRange)) }
        guard count > 0 else { return finish(succeed(0)) }
        let bytes = Int(count) * Self.blockSize
        guard count <= 0x1_0000, let buffers = command.data.buffers(bytes, forWriting: true) else {
            return finish(fail(.badField))
        }
        let request = BlockRequest(
            .read, sector: first * Self.sectorsPerBlock, sectorCount: count * Self.sectorsPerBlock,
            buffers: buffers)
        disc.submit(request) { [self] succeeded in
            command.data.noteStore(bytes)
            finish(succeeded ? succeed(bytes) : fail(.unreadable))
        }
        disc.commit()
    }
}
