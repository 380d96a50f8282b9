import Foundation
import Testing

extension BootTests {
    /// Tests/Guests/torture: what several processors must get right together.
    @Suite(
        .enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"),
        .enabled(if: BootAssets.hasCompiler, "gcc is not installed: apt-get install gcc libc6-dev"))
    struct TortureTests {
        private static let parts = [
            "counters", "split counters", "split lock", "store buffers", "messages", "futexes", "fork storm",
            "floating state", "protection", "remapping", "patched code", "own code", "aliased code",
        ]

        @Test func `the torture program passes on this processor`() throws {
            let run = try runTool([BootAssets.program("torture")], in: BootAssets.root)
            #expect(run.status == 0, "\(run.output)")
            #expect(run.output.hasSuffix("DONE \(Self.parts.count)"))
        }

        @Test(arguments: ["pc", "micro"])
        func `four vCPUs under torture compute what a processor computes`(machine type: String) throws {
            let folder = try ScratchFolder()
            let program = try BootAssets.program("torture")
            let boot = TestBoot(test: "torture", machine: type, cpus: 4, program: program)
            let machine = try boot.start(in: folder, patience: 400)
            #expect(try machine.status() == 0)
            print("torture, \(type): \(machine.statistics)")
            let results = machine.results
            // All parts have run to their end.
            #expect(results.contains { $0.hasPrefix("DONE ") }, "\(GuestProblem("torture", machine))")
            for part in Self.parts {
                let failure = results.first { $0.hasPrefix("FAIL \(part):") }
                let hasPassed = failure == nil && results.contains("PASS \(part)")
                #expect(hasPassed, "\(failure ?? "no result of " + part)")
            }
        }
    }
}
