import ByteLayout
import CharacterBackends
import ChipsetDevices
import DeviceModel
import DiskImages
import DisplayDevices
import Glibc
import GuestMemory
import LinuxHost
import MachineSpec
import ScreenSurface
import SoftCPU
import Synchronization
import VCPUEngine
@testable import Machine
@testable import MachineControl
@testable import PCIBus
@testable import Virtio
@testable import VirtioDevices

/// One virtio device of the board, with what the fuzzer needs of it.
struct FuzzedFunction: Sendable {
    /// How a guest reaches its registers.
    enum Transport: Sendable { case pci(PCIFunction), memory(any MemoryMappedDevice) }
    let transport: Transport
    let link: VirtioLink
    let features: UInt64
    let deviceID: UInt16

    private init(known device: VirtioPCI<some VirtioDevice>) {
        self.init(.pci(device.function), device.device)
    }

    private init(known device: VirtioMMIO<some VirtioDevice>) { self.init(.memory(device), device.device) }

    private init(_ transport: Transport, _ device: some VirtioDevice) {
        self.transport = transport
        link = device.link
        features = device.features | VirtioFeature.transport
        deviceID = device.deviceID
    }

    init?(_ device: any Device) {
        switch device {
        case let display as VirtioMMIO<VirtioGPU>: self.init(known: display)
        case let input as VirtioMMIO<VirtioInput>: self.init(known: input)
        case let display as VirtioPCI<VirtioGPU>: self.init(known: display)
        case let input as VirtioPCI<VirtioInput>: self.init(known: input)
        case let card as VirtioPCI<VirtioNetwork>: self.init(known: card)
        case let card as VirtioMMIO<VirtioNetwork>: self.init(known: card)
        case let disk as VirtioMMIO<VirtioBlock>: self.init(known: disk)
        case let generator as VirtioMMIO<VirtioEntropy>: self.init(known: generator)
        case let balloon as VirtioMMIO<VirtioBalloon>: self.init(known: balloon)
        case let console as VirtioMMIO<VirtioConsole>: self.init(known: console)
        case let host as VirtioPCI<VirtioSCSI>: self.init(known: host)
        case let disk as VirtioPCI<VirtioBlock>: self.init(known: disk)
        case let generator as VirtioPCI<VirtioEntropy>: self.init(known: generator)
        case let balloon as VirtioPCI<VirtioBalloon>: self.init(known: balloon)
        case let console as VirtioPCI<VirtioConsole>: self.init(known: console)
        default: return nil
        }
    }

    var function: PCIFunction? { if case .pci(let function) = transport { function } else { nil } }

    /// Writes a register that `CommonRegister` names, wherever the transport has it.
    func write(_ register: Int, _ width: AccessWidth, _ value: UInt64) {
        switch transport {
        case .pci(let function):
            function.write(region: VirtioBAR.registers, offset: UInt64(register), width: width, value: value)
        case .memory(let device):
            guard let place = Self.places[register] else { return }
            device.write(region: 0, offset: place, width: .dword, value: value & 0xFFFF_FFFF)
            guard width == .qword else { return }
            device.write(region: 0, offset: place + 4, width: .dword, value: value >> 32)
        }
    }

    func kick(_ queue: Int) {
        switch transport {
        case .pci:
            write(Int(VirtioBAR.notify) + queue * Int(VirtioBAR.notifyMultiplier), .word, UInt64(queue))
        case .memory(let device):
            device.write(region: 0, offset: MMIORegister.queueNotify, width: .dword, value: UInt64(queue))
        }
    }

    private static let places: [Int: UInt64] = [
        CommonRegister.deviceFeatureSelect: MMIORegister.deviceFeatureSelect,
        CommonRegister.driverFeatureSelect: MMIORegister.driverFeatureSelect,
        CommonRegister.driverFeature: MMIORegister.driverFeatures,
        CommonRegister.deviceStatus: MMIORegister.status,
        CommonRegister.queueSelect: MMIORegister.queueSelect,
        CommonRegister.queueSize: MMIORegister.queueSize,
        CommonRegister.queueEnable: MMIORegister.queueReady,
        CommonRegister.queueDescriptors: MMIORegister.queueDescriptorsLow,
        CommonRegister.queueDriver: MMIORegister.queueDriverLow,
        CommonRegister.queueDevice: MMIORegister.queueDeviceLow,
        CommonRegister.queueReset: MMIORegister.queueReset,
    ]
}

