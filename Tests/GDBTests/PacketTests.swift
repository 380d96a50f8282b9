import Testing

@testable import GDBRemote

@Suite struct PacketTests {
    private func items(_ bytes: some Sequence<UInt8>) -> [PacketReader.Item] {
        var reader = PacketReader()
        return bytes.compactMap { reader.take($0) }
    }

    @Test func `a packet is its payload, between signs and with its sum`() {
        #expect(items("+$g#67".utf8) == [.acknowledged, .packet(Array("g".utf8))])
        #expect(items("$#00".utf8) == [.packet([])])
        #expect(items("$m1,2#FC$?#3f".utf8) == [.packet(Array("m1,2".utf8)), .packet([0x3F])])
    }

    @Test func `a wrong sum, or one that is no number, breaks a packet`() {
        #expect(items("$g#68".utf8) == [.broken])
        #expect(items("$g#6x".utf8) == [.broken])
        #expect(items("$g#x7".utf8) == [.broken])
    }

    @Test func `escaped bytes come back, and a lone escape is nothing`() {
        let payload: [UInt8] = [0x58, 0x23, 0x24, 0x7D, 0x2A, 0x03, 0x00, 0xFF]
        #expect(items(PacketWriter.frame(payload)) == [.packet(payload)])
        #expect(items("$a}#de".utf8) == [.packet(Array("a".utf8))])
    }

    @Test func `3 is Ctrl-C outside a packet and a byte inside`() {
        #expect(items([0x03]) == [.interrupt])
        #expect(items([0x24, 0x03, 0x23, 0x30, 0x33]) == [.packet([0x03])])
    }

    @Test func `a new packet begins in the middle of a lost one`() {
        #expect(items("$m1$g#67".utf8) == [.packet(Array("g".utf8))])
        #expect(items("noise$g#67noise".utf8) == [.packet(Array("g".utf8))])
    }

    @Test func `a packet that is too long is broken, and the next one is read`() {
        let long = [UInt8](repeating: 0x41, count: PacketReader.longestPayload)
        #expect(items(PacketWriter.frame(long)) == [.packet(long)])
        #expect(items(PacketWriter.frame(long + [0x41])) == [.broken])
        #expect(items(PacketWriter.frame(long + long) + Array("$g#67".utf8)).last == .packet([0x67]))
    }
}
