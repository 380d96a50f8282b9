import Testing

@testable import MachineSpec

@Suite struct SpecTests {
    private func spec() throws -> MachineSpec { MachineSpec(name: try MachineName("one"), uuid: .random()) }

    @Test(
        arguments: [
            ("512M", 512 << 20), ("2G", 2 << 30), ("64", 64 << 20), ("1024K", 1 << 20), ("1T", 1 << 40),
            ("3g", 3 << 30), ("0", 0),
        ] as [(String, UInt64)])
    func `a memory size is what people write`(text: String, bytes: UInt64) throws {
        #expect(try MemorySize(parsing: text, option: "--memory").bytes == bytes)
    }

    @Test(arguments: [
        "", "M", "-1", "+5", "2Q", "1.5G", "0x10", " 5", "5 ", "99999999999999999999", "18446744073709551615",
    ])
    func `a memory size that is none is refused with advice`(text: String) {
        #expect(throws: SpecError.self) { try MemorySize(parsing: text, option: "--memory") }
    }

    @Test func `a size sentence says what to write`() {
        let error = #expect(throws: SpecError.self) { try MemorySize(parsing: "lots", option: "--memory") }
        #expect(error?.description.contains("--memory 'lots' is not a size") == true)
        #expect(error?.description.contains("such as 512M or 2G") == true)
    }

    @Test(arguments: ["a", "web-1", "A.b_c-9", "0"])
    func `a plain name is taken`(text: String) throws {
        #expect(try MachineName(text).description == text)
    }

    @Test(arguments: [
        "", ".", "..", "-a", ".hidden", "a/b", "a b", "é", "a\n", String(repeating: "a", count: 49),
    ])
    func `a name that could leave its folder is refused`(text: String) {
        #expect(throws: SpecError.self) { try MachineName(text) }
    }

    @Test func `a UUID survives its text`() throws {
        let text = "123e4567-e89b-42d3-a456-426614174000"
        #expect(try MachineUUID(parsing: text).description == text)
        #expect(try MachineUUID(parsing: text.uppercased()).description == text)
        let random = MachineUUID.random()
        #expect(try MachineUUID(parsing: random.description) == random)
        #expect(random.description.dropFirst(14).first == "4")
    }

    @Test(arguments: ["", "123e4567e89b42d3a456426614174000", "123e4567-e89b-42d3-a456-42661417400g", "----"])
    func `a UUID that is none is refused`(text: String) {
        #expect(throws: SpecError.self) { try MachineUUID(parsing: text) }
    }

    @Test func `a disk option is a file and its switches`() throws {
        let option = try DiskOption(parsing: "/a,,b.img,format=raw,bus=virtio,readonly,snapshot")
        #expect(option.path == "/a,b.img")
        #expect(option.isReadOnly && option.isSnapshot)
        #expect(try !DiskOption(parsing: "x").isReadOnly)
    }

    @Test(arguments: [
        ("", "names no file"), ("x,format=qcow2", "raw disks only"), ("x,format=zip", "use raw, qcow2"),
        ("x,bus=esdi", "is unknown"), ("x,speed=9", "does not know"),
        ("x,readonly=1", "does not know"), ("x,", "does not know"),
    ])
    func `a disk option that we lack is refused by name`(text: String, words: String) {
        let error = #expect(throws: SpecError.self) { try DiskOption(parsing: text) }
        #expect(error?.description.contains(words) == true, "\(String(describing: error))")
    }

