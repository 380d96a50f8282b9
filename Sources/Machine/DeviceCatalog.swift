internal import BlockStorage
internal import CharacterBackends
internal import ChipsetDevices
internal import DeviceModel
internal import DiskImages
internal import DisplayDevices
internal import FirmwareTables
internal import LinuxHost
internal import MachineSpec
internal import PCIBus
internal import Q35Chipset
internal import StorageDevices
internal import USBDevices
internal import Virtio
internal import VirtioDevices

/// One kind of device that a machine may have.
struct DeviceEntry: Sendable {
    /// Puts as many devices of this kind onto the board as its description asks for, perhaps none.
    typealias Builder = @Sendable (inout BoardAssembly) throws(BoardError) -> Void
    let kind: String
    let build: Builder

    init(_ kind: String, _ build: @escaping Builder) {
        self.kind = kind
        self.build = build
    }
}

/// Every device beyond the processors' interrupt controllers, the ACPI power management and the PCI bridge,
/// in the order of building. A device is one file and one row here.
// swift-format-ignore
let deviceCatalog: [DeviceEntry] = [
    DeviceEntry(ResetControl.kind)  { $0.add(ResetControl($0.context)) },
    DeviceEntry(PIT8254.kind)  { if $0.isPC { $0.add(PIT8254($0.context)) } },
    DeviceEntry(RTC.kind)  { $0.addClock() },
    DeviceEntry(HPET.kind)  { if $0.isPC { $0.addHPET() } },
    DeviceEntry(PanicNotifier.kind)  { $0.add(PanicNotifier($0.context)) },
    DeviceEntry(POSTPort.kind)  { $0.add(POSTPort($0.context)) },
    DeviceEntry(I8042.kind)  { if $0.isPC { $0.add(I8042($0.context)) } },
    DeviceEntry(DebugExit.kind)  { if $0.hasDebugExit { $0.add(DebugExit($0.context)) } },
    DeviceEntry(TestDevice.kind)  { if $0.hasDebugExit { $0.addTestDevice() } },
    DeviceEntry(LPCBridge.kind)  { if $0.spec.firmware != nil { $0.addLPCBridge() } },
    DeviceEntry(SMBusController.kind)  { if $0.spec.firmware != nil { $0.addSMBus() } },
    DeviceEntry(PCIRootPort.kind)  { $0.addRootPorts() },
    DeviceEntry(FlashMemory.kind)  { board throws(BoardError) in try board.addFlash() },
    DeviceEntry(XHCIController.kind)  { board throws(BoardError) in try board.addUSB() },
    DeviceEntry(VGA.kind)  { board throws(BoardError) in try board.addScreen() },
    DeviceEntry(VirtioInput.kind)  { board throws(BoardError) in try board.addInput() },
    DeviceEntry(FirmwareConfig.kind)  { board throws(BoardError) in try board.addFirmwareConfig() },
    DeviceEntry(FirmwareLog.kind)  { board throws(BoardError) in try board.addFirmwareLog() },
    DeviceEntry(UART16550.kind)  { board throws(BoardError) in try board.addSerialPorts() },
    DeviceEntry(VirtioBlock.kind)  { board throws(BoardError) in try board.addDisks() },
    DeviceEntry(VirtioSCSI.kind)  { board throws(BoardError) in try board.addSCSI() },
    DeviceEntry(AHCIController.kind)  { board throws(BoardError) in try board.addSATA() },
    DeviceEntry(IDEController.kind)  { board throws(BoardError) in try board.addIDE() },
    DeviceEntry(NVMeController.kind)  { board throws(BoardError) in try board.addNVMe() },
    DeviceEntry(DMA8237.kind)  { if !$0.spec.floppies.isEmpty { $0.add(DMA8237($0.context)) } },
    DeviceEntry(FloppyController.kind)  { board throws(BoardError) in try board.addFloppyDrives() },
    DeviceEntry(VirtioConsole.kind)  { board throws(BoardError) in try board.addConsole() },
    DeviceEntry(VirtioEntropy.kind)  { board throws(BoardError) in try board.addEntropySource() },
    DeviceEntry(VirtioBalloon.kind)  { b throws(BoardError) in try b.add(VirtioBalloon(b.context)) },
    DeviceEntry(VirtioNetwork.kind)  { board throws(BoardError) in try board.addNetworks() },
]

// MARK: Rows that are longer than a line

extension BoardAssembly {
    /// Has the devices of a PC that the micro machine leaves out.
    var isPC: Bool { spec.machineType == .pc }
    var hasDebugExit: Bool { spec.options.contains(.debugExit) }

