internal import Glibc
internal import LinuxHost
internal import MachineSpec

/// What the user asked for, read and checked as far as that is possible without opening a file.
struct MachineRequest {
    private(set) var spec: MachineSpec
    let serial: [SerialOption]
    private let console: SerialOption?
    /// Whether the guest reads our standard input.
    var usesStandardStreams: Bool { serial.contains(.standardStreams) || console == .standardStreams }
    private let disks: [DiskOption]
    private let drives: [DriveOption]
    private let floppies: [FloppyOption]
    private let cards: [NetworkOption]
    private let bootOrder: [BootDevice]
    private let kernel: String?
    private let initialRAMDisk: String?
    private let commandLine: String
    private let isSnapshot: Bool
    private let starting: FirmwareOptions
    private let usesFirmware: Bool
    private let namesCode: Bool
    /// Who may see the screen.
    let display: DisplayOption
    private let screen: ScreenOptions
    private let debugging: DebugOptions
    private let debuggerPlace: ViewerPlace?
    /// How to connect gdb; nil: it may not.
    var debuggerInvitation: String? {
        let place: String
        switch debuggerPlace {
        case .network(let host, let port): place = "\(host.contains(":") ? "[\(host)]" : host):\(port)"
        case .unixSocket(let path): place = path
        case nil: return nil
        }
        return (debugging.gdbWait ? "the machine waits for gdb" : "gdb may connect")
            + ": target remote \(place)"
    }
    var screenAccess: ScreenAccess {
        get throws(RunFailure) {
            ScreenAccess(password: try screen.password(), identity: try screen.identity())
        }
    }

    init(_ command: RunCommand) throws(RunFailure) {
        if let refusal = command.later.refusal { throw .usage(refusal) }
        starting = command.starting
        screen = command.screen
        debugging = command.debugging
        usesFirmware = try Self.usesFirmware(command)
        guard command.kernel != nil || (command.initrd == nil && command.append == nil) else {
            throw .usage("--initrd and --append go with --kernel.")
        }
        do throws(SpecError) {
            spec = try Self.spec(command)
            debuggerPlace = try command.debugging.place()
            display = try command.screen.option(hasScreen: usesFirmware || spec.video == .virtio)
            let image = command.starting.image, isDisc = image.map { OpenedFiles.isDisc($0) } ?? false
            // An image of a disc was given to be booted.
            bootOrder =
                try command.starting.boot.map { text throws(SpecError) in try [BootDevice](parsing: text) }
                ?? (isDisc ? [.cd] : [])
            floppies = try command.floppy.map { text throws(SpecError) in try FloppyOption(parsing: text) }
            drives =
                (isDisc ? image.map { [DriveOption(path: $0)] } ?? [] : [])
                + (try command.cdrom.map { text throws(SpecError) in try DriveOption(parsing: text) })
            disks =
                (isDisc ? [] : image.map { [DiskOption(path: $0, bus: .sata)] } ?? [])
                + (try command.disk.map { text throws(SpecError) in try DiskOption(parsing: text) })
            cards = try command.devices.cards()
            console = try command.console.map { text throws(SpecError) in
                try SerialOption(parsing: text, option: "--console")
            }
            let first = console == .standardStreams ? "none" : "stdio"
            let given = command.serial.isEmpty ? [first] : command.serial
            serial = try given.map { text throws(SpecError) in try SerialOption(parsing: text) }
            guard (serial + [console]).count(where: { $0 == .standardStreams }) <= 1 else {
                throw SpecError(
                    "Only one serial port or the console can have the terminal: give stdio once.")
            }
        } catch {
            throw .usage(error)
        }
        kernel = command.kernel
        initialRAMDisk = command.initrd
        commandLine = command.append ?? ""
        isSnapshot = command.snapshot
        namesCode = command.perfMap
        try checkCounts()
    }

    /// A machine without a kernel starts its firmware.
    private static func usesFirmware(_ command: RunCommand) throws(RunFailure) -> Bool {
        let starting = command.starting
        if let name = starting.firmware, !["bios", "uefi"].contains(name) {
            throw .usage("--firmware '\(name)' is unknown: use bios or uefi.")
        }
        if starting.uefiVars != nil, starting.firmware != "uefi" {
            throw .usage("--uefi-vars goes with --firmware uefi.")
        }
        let asksForFirmware =
            starting.image != nil || starting.firmware != nil || starting.bootMenu
            || starting.firmwareLog != nil || starting.screenText != nil || starting.boot != nil
        guard command.kernel == nil || !asksForFirmware else {
            throw .usage(
                "IMAGE, --firmware, --boot and --boot-menu do not go with --kernel: choose one way to boot.")
        }
        guard
            command.kernel != nil || command.idle || asksForFirmware || !command.disk.isEmpty
                || !command.cdrom.isEmpty || !command.floppy.isEmpty
        else {
            throw .usage("There is nothing to boot: give an IMAGE or a --disk, or a kernel with --kernel.")
        }
        return command.kernel == nil && !command.idle
    }

