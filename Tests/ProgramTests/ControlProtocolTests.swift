import Glibc
import LinuxHost
import Testing

@testable import MachineControl
@testable import MachineSpec

@Suite struct ControlProtocolTests {
    private static func fullSpec() throws -> MachineSpec {
        var spec = MachineSpec(name: try MachineName("full"), uuid: .random())
        spec.accelerator = .soft
        spec.cpuCount = 255
        spec.memory = .mebibytes(3000)
        spec.machineType = .micro
        (spec.video, spec.input) = (.virtio, .virtio)
        spec.boot = KernelBoot(
            kernel: ResourceIndex(0), initialRAMDisk: ResourceIndex(1), commandLine: "console=ttyS0 é")
        spec.disks = [
            DiskSpec(image: ResourceIndex(2), overlay: ResourceIndex(3), byteCount: 1 << 40),
            DiskSpec(image: ResourceIndex(4), byteCount: 512, isReadOnly: true),
        ]
        spec.serialPorts = [
            .stream(input: ResourceIndex(5), output: ResourceIndex(6)), .none,
            .stream(input: nil, output: ResourceIndex(7)), .listener(ResourceIndex(8)),
        ]
        spec.options = [.debugExit, .noReboot, .statistics]
        spec.sandbox = .log
        spec.kvm = ResourceIndex(9)
        spec.console = .stream(input: ResourceIndex(10), output: ResourceIndex(11))
        spec.perfMap = ResourceIndex(12)
        spec.debugger = DebuggerSpec(listener: ResourceIndex(13), waits: true)
        return spec
    }

