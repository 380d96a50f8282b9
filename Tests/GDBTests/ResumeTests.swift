import Testing
import X86Architecture

@testable import GDBRemote

@Suite struct ResumeTests {
    @Test(arguments: [
        ("vCont;c", [0, 1], []), ("vCont;s:1;c", [1], [0]), ("vCont;s:2", [], [1]), ("vCont;c:1", [0], []),
        ("vCont;C05:1;S05:2", [0], [1]), ("vCont;c:1;c:1;s", [0], [1]), ("vCont;s:-1", [], [0, 1]),
        ("vCont;s:0", [], [0]), ("c", [0, 1], []), ("s", [], [0]), ("C05", [0, 1], []), ("S05", [], [0]),
    ])
    func `what goes on, and how`(packet: String, running: [Int], stepping: [Int]) {
        var gdb = FakeDebugger()
        #expect(gdb.act(packet) == [.resume(running: Set(running), stepping: Set(stepping))])
    }

    @Test(arguments: [
        "vCont;", "vCont;x", "vCont;c:9", "vCont;c:", "vCont;C", "vCont;c;", "C", "cx", "C05;x", "vCont;cc",
    ])
    func `a plan without sense is refused, and nothing runs`(packet: String) {
        var gdb = FakeDebugger()
        #expect(gdb.ask(packet) == "E16")
        #expect(gdb.ask("qC") == "QC1")
    }

    @Test func `going on elsewhere sets RIP`() {
        var gdb = FakeDebugger()
        #expect(gdb.act("C05;1234") == [.resume(running: [0, 1], stepping: [])])
        #expect(gdb.target.states[0].rip == 0x1234)
    }

    @Test func `Hc says who steps`() {
        var gdb = FakeDebugger()
        #expect(gdb.ask("Hc2") == "OK")
        #expect(gdb.act("s") == [.resume(running: [], stepping: [1])])
    }

    private func stop(
        _ report: DebugReport, vcpu: Int = 1, features: String = "swbreak+;hwbreak+"
    ) -> [String] {
        var gdb = FakeDebugger()
        _ = gdb.ask("qSupported:\(features)")
        _ = gdb.act("c")
        gdb.session.stopped(report, vcpu: vcpu)
        let answers = FakeDebugger.answers(gdb.session.takeOutput())
        #expect(gdb.ask("?") == answers.last)
        #expect(gdb.ask("qC") == "QC\(vcpu + 1)")
        return answers
    }

    @Test func `a stop says why and where`() {
        #expect(stop(.stepped) == ["T05thread:2;"])
        #expect(stop(.interrupted, vcpu: 0) == ["T02thread:1;"])
        #expect(stop(.breakpoint(isHardware: false)) == ["T05swbreak:;thread:2;"])
        #expect(stop(.breakpoint(isHardware: true)) == ["T05hwbreak:;thread:2;"])
        #expect(stop(.breakpoint(isHardware: false), features: "multiprocess+") == ["T05thread:2;"])
        #expect(stop(.watchpoint(kind: .write, address: 0xFFFF)) == ["T05watch:ffff;thread:2;"])
        #expect(stop(.watchpoint(kind: .read, address: 1)) == ["T05rwatch:1;thread:2;"])
        #expect(stop(.watchpoint(kind: .access, address: 1)) == ["T05awatch:1;thread:2;"])
    }

    @Test func `while the machine runs, gdb may interrupt, leave, or end it, and nothing else`() {
        var gdb = FakeDebugger()
        #expect(gdb.send(bytes: [3]).actions == [], "it stands still")
        _ = gdb.act("c")
        let (actions, answers) = gdb.send(bytes: FakeDebugger.packet("g") + [3])
        #expect(actions == [.interrupt])
        #expect(answers == ["+"])
        gdb.session.stopped(.interrupted, vcpu: 0)
        gdb.session.stopped(.interrupted, vcpu: 0)
        #expect(FakeDebugger.answers(gdb.session.takeOutput()) == ["T02thread:1;"], "told once")
        _ = gdb.act("c")
        #expect(gdb.act("k") == [.kill])
        #expect(gdb.act("D") == [.detach])
    }

    @Test func `leaving is acknowledged, and so is the polite way to end the machine`() {
        var gdb = FakeDebugger()
        let leaving = gdb.send(bytes: FakeDebugger.packet("D"))
        #expect(leaving.actions == [.detach])
        #expect(leaving.answers == ["+", "OK"])
        let ending = gdb.send(bytes: FakeDebugger.packet("vKill;1"))
        #expect(ending.actions == [.kill])
        #expect(ending.answers == ["+", "OK"])
        #expect(gdb.act("k") == [.kill])
    }

    @Test func `a gdb that waits is told that the machine has ended`() {
        var gdb = FakeDebugger()
        gdb.session.ended(status: 3)
        #expect(gdb.session.takeOutput() == [], "it asked for nothing")
        _ = gdb.act("c")
        gdb.session.ended(status: 3)
        #expect(FakeDebugger.answers(gdb.session.takeOutput()) == ["W03"])
    }

    @Test func `packets behind one that lets the machine go wait for it`() {
        var gdb = FakeDebugger()
        gdb.session.feed(FakeDebugger.packet("c") + [3] + FakeDebugger.packet("qC"))
        #expect(gdb.session.next(&gdb.target) == .resume(running: [0, 1], stepping: []))
        #expect(gdb.session.next(&gdb.target) == .interrupt)
        gdb.session.stopped(.interrupted, vcpu: 1)
        #expect(gdb.session.next(&gdb.target) == nil)
        #expect(FakeDebugger.answers(gdb.session.takeOutput()).suffix(2) == ["+", "QC2"])
    }
}
