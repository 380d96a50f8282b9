import Foundation
import Testing

extension BootTests {
    /// A Debian system at work: it installs a package from a file and compiles a program.
    @Suite(
        .enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"),
        .enabled(if: BootAssets.debianProblem == nil, "\(BootAssets.debianProblem ?? "")"))
    struct DebianWorkTests {
        /// A package whose only program prints a line, and whose script leaves a mark.
        private func makePackage(in folder: ScratchFolder, as output: String) throws {
            let tree = folder.path + "/package"
            for part in ["/DEBIAN", "/usr/bin"] {
                try FileManager.default.createDirectory(
                    atPath: tree + part, withIntermediateDirectories: true,
                    attributes: [.posixPermissions: 0o755])
            }
            let control = """
                Package: ospite-sample
                Version: 1.0
                Architecture: all
                Maintainer: Ospite tests <root@localhost>
                Description: prints one line

                """
            let script = "#!/bin/sh\nexpr 6 \\* 7 | sed 's/^/the sample says /'\n"
            let after =
                "#!/bin/sh\nset -e\nmkdir -p /var/lib/ospite-sample\ntouch /var/lib/ospite-sample/mark\n"
            for (name, text, mode) in [
                ("DEBIAN/control", control, 0o644), ("usr/bin/ospite-sample", script, 0o755),
                ("DEBIAN/postinst", after, 0o755),
            ] {
                let path = tree + "/" + name
                try text.write(toFile: path, atomically: true, encoding: .utf8)
                try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
            }
            let run = try runTool(["dpkg-deb", "--root-owner-group", "-b", tree, output], in: folder.path)
            try #require(run.status == 0, "\(run.output)")
        }

        /// Counts primes with a sieve, and sums square roots in double.
        private static let source = """
            #include <math.h>
            #include <stdio.h>
            static char composite[100000];
            int main(void) {
                int count = 0;
                double sum = 0;
                for (int i = 2; i < 100000; i++) {
                    if (composite[i]) continue;
                    count++;
                    sum += sqrt(i);
                    for (long j = (long)i * i; j < 100000; j += i) composite[j] = 1;
                }
                printf("primes %d, roots %.6f\\n", count, sum);
                return 0;
            }

            """

        /// The same by the host.
        private static let answer: String = {
            let limit = 100_000
            var isComposite = [Bool](repeating: false, count: limit), count = 0, sum = 0.0
            for number in 2..<limit where !isComposite[number] {
                count += 1
                sum += Double(number).squareRoot()
                for multiple in stride(from: number * number, to: limit, by: number) {
                    isComposite[multiple] = true
                }
            }
            return String(format: "primes %d, roots %.6f", count, sum)
        }()

        @Test func `a Debian system installs a package from a file and compiles a program`() throws {
            let folder = try ScratchFolder()
            let content = folder.path + "/content"
            try FileManager.default.createDirectory(atPath: content, withIntermediateDirectories: true)
            try makePackage(in: folder, as: content + "/sample.deb")
            try Self.source.write(toFile: content + "/primes.c", atomically: true, encoding: .utf8)
            let machine = try GuestMachine(
                [
                    "--accel", "soft", "--no-reboot", "--stats", "--memory", "1G",
                    "--kernel", InstalledKernel.cloud.path,
                    "--initrd", try BootAssets.initialRAMDisk(.cloud, init: "root-init"),
                    "--append", "console=ttyS0 quiet panic=-1 root=/dev/vda",
                    "--disk", try BootAssets.debianDisk(in: folder),
                    "--disk", try BootAssets.disk(of: content, in: folder),
                ], in: folder, patience: 600)
            try machine.wait(for: "ospite-guest login: ")
            machine.type("root\r")
            try machine.wait(for: ":~#")
            machine.type("mount /dev/vdb /mnt && dpkg -i /mnt/sample.deb\r")
            // Each line waits for the shell: what comes earlier is echoed among what a program says.
            try machine.wait(for: "Setting up ospite-sample (1.0)")
            try machine.wait(for: ":~#")
            machine.type("ospite-sample; ls /var/lib/ospite-sample; dpkg -s ospite-sample | grep Status\r")
            try machine.wait(for: "Status: install ok installed")
            try machine.wait(for: ":~#")
            machine.type("gcc -O2 -o primes /mnt/primes.c -lm && ./primes; echo built by $?; poweroff\r")
            let began = Date()
            let status = try machine.status()
            print("gcc and power off took \(Int(Date().timeIntervalSince(began))) s; \(machine.statistics)")
            #expect(status == 0)
            let lines = machine.consoleLines
            for expected in [
                "the sample says 42", "mark", "Status: install ok installed", Self.answer, "built by 0",
            ] {
                #expect(lines.contains(expected), "\(GuestProblem(expected, machine))")
            }
        }
    }
}
