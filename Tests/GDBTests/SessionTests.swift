import Testing
import X86Architecture

@testable import GDBRemote

@Suite struct SessionTests {
    // MARK: The connection

    @Test func `a session begins with a machine that stands still`() {
        var gdb = FakeDebugger()
        #expect(gdb.ask("?") == "T02thread:1;")
        #expect(gdb.ask("qAttached") == "1")
        #expect(gdb.ask("qC") == "QC1")
    }

    @Test func `what is not known is answered with nothing`() {
        var gdb = FakeDebugger()
        for packet in ["", "!", "qTStatus", "vMustReplyEmpty", "QNonStop:1", "e", "vFile:open"] {
            #expect(gdb.ask(packet) == "", "\(packet)")
        }
    }

    @Test func `a broken packet is asked for again, and so is a lost answer`() {
        var gdb = FakeDebugger()
        #expect(gdb.send(bytes: Array("$qC#00".utf8)).answers == ["-"])
        #expect(gdb.ask("qC") == "QC1")
        #expect(gdb.send(bytes: Array("-".utf8)).answers == ["QC1"])
    }

    @Test func `without acknowledgements there are none`() {
        var gdb = FakeDebugger()
        #expect(gdb.ask("QStartNoAckMode") == "OK")
        #expect(gdb.send(bytes: FakeDebugger.packet("qC")).answers == ["QC1"])
        #expect(gdb.send(bytes: Array("-$qC#00".utf8)).answers == [])
    }

    @Test func `the packet size that is announced holds`() throws {
        var gdb = FakeDebugger()
        let features = gdb.ask("qSupported:multiprocess+;swbreak+").split(separator: ";")
        let size = try #require(features.first { $0.hasPrefix("PacketSize=") }?.dropFirst(11))
        let limit = try #require(Int(size, radix: 16))
        #expect(gdb.ask("mffff800000001000,ffffffff").count <= limit)
        #expect(features.contains("qXfer:features:read+"))
    }

    // MARK: Registers

    private func registers(_ description: String) -> [String: (number: Int, bits: Int)] {
        var result: [String: (Int, Int)] = [:]
        for line in description.split(separator: "\n") where line.hasPrefix("<reg ") {
            let words = line.split(separator: "\"")
            result[String(words[1])] = (result.count, Int(words[3]) ?? 0)
        }
        return result
    }

    private func description(_ gdb: inout FakeDebugger) -> String {
        var text = ""
        while true {
            let part = gdb.ask("qXfer:features:read:target.xml:\(String(text.utf8.count, radix: 16)),100")
            text += part.dropFirst()
            if !part.hasPrefix("m") { return text }
        }
    }

    @Test func `the description in parts is the whole, and tells how long g is`() {
        var gdb = FakeDebugger()
        let text = description(&gdb)
        #expect(Array(text.utf8) == TargetDescription.document)
        let bits = registers(text).values.reduce(0) { $0 + $1.bits }
        #expect(gdb.ask("g").count == bits / 8 * 2)
        #expect(gdb.ask("qXfer:features:read:target.xml:fffff,100") == "l")
        #expect(gdb.ask("qXfer:features:read:other.xml:0,100") == "E00")
    }