    /// Wrong usage is found before any file is created or emptied.
    private func checkCounts() throws(RunFailure) {
        var rehearsal = spec
        rehearsal.disks = disks.enumerated().map { place, disk in
            DiskSpec(
                image: ResourceIndex(UInt8(truncatingIfNeeded: 8 + place)), byteCount: 512, bus: disk.bus,
                rootPort: disk.rootPort)
        }
        rehearsal.drives = drives.map { DriveSpec(bus: $0.bus) }
        rehearsal.floppies = floppies.enumerated().map { place, _ in
            DiskSpec(
                image: ResourceIndex(UInt8(truncatingIfNeeded: 64 + place)),
                byteCount: MachineSpec.floppySizes.min() ?? 0)
        }
        rehearsal.networks = cards.specs(
            for: spec.uuid,
            roms: cards.enumerated().map { place, card in
                if case .file = card.rom { return ResourceIndex(UInt8(truncatingIfNeeded: 72 + place)) }
                return nil
            })
        rehearsal.serialPorts = serial.map { _ in .none }
        rehearsal.console = console.map { _ in .none }
        if kernel != nil {
            rehearsal.boot = KernelBoot(kernel: ResourceIndex(0), commandLine: commandLine)
        }
        if namesCode { rehearsal.perfMap = ResourceIndex(3) }
        if debuggerPlace != nil { rehearsal.debugger = DebuggerSpec(listener: ResourceIndex(4)) }
        if usesFirmware { rehearsal.firmware = FirmwareSpec(image: ResourceIndex(0)) }
        if display != .none {
            rehearsal.display = DisplaySpec(surface: ResourceIndex(1), link: ResourceIndex(2))
        }
        do throws(SpecError) {
            try rehearsal.validate(resourceCount: MachineSpec.mostResources)
        } catch {
            throw .usage(error)
        }
    }

    /// Opens the files and names them in the description.
    func open(into files: inout OpenedFiles, keyboard: Descriptor?) throws(RunFailure) -> MachineSpec {
        var opened = spec
        if let kernel {
            let image = try files.addFile(kernel, option: "--kernel")
            let initial = try initialRAMDisk.map { path throws(RunFailure) in
                try files.addFile(path, option: "--initrd")
            }
            opened.boot = KernelBoot(kernel: image, initialRAMDisk: initial, commandLine: commandLine)
        }
        if usesFirmware {
            opened.firmware = try starting.open(into: &files, video: spec.video)
            opened.firmware?.bootOrder = bootOrder
        }
        opened.disks = try disks.map { disk throws(RunFailure) in
            try files.addDisk(disk, snapshot: isSnapshot)
        }
        opened.drives = try drives.map { drive throws(RunFailure) in
            let disc = try drive.path.map { path throws(RunFailure) in
                try files.addFile(path, option: "--cdrom")
            }
            return DriveSpec(disc: disc, bus: drive.bus)
        }
        opened.floppies = try floppies.map { disk throws(RunFailure) in
            try files.addDisk(disk.file, snapshot: isSnapshot, option: "--floppy")
        }
        let roms = try cards.open(into: &files, hasFirmware: usesFirmware)
        opened.networks = cards.specs(for: spec.uuid, roms: roms)
        opened.serialPorts = try serial.map { option throws(RunFailure) in
            try files.addSerial(option, "--serial", keyboard: keyboard)
        }
        if let console, console != .none {
            opened.console = try files.addSerial(console, "--console", keyboard: keyboard)
        }
        opened.kvm = try files.addKVM(opened.accelerator)
        if namesCode { opened.perfMap = try files.addPerfMap() }
        if let debuggerPlace {
            let listener = try files.addDebugger(at: debuggerPlace)
            opened.debugger = DebuggerSpec(listener: listener, waits: debugging.gdbWait)
        }
        return opened
    }

    private static func spec(_ command: RunCommand) throws(SpecError) -> MachineSpec {
        var spec = MachineSpec(
            name: try MachineName(command.name ?? "machine-\(getpid())"),
            uuid: try command.uuid.map { text throws(SpecError) in try MachineUUID(parsing: text) }
                ?? .random())
        spec.accelerator = try choice(
            command.accel, "--accel", [("auto", .auto), ("kvm", .kvm), ("soft", .soft)])
        spec.machineType = try choice(command.machine, "--machine", [("pc", .pc), ("micro", .micro)])
        spec.sandbox = try choice(command.sandbox, "--sandbox", [("on", .on), ("log", .log)])
        spec.video = try command.screen.adapter()
        spec.input = try command.screen.inputDevices()
        spec.cpuCount = command.cpus
        spec.rootPorts = command.devices.pcieRootPorts
        spec.memory = try MemorySize(parsing: command.memory, option: "--memory")
        spec.codeCache =
            try command.codeCache.map { text throws(SpecError) in
                try MemorySize(parsing: text, option: "--code-cache")
            } ?? MachineSpec.usualCodeCache(cpus: command.cpus)
        let switches: [(Bool, RunOptions)] = [
            (command.debugExit, .debugExit), (command.noReboot, .noReboot),
            (command.noTranslate, .noTranslate), (command.verify, .verify), (command.stats, .statistics),
            (command.idle, .idle),
        ]
        for (isOn, option) in switches where isOn { spec.options.insert(option) }
        return spec
    }

    private static func choice<Value>(
        _ text: String, _ option: String, _ known: [(name: String, value: Value)]
    ) throws(SpecError) -> Value {
        guard let match = known.first(where: { $0.name == text }) else {
            let names = known.map(\.name).joined(separator: ", ")
            throw SpecError("\(option) '\(text)' is unknown: use one of \(names).")
        }
        return match.value
    }
}