/// A whole board as a machine's process builds it: two vCPUs that nobody runs, serial lines, two disks, one
/// of them read-only, and every other virtio device. A small kernel proves that it still boots.
///
/// Confinement: the accesses of a guest from any thread; `reset` and `proveLife` from one, with no others.
final class FuzzedBoard: Sendable {
    static let ram: UInt64 = 32 << 20
    static let diskSize: UInt64 = 1 << 20
    /// Above what the process opens by itself, below `BoardFiles.first`.
    private static let firstDescriptor: Int32 = 400
    /// The firmware's, below 4 GiB; under it are the variables.
    static let firmwareSize = 0x1_0000
    static let variablesSize: UInt64 = 0x2000
    /// What the kernel writes to the debug-exit port.
    private static let signOfLife: UInt32 = 0x2A

    let board: Board
    let functions: [FuzzedFunction]
    let devices: [any Device]
    let balloon: VirtioBalloon
    private let keyboard: I8042?
    private let display: VirtioGPU?
    /// Looks at the screen that found a picture on the virtio display.
    let looksAtDisplay = Atomic(0)
    private let inputs: [VirtioInput]
    private let canvas: Mutex<ScreenCanvas>
    let console: VirtioConsole
    let serialInput: Descriptor
    private let disk: Descriptor
    private let serialOutput: Descriptor
    private let engine: SoftEngine
    private let vcpus: [any VCPU]
    private let events: EventCount

    /// What the devices told the machine.
    private final class EventCount: Sendable {
        let exitValue = Atomic<UInt32>(0)
        let vcpu = Mutex<(any VCPU)?>(nil)
        func note(_ event: MachineEvent) {
            guard case .debugExit(let value) = event else { return }
            exitValue.store(value, ordering: .releasing)
            vcpu.withLock { $0 }?.requestExit()
        }
    }

    /// With firmware instead of a kernel it is the board of a PC.
    init(_ type: MachineType = .pc, hasFirmware: Bool = false, video: VideoAdapter = .virtio) throws {
        let code = try Descriptor.memory("code", size: 0)
        try code.write(hasFirmware ? Self.firmwareFile : Self.kernelFile, at: 0)
        disk = try Descriptor.memory("disk", size: Self.diskSize)
        let readOnly = try Descriptor.memory("read-only disk", size: Self.diskSize)
        // Nobody reads what the guest sends: the line backs up.
        let (input, inputWriter) = try Descriptor.pipe(), (outputReader, output) = try Descriptor.pipe()
        try inputWriter.setNonBlocking(true)
        serialInput = inputWriter
        serialOutput = outputReader
        var spec = MachineSpec(name: try MachineName("fuzz"), uuid: .random())
        (spec.machineType, spec.cpuCount) = (type, 2)
        spec.memory = MemorySize(bytes: Self.ram)
        spec.options = [.debugExit]
        spec.video = video
        spec.input = video == .virtio ? .virtio : .ps2
        spec.disks = [
            DiskSpec(image: try Self.resource(disk), byteCount: Self.diskSize),
            DiskSpec(image: try Self.resource(readOnly), byteCount: Self.diskSize, isReadOnly: true),
        ]
        spec.networks = [NetworkSpec(address: .usual(for: spec.uuid, card: 0))]
        if type == .pc { try Self.addDisks(to: &spec) }
        // The disks of all machines come first.
        if hasFirmware {
            try Self.addFirmware(code, to: &spec)
        } else {
            spec.boot = KernelBoot(kernel: try Self.resource(code), commandLine: "fuzz")
        }
        spec.serialPorts = [
            .stream(input: try Self.resource(input), output: try Self.resource(output)), .none,
        ]
        spec.console = SerialBackend.none
        let events = EventCount()
        self.events = events
        board = try Board(
            spec: spec, resources: MachineResources(count: 256, first: Self.firstDescriptor),
            tscFrequency: 1_000_000_000, report: { events.note($0) })
        devices = board.devices
        keyboard = devices.compactMap { $0 as? I8042 }.first
        display = Self.behaviours(VirtioGPU.self, of: devices).first
        inputs = Self.behaviours(VirtioInput.self, of: devices)
        canvas = Mutex(ScreenCanvas(try SurfaceMemory(Self.surface(), writable: true)))
        let all = devices.compactMap { FuzzedFunction($0) }
        // The disks first: `firstSectors` reads from one.
        functions = all.filter { $0.deviceID == 2 } + all.filter { $0.deviceID != 2 }
        console = Self.behaviours(VirtioConsole.self, of: devices)[0]
        balloon = Self.behaviours(VirtioBalloon.self, of: devices)[0]
        engine = SoftEngine(memory: board.memory, vcpuCount: 2, tscFrequency: 1_000_000_000)
        var vcpus: [any VCPU] = []
        for index in 0..<2 {
            let vcpu = try engine.makeVCPU(index: index, apic: board.apics[index], platform: board.platform)
            board.links[index].connect(vcpu)
            vcpus.append(vcpu)
        }
        self.vcpus = vcpus
        try board.eventLoop.start()
    }

