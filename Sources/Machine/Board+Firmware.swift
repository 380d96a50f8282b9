internal import ByteLayout
internal import CharacterBackends
internal import ChipsetDevices
internal import DisplayDevices
internal import FirmwareTables
internal import GuestMemory
internal import LinuxHost
internal import MachineControl
internal import MachineSpec
internal import PCIBus
internal import Q35Chipset
internal import Synchronization

/// The firmware of a machine, read and checked.
struct FirmwareImage {
    /// A ROM of whole pages that ends at 4 GiB.
    let rom: [UInt8]
    static let end: UInt64 = 0x1_0000_0000
    private static let sizes = 0x1_0000...0x100_0000
    var start: UInt64 { Self.end - UInt64(rom.count) }

    /// Nil for a machine without firmware.
    init?(_ spec: MachineSpec, _ resources: MachineResources) throws(BoardError) {
        guard let firmware = spec.firmware else { return nil }
        let file = Descriptor(adopting: resources[firmware.image])
        rom = try Board.contents(file, "firmware") ?? []
        guard Self.sizes.contains(rom.count), rom.count % 4096 == 0 else {
            throw BoardError("The firmware is no image of a ROM: it has \(rom.count) bytes.")
        }
    }

    /// Puts the ROM into its place below 4 GiB, and its end below 1 MiB as the chipset shows it there.
    func install(in memory: GuestMemory) throws(BoardError) -> ShadowMemory {
        do throws(GuestMemoryFault) {
            try memory.install(rom, at: GuestAddress(start))
        } catch {
            throw BoardError("The firmware has no place in memory.")
        }
        return ShadowMemory(memory, firmware: rom)
    }
}

extension Board {
    var screen: VGA? {
        for device in devices { if let screen = device as? VGA { return screen } }
        return nil
    }

    /// Firmware puts PCI devices below 4 GiB wherever it wants above 2 GiB.
    static let firmwareHole: UInt64 = 0x8000_0000
    /// What the screen's memory covers, when there is a screen.
    private static let screen: Range<UInt64> = 0xA_0000..<0xC_0000

    static let screenSlot = 1
    /// Virtio devices come after the screen, if there is one.
    static func firstVirtioSlot(_ spec: MachineSpec) -> Int { spec.hasScreen ? screenSlot + 1 : 1 }

    static let ideSlot = 30, usbSlot = 29
    /// All root ports are functions of one slot, if there are any.
    static let rootPortSlot = 28
    /// NVMe controllers fill the bus from above; a description that asks for too much is not valid.
    static func nvmeSlot(_ number: Int, _ spec: MachineSpec) -> Int {
        rootPortSlot - min(spec.rootPorts, 1) - number
    }

    /// Network cards come after all other virtio devices.
    static func networkSlot(_ number: Int, _ spec: MachineSpec) -> Int {
        firstVirtioSlot(spec) + spec.disksOnBoard(.virtio) + min(spec.disksOnBoard(.scsi), 1)
            + (spec.console == nil ? 0 : 1) + 2 + number
    }

    static func memoryLayout(_ spec: MachineSpec, _ firmware: FirmwareImage?) -> [GuestMemory.Layout] {
        let ram = spec.memory.bytes & ~0xFFF
        guard let firmware else { return GuestMemory.pcLayout(ram: ram) }
        var layout = GuestMemory.pcLayout(ram: ram, hole: firmwareHole)
        let low = layout.removeFirst()
        layout += [
            GuestMemory.Layout(start: 0, size: screen.lowerBound, kind: .ram),
            GuestMemory.Layout(start: screen.upperBound, size: low.size - screen.upperBound, kind: .ram),
            GuestMemory.Layout(start: firmware.start, size: UInt64(firmware.rom.count), kind: .rom),
        ]
        return layout
    }

    /// RAM as systems are told of it: from zero, and from 4 GiB; what the screen covers is not told apart.
    static func memoryRanges(_ memory: GuestMemory) -> [Range<UInt64>] {
        let ram = memory.regions.filter { $0.kind == .ram }
        let low = ram.filter { $0.start < FirmwareImage.end },
            high = ram.filter { $0.start >= FirmwareImage.end }
        return [0..<(low.last?.end ?? 0)] + high.map { $0.start..<$0.end }
    }

    static func systemDescription(_ spec: MachineSpec, _ memory: GuestMemory) -> SystemDescription {
        var system = SystemDescription(
            uuid: spec.uuid.bytes, ram: memoryRanges(memory), processors: spec.cpuCount)
        // The same as over the SMBus, which is there with a firmware.
        if spec.firmware != nil {
            system.memoryModules = MemoryModule.modules(holding: spec.memory.bytes).map(\.size)
        }
        return system
    }
}

/// The tables that firmware gets to place, made when it asks for them: by then it knows where it has put the
/// configuration space of PCI.
final class BoardTables: Sendable {
    private struct Connection { weak var bridge: PCIHostBridge? }
    private let connection = Mutex(Connection())
    private let platform: PlatformDescription
    private let system: SystemDescription

    init(_ platform: PlatformDescription, _ system: SystemDescription) {
        self.platform = platform
        self.system = system
    }

    /// Once, before the guest runs.
    func connect(_ bridge: PCIHostBridge) { connection.withLock { $0.bridge = bridge } }

