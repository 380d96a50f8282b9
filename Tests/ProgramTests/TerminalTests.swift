import CLinux
import Foundation
import Testing

@testable import ospite

@Suite struct TerminalEscapeTests {
    @Test func `plain keys go to the guest`() {
        var escape = TerminalEscape()
        for byte in 2...255 as ClosedRange<UInt8> { #expect(escape.feed(byte) == .send(byte)) }
    }

    @Test(
        arguments: [
            ("x", .quit), ("X", .quit), ("h", .help), ("?", .help), ("\u{1}", .send(1)), ("q", .none),
        ] as [(String, TerminalEscape.Action)])
    func `Ctrl-A begins a command`(key: String, action: TerminalEscape.Action) throws {
        var escape = TerminalEscape()
        #expect(escape.feed(1) == .none)
        #expect(escape.feed(try #require(key.utf8.first)) == action)
        #expect(escape.feed(UInt8(ascii: "x")) == .send(UInt8(ascii: "x")))
    }
}

@Suite struct StopPolicyTests {
    @Test func `one signal asks, and patience has an end`() {
        var policy = StopPolicy()
        #expect(policy.tick(at: 1_000_000) == .none)
        #expect(policy.signalled(at: 100) == .pressPowerButton)
        #expect(policy.deadline == 10_100)
        #expect(policy.tick(at: 10_099) == .none)
        #expect(policy.tick(at: 10_100) == .stop)
        #expect(policy.tick(at: 12_099) == .none)
        #expect(policy.tick(at: 12_100) == .kill)
        #expect(policy.deadline == nil)
        #expect(policy.tick(at: 99_999) == .none)
    }

    @Test func `a second signal stops`() {
        var policy = StopPolicy()
        #expect(!policy.endWasAskedFor)
        #expect(policy.signalled(at: 0) == .pressPowerButton)
        #expect(policy.signalled(at: 1) == .stop)
        #expect(policy.signalled(at: 2) == .none)
        #expect(policy.endWasAskedFor)
    }
}

@Suite(.serialized) struct TerminalModeTests {
    private let folder: ScratchFolder
    private let master: FileHandle
    private let slave: FileHandle

    init() throws {
        folder = try ScratchFolder()
        // pty(7) by hand: unlock the slave (TIOCSPTLCK), ask for its number (TIOCGPTN).
        let descriptor = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
        var locked: Int32 = 0, number: Int32 = -1
        try #require(descriptor >= 0 && ospite_ioctl(descriptor, 0x4004_5431, &locked) == 0)
        try #require(ospite_ioctl(descriptor, 0x8004_5430, &number) == 0)
        master = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
        let path = "/dev/pts/\(number)"
        let terminal = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC)
        try #require(terminal >= 0)
        slave = FileHandle(fileDescriptor: terminal, closeOnDealloc: true)
    }

    private var localFlags: tcflag_t {
        var mode = termios()
        tcgetattr(slave.fileDescriptor, &mode)
        return mode.c_lflag
    }

    private func isRaw() -> Bool { localFlags & tcflag_t(ICANON | ECHO | ISIG) == 0 }

    private func start() throws -> RunningProgram {
        try #require(!isRaw())
        let program = try RunningProgram(
            BuiltPrograms.ospite, ["run", "--idle"], in: folder, terminal: slave)
        waitUntil("the terminal is raw") { isRaw() }
        return program
    }

    private func type(_ keys: String) throws { try master.write(contentsOf: Data(keys.utf8)) }

    @Test func `keys reach the guest, Ctrl-A X ends it, and the terminal is as before`() throws {
        let before = localFlags
        let program = try start()
        _ = try program.machineProcess()
        // Ctrl-C and Ctrl-Z are the guest's, and Ctrl-A twice is one Ctrl-A for it.
        try type("a\u{3}\u{1A}\u{1}\u{1}b")
        var echoed = Data()
        while echoed.count < 5 {
            let more = master.availableData
            guard !more.isEmpty else { break }
            echoed += more
        }
        #expect(echoed == Data("a\u{3}\u{1A}\u{1}b".utf8))
        try type("\u{1}x")
        #expect(program.status() == 0)
        #expect(localFlags == before)
    }

    @Test(arguments: [SIGTERM, SIGINT, SIGHUP, SIGQUIT])
    func `the terminal is restored after a signal`(signal: Int32) throws {
        let before = localFlags
        let program = try start()
        _ = try program.machineProcess()
        program.send(signal)
        #expect(program.status() == 0)
        #expect(localFlags == before)
    }

    @Test func `the terminal is restored when the machine dies`() throws {
        let before = localFlags
        let program = try start()
        kill(try program.machineProcess(), SIGKILL)
        #expect(program.status() == 1)
        #expect(localFlags == before)
    }

    @Test func `a stopped job gives the terminal back and takes it again`() throws {
        let before = localFlags
        let program = try start()
        let machine = try program.machineProcess()
        program.send(SIGTSTP)
        waitUntil("the command line stops") {
            RunningProgram.processes().contains { $0.identifier == program.identifier && $0.state == "T" }
        }
        #expect(localFlags == before)
        #expect(RunningProgram.isAlive(machine))
        program.send(SIGCONT)
        waitUntil("the terminal is raw again") { isRaw() }
        try type("\u{1}x")
        #expect(program.status() == 0)
        #expect(localFlags == before)
    }
}
