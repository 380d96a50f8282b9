import Foundation
import TestKit
import Testing

/// CDs that grub-mkrescue makes here, for a BIOS.
enum BootDisc {
    /// Makes the CD `name`, with `files` (names on the CD, below /boot, and where they are) and what GRUB
    /// does when the CD starts.
    static func make(_ name: String, files: [String: String], commands: String) throws -> String {
        let folder = BootAssets.root + "/out/boot-tests", disc = "\(folder)/\(name).iso"
        let tree = "\(folder)/\(name).tree"
        try? FileManager.default.removeItem(atPath: tree)
        defer { try? FileManager.default.removeItem(atPath: tree) }
        try FileManager.default.createDirectory(
            atPath: tree + "/boot/grub", withIntermediateDirectories: true)
        for (file, source) in files {
            try FileManager.default.copyItem(atPath: source, toPath: "\(tree)/boot/\(file)")
        }
        // A UEFI has no text mode: who starts later draws where GRUB does.
        let start = """
            set timeout=0
            if [ "$grub_platform" = efi ]; then
              insmod all_video
              set gfxpayload=keep
            fi

            """
        try Data((start + commands).utf8).write(to: URL(fileURLWithPath: tree + "/boot/grub/grub.cfg"))
        let run = try runTool(["grub-mkrescue", "-o", disc, tree], in: folder)
        guard run.status == 0 else { throw AssetProblem(description: "grub-mkrescue: \(run.output)") }
        return disc
    }

    private static let parts = [
        "/usr/bin/grub-mkrescue", "/usr/bin/xorriso", "/usr/bin/mformat", "/usr/lib/grub/i386-pc/modinfo.sh",
        "/usr/lib/grub/x86_64-efi/modinfo.sh", InstalledFirmware.bios, InstalledFirmware.uefi,
    ]
    /// Why no CD with `files` can be made and started here.
    static func problem(_ files: [String]) -> String? {
        let missing = (parts + files).filter { !FileManager.default.isReadableFile(atPath: $0) }
        return missing.isEmpty ? nil : "Missing: \(missing.joined(separator: ", ")); see Scripts/packages"
    }

    /// The machine `name`, which starts a CD by a firmware.
    static func start(
        _ disc: String, _ name: String, _ firmware: String, memory: String, in folder: ScratchFolder
    )
        throws -> GuestMachine
    {
        try GuestMachine(
            [
                disc, "--firmware", firmware, "--name", name, "--accel", "soft", "--memory", memory,
                "--serial", "none",
            ], in: folder)
    }
}

private enum MemoryTester {
    static let bios = "/boot/memtest86+x64.bin", uefi = "/boot/memtest86+x64.efi"
    static let problem = BootDisc.problem([bios, uefi])

    /// On a UEFI it draws with a font of its own, in the middle of the screen: 25 rows of 600 lines.
    static func reader(_ firmware: String) throws -> VGAFontReader {
        firmware == "bios"
            ? try ScreenViewer.textMode() : try ScreenViewer.font(of: uefi, cellWidth: 8, top: 4)
    }
}

private enum Installer {
    static let folder =
        "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"
    static let files = ["linux": folder + "/linux", "initrd.gz": folder + "/initrd.gz"]
    static let problem =
        BootDisc.problem(Array(files.values) + ["/usr/bin/xz"])

    private static let graphicalFolder = folder.replacingOccurrences(of: "/text/", with: "/gtk/")
    static let graphicalFiles = [
        "linux": graphicalFolder + "/linux", "initrd.gz": graphicalFolder + "/initrd.gz",
    ]
    static let graphicalProblem = BootDisc.problem(Array(graphicalFiles.values)) ?? WordReader.problem

    /// The kernel's console keeps the font of a text mode, and has one of its own else.
    static func reader(_ firmware: String, in folder: ScratchFolder) throws -> VGAFontReader {
        guard firmware == "uefi" else { return try ScreenViewer.textMode() }
        let kernel = try Data(contentsOf: URL(fileURLWithPath: Self.folder + "/linux"))
        let start = Data([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0])
        guard let place = kernel.range(of: start)?.lowerBound else {
            throw AssetProblem(description: "the installer's kernel is not packed with xz")
        }
        let packed = try folder.file("kernel.xz", kernel[place...])
        // What lies behind the stream is not of it, and xz says so.
        _ = try runTool(
            ["sh", "-c", "xz -dc kernel.xz >kernel 2>/dev/null; rm '\(packed)'"], in: folder.path)
        return try ScreenViewer.font(of: folder.path + "/kernel", cellWidth: 8)
    }
}

extension BootTests {
    /// A memory tester, which runs without an operating system.
    @Suite(.enabled(if: MemoryTester.problem == nil, "\(MemoryTester.problem ?? "")"))
    struct MemoryTesterBootTests {
        /// The number of the test that runs, of "Test #4  [Moving inversions...]".
        private func test(_ rows: [String]) -> Int? {
            for row in rows {
                guard let mark = row.range(of: "Test #") else { continue }
                return Int(row[mark.upperBound...].prefix { $0.isNumber })
            }
            return nil
        }

        private func start(
            _ firmware: String, memory: String, in folder: ScratchFolder
        ) throws -> (machine: GuestMachine, screen: ScreenViewer) {
            let disc = try BootDisc.make(
                "memtest-" + firmware,
                files: ["memtest": firmware == "bios" ? MemoryTester.bios : MemoryTester.uefi],
                commands: "linux /boot/memtest\nboot\n")
            let machine = try BootDisc.start(disc, "tester", firmware, memory: memory, in: folder)
            let screen = try ScreenViewer("tester", in: folder, reader: try MemoryTester.reader(firmware))
            // With the sizes that the screen takes.
            try screen.viewer.setEncodings([0, -223, -308])
            try screen.wait(for: "Memtest86+ v")
            return (machine, screen)
        }

