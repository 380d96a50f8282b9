internal import CharacterBackends
internal import ChipsetDevices
internal import DeviceModel
internal import DiskImages
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
    private(set) var virtio: [any VirtioFunction] = []
    private(set) var serial: [any CharacterBackend] = []
    private(set) var images: [any DiskImage] = []
    /// Functions with a place of their own on the PCI bus.
    private(set) var functions: [(function: PCIFunction, slot: Int, number: Int)] = []
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

    /// Virtio devices take the slots of the PCI bus in the order of the catalog.
    mutating func add(_ function: any VirtioFunction) {
        virtio.append(function)
        devices.append(function)
    }

    mutating func add(_ device: some PortDevice, _ backend: any CharacterBackend) {
        add(device)
        serial.append(backend)
    }

    /// An image of a device that was added, or will be: closed with the machine.
    mutating func keep(_ image: any DiskImage) { images.append(image) }

    mutating func add(_ function: any VirtioFunction, _ backend: any CharacterBackend) {
        add(function)
        serial.append(backend)
    }

    mutating func add(_ function: any VirtioFunction, _ image: any DiskImage) {
        add(function)
        images.append(image)
    }
}
