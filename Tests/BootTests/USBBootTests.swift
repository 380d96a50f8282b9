import Foundation
import Testing

extension BootTests {
    /// A stick that SeaBIOS's, GRUB's and Linux's drivers read one after the other, and a pointer that goes
    /// where a viewer points.
    @Suite(
        .enabled(if: InstalledFirmware.hasBIOS, InstalledFirmware.missingBIOS),
        .enabled(if: InstalledKernel.standard.isThere, "\(InstalledKernel.standard.problem ?? "")"))
    struct USBBootTests {
        private static let disc = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso"

        /// A file system with a kernel, an initial RAM disk and the fixed file.
        private func stick(in folder: ScratchFolder) throws -> String {
            let content = folder.path + "/content"
            let manager = FileManager.default
            try manager.createDirectory(atPath: content, withIntermediateDirectories: true)
            let initialRAMDisk = try BootAssets.initialRAMDisk(
                .standard,
                modules: [
                    "crc32c_generic", "xhci_pci", "usbhid", "hid_generic", "usb_storage", "sd_mod",
                ])
            try manager.copyItem(atPath: InstalledKernel.standard.path, toPath: content + "/vmlinuz")
            try manager.copyItem(atPath: initialRAMDisk, toPath: content + "/initrd")
            try manager.copyItem(atPath: BootAssets.fixedPath, toPath: content + "/fixed")
            let file = folder.path + "/stick.img"
            let made = try runTool(
                ["mke2fs", "-q", "-F", "-t", "ext4", "-d", content, file, "128M"], in: folder.path)
            try #require(made.status == 0, "\(made.output)")
            return file
        }

        /// On `usb` the keys go to GRUB by SeaBIOS' driver for USB keyboards.
        @Test(arguments: ["ps2", "usb"])
        func `Linux starts from a stick and reads where a viewer points from the tablet`(input: String) throws
        {
            try #require(FileManager.default.isReadableFile(atPath: Self.disc), "install grub-rescue-pc")
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    Self.disc, "--disk", try stick(in: folder) + ",bus=usb", "--name", "usb", "--accel",
                    "soft", "--memory", "512M", "--input", input,
                ], in: folder, patience: 300)
            let screen = try ScreenViewer("usb", in: folder)
            try screen.viewer.setEncodings([16, -223, -257])
            try screen.wait(for: "highlighted entry")
            #expect(screen.viewer.isAbsolute == false, "nobody listens to the tablet yet")
            try screen.type("c")
            let lines = [
                "linux (hd0)/vmlinuz console=ttyS0 quiet panic=-1 ospite.test=usb", "initrd (hd0)/initrd",
                "boot",
            ]
            for (number, line) in lines.enumerated() {
                try screen.waitForPrompt(number + 1)
                try screen.type(line + "\n")
            }
            try machine.wait(for: "RESULT listening")
            try point(screen, until: "RESULT end", machine)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let sum = try runTool(["sha256sum", BootAssets.fixedPath], in: folder.path).output.prefix(64)
            let (width, height) = (screen.viewer.width, screen.viewer.height)
            // Absolute X and Y, and the left button with its usage and as a key.
            let wanted = [
                "sha256 \(sum)", input == "usb" ? "speeds 480 480 5000" : "speeds 480 5000",
                "event 3 0 \((2 * 321 + 1) * 16_384 / width)", "event 3 1 \((2 * 123 + 1) * 16_384 / height)",
                "event 4 4 1", "event 1 272 1", "event 1 272 0", "event 0 0 0",
            ]
            for result in wanted {
                #expect(machine.results.contains(result), "\(GuestProblem(result, machine))")
            }
            #expect(machine.results.contains("a USB keyboard") == (input == "usb"))
        }

        /// Points at two places in turn, once the machine has said that places are welcome: Linux forgets
        /// what a device tells in the first moments after a program has opened it.
        private func point(_ screen: ScreenViewer, until text: String, _ machine: GuestMachine) throws {
            let end = Date(timeIntervalSinceNow: 180)
            while screen.viewer.isAbsolute != true, Date() < end {
                try screen.viewer.capture()
                usleep(50_000)
            }
            #expect(screen.viewer.isAbsolute == true)
            var isAtPlace = false
            while !machine.consoleText.contains(text), Date() < end {
                isAtPlace.toggle()
                try screen.untilItIsGone {
                    try screen.viewer.pointer(isAtPlace ? 1 : 0, isAtPlace ? 321 : 10, isAtPlace ? 123 : 20)
                }
                usleep(50_000)
            }
        }
    }
}
