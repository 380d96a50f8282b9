import Foundation
import Testing

extension BootTests {
    /// Linux's drivers with disks on each of our controllers.
    @Suite(.enabled(if: InstalledKernel.standard.isThere, "\(InstalledKernel.standard.problem ?? "")"))
    struct StorageBootTests {
        struct Bus: Sendable, CustomTestStringConvertible {
            let name: String, modules: [String], disk: String
            var cpus = 1
            var trims = true
            var testDescription: String { "\(name), \(cpus) CPUs" }
        }
        static let buses = [
            Bus(name: "nvme", modules: ["nvme"], disk: "/dev/nvme0n1"),
            Bus(name: "nvme", modules: ["nvme"], disk: "/dev/nvme0n1", cpus: 3),
            Bus(name: "ide", modules: ["ata_piix", "sd_mod"], disk: "/dev/sda", trims: false),
            Bus(name: "scsi", modules: ["virtio_scsi", "sd_mod"], disk: "/dev/sda"),
            Bus(name: "sata", modules: ["ahci", "sd_mod"], disk: "/dev/sda", trims: false),
            Bus(name: "usb", modules: ["xhci_pci", "usb_storage", "sd_mod"], disk: "/dev/sda", trims: false),
        ]

        @Test(arguments: [("ide", "ata_piix"), ("sata", "ahci")])
        func `Linux reads a disc`(bus: String, driver: String) throws {
            let folder = try ScratchFolder()
            let bytes = Data((0..<3000 * 2048).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 6) })
            let image = try folder.file("disc", bytes)
            var boot = TestBoot(kernel: .standard, test: "disc")
            boot.modules = [driver, "sr_mod"]
            boot.words = "ospite.disk=/dev/sr0"
            let machine = try GuestMachine(
                try boot.arguments() + ["--cdrom", image + ",bus=" + bus], in: folder)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let sum = try runTool(["sha256sum", image], in: folder.path).output.prefix(64)
            #expect(
                machine.results.suffix(2) == ["sha256 \(sum)", "end"], "\(GuestProblem("results", machine))")
        }

        @Test func `Linux reads and writes a floppy disk`() throws {
            let folder = try ScratchFolder()
            let bytes = Data((0..<1440 << 10).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 5) })
            let image = try folder.file("floppy", bytes)
            var boot = TestBoot(kernel: .standard, test: "floppy")
            boot.modules = ["floppy"]
            let machine = try GuestMachine(try boot.arguments() + ["--floppy", image], in: folder)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let copy = try folder.file("copy", bytes)
            let sum = try runTool(["sha256sum", copy], in: folder.path).output.prefix(64)
            #expect(
                machine.results.suffix(3) == ["sha256 \(sum)", "sectors 2880", "end"],
                "\(GuestProblem("results", machine))")
            let written = try Data(contentsOf: URL(fileURLWithPath: image))
            #expect(written.count == bytes.count && written.prefix(5120) == bytes.prefix(5120))
            #expect(written[5120..<105_120] == BootAssets.fixedFile.prefix(100_000))
            #expect(written.suffix(bytes.count - 105_472) == bytes.suffix(bytes.count - 105_472))
        }

        @Test(arguments: buses)
        func `Linux keeps files on a disk, gives blocks up, and reads what it wrote`(bus: Bus) throws {
            let folder = try ScratchFolder()
            var boot = TestBoot(kernel: .standard, test: "storage")
            boot.cpus = bus.cpus
            boot.modules = ["crc32c_generic"] + bus.modules
            boot.words = "ospite.disk=" + bus.disk
            let image = try BootAssets.emptyDisk(in: folder)
            // Blocks behind the file system.
            let file = try FileHandle(forUpdating: URL(fileURLWithPath: image))
            try file.truncate(atOffset: 24 << 20)
            boot.disk = image + ",bus=" + bus.name
            let machine = try boot.start(in: folder)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let sum = try runTool(["sha256sum", BootAssets.fixedPath], in: folder.path).output.prefix(64)
            let wanted =
                ["sectors 49152, cache: write back", "boots 1", "sha256 \(sum)"]
                + (bus.trims ? ["trimmed"] : []) + ["raw \(sum)", "end"]
            let results = machine.results.drop { !$0.hasPrefix("sectors") }
            #expect(Array(results) == wanted, "\(GuestProblem("results", machine))")
            try file.seek(toOffset: 20 << 20)
            let written = try file.read(upToCount: BootAssets.fixedFile.count)
            #expect(written == BootAssets.fixedFile, "the host reads other bytes")
        }
    }
}
