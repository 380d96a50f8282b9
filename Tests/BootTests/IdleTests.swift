import Foundation
import Testing

extension BootTests {
    @Suite(.enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"))
    struct IdleTests {
        /// The promise of the README. The figure is processor time, so that a busy host does not change it.
        private static let limit = 0.03

        @Test(arguments: [1, 4])
        func `a guest that sleeps leaves the host's processor alone`(cpus: Int) throws {
            let folder = try ScratchFolder()
            let machine = try TestBoot(test: "idle", cpus: cpus).start(in: folder)
            let process = try machine.machineProcess().identifier
            try machine.wait(for: "RESULT waiting")
            var share = Double.infinity
            // The kernel has work of its own just after a boot; on a slow host it lasts into later windows.
            for _ in 0..<4 where share >= Self.limit {
                sleep(5)
                let before = try #require(HostProcess(process)), began = HostClockReading.now
                sleep(10)
                let after = try #require(HostProcess(process)), seconds = HostClockReading.now - began
                share = (after.processorTime - before.processorTime) / seconds
                print(String(format: "idle guest, %d vCPU: %.2f %% of a core", cpus, share * 100))
            }
            #expect(share < Self.limit)
            machine.send(SIGQUIT)
            #expect(try machine.status() == 0)
        }
    }
}

/// Seconds of the host's monotonic clock.
enum HostClockReading {
    static var now: Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }
}