    @Test(arguments: [
        ("rax", "efcdab8967452301"), ("rsp", "0010000000000000"), ("r15", "ffffffffffffffff"),
        ("rip", "785634120080ffff"), ("eflags", "06020000"), ("cr0", "1000000000000000"),
        ("cr3", "00a0000000000000"), ("efer", "0005000000000000"), ("fs_base", "0000000000c0ffff"),
        ("k_gs_base", "0102030405060708"), ("mxcsr", "a01f0000"), ("fctrl", "7f020000"),
        ("xmm15", "000102030405060708090a0b0c0d0e0f"), ("st0", "0000000000000080ff3f"),
        ("ymm3h", "101112131415161718191a1b1c1d1e1f"),
    ])
    func `a register that is written reads the same, by itself and in the whole`(
        name: String, value: String
    ) throws {
        var gdb = FakeDebugger()
        let all = registers(description(&gdb))
        let (number, _) = try #require(all[name])
        let digits = String(number, radix: 16)
        #expect(gdb.ask("P\(digits)=\(value)") == "OK")
        #expect(gdb.ask("p\(digits)") == value)
        let before = all.values.filter { $0.number < number }.reduce(0) { $0 + $1.bits / 4 }
        let whole = gdb.ask("g")
        #expect(whole.dropFirst(before).hasPrefix(value))
        // And the other vCPU has none of it.
        #expect(gdb.ask("Hg2") == "OK")
        #expect(gdb.ask("p\(digits)") != value)
        #expect(gdb.ask("G\(whole)") == "OK")
        #expect(gdb.ask("p\(digits)") == value)
    }

