import Foundation
import Testing

extension BootTests {
    @Suite(
        .enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"),
        .enabled(if: BootAssets.debianProblem == nil, "\(BootAssets.debianProblem ?? "")"))
    struct DebianBootTests {
        @Test(arguments: [1, 4])
        func `a Debian system comes up, lets root in and powers off`(cpus: Int) throws {
            let folder = try ScratchFolder()
            let kernel = InstalledKernel.cloud
            let disk = try BootAssets.debianDisk(in: folder)
            let began = Date()
            let machine = try GuestMachine(
                [
                    "--accel", "soft", "--no-reboot", "--stats", "--cpus", "\(cpus)", "--memory", "1G",
                    "--kernel", kernel.path,
                    "--initrd", try BootAssets.initialRAMDisk(kernel, init: "root-init"),
                    "--append", "console=ttyS0 quiet panic=-1 root=/dev/vda", "--disk", disk,
                ], in: folder, patience: 400)
            try machine.wait(for: "ospite-guest login: ")
            let login = Date().timeIntervalSince(began)
            machine.type("root\r")
            try machine.wait(for: ":~#")
            machine.type("uname -r; systemctl is-system-running --wait; nproc; poweroff\r")
            let status = try machine.status()
            print("Debian, \(cpus) vCPU: login after \(Int(login)) s; \(machine.statistics)")
            #expect(status == 0, "\(GuestProblem("status", machine))")
            let lines = machine.consoleLines
            #expect(lines.contains { $0.hasSuffix(kernel.version) }, "\(GuestProblem("uname -r", machine))")
            #expect(lines.contains("running"), "\(GuestProblem("is-system-running", machine))")
            #expect(lines.contains("\(cpus)"), "\(GuestProblem("nproc", machine))")
        }

        @Test(.enabled(if: BootAssets.uefiDiskProblem == nil, "\(BootAssets.uefiDiskProblem ?? "")"))
        func `a Debian disk with GRUB for UEFI starts by OVMF and lets root in`() throws {
            let folder = try ScratchFolder()
            let kernel = InstalledKernel.cloud
            let disk = try BootAssets.debianUEFIDisk(kernel, in: folder)
            let machine = try GuestMachine(
                ["--disk", disk, "--firmware", "uefi", "--accel", "soft", "--no-reboot", "--memory", "1G"],
                in: folder,
                patience: 400)
            try machine.wait(for: "ospite-guest login: ")
            machine.type("root\r")
            try machine.wait(for: ":~#")
            machine.type("ls /sys/firmware/efi/systab; findmnt -n -o SOURCE /; poweroff\r")
            #expect(try machine.status() == 0, "\(GuestProblem("status", machine))")
            let lines = machine.consoleLines
            #expect(lines.contains("/sys/firmware/efi/systab"), "\(GuestProblem("EFI", machine))")
            #expect(lines.contains("/dev/vda2"), "\(GuestProblem("the root's disk", machine))")
        }
    }
}
