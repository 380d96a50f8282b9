internal import BootLoaders
internal import CharacterBackends
internal import ChipsetDevices
internal import DeviceModel
internal import DiskImages
internal import DisplayDevices
internal import FirmwareTables
internal import GuestMemory
internal import LinuxHost
internal import MachineControl
internal import MachineSpec
internal import PCIBus
internal import Q35Chipset
internal import Synchronization
internal import VCPUEngine
internal import X86Architecture

/// Why a machine cannot be built: one plain sentence.
struct BoardError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A PC: memory, processors' interrupt controllers, chipset and devices, wired together; or the micro
/// machine, which is one without PCI, 8259, 8254 and HPET. It knows how to start over; what runs it is
/// `MachineRunner`.
final class Board: Sendable {
    let spec: MachineSpec
    let memory: GuestMemory
    let clock: HostClock
    let platform: BoardPlatform
    let apics: [LocalAPIC]
    let links: [VCPULink]
    let power: ACPIPowerManagement
    /// Nil on a board without PCI.
    let bridge: PCIHostBridge?
    /// Every device, in the order of building: reset, pause and save go through it.
    let devices: [any Device]
    let images: [any DiskImage]
    /// CD drives, in the order in which they were asked for.
    let drives: [DiscDrive]
    let serial: [any CharacterBackend]
    let eventLoop: EventLoop
    let screenOutput: ScreenOutput?
    /// What the tables say; with firmware, where the firmware put ECAM is added when it reads them.
    let platformDescription: PlatformDescription
    private let kernel: Descriptor?
    private let initialRAMDisk: Descriptor?
    /// Guest address of the FACS, once tables are placed.
    let firmwareControl = Atomic<UInt64>(0)

    /// I/O port window for BARs, above the fixed devices.
    private static let ioWindow: Range<UInt64> = 0xC000..<0xFF00
    private static let memoryWindow: Range<UInt64> = 0xC000_0000..<0xE000_0000

    init(
        spec: MachineSpec, resources: MachineResources, tscFrequency: UInt64,
        report: @escaping @Sendable (MachineEvent) -> Void
    ) throws(BoardError) {
        self.spec = spec
        kernel = spec.boot.map { Descriptor(adopting: resources[$0.kernel]) }
        initialRAMDisk = spec.boot?.initialRAMDisk.map { Descriptor(adopting: resources[$0]) }
        let firmware = try FirmwareImage(spec, resources)
        do throws(HostError) {
            memory = try GuestMemory(Self.memoryLayout(spec, firmware))
            clock = try HostClock()
            eventLoop = try EventLoop(name: "devices")
        } catch {
            throw BoardError("The machine cannot have its memory and threads: \(error).")
        }
        let platform = BoardPlatform(clock: clock)
        self.platform = platform
        let apicBus = APICBus(), router = InterruptRouter()
        let context = DeviceContext(memory: memory, clock: clock, msi: apicBus, lines: router, report: report)
        let ioapic = IOAPIC(context, bus: apicBus)
        let links = (0..<spec.cpuCount).map { _ in VCPULink() }
        apics = links.enumerated().map { index, link in
            LocalAPIC(
                context, bus: apicBus,
                LocalAPIC.Configuration(
                    identifier: UInt32(index), tscFrequency: tscFrequency, readTSC: { link.timeStampCounter },
                    wake: { link.wake() }, endOfInterrupt: { [weak ioapic] in ioapic?.endOfInterrupt($0) },
                    physicalAddressBits: 48))
        }
        self.links = links
        apicBus.connect(apics)
        let isPC = spec.machineType == .pc
        let pic = isPC ? PIC8259Pair(context) { asserted in if asserted { links[0].wake() } } : nil
        router.connect(pic: pic, ioapic: ioapic)
        platform.connect(pic: pic, apics: apics)
        platform.mmio.map(ioapic, at: IOAPIC.address, size: IOAPIC.size)
        power = ACPIPowerManagement(context)
        var assembly = BoardAssembly(
            spec: spec, resources: resources, context: context, platform: platform, power: power,
            eventLoop: eventLoop,
            tables: BoardTables(Self.describe(spec), Self.systemDescription(spec, memory)))
        for entry in deviceCatalog { try entry.build(&assembly) }
        try assembly.connectScreen()
        if let pic { platform.ports.attach(pic) }
        platform.ports.attach(power)
        // After the reset control register, which lies inside the bridge's ports.
        let shadow = try firmware?.install(in: memory)
        let bridge = isPC ? Self.makeBridge(context, platform, shadow) : nil
        self.bridge = bridge
        if let bridge { Self.connect(bridge, assembly) }
        // The shadow memory comes before the bridge, which decides what it shows.
        let chipset: [(any Device)?] = [ioapic, pic, power, shadow, bridge]
        devices = apics.map { $0 } + chipset.compactMap { $0 } + assembly.devices
        (serial, images) = (assembly.serial, assembly.images)
        drives = assembly.drives.sorted { $0.number < $1.number }
        screenOutput = assembly.screenOutput
        var platformDescription = Self.describe(spec)
        platformDescription.virtio = assembly.places
        self.platformDescription = platformDescription
    }