        /// Looks until `isEnough`; that no error was found.
        private func watch(
            _ screen: ScreenViewer, seconds: Double, until isEnough: ([String]) -> Bool
        ) throws {
            let end = Date(timeIntervalSinceNow: seconds)
            var rows: [String] = []
            while !isEnough(rows), Date() < end {
                usleep(300_000)
                rows = try screen.text()
            }
            #expect(isEnough(rows), "\(rows)")
            #expect(
                rows.contains { $0.contains("Errors: 0") } && !rows.contains { $0.contains("FAIL") },
                "\(rows)")
            #expect(rows.contains { $0.contains("Ospite") && $0.contains("virtual machine") }, "\(rows)")
        }

        private func end(_ machine: GuestMachine) throws {
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test(arguments: ["bios", "uefi"])
        func `memtest86+ runs its first tests from a CD and finds no errors`(firmware: String) throws {
            let folder = try ScratchFolder()
            let (machine, screen) = try start(
                firmware, memory: firmware == "bios" ? "48M" : "96M", in: folder)
            try watch(screen, seconds: 900) { test($0) ?? 0 >= 4 }
            try Gallery.keep("memtest86-" + firmware, of: "tester", in: folder)
            try end(machine)
        }

        private static let results = ProcessInfo.processInfo.environment["OSPITE_SOAK"]

        @Test(
            .enabled(if: results != nil, "a whole pass takes minutes: make soak runs it"),
            arguments: [("bios", 64), ("uefi", 128)])
        func `memtest86+ ends a whole pass without an error`(firmware: String, memory: Int) throws {
            let folder = try ScratchFolder()
            let (machine, screen) = try start(firmware, memory: "\(memory)M", in: folder)
            let began = Date()
            try watch(screen, seconds: 1800) { rows in
                rows.contains { $0.range(of: "Pass: +1 ", options: .regularExpression) != nil }
            }
            let seconds = Int(Date().timeIntervalSince(began))
            try end(machine)
            let line = "\(firmware) | \(memory) MiB | \(seconds) s\n"
            let file = try FileHandle(forUpdating: URL(fileURLWithPath: try #require(Self.results)))
            try file.seekToEnd()
            try file.write(contentsOf: Data(line.utf8))
        }
    }

    /// Debian's installer, as a CD like its smallest.
    @Suite(.enabled(if: Installer.problem == nil, "\(Installer.problem ?? "")"))
    struct InstallerBootTests {
        @Test(arguments: ["bios", "uefi"])
        func `Debian's installer starts from a CD, and keys lead to the choice of the keyboard`(
            firmware: String
        ) throws {
            // With "fb=false" the installer draws with the letters of the console as it finds it.
            let disc = try BootDisc.make(
                "installer", files: Installer.files,
                commands: "linux /boot/linux nomodeset fb=false\ninitrd /boot/initrd.gz\nboot\n")
            let folder = try ScratchFolder()
            let machine = try BootDisc.start(disc, "installer", firmware, memory: "1G", in: folder)
            let reader = try Installer.reader(firmware, in: folder)
            let screen = try ScreenViewer("installer", in: folder, reader: reader)
            // With the sizes that the screen takes.
            try screen.viewer.setEncodings([0, -223, -308])
            let languages = try screen.wait(for: ["Select a language", "Nederlands"], seconds: 180)
            #expect(languages.contains { $0.contains("Dutch") && $0.contains("Nederlands") }, "\(languages)")
            // Down and up again: a language before the last key would show in the next screen.
            try press([0xFF54, 0xFF52, 0xFF0D], on: screen)
            try screen.wait(for: ["Select your location", "United Kingdom"])
            try press([0xFF0D], on: screen)
            try screen.wait(for: ["Configure the keyboard", "American English"])
            try Gallery.keep("debian-installer-" + firmware, of: "installer", in: folder)
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test(
            .enabled(if: Installer.graphicalProblem == nil, "\(Installer.graphicalProblem ?? "")"),
            arguments: ["bios", "uefi"])
        func `the graphical installer takes keys and the pointer`(firmware: String) throws {
            let disc = try BootDisc.make(
                "graphical", files: Installer.graphicalFiles,
                commands: """
                    if [ "$grub_platform" != efi ]; then set gfxpayload=1024x768x32; fi
                    linux /boot/linux
                    initrd /boot/initrd.gz
                    boot

                    """)
            let folder = try ScratchFolder()
            let machine = try BootDisc.start(disc, "installer", firmware, memory: "1G", in: folder)
            let screen = try ScreenViewer("installer", in: folder)
            try screen.viewer.setEncodings([16, -223, -308])
            _ = try screen.wait(forWords: ["language", "Dutch", "Continue"], in: folder, seconds: 240)
            try press([0xFF54, 0xFF52, 0xFF0D], on: screen)
            let places = try screen.wait(forWords: ["location", "Ireland", "Continue"], in: folder)
            try screen.click(places[2].middle)
            _ = try screen.wait(forWords: ["keyboard", "American", "English"], in: folder)
            try Gallery.keep("debian-installer-graphical-" + firmware, of: "installer", in: folder)
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        /// Keys by their X11 numbers, slowly enough for a program that draws between them.
        private func press(_ keys: [UInt32], on screen: ScreenViewer) throws {
            for key in keys {
                for isDown in [true, false] {
                    try screen.viewer.key(key, isDown: isDown)
                    usleep(100_000)
                }
            }
        }
    }
}