    var clockConfiguration: RTC.Configuration {
        let ram = Board.memoryRanges(memory)
        var configuration = RTC.Configuration(
            memoryBelow4GiB: ram[0].upperBound,
            memoryAbove4GiB: ram.dropFirst().reduce(0) { $0 + UInt64($1.count) },
            processorCount: spec.cpuCount)
        configuration.floppyDrives = spec.floppies.map { disk in
            FloppyGeometry(sectorCount: disk.byteCount / DiskSpec.sectorSize)?.driveType ?? 0
        }
        return configuration
    }

    /// Its alarm wakes the machine.
    mutating func addClock() {
        add(RTC(context, clockConfiguration) { [power] in power.noteAlarm() })
    }

    /// In legacy replacement mode it takes the lines of the PIT and the clock.
    mutating func addHPET() {
        let pit = built(PIT8254.self), clock = built(RTC.self)
        let hpet = HPET(context) { replaced in
            pit?.suppressLine(replaced)
            clock?.suppressLine(replaced)
        }
        add(hpet, at: 0xFED0_0000, size: 0x400)
    }

    /// Answers ports and memory.
    mutating func addTestDevice() {
        let device = TestDevice(context)
        platform.mmio.map(device, at: TestDevice.address, size: TestDevice.size)
        add(device)
    }

    mutating func addSerialPorts() throws(BoardError) {
        let places = PlatformDescription.SerialPort.standard
        for (port, place) in zip(spec.serialPorts, places) {
            let backend = try characterBackend(port, "A serial port")
            let uart = UART16550(
                context, base: place.port, line: Int(place.interrupt), transmit: { backend.write($0) },
                onReceiveSpace: { backend.receiverHasRoom() })
            backend.start { [weak uart] bytes in uart?.receive(Array(bytes)) ?? bytes.count }
            add(uart, backend)
        }
    }

    mutating func addConsole() throws(BoardError) {
        guard let port = spec.console else { return }
        let backend = try characterBackend(port, "The console")
        let console = VirtioConsole(context, sink: ConsoleSink(backend)) { backend.receiverHasRoom() }
        backend.start { [weak console] bytes in console?.receive(Array(bytes)) ?? bytes.count }
        try add(console, backend)
    }

    private func characterBackend(
        _ port: SerialBackend, _ name: String
    ) throws(BoardError) -> any CharacterBackend {
        do throws(HostError) {
            switch port {
            case .none: return NullBackend()
            case .stream(nil, let output):
                return try DescriptorBackend(file: Descriptor(adopting: resources[output]))
            case .stream(let input, let output):
                return try DescriptorBackend(
                    input: input.map { Descriptor(adopting: resources[$0]) },
                    output: Descriptor(adopting: resources[output]), loop: eventLoop)
            case .listener(let socket):
                return try SocketBackend(listener: Descriptor(adopting: resources[socket]), loop: eventLoop)
            }
        } catch {
            throw BoardError("\(name) cannot be connected: \(error).")
        }
    }

    mutating func addRootPorts() {
        guard spec.rootPorts > 0 else { return }
        let occupied = Set((spec.disks.map(\.rootPort) + spec.networks.map(\.rootPort)).compactMap { $0 })
        for number in 1...spec.rootPorts {
            add(PCIRootPort(context, number: number, isOccupied: occupied.contains(number)))
        }
    }

    mutating func addNetworks() throws(BoardError) {
        for card in spec.networks {
            let rom = try Board.contents(
                card.rom.map { Descriptor(adopting: resources[$0]) }, "network card's ROM")
            guard rom?.count ?? 0 <= Self.largestCardROM else {
                throw BoardError("The network card's ROM is too large: give one of at most 1 MiB.")
            }
            let backend: any NetworkBackend =
                switch card.connection {
                case .unplugged: UnpluggedCable()
                }
            try add(
                VirtioNetwork(context, address: card.address.bytes, backend: backend),
                behind: card.rootPort, rom: rom ?? [])
        }
    }

    private static let largestCardROM = 1 << 20

    mutating func addDisks() throws(BoardError) {
        for index in disks(on: .virtio) {
            let options = VirtioBlock.Options(serial: Self.serial(ofDisk: index))
            try add(
                VirtioBlock(context, backend: try diskBackend(index), options: options),
                behind: spec.disks[index].rootPort)
        }
    }

    /// Each disk is a target.
    mutating func addSCSI() throws(BoardError) {
        var targets: [(backend: any BlockBackend, serial: String)] = []
        for index in disks(on: .scsi) { targets.append((try diskBackend(index), Self.serial(ofDisk: index))) }
        if !targets.isEmpty { try add(VirtioSCSI(context, targets)) }
    }

    /// A controller for each disk.
    mutating func addNVMe() throws(BoardError) {
        var number = 0
        for index in disks(on: .nvme) {
            let controller = NVMeController(
                context, try diskBackend(index), serial: Self.serial(ofDisk: index))
            let port = spec.disks[index].rootPort
            add(controller, controller.function, behind: port, slot: Board.nvmeSlot(number, spec))
            if port == nil { number += 1 }
        }
    }

