import Foundation
import Testing

extension BootTests {
    /// `ospite run --perf-map`, with a whole kernel.
    @Suite(.enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"))
    struct PerfMapTests {
        /// What /proc/PID/maps shows as executable and shared, where perf looks into the map.
        ///
        /// A machine's process cannot be traced: its maps are for root alone.
        private func emittedCode(_ process: pid_t) throws -> [Range<UInt>]? {
            guard geteuid() == 0 else {
                print("Only root reads a machine's memory map: the addresses of the perf map are not checked")
                return nil
            }
            // The kernel hands out a page or so at a time, which does not mean that it was the last.
            let file = open("/proc/\(process)/maps", O_RDONLY | O_CLOEXEC)
            try #require(file >= 0, "the machine's memory map cannot be read")
            defer { close(file) }
            var bytes: [UInt8] = [], page = [UInt8](repeating: 0, count: 4096)
            while case let count = read(file, &page, page.count), count > 0 { bytes += page.prefix(count) }
            return String(decoding: bytes, as: UTF8.self).split(separator: "\n").compactMap { line in
                let words = line.split(separator: " "), ends = words[0].split(separator: "-")
                guard words[1] == "r-xs", line.contains("/dev/zero"), let low = UInt(ends[0], radix: 16),
                    let high = UInt(ends[1], radix: 16)
                else { return nil }
                return low..<high
            }
        }

        @Test func `a perf map names the code of a kernel, where perf expects it`() throws {
            let folder = try ScratchFolder()
            let arguments = try TestBoot(test: "button", cpus: 2).arguments() + ["--perf-map"]
            let machine = try GuestMachine(arguments, in: folder)
            try machine.wait(for: "RESULT waiting")
            let process = try machine.machineProcess().identifier
            let path = "/tmp/perf-\(process).map"
            defer { unlink(path) }
            let memory = try emittedCode(process)
            if let memory { try #require(memory.count == 2, "one range for each vCPU: \(memory)") }
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
            #expect(machine.errorText.contains(path))
            var blocks = 0, inKernel = 0, inPrograms = 0
            for line in try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n") {
                let words = line.split(separator: " ")
                let start = try #require(UInt(words[0], radix: 16), "\(line)")
                let size = try #require(UInt(words[1], radix: 16), "\(line)")
                if let memory {
                    #expect(
                        memory.contains { $0.contains(start) && start + size <= $0.upperBound }, "\(line)")
                }
                blocks += 1
                if words[2].hasPrefix("guest_kernel_ffffffff") { inKernel += 1 }
                if words[2].hasPrefix("guest_user_") { inPrograms += 1 }
            }
            print("perf map: \(blocks) lines, \(inKernel) of the kernel, \(inPrograms) of programs")
            #expect(inKernel > 1000 && inPrograms > 100)
        }
    }
}
