/// The address of a network card (IEEE 802-2014 §8.2): six bytes, of one station and not of a group.
public struct MACAddress: Hashable, Sendable, CustomStringConvertible {
    /// Exactly six.
    public let bytes: [UInt8]

    /// Nil unless there are six bytes that can be the address of a card.
    public init?(bytes: [UInt8]) {
        guard bytes.count == 6, bytes[0] & 1 == 0, bytes.contains(where: { $0 != 0 }) else { return nil }
        self.bytes = bytes
    }

    public init(parsing text: String) throws(SpecError) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        let bytes = parts.compactMap { part in
            part.utf8.count == 2 && part.utf8.first != 0x2B ? UInt8(part, radix: 16) : nil
        }
        guard parts.count == 6, let address = MACAddress(bytes: bytes) else {
            throw SpecError(
                "mac=\(text) is no address of a card: write six pairs of hexadecimal digits, such as "
                    + "52:54:00:12:34:56, the first of them even.")
        }
        self = address
    }

    /// The address of card `number`, from 0 on, of a machine that was given none: always the same for the
    /// machine, and most likely no other machine's.
    public static func usual(for machine: MachineUUID, card number: Int) -> MACAddress {
        // The rest of the address is what tells version 4 identifiers apart.
        var bytes: [UInt8] = [0x52, 0x54, 0x00] + machine.bytes.suffix(3)
        bytes[5] &+= UInt8(truncatingIfNeeded: number)
        return MACAddress(known: bytes)
    }

    private init(known bytes: [UInt8]) { self.bytes = bytes }

    public var description: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
    }
}

/// What a network card is connected to.
public enum NetworkConnection: UInt8, Sendable, CaseIterable {
    /// Nothing: the guest sees a card whose cable is not plugged in.
    case unplugged = 0
}

/// One network card of the machine.
public struct NetworkSpec: Equatable, Sendable {
    public var connection: NetworkConnection
    public var address: MACAddress
    /// The card's expansion ROM, for a firmware that boots from it.
    public var rom: ResourceIndex?
    /// The root port that it is behind, from 1 on; nil: on the board's own bus.
    public var rootPort: Int?

    public init(
        connection: NetworkConnection = .unplugged, address: MACAddress, rom: ResourceIndex? = nil,
        rootPort: Int? = nil
    ) {
        self.connection = connection
        self.address = address
        self.rom = rom
        self.rootPort = rootPort
    }
}
