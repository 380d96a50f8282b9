import Foundation
import Testing

extension BootTests {
    @Suite(.enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"))
    struct RepeatedBootTests {
        /// Of `BootAssets.fixedFile`, by the host's sha256sum.
        private func hostSum(_ folder: ScratchFolder) throws -> String {
            let file = try folder.file("fixed", BootAssets.fixedFile)
            let run = try runTool(["sha256sum", file], in: folder.path)
            return String(run.output.prefix(64))
        }

        @Test func `twenty boots in a row give the same results and power off`() throws {
            let folder = try ScratchFolder()
            let disk = try BootAssets.emptyDisk(in: folder)
            let sum = try hostSum(folder)
            try #require(sum.count == 64)
            for round in 1...20 {
                let cpus = round % 2 == 1 ? 1 : 4
                let machine = try TestBoot(test: "disk", cpus: cpus, disk: disk).start(in: folder)
                let status = try machine.status()
                print("boot \(round), \(cpus) vCPU: \(machine.statistics)")
                let expected = [
                    "kernel \(InstalledKernel.cloud.version)",
                    "CPUs \(cpus), online \(cpus == 1 ? "0" : "0-3")", "boots \(round)", "sha256 \(sum)",
                    "end",
                ]
                try #require(
                    status == 0 && machine.results == expected, "\(GuestProblem("boot \(round)", machine))")
            }
        }

        @Test func `four CPUs are online and each one computes`() throws {
            let folder = try ScratchFolder()
            let machine = try TestBoot(test: "loops", cpus: 4).start(in: folder)
            let status = try machine.status()
            print("loops on 4 vCPUs: \(machine.statistics)")
            #expect(status == 0)
            // The sum of 1 to 4000.
            let loops = (0..<4).map { "loop on CPU \($0): 8002000" }
            #expect(
                machine.results
                    == ["kernel \(InstalledKernel.cloud.version)", "CPUs 4, online 0-3"] + loops + ["end"],
                "\(GuestProblem("loops", machine))")
        }

        @Test func `sixteen CPUs reach the initial program`() throws {
            let folder = try ScratchFolder()
            let machine = try TestBoot(test: "reach", cpus: 16, memory: "512M").start(in: folder)
            let status = try machine.status()
            print("16 vCPUs: \(machine.statistics)")
            #expect(status == 0)
            #expect(
                machine.results
                    == ["kernel \(InstalledKernel.cloud.version)", "CPUs 16, online 0-15", "end"],
                "\(GuestProblem("sixteen CPUs", machine))")
        }
    }

    @Suite(.enabled(if: InstalledKernel.standard.isThere, "\(InstalledKernel.standard.problem ?? "")"))
    struct StandardKernelTests {
        @Test func `the standard kernel, which is compressed with XZ, reaches the initial program`() throws {
            let folder = try ScratchFolder()
            let boot = TestBoot(kernel: .standard, test: "reach", memory: "512M")
            let machine = try boot.start(in: folder)
            let status = try machine.status()
            print("standard kernel: \(machine.statistics)")
            #expect(status == 0)
            #expect(
                machine.results == ["kernel \(InstalledKernel.standard.version)", "CPUs 1, online 0", "end"],
                "\(GuestProblem("standard kernel", machine))")
        }
    }
}
