public import BlockStorage
internal import ByteLayout

/// A disk that understands SCSI commands (SPC-4, SBC-3): what they ask for, and what it says of itself. It
/// moves nothing.
///
/// Confinement: any thread.
public final class SCSIDisk: Sendable {
    public static let blockSize = 512
    /// Of a command that unmaps or writes one block again and again: 2 GiB, so that it stays short.
    public static let largestRange: UInt64 = 4 << 20
    public static let mostRanges = 256
    /// Of a command that moves data: 32 MiB.
    public static let largestTransfer: UInt64 = 1 << 16

    public let backend: any BlockBackend
    private let serial: String

    /// `serial` has at most 20 ASCII characters.
    public init(_ backend: any BlockBackend, serial: String) {
        self.backend = backend
        self.serial = serial
    }

    private func number(_ packet: [UInt8], _ range: Range<Int>) -> UInt64 {
        packet[range].reduce(0) { $0 << 8 | UInt64($1) }
    }

    private func limited(_ bytes: [UInt8], _ room: UInt64) -> SCSIAction {
        .data(Array(bytes.prefix(Int(min(room, UInt64(bytes.count))))))
    }

    /// What a command asks for. `packet` has at least 16 bytes.
    public func understand(_ packet: [UInt8]) -> SCSIAction {
        switch packet[0] {
        case SCSIOperation.testUnitReady, SCSIOperation.startStop, SCSIOperation.preventRemoval:
            return .nothing
        // Whatever was wrong was told with the status.
        case SCSIOperation.requestSense: return limited(SCSISense.none.bytes, UInt64(packet[4]))
        case SCSIOperation.inquiry: return inquiry(packet)
        case SCSIOperation.modeSense6: return modeSense(packet, isShort: true)
        case SCSIOperation.modeSense10: return modeSense(packet, isShort: false)
        case SCSIOperation.readCapacity10:
            var bytes: [UInt8] = []
            bytes.append(bigEndian: UInt32(clamping: max(backend.capacity, 1) - 1))
            bytes.append(bigEndian: UInt32(Self.blockSize))
            return .data(bytes)
        case SCSIOperation.serviceIn16: return capacity16(packet)
        case SCSIOperation.reportUnits:
            // One unit, 0, with a list of eight bytes.
            return limited(
                [0, 0, 0, 8] + [UInt8](repeating: 0, count: 12), number(packet, 6..<10))
        case SCSIOperation.synchronize10, SCSIOperation.synchronize16: return .flush
        case SCSIOperation.unmap: return .unmap(size: Int(number(packet, 7..<9)))
        case SCSIOperation.writeSame16: return writeSame(packet)
        default: return transfer(packet)
        }
    }

    // MARK: Blocks

    /// Whether the disk has these blocks.
    public func isInside(_ first: UInt64, _ count: UInt64) -> Bool {
        first <= backend.capacity && count <= backend.capacity - first
    }

    private func transfer(_ packet: [UInt8]) -> SCSIAction {
        let code = packet[0], first: UInt64, count: UInt64
        switch code {
        case SCSIOperation.read6, SCSIOperation.write6:
            first = number(packet, 1..<4) & 0x1F_FFFF
            count = packet[4] == 0 ? 256 : UInt64(packet[4])
        case SCSIOperation.read10, SCSIOperation.write10, SCSIOperation.verify10:
            (first, count) = (number(packet, 2..<6), number(packet, 7..<9))
        case SCSIOperation.read12, SCSIOperation.write12:
            (first, count) = (number(packet, 2..<6), number(packet, 6..<10))
        case SCSIOperation.read16, SCSIOperation.write16, SCSIOperation.verify16:
            (first, count) = (number(packet, 2..<10), number(packet, 10..<14))
        default: return .failure(.unknownCommand)
        }
        guard isInside(first, count) else { return .failure(.outOfRange) }
        let writes: Set = [
            SCSIOperation.write6, SCSIOperation.write10, SCSIOperation.write12, SCSIOperation.write16,
        ]
        let isVerify = code == SCSIOperation.verify10 || code == SCSIOperation.verify16
        // Comparing with what the initiator sends is not offered.
        if isVerify { return packet[1] & 6 == 0 ? .nothing : .failure(.badField) }
        guard count <= Self.largestTransfer else { return .failure(.badField) }
        guard writes.contains(code) else { return .read(first: first, count: count) }
        guard !backend.isReadOnly else { return .failure(.writeProtected) }
        let isDurable = code != SCSIOperation.write6 && packet[1] & 8 != 0
        return .write(first: first, count: count, isDurable: isDurable)
    }

    /// WRITE SAME(16) of zeroes, SBC-3 §5.48; whether they are zeroes is for the caller to see.
    private func writeSame(_ packet: [UInt8]) -> SCSIAction {
        let first = number(packet, 2..<10), wanted = number(packet, 10..<14)
        guard first <= backend.capacity else { return .failure(.outOfRange) }
        // No count is all the rest.
        let count = wanted == 0 ? backend.capacity - first : wanted
        guard isInside(first, count) else { return .failure(.outOfRange) }
        // Anchors, and data that counts on, are not offered.
        guard packet[1] & 0x16 == 0, count <= Self.largestRange else { return .failure(.badField) }
        guard !backend.isReadOnly else { return .failure(.writeProtected) }
        return .writeSame(first: first, count: count, unmaps: packet[1] & 8 != 0)
    }

