internal import BlockStorage
internal import ByteLayout

/// Operation codes (MMC-5 §6, SPC-4 §6).
enum PacketCommand {
    static let testUnitReady: UInt8 = 0x00, requestSense: UInt8 = 0x03, inquiry: UInt8 = 0x12
    static let modeSense6: UInt8 = 0x1A, startStop: UInt8 = 0x1B, preventRemoval: UInt8 = 0x1E
    static let readCapacity: UInt8 = 0x25, read10: UInt8 = 0x28, seek10: UInt8 = 0x2B
    static let synchronize: UInt8 = 0x35, readTOC: UInt8 = 0x43, getConfiguration: UInt8 = 0x46
    static let eventStatus: UInt8 = 0x4A, readDiscInformation: UInt8 = 0x51, modeSense10: UInt8 = 0x5A
    static let read12: UInt8 = 0xA8, setSpeed: UInt8 = 0xBB, mechanismStatus: UInt8 = 0xBD
    static let readCD: UInt8 = 0xBE
}

extension ATAPIDrive {
    private func word(_ packet: [UInt8], _ offset: Int) -> Int {
        Int(packet[offset]) << 8 | Int(packet[offset + 1])
    }
    private func doubleWord(_ packet: [UInt8], _ offset: Int) -> UInt64 {
        UInt64(word(packet, offset)) << 16 | UInt64(word(packet, offset + 2))
    }
    /// At most as many bytes as the initiator has room for.
    private func limited(_ bytes: [UInt8], _ room: Int) -> Answer { .data(Array(bytes.prefix(room))) }

    /// Blocks on the disc, or nil when there is none.
    private var blockCount: UInt64? { tray.disc.map { $0.capacity / Self.sectorsPerBlock } }

    /// What a packet of at least 12 bytes asks for.
    func answer(_ packet: [UInt8]) -> Answer {
        switch packet[0] {
        case PacketCommand.requestSense: return limited(senseBytes(takeSense()), Int(packet[4]))
        case PacketCommand.inquiry: return inquiry(packet)
        case PacketCommand.modeSense6: return modeSense(packet, isShort: true)
        case PacketCommand.modeSense10: return modeSense(packet, isShort: false)
        case PacketCommand.startStop: return startStop(packet)
        case PacketCommand.preventRemoval:
            tray.setLocked(packet[4] & 1 != 0)
            return .nothing
        case PacketCommand.setSpeed, PacketCommand.synchronize: return .nothing
        case PacketCommand.getConfiguration: return configuration(packet)
        case PacketCommand.eventStatus: return events(packet)
        case PacketCommand.mechanismStatus:
            return limited([0, 0, 0, 0, 0, 1, 0, 0], word(packet, 8))
        default: return mediumAnswer(packet)
        }
    }

    /// Commands that need a disc.
    private func mediumAnswer(_ packet: [UInt8]) -> Answer {
        let known: Set<UInt8> = [
            PacketCommand.testUnitReady, PacketCommand.readCapacity, PacketCommand.read10,
            PacketCommand.read12, PacketCommand.readCD, PacketCommand.seek10, PacketCommand.readTOC,
            PacketCommand.readDiscInformation,
        ]
        guard known.contains(packet[0]) else { return .failure(.unknownCommand) }
        guard let blocks = blockCount else { return .failure(.noMedium) }
        switch packet[0] {
        case PacketCommand.readCapacity:
            var bytes: [UInt8] = []
            bytes.append(bigEndian: UInt32(clamping: max(blocks, 1) - 1))
            bytes.append(bigEndian: UInt32(Self.blockSize))
            return .data(bytes)
        case PacketCommand.read10:
            return .blocks(first: doubleWord(packet, 2), count: UInt64(word(packet, 7)))
        case PacketCommand.read12:
            return .blocks(first: doubleWord(packet, 2), count: doubleWord(packet, 6))
        case PacketCommand.readCD: return readCD(packet)
        case PacketCommand.seek10:
            return doubleWord(packet, 2) < blocks ? .nothing : .failure(.outOfRange)
        case PacketCommand.readTOC: return tableOfContents(packet, blocks)
        case PacketCommand.readDiscInformation:
            // Complete disc with one complete session.
            let information: [UInt8] = [0, 32, 0x0E, 1, 1, 1, 1, 0x20] + [UInt8](repeating: 0, count: 26)
            return limited(information, word(packet, 7))
        default: return .nothing
        }
    }

    /// Only the user data of data sectors can be read.
    private func readCD(_ packet: [UInt8]) -> Answer {
        let count = UInt64(packet[6]) << 16 | UInt64(word(packet, 7))
        switch packet[9] & 0xF8 {
        case 0x00: return .nothing
        case 0x10: return .blocks(first: doubleWord(packet, 2), count: count)
        default: return .failure(.badField)
        }
    }

    /// Fixed format, SPC-4 §4.5.3.
    private func senseBytes(_ sense: SenseData) -> [UInt8] {
        [0x70, 0, sense.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, sense.code, sense.qualifier, 0, 0, 0, 0]
    }

    private func inquiry(_ packet: [UInt8]) -> Answer {
        guard packet[1] & 1 == 0 else { return .failure(.badField) }
        // CD device, removable, ATAPI's response format.
        var bytes: [UInt8] = [5, 0x80, 0, 0x21, 31, 0, 0, 0]
        bytes += Array("OSPITE  ".utf8) + Array("CD-ROM          ".utf8) + Array("1   ".utf8)
        return limited(bytes, word(packet, 3))
    }

