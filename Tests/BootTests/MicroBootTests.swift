import Foundation
import Testing

extension BootTests {
    /// The board without PCI and legacy devices.
    @Suite(.enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"))
    struct MicroBootTests {
        @Test(arguments: [1, 4])
        func `the micro machine boots, keeps what is written to its disk, and powers off`(cpus: Int) throws {
            let folder = try ScratchFolder()
            let disk = try BootAssets.emptyDisk(in: folder)
            for round in 1...2 {
                let boot = TestBoot(test: "buses", machine: "micro", cpus: cpus, disk: disk)
                let machine = try boot.start(in: folder)
                let status = try machine.status()
                print("micro, \(cpus) vCPU: \(machine.statistics)")
                #expect(status == 0)
                // A disk, the source of entropy and the balloon.
                let expected = [
                    "kernel \(InstalledKernel.cloud.version)",
                    "CPUs \(cpus), online \(cpus == 1 ? "0" : "0-\(cpus - 1)")", "boots \(round)",
                    "PCI devices 0", "virtio devices in memory 3", "old interrupt controller 0", "end",
                ]
                #expect(machine.results == expected, "\(GuestProblem("micro boot \(round)", machine))")
            }
        }

        @Test func `SIGTERM presses the power button of the micro machine`() throws {
            let folder = try ScratchFolder()
            let machine = try TestBoot(test: "button", machine: "micro").start(in: folder)
            try machine.wait(for: "RESULT waiting")
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
            #expect(machine.results.contains("the power button was pressed"), "\(GuestProblem("b", machine))")
        }
    }
}