    @Test func `commands survive the wire`() throws {
        let plain = MachineSpec(name: try MachineName("plain"), uuid: .random())
        var firmware = plain
        firmware.firmware = FirmwareSpec(
            image: ResourceIndex(0), videoROM: ResourceIndex(2), log: ResourceIndex(1),
            screenText: ResourceIndex(3), hasBootMenu: true)
        firmware.firmware?.bootOrder = [.cd, .floppy]
        firmware.drives = [DriveSpec(disc: ResourceIndex(4)), DriveSpec()]
        firmware.rootPorts = 8
        firmware.disks = [DiskSpec(image: ResourceIndex(5), byteCount: 512, bus: .nvme, rootPort: 8)]
        let address = MACAddress.usual(for: plain.uuid, card: 1)
        firmware.networks = [
            NetworkSpec(address: .usual(for: plain.uuid, card: 0)),
            NetworkSpec(address: address, rom: ResourceIndex(6), rootPort: 1),
        ]
        let commands: [MachineCommand] = [
            .configure(try Self.fullSpec(), resourceCount: 14), .configure(plain, resourceCount: 0),
            .configure(firmware, resourceCount: 7), .powerButton,
            .stop, .pause, .resume, .insertDisc(drive: 254), .ejectDisc(drive: 0),
        ]
        for command in commands { #expect(try MachineCommand(frame: command.frame) == command) }
    }

    private static let reports: [MachineReport] = [
        .started(engine: "soft"), .notice("ä"), .statistics(""), .failed("No."), .paused, .resumed,
        .exited(.poweredOff), .exited(.reset), .exited(.panicked), .exited(.tripleFault),
        .exited(.debugExit(0xFFFF_FFFF)), .exited(.stopped), .discChanged, .discRefused("Löck."),
    ]

    @Test(arguments: reports)
    func `reports survive the wire`(report: MachineReport) throws {
        #expect(try MachineReport(frame: report.frame) == report)
    }

    @Test(
        arguments: [
            (.poweredOff, 0), (.reset, 0), (.stopped, 0), (.panicked, 3), (.tripleFault, 3),
            (.debugExit(0), 1),
            (.debugExit(21), 43), (.debugExit(0x80), 1), (.debugExit(0xFFFF_FFFF), 255),
        ] as [(ExitReason, Int32)])
    func `an end becomes its exit status`(reason: ExitReason, status: Int32) {
        #expect(reason.exitStatus == status)
    }

    @Test func `a description that breaks a rule is refused by its reader`() throws {
        var spec = try Self.fullSpec()
        spec.memory = MemorySize(bytes: 1)
        #expect(throws: WireError.self) {
            try MachineCommand(frame: MachineCommand.configure(spec, resourceCount: 12).frame)
        }
        #expect(throws: WireError.self) {
            try MachineCommand(frame: MachineCommand.configure(try Self.fullSpec(), resourceCount: 9).frame)
        }
    }

    @Test func `every cut of a frame is refused`() throws {
        let frame = MachineCommand.configure(try Self.fullSpec(), resourceCount: 12).frame
        for length in 0..<frame.count {
            #expect(throws: WireError.self) { try MachineCommand(frame: Array(frame.prefix(length))) }
            // The same cut with a length field that agrees.
            guard length >= Wire.headerSize else { continue }
            var agreeing = Array(frame.prefix(length))
            let payload = UInt32(length - Wire.headerSize)
            for byte in 0..<4 { agreeing[8 + byte] = UInt8(truncatingIfNeeded: payload >> (8 * byte)) }
            #expect(throws: WireError.self) { try MachineCommand(frame: agreeing) }
        }
        #expect(throws: WireError.self) { try MachineCommand(frame: frame + [0]) }
        // A drive is one byte.
        for payload in [[], [0, 0]] as [[UInt8]] {
            for kind in [Wire.Kind.insertDisc, Wire.Kind.ejectDisc] {
                #expect(throws: WireError.self) {
                    try MachineCommand(frame: Wire.frame(kind: kind, payload: payload))
                }
            }
        }
        #expect(throws: WireError.self) {
            try MachineReport(frame: [UInt8](repeating: 0x41, count: Wire.longestFrame + 1))
        }
    }

    @Test func `mutation never traps, and what is read can be written again`() throws {
        let rounds = getenv("OSPITE_FUZZ_ROUNDS").flatMap { Int(String(cString: $0)) } ?? 50_000
        let seeds =
            [MachineCommand.configure(try Self.fullSpec(), resourceCount: 12).frame]
            + Self.reports.map(\.frame)
            + [MachineCommand.stop, .insertDisc(drive: 1), .ejectDisc(drive: 2)].map(\.frame)
        var random = SplitMix(state: 0x05B1_7E00)
        var accepted = 0
        for _ in 0..<rounds {
            var frame = seeds[random.below(seeds.count)]
            for _ in 0...random.below(4) {
                switch random.below(4) {
                case 0 where !frame.isEmpty: frame[random.below(frame.count)] = UInt8(random.below(256))
                case 1 where !frame.isEmpty: frame.remove(at: random.below(frame.count))
                case 2: frame.insert(UInt8(random.below(256)), at: random.below(frame.count + 1))
                default:
                    guard frame.count > Wire.headerSize else { continue }
                    frame[random.below(frame.count - Wire.headerSize) + Wire.headerSize] ^=
                        1 << random.below(8)
                }
            }
            if let command = try? MachineCommand(frame: frame) {
                accepted += 1
                #expect(try MachineCommand(frame: command.frame) == command)
            }
            if let report = try? MachineReport(frame: frame) {
                accepted += 1
                #expect(try MachineReport(frame: report.frame) == report)
            }
        }
        #expect(accepted > rounds / 100, "the mutations are too wild to test anything but the header")
    }

    @Test func `commands wait until the machine listens, and not without end`() {
        let inbox = CommandInbox()
        for _ in 0..<100 { inbox.deliver(.powerButton) }
        let heard = Counter()
        inbox.listen { _, _ in heard.increment() }
        #expect(heard.value == CommandInbox.capacity)
        inbox.deliver(.stop)
        #expect(heard.value == CommandInbox.capacity + 1)
    }

    @Test func `a frame brings one descriptor or none, and of several none`() throws {
        let (ours, theirs) = try Descriptor.socketPair(packets: true)
        let sender = ControlSocket(ours), receiver = ControlSocket(theirs)
        let frame = MachineCommand.insertDisc(drive: 3).frame
        let file = try Descriptor.memory("disc", size: 4096)
        try sender.send(frame, file)
        try sender.send(frame)
        _ = try DescriptorPassing.send(frame, [file, file], over: ours)
        let first = try #require(try receiver.receiveWithDescriptor())
        #expect(first.frame == frame)
        #expect(try first.descriptor?.facts().size == 4096)
        for _ in 0..<2 {
            let next = try #require(try receiver.receiveWithDescriptor())
            #expect(next.frame == frame && next.descriptor == nil)
        }
        _ = shutdown(ours.number, Int32(SHUT_RDWR))
        let isOver = try receiver.receiveWithDescriptor() == nil
        #expect(isOver)
    }

    @Test func `a socket carries whole frames and notices the end`() throws {
        var ends: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends) == 0)
        let receiver = ControlSocket(Descriptor(adopting: ends[1]))
        do {
            let sender = ControlSocket(Descriptor(adopting: ends[0]))
            for report in Self.reports { try sender.send(report.frame) }
            for report in Self.reports {
                #expect(try MachineReport(frame: try #require(try receiver.receive())) == report)
            }
        }
        #expect(try receiver.receive() == nil)
        #expect(throws: HostError.self) { try receiver.send([1]) }
    }
}

/// A repeatable source of numbers for the mutations.
struct SplitMix {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }

    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
}