    /// The list of UNMAP, SBC-3 §5.28: lengths, then descriptors of first block and count.
    public func ranges(_ list: [UInt8]) throws(SCSISense) -> [BlockRequest] {
        guard !backend.isReadOnly else { throw SCSISense.writeProtected }
        guard list.count >= 8 else { throw SCSISense.badParameter }
        let count = min(Int(number(list, 2..<4)), list.count - 8) / 16
        guard count <= Self.mostRanges else { throw SCSISense.badParameter }
        var ranges: [BlockRequest] = []
        for index in 0..<count {
            let place = 8 + 16 * index
            let first = number(list, place..<place + 8), blocks = number(list, place + 8..<place + 12)
            guard isInside(first, blocks), blocks <= Self.largestRange else {
                throw SCSISense.outOfRange
            }
            if blocks > 0 { ranges.append(BlockRequest(.discard, sector: first, sectorCount: blocks)) }
        }
        return ranges
    }

    private func capacity16(_ packet: [UInt8]) -> SCSIAction {
        guard packet[1] & 0x1F == SCSIOperation.readCapacity16 else { return .failure(.badField) }
        var bytes: [UInt8] = []
        bytes.append(bigEndian: max(backend.capacity, 1) - 1)
        bytes.append(bigEndian: UInt32(Self.blockSize))
        // Eight blocks in a physical one; blocks can be unmapped.
        bytes += [0, 3, backend.isReadOnly ? 0 : 0x80, 0] + [UInt8](repeating: 0, count: 16)
        return limited(bytes, number(packet, 10..<14))
    }

    // MARK: Identity

    private func inquiry(_ packet: [UInt8]) -> SCSIAction {
        let room = number(packet, 3..<5)
        guard packet[1] & 1 == 0 else { return vitalProduct(packet[2], room) }
        guard packet[2] == 0 else { return .failure(.badField) }
        // A disk; SPC-4; command queueing.
        var bytes: [UInt8] = [0, 0, 6, 2, 31, 0, 0, 2]
        bytes += Array("OSPITE  ".utf8) + Array("Disk            ".utf8) + Array("1   ".utf8)
        return limited(bytes, room)
    }

    /// Vital product data, SPC-4 §7.8, SBC-3 §6.6.
    private func vitalProduct(_ page: UInt8, _ room: UInt64) -> SCSIAction {
        let identifier = Array("OSPITE  ".utf8) + Array(serial.utf8.prefix(20))
        var body: [UInt8]
        switch page {
        case 0x00: body = [0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]
        case 0x80: body = Array(serial.utf8.prefix(20))
        // Of the unit, in ASCII, with our name before it.
        case 0x83: body = [2, 1, 0, UInt8(identifier.count)] + identifier
        case 0xB0:
            body = [UInt8](repeating: 0, count: 60)
            for (place, value) in [
                (4, UInt32(Self.largestTransfer)), (16, UInt32(Self.largestRange)),
                (20, UInt32(Self.mostRanges)), (24, 8),
            ] {
                for byte in 0..<4 { body[place + byte] = UInt8(value >> UInt32(24 - 8 * byte) & 0xFF) }
            }
            // The largest WRITE SAME, of eight bytes.
            for byte in 0..<4 {
                body[36 + byte] = UInt8(Self.largestRange >> UInt64(24 - 8 * byte) & 0xFF)
            }
        // It does not rotate.
        case 0xB1: body = [0, 1] + [UInt8](repeating: 0, count: 58)
        // UNMAP and WRITE SAME(16) give blocks up; without a promise of what they read as.
        case 0xB2: body = [0, backend.isReadOnly ? 0 : 0xC0, backend.isReadOnly ? 0 : 2, 0]
        default: return .failure(.badField)
        }
        return limited([0, page, UInt8(body.count >> 8), UInt8(body.count & 0xFF)] + body, room)
    }

    /// Caching (SBC-3 §6.5.5) is the only page that says something.
    private func modeSense(_ packet: [UInt8], isShort: Bool) -> SCSIAction {
        let control = packet[2] >> 6, page = packet[2] & 0x3F
        guard control != 3, page == 0x08 || page == 0x3F else { return .failure(.badField) }
        // There is a write cache; nothing can be changed.
        let caching: [UInt8] = [0x08, 18, control == 1 ? 0 : 4] + [UInt8](repeating: 0, count: 17)
        // Write-protected; forced unit access.
        let device: UInt8 = (backend.isReadOnly ? 0x80 : 0) | 0x10
        if isShort { return limited([UInt8(3 + caching.count), 0, device, 0] + caching, UInt64(packet[4])) }
        let header = [0, UInt8(6 + caching.count), 0, device, 0, 0, 0, 0]
        return limited(header + caching, number(packet, 7..<9))
    }
}
