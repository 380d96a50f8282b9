import Foundation
import Testing

@Suite(.serialized) struct AccelTests {
    private func machine(_ guest: String, _ letter: String, _ options: [String]) throws -> AccelMachine {
        try AccelMachine(
            ["--memory", "32M", "--kernel", AccelRun.guest(guest), "--append", "do=\(letter)"] + options)
    }

    // MARK: Ends

    struct End: Sendable, CustomTestStringConvertible {
        let name: String, letter: String, options: [String], status: Int32
        var testDescription: String { name }
    }
    static let ends = [
        End(name: "power off", letter: "o", options: [], status: 0),
        End(name: "a reset under --no-reboot", letter: "r", options: ["--no-reboot"], status: 0),
        End(name: "a reset by the keyboard controller", letter: "k", options: ["--no-reboot"], status: 0),
        End(name: "a panic", letter: "p", options: [], status: 3),
        End(name: "a triple fault under --no-reboot", letter: "t", options: ["--no-reboot"], status: 3),
        End(name: "debug exit 21", letter: "d", options: ["--debug-exit"], status: 43),
        End(name: "debug exit 0", letter: "n", options: ["--debug-exit", "--no-reboot"], status: 1),
    ]

    @Test(arguments: ends)
    func `each end of a machine has its status`(end: End) throws {
        let machine = try machine("ends", end.letter, end.options + ["--accel", "soft"])
        #expect(machine.end() == end.status, "\(machine.errorText)")
    }

    /// By the port of the chipset, and by a triple fault.
    @Test(arguments: ["c", "f"])
    func `a machine that resets again and again does not grow`(letter: String) throws {
        let machine = try machine("ends", letter, ["--accel", "soft"])
        #expect(machine.read(until: "e\n"))
        let before = try machine.size()
        machine.type("x")
        #expect(machine.read(until: "y\n"))
        let after = try machine.size()
        machine.type("x")
        #expect(machine.end() == 0, "\(machine.errorText)")
        #expect(machine.outputText == "abcde\nfghijklmnopqrstuvwxy\nz")
        #expect(after.threads == before.threads)
        // A lost copy of anything that a reset makes would be more.
        #expect(after.kibibytes < before.kibibytes + 2048, "\(before) to \(after) KiB")
    }

    // MARK: Engines

    static let hasKVM = access("/dev/kvm", R_OK | W_OK) == 0
    static let withKVM: Comment = "this host has no /dev/kvm that we may use"

    @Test(.enabled(if: hasKVM, withKVM), arguments: [1, 2])
    func `a guest computes on KVM, with or without leaving it, what it computes on the software CPU`(
        cpus: Int
    ) throws {
        let options = ["--debug-exit", "--no-reboot", "--cpus", "\(cpus)", "--sandbox", "on"]
        let soft = try machine("handover", "\(cpus)", options + ["--accel", "soft"])
        #expect(soft.end() == 1, "\(soft.errorText)")
        for _ in 0..<3 {
            let kvm = try machine("handover", "\(cpus)", options + ["--accel", "kvm", "--stats"])
            #expect(kvm.end() == 1, "\(kvm.errorText)")
            #expect(kvm.outputText == soft.outputText)
            #expect(kvm.outputText.count == 18 && !kvm.outputText.contains("!"))
            // An emulating KVM does not know LOCK CMPXCHG16B: then it says once that it gave the guest away.
            let notices = kvm.errorText.split(separator: "\n").filter {
                $0.contains("continues on the software CPU")
            }
            #expect(notices.count <= 1)
            #expect(kvm.errorText.contains(notices.isEmpty ? "engine kvm" : "engine soft"))
        }
    }

    @Test(.enabled(if: hasKVM, withKVM), arguments: ["o", "r", "p", "t", "d"])
    func `the ends of a machine are the same on KVM`(letter: String) throws {
        let end = try #require(Self.ends.first { $0.letter == letter })
        let machine = try machine("ends", letter, end.options + ["--accel", "kvm"])
        #expect(machine.end() == end.status, "\(machine.errorText)")
    }

    @Test(.enabled(if: hasKVM, withKVM))
    func `a guest that resets on KVM starts over there`() throws {
        let machine = try machine("ends", "c", ["--accel", "kvm"])
        // A reset empties the serial port: what is typed before the guest asks is lost.
        #expect(machine.read(until: "e\n"))
        machine.type("x")
        #expect(machine.read(until: "y\n"))
        machine.type("x")
        #expect(machine.end() == 0, "\(machine.errorText)")
        #expect(machine.outputText == "abcde\nfghijklmnopqrstuvwxy\nz")
    }

    @Test func `auto runs a guest on every host, with at most one notice`() throws {
        let machine = try machine("handover", "1", ["--debug-exit", "--no-reboot"])
        #expect(machine.end() == 1)
        #expect(machine.outputText.count == 18)
        #expect(machine.errorText.split(separator: "\n").count <= 1, "\(machine.errorText)")
    }

    // MARK: Debian

    @Test func `SIGTERM presses the power button and Linux powers off`() throws {
        let version = try AccelRun.tool(["Scripts/newest-kernel"])
        let disk = AccelRun.folder + "/power.img", initramfs = AccelRun.folder + "/power-initramfs"
        _ = try AccelRun.tool([
            "Scripts/make-initramfs", "--output", initramfs, "--kernel", version, "--module", "virtio_pci",
            "--module", "virtio_blk", "--module", "button", "--module", "evdev",
        ])
        _ = try AccelRun.tool(["truncate", "-s", "16M", disk])
        _ = try AccelRun.tool(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", disk])
        let before = try Data(contentsOf: URL(fileURLWithPath: disk))
        let machine = try AccelMachine([
            "--accel", "soft", "--memory", "256M", "--kernel", "/boot/vmlinuz-\(version)", "--initrd",
            initramfs,
            "--append", "console=ttyS0 quiet panic=-1 ospite.shell", "--disk", disk, "--snapshot",
        ])
        #expect(machine.read(until: "This is a shell"), "\(machine.outputText) \(machine.errorText)")
        #expect(machine.outputText.contains("The disk works"))
        machine.send(SIGTERM)
        #expect(machine.end() == 0)
        // Not the end that ospite itself brings after ten seconds.
        #expect(machine.outputText.contains("reboot: Power down"))
        // What the guest wrote stayed apart.
        #expect(try Data(contentsOf: URL(fileURLWithPath: disk)) == before)
    }
}
