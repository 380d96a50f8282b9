import Foundation
import LinuxHost
import Testing

private enum DisplayGuest {
    /// Debian's cloud kernels have no driver for a display.
    static let kernel = InstalledKernel.standard
    private static let hasHeaders = FileManager.default.isReadableFile(atPath: "/usr/include/libdrm/drm.h")
    static let problem: String? =
        kernel.problem ?? (BootAssets.hasCompiler ? nil : "gcc is absent; see Scripts/packages")
        ?? (hasHeaders ? nil : "libdrm-dev is absent; see Scripts/packages")
}

extension BootTests {
    /// Linux with a virtio display, keyboard and tablet, as a viewer sees it.
    @Suite(.enabled(if: DisplayGuest.problem == nil, "\(DisplayGuest.problem ?? "")"))
    struct DisplayBootTests {
        private func start(
            _ machine: String = "pc", more: [String] = [], in folder: ScratchFolder
        ) throws -> GuestMachine {
            let boot = TestBoot(
                kernel: DisplayGuest.kernel, test: "display", machine: machine,
                program: try BootAssets.program("display"), modules: ["virtio-gpu", "virtio_input"])
            return try GuestMachine(
                boot.arguments() + ["--video", "virtio", "--name", "display"] + more, in: folder)
        }

        /// What `sha256sum` says of the picture in the bytes of a frame buffer.
        private func digest(_ pixels: [UInt32], in folder: ScratchFolder) throws -> String {
            var bytes = Data(capacity: pixels.count * 4)
            for pixel in pixels { withUnsafeBytes(of: pixel.littleEndian) { bytes.append(contentsOf: $0) } }
            let run = try runTool(["sha256sum", try folder.file("picture", bytes)], in: folder.path)
            return String(run.output.prefix(64))
        }

        /// What Tests/Guests/display draws.
        private func pattern(_ width: Int, _ height: Int) -> [UInt32] {
            var pixels: [UInt32] = []
            for y in 0..<UInt32(height) {
                for x in 0..<UInt32(width) {
                    let value: UInt32 = (x &* 77) ^ (y &* 91) ^ (x &* y)
                    pixels.append(value & 0xFF_FFFF)
                }
            }
            return pixels
        }

        /// Looks until the screen has the pattern in this size.
        private func waitForPattern(_ screen: ScreenViewer, _ width: Int, _ height: Int) throws {
            let viewer = screen.viewer, expected = pattern(width, height)
            let end = Date(timeIntervalSinceNow: 180)
            repeat {
                try viewer.capture()
                if viewer.width == width, viewer.height == height, viewer.pixels == expected { return }
                usleep(100_000)
            } while Date() < end
            throw AssetProblem(description: "no pattern on a screen of \(viewer.width)x\(viewer.height)")
        }

        @Test(arguments: ["pc", "micro"])
        func `Linux draws its console, takes another size, and hears keys and where the pointer is`(
            board: String
        ) throws {
            let folder = try ScratchFolder()
            let machine = try start(board, in: folder)
            try machine.wait(for: "RESULT compare")
            let screen = try ScreenViewer("display", in: folder), viewer = screen.viewer
            try viewer.setEncodings([16, -308, -257])
            try viewer.capture()
            #expect(viewer.width == 1280 && viewer.height == 800 && viewer.isAbsolute == true)
            #expect(Set(viewer.pixels).count > 3, "there are letters and colours")
            let frame = "frame 1280,800 " + (try digest(viewer.pixels, in: folder))
            #expect(machine.results.contains(frame), "\(frame) is not in \(machine.results)")
            machine.type("\n")
            try machine.wait(for: "RESULT shows 1280x800")
            try waitForPattern(screen, 1280, 800)

            // The middle, and the corner.
            try viewer.pointer(1, 640, 400)
            try machine.wait(for: "RESULT key 272 1 at 16396 16404")
            try viewer.pointer(4, 1279, 799)
            try machine.wait(for: "RESULT key 273 1 at 32755 32747")
            try viewer.pointer(0x10, 0, 0)
            try machine.wait(for: "RESULT wheel -1")

            try checkCursor(machine, screen, in: folder)

            try viewer.setDesktopSize(1024, 700)
            try machine.wait(for: "RESULT shows 1024x700")
            try waitForPattern(screen, 1024, 700)
            #expect(viewer.sizeAnswer?.reason == 1 && viewer.sizeAnswer?.status == 0)

            try viewer.key(0x61, isDown: true)
            try machine.wait(for: "RESULT key 30 1")
            try viewer.key(0xFF1B, isDown: true)
            try viewer.key(0xFF1B, isDown: false)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let results = machine.results
            #expect(results.contains("modes 1280x800") && results.contains("modes 1024x700"))
            #expect(results.contains("input Ospite Virtio Tablet, 0 to 32767"))
            #expect(results.contains("input Ospite Virtio Keyboard") && results.contains("screens 1"))
            #expect(!results.contains { $0.hasPrefix("bad") }, "\(results)")
        }

