import Foundation
import Testing

/// Where the programs under test are: beside the test bundle, whose path is in our own memory map.
enum BuiltPrograms {
    static let folder: String = {
        let maps = (try? String(contentsOfFile: "/proc/self/maps", encoding: .utf8)) ?? ""
        for line in maps.split(separator: "\n") {
            guard let slash = line.firstIndex(of: "/"), line.hasSuffix(".xctest") else { continue }
            return URL(fileURLWithPath: String(line[slash...])).deletingLastPathComponent().path
        }
        return ".build/release"
    }()
    static var ospite: String { folder + "/ospite" }
}

/// A folder of one test, removed with it.
final class ScratchFolder {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "/ospite-boot-" + UUID().uuidString
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String, _ bytes: Data) throws -> String {
        let file = path + "/" + name
        try bytes.write(to: URL(fileURLWithPath: file))
        return file
    }
}

/// Runs a program to its end; its status and its output, with standard error.
func runTool(_ arguments: [String], in folder: String) throws -> (status: Int32, output: String) {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = arguments
    process.currentDirectoryURL = URL(fileURLWithPath: folder)
    var environment = ProcessInfo.processInfo.environment
    environment["PATH", default: ""] += ":/usr/sbin:/sbin"
    process.environment = environment
    process.standardInput = FileHandle.nullDevice
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return (process.terminationStatus, text.trimmingCharacters(in: .whitespacesAndNewlines))
}

/// A kernel that Debian installed here, or the sentence that says why there is none.
struct InstalledKernel: Sendable {
    let version: String
    let problem: String?
    var path: String { "/boot/vmlinuz-\(version)" }
    var isThere: Bool { problem == nil }

    private init(flavour: String) {
        do {
            let found = try runTool(["Scripts/newest-kernel", flavour], in: BootAssets.root)
            version = found.status == 0 ? found.output : ""
            problem = found.status == 0 ? nil : found.output
        } catch {
            version = ""
            problem = "\(error)"
        }
    }

    static let cloud = InstalledKernel(flavour: "cloud-amd64")
    static let standard = InstalledKernel(flavour: "amd64")
}

/// What machines boot from, made once by the project's scripts.
enum BootAssets {
    /// The project's folder.
    static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path
    private static let folder = root + "/out/boot-tests"
    static let fixedPath = folder + "/fixed"

