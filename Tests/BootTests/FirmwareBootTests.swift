import Foundation
import Testing

/// The firmware that Debian installed here.
enum InstalledFirmware {
    static let bios = "/usr/share/seabios/bios-256k.bin"
    static let uefi = "/usr/share/OVMF/OVMF_CODE_4M.fd"
    static let missingUEFI: Comment = "OVMF is absent; install ovmf"
    static var hasUEFI: Bool { FileManager.default.isReadableFile(atPath: uefi) }
    static let missingBIOS: Comment = "SeaBIOS is absent; install seabios"
    static var hasBIOS: Bool { FileManager.default.isReadableFile(atPath: bios) }
}

extension BootTests {
    @Suite(.enabled(if: InstalledFirmware.hasBIOS, InstalledFirmware.missingBIOS))
    struct FirmwareBootTests {
        /// 720 KiB, 1440 KiB, 2880 KiB.
        @Test(arguments: [720, 1440, 2880])
        func `SeaBIOS starts the boot sector of a floppy disk`(size: Int) throws {
            let folder = try ScratchFolder()
            let sector = try Data(contentsOf: URL(fileURLWithPath: AccelRun.guest("bootsector")))
            let image = try folder.file("floppy", sector + Data(count: (size << 10) - sector.count))
            let machine = try GuestMachine(
                [
                    "--floppy", image, "--accel", "soft", "--memory", "32M", "--debug-exit",
                    "--firmware-log", folder.path + "/log",
                ], in: folder, patience: 60)
            // Drive 0.
            #expect(try machine.status() == 1, "\(machine.errorText)")
            #expect(machine.consoleText == "The boot sector runs.\r\n")
            let log = try String(contentsOfFile: folder.path + "/log", encoding: .utf8)
            #expect(log.contains("Booting from Floppy..."), "\(log)")
        }

        private func disk(in folder: ScratchFolder) throws -> String {
            let sector = try Data(contentsOf: URL(fileURLWithPath: AccelRun.guest("bootsector")))
            return try folder.file("disk", sector + Data(count: (4 << 20) - sector.count))
        }

