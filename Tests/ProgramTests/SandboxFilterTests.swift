import Testing

@testable import VMMSandbox

@Suite struct SandboxFilterTests {
    private typealias Verdict = BPFProgram.Verdict
    private let sandbox = Sandbox(mode: .on)

    @Test(arguments: ThreadClass.allCases)
    func `no class opens, connects, starts programs or reaches other processes`(threadClass: ThreadClass) {
        let program = sandbox.program(for: threadClass)
        // open, socket, connect, bind, execve, kill, ptrace, mount, unshare, process_vm_readv, bpf,
        // userfaultfd, execveat, openat2
        for number in [2, 41, 42, 49, 59, 62, 101, 165, 272, 310, 321, 323, 322, 437] as [UInt32] {
            #expect(program.verdict(number: number) == Verdict.killProcess, "\(number)")
        }
        // The C library may try openat, and is told EACCES.
        #expect(program.verdict(number: 257) == 0x0005_000D)
    }

    @Test(arguments: ThreadClass.allCases)
    func `every call of the list passes under some argument, and the list is not long`(
        threadClass: ThreadClass
    ) {
        let program = sandbox.program(for: threadClass)
        #expect(program.verdict(number: SystemCall.futex.rawValue) == Verdict.allow)
        #expect(Set(threadClass.rules.map(\.call)).count <= 80)
        #expect(program.instructions.count < BPFProgram.longest)
    }

    @Test func `another architecture and the x32 numbers are refused`() {
        let program = sandbox.program(for: nil)
        #expect(program.verdict(number: 202) == Verdict.allow)
        #expect(program.verdict(number: 202, architecture: 0x4000_0003) == Verdict.killProcess)
        #expect(program.verdict(number: 0x4000_0000 + 202) == Verdict.killProcess)
    }

    @Test func `memory is never writable and executable`() {
        let program = sandbox.program(for: nil)
        func mmap(_ protection: UInt64) -> UInt32 {
            program.verdict(number: 9, arguments: [0, 4096, protection, 2, 0, 0])
        }
        func mprotect(_ protection: UInt64) -> UInt32 {
            program.verdict(number: 10, arguments: [0, 4096, protection, 0, 0, 0])
        }
        #expect(mmap(1 | 2) == Verdict.allow)
        #expect(mmap(1 | 4) == Verdict.allow)
        #expect(mmap(2 | 4) == Verdict.killProcess)
        #expect(mmap(1 | 2 | 4) == Verdict.killProcess)
        #expect(mprotect(1 | 2) == Verdict.allow)
        #expect(mprotect(4) == Verdict.killProcess)
    }