    /// Always tables of one size.
    func make() throws(FirmwareTableError) -> LoadableTables {
        var platform = platform
        let low = Board.firmwareHole, high = Self.windowsEnd
        var ecam = connection.withLock({ $0.bridge })?.ecamWindow ?? low..<low
        if ecam.lowerBound < low || ecam.upperBound > high { ecam = low..<low }
        if !ecam.isEmpty { platform.ecam = Self.window(ecam) }
        // What firmware may give to devices: all around ECAM, in two windows.
        let middle = ecam.lowerBound > low && ecam.upperBound < high ? ecam : Self.usualCut..<Self.usualCut
        platform.pciWindow32 = Self.window(low..<middle.lowerBound)
        platform.morePCIWindows32 = [Self.window(middle.upperBound..<high)]
        return try LoadableTables(platform, system)
    }

    /// Where the I/O APIC is.
    private static let windowsEnd: UInt64 = 0xFEC0_0000
    private static let usualCut: UInt64 = 0xE000_0000

    private static func window(_ range: Range<UInt64>) -> PlatformDescription.Window {
        PlatformDescription.Window(start: range.lowerBound, size: range.upperBound - range.lowerBound)
    }
}

// MARK: What firmware asks for

extension BoardAssembly {
    mutating func addLPCBridge() {
        let bridge = LPCBridge(context, mmio: platform.mmio)
        add(bridge, bridge.function, slot: LPCBridge.slot)
    }

    /// Beside the ISA bridge, without which nobody would find it.
    mutating func addSMBus() {
        let bus = SMBusController(context, modules: MemoryModule.modules(holding: spec.memory.bytes))
        add(bus, bus.function, slot: SMBusController.slot, number: SMBusController.functionNumber)
    }

    /// The flash with a UEFI's variables, right below its code.
    mutating func addFlash() throws(BoardError) {
        guard let firmware = spec.firmware, let place = firmware.variables else { return }
        let file = Descriptor(adopting: resources[place])
        let contents = try Board.contents(file, "UEFI's variables") ?? []
        let start = memory.regions.last { $0.kind == .rom }?.start ?? 0
        guard FlashMemory.sizes.contains(contents.count), contents.count % FlashMemory.blockSize == 0,
            start >= UInt64(contents.count)
        else {
            throw BoardError("The UEFI's variables are not those of a flash: \(contents.count) bytes.")
        }
        // A file that cannot be written loses the change, not the machine.
        let flash = FlashMemory(contents: contents) { try? file.write(Array($1), at: UInt64($0)) }
        add(flash, at: start - UInt64(contents.count), size: UInt64(contents.count))
    }

    mutating func addFirmwareLog() throws(BoardError) {
        guard let log = spec.firmware?.log else { return }
        do throws(HostError) {
            let backend = try DescriptorBackend(
                file: Descriptor(adopting: resources[log]), name: "firmware-log")
            add(FirmwareLog { backend.write($0) }, backend)
        } catch {
            throw BoardError("The firmware's log cannot be written: \(error).")
        }
    }

    mutating func addFirmwareConfig() throws(BoardError) {
        guard let firmware = spec.firmware else { return }
        var contents = FirmwareConfigContents()
        contents.add(FirmwareConfigKey.uuid, bytes: spec.uuid.bytes)
        contents.add(FirmwareConfigKey.memorySize, number: memory.ramSize)
        contents.add(FirmwareConfigKey.noGraphics, number: 0 as UInt16)
        contents.add(FirmwareConfigKey.processors, number: UInt16(spec.cpuCount))
        contents.add(FirmwareConfigKey.processorLimit, number: UInt16(spec.cpuCount))
        contents.add(FirmwareConfigKey.bootMenu, number: (firmware.hasBootMenu ? 1 : 0) as UInt16)
        contents.add(FirmwareConfigKey.timerOverride, number: 1 as UInt8)
        contents.add(file: "etc/e820", bytes: memoryMap)
        contents.add(file: "bootorder", bytes: Array(BootOrder(spec).text.utf8) + [0])
        // Milliseconds: a menu waits that long for a key; without a system to boot the machine stays.
        contents.add(file: "etc/boot-menu-wait", number: 3000 as UInt16)
        // What is plugged into our USB ports is there from the start: SeaBIOS need not wait for more.
        contents.add(file: "etc/usb-time-sigatt", number: 1 as UInt64)
        contents.add(file: "etc/boot-fail-wait", number: UInt32.max)
        do throws(FirmwareTableError) {
            try addTables(to: &contents)
        } catch {
            throw BoardError("The firmware tables cannot be made: \(error).")
        }
        add(FirmwareConfig(context, contents))
    }

    private func addTables(to contents: inout FirmwareConfigContents) throws(FirmwareTableError) {
        typealias File = LoadableTables.File
        let fixed = try tables.make(), tables = tables
        contents.add(file: File.script, bytes: fixed.script)
        contents.add(file: File.rootPointer, bytes: fixed.rootPointer)
        contents.add(file: File.tables, size: fixed.tables.count) {
            // What could be made once can be made again.
            (try? tables.make().tables) ?? fixed.tables
        }
        contents.add(file: File.systemAnchor, bytes: fixed.systemAnchor)
        contents.add(file: File.systemTables, bytes: fixed.systemTables)
    }

    /// QEMU's "etc/e820": le64 address, le64 size, le32 type; 1 is RAM.
    private var memoryMap: [UInt8] {
        var bytes: [UInt8] = []
        for range in Board.memoryRanges(memory) {
            bytes.append(littleEndian: range.lowerBound)
            bytes.append(littleEndian: UInt64(range.count))
            bytes.append(littleEndian: UInt32(1))
        }
        return bytes
    }
}
