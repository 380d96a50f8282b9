import Foundation
import Testing

extension BootTests {
    /// What SeaBIOS can boot, and in which order: every device has a boot sector that says its name.
    @Suite(.enabled(if: InstalledFirmware.hasBIOS, InstalledFirmware.missingBIOS))
    struct BootDeviceTests {
        /// The boot sector that says "The NAME runs.", padded with spaces.
        private func sector(_ name: String) throws -> Data {
            var sector = try Data(contentsOf: URL(fileURLWithPath: AccelRun.guest("bootsector")))
            let place = try #require(sector.range(of: Data("boot sector".utf8)))
            let text = name.padding(toLength: place.count, withPad: " ", startingAt: 0)
            sector.replaceSubrange(place, with: Data(text.utf8))
            return sector
        }

        private func disk(_ name: String, size: Int = 4 << 20, in folder: ScratchFolder) throws -> String {
            let sector = try sector(name)
            return try folder.file(name, sector + Data(count: size - sector.count))
        }

        /// A disc as "El Torito" 1.0 has it, without emulation: volume descriptors from block 16, the catalog
        /// in block 19, the boot sector in block 20.
        private func disc(_ name: String, in folder: ScratchFolder) throws -> String {
            func block(_ parts: [(Int, [UInt8])]) -> Data {
                var block = Data(count: 2048)
                for (place, bytes) in parts {
                    block.replaceSubrange(place..<place + bytes.count, with: bytes)
                }
                return block
            }
            let standard = Array("CD001".utf8) + [1]
            let record = Array("EL TORITO SPECIFICATION".utf8)
            let disc =
                Data(count: 16 * 2048) + block([(0, [1] + standard)])
                + block([(0, [0] + standard), (7, record), (0x47, [19, 0, 0, 0])])
                + block([(0, [255] + standard)])
                // The validation entry, whose words add up to zero; the entry: bootable, one sector.
                + block([
                    (0, [1]), (0x1C, [0xAA, 0x55, 0x55, 0xAA]), (0x20, [0x88]), (0x26, [1, 0, 20, 0, 0, 0]),
                ])
            let sector = try sector(name)
            return try folder.file(name + ".iso", disc + sector + Data(count: 40 * 2048 - sector.count))
        }

        /// What the machine says, and the drive that it was booted from.
        private func boot(_ arguments: [String], in folder: ScratchFolder) throws -> (
            text: String, drive: UInt8
        ) {
            let machine = try GuestMachine(
                arguments + ["--accel", "soft", "--memory", "64M", "--debug-exit"], in: folder, patience: 90)
            let status = try machine.status()
            #expect(status & 1 == 1, "\(machine.errorText)")
            let text = machine.consoleText.split(separator: " ").map { String($0) }.joined(separator: " ")
            return (
                text.trimmingCharacters(in: .whitespacesAndNewlines), UInt8(truncatingIfNeeded: status >> 1)
            )
        }

        @Test(arguments: ["sata", "ide"])
        func `SeaBIOS starts a CD`(bus: String) throws {
            let folder = try ScratchFolder()
            let (text, drive) = try boot(
                ["--cdrom", try disc("disc", in: folder) + ",bus=" + bus], in: folder)
            #expect(text == "The disc runs.")
            #expect(drive & 0x7F >= 0x60, "CDs have drives from E0h")
        }

        @Test(
            arguments: [
                (nil, "hard"), ("cd", "disc"), ("cd,disk", "disc"), ("floppy", "floppy"), ("disk,cd", "hard"),
                ("floppy,cd", "floppy"),
            ] as [(String?, String)])
        func `the order of booting is the one that was asked for`(order: String?, first: String) throws {
            let folder = try ScratchFolder()
            let devices = [
                "--floppy", try disk("floppy", size: 1440 << 10, in: folder),
                "--disk", try disk("hard", in: folder), "--cdrom", try disc("disc", in: folder),
            ]
            let (text, _) = try boot(devices + (order.map { ["--boot", $0] } ?? []), in: folder)
            #expect(text == "The \(first) runs.")
        }

        /// Of several disks the first one is tried first, whatever bus it is on.
        @Test(arguments: ["virtio", "sata", "ide", "nvme", "scsi", "usb"])
        func `disks are booted in the order in which they are given`(first: String) throws {
            let folder = try ScratchFolder()
            let buses = ["virtio", "sata", "ide", "nvme", "scsi", "usb"]
            var arguments: [String] = []
            for bus in [first] + buses.filter({ $0 != first }) {
                arguments += ["--disk", try disk(bus, in: folder) + ",bus=" + bus]
            }
            #expect(try boot(arguments, in: folder) == ("The \(first) runs.", 0x80 & 0x7F))
        }

        @Test func `the boot menu lists every device, and boots the one that is chosen`() throws {
            let folder = try ScratchFolder()
            var arguments = [
                "--boot-menu", "--debug-exit", "--name", "menu", "--accel", "soft", "--memory", "64M",
            ]
            for bus in ["virtio", "sata", "ide", "nvme", "scsi", "usb"] {
                arguments += ["--disk", try disk(bus, in: folder) + ",bus=" + bus]
            }
            arguments += ["--pcie-root-ports", "1", "--net", "unplugged"]
            arguments += ["--disk", try disk("port", in: folder) + ",bus=nvme,root-port=1"]
            arguments += ["--cdrom", try disc("disc", in: folder)]
            arguments += ["--cdrom", try disc("old", in: folder) + ",bus=ide"]
            arguments += ["--floppy", try disk("floppy", size: 1440 << 10, in: folder)]
            let machine = try GuestMachine(arguments, in: folder, patience: 120)
            let screen = try ScreenViewer("menu", in: folder)
            try screen.wait(for: "ESC for boot menu")
            let escape: UInt32 = 0xFF1B
            try screen.viewer.key(escape, isDown: true)
            try screen.viewer.key(escape, isDown: false)
            // The last line; a picture may be taken before those above it are all there.
            try screen.wait(for: "iPXE (PCI")
            let rows = try screen.wait(for: "virtio-scsi")
            try Gallery.keep("boot-menu", of: "menu", in: folder)
            let entries = rows.filter { $0.contains(". ") }
            let names = [
                "Virtio disk": 1, "AHCI/0": 1, "ata0-0": 1, "NVMe NS 1": 2, "virtio-scsi": 1, "USB MSC": 1,
                "DVD/CD [AHCI/1": 1, "DVD/CD [ata": 1, "Floppy": 1, "iPXE (PCI": 1,
            ]
            for (name, count) in names {
                #expect(entries.count { $0.contains(name) } == count, "\(name) in \(rows)")
            }
            #expect(entries.count == names.values.reduce(0, +), "\(rows)")
            let chosen = try #require(entries.first { $0.contains("NVMe") }).trimmingCharacters(
                in: .whitespaces)
            // The machine, and its screen with it, may be gone before the key is up again.
            try screen.viewer.key(UInt32(try #require(chosen.utf8.first)), isDown: true)
            #expect(try machine.status() & 1 == 1, "\(machine.errorText)")
            #expect(machine.consoleText.contains("The nvme"))
        }
    }
}