    @Test func `ioctl is for KVM only`() {
        let program = sandbox.program(for: .vCPU)
        #expect(program.verdict(number: 16, arguments: [5, 0xAE80, 0, 0, 0, 0]) == Verdict.allow)
        #expect(program.verdict(number: 16, arguments: [5, 0x5412, 0, 0, 0, 0]) == Verdict.killProcess)
        // TIOCSTI types characters into a terminal; the kernel ignores the high word of the command.
        #expect(
            program.verdict(number: 16, arguments: [5, 0xAE00_0000_5412, 0, 0, 0, 0]) == Verdict.killProcess)
    }

    @Test func `threads are made in one way and stay in the process`() {
        let program = sandbox.program(for: .main)
        let thread: UInt64 = 0x003D_0F00
        #expect(program.verdict(number: 56, arguments: [thread, 0, 0, 0, 0, 0]) == Verdict.allow)
        #expect(program.verdict(number: 56, arguments: [17, 0, 0, 0, 0, 0]) == Verdict.killProcess)
        let withNamespace = thread | 0x1000_0000
        #expect(
            program.verdict(number: 56, arguments: [withNamespace, 0, 0, 0, 0, 0]) == Verdict.killProcess)
        #expect(program.verdict(number: 435) == 0x0005_0026)
        #expect(
            sandbox.program(for: .vCPU).verdict(number: 56, arguments: [thread, 0, 0, 0, 0, 0])
                == Verdict.killProcess)
    }

    @Test func `the process may do what each class may, and join a class`() {
        let program = sandbox.program(for: nil)
        // Making rings is the process's alone: the classes refuse it.
        for rule in ThreadClass.allCases.flatMap(\.rules)
        where rule.condition == .always && rule.call != .ioUringSetup {
            let verdict = program.verdict(number: rule.call.rawValue)
            switch rule.outcome {
            case .allow: #expect(verdict == Verdict.allow)
            case .fail(let errno): #expect(verdict == 0x0005_0000 | UInt32(errno))
            }
        }
        #expect(program.verdict(number: 317, arguments: [1, 0, 0, 0, 0, 0]) == Verdict.allow)
        #expect(
            sandbox.program(for: .vCPU).verdict(number: 317, arguments: [1, 0, 0, 0, 0, 0])
                == Verdict.killProcess)
    }

    @Test(arguments: ThreadClass.allCases)
    func `rings are made while the machine is built, and only used later`(threadClass: ThreadClass) {
        let process = sandbox.program(for: nil), later = sandbox.program(for: threadClass)
        for call in [425, 426, 427] as [UInt32] { #expect(process.verdict(number: call) == Verdict.allow) }
        // The main thread may ask again, and gets ENOSYS: a queue that is made later uses threads.
        #expect(
            later.verdict(number: 425) == (threadClass == .main ? 0x0005_0026 : Verdict.killProcess))
        #expect(
            later.verdict(number: 426) == (threadClass == .control ? Verdict.killProcess : Verdict.allow))
        #expect(later.verdict(number: 427) == Verdict.killProcess)
    }

    @Test(arguments: [ThreadClass.main, .vCPU, .deviceWorker, .timer])
    func `every thread that may start a disk request may make its calls`(threadClass: ThreadClass) {
        let program = sandbox.program(for: threadClass)
        for call in [SystemCall.preadv2, .pwritev2, .preadv, .pwritev, .fdatasync, .fallocate] {
            #expect(program.verdict(number: call.rawValue) == Verdict.allow, "\(call)")
        }
    }

    @Test func `signals go to our own process only`() {
        let program = BPFProgram(
            rules: ThreadClass.vCPU.rules, otherwise: Verdict.killProcess, processID: 4711)
        #expect(program.verdict(number: 234, arguments: [4711, 1, 10, 0, 0, 0]) == Verdict.allow)
        #expect(program.verdict(number: 234, arguments: [4712, 1, 10, 0, 0, 0]) == Verdict.killProcess)
    }

    @Test func `threads get their class by name`() {
        #expect(ThreadClass(threadNamed: "vcpu12") == .vCPU)
        #expect(ThreadClass(threadNamed: "timers") == .timer)
        #expect(ThreadClass(threadNamed: "lifetime") == .control)
        #expect(ThreadClass(threadNamed: "disk0-3") == .deviceWorker)
    }

    @Test func `log lets everything through and says so`() {
        let program = Sandbox(mode: .log).program(for: .vCPU)
        #expect(program.verdict(number: 59) == Verdict.log)
    }

    @Test func `rules decide in their order`() {
        let rules: [FilterRule] = [
            .allow(.fcntl, when: .oneOf(argument: 1, values: [1, 2, 3])), .fail(.fcntl, errno: 1),
            .allow(.close),
        ]
        let program = BPFProgram(rules: rules, otherwise: Verdict.killProcess, processID: 7)
        for command in 0...5 as ClosedRange<UInt64> {
            let expected: UInt32 = (1...3).contains(command) ? Verdict.allow : 0x0005_0001
            #expect(program.verdict(number: 72, arguments: [0, command, 0, 0, 0, 0]) == expected)
        }
        #expect(program.verdict(number: 3) == Verdict.allow)
        #expect(program.verdict(number: 4) == Verdict.killProcess)
    }
}
