import Foundation
import Testing

extension BootTests {
    /// Disks behind PCI Express root ports.
    @Suite(.enabled(if: FirmwareBoot.problem == nil, "\(FirmwareBoot.problem ?? "")"))
    struct RootPortBootTests {
        private static let device = [
            "nvme": (disk: "/dev/nvme0n1", modules: ["nvme"]), "virtio": (disk: "/dev/vda", modules: []),
        ]

        private func boot(_ bus: String, words: String = "") throws -> TestBoot {
            let device = try #require(Self.device[bus])
            // On a UEFI GRUB needs room beside the kernel that it loads.
            var boot = TestBoot(kernel: .standard, test: "ports", memory: "512M")
            boot.modules = ["crc32c_generic"] + device.modules
            boot.words = "ospite.disk=\(device.disk) \(words)"
            return boot
        }

        /// The kernel finds the numbers and windows that we gave.
        @Test(arguments: [("nvme", 2), ("virtio", 1), ("virtio", 8)])
        func `Linux without firmware uses a disk behind a root port`(bus: String, port: Int) throws {
            let folder = try ScratchFolder()
            let image = try BootAssets.emptyDisk(in: folder)
            try FileHandle(forUpdating: URL(fileURLWithPath: image)).truncate(atOffset: 24 << 20)
            var boot = try boot(bus, words: "ospite.use=yes")
            boot.disk = image + ",bus=\(bus),root-port=\(port)"
            let machine = try GuestMachine(
                try boot.arguments() + ["--pcie-root-ports", "8"], in: folder)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let place = String(format: "place 0000:00:1c.%d/0000:%02d:00.0/", port - 1, port)
            let sum = try runTool(["sha256sum", BootAssets.fixedPath], in: folder.path).output.prefix(64)
            let results = machine.results.filter { !$0.hasPrefix("start") }
            #expect(
                results.suffix(7) == [
                    place, "sectors 49152, cache: write back", "boots 1", "sha256 \(sum)", "trimmed",
                    "raw \(sum)", "end",
                ], "\(GuestProblem("results", machine))")
        }

        @Test(arguments: [("bios", "nvme", 1), ("bios", "virtio", 3)])
        func `a firmware boots a disk behind a root port, and Linux finds it there`(
            firmware: String, bus: String, port: Int
        ) throws {
            let folder = try ScratchFolder()
            let boot = try boot(bus), image = try FirmwareBoot.disc(boot)
            let machine = try FirmwareBoot.start(
                boot, firmware,
                [
                    "--pcie-root-ports", "3", "--disk", image + ",readonly,bus=\(bus),root-port=\(port)",
                ], in: folder)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let start = try Data(contentsOf: URL(fileURLWithPath: image)).prefix(1 << 20)
            let copy = try folder.file("start", start)
            let sum = try runTool(["sha256sum", copy], in: folder.path).output.prefix(64)
            let place = machine.results.first { $0.hasPrefix("place") } ?? ""
            #expect(
                place.hasPrefix("place 0000:00:1c.\(port - 1)/0000:"), "\(GuestProblem("results", machine))")
            #expect(machine.results.suffix(2) == ["start \(sum)", "end"])
        }

        @Test(.enabled(if: InstalledFirmware.hasUEFI, InstalledFirmware.missingUEFI), arguments: [1, 3])
        func `OVMF boots a disk behind a root port`(port: Int) throws {
            let folder = try ScratchFolder()
            let image = try FirmwareBoot.disc(try boot("nvme"))
            let machine = try GuestMachine(
                [
                    "--firmware", "uefi", "--accel", "soft", "--memory", "256M", "--pcie-root-ports", "3",
                    "--disk", image + ",readonly,bus=nvme,root-port=\(port)",
                ], in: folder)
            // GRUB; on a CD's image that is a disk it does not find what to do, behind a root port or not.
            try machine.wait(for: "grub>")
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }
    }
}
