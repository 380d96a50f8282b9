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
    }

    @Test func `a wrong sum, or one that is no number, breaks a packet`() {
        #expect(items("$g#68".utf8) == [.broken])
        #expect(items("$g#6x".utf8) == [.broken])
        #expect(items("$g#x7".utf8) == [.broken])
    }
}
