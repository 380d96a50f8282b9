import Foundation
import Testing

private enum PointerDisc {
    static let kernel = InstalledKernel.standard
    static let problem = kernel.problem ?? BootDisc.problem([kernel.path])
}

extension BootTests {
    /// What people do at the screen, as the guest gets it from virtio devices.
    @Suite(.enabled(if: PointerDisc.problem == nil, "\(PointerDisc.problem ?? "")"))
    struct PointerBootTests {
        /// Does `step` again and again until the guest has seen enough of it.
        private func repeating(until text: String, _ machine: GuestMachine, _ step: (Int) throws -> Void)
            throws
        {
            let end = Date(timeIntervalSinceNow: 180)
            var count = 0
            while !machine.consoleText.contains(text), Date() < end {
                try step(count)
                count += 1
                usleep(50_000)
            }
        }

        @Test func `the pointer is where a viewer points, and keys come from the virtio keyboard`() throws {
            let kernel = PointerDisc.kernel
            let disk = try BootAssets.initialRAMDisk(kernel, modules: ["virtio_input"])
            let disc = try BootDisc.make(
                "pointer", files: ["linux": kernel.path, "initrd": disk],
                commands: "linux /boot/linux console=ttyS0 quiet panic=-1 ospite.test=pointer\n"
                    + "initrd /boot/initrd\nboot\n")
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    disc, "--input", "virtio", "--name", "pointer", "--accel", "soft", "--memory", "512M",
                    "--no-reboot",
                ], in: folder)
            let screen = try ScreenViewer("pointer", in: folder)
            try screen.viewer.setEncodings([0, -223, -308])
            try machine.wait(for: "RESULT watching Tablet")
            try screen.viewer.capture()
            let (width, height) = (screen.viewer.width, screen.viewer.height)
            let places = [(x: 10, y: 20), (x: width - 1, y: height / 2)]
            try repeating(until: "watching Keyboard", machine) { count in
                let place = places[count % 2]
                try screen.viewer.pointer(UInt8(count & 1), place.x, place.y)
            }
            try repeating(until: "RESULT end", machine) { count in
                try screen.untilItIsGone { try screen.viewer.key(0x61, isDown: count % 2 == 0) }
            }
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let results = machine.results
            for place in places {
                for (axis, value, size) in [(0, place.x, width), (1, place.y, height)] {
                    // The middle of the pixel, of 32768 for the whole screen.
                    let event = "Tablet 3 \(axis) \((2 * value + 1) * 32_768 / (2 * size))"
                    #expect(results.contains(event), "\(event): \(results)")
                }
            }
            for event in ["Tablet 1 272 1", "Tablet 1 272 0", "Keyboard 1 30 1", "Keyboard 1 30 0"] {
                #expect(results.contains(event), "\(event): \(results)")
            }
        }

        @Test
        func `without a driver for its tablet the machine has a mouse of the PS/2, which moves as much`()
            throws
        {
            let kernel = PointerDisc.kernel
            let disk = try BootAssets.initialRAMDisk(kernel, modules: ["psmouse"])
            let disc = try BootDisc.make(
                "mouse", files: ["linux": kernel.path, "initrd": disk],
                commands: "linux /boot/linux console=ttyS0 quiet panic=-1 ospite.test=mouse\n"
                    + "initrd /boot/initrd\nboot\n")
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [disc, "--name", "mouse", "--accel", "soft", "--memory", "512M", "--no-reboot"], in: folder)
            let screen = try ScreenViewer("mouse", in: folder)
            try screen.viewer.setEncodings([0, -223, -308])
            try machine.wait(for: "RESULT watching ")
            try repeating(until: "RESULT end", machine) { count in
                // There and back again, with the button held on one way.
                let place = count % 2 == 0 ? (x: 100, y: 100) : (x: 130, y: 80)
                try screen.untilItIsGone { try screen.viewer.pointer(UInt8(count & 1), place.x, place.y) }
            }
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let results = machine.results
            #expect(results.contains("watching ImExPS/2 Generic Explorer Mouse"), "\(results)")
            // Relative axes 0 and 1: 30 to the right and 20 up, and the other way; in halves of 32 bits.
            for event in [
                "2 0 30 0", "2 1 65516 65535", "2 0 65506 65535", "2 1 20 0", "1 272 1 0", "1 272 0 0",
            ] {
                #expect(results.contains("Mouse " + event), "\(event): \(results)")
            }
            #expect(!results.contains { $0.hasPrefix("Mouse 3 ") }, "a mouse knows no places")
        }
    }
}