    /// Sticks, and the tablet of a machine with a screen, perhaps with a keyboard beside it.
    mutating func addUSB() throws(BoardError) {
        guard spec.hasUSB, isPC else { return }
        var attachments: [USBAttachment] = []
        for index in disks(on: .usb) {
            attachments.append(.storage(try diskBackend(index), serial: Self.serial(ofDisk: index)))
        }
        if spec.hasScreen { attachments.append(.tablet) }
        if spec.input == .usb { attachments.append(.keyboard) }
        let controller = XHCIController(context, attachments)
        if let tablet = controller.tablet { pointerTargets.append(tablet) }
        if let keyboard = controller.keyboard { keyTargets.append(keyboard) }
        add(controller, controller.function, slot: Board.usbSlot)
    }

    private func disks(on bus: DiskBus) -> [Int] { spec.disks.indices.filter { spec.disks[$0].bus == bus } }
    private static func serial(ofDisk index: Int) -> String { "ospite-disk\(index)" }

    /// What is behind disk `index`, which is closed with the machine.
    private mutating func diskBackend(_ index: Int) throws(BoardError) -> DiskBackend {
        do throws(HostError) {
            let image = try diskImage(spec.disks[index], name: "disk\(index)")
            keep(image)
            return DiskBackend(image)
        } catch {
            throw BoardError("Disk \(index + 1) cannot be used: \(error).")
        }
    }

    mutating func addEntropySource() throws(BoardError) {
        try add(VirtioEntropy(context) { Entropy.bytes($0) })
    }

    mutating func addSATA() throws(BoardError) {
        guard spec.hasSATA else { return }
        let controller = AHCIController(context, try attachments(on: .sata))
        add(
            controller, controller.function, slot: AHCIController.slot,
            // Nobody looks for a function in a slot without a function 0, where the ISA bridge is.
            number: spec.firmware == nil ? 0 : AHCIController.functionNumber)
    }

    mutating func addIDE() throws(BoardError) {
        let attachments = try attachments(on: .ide)
        guard !attachments.isEmpty else { return }
        do throws(HostError) {
            let controller = try IDEController(context, attachments)
            platform.ports.attach(controller)
            add(controller, controller.function, slot: Board.ideSlot)
        } catch {
            throw BoardError("The IDE controller cannot have its memory: \(error).")
        }
    }

    /// There is no DMA controller for anybody else.
    mutating func addFloppyDrives() throws(BoardError) {
        guard let dma = built(DMA8237.self), !spec.floppies.isEmpty else { return }
        var drives: [FloppyController.Drive] = []
        for (index, disk) in spec.floppies.enumerated() {
            do throws(HostError) {
                let image = try diskImage(disk, name: "floppy\(index)")
                keep(image)
                guard let drive = FloppyController.Drive(DiskBackend(image)) else {
                    throw HostError("no floppy disk has its size", code: 0)
                }
                drives.append(drive)
            } catch {
                throw BoardError("Floppy disk \(index + 1) cannot be used: \(error).")
            }
        }
        do throws(HostError) {
            add(try FloppyController(context, drives, channel: dma.channel(2)))
        } catch {
            throw BoardError("The floppy controller cannot have its memory: \(error).")
        }
    }

    /// Disks, then drives.
    private mutating func attachments(on bus: DiskBus) throws(BoardError) -> [SATAAttachment] {
        var attachments: [SATAAttachment] = []
        for index in disks(on: bus) {
            attachments.append(.disk(try diskBackend(index), serial: Self.serial(ofDisk: index)))
        }
        for (index, drive) in spec.drives.enumerated() where drive.bus == bus {
            do throws(HostError) {
                let drive = try DiscDrive(
                    number: index, disc: drive.disc.map { Descriptor(adopting: resources[$0]) })
                keep(drive)
                attachments.append(.drive(drive.tray))
            } catch {
                throw BoardError("CD \(index + 1) cannot be used: \(error).")
            }
        }
        return attachments
    }

    /// With an overlay the image itself is only read.
    private func diskImage(_ disk: DiskSpec, name: String) throws(HostError) -> any DiskImage {
        let image = try RawImage(
            Descriptor(adopting: resources[disk.image]), readOnly: disk.isReadOnly || disk.overlay != nil,
            name: name)
        guard let overlay = disk.overlay, !disk.isReadOnly else { return image }
        return try OverlayImage(image, overlay: Descriptor(adopting: resources[overlay]), name: name + "-ov")
    }
}

/// A backend takes everything, as it does from a serial port.
private final class ConsoleSink: ByteSink {
    private let backend: any CharacterBackend
    init(_ backend: any CharacterBackend) { self.backend = backend }
    func write(_ bytes: [UInt8]) -> Int {
        backend.write(bytes)
        return bytes.count
    }
}
