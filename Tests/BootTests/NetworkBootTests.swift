import Foundation
import Testing

private enum NetworkROM {
    static let folder = "/usr/lib/ipxe/qemu"
    static let problem = BootDisc.problem([folder + "/pxe-virtio.rom", folder + "/efi-virtio.rom"])
}

extension BootTests {
    /// Adapters without a cable, and what firmwares make of their option ROMs.
    @Suite(.enabled(if: NetworkROM.problem == nil, "\(NetworkROM.problem ?? "")"))
    struct NetworkBootTests {
        private static let address = "52:54:00:ab:cd:0f"

        @Test func `SeaBIOS starts iPXE, which finds the adapter and asks for an address`() throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--firmware", "bios", "--net", "unplugged,mac=" + Self.address, "--name", "net",
                    "--accel",
                    "soft", "--memory", "64M",
                ], in: folder)
            let screen = try ScreenViewer("net", in: folder)
            try screen.wait(for: "iPXE")
            let rows = try screen.wait(for: "net0: " + Self.address)
            #expect(rows.contains { $0.contains("virtio-net") }, "\(rows)")
            // It takes no notice of the link, and asks for an address.
            try screen.wait(for: "Configuring (net0")
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test func `OVMF loads the driver from the adapter's ROM`() throws {
            let folder = try ScratchFolder()
            let machine = try GuestMachine(
                [
                    "--firmware", "uefi", "--net", "unplugged,mac=" + Self.address, "--name", "net",
                    "--accel",
                    "soft", "--memory", "256M",
                ], in: folder, patience: 200)
            // iPXE's own, which starts because there is nothing else to boot.
            try machine.wait(for: "iPXE 1")
            try machine.wait(for: "net0: \(Self.address) using virtio-net on")
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test(
            .enabled(if: InstalledKernel.standard.isThere, "\(InstalledKernel.standard.problem ?? "")"),
            arguments: ["pc", "micro"])
        func `Linux has an adapter with this address and no carrier`(board: String) throws {
            let folder = try ScratchFolder()
            let boot = TestBoot(
                kernel: .standard, test: "network", machine: board, modules: ["virtio_net"])
            let machine = try GuestMachine(
                try boot.arguments() + ["--net", "unplugged,mac=" + Self.address], in: folder)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            #expect(
                machine.results.contains("adapter \(Self.address), carrier 0, sent packets 0"),
                "\(GuestProblem("the adapter", machine))")
        }
    }
}
