import Foundation
import Testing

extension BootTests {
    /// Devices of the board that only a whole system uses.
    @Suite(.enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"))
    struct BoardBootTests {
        @Test func `Linux suspends to memory and comes back with all CPUs and its disk`() throws {
            let folder = try ScratchFolder()
            var boot = TestBoot(test: "sleep", cpus: 2)
            boot.disk = try BootAssets.emptyDisk(in: folder)
            let machine = try boot.start(in: folder)
            #expect(try machine.status() == 0)
            let wanted = [
                "kernel \(boot.kernel.version)", "CPUs 2, online 0-1", "boots 1", "awake, memory kept",
                "time went on", "boots 2", "sleeps 1", "end",
            ]
            #expect(machine.results == wanted, "\(GuestProblem("results", machine))")
            #expect(machine.errorText.contains("The guest sleeps (S3)."))
        }

        @Test func `Linux has its console on virtio, in both directions`() throws {
            let folder = try ScratchFolder()
            let kernel = InstalledKernel.cloud
            let machine = try GuestMachine(
                [
                    "--accel", "soft", "--no-reboot", "--console", "stdio", "--memory", "256M", "--kernel",
                    kernel.path, "--initrd", try BootAssets.initialRAMDisk(kernel),
                    "--append", "console=hvc0 quiet panic=-1 ospite.test=echo",
                ], in: folder)
            try machine.wait(for: "RESULT type a line")
            machine.type("good morning\r")
            #expect(try machine.status() == 0)
            #expect(
                machine.results.contains("the line was good morning"), "\(GuestProblem("echo", machine))")
        }

        /// Both consoles at once, each where its option says.
        @Test func `a console goes to a file while the serial port has the terminal`() throws {
            let folder = try ScratchFolder()
            let file = folder.path + "/console"
            var boot = TestBoot(test: "none")
            boot.words = "console=hvc0"
            let machine = try GuestMachine(try boot.arguments() + ["--console", "file:" + file], in: folder)
            #expect(try machine.status() == 0)
            let text = try String(contentsOfFile: file, encoding: .utf8)
            #expect(text.contains("RESULT end"), "\(text.suffix(500))")
            #expect(!machine.results.contains("end"))
        }
    }
}