    private static func makeBridge(
        _ context: DeviceContext, _ platform: BoardPlatform, _ shadow: ShadowMemory?
    ) -> PCIHostBridge {
        guard let shadow else {
            return PCIHostBridge(context: context, mmio: platform.mmio, portBus: platform.ports)
        }
        return MemoryControllerHub.makeBridge(
            context: context, mmio: platform.mmio, portBus: platform.ports, shadow: shadow)
    }

    private static func connect(_ bridge: PCIHostBridge, _ assembly: BoardAssembly) {
        assembly.tables.connect(bridge)
        for (index, function) in assembly.virtio.enumerated() {
            bridge.insert(function.function, slot: firstVirtioSlot(assembly.spec) + index)
        }
        for place in assembly.functions {
            bridge.insert(place.function, slot: place.slot, function: place.number)
        }
        for (number, port) in assembly.rootPorts.enumerated() {
            bridge.insert(port, slot: rootPortSlot, function: number)
        }
        for (function, port) in assembly.functionsBehind {
            bridge.insert(function, behind: assembly.rootPorts[port - 1])
        }
    }

    private static func describe(_ spec: MachineSpec) -> PlatformDescription {
        var platform = PlatformDescription(processors: spec.cpuCount)
        if spec.machineType == .micro {
            platform.hasPCI = false
            platform.hasLegacyController = false
            platform.hasKeyboardController = false
            platform.hpetAddress = nil
        }
        platform.hasVGA = spec.firmware != nil
        // Nobody has taught the firmware to wake up.
        if spec.firmware != nil { platform.powerManagement.suspendType = nil }
        platform.serialPorts = Array(PlatformDescription.SerialPort.standard.prefix(spec.serialPorts.count))
        platform.powerManagement.timerHas32Bits = true
        return platform
    }

    // MARK: Start and reset

    /// The state after power-on: devices reset, PCI resources assigned, tables and kernel in memory.
    /// Returns the state of the boot processor. With firmware that is the processor's own after a reset, and
    /// the rest is the firmware's business.
    func powerOn() throws(BoardError) -> VCPUState {
        for device in devices { device.reset() }
        if spec.firmware != nil { return VCPUState() }
        try assignResources()
        guard let boot = spec.boot, let kernelBytes = try Self.contents(kernel, "kernel") else {
            throw BoardError("There is nothing to boot: use --firmware or --kernel.")
        }
        let tables: PlacedFirmwareTables
        do throws(FirmwareTableError) {
            tables = try FirmwareTableArea.place(
                platformDescription, Self.systemDescription(spec, memory), in: memory)
        } catch {
            throw BoardError("The firmware tables cannot be placed: \(error).")
        }
        let control = tables.tables.first { $0.name == "FACS" }
        firmwareControl.store(control?.start.raw ?? 0, ordering: .relaxed)
        var request = BootRequest(
            kernel: kernelBytes, initrd: try Self.contents(initialRAMDisk, "initial RAM disk"),
            commandLine: boot.commandLine)
        request.rsdp = tables.rsdp
        request.announce = { [memory] address, count in
            // A thread that cannot be started only costs time.
            _ = try? HostThread(name: "memory") { memory.populate(address, count: count) }
        }
        if spec.machineType == .micro {
            request.unpacksKernel = true
            request.linuxWords = Self.quickStart
        }
        do throws(BootError) {
            let plan = try KernelImage.load(request, into: memory)
            if plan.bootProtocol == .multiboot { leaveTimerTick() }
            return plan.state
        } catch {
            throw BoardError("\(error)")
        }
    }

    /// Nobody starts the micro machine to have the kernel's cryptography tested: a quarter of its boot.
    private static let quickStart = "cryptomgr.notests"

    func assignResources() throws(BoardError) {
        do throws(PCIResourceError) {
            try bridge?.assignResources(memoryWindow: Self.memoryWindow, ioWindow: Self.ioWindow)
        } catch {
            throw BoardError("The PCI devices do not fit: \(error).")
        }
    }

    /// The whole of a file; nil stays nil for a file that there is not.
    static func contents(_ file: Descriptor?, _ what: String) throws(BoardError) -> [UInt8]? {
        guard let file else { return nil }
        do throws(HostError) {
            let size = try file.facts().size
            guard size <= largestBootFile else { throw HostError("it is larger than 2 GiB", code: 0) }
            return try file.read(at: 0, count: Int(size))
        } catch {
            throw BoardError("The \(what) cannot be read: \(error).")
        }
    }

    private static let largestBootFile: UInt64 = 2 << 30
}
