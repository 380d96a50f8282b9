import Foundation
import Testing

/// The firmware that Debian installed here.
enum InstalledFirmware {
    static let bios = "/usr/share/seabios/bios-256k.bin"
    static let missingBIOS: Comment = "SeaBIOS is absent; install seabios"
    static var hasBIOS: Bool { FileManager.default.isReadableFile(atPath: bios) }
}

extension BootTests {
    @Suite(.enabled(if: InstalledFirmware.hasBIOS, InstalledFirmware.missingBIOS))
    struct FirmwareBootTests {
        private func disk(in folder: ScratchFolder) throws -> String {
            let sector = try Data(contentsOf: URL(fileURLWithPath: AccelRun.guest("bootsector")))
            return try folder.file("disk", sector + Data(count: (4 << 20) - sector.count))
        }

        @Test(arguments: [1, 3])
        func `SeaBIOS starts the boot sector of a virtio disk`(cpus: Int) throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    try disk(in: folder), "--accel", "soft", "--memory", "64M", "--cpus", "\(cpus)",
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
    }
}
