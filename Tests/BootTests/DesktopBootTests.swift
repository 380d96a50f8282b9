import Foundation
import Testing

private enum Desktop {
    static let kernel = InstalledKernel.standard
    static let problem =
        kernel.problem ?? BootAssets.debianProblem ?? BootAssets.uefiDiskProblem ?? WordReader.problem

    static let modules = [
        "crc32c_generic", "virtio-gpu", "virtio_input", "bochs", "xhci_pci", "usbhid", "hid_generic",
    ]

    static func disk(in folder: ScratchFolder) throws -> String {
        try BootAssets.uefiDisk(
            of: try BootAssets.desktopDisk(in: folder), kernel,
            try BootAssets.initialRAMDisk(kernel, init: "root-init", modules: modules),
            words: "systemd.wants=desktop.service", in: folder)
    }
}

extension BootTests {
    /// A disk with Debian and the Xfce desktop, used with a viewer alone.
    @Suite(.enabled(if: Desktop.problem == nil, "\(Desktop.problem ?? "")"))
    struct DesktopBootTests {
        /// Where the pictures differ, below the panel with its clock.
        private func changes(_ first: [UInt32], _ second: [UInt32], width: Int) -> [(x: Int, y: Int)] {
            (40 * width..<min(first.count, second.count)).filter { first[$0] != second[$0] }
                .map { ($0 % width, $0 / width) }
        }

        /// Points at one place after the other. How many pixels differ then near each of them, and elsewhere.
        private func look(
            at places: [(x: Int, y: Int)], _ screen: ScreenViewer
        ) throws -> (near: [Int], elsewhere: Int) {
            let viewer = screen.viewer
            var pictures: [[UInt32]] = []
            for place in places {
                try viewer.pointer(0, place.x, place.y)
                sleep(2)
                try viewer.capture()
                pictures.append(viewer.pixels)
            }
            let changed = changes(pictures[0], pictures[1], width: viewer.width)
            func isNear(_ change: (x: Int, y: Int), _ place: (x: Int, y: Int)) -> Bool {
                abs(place.x - change.x) <= 64 && abs(place.y - change.y) <= 64
            }
            return (
                places.map { place in changed.count { isNear($0, place) } },
                changed.count { change in !places.contains { isNear(change, $0) } }
            )
        }

        @Test(arguments: ["vga", "virtio"])
        func `a desktop shows itself, and takes what is pointed at and typed`(video: String) throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--disk", try Desktop.disk(in: folder), "--firmware", "uefi", "--video", video, "--accel",
                    "soft", "--memory", "1G", "--name", "desktop", "--no-reboot",
                ], in: folder, patience: 400)
            let screen = try ScreenViewer("desktop", in: folder), viewer = screen.viewer
            try viewer.setEncodings([16, -223, -308])
            let parts = ["Applications", "Home", "System", "root@ospite-guest:/#"]
            _ = try screen.wait(forWords: parts, in: folder, seconds: 240)

            // The pointer is drawn where the viewer points: there and nowhere else something changes, once
            // the desktop has ended what it draws of itself at its start.
            let places = [(x: viewer.width - 200, y: viewer.height / 2), (x: 150, y: viewer.height - 150)]
            var counts = (near: [0, 0], elsewhere: 0), isAsPointed = false
            for _ in 0..<10 where !isAsPointed {
                counts = try look(at: places, screen)
                isAsPointed = counts.elsewhere == 0 && counts.near.allSatisfy { $0 > 50 }
            }
            #expect(isAsPointed, "\(counts.near) pixels changed at \(places), \(counts.elsewhere) elsewhere")

            // A menu, by its name on the screen; Escape closes it.
            let applications = try screen.wait(forWords: ["Applications"], in: folder)[0]
            try screen.click(applications.middle)
            _ = try screen.wait(forWords: ["Settings", "Log"], in: folder)
            try Gallery.keep("debian-xfce-" + video, of: "desktop", in: folder)
            try press(0xFF1B, on: screen)

            // The window with the shell.
            let prompt = try screen.wait(forWords: ["root@ospite-guest:/#"], in: folder)[0]
            try screen.click(prompt.middle)
            // What is typed before the window manager has given the window the focus is lost.
            sleep(2)
            try screen.type("echo the answer is $((6*7)) >/dev/ttyS0\n")
            try machine.wait(for: "the answer is 42")
            try screen.type("clear; echo hello $((6*7))\n")
            _ = try screen.wait(forWords: ["hello", "42"], in: folder)

            try resize(screen, isPossible: video == "virtio", in: folder)
            try screen.type("poweroff\n")
            #expect(try machine.status() == 0, "\(GuestProblem("status", machine))")
        }

        /// The guest's screen takes the size of its viewer, and the desktop that of the screen.
        private func resize(_ screen: ScreenViewer, isPossible: Bool, in folder: ScratchFolder) throws {
            let viewer = screen.viewer, old = viewer.width
            try viewer.setDesktopSize(1024, 700)
            let end = Date(timeIntervalSinceNow: 60)
            repeat {
                usleep(200_000)
                try viewer.capture()
            } while isPossible && viewer.width != 1024 && Date() < end
            #expect(viewer.sizeAnswer?.status == (isPossible ? 0 : 1))
            #expect(viewer.width == (isPossible ? 1024 : old))
            // The panel ends with the user's name.
            let name = try screen.wait(forWords: ["root"], in: folder)[0]
            #expect(name.x > viewer.width - 60 && name.y < 30, "\(name)")
        }

        private func press(_ key: UInt32, on screen: ScreenViewer) throws {
            for isDown in [true, false] {
                try screen.viewer.key(key, isDown: isDown)
                usleep(100_000)
            }
        }
    }
}
