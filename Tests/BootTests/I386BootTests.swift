import Foundation
import Testing

/// Debian's kernel and busybox for i686 processors, or the sentence that says why they are not here.
private enum I386Guest {
    static let folder = BootAssets.root + "/out/boot-tests/i386"
    static let problem: String? = {
        do {
            let run = try runTool(["Scripts/make-i386-guest", folder], in: BootAssets.root)
            return run.status == 0 ? nil : run.output
        } catch { return "\(error)" }
    }()
}

extension BootTests {
    /// A system of 32 bits: its kernel has no PAE and never enters long mode.
    @Suite(.enabled(if: I386Guest.problem == nil, "\(I386Guest.problem ?? "")"))
    struct I386BootTests {
        /// The last one in lockstep with the interpreter.
        @Test(arguments: [(1, []), (2, []), (1, ["--verify"])] as [(Int, [String])])
        func `Debian's i686 kernel boots, its shell counts, its hash is right, and it powers off`(
            cpus: Int, options: [String]
        ) throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--kernel", I386Guest.folder + "/vmlinuz", "--initrd", I386Guest.folder + "/initramfs",
                    "--append", "console=ttyS0 panic=-1", "--accel", "soft", "--memory", "256M", "--cpus",
                    "\(cpus)", "--stats",
                ] + options, in: folder, patience: 400)
            let status = try machine.status()
            print("i686, \(cpus) vCPU: \(machine.statistics)")
            #expect(status == 0, "\(GuestProblem("status", machine))")
            if !options.isEmpty { #expect(machine.errorText.contains("; 0 differences")) }
            let hash = try runTool(["sha256sum", I386Guest.folder + "/busybox"], in: folder.path).output
            let expected = [
                "machine i686", "processors \(cpus)", "loop 50000", "hash \(hash.prefix(64))  -", "end",
            ]
            #expect(machine.results == expected, "\(GuestProblem("the i686 boot", machine))")
        }
    }
}
