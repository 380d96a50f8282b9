import Foundation
import Testing

private enum SignedSystem {
    /// The variables with Microsoft's keys, and what those have signed: Debian's loaders, which know Debian's
    /// key, and its kernel.
    static let variables = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
    static let loaders = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"
    static let kernel = InstalledKernel.cloud
    static let problem: String? = {
        let files = [
            InstalledFirmware.uefi, variables, loaders + "/bootnetx64.efi", loaders + "/grubx64.efi",
            "/usr/bin/mformat",
        ]
        let missing = files.filter { !FileManager.default.isReadableFile(atPath: $0) }
        if let problem = kernel.problem { return problem }
        return missing.isEmpty ? nil : "Missing: \(missing.joined(separator: ", ")); see Scripts/packages"
    }()
}

extension BootTests {
    /// A UEFI whose variables hold keys starts only what these have signed.
    @Suite(.enabled(if: SignedSystem.problem == nil, "\(SignedSystem.problem ?? "")"))
    struct SecureBootTests {
        /// A machine with variables that are a copy of Debian's.
        private func start(_ more: [String], in folder: ScratchFolder) throws -> GuestMachine {
            let keys = try Data(contentsOf: URL(fileURLWithPath: SignedSystem.variables))
            return try GuestMachine(
                [
                    "--firmware", "uefi", "--uefi-vars", try folder.file("variables.fd", keys), "--accel",
                    "soft", "--memory", "512M", "--no-reboot",
                ] + more, in: folder)
        }

        @Test func `with keys in its variables OVMF does not start its own shell, which nobody signed`()
            throws
        {
            let folder = try ScratchFolder()
            let machine = try start([], in: folder)
            try machine.wait(for: "failed to start Boot0001 \"EFI Internal Shell\"")
            try machine.wait(for: "Security Violation")
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        /// A file system without partitions, as on a floppy disk, with loaders, kernel and initial RAM disk.
        private func disk(in folder: ScratchFolder) throws -> String {
            let place = "/debian-installer/amd64/grub"
            let initrd = try BootAssets.initialRAMDisk(SignedSystem.kernel, modules: ["efivarfs"])
            let menu = """
                search --file --set=root /linux
                linux /linux console=ttyS0 panic=-1 ospite.test=secureboot
                initrd /initrd
                boot

                """
            _ = try folder.file("grub.cfg", Data(menu.utf8))
            let script = """
                truncate -s 64M disk
                mformat -i disk -F ::
                mmd -i disk ::/EFI ::/EFI/BOOT ::/debian-installer ::/debian-installer/amd64 ::\(place)
                mcopy -i disk '\(SignedSystem.loaders)/bootnetx64.efi' ::/EFI/BOOT/BOOTX64.EFI
                mcopy -i disk '\(SignedSystem.loaders)/grubx64.efi' ::/EFI/BOOT/grubx64.efi
                mcopy -i disk grub.cfg ::\(place)/grub.cfg
                mcopy -i disk '\(SignedSystem.kernel.path)' ::/linux
                mcopy -i disk '\(initrd)' ::/initrd
                """
            let run = try runTool(["sh", "-e", "-c", script], in: folder.path)
            guard run.status == 0 else { throw AssetProblem(description: "no disk: \(run.output)") }
            return folder.path + "/disk"
        }

        @Test func `Debian's signed loaders and kernel start, and find Secure Boot in force`() throws {
            let folder = try ScratchFolder()
            let machine = try start(["--disk", try disk(in: folder)], in: folder)
            try machine.wait(for: "EFI stub: UEFI Secure Boot is enabled.")
            try machine.wait(for: "secureboot: Secure boot enabled")
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let results = machine.results.drop { !$0.hasPrefix("SecureBoot") }
            #expect(
                Array(results) == [
                    "SecureBoot 1", "SetupMode 0", "keys in PK", "keys in KEK", "keys in db", "end",
                ], "\(GuestProblem("results", machine))")
        }
    }
}
