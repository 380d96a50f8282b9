/// What a thread of a machine's process is for. Each class has its own list of system calls; a thread takes
/// its class when it starts and never leaves it.
public enum ThreadClass: String, Sendable, CaseIterable {
    /// Waits for the end of the machine that it has built. While it builds, it has the list of the process.
    case main
    /// Runs guest instructions and the devices that answer at once.
    case vCPU
    /// An event loop over disks and serial lines.
    case deviceWorker
    /// Sleeps until the next timer of a device is due; a disk whose queue never runs empty goes on from here.
    case timer
    /// Reads the owner's commands, or waits for the owner's death.
    case control
    /// Serves the viewers of a screen, in a process of its own.
    case display
}

extension ThreadClass {
    /// The class of a thread by its name: the one place where names mean something.
    public init(threadNamed name: String) {
        switch name {
        case "control", "lifetime": self = .control
        case "timers": self = .timer
        default: self = name.hasPrefix("vcpu") ? .vCPU : .deviceWorker
        }
    }

    /// The calls that this class may make. No list opens a path, makes a socket or starts a program.
    public var rules: [FilterRule] {
        switch self {
        case .main:
            Self.everyThread + Self.transfer + Self.waiting + Self.virtualization + Self.construction
                + Self.joiningAClass
        case .vCPU: Self.virtualization + Self.everyThread + Self.transfer + Self.waiting + Self.emittedCode
        case .deviceWorker:
            Self.transfer + Self.waiting + Self.connection + Self.virtualization + Self.everyThread
        case .timer:
            Self.waiting + Self.everyThread + Self.transfer + Self.virtualization + Self.wakingOthers
        case .display: Self.everyThread + Self.transfer + Self.waiting + Self.connection
        case .control: Self.everyThread + Self.messages + Self.waiting + Self.wakingOthers
        }
    }

    /// What any thread of the process may do: the union of all classes, and making rings.
    static var processRules: [FilterRule] {
        var union = ringConstruction
        for rule in allCases.flatMap(\.rules) where !union.contains(rule) { union.append(rule) }
        return union
    }

    /// linux/prctl.h; linux/mman.h; linux/kvm.h; linux/fcntl.h.
    private enum Value {
        static let writeAndExecute: UInt32 = 0x6
        static let execute: UInt32 = 0x4
        static let kvmMagic: UInt32 = 0xAE00
        static let ioctlTypeMask: UInt32 = 0xFF00
        static let setName: UInt32 = 15, setVirtualMemoryName: UInt32 = 0x5356_4D41
        static let emptyPath: UInt32 = 0x1000
        static let notImplemented: UInt16 = 38  // ENOSYS
        static let setModeFilter: UInt32 = 1
        /// F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_OFD_SETLK, F_ADD_SEALS, F_GET_SEALS.
        static let descriptorCommands: [UInt32] = [1030, 1, 2, 3, 4, 37, 1033, 1034]
        static let noAccess: UInt16 = 13  // EACCES
        /// A thread of this process: CLONE_VM, CLONE_SIGHAND and CLONE_THREAD set, no new namespace.
        static let threadFlags: UInt32 = 0x0001_0900
        static let newNamespaces: UInt32 = 0x7E02_0000
    }

    // swift-format-ignore
    /// Memory, locks, signals and time of the thread itself. Memory is never writable and executable at once,
    /// and never becomes executable later: emitted code lives in two mappings of the same memory.
    private static let everyThread: [FilterRule] = [
        .allow(.futex),
        .allow(.clockGettime),       .allow(.clockGetres),
        .allow(.madvise),            .allow(.munmap),
        .allow(.mmap, when: .notAll(argument: 2, mask: Value.writeAndExecute)),
        .allow(.mprotect, when: .masked(argument: 2, mask: Value.execute, value: 0)),
        .allow(.mremap),             .allow(.brk),
        .allow(.rtSigreturn),        .allow(.rtSigprocmask),     .allow(.rtSigaction),   .allow(.sigaltstack),
        .allow(.restartSyscall),     .allow(.schedYield),        .allow(.schedGetaffinity),
        .allow(.getpid),             .allow(.gettid),            .allow(.getrandom),
        .allow(.setRobustList),      .allow(.rseq),              .allow(.membarrier),
        .allow(.prctl, when: .oneOf(argument: 0, values: [Value.setName, Value.setVirtualMemoryName])),
        .allow(.exit),               .allow(.exitGroup),         .allow(.close),
        // The C library counts processors in /sys when a thread first allocates, and does without.
        .fail(.openat, errno: Value.noAccess),
        .allow(.tgkill, when: .ownProcess(argument: 0)),
    ]

