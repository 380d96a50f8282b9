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
internal import SoftCPU
internal import VCPUEngine
internal import Virtio
internal import VirtioDevices

/// Why a machine cannot be built: one plain sentence.
struct BoardError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A PC: memory, processors' interrupt controllers, chipset and devices, wired together. It knows how to start
/// over; what runs it is `MachineRunner`.
final class Board: Sendable {
    let spec: MachineSpec
    let memory: GuestMemory
    let clock: HostClock
    let platform: BoardPlatform
    let apics: [LocalAPIC]
    let links: [VCPULink]
    let power: ACPIPowerManagement
    let bridge: PCIHostBridge
    /// Every device, in the order of building: reset, pause and save go through it.
    let devices: [any Device]
    let images: [RawImage]
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
        let pic = PIC8259Pair(context) { asserted in if asserted { links[0].wake() } }
        router.connect(pic: pic, ioapic: ioapic)
        platform.connect(pic: pic, apics: apics)
        platform.mmio.map(ioapic, at: IOAPIC.address, size: IOAPIC.size)
        power = ACPIPowerManagement(context)
        bridge = PCIHostBridge(context: context, mmio: platform.mmio, portBus: platform.ports)
        var devices: [any Device] = apics.map { $0 }
        devices += [ioapic, pic, power, bridge]
        devices += Self.addLegacyDevices(spec, context, platform, memory)
        platform.ports.attach(pic)
        platform.ports.attach(power)
        let (uarts, serial) = try Self.addSerialPorts(spec, resources, context, platform, eventLoop)
        self.serial = serial
        let (disks, images) = try Self.addDisks(spec, resources, context)
        self.images = images
        let virtio: [any VirtioFunction] =
            disks + [
                VirtioPCI(VirtioEntropy(context) { Entropy.bytes($0) }), VirtioPCI(VirtioBalloon(context)),
            ]
        for (index, function) in virtio.enumerated() { bridge.insert(function.function, slot: 1 + index) }
        self.devices = devices + uarts + virtio
        platformDescription = Self.describe(spec)
    }

    // MARK: Parts

    private static func addLegacyDevices(
        _ spec: MachineSpec, _ context: DeviceContext, _ platform: BoardPlatform, _ memory: GuestMemory
    ) -> [any Device] {
        let pit = PIT8254(context)
        let above = memory.regions.filter { $0.start >= 0x1_0000_0000 }.reduce(0) { $0 + $1.size }
        let rtc = RTC(
            context,
            RTC.Configuration(
                memoryBelow4GiB: memory.ramSize - above, memoryAbove4GiB: above, processorCount: spec.cpuCount))
        let hpet = HPET(context) { replaced in
            pit.suppressLine(replaced)
            rtc.suppressLine(replaced)
        }
        platform.mmio.map(hpet, at: 0xFED0_0000, size: 0x400)
        let reset = ResetControl(context), panic = PanicNotifier(context), post = POSTPort(context)
        platform.ports.attach(pit)
        platform.ports.attach(rtc)
        platform.ports.attach(reset)
        platform.ports.attach(panic)
        platform.ports.attach(post)
        var devices: [any Device] = [pit, rtc, hpet, reset, panic, post]
        if spec.machineType == .pc {
            let keyboard = I8042(context)
            platform.ports.attach(keyboard)
            devices.append(keyboard)
        }
        if spec.options.contains(.debugExit) {
            let debugExit = DebugExit(context)
            platform.ports.attach(debugExit)
            devices.append(debugExit)
            let test = TestDevice(context)
            platform.ports.attach(test)
            platform.mmio.map(test, at: TestDevice.address, size: TestDevice.size)
            devices.append(test)
        }
        return devices
    }

    private static func addSerialPorts(
        _ spec: MachineSpec, _ resources: MachineResources, _ context: DeviceContext, _ platform: BoardPlatform,
        _ loop: EventLoop
    ) throws(BoardError) -> ([any Device], [any CharacterBackend]) {
        var uarts: [any Device] = [], backends: [any CharacterBackend] = []
        for (index, port) in spec.serialPorts.prefix(4).enumerated() {
            let backend = try serialBackend(port, resources, loop)
            let place = PlatformDescription.SerialPort.standard[index]
            let uart = UART16550(
                context, base: place.port, line: Int(place.interrupt), transmit: { backend.write($0) },
                onReceiveSpace: { backend.receiverHasRoom() })
            backend.start { [weak uart] bytes in uart?.receive(Array(bytes)) ?? bytes.count }
            platform.ports.attach(uart)
            uarts.append(uart)
            backends.append(backend)
        }
        return (uarts, backends)
    }

    private static func serialBackend(
        _ port: SerialBackend, _ resources: MachineResources, _ loop: EventLoop
    ) throws(BoardError) -> any CharacterBackend {
        do throws(HostError) {
            switch port {
            case .none: return NullBackend()
            case .stream(let input, let output):
                return try DescriptorBackend(
                    input: input.map { Descriptor(adopting: resources[$0]) },
                    output: Descriptor(adopting: resources[output]), loop: loop)
            case .listener(let socket):
                return try SocketBackend(listener: Descriptor(adopting: resources[socket]), loop: loop)
            }
        } catch {
            throw BoardError("A serial port cannot be connected: \(error).")
        }
    }

    private static func addDisks(
        _ spec: MachineSpec, _ resources: MachineResources, _ context: DeviceContext
    ) throws(BoardError) -> ([any VirtioFunction], [RawImage]) {
        var functions: [any VirtioFunction] = [], images: [RawImage] = []
        for (index, disk) in spec.disks.enumerated() {
            guard disk.overlay == nil else {
                throw BoardError("This version cannot keep a disk's changes apart: leave out snapshot.")
            }
            do throws(HostError) {
                let image = try RawImage(
                    Descriptor(adopting: resources[disk.image]), readOnly: disk.isReadOnly, name: "disk\(index)")
                images.append(image)
                functions.append(
                    VirtioPCI(
                        VirtioBlock(
                            context, backend: DiskBackend(image),
                            options: VirtioBlock.Options(serial: "ospite-disk\(index)"))))
            } catch {
                throw BoardError("Disk \(index + 1) cannot be used: \(error).")
            }
        }
        return (functions, images)
    }

    private static func describe(_ spec: MachineSpec) -> PlatformDescription {
        var platform = PlatformDescription(processors: spec.cpuCount)
        platform.hasKeyboardController = spec.machineType == .pc
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
            try bridge.assignResources(memoryWindow: Self.memoryWindow, ioWindow: Self.ioWindow)
        } catch {
            throw BoardError("The PCI devices do not fit: \(error).")
        }
        let tables: PlacedFirmwareTables
        do throws(FirmwareTableError) {
            let system = SystemDescription(
                uuid: spec.uuid.bytes, ram: memory.regions.map { $0.start..<$0.end }, processors: spec.cpuCount)
            tables = try FirmwareTableArea.place(platformDescription, system, in: memory)
        } catch {
            throw BoardError("The firmware tables cannot be placed: \(error).")
        }
        var request = BootRequest(
            kernel: kernelBytes, initrd: try Self.contents(initialRAMDisk, "initial RAM disk"),
            commandLine: boot.commandLine)
        request.rsdp = tables.rsdp
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
