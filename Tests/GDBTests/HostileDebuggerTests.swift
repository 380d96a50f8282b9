import Testing
import X86Architecture

@testable import GDBRemote

/// No input may crash a session, make it grow, or break its own framing.
@Suite struct HostileDebuggerTests {
    /// SplitMix64: the same bytes in every run.
    private struct Numbers: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return z ^ (z >> 31)
        }
    }

    private static let seeds = [
        "?", "g", "G00", "p10", "P3=0011223344556677", "mffff800000001000,40", "Mffff800000001000,2:aabb",
        "Xffff800000001000,1:a", "Z0,1000,1", "Z2,1000,8", "z3,1000,4", "Hg1", "Hc-1", "T2", "c", "s1000",
        "C05;1000", "vCont?", "vCont;s:1;c", "vCont;C05:2", "vKill;1", "qSupported:swbreak+",
        "qXfer:features:read:target.xml:0,fff", "qfThreadInfo", "qThreadExtraInfo,1", "qRcmd,68656c70",
        "qqemu.PhyMemMode", "Qqemu.PhyMemMode:1", "QStartNoAckMode", "D", "k",
    ]

    private func mutated(_ text: String, _ numbers: inout Numbers) -> [UInt8] {
        var bytes = Array(text.utf8)
        for _ in 0..<Int.random(in: 0...3, using: &numbers) {
            let place = Int.random(in: 0...bytes.count, using: &numbers)
            switch Int.random(in: 0..<4, using: &numbers) {
            case 0: bytes.insert(UInt8.random(in: 0...255, using: &numbers), at: place)
            case 1 where place < bytes.count: bytes[place] = UInt8.random(in: 0...255, using: &numbers)
            case 2 where place < bytes.count: bytes.removeSubrange(place...)
            default: bytes.insert(contentsOf: "ffffffffffffffff".utf8, at: place)
            }
        }
        return bytes
    }

    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `mutated packets are answered with whole packets`(seed: UInt64) throws {
        var numbers = Numbers(state: seed)
        var gdb = FakeDebugger()
        for round in 0..<4000 {
            let text = try #require(Self.seeds.randomElement(using: &numbers))
            var frame = PacketWriter.frame(mutated(text, &numbers))
            if Int.random(in: 0..<8, using: &numbers) == 0 {
                frame[Int.random(in: 0..<frame.count, using: &numbers)] ^= 1 << UInt8.random(in: 0...7)
            }
            let (actions, answers) = gdb.send(bytes: frame)
            try #require(!answers.contains("broken"), "round \(round)")
            try #require(gdb.target.memory.count == 0x10000)
            for case .resume in actions { gdb.session.stopped(.stepped, vcpu: Int(seed & 1)) }
            _ = gdb.session.takeOutput()
            if round % 100 == 99 { gdb = FakeDebugger() }
        }
    }

    @Test func `bytes without any order are survived`() {
        var numbers = Numbers(state: 7)
        var gdb = FakeDebugger()
        let alphabet = Array("$#+-}*:;,=0123456789abcdefgGmMxXzZpPvqQsckDHT\u{3}".utf8)
        for _ in 0..<2000 {
            let bytes = (0..<200).map { _ in alphabet.randomElement(using: &numbers) ?? 0 }
            for case .resume in gdb.send(bytes: bytes).actions { gdb.session.stopped(.stepped, vcpu: 0) }
            _ = gdb.session.takeOutput()
        }
        let answers = gdb.send(bytes: FakeDebugger.packet("qC")).answers
        #expect(answers.last?.hasPrefix("QC") == true, "it still listens")
    }

    @Test func `questions without end do not fill the memory`() {
        var gdb = FakeDebugger()
        let question = FakeDebugger.packet("mffff800000001000,2000")
        gdb.session.feed([[UInt8]](repeating: question, count: 10_000).joined())
        #expect(gdb.session.next(&gdb.target) == nil)
        let limit = GDBSession.mostOutput + PacketReader.longestPayload + 16
        #expect(gdb.session.takeOutput().count <= limit)
        #expect(gdb.ask("qC") == "QC1", "and then it is heard again")
    }

    @Test func `numbers beyond 64 bits, and lengths beyond any memory, are refused or cut`() {
        var gdb = FakeDebugger()
        #expect(gdb.ask("m\(String(repeating: "f", count: 17)),1") == "E16")
        #expect(gdb.ask("mffff800000001000,\(String(repeating: "f", count: 16))").count == 0x4000)
        #expect(gdb.ask("mffffffffffffffff,ffffffffffffffff") == "E0e")
        #expect(gdb.ask("Mffffffffffffffff,2:0000") == "E0e")
    }
}