        /// The guest's cursor, for `screen` a part of the picture and for another viewer beside it.
        private func checkCursor(
            _ machine: GuestMachine, _ screen: ScreenViewer, in folder: ScratchFolder
        ) throws {
            func screenshot(_ name: String) throws -> Data {
                let file = folder.path + "/" + name
                let run = try runTool(
                    [
                        "env", "XDG_RUNTIME_DIR=" + folder.path, BuiltPrograms.ospite, "screenshot",
                        "display", file,
                    ], in: folder.path)
                #expect(run.status == 0, "\(run.output)")
                return try Data(contentsOf: URL(fileURLWithPath: file))
            }
            let viewer = screen.viewer, artist = try ScreenViewer("display", in: folder)
            try artist.viewer.setEncodings([16, -308, -314])
            let before = try screenshot("before.png")
            try viewer.key(0x63, isDown: true)
            try viewer.key(0x63, isDown: false)
            try machine.wait(for: "RESULT cursor")
            let background = pattern(1280, 800)
            var expected = background
            for y in 0..<32 {
                for x in 0..<64 {
                    expected[(50 + y) * 1280 + 100 + x] = UInt32(x) << 18 | UInt32(y) << 3
                }
            }
            try viewer.capture()
            let isComposed = viewer.pixels == expected
            #expect(isComposed)
            #expect(try screenshot("with.png") != before)
            try artist.viewer.capture()
            let isBare = artist.viewer.pixels == background
            #expect(isBare)
            let cursor = try #require(artist.viewer.cursor)
            #expect(cursor.width == 64 && cursor.height == 64 && cursor.hotX == 3 && cursor.hotY == 5)
            #expect(cursor.pixels[64 * 31 + 63] == 0xFFFC_00F8 && cursor.pixels[64 * 32] == 0)
            try viewer.key(0x68, isDown: true)
            try viewer.key(0x68, isDown: false)
            try machine.wait(for: "RESULT no cursor")
            try viewer.capture()
            try artist.viewer.capture()
            let isGone = viewer.pixels == background
            #expect(isGone && artist.viewer.cursor?.isInvisible == true)
            artist.leave()
        }

        /// The machine that shows its pattern, and its port for viewers.
        private func startForViewer(in folder: ScratchFolder) throws -> (GuestMachine, port: UInt16) {
            let address = try #require(NetworkAddress(host: "127.0.0.1", port: 0))
            let port = try Descriptor.listen(at: address).localPort()
            let machine = try start(more: ["--display", "vnc=127.0.0.1:\(port)"], in: folder)
            try machine.wait(for: "RESULT compare")
            machine.type("\n")
            try machine.wait(for: "RESULT shows 1280x800")
            return (machine, port)
        }