    private func startStop(_ packet: [UInt8]) -> Answer {
        switch packet[4] & 3 {
        case 2: return tray.setOpen(true) ? .nothing : .failure(.locked)
        case 3: return tray.setOpen(false) ? .nothing : .failure(.locked)
        default: return .nothing
        }
    }

    /// Error recovery, capabilities (MMC-5 annex E), or both.
    private func modeSense(_ packet: [UInt8], isShort: Bool) -> Answer {
        // Saved values are not kept, changeable ones there are none.
        guard packet[2] >> 6 == 0 else { return .failure(.badField) }
        let recovery: [UInt8] = [0x01, 6, 0, 5, 0, 0, 0, 0]
        let lock: UInt8 = tray.saved.isLocked ? 2 : 0
        // Reads CD-R, CD-RW, DVD-ROM; multi-session; ejects, locks, tray; 11,080 kB/s.
        let abilities: [UInt8] = [
            0x2A, 18, 0x0B, 0, 0x71, 0x60, 0x29 | lock, 0, 0x2B, 0x48, 0, 2, 0x08, 0, 0x2B, 0x48, 0, 0, 0, 0,
        ]
        let pages: [UInt8]
        switch packet[2] & 0x3F {
        case 0x01: pages = recovery
        case 0x2A: pages = abilities
        case 0x3F: pages = recovery + abilities
        default: return .failure(.badField)
        }
        let medium: UInt8 = tray.disc == nil ? 0x70 : 0x01
        if isShort { return limited([UInt8(3 + pages.count), medium, 0, 0] + pages, Int(packet[4])) }
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt16(6 + pages.count))
        return limited(bytes + [medium, 0, 0, 0, 0, 0] + pages, word(packet, 7))
    }

    /// Formats 0 (tracks), 1 (sessions) of READ TOC/PMA/ATIP, MMC-5 §6.26: one data track.
    private func tableOfContents(_ packet: [UInt8], _ blocks: UInt64) -> Answer {
        let isTime = packet[1] & 2 != 0, track = packet[6], room = word(packet, 7)
        let format = packet[2] & 0x0F != 0 ? packet[2] & 0x0F : packet[9] >> 6
        func place(_ block: UInt64) -> [UInt8] {
            var bytes: [UInt8] = []
            guard isTime else {
                bytes.append(bigEndian: UInt32(clamping: block))
                return bytes
            }
            // Minutes, seconds and frames, 75 a second, with the lead-in of two seconds.
            let frames = block + 150
            return [
                0, UInt8(clamping: frames / 4500), UInt8(frames / 75 % 60), UInt8(frames % 75),
            ]
        }
        switch format {
        case 0:
            guard track <= 1 || track == 0xAA else { return .failure(.badField) }
            var bytes: [UInt8] = [1, 1]
            if track <= 1 { bytes += [0, 0x14, 1, 0] + place(0) }
            bytes += [0, 0x14, 0xAA, 0] + place(blocks)
            return limited([0, UInt8(bytes.count)] + bytes, room)
        case 1: return limited([0, 10, 1, 1, 0, 0x14, 1, 0] + place(0), room)
        default: return .failure(.badField)
        }
    }

    /// GET CONFIGURATION, MMC-5 §6.6: the profiles of CD-ROM and DVD-ROM, and the features of both.
    private func configuration(_ packet: [UInt8]) -> Answer {
        // As MMC says for discs that a CD cannot hold.
        let largestCD: UInt64 = 360_000
        let profile: UInt16 = blockCount.map { $0 > largestCD ? 0x10 : 0x08 } ?? 0
        func profileEntry(_ number: UInt16) -> [UInt8] {
            [UInt8(number >> 8), UInt8(number & 0xFF), number == profile ? 1 : 0, 0]
        }
        let features: [[UInt8]] = [
            [0, 0, 0x03, 8] + profileEntry(0x10) + profileEntry(0x08),
            // Core: ATAPI. Removable medium: tray with lock and eject.
            [0, 1, 0x0B, 8, 0, 0, 0, 2, 1, 0, 0, 0], [0, 3, 0x03, 4, 0x29, 0, 0, 0],
        ]
        let first = word(packet, 2), wanted = packet[1] & 3
        let chosen = features.filter { feature in
            let number = Int(feature[1])
            return wanted == 2 ? number == first : number >= first
        }
        let body = chosen.flatMap { $0 }
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(4 + body.count))
        bytes += [0, 0, UInt8(profile >> 8), UInt8(profile & 0xFF)]
        return limited(bytes + body, word(packet, 7))
    }

    /// GET EVENT STATUS NOTIFICATION, MMC-5 §6.7: polled, events of the medium.
    private func events(_ packet: [UInt8]) -> Answer {
        guard packet[1] & 1 != 0 else { return .failure(.badField) }
        let state = tray.saved
        let present: UInt8 = tray.disc == nil ? 0 : 2
        guard packet[4] & 0x10 != 0 else { return limited([0, 2, 0x80, 0x10], word(packet, 7)) }
        return limited([0, 6, 4, 0x10, 0, present | (state.isOpen ? 1 : 0), 0, 0], word(packet, 7))
    }
}
