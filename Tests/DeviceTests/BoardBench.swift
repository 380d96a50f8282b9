import DeviceModel
import Foundation
import LinuxHost
import ScreenSurface
import StateCodec
import Testing

@testable import Machine
@testable import MachineControl
@testable import MachineSpec

/// Files for machines inside this process: their descriptors have to be neighbours, so each test takes a
/// range of numbers that nobody else uses.
enum BoardFiles {
    /// Far above what a test process opens by itself.
    static let first: Int32 = 700

    /// Puts `descriptors` at `first` and after; the board adopts them.
    static func resources(_ descriptors: [Descriptor], at first: Int32) -> MachineResources {
        for (index, descriptor) in descriptors.enumerated() {
            precondition(
                dup2(descriptor.number, first + Int32(index)) >= 0, "the process has no numbers left")
        }
        return MachineResources(count: descriptors.count, first: first)
    }
}

enum BoardBench {
    static func spec(cpus: Int = 2) throws -> MachineSpec {
        let name = try MachineName("board")
        let uuid = try MachineUUID(parsing: "00000000-0000-4000-8000-000000000001")
        var spec = MachineSpec(name: name, uuid: uuid)
        spec.accelerator = .soft
        spec.cpuCount = cpus
        spec.memory = .mebibytes(16)
        spec.options = [.debugExit]
        return spec
    }

    /// A board with every device that a machine can have.
    static func full(_ type: MachineType = .pc, at first: Int32) throws -> Board {
        var spec = try spec()
        spec.machineType = type
        spec.serialPorts = [.none, .none, .none, .none]
        spec.console = SerialBackend.none
        spec.video = .virtio
        spec.input = .virtio
        spec.disks = [
            DiskSpec(image: ResourceIndex(0), byteCount: 1 << 20),
            DiskSpec(image: ResourceIndex(1), overlay: ResourceIndex(2), byteCount: 1 << 20),
        ]
        spec.networks = [
            NetworkSpec(
                address: .usual(for: spec.uuid, card: 0), rom: type == .pc ? ResourceIndex(15) : nil)
        ]
        if type == .pc {
            spec.rootPorts = 3
            spec.disks.append(
                DiskSpec(image: ResourceIndex(16), byteCount: 1 << 20, bus: .nvme, rootPort: 1))
            spec.disks.append(DiskSpec(image: ResourceIndex(17), byteCount: 1 << 20, rootPort: 3))
            spec.disks.append(DiskSpec(image: ResourceIndex(5), byteCount: 1 << 20, bus: .sata))
            spec.disks.append(DiskSpec(image: ResourceIndex(8), byteCount: 1 << 20, bus: .nvme))
            spec.disks.append(DiskSpec(image: ResourceIndex(9), byteCount: 1 << 20, bus: .ide))
            spec.disks.append(DiskSpec(image: ResourceIndex(11), byteCount: 1 << 20, bus: .scsi))
            spec.disks.append(DiskSpec(image: ResourceIndex(12), byteCount: 1 << 20, bus: .usb))
            spec.drives = [DriveSpec(disc: ResourceIndex(6)), DriveSpec(), DriveSpec(bus: .ide)]
            spec.floppies = [DiskSpec(image: ResourceIndex(10), byteCount: 1440 << 10)]
            spec.firmware = FirmwareSpec(
                kind: .uefi, image: ResourceIndex(3), variables: ResourceIndex(7), log: ResourceIndex(4))
            spec.display = DisplaySpec(surface: ResourceIndex(13), link: ResourceIndex(14))
        }
        let sizes: [UInt64] = [
            1 << 20, 1 << 20, 0, 1 << 16, 0, 1 << 20, 1 << 20, 8192, 1 << 20, 1 << 20, 1440 << 10, 1 << 20,
            1 << 20,
        ]
        var files = try sizes.map { try Descriptor.memory("file", size: $0) }
        files.append(try Descriptor.sealedMemory("screen", size: UInt64(SurfaceMemory.fileSize)))
        files.append(try Descriptor.socketPair(packets: true).0)
        for size in [4096, 1 << 20, 1 << 20] as [UInt64] {
            files.append(try Descriptor.memory("file", size: size))
        }
        return try Board(
            spec: spec, resources: BoardFiles.resources(files, at: first), tscFrequency: 1_000_000_000,
            report: { _ in })
    }

    static func close(_ board: Board) {
        for backend in board.serial { backend.close() }
        for image in board.images { image.close() }
        board.clock.stop()
    }

    // MARK: Any device

    static func saved(_ device: some Device) throws -> [UInt8] { try StateEncoder().encode(device.save()) }

    static func restore<D: Device>(_ device: D, _ bytes: [UInt8]) throws {
        try device.restore(StateDecoder().decode(D.Saved.self, from: bytes))
    }

    /// Whether two devices of one kind save equal values: dictionaries may come in any order of bytes.
    static func savesEqual<D: Device>(_ device: D, _ bytes: [UInt8]) throws -> Bool {
        try StateDecoder().decode(D.Saved.self, from: bytes) == device.save()
    }

    static func kind(_ device: some Device) -> String { type(of: device).kind }
}
