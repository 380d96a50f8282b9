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
internal import Virtio

/// A board under construction: what a row of the device catalog builds with, and what the rows before it
/// built.
struct BoardAssembly {
    let spec: MachineSpec
    let resources: MachineResources
    let context: DeviceContext
    let memory: GuestMemory
    let eventLoop: EventLoop
    let platform: BoardPlatform
    let power: ACPIPowerManagement
    private(set) var devices: [any Device] = []
    /// Virtio devices on PCI, in the order of their slots.
    private(set) var virtio: [any VirtioFunction] = []
    /// Where virtio devices are on a board without PCI.
    private(set) var places: [PlatformDescription.VirtioPlace] = []
    private(set) var serial: [any CharacterBackend] = []
    private(set) var images: [any DiskImage] = []
    /// CD drives, bus by bus.
    private(set) var drives: [DiscDrive] = []
    /// Functions with a place of their own on the PCI bus.
    private(set) var functions: [(function: PCIFunction, slot: Int, number: Int)] = []
    /// PCI Express root ports, in the order of their numbers from 1 on.
    private(set) var rootPorts: [PCIRootPort] = []
    /// Functions behind root ports, and the number of each one's port.
    private(set) var functionsBehind: [(function: PCIFunction, port: Int)] = []
    /// Who shows the screen, when somebody may look.
    private(set) var screenOutput: ScreenOutput?
    /// Who may have the screen, the first that wants it before the others.
    var screenSources: [any ScreenSource] = []
    /// Who takes keys and the pointer's positions, the first that listens before the others, all of them
    /// before the keyboard controller.
    var keyTargets: [any KeyTarget] = []
    var pointerTargets: [any PointerTarget] = []
    let tables: BoardTables

    init(
        spec: MachineSpec, resources: MachineResources, context: DeviceContext, platform: BoardPlatform,
        power: ACPIPowerManagement, eventLoop: EventLoop, tables: BoardTables
    ) {
        self.tables = tables
        self.spec = spec
        self.resources = resources
        self.context = context
        self.platform = platform
        self.power = power
        self.eventLoop = eventLoop
        memory = context.memory
    }

    /// The first device of a type that an earlier row built.
    func built<D: Device>(_ type: D.Type) -> D? {
        for device in devices { if let device = device as? D { return device } }
        return nil
    }

    mutating func add(_ device: some PortDevice) {
        platform.ports.attach(device)
        devices.append(device)
    }

    mutating func add(_ device: some MemoryMappedDevice, at address: UInt64, size: UInt64) {
        platform.mmio.map(device, at: address, size: size)
        devices.append(device)
    }

    mutating func add(_ device: some Device, _ function: PCIFunction, slot: Int, number: Int = 0) {
        functions.append((function, slot, number))
        devices.append(device)
    }

    /// A device behind root port `port`, or in a slot where that is nil.
    mutating func add(_ device: some Device, _ function: PCIFunction, behind port: Int?, slot: Int) {
        guard let port else { return add(device, function, slot: slot) }
        functionsBehind.append((function, port))
        devices.append(device)
    }

    mutating func add(_ port: PCIRootPort) {
        rootPorts.append(port)
        devices.append(port)
    }

    /// On PCI virtio devices take slots in the order of the catalog; on a board without it, pages of memory
    /// and lines of the IOAPIC. `port`: behind this root port instead. `rom`: the function's expansion ROM.
    mutating func add(
        _ device: some VirtioDevice, behind port: Int? = nil, rom: [UInt8] = []
    ) throws(BoardError) {
        guard spec.machineType == .micro else {
            let function = VirtioPCI(device, rom: rom)
            if let port {
                functionsBehind.append((function.function, port))
            } else {
                virtio.append(function)
            }
            devices.append(function)
            return
        }
        guard places.count < MicroBoard.virtioLines.count else {
            throw BoardError("The micro machine has no interrupt line left: leave out some --disk options.")
        }
        let line = MicroBoard.virtioLines[places.count]
        let address = MicroBoard.virtioAddress + UInt64(places.count) * MicroBoard.virtioStride
        let memory = VirtioMMIO(device, line: context.line(line))
        add(memory, at: address, size: MicroBoard.virtioStride)
        places.append(
            PlatformDescription.VirtioPlace(
                window: PlatformDescription.Window(start: address, size: MicroBoard.virtioStride),
                interrupt: UInt32(line)))
    }

    mutating func add(_ device: some PortDevice, _ backend: any CharacterBackend) {
        add(device)
        serial.append(backend)
    }

    mutating func add(_ output: ScreenOutput) { screenOutput = output }

    /// An image of a device that was added, or will be: closed with the machine.
    mutating func keep(_ image: any DiskImage) { images.append(image) }

    /// Closed with the machine, too.
    mutating func keep(_ drive: DiscDrive) { drives.append(drive) }

    mutating func add(_ device: some VirtioDevice, _ backend: any CharacterBackend) throws(BoardError) {
        try add(device)
        serial.append(backend)
    }

    mutating func add(_ device: some VirtioDevice, _ image: any DiskImage) throws(BoardError) {
        try add(device)
        images.append(image)
    }
}

/// The fixed places of a board without PCI.
enum MicroBoard {
    static let virtioAddress: UInt64 = 0xD000_0000
    static let virtioStride: UInt64 = 0x1000
    /// Inputs of the IOAPIC that no serial port, clock or power button uses.
    static let virtioLines = Array(16...23) + Array(10...15) + [5, 6, 7]
}