        @Test(arguments: [
            ("virtio", 1), ("sata", 1), ("sata", 3), ("nvme", 1), ("ide", 1), ("scsi", 1), ("usb", 1),
        ])
        func `SeaBIOS starts the boot sector of a disk`(bus: String, cpus: Int) throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--disk", try disk(in: folder) + ",bus=" + bus, "--accel", "soft", "--memory", "64M",
                    "--cpus", "\(cpus)",
                    "--debug-exit", "--stats", "--firmware-log", folder.path + "/log",
                ], in: folder, patience: 60)
            // Drive 80h.
            #expect(try machine.status() == (0x80 << 1 | 1) & 0xFF, "\(machine.errorText)")
            #expect(machine.consoleText == "The boot sector runs.\r\n")
            print("SeaBIOS: \(machine.statistics)")
            let log = try String(contentsOfFile: folder.path + "/log", encoding: .utf8)
            #expect(log.contains("Running on QEMU (q35)") && log.contains("QEMU fw_cfg DMA interface"))
            #expect(log.contains("Found \(cpus) cpu(s)"), "\(log)")
            // It found our tables, and no fault with them.
            #expect(log.contains("ACPI: parse DSDT") && !log.contains("Unable"))
            #expect(log.contains("Booting from Hard Disk..."))
        }

        @Test(.enabled(if: AccelTests.hasKVM, AccelTests.withKVM))
        func `SeaBIOS starts the boot sector of a disk on KVM`() throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--disk", try disk(in: folder) + ",bus=sata", "--accel", "kvm", "--memory", "64M",
                    "--debug-exit",
                ], in: folder, patience: 60)
            #expect(try machine.status() == (0x80 << 1 | 1) & 0xFF, "\(machine.errorText)")
            #expect(machine.consoleText == "The boot sector runs.\r\n")
        }

        @Test func `without a system to boot the firmware stays, and the power button ends the machine`()
            throws
        {
            let folder = try ScratchFolder()
            let empty = try folder.file("empty", Data(count: 1 << 20))
            let machine = try GuestMachine(
                [empty, "--accel", "soft", "--memory", "32M", "--firmware-log", folder.path + "/log"],
                in: folder, patience: 60)
            let end = Date(timeIntervalSinceNow: 50)
            var log = ""
            while !log.contains("No bootable device."), Date() < end {
                usleep(20_000)
                log = (try? String(contentsOfFile: folder.path + "/log", encoding: .utf8)) ?? ""
            }
            #expect(log.contains("No bootable device."), "\(log)")
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
        }

        /// Runs until the screen shows `text`, and returns what it shows at the end: each look is a machine
        /// of its own that runs longer than the last.
        private func screen(showing text: String, _ arguments: [String], in folder: ScratchFolder) throws
            -> String
        {
            var shown = ""
            for seconds in [4, 10, 30, 60] {
                let file = folder.path + "/screen"
                let machine = try GuestMachine(
                    arguments + ["--accel", "soft", "--memory", "128M", "--screen-text", file], in: folder,
                    patience: Double(seconds) + 30)
                sleep(UInt32(seconds))
                machine.send(SIGTERM)
                usleep(100_000)
                machine.send(SIGTERM)
                #expect(try machine.status() == 0, "\(machine.errorText)")
                shown = try String(contentsOfFile: file, encoding: .utf8)
                if shown.contains(text) { break }
            }
            return shown
        }

        @Test func `GRUB's rescue CD shows its menu`() throws {
            let disc = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso"
            try #require(FileManager.default.isReadableFile(atPath: disc), "install grub-rescue-pc")
            let folder = try ScratchFolder()
            let shown = try screen(showing: "highlighted entry", [disc], in: folder)
            print(shown)
            #expect(shown.contains("GNU GRUB  version 2."))
            #expect(shown.contains("*GNU/Linux") && shown.contains(" Memtest86+"))
            #expect(shown.contains("Use the ↑ and ↓ keys to select which entry is highlighted."))
        }
    }
    @Suite(.enabled(if: InstalledFirmware.hasUEFI, InstalledFirmware.missingUEFI))
    struct UEFIBootTests {
        private func shell(_ variables: String, in folder: ScratchFolder) throws -> GuestMachine {
            let machine = try GuestMachine(
                [
                    "--firmware", "uefi", "--uefi-vars", variables, "--accel", "soft", "--memory", "256M",
                ], in: folder, patience: 300)
            try machine.wait(for: "UEFI Interactive Shell")
            try machine.wait(for: "Shell>")
            return machine
        }

        @Test func `OVMF finds disks on every bus, in the order in which they are given`() throws {
            let folder = try ScratchFolder()
            var arguments = ["--firmware", "uefi", "--accel", "soft", "--memory", "256M"]
            let buses = [
                ("nvme", "NVMe(0x1,"), ("ide", "Ata("), ("scsi", "Scsi(0x0,0x0)"), ("sata", "Sata(0x0,"),
                ("usb", "USB(0x0,0x0)"),
                ("virtio", "Pci(0x2,0x0)"),
            ]
            for (bus, _) in buses {
                arguments += ["--disk", try folder.file(bus, Data(count: 1 << 20)) + ",bus=" + bus]
            }
            let machine = try GuestMachine(arguments, in: folder, patience: 300)
            for (_, path) in buses {
                try machine.wait(for: "failed to load Boot000")
                try machine.wait(for: path)
            }
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        /// The firmware asks for characters a hundred times a second and takes sixteen each time.
        private func type(_ text: String, _ machine: GuestMachine) {
            machine.type(text + "\r")
        }

        @Test func `OVMF starts its shell, and a variable survives a power cycle`() throws {
            let folder = try ScratchFolder()
            let variables = folder.path + "/variables.fd"
            let name = "setvar Ospite -guid 12345678-9abc-4def-8123-456789abcdef"
            let first = try shell(variables, in: folder)
            type(name + " -bs -rt -nv =0xC0FFEE42", first)
            try first.wait(for: "Shell>")
            type("reset -s", first)
            #expect(try first.status() == 0, "\(first.errorText)")
            let kept = try Data(contentsOf: URL(fileURLWithPath: variables))
            #expect(kept.count == 540_672)
            #expect(kept.range(of: Data([0x42, 0xEE, 0xFF, 0xC0])) != nil)

            let second = try shell(variables, in: folder)
            type(name, second)
            try second.wait(for: "42 EE FF C0")
            type("reset -s", second)
            #expect(try second.status() == 0, "\(second.errorText)")
        }

        /// An image with GRUB that says its name and ends the machine; OVMF can boot it as a CD and as a
        /// disk.
        private func bootable(_ name: String, in folder: ScratchFolder) throws -> String {
            let image = try BootDisc.make(
                "order-" + name, files: [:], commands: "echo \"The \(name) runs.\"\nhalt\n")
            let copy = "\(folder.path)/\(name).iso"
            try FileManager.default.copyItem(atPath: image, toPath: copy)
            return copy
        }

        private static let discProblem = BootDisc.problem([])

        @Test(.enabled(if: discProblem == nil, "\(discProblem ?? "")"))
        func `OVMF boots what was asked to be first, a CD or a disk`() throws {
            let folder = try ScratchFolder()
            let disc = try bootable("disc", in: folder)
            // GRUB finds its own image by the second in which it was made.
            sleep(1)
            let disk = try bootable("hard disk", in: folder)
            let orders = [
                ("cd", "disc"), ("disk", "hard disk"), ("disk,cd", "hard disk"), ("cd,disk", "disc"),
            ]
            for (order, first) in orders {
                let machine = try GuestMachine(
                    [
                        "--firmware", "uefi", "--accel", "soft", "--memory", "256M", "--boot", order,
                        "--cdrom", disc, "--disk", disk + ",snapshot",
                    ], in: folder)
                #expect(try machine.status() == 0, "\(machine.errorText)")
                let said = ["disc", "hard disk"].filter { machine.consoleText.contains("The \($0) runs.") }
                #expect(said == [first], "\(order): \(GuestProblem("boot", machine))")
            }
        }
    }
}
