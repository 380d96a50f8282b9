extension MachineSpec {
    /// Local APIC identifiers without x2APIC end at 254, and 255 is the broadcast (Intel SDM vol. 3 §11.6.1);
    /// identifiers count from 0, so 255 processors.
    public static let cpuCounts = 1...255
    /// Less than 2 MiB holds no kernel; 1 TiB is what our page tables of guest memory are tested with.
    public static let memorySizes = MemorySize.mebibytes(2)...MemorySize.mebibytes(1 << 20)
    /// Emitted code jumps with 32-bit displacements inside the cache.
    public static let codeCaches = MemorySize.mebibytes(1)...MemorySize.mebibytes(1024)
    /// For a machine that does not say: what a Linux system needs while it starts, for each processor.
    /// Memory that no code is put into is not taken from the host.
    public static func usualCodeCache(cpus: Int) -> MemorySize {
        min(.mebibytes(64 * UInt64(min(max(cpus, 1), cpuCounts.upperBound))), codeCaches.upperBound)
    }
    /// The x86 limit of Linux, less the NUL (Linux boot protocol, `cmdline_size`).
    public static let longestCommandLine = 2047
    /// COM1 to COM4 have standard ports.
    public static let mostSerialPorts = 4
    /// One PCI bus less the devices of the board.
    public static let mostDisks = 24
    /// Lines of the IOAPIC less those of the micro machine's other devices; a console takes one of these.
    public static let mostMicroDisks = 15
    /// Ports of the SATA controller.
    public static let sataPorts = 6
    /// Two on each IDE channel.
    public static let idePlaces = 4
    /// Sockets of the USB controller, less two for a tablet and a keyboard.
    public static let usbPlaces = 6
    public static let mostFloppies = 2
    public static let floppySizes: Set<UInt64> = Set([360, 720, 1200, 1440, 2880].map { $0 << 10 })
    /// Descriptors that one machine may come with.
    public static let mostResources = 96

    /// Throws the first rule that this description breaks. `resourceCount` is the length of the list of
    /// descriptors that comes with it.
    public func validate(resourceCount: Int) throws(SpecError) {
        guard Self.cpuCounts.contains(cpuCount) else {
            throw SpecError("--cpus \(cpuCount) is out of range: give 1 to \(Self.cpuCounts.upperBound).")
        }
        try validateSizes()
        try validateBoot()
        let mostDisks = machineType == .micro ? Self.mostMicroDisks - microExtras : Self.mostDisks
        guard disks.count <= mostDisks else {
            throw SpecError(
                "A \(machineType) machine has at most \(mostDisks) disks: leave out some --disk options.")
        }
        guard machineType == .pc || drives.isEmpty && disks.allSatisfy({ $0.bus == .virtio }) else {
            throw SpecError(
                "--machine micro has virtio disks only: leave out bus= and CDs, or use --machine pc.")
        }
        let limited = [
            (DiskBus.sata, Self.sataPorts, "SATA"), (.ide, Self.idePlaces, "IDE"),
            (.usb, Self.usbPlaces, "USB"),
        ]
        for (bus, places, name) in limited {
            guard count(on: bus) <= places else {
                throw SpecError(
                    "A machine has \(places) places for \(name) disks and CD drives: leave out some of them.")
            }
        }
        guard floppies.count <= Self.mostFloppies, machineType == .pc || floppies.isEmpty else {
            throw SpecError(
                "Only a pc has floppy drives, and at most \(Self.mostFloppies): leave out --floppy.")
        }
        guard floppies.allSatisfy({ Self.floppySizes.contains($0.byteCount) && $0.format == .raw }) else {
            throw SpecError(
                "A floppy disk has 360, 720, 1200, 1440 or 2880 KiB: give --floppy an image of such a size.")
        }
        guard drives.allSatisfy(\.bus.takesDrives) else {
            throw SpecError("CD drives are on SATA or IDE: use bus=sata or bus=ide.")
        }
        try validateBus()
        for (number, disk) in disks.enumerated() { try validate(disk, number: number + 1) }
        guard serialPorts.count <= Self.mostSerialPorts else {
            throw SpecError(
                "A machine has at most \(Self.mostSerialPorts) serial ports: leave out some --serial options."
            )
        }
        try validateResources(count: resourceCount)
    }

    /// Lines of the micro machine that no disk can have: of a console, a display, a keyboard and a tablet,
    /// and of network cards.
    private var microExtras: Int {
        (console == nil ? 0 : 1) + (video == .virtio ? 1 : 0) + (input == .virtio ? 2 : 0)
            + networks.count
    }

    private func validateSizes() throws(SpecError) {
        guard Self.memorySizes.contains(memory), memory.bytes % (1 << 20) == 0 else {
            throw SpecError("--memory must be a whole number of MiB from 2M to 1T.")
        }
        guard Self.codeCaches.contains(codeCache), codeCache.bytes % (1 << 20) == 0 else {
            throw SpecError("--code-cache must be a whole number of MiB from 1M to 1G.")
        }
        if accelerator == .kvm, !options.isDisjoint(with: [.noTranslate, .verify]) {
            throw SpecError("--no-translate and --verify are about the software CPU: use --accel soft.")
        }
        if perfMap != nil, accelerator == .kvm || options.contains(.noTranslate) {
            throw SpecError("--perf-map names translated code: leave out --accel kvm and --no-translate.")
        }
        if options.contains([.noTranslate, .verify]) {
            throw SpecError("--verify checks translated code, so it cannot go with --no-translate.")
        }
    }

    private func validateBoot() throws(SpecError) {
        guard firmware == nil || machineType == .pc else {
            throw SpecError("--machine micro has no firmware: use --machine pc.")
        }
        guard firmware?.kind != .uefi || firmware?.variables != nil else {
            throw SpecError("A UEFI needs a file for its variables: use --uefi-vars.")
        }
        guard display == nil || hasScreen else {
            throw SpecError(
                "A machine that a kernel is given to has no screen: leave out --display, or use "
                    + "--video virtio."
            )
        }
        guard input != .virtio || hasScreen else {
            throw SpecError("--input virtio goes with a screen: use --video virtio, too.")
        }
        guard input != .usb || firmware != nil else {
            throw SpecError("--input usb goes with a firmware: leave out --kernel, or use --input virtio.")
        }
        guard firmware == nil || boot == nil else {
            throw SpecError("--firmware and --kernel are two ways to boot: give one of them.")
        }
        guard let boot else { return }
        guard boot.commandLine.utf8.count <= Self.longestCommandLine else {
            throw SpecError("--append is too long: Linux takes at most \(Self.longestCommandLine) bytes.")
        }
        guard !boot.commandLine.utf8.contains(0) else {
            throw SpecError("--append holds a NUL byte: leave it out.")
        }
    }

    private func validate(_ disk: DiskSpec, number: Int) throws(SpecError) {
        guard disk.format == .raw else {
            throw SpecError("Disk \(number): this version reads raw images only; convert it to raw first.")
        }
        guard disk.byteCount >= 512 else {
            throw SpecError("Disk \(number) is smaller than one sector of 512 bytes: give it a size first.")
        }
        // File offsets on the host are signed 64-bit numbers.
        guard disk.byteCount <= UInt64(Int64.max) else {
            throw SpecError("Disk \(number) is larger than a file of the host can be.")
        }
    }

    /// Every index names a descriptor that was passed, and no descriptor serves two purposes: two devices
    /// that share one file position or one lock would corrupt each other.
    private func validateResources(count: Int) throws(SpecError) {
        guard (0...Self.mostResources).contains(count) else {
            throw SpecError("A machine takes at most \(Self.mostResources) files: leave out some of them.")
        }
        var seen = Set<ResourceIndex>()
        for index in resourceIndices {
            guard Int(index.raw) < count else {
                throw SpecError("The description names descriptor \(index.raw), but \(count) were passed.")
            }
            guard seen.insert(index).inserted else {
                throw SpecError("The description uses descriptor \(index.raw) for two purposes.")
            }
        }
    }

    /// All descriptors that the description names.
    public var resourceIndices: [ResourceIndex] {
        var all: [ResourceIndex?] = [
            kvm, perfMap, boot?.kernel, boot?.initialRAMDisk, firmware?.image, firmware?.variables,
            firmware?.videoROM, firmware?.log, firmware?.screenText, display?.surface, display?.link,
            debugger?.listener,
        ]
        for disk in disks + floppies { all += [disk.image, disk.overlay] }
        for drive in drives { all.append(drive.disc) }
        for card in networks { all.append(card.rom) }
        for port in serialPorts + (console.map { [$0] } ?? []) {
            switch port {
            case .none: break
            case .stream(let input, let output): all += [input, output]
            case .listener(let socket): all.append(socket)
            }
        }
        return all.compactMap { $0 }
    }
}
