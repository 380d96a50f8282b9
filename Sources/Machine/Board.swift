internal import BootLoaders
internal import CharacterBackends
internal import ChipsetDevices
internal import DeviceModel
internal import DiskImages
internal import FirmwareTables
internal import GuestMemory
internal import LinuxHost
internal import MachineControl
internal import MachineSpec
internal import PCIBus
internal import VCPUEngine

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
    let serial: [any CharacterBackend]
    let eventLoop: EventLoop
    private let platformDescription: PlatformDescription
    private let kernel: Descriptor?
    private let initialRAMDisk: Descriptor?

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
        do throws(HostError) {
            memory = try GuestMemory(GuestMemory.pcLayout(ram: spec.memory.bytes & ~0xFFF))
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
            spec: spec, resources: resources, context: context, platform: platform, eventLoop: eventLoop)
        for entry in deviceCatalog { try entry.build(&assembly) }
        if let pic { platform.ports.attach(pic) }
        platform.ports.attach(power)
        // After the reset control register, which lies inside the bridge's ports.
        bridge = isPC ? PCIHostBridge(context: context, mmio: platform.mmio, portBus: platform.ports) : nil
        for (index, function) in assembly.functions.enumerated() {
            bridge?.insert(function.function, slot: 1 + index)
        }
        let chipset: [(any Device)?] = [ioapic, pic, power, bridge]
        devices = apics.map { $0 } + chipset.compactMap { $0 } + assembly.devices
        serial = assembly.serial
        images = assembly.images
        platformDescription = Self.describe(spec, assembly.places)
    }

    private static func describe(
        _ spec: MachineSpec, _ virtio: [PlatformDescription.VirtioPlace]
    ) -> PlatformDescription {
        var platform = PlatformDescription(processors: spec.cpuCount)
        if spec.machineType == .micro {
            platform.hasPCI = false
            platform.hasLegacyController = false
            platform.hasKeyboardController = false
            platform.hpetAddress = nil
            platform.virtio = virtio
        }
        platform.serialPorts = Array(PlatformDescription.SerialPort.standard.prefix(spec.serialPorts.count))
        platform.powerManagement.timerHas32Bits = true
        return platform
    }

    // MARK: Start and reset

    /// The state after power-on: devices reset, PCI resources assigned, tables and kernel in memory.
    /// Returns the state of the boot processor.
    func powerOn() throws(BoardError) -> BootPlan {
        for device in devices { device.reset() }
        guard let boot = spec.boot, let kernelBytes = try Self.contents(kernel, "kernel") else {
            throw BoardError("There is nothing to boot: this version starts kernels; use --kernel.")
        }
        do throws(PCIResourceError) {
            try bridge?.assignResources(memoryWindow: Self.memoryWindow, ioWindow: Self.ioWindow)
        } catch {
            throw BoardError("The PCI devices do not fit: \(error).")
        }
        let tables: PlacedFirmwareTables
        do throws(FirmwareTableError) {
            let system = SystemDescription(
                uuid: spec.uuid.bytes, ram: memory.regions.map { $0.start..<$0.end },
                processors: spec.cpuCount)
            tables = try FirmwareTableArea.place(platformDescription, system, in: memory)
        } catch {
            throw BoardError("The firmware tables cannot be placed: \(error).")
        }
        var request = BootRequest(
            kernel: kernelBytes, initrd: try Self.contents(initialRAMDisk, "initial RAM disk"),
            commandLine: boot.commandLine)
        request.rsdp = tables.rsdp
        request.unpacksKernel = spec.machineType == .micro
        do throws(BootError) {
            return try KernelImage.load(request, into: memory)
        } catch {
            throw BoardError("\(error)")
        }
    }

    /// The whole of a file; nil stays nil for a file that there is not.
    private static func contents(_ file: Descriptor?, _ what: String) throws(BoardError) -> [UInt8]? {
        guard let file else { return nil }
        do throws(HostError) {
            let size = try file.facts().size
            guard size <= largestBootFile else { throw HostError("it is larger than 2 GiB", code: 0) }
            var bytes = [UInt8](repeating: 0, count: Int(size))
            let count = try file.read(at: 0, into: &bytes)
            return count == bytes.count ? bytes : Array(bytes.prefix(count))
        } catch {
            throw BoardError("The \(what) cannot be read: \(error).")
        }
    }

    private static let largestBootFile: UInt64 = 2 << 30
}