    /// The virtio devices of a kind, whatever their transport.
    private static func behaviours<B: VirtioDevice>(_ kind: B.Type, of devices: [any Device]) -> [B] {
        devices.compactMap { ($0 as? VirtioPCI<B>)?.device ?? ($0 as? VirtioMMIO<B>)?.device }
    }

    /// A person at the machine: presses a key and moves the mouse now and then, and looks at the screen.
    func act(at round: Int) {
        if round % 8 == 0 {
            keyboard?.key(KeyCode(UInt8(truncatingIfNeeded: round / 8)), isDown: round / 2048 % 2 == 0)
            keyboard?.move(
                PointerMovement(
                    right: Int32(round % 700) - 350, down: 3, wheel: Int32(round % 3) - 1,
                    buttons: UInt8(round / 64 % 32)))
            for input in inputs {
                input.key(code: UInt8(truncatingIfNeeded: round / 8), isDown: round / 2048 % 2 == 0)
                input.point(
                    x: UInt16(truncatingIfNeeded: round &* 77), y: UInt16(truncatingIfNeeded: round &* 55),
                    buttons: UInt8(round / 64 % 32),
                    wheel: Int32(round % 3) - 1)
            }
        }
        if round % 300 == 299 { display?.requestSize(width: round % 5000, height: round % 4096) }
        // A display seldom has a picture, and not for long.
        if round % 10 == 9, let display, display.wantsScreen {
            looksAtDisplay.wrappingAdd(1, ordering: .relaxed)
            canvas.withLock { display.draw(on: &$0) }
        }
        guard round % 100 == 99 else { return }
        for source in [board.screen, display] as [(any ScreenSource)?] {
            if let source { canvas.withLock { source.draw(on: &$0) } }
        }
    }

    /// One on each other controller that needs no firmware.
    private static func addDisks(to spec: inout MachineSpec) throws {
        spec.rootPorts = 3
        // The last two are behind root ports.
        for (bus, port) in [
            (DiskBus.nvme, nil), (.ide, nil), (.scsi, nil), (.usb, nil), (.nvme, 1), (.virtio, 3),
        ] as [(DiskBus, Int?)] {
            let disk = try Descriptor.memory("\(bus) disk", size: diskSize)
            spec.disks.append(
                DiskSpec(image: try resource(disk), byteCount: diskSize, bus: bus, rootPort: port))
        }
        let size: UInt64 = 720 << 10
        let floppy = try Descriptor.memory("floppy disk", size: size)
        spec.floppies = [DiskSpec(image: try resource(floppy), byteCount: size)]
    }

    /// With a flash, and with a disk and a disc on the SATA controller.
    private static func addFirmware(_ code: Descriptor, to spec: inout MachineSpec) throws {
        let variables = try Descriptor.memory("variables", size: variablesSize)
        spec.firmware = FirmwareSpec(
            kind: .uefi, image: try resource(code), variables: try resource(variables))
        let sata = try ["SATA disk", "disc"].map { name in
            try resource(Descriptor.memory(name, size: diskSize))
        }
        spec.disks.append(DiskSpec(image: sata[0], byteCount: diskSize, bus: .sata))
        spec.drives = [DriveSpec(disc: sata[1])]
        // There is no viewer any more.
        let link = try Descriptor.socketPair(packets: true).0
        spec.display = DisplaySpec(
            surface: try resource(surface()), link: try resource(link))
    }

    private static func surface() throws -> Descriptor {
        try Descriptor.sealedMemory("screen", size: UInt64(SurfaceMemory.fileSize))
    }

    /// The place of a copy of `file` among a machine's descriptors; the board owns the copy.
    private static func resource(_ file: Descriptor) throws -> ResourceIndex {
        let number = fcntl(file.number, F_DUPFD_CLOEXEC, firstDescriptor)
        let place = Int(number) - Int(firstDescriptor)
        guard let index = UInt8(exactly: place), number >= 0 else {
            throw HostError("finding a free descriptor", code: EMFILE)
        }
        return ResourceIndex(index)
    }

    /// A ROM whose last bytes are real-mode code: `mov al, 2Ah; out F4h, al; hlt`, then a jump back.
    private static var firmwareFile: [UInt8] {
        let code: [UInt8] = [0xB0, UInt8(signOfLife), 0xE6, 0xF4, 0xF4, 0xEB, 0xF9]
        let rom = [UInt8](repeating: 0xF4, count: firmwareSize - 16) + code
        return rom + [UInt8](repeating: 0, count: firmwareSize - rom.count)
    }

