/// The control protocol, version 1. One packet of a sequenced-packet Unix socket is one frame:
///
///     le32 magic   le16 version   le16 kind   le32 length of the payload   payload
///
/// Both ends come from one build of Ospite or from neighbours of it; a peer of another version is refused.
enum Wire {
    /// "OSPc" as a little-endian word.
    static let magic: UInt32 = 0x6350_534F
    static let version: UInt16 = 1
    static let headerSize = 12
    /// Largest frame; the descriptions of the largest machines need about 5 KiB.
    static let longestFrame = 32_768
    /// Longest text field in bytes.
    static let longestText = 8_192
    /// In place of a resource index: there is none.
    static let noResource: UInt8 = 0xFF

    /// To the machine: below 0x100. From the machine: from 0x100.
    enum Kind {
        static let configure: UInt16 = 0x01
        static let powerButton: UInt16 = 0x02
        static let stop: UInt16 = 0x03
        static let pause: UInt16 = 0x04
        static let resume: UInt16 = 0x05
        static let insertDisc: UInt16 = 0x06
        static let ejectDisc: UInt16 = 0x07
        static let started: UInt16 = 0x101
        static let notice: UInt16 = 0x102
        static let statistics: UInt16 = 0x103
        static let failed: UInt16 = 0x104
        static let exited: UInt16 = 0x105
        static let paused: UInt16 = 0x106
        static let resumed: UInt16 = 0x107
        static let discChanged: UInt16 = 0x108
        static let discRefused: UInt16 = 0x109
    }

    static func frame(kind: UInt16, payload: [UInt8] = []) -> [UInt8] {
        var writer = WireWriter()
        writer.put(magic)
        writer.put(version)
        writer.put(kind)
        writer.put(UInt32(payload.count))
        return writer.bytes + payload
    }

    /// The kind, and a reader placed at the payload.
    static func open(_ frame: [UInt8]) throws(WireError) -> (kind: UInt16, payload: WireReader) {
        guard frame.count <= longestFrame else { throw WireError("a frame is longer than \(longestFrame)") }
        var reader = WireReader(frame)
        guard try reader.take(UInt32.self) == magic else { throw WireError("this is not a control frame") }
        let version = try reader.take(UInt16.self)
        guard version == Wire.version else {
            throw WireError(
                "the peer speaks version \(version) of the control protocol, we speak \(Wire.version)")
        }
        let kind = try reader.take(UInt16.self)
        guard Int(try reader.take(UInt32.self)) == frame.count - headerSize else {
            throw WireError("the length of the payload is wrong")
        }
        return (kind, reader)
    }
}
