import Foundation
import Testing

extension BootTests {
    /// `--verify`: whole systems whose every translated block is compared with the interpreter.
    @Suite(.enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"))
    struct LockstepBootTests {
        @Test(arguments: [1, 2])
        func `a kernel boots in lockstep with the interpreter`(cpus: Int) throws {
            let folder = try ScratchFolder()
            let boot = TestBoot(test: "buses", cpus: cpus)
            let machine = try GuestMachine(try boot.arguments() + ["--verify"], in: folder)
            #expect(try machine.status() == 0)
            print("lockstep, \(cpus) vCPU: \(machine.statistics)")
            #expect(machine.results.contains("end"), "\(GuestProblem("lockstep", machine))")
            #expect(machine.errorText.contains("; 0 differences"), "\(GuestProblem("lockstep", machine))")
            let blocks = machine.errorText.matches(of: /(\d+) blocks checked in/)
                .compactMap { Int($0.output.1) }.reduce(0, +)
            #expect(blocks > 5000)
        }
    }
}
