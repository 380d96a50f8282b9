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