    /// A PVH kernel of 32-bit code: `mov al, 2Ah; mov dx, F4h; out dx, al; hlt`, then a jump back.
    private static var kernelFile: [UInt8] {
        let code: [UInt8] = [0xB0, UInt8(signOfLife), 0x66, 0xBA, 0xF4, 0x00, 0xEE, 0xF4, 0xEB, 0xF6]
        let entry: UInt32 = 0x10_0000
        var note: [UInt8] = []
        for word in [4, 4, 18] as [UInt32] { note.append(littleEndian: word) }
        note += Array("Xen\0".utf8)
        note.append(littleEndian: entry)
        var file: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, 1, 1, 1, 0] + [UInt8](repeating: 0, count: 8)
        file.append(littleEndian: UInt16(2))
        file.append(littleEndian: UInt16(3))
        for word in [1, entry, 52, 0, 0] as [UInt32] { file.append(littleEndian: word) }
        for half in [52, 32, 2, 0, 0, 0] as [UInt16] { file.append(littleEndian: half) }
        let contents = UInt32(52 + 2 * 32)
        // p_type, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_flags, p_align
        let load = [1, contents, entry, entry, UInt32(code.count), 4096, 7, 4]
        let noteSegment = [
            4, contents + UInt32(code.count), 0, 0, UInt32(note.count), UInt32(note.count), 4, 4,
        ]
        for word in load + noteSegment { file.append(littleEndian: word) }
        return file + code + note
    }

    // MARK: The machine's life

    /// As `RunningMachine` does it when the guest asks for a reset. The boot processor is ready to run.
    func reset() throws {
        for device in devices { device.pause() }
        var state = try board.powerOn()
        state.activity = .running
        vcpus[0].load(state)
        for device in devices { device.resume() }
    }

    /// Resets the machine and runs its kernel. Returns whether it did what it is for.
    func boots() throws -> Bool {
        try reset()
        events.exitValue.store(0, ordering: .releasing)
        events.vcpu.withLock { $0 = vcpus[0] }
        defer { events.vcpu.withLock { $0 = nil } }
        return vcpus[0].run() == .requested
            && events.exitValue.load(ordering: .acquiring) == Self.signOfLife
    }

    /// Devices that refuse the state that they saved a moment before, or are in another one afterwards.
    func devicesThatLoseState() -> [String] {
        board.clock.pause()
        for device in devices { device.pause() }
        defer {
            for device in devices { device.resume() }
            board.clock.resume()
        }
        return devices.filter { !Self.keepsState($0) }.map { type(of: $0).kind }
    }

    /// The outside goes on while the machine stands still: input that arrives between the two looks is no
    /// loss, and does not arrive every time.
    private static func keepsState(_ device: some Device) -> Bool {
        (0..<20).contains { _ in
            let saved = device.save()
            return (try? device.restore(saved)) != nil && device.save() == saved
        }
    }

    /// Impossible queues that the devices have seen.
    var faults: UInt64 { functions.reduce(0) { $0 + $1.link.signals.faults } }

    /// Queues that hold more chains than they have entries.
    var overfullQueues: [String] {
        functions.flatMap { $0.link.queues }.filter { $0.inFlight > Int($0.maximumSize) }
            .map { "queue \($0.index): \($0.inFlight)" }
    }

    /// Reads the first sectors of the first disk as a driver does; nil when the disk does not answer.
    func firstSectors() throws -> (guest: [UInt8], host: [UInt8])? {
        let driver = FuzzedQueue(functions[0], function: 0, queue: 0)
        driver.start(functions[0].features, memory: board.memory)
        let status: UInt64 = 0x90_0400
        try board.memory.write([UInt8](repeating: 0, count: 16), at: GuestAddress(0x90_0000))
        try board.memory.store(UInt8(0xFF), at: GuestAddress(status))
        driver.describe(0, 0x90_0000, 16, flags: 1, next: 1, memory: board.memory)
        driver.describe(1, 0x91_0000, 4096, flags: 3, next: 2, memory: board.memory)
        driver.describe(2, status, 1, flags: 2, next: 0, memory: board.memory)
        driver.makeAvailable(0, memory: board.memory)
        driver.kick()
        for device in devices { device.pause() }
        for device in devices { device.resume() }
        guard try board.memory.load(UInt8.self, at: GuestAddress(status)) == 0 else { return nil }
        var host = [UInt8](repeating: 0, count: 4096)
        _ = try disk.read(at: 0, into: &host)
        return (try board.memory.bytes(GuestAddress(0x91_0000), count: 4096), host)
    }

    /// Brings every page of the guest's memory in, also those that it gave away.
    func touchMemory() {
        for address in stride(from: 0, to: Self.ram, by: 4096) {
            let value = (try? board.memory.load(UInt8.self, at: GuestAddress(address))) ?? 0
            try? board.memory.store(value, at: GuestAddress(address))
        }
    }

    /// Gives the threads and files back.
    func close() {
        for device in devices { device.pause() }
        board.clock.stop()
        for backend in board.serial { backend.close() }
        for image in board.images { image.close() }
        board.eventLoop.stop()
    }
}
