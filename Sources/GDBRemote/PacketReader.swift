/// What comes from gdb, cut into packets (GDB manual, appendix E.1): `$payload#xx`, where `xx` is the sum of
/// the payload's bytes modulo 256, and `}` in the payload changes the byte after it by 0x20.
struct PacketReader {
    /// Longest payload before unescaping; announced as PacketSize.
    static let longestPayload = 0x4000

    enum Item: Equatable {
        case packet([UInt8])
        /// Its sum is wrong, or it is too long.
        case broken
        case acknowledged
        /// Send the last packet again.
        case repeatLast
        /// A lone 0x03: Ctrl-C.
        case interrupt
    }
    private enum State: Equatable { case outside, payload, firstDigit, secondDigit(UInt8?) }

    private var state = State.outside
    private var payload: [UInt8] = []
    private var sum: UInt8 = 0
    private var isTooLong = false

    /// The next item that `byte` completes.
    mutating func take(_ byte: UInt8) -> Item? {
        switch state {
        case .outside: return takeOutside(byte)
        case .payload:
            switch byte {
            case UInt8(ascii: "#"): state = .firstDigit
            // The end of the one before was lost.
            case UInt8(ascii: "$"): begin()
            default:
                sum &+= byte
                if payload.count < Self.longestPayload { payload.append(byte) } else { isTooLong = true }
            }
            return nil
        case .firstDigit:
            state = .secondDigit(Hex.digit(byte))
            return nil
        case .secondDigit(let high):
            state = .outside
            guard let high, let low = Hex.digit(byte), high << 4 | low == sum, !isTooLong else {
                return .broken
            }
            return .packet(Self.unescaped(payload))
        }
    }

    private mutating func takeOutside(_ byte: UInt8) -> Item? {
        switch byte {
        case UInt8(ascii: "$"): begin()
        case UInt8(ascii: "+"): return .acknowledged
        case UInt8(ascii: "-"): return .repeatLast
        case 0x03: return .interrupt
        // Noise on the line.
        default: break
        }
        return nil
    }

    private mutating func begin() {
        state = .payload
        payload.removeAll(keepingCapacity: true)
        sum = 0
        isTooLong = false
    }

    private static func unescaped(_ bytes: [UInt8]) -> [UInt8] {
        guard bytes.contains(UInt8(ascii: "}")) else { return bytes }
        var result: [UInt8] = []
        var isEscaped = false
        for byte in bytes {
            if !isEscaped, byte == UInt8(ascii: "}") {
                isEscaped = true
                continue
            }
            result.append(isEscaped ? byte ^ 0x20 : byte)
            isEscaped = false
        }
        return result
    }
}

/// A packet for gdb.
enum PacketWriter {
    static func frame(_ payload: some Sequence<UInt8>) -> [UInt8] {
        var frame = [UInt8(ascii: "$")]
        var sum: UInt8 = 0
        func append(_ byte: UInt8) {
            frame.append(byte)
            sum &+= byte
        }
        for byte in payload {
            switch byte {
            case UInt8(ascii: "$"), UInt8(ascii: "#"), UInt8(ascii: "}"), UInt8(ascii: "*"):
                append(UInt8(ascii: "}"))
                append(byte ^ 0x20)
            default: append(byte)
            }
        }
        frame.append(UInt8(ascii: "#"))
        frame += Hex.text(sum)
        return frame
    }
}
