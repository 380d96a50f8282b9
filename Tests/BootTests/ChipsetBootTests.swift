import Foundation
import Testing

/// A CD from which GRUB starts Debian's kernel with our initial RAM disk, after a firmware.
struct FirmwareBoot {
    static let problem =
        InstalledKernel.standard.problem ?? BootDisc.problem([InstalledKernel.standard.path])

    /// The image of the CD.
    static func disc(_ boot: TestBoot) throws -> String {
        try BootDisc.make(
            "linux-" + boot.test,
            files: ["linux": boot.kernel.path, "initrd": try boot.initialRAMDisk()],
            commands: """
                linux /boot/linux console=ttyS0 quiet panic=-1 ospite.test=\(boot.test) \(boot.words)
                initrd /boot/initrd
                boot

                """)
    }

    /// Starts the CD by a firmware, "bios" or "uefi".
    static func start(
        _ boot: TestBoot, _ firmware: String = "bios", in folder: ScratchFolder
    ) throws -> GuestMachine {
        try start(boot, firmware, ["--cdrom", try disc(boot), "--boot", "cd"], in: folder)
    }

    /// Starts it from another device: its image is that of a disk, too.
    static func start(
        _ boot: TestBoot, _ firmware: String, _ devices: [String], in folder: ScratchFolder
    ) throws -> GuestMachine {
        try GuestMachine(
            [
                "--firmware", firmware, "--accel", "soft", "--no-reboot", "--memory", boot.memory,
                "--serial", "stdio", "--display", "none",
            ] + devices, in: folder)
    }
}

extension BootTests {
    /// Linux's drivers with the chipset of a machine that a firmware starts.
    @Suite(.enabled(if: FirmwareBoot.problem == nil, "\(FirmwareBoot.problem ?? "")"))
    struct ChipsetBootTests {
        /// CRC-16 of JEDEC's annex K.
        private func code(_ bytes: some Sequence<UInt8>) -> UInt16 {
            bytes.reduce(into: 0) { code, byte in
                code ^= UInt16(byte) << 8
                for _ in 0..<8 { code = code & 0x8000 != 0 ? code << 1 ^ 0x1021 : code << 1 }
            }
        }

        @Test func `Linux reads what memory modules say over the SMBus, and nobody else answers`() throws {
            let folder = try ScratchFolder()
            var boot = TestBoot(kernel: .standard, test: "modules", memory: "768M")
            boot.modules = ["i2c_i801", "at24", "i2c_dev"]
            let machine = try FirmwareBoot.start(boot, in: folder)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let modules = machine.results.filter { $0.hasPrefix("module ") }
            #expect(modules.count == 2, "\(GuestProblem("results", machine))")
            // As many as SMBIOS names.
            #expect(machine.results.contains("announced 2"), "\(GuestProblem("results", machine))")
            for (module, size) in zip(modules, [512, 256]) {
                let bytes = module.split(separator: " ").dropFirst(2).compactMap { UInt8($0, radix: 16) }
                try #require(bytes.count == 256, "\(module)")
                #expect(code(bytes[..<117]) == UInt16(bytes[126]) | UInt16(bytes[127]) << 8)
                let chip = 32 << Int(bytes[4] & 0xF), width = 4 << Int(bytes[7] & 7)
                #expect(chip * 64 / width * (Int(bytes[7] >> 3) + 1) == size)
            }
            let interrupts = machine.results.first { $0.hasPrefix("interrupts ") }?.dropFirst(11)
            #expect(interrupts.flatMap { Int($0) } ?? 0 > 512, "\(GuestProblem("results", machine))")
            #expect(machine.results.last == "end")
        }
    }
}