    // swift-format-ignore
    /// Moving bytes between descriptors that we have and memory.
    private static let transfer: [FilterRule] = [
        .allow(.read),               .allow(.write),             .allow(.readv),         .allow(.writev),
        .allow(.pread64),            .allow(.pwrite64),          .allow(.preadv),        .allow(.pwritev),
        .allow(.preadv2),            .allow(.pwritev2),          .allow(.ioUringEnter),
        .allow(.fdatasync),          .allow(.fsync),             .allow(.fallocate),     .allow(.lseek),
        .allow(.ftruncate),          .allow(.fstat),
        .allow(.newfstatat, when: .masked(argument: 3, mask: Value.emptyPath, value: Value.emptyPath)),
        .allow(.fcntl, when: .oneOf(argument: 1, values: Value.descriptorCommands)),
    ]

    // swift-format-ignore
    private static let waiting: [FilterRule] = [
        .allow(.epollWait),          .allow(.epollPwait),        .allow(.epollPwait2),   .allow(.epollCtl),
        .allow(.poll),               .allow(.ppoll),
        .allow(.read),               .allow(.write),
        .allow(.nanosleep),          .allow(.clockNanosleep),
        .allow(.timerfdSettime),     .allow(.timerfdGettime),
    ]

    /// The two mappings of a cache of emitted code are of a memory file.
    private static let emittedCode: [FilterRule] = [.allow(.memfdCreate)]

    // swift-format-ignore
    private static let virtualization: [FilterRule] = [
        .allow(.ioctl, when: .masked(argument: 1, mask: Value.ioctlTypeMask, value: Value.kvmMagic)),
    ]

    // swift-format-ignore
    /// Accepting a connection on a listener that we were born with.
    private static let connection: [FilterRule] = [
        .allow(.accept4),            .allow(.shutdown),
        .allow(.recvfrom),           .allow(.sendto),
    ]

    // swift-format-ignore
    private static let messages: [FilterRule] = [
        .allow(.recvfrom),           .allow(.recvmsg),
        .allow(.sendto),             .allow(.sendmsg),
        .allow(.write),              .allow(.read),
    ]

    // swift-format-ignore
    private static let wakingOthers: [FilterRule] = [
        .allow(.timerSettime),
    ]

    // swift-format-ignore
    /// Making memory, threads and event descriptors, while the board is built and when it is reset.
    private static let construction: [FilterRule] = [
        .allow(.memfdCreate),        .allow(.eventfd2),          .allow(.pipe2),
        .allow(.epollCreate1),       .allow(.timerfdCreate),     .allow(.signalfd4),
        .allow(.timerCreate),        .allow(.timerSettime),      .allow(.timerDelete),
        .allow(.sendto),             .allow(.sendmsg),           .allow(.schedSetaffinity),
        // The rings that the board needs are there. The kernel runs a new one past every filter.
        .fail(.ioUringSetup, errno: Value.notImplemented),
        // The flags of clone3 are in memory, where no filter can check them: the C library then uses clone.
        .fail(.clone3, errno: Value.notImplemented),
        .allow(.clone, when: .masked(
            argument: 0, mask: Value.threadFlags | Value.newNamespaces, value: Value.threadFlags)),
    ]

    // swift-format-ignore
    /// Making rings that are fenced in (`IOUring`), while the board is built: no class has this.
    private static let ringConstruction: [FilterRule] = [
        .allow(.ioUringSetup),       .allow(.ioUringRegister),
    ]

    /// A thread that main starts narrows what it got from main.
    private static let joiningAClass: [FilterRule] = [
        .allow(.seccomp, when: .oneOf(argument: 0, values: [Value.setModeFilter]))
    ]
}