    @Test func `gdb's order of registers is not that of the encoding`() {
        var gdb = FakeDebugger()
        gdb.target.states[0].gpr = Array(0..<16)
        let order: [UInt64] = [0, 3, 1, 2, 6, 7, 5, 4] + Array(8..<16)
        for (number, value) in order.enumerated() {
            #expect(
                gdb.ask("p\(String(number, radix: 16))").hasPrefix(
                    String(decoding: Hex.text([UInt8(value)]), as: UTF8.self)))
        }
    }

    @Test func `a selector stands for a descriptor, but not in real mode`() throws {
        var gdb = FakeDebugger()
        let number = try #require(registers(description(&gdb))["ds"]).number
        let name = String(number, radix: 16)
        #expect(gdb.ask("P\(name)=34120000") == "OK")
        #expect(gdb.target.states[0].segments[3].base == 0x12340)
        gdb.target.states[0].cr0 |= CR0.protectionEnable
        #expect(gdb.ask("P\(name)=34120000") == "OK", "the value that it has")
        #expect(gdb.ask("P\(name)=18000000") == "E16")
    }

    @Test func `tags of x87 registers are made from what is in them`() throws {
        var gdb = FakeDebugger()
        let all = registers(description(&gdb))
        let tag = String(try #require(all["ftag"]).number, radix: 16)
        let first = String(try #require(all["st0"]).number, radix: 16)
        let second = String(try #require(all["st1"]).number, radix: 16)
        #expect(gdb.ask("p\(tag)") == "ffff0000")
        // 1.0 and 0.0 in R0 and R1, as TOP is 0.
        #expect(gdb.ask("P\(first)=0000000000000080ff3f") == "OK")
        #expect(gdb.ask("P\(second)=00000000000000000000") == "OK")
        #expect(gdb.ask("P\(tag)=f0ff0000") == "OK")
        #expect(gdb.ask("p\(tag)") == "f4ff0000")
    }

    @Test(arguments: ["p", "p999", "p0,0", "P0=00", "P999=00", "P0", "Pzz=0", "G00", "G0", "Gxx"])
    func `a register that there is not, or a value of another size, is refused`(packet: String) {
        var gdb = FakeDebugger()
        #expect(gdb.ask(packet) == "E16")
    }

    // MARK: Memory

    @Test func `memory is read and written, as text and as bytes`() {
        var gdb = FakeDebugger()
        #expect(gdb.ask("mffff800000001010,4") == "10111213")
        #expect(gdb.ask("Mffff800000001010,2:abcd") == "OK")
        #expect(gdb.ask("mffff800000001010,4") == "abcd1213")
        let binary = Array("Xffff800000001010,3:".utf8) + [0x23, 0x7D, 0x00]
        #expect(gdb.send(bytes: PacketWriter.frame(binary)).answers == ["+", "OK"])
        #expect(gdb.ask("mffff800000001010,4") == "237d0013")
        #expect(gdb.ask("Xffff800000001010,0:") == "OK")
    }

    @Test func `a read ends where memory ends, and one of nothing fails`() {
        var gdb = FakeDebugger()
        #expect(gdb.ask("mffff800000010ffe,10") == "feff")
        #expect(gdb.ask("mffff800000011000,1") == "E0e")
        #expect(gdb.ask("m1000,4") == "E0e", "no linear address")
        #expect(gdb.ask("Mffff800000010fff,2:0000") == "E0e")
    }

    @Test func `physical addresses are for those who ask`() {
        var gdb = FakeDebugger()
        #expect(gdb.ask("qqemu.PhyMemMode") == "0")
        #expect(gdb.ask("Qqemu.PhyMemMode:1") == "OK")
        #expect(gdb.ask("qqemu.PhyMemMode") == "1")
        #expect(gdb.ask("m1010,2") == "1011")
        #expect(gdb.ask("Qqemu.PhyMemMode:2") == "E16")
        #expect(gdb.ask("qRcmd," + String(decoding: Hex.text("physical off".utf8), as: UTF8.self)) == "OK")
        #expect(gdb.ask("m1010,2") == "E0e")
    }

    @Test func `monitor translates, and helps`() {
        var gdb = FakeDebugger()
        func monitor(_ text: String) -> String {
            let answer = gdb.ask("qRcmd," + String(decoding: Hex.text(text.utf8), as: UTF8.self))
            return String(decoding: Hex.bytes(Array(answer.utf8)[...]) ?? [], as: UTF8.self)
        }
        #expect(monitor("translate 0xffff800000001234") == "0x1234\n")
        #expect(monitor("translate 0") == "no page is present\n")
        #expect(monitor("translate nonsense").contains("translate ADDR"))
        #expect(monitor("").contains("physical on|off"))
    }

    @Test(arguments: [
        "m", "m0", "m0,", "mx,1", "m0,1,2", "M0,1", "M0,1:0", "M0,2:00", "X0,5:abc", "m10000000000000000,1",
    ])
    func `a memory packet without sense is refused`(packet: String) {
        var gdb = FakeDebugger()
        #expect(gdb.ask(packet) == "E16")
    }

    // MARK: Points

    @Test func `points of every kind come and go`() {
        var gdb = FakeDebugger()
        for kind in DebugPoint.Kind.allCases {
            #expect(gdb.ask("Z\(kind.rawValue),ffff,4") == "OK")
            #expect(gdb.target.points == [DebugPoint(kind: kind, address: 0xFFFF, length: 4)])
            #expect(gdb.ask("z\(kind.rawValue),ffff,4") == "OK")
            #expect(gdb.target.points.isEmpty)
        }
        #expect(gdb.ask("Z2,ffff,40") == "E16", "the machine cannot")
        for packet in ["Z5,0,1", "Z0", "Z0,0", "Zx,0,1", "z9,0,1", "Zffffffffffffffff,0,1"] {
            #expect(gdb.ask(packet) == "E16", "\(packet)")
        }
    }

    // MARK: Threads

    @Test func `vCPUs are threads`() {
        var gdb = FakeDebugger()
        gdb.target.states[1].activity = .waitingForStartup
        #expect(gdb.ask("qfThreadInfo") == "m1,2")
        #expect(gdb.ask("qsThreadInfo") == "l")
        #expect(gdb.ask("T2") == "OK")
        #expect(gdb.ask("T3") == "E16")
        let extra = gdb.ask("qThreadExtraInfo,2")
        let text = String(decoding: Hex.bytes(Array(extra.utf8)[...]) ?? [], as: UTF8.self)
        #expect(text == "vCPU 1: waits to be started")
        #expect(gdb.ask("Hg2") == "OK")
        #expect(gdb.ask("qC") == "QC2")
        #expect(gdb.ask("Hg3") == "E16")
        #expect(gdb.ask("Hg0") == "OK")
        #expect(gdb.ask("Hc-1") == "OK")
        #expect(gdb.ask("Hx1") == "E16")
    }
}