    @Test func `a network option is a connection and what the card is`() throws {
        #expect(try NetworkOption.parse("none") == nil)
        let plain = try #require(try NetworkOption.parse("unplugged"))
        #expect(plain.address == nil && plain.rom == .usual && plain.rootPort == nil)
        let card = try #require(
            try NetworkOption.parse("unplugged,mac=52:54:00:aB:0c:01,rom=/a,,b.rom,root-port=8"))
        #expect(card.address?.description == "52:54:00:ab:0c:01")
        #expect(card.rom == .file(path: "/a,b.rom") && card.rootPort == 8)
        #expect(try NetworkOption.parse("unplugged,rom=off")?.rom == .off)
    }

    @Test(arguments: [
        ("", "no networks yet"), ("user,hostfwd=tcp:1:1", "no networks yet"),
        ("none,mac=1", "no networks yet"),
        ("unplugged,mac=52:54:00:12:34", "no address"), ("unplugged,mac=53:54:00:12:34:56", "no address"),
        ("unplugged,mac=00:00:00:00:00:00", "no address"), ("unplugged,mac=+2:54:00:12:34:56", "no address"),
        ("unplugged,rom=", "does not know"), ("unplugged,root-port=0", "is none"), ("unplugged,", "not know"),
    ])
    func `a network option that we lack is refused by name`(text: String, words: String) {
        let error = #expect(throws: SpecError.self) { try NetworkOption.parse(text) }
        #expect(error?.description.contains(words) == true, "\(String(describing: error))")
    }

    @Test func `cards of one machine have addresses of their own, always the same`() {
        let machine = MachineUUID.random()
        let addresses = (0..<8).map { MACAddress.usual(for: machine, card: $0) }
        #expect(Set(addresses).count == 8)
        #expect(addresses == (0..<8).map { MACAddress.usual(for: machine, card: $0) })
        #expect(addresses.allSatisfy { MACAddress(bytes: $0.bytes) == $0 })
    }

    @Test func `a full bus has room behind root ports`() throws {
        var spec = try spec()
        spec.disks = (0..<24).map { DiskSpec(image: ResourceIndex($0), byteCount: 512) }
        spec.console = SerialBackend.none
        spec.networks = [NetworkSpec(address: .usual(for: spec.uuid, card: 0))]
        #expect(throws: Never.self) { try spec.validate(resourceCount: 24) }
        spec.networks.append(NetworkSpec(address: .usual(for: spec.uuid, card: 1)))
        let error = #expect(throws: SpecError.self) { try spec.validate(resourceCount: 24) }
        #expect(error?.description.contains("no slot left") == true)
        spec.rootPorts = 2
        spec.networks[1].rootPort = 2
        spec.disks[0].rootPort = 1
        #expect(throws: Never.self) { try spec.validate(resourceCount: 24) }
        spec.disks[0].rootPort = 2
        #expect(throws: SpecError.self) { try spec.validate(resourceCount: 24) }
    }

    @Test func `serial options are read`() throws {
        #expect(try SerialOption(parsing: "stdio") == .standardStreams)
        #expect(try SerialOption(parsing: "none") == .none)
        #expect(try SerialOption(parsing: "file:/a:b") == .file(path: "/a:b"))
        #expect(try SerialOption(parsing: "unix:s") == .unixSocket(path: "s"))
    }

    @Test(arguments: ["", "tty", "file:", "unix:", "stdio:1", "unix:" + String(repeating: "a", count: 108)])
    func `serial options that we lack are refused`(text: String) {
        #expect(throws: SpecError.self) { try SerialOption(parsing: text) }
    }

    @Test func `a plain machine is valid`() throws {
        try spec().validate(resourceCount: 0)
    }

    private static let wrong: [(String, @Sendable (inout MachineSpec) -> Void)] = [
        ("--cpus", { $0.cpuCount = 0 }),
        ("--cpus", { $0.cpuCount = 256 }),
        ("--memory", { $0.memory = MemorySize(bytes: 0) }),
        ("--memory", { $0.memory = MemorySize(bytes: (3 << 20) + 1) }),
        ("--memory", { $0.memory = .mebibytes(1 << 21) }),
        ("--code-cache", { $0.codeCache = MemorySize(bytes: 1) }),
        (
            "--append",
            {
                $0.boot = KernelBoot(
                    kernel: ResourceIndex(0), commandLine: String(repeating: "a", count: 2048))
            }
        ),
        ("--append", { $0.boot = KernelBoot(kernel: ResourceIndex(0), commandLine: "a\0b") }),
        (
            "--accel soft",
            {
                $0.accelerator = .kvm; $0.options = .verify
            }
        ),
        ("--verify", { $0.options = [.verify, .noTranslate] }),
        (
            "--perf-map",
            {
                $0.perfMap = ResourceIndex(0); $0.options = .noTranslate
            }
        ),
        (
            "--perf-map",
            {
                $0.perfMap = ResourceIndex(0); $0.accelerator = .kvm
            }
        ),
        (
            "raw images only",
            { $0.disks = [DiskSpec(image: ResourceIndex(0), byteCount: 512, format: .qcow2)] }
        ),
        ("SATA or IDE", { $0.drives = [DriveSpec(bus: .nvme)] }),
        (
            "floppy drives",
            {
                $0.floppies = [DiskSpec](
                    repeating: DiskSpec(image: ResourceIndex(0), byteCount: 737_280), count: 3)
            }
        ),
        ("360, 720, 1200", { $0.floppies = [DiskSpec(image: ResourceIndex(0), byteCount: 512)] }),
        ("one sector", { $0.disks = [DiskSpec(image: ResourceIndex(0), byteCount: 511)] }),
        ("larger", { $0.disks = [DiskSpec(image: ResourceIndex(0), byteCount: 1 << 63)] }),
        ("serial ports", { $0.serialPorts = Array(repeating: .none, count: 5) }),
        (
            "two purposes",
            {
                $0.kvm = ResourceIndex(0); $0.boot = KernelBoot(kernel: ResourceIndex(0))
            }
        ),
        ("were passed", { $0.kvm = ResourceIndex(4) }),
        (
            "at most 24 disks",
            { spec in
                spec.disks = (0..<25).map { DiskSpec(image: ResourceIndex($0), byteCount: 512) }
            }
        ),
    ]

    @Test(arguments: wrong.indices)
    func `a machine that cannot be is refused with a sentence`(row: Int) throws {
        var spec = try spec()
        Self.wrong[row].1(&spec)
        let error = #expect(throws: SpecError.self) { try spec.validate(resourceCount: 4) }
        #expect(error?.description.contains(Self.wrong[row].0) == true, "\(String(describing: error))")
    }
}