    /// A file that the guest has as /fixed: every byte value, in an order without short periods.
    static let fixedFile = Data((0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 7) })

    private static func script(_ arguments: [String]) throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let run = try runTool(arguments, in: root)
        guard run.status == 0 else {
            throw AssetProblem(description: "\(arguments[0]) ended with \(run.status): \(run.output)")
        }
    }

    /// The initial RAM disk of a kernel, around Scripts/guest/test-init or another init. `addition` is one
    /// more program, which the guest has in /bin.
    static func initialRAMDisk(
        _ kernel: InstalledKernel, init program: String = "test-init", modules more: [String] = [],
        addition: String? = nil
    ) throws -> String {
        var output = ([folder + "/" + program, kernel.version] + more).joined(separator: "-")
        var additions: [String] = []
        if let addition {
            let name = URL(fileURLWithPath: addition).lastPathComponent
            output += "-" + name
            additions = ["--add", "\(addition):/bin/\(name)"]
        }
        let fixed = fixedPath
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        try fixedFile.write(to: URL(fileURLWithPath: fixed))
        let names =
            [
                "virtio_pci", "virtio_mmio", "virtio_blk", "virtio_console", "button", "evdev", "ext4",
            ] + more
        let modules = names.flatMap { ["--module", $0] }
        try script(
            [
                "Scripts/make-initramfs", "--output", output, "--init", "Scripts/guest/" + program,
                "--kernel", kernel.version, "--add", fixed + ":/fixed",
            ] + modules + additions)
        return output
    }

    static let hasCompiler = FileManager.default.isExecutableFile(atPath: "/usr/bin/gcc")

    /// Compiles the C program in the folder Tests/Guests/`name`, statically, to a file of that name.
    static func program(_ name: String) throws -> String {
        let sources = root + "/Tests/Guests/" + name, output = folder + "/" + name
        let files = try FileManager.default.contentsOfDirectory(atPath: sources).filter { $0.hasSuffix(".c") }
        try script(
            ["gcc", "-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror", "-o", output]
                + files.sorted().map { sources + "/" + $0 })
        return output
    }

    /// An ext4 image of 16 MiB with the files of `content`.
    static func disk(of content: String, in folder: ScratchFolder) throws -> String {
        let file = folder.path + "/content.img"
        try script(["mke2fs", "-q", "-F", "-t", "ext4", "-d", content, file, "16M"])
        return file
    }

    /// An empty ext4 file system of 16 MiB.
    static func emptyDisk(in folder: ScratchFolder) throws -> String {
        let file = folder.path + "/disk.img"
        try script(["mke2fs", "-q", "-F", "-t", "ext4", file, "16M"])
        return file
    }

    /// Why a Debian root file system cannot be had here; nil: it can, or is there already.
    static let debianProblem: String? = {
        if FileManager.default.fileExists(atPath: debianDisk) { return nil }
        let found = try? runTool(["sh", "-c", "command -v mmdebstrap mke2fs"], in: root)
        if found?.status == 0 { return nil }
        return "There is no \(debianDisk), and mmdebstrap or mke2fs is missing to make it."
    }()
    private static let debianDisk = folder + "/debian-gcc.img"

    /// A GPT disk with that system for a UEFI.
    static func debianUEFIDisk(_ kernel: InstalledKernel, in scratch: ScratchFolder) throws -> String {
        try uefiDisk(
            of: try debianDisk(in: scratch), kernel, try initialRAMDisk(kernel, init: "root-init"),
            in: scratch)
    }

    /// A GPT disk for a UEFI: GRUB, a kernel and its initial RAM disk in the first partition, in the second
    /// `system`, an ext4 image that is gone afterwards. `words`: more of the kernel's command line.
    static func uefiDisk(
        of system: String, _ kernel: InstalledKernel, _ initrd: String, words: String = "",
        in scratch: ScratchFolder
    ) throws -> String {
        let disk = scratch.path + "/uefi.img"
        let menu = """
            set timeout=0
            menuentry Debian {
              linux /linux console=ttyS0 quiet panic=-1 root=/dev/vda2 \(words)
              initrd /initrd
            }

            """
        _ = try scratch.file("grub.cfg", Data(menu.utf8))
        // In MiB: the first partition begins at 1.
        let bytes = try FileManager.default.attributesOfItem(atPath: system)[.size] as? Int ?? 0
        let size = (first: 96, second: bytes >> 20)
        let table = """
            label: gpt
            start=1MiB, size=\(size.first)MiB, type=U
            size=\(size.second)MiB, type=L

            """
        let parts = "part_gpt fat normal linux configfile all_video"
        try script([
            "sh", "-e", "-c",
            """
            cd '\(scratch.path)'
            grub-mkimage -O x86_64-efi -p /EFI/debian -o grub.efi \(parts)
            truncate -s \(size.first)M esp
            mformat -i esp -F ::
            mmd -i esp ::/EFI ::/EFI/BOOT ::/EFI/debian
            mcopy -i esp grub.efi ::/EFI/BOOT/BOOTX64.EFI
            mcopy -i esp grub.cfg ::/EFI/debian/grub.cfg
            mcopy -i esp '\(kernel.path)' ::/linux
            mcopy -i esp '\(initrd)' ::/initrd
            truncate -s \(size.first + size.second + 2)M '\(disk)'
            printf '%s' '\(table)' | sfdisk -q '\(disk)'
            dd if=esp of='\(disk)' bs=1M seek=1 conv=notrunc,sparse 2>/dev/null
            dd if='\(system)' of='\(disk)' bs=1M seek=\(1 + size.first) conv=notrunc,sparse 2>/dev/null
            rm esp '\(system)'
            """,
        ])
        return disk
    }

    /// Why no such disk can be made here.
    static let uefiDiskProblem: String? = {
        let files = [
            "/usr/bin/grub-mkimage", "/usr/bin/mformat", "/usr/sbin/sfdisk",
            "/usr/lib/grub/x86_64-efi/modinfo.sh", InstalledFirmware.uefi,
        ]
        let missing = files.filter { !FileManager.default.isReadableFile(atPath: $0) }
        return missing.isEmpty ? nil : "Missing: \(missing.joined(separator: ", ")); see Scripts/packages"
    }()

    /// A copy for one test of a disk with a small Debian system and gcc.
    static func debianDisk(in scratch: ScratchFolder) throws -> String {
        try debianSystem(debianDisk, ["--include", "gcc,libc6-dev", "--size", "2G"], in: scratch)
    }

    /// A copy for one test of a Debian system with the Xfce desktop, which desktop.service starts.
    static func desktopDisk(in scratch: ScratchFolder) throws -> String {
        let packages = [
            "xserver-xorg-core", "xserver-xorg-input-libinput", "xinit", "x11-xserver-utils",
            "xfce4-session", "xfwm4", "xfdesktop4", "xfce4-panel", "xfce4-settings", "xterm",
            "fonts-dejavu-core",
        ]
        return try debianSystem(
            folder + "/debian-desktop.img",
            [
                "--include", packages.joined(separator: ","), "--size", "1500M",
                "--add", root + "/Scripts/guest/desktop-session:/usr/local/bin/desktop-session",
                "--add", root + "/Scripts/guest/desktop.service:/etc/systemd/system/desktop.service",
            ], in: scratch)
    }

    /// Makes the image once, and keeps it between runs.
    private static func debianSystem(
        _ image: String, _ options: [String], in scratch: ScratchFolder
    ) throws -> String {
        if !FileManager.default.fileExists(atPath: image) {
            try script(["Scripts/make-rootfs"] + options + [image])
        }
        let copy = scratch.path + "/debian.img"
        try script(["cp", "--sparse=always", image, copy])
        return copy
    }
}

struct AssetProblem: Error, CustomStringConvertible { let description: String }