        @Test(.enabled(if: VNCTools.hasTigerVNC, VNCTools.missingTigerVNC))
        func `TigerVNC's viewer gives the guest's screen the size that it was asked to have`() throws {
            let folder = try ScratchFolder()
            let (machine, number) = try startForViewer(in: folder)
            let desktop = try VirtualDesktop(in: folder)
            let viewer = try desktop.start(
                [
                    "xtigervncviewer", "-Shared", "-DesktopSize=900x600", "-AutoSelect=0", "-NoJPEG",
                    "127.0.0.1::\(number)",
                ])
            defer { viewer.terminate() }
            try machine.wait(for: "RESULT shows 900x600")
            // Without JPEG each pixel is the guest's; the viewer's own pointer may lie over some of the rest.
            let expected = pattern(900, 600)
            try desktop.wait { picture in
                (0..<60).contains { top in
                    (0..<40).contains { left in
                        stride(from: 0, to: 900 * 100, by: 7).allSatisfy { place in
                            let x = left + place % 900, y = top + place / 900
                            return picture.pixels[y * picture.width + x] == expected[place]
                        }
                    }
                }
            }
            let screen = try ScreenViewer("display", in: folder)
            // The guest's cursor becomes the viewer's own, where the desktop has its pointer.
            try screen.viewer.key(0x63, isDown: true)
            try screen.viewer.key(0x63, isDown: false)
            try machine.wait(for: "RESULT cursor")
            try desktop.run(["xdotool", "mousemove", "300", "200"])
            // Row 16 of it, whose hot spot (3, 5) is at the pointer; nothing else draws it there.
            let row = (0..<64).map { UInt32($0) << 18 | 16 << 3 }
            try desktop.wait { picture in
                let start = (200 - 5 + 16) * picture.width + 300 - 3
                return picture.pixels[start..<start + 64].elementsEqual(row)
            }
            try screen.viewer.key(0xFF1B, isDown: true)
            try screen.viewer.key(0xFF1B, isDown: false)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test(.enabled(if: VNCTools.hasTigerVNC, VNCTools.missingTigerVNC))
        func `the guest's screen follows the window of TigerVNC's viewer`() throws {
            let folder = try ScratchFolder()
            let (machine, number) = try startForViewer(in: folder)
            let desktop = try VirtualDesktop(in: folder)
            let viewer = try desktop.start(["xtigervncviewer", "-Shared", "127.0.0.1::\(number)"])
            defer { viewer.terminate() }
            // The window is there, and smaller than the guest's screen, as the desktop is.
            let window = ["search", "--sync", "--onlyvisible", "--name", "TigerVNC"]
            for (width, height) in [(900, 650), (640, 500)] {
                try desktop.run(
                    ["timeout", "60", "xdotool"] + window + ["windowsize", "\(width)", "\(height)"])
                try machine.wait(for: "RESULT shows \(width)x\(height)")
            }
            let screen = try ScreenViewer("display", in: folder)
            try screen.viewer.setEncodings([16, -308])
            try waitForPattern(screen, 640, 500)
            try screen.viewer.key(0xFF1B, isDown: true)
            try screen.viewer.key(0xFF1B, isDown: false)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        private static let biosProblem = BootDisc.problem([])

        @Test(.enabled(if: biosProblem == nil, "\(biosProblem ?? "")"))
        func `GRUB shows itself on the VGA, Linux on the virtio display, and then the VGA is back`() throws {
            let folder = try ScratchFolder()
            let boot = TestBoot(
                kernel: DisplayGuest.kernel, test: "display", program: try BootAssets.program("display"),
                modules: ["virtio-gpu", "virtio_input"])
            let disc = try BootDisc.make(
                "display", files: ["linux": boot.kernel.path, "initrd": try boot.initialRAMDisk()],
                commands: """
                    echo This is GRUB on a VGA.
                    sleep --interruptible 600
                    linux /boot/linux console=ttyS0 quiet panic=-1 ospite.test=display ospite.after=vga
                    initrd /boot/initrd
                    boot

                    """)
            let machine = try GuestMachine(
                [
                    disc, "--firmware", "bios", "--accel", "soft", "--memory", "512M", "--video", "virtio",
                    "--name", "display",
                ], in: folder)
            let screen = try ScreenViewer("display", in: folder), viewer = screen.viewer
            try viewer.setEncodings([16, -308, -257])
            try screen.wait(for: "This is GRUB on a VGA.")
            #expect(viewer.isAbsolute == false, "no driver for the tablet")
            // A VGA has the size that its modes have.
            try viewer.setDesktopSize(1000, 700)
            try viewer.capture()
            #expect(viewer.sizeAnswer?.reason == 1 && viewer.sizeAnswer?.status == 1)
            // The keyboard controller's key.
            try viewer.key(0xFF1B, isDown: true)
            try viewer.key(0xFF1B, isDown: false)
            try machine.wait(for: "RESULT compare")
            try viewer.capture()
            #expect(viewer.width == 1280 && viewer.height == 800 && viewer.isAbsolute == true)
            let frame = "frame 1280,800 " + (try digest(viewer.pixels, in: folder))
            #expect(machine.results.contains(frame), "\(frame) is not in \(machine.results)")
            machine.type("\n")
            try machine.wait(for: "RESULT shows 1280x800")
            try waitForPattern(screen, 1280, 800)
            try viewer.key(0xFF1B, isDown: true)
            try viewer.key(0xFF1B, isDown: false)
            try machine.wait(for: "RESULT unbound")
            try screen.wait(for: "GRUB")
            #expect(viewer.width == 720 && viewer.height == 400)
            machine.type("\n")
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        /// A UEFI's shell, whose prompt is on the serial line.
        private func shell(
            on video: String, in folder: ScratchFolder
        ) throws -> (machine: GuestMachine, screen: ScreenViewer) {
            let machine = try GuestMachine(
                [
                    "--firmware", "uefi", "--uefi-vars", folder.path + "/variables", "--accel", "soft",
                    "--memory", "256M", "--video", video, "--name", "display",
                ], in: folder)
            try machine.wait(for: "Shell>")
            let screen = try ScreenViewer("display", in: folder)
            try screen.viewer.setEncodings([16, -308])
            return (machine, screen)
        }

        @Test(.enabled(if: InstalledFirmware.hasUEFI, InstalledFirmware.missingUEFI))
        func `a UEFI draws the same on a virtio display's VGA as on a VGA`() throws {
            let folders = (try ScratchFolder(), try ScratchFolder())
            let (first, plain) = try shell(on: "vga", in: folders.0)
            let (second, other) = try shell(on: "virtio", in: folders.1)
            let vga = plain.viewer, virtio = other.viewer
            // The prompt is on the serial line first, and on the screens some time later.
            sleep(2)
            let end = Date(timeIntervalSinceNow: 60)
            func isDrawn() -> Bool { vga.pixels == virtio.pixels && Set(vga.pixels).count > 2 }
            repeat {
                usleep(500_000)
                try vga.capture()
                try virtio.capture()
            } while !isDrawn() && Date() < end
            for machine in [first, second] {
                machine.type("reset -s\r")
                #expect(try machine.status() == 0, "\(machine.errorText)")
            }
            #expect(vga.width == virtio.width && vga.height == virtio.height && vga.width >= 800)
            #expect(Set(vga.pixels).count > 2)
            let isSame = vga.pixels == virtio.pixels
            #expect(isSame)
        }
    }
}
