import Foundation
import Testing

/// The ROM that Debian's iPXE has for virtio cards.
private enum CardROM {
    static let path = "/usr/lib/ipxe/qemu/efi-virtio.rom"
    static let missing: Comment = "iPXE is absent; install ipxe-qemu"
    static var isThere: Bool { FileManager.default.isReadableFile(atPath: path) }
    static let address = "52:54:00:12:34:56"
    static let card = "unplugged,mac=" + address
}

extension BootTests {
    /// A network card without a cable.
    @Suite(.enabled(if: InstalledKernel.cloud.isThere, "\(InstalledKernel.cloud.problem ?? "")"))
    struct NetworkBootTests {
        @Test(arguments: ["pc", "micro"])
        func `Linux finds a card without a link`(type: String) throws {
            let folder = try ScratchFolder()
            var boot = TestBoot(test: "network", machine: type)
            boot.modules = ["virtio_net"]
            let machine = try GuestMachine(try boot.arguments() + ["--net", CardROM.card], in: folder)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            #expect(
                machine.results.suffix(3)
                    == ["card \(CardROM.address), virtio_net", "carrier 0, down", "end"],
                "\(GuestProblem("results", machine))")
        }
    }

    /// The card's expansion ROM.
    @Suite(.enabled(if: CardROM.isThere && InstalledFirmware.hasBIOS, CardROM.missing))
    struct CardROMBootTests {
        private func end(_ machine: GuestMachine) throws {
            machine.send(SIGTERM)
            usleep(100_000)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test(arguments: [[], [",root-port=1"]])
        func `SeaBIOS runs the ROM of a card, which finds the card`(more: [String]) throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--firmware", "bios", "--net", CardROM.card + more.joined(), "--boot", "net",
                    "--pcie-root-ports", "1", "--name", "card", "--accel", "soft", "--memory", "64M",
                ], in: folder, patience: 120)
            let screen = try ScreenViewer("card", in: folder)
            try screen.wait(for: ["iPXE 1.", "net0: " + CardROM.address])
            try end(machine)
        }

        @Test func `a card without a ROM is no device to boot from`() throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--firmware", "bios", "--net", "unplugged,rom=off", "--name", "card", "--accel", "soft",
                    "--memory", "64M",
                ], in: folder, patience: 120)
            let screen = try ScreenViewer("card", in: folder)
            let rows = try screen.wait(for: "No bootable device")
            #expect(!rows.contains { $0.contains("iPXE (") }, "\(rows)")
            try end(machine)
        }

        @Test(.enabled(if: InstalledFirmware.hasUEFI, InstalledFirmware.missingUEFI))
        func `OVMF runs the ROM's driver, which finds the card`() throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--firmware", "uefi", "--net", CardROM.card, "--accel", "soft", "--memory", "256M",
                ], in: folder, patience: 300)
            // It starts the ROM's driver for the card, and what that offers to boot.
            try machine.wait(for: "iPXE 1.")
            try machine.wait(for: "net0: " + CardROM.address + " using virtio-net")
            try end(machine)
        }
    }
}
