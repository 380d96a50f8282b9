import Foundation
import Testing

extension BootTests {
    /// Machines with a firmware that start over.
    @Suite struct ResetBootTests {
        private static let disc = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso"

        @Test(.enabled(if: InstalledFirmware.hasUEFI, InstalledFirmware.missingUEFI))
        func `OVMF comes back to its shell after a reset, with the variables that it stores`() throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--firmware", "uefi", "--uefi-vars", folder.path + "/variables.fd", "--accel", "soft",
                    "--memory", "256M",
                ], in: folder, patience: 300)
            let guid = " -guid 12345678-9abc-4def-8123-456789abcdef"
            try machine.wait(for: "Shell>")
            machine.type("setvar Kept\(guid) -bs -rt -nv =0xC0FFEE42\r")
            try machine.wait(for: "Shell>")
            machine.type("setvar Lost\(guid) -bs -rt =0xDEADBEEF\r")
            try machine.wait(for: "Shell>")
            machine.type("reset\r")
            try machine.wait(for: "UEFI Interactive Shell")
            try machine.wait(for: "Shell>")
            machine.type("setvar Kept\(guid)\r")
            try machine.wait(for: "42 EE FF C0")
            // What was in memory only went with the reset.
            machine.type("dmpstore Lost\(guid)\r")
            try machine.wait(for: "No matching variables found")
            machine.type("reset -s\r")
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let starts = machine.consoleText.components(separatedBy: "UEFI Interactive Shell").count - 1
            #expect(starts == 2, "\(GuestProblem("starts", machine))")
        }

        @Test(.enabled(if: InstalledFirmware.hasBIOS, InstalledFirmware.missingBIOS))
        func `GRUB's menu is there again after its reboot by SeaBIOS`() throws {
            try #require(FileManager.default.isReadableFile(atPath: Self.disc), "install grub-rescue-pc")
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    Self.disc, "--name", "grub", "--accel", "soft", "--memory", "128M", "--serial", "none",
                    "--firmware-log", folder.path + "/log",
                ], in: folder)
            func starts() throws -> Int {
                try String(contentsOfFile: folder.path + "/log", encoding: .utf8)
                    .components(separatedBy: "Booting from DVD/CD...").count - 1
            }
            let screen = try ScreenViewer("grub", in: folder)
            try screen.wait(for: "highlighted entry")
            #expect(try starts() == 1)
            try screen.type("c")
            let prompt = try screen.wait(for: "grub>")
            #expect(!prompt.contains { $0.contains("highlighted entry") })
            try screen.type("reboot\n")
            let menu = try screen.wait(for: "highlighted entry")
            #expect(menu.contains { $0.contains("*GNU/Linux") } && !menu.contains { $0.contains("grub>") })
            #expect(try starts() == 2)
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }
    }
}
