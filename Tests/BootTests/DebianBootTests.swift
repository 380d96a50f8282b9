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
    }
}
