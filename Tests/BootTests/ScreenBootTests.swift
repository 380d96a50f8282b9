import Foundation
import LinuxHost
import TestKit
import Testing

extension BootTests {
    /// A machine's screen as viewers see it, and what they type.
    @Suite(.enabled(if: InstalledFirmware.hasBIOS, InstalledFirmware.missingBIOS))
    struct ScreenBootTests {
        private static let disc = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso"

        private func grub(_ more: [String] = [], in folder: ScratchFolder) throws -> GuestMachine {
            try #require(FileManager.default.isReadableFile(atPath: Self.disc), "install grub-rescue-pc")
            let disk = try folder.file("disk", Data(count: 1 << 20))
            return try GuestMachine(
                [
                    Self.disc, "--disk", disk + ",bus=sata", "--name", "grub", "--accel", "soft", "--memory",
                    "128M", "--serial", "none",
                ] + more, in: folder, patience: 240)
        }

        /// An `ospite` verb about the machine.
        private func verb(_ arguments: [String], in folder: ScratchFolder) throws -> (
            status: Int32, output: String
        ) {
            try runTool(
                ["env", "XDG_RUNTIME_DIR=" + folder.path, BuiltPrograms.ospite] + arguments, in: folder.path)
        }

        private func freePort() throws -> UInt16 {
            let address = try #require(NetworkAddress(host: "127.0.0.1", port: 0))
            return try Descriptor.listen(at: address).localPort()
        }

        @Test(arguments: [0, 5, 7, 16] as [Int32])
        func `GRUB's menu is on the screen, c and ls list the disks, and halt ends the machine`(
            encoding: Int32
        ) throws {
            let folder = try ScratchFolder()
            let machine = try grub(in: folder)
            let screen = try ScreenViewer("grub", in: folder)
            try screen.viewer.setEncodings([encoding, 1, -223, -258, -308])
            let menu = try screen.wait(for: "highlighted entry")
            #expect(menu.contains { $0.contains("GNU GRUB  version 2.") })
            #expect(
                menu.contains { $0.contains("*GNU/Linux") } && menu.contains { $0.contains(" Memtest86+") })
            try screen.type("c")
            try screen.wait(for: "grub>")
            try screen.type("ls\n")
            let listing = try screen.wait(for: "(cd)")
            #expect(listing.contains { $0.contains("(hd0)") && $0.contains("(cd)") }, "\(listing)")
            try screen.type("echo (Hello) \"World\" #;{}\n")
            #expect(
                try screen.wait(for: "(Hello) World").contains { $0.contains("echo (Hello) \"World\" #;{}") })
            #expect(screen.viewer.seen[encoding] ?? 0 > 0)
            try screen.typeFarewell("halt\n")
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test func `screenshot, type and key work on a machine that runs`() throws {
            let folder = try ScratchFolder()
            let machine = try grub(in: folder)
            let screen = try ScreenViewer("grub", in: folder)
            // With the sizes that the screen takes.
            try screen.viewer.setEncodings([0, -223, -308])
            try screen.wait(for: "highlighted entry")
            #expect(try verb(["key", "grub", "down", "c"], in: folder).status == 0)
            try screen.wait(for: "grub>")
            #expect(try verb(["type", "grub", "echo A_b-C~|\\n"], in: folder).status == 0)
            try screen.waitForPrompt(2)
            let file = folder.path + "/screen.png"
            let shot = try verb(["screenshot", "grub", file], in: folder)
            #expect(shot.status == 0, "\(shot.output)")
            let picture = try PNGPicture(file)
            #expect(picture.width == 720 && picture.height == 400)
            let rows = try ScreenViewer.textMode().text(picture.pixels, width: picture.width)
            #expect(rows.contains { $0.contains("echo A_b-C~|") }, "\(rows)")
            // Pixel for pixel what a viewer sees, but for the cursor, which blinks.
            try screen.viewer.capture()
            let pairs = zip(picture.pixels, screen.viewer.pixels).enumerated()
            let wrong = pairs.filter { $0.element.0 != $0.element.1 }.map {
                ($0.offset % 720 / 9, $0.offset / 720 / 16)
            }
            #expect(picture.pixels.count == screen.viewer.pixels.count)
            #expect(wrong.allSatisfy { $0 == wrong[0] }, "more than one letter differs")
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
            let gone = try verb(["screenshot", "grub", file], in: folder)
            #expect(gone.status == 1 && gone.output.contains("No machine of the name grub"))
        }

        @Test func `the path of a CD's image alone is enough, and the machine says where its screen is`()
            throws
        {
            try #require(FileManager.default.isReadableFile(atPath: Self.disc), "install grub-rescue-pc")
            let folder = try ScratchFolder()
            let machine = try GuestMachine([Self.disc], in: folder)
            let end = Date(timeIntervalSinceNow: 20)
            func name() -> String? {
                let path = machine.errorText.components(separatedBy: "the screen is at ").dropFirst().first
                let parts = path?.components(separatedBy: "/vnc.").first?.split(separator: "/")
                return parts?.last.map { String($0) }
            }
            while name() == nil, Date() < end { usleep(20_000) }
            let machineName = try #require(name(), "\(machine.errorText)")
            let reader = try ScreenViewer.textMode(), file = folder.path + "/screen.png"
            var rows: [String] = []
            let patience = Date(timeIntervalSinceNow: 90)
            while !rows.contains(where: { $0.contains("highlighted entry") }), Date() < patience {
                usleep(300_000)
                let shot = try verb(["screenshot", machineName, file], in: folder)
                #expect(shot.status == 0, "\(shot.output)")
                let picture = try PNGPicture(file)
                rows = reader.text(picture.pixels, width: picture.width)
            }
            #expect(rows.contains { $0.contains("*GNU/Linux") }, "\(rows)")
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test func `several viewers see one screen, and one that leaves takes nothing along`() throws {
            let folder = try ScratchFolder()
            let machine = try grub(in: folder)
            let first = try ScreenViewer("grub", in: folder), second = try ScreenViewer("grub", in: folder)
            try first.viewer.setEncodings([16, -223])
            try second.viewer.setEncodings([7, -308])
            try second.viewer.setFormat(
                .init(bits: 16, depth: 16, maxima: [31, 63, 31], shifts: [11, 5, 0]))
            try first.wait(for: "highlighted entry")
            try second.wait(for: "highlighted entry")
            let third = try ScreenViewer("grub", in: folder)
            try third.viewer.key(0xFFE1, isDown: true)
            try third.viewer.capture()
            third.leave()
            // Shift is up again: a small letter arrives as one.
            try first.type("c")
            try second.wait(for: "grub>")
            try first.type("echo xyz\n")
            #expect(try second.wait(for: "xyz").contains { $0.hasPrefix("grub> echo xyz") })
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
        }

        @Test func `a screen's process that dies leaves the machine alone, and none outlives it`() throws {
            let folder = try ScratchFolder()
            let machine = try grub(in: folder)
            let screen = try ScreenViewer("grub", in: folder)
            try screen.wait(for: "highlighted entry")
            func display() -> HostProcess? {
                HostProcess.all().first {
                    $0.parent == machine.identifier && $0.name.hasPrefix("ospite-display")
                }
            }
            let process = try #require(display())
            kill(process.identifier, SIGKILL)
            let end = Date(timeIntervalSinceNow: 20)
            while !machine.errorText.contains("the machine goes on"), Date() < end { usleep(20_000) }
            #expect(machine.errorText.contains("The screen's process ended early; the machine goes on."))
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        @Test(
            arguments: [(32, 7, [0xFF, 0]), (16, 16, [0xFF, 0]), (8, 5, [0xAA, 0x55])]
                as [(Int, Int32, [UInt32])])
        func `a graphics mode of the video BIOS has its colours`(
            bits: Int, encoding: Int32, shades: [UInt32]
        ) throws {
            // Of eight bits, GRUB's palette has those of a text screen: dark ones, and light ones.
            let (dark, light) = (shades[0], shades[1])
            let folder = try ScratchFolder()
            let machine = try grub(in: folder)
            let screen = try ScreenViewer("grub", in: folder)
            try screen.viewer.setEncodings([encoding, -308])
            try screen.wait(for: "highlighted entry")
            try screen.type("c")
            try screen.wait(for: "grub>")
            try screen.type("insmod vbe\n")
            try screen.waitForPrompt(2)
            try screen.type("videotest 800x600x\(bits)\n")
            let end = Date(timeIntervalSinceNow: 90)
            func color(_ x: Int, _ y: Int) -> UInt32? {
                let viewer = screen.viewer
                return viewer.width == 800 && viewer.height == 600 ? viewer.pixels[y * 800 + x] : nil
            }
            // Red, green and blue squares are in the corner.
            while color(250, 50) != dark, Date() < end {
                usleep(200_000)
                try screen.viewer.capture()
            }
            #expect(color(50, 50) == dark << 16 && color(150, 50) == dark << 8 && color(250, 50) == dark)
            #expect(color(50, 150) == light << 16 | 0x00FFFF && color(790, 590) == 0)
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
        }

        // MARK: Viewers of others

        @Test func `vncdotool types with a password, and captures the screen`() throws {
            let tool = try VNCTools.vncdotool()
            let folder = try ScratchFolder()
            let port = try freePort()
            let password = try folder.file("password", Data("sesame\n".utf8))
            let machine = try grub(
                ["--display", "vnc=127.0.0.1:\(port)", "--vnc-password-file", password], in: folder)
            let screen = try ScreenViewer("grub", in: folder)
            try screen.wait(for: "highlighted entry")
            let file = folder.path + "/shot.png", server = "127.0.0.1::\(port)"
            func vncdotool(_ steps: [String]) throws {
                let run = try runTool(
                    ["timeout", "60", tool, "-s", server, "-p", "sesame"] + steps, in: folder.path)
                #expect(run.status == 0, "\(run.output)")
            }
            try vncdotool(
                ["key", "c", "pause", "5", "type", "echo vncdotool", "key", "enter", "pause", "1"])
            // The picture is for what GRUB answers.
            try screen.waitForPrompt(2)
            try vncdotool(["capture", file])
            let picture = try PNGPicture(file)
            #expect(picture.width == 720 && picture.height == 400)
            let rows = try ScreenViewer.textMode().text(picture.pixels, width: picture.width)
            #expect(rows.contains { $0.contains("grub> echo vncdotool") }, "\(rows)")
            #expect(rows.contains { $0.trimmingCharacters(in: .whitespaces) == "vncdotool" }, "\(rows)")
            let wrong = try runTool(
                ["timeout", "10", tool, "-s", server, "-p", "other", "capture", file + "2"], in: folder.path)
            #expect(wrong.status != 0 && !FileManager.default.fileExists(atPath: file + "2"))
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
        }

        @Test(.enabled(if: VNCTools.hasTigerVNC, VNCTools.missingTigerVNC))
        func `TigerVNC's viewer shows the screen and types into it`() throws {
            let folder = try ScratchFolder()
            let port = try freePort()
            let machine = try grub(["--display", "vnc=127.0.0.1:\(port)"], in: folder)
            let screen = try ScreenViewer("grub", in: folder)
            try screen.wait(for: "highlighted entry")
            let desktop = try VirtualDesktop(in: folder)
            let viewer = try desktop.start(["xtigervncviewer", "-Shared", "127.0.0.1::\(port)"])
            defer { viewer.terminate() }
            try desktop.wait { picture in try contains(screen, in: picture) }
            // There is no window manager that would do it.
            try desktop.run(["xdotool", "search", "--onlyvisible", "--name", "TigerVNC", "windowfocus"])
            try desktop.run(["xdotool", "key", "--delay", "100", "c"])
            try screen.wait(for: "grub>")
            try desktop.run(["xdotool", "type", "--delay", "60", "echo TigerVNC!"])
            try desktop.run(["xdotool", "key", "Return"])
            try screen.wait(for: "TigerVNC!")
            try desktop.wait { picture in try contains(screen, in: picture) }
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
        }

        @Test(
            .enabled(if: VNCTools.hasTigerVNC, VNCTools.missingTigerVNC),
            arguments: [(nil, "X509None"), ("sesame", "X509Vnc")] as [(String?, String)])
        func `TigerVNC's viewer shows the screen through TLS, and types into it`(
            password: String?, type: String
        ) throws {
            let folder = try ScratchFolder()
            let port = try freePort(), files = try TestCertificate()
            let certificate = try folder.file("certificate", Data(files.certificate))
            var options = [
                "--display", "vnc=127.0.0.1:\(port)", "--vnc-certificate", certificate, "--vnc-key",
                try folder.file("key", Data(files.key)),
            ]
            if let password {
                options += ["--vnc-password-file", try folder.file("password", Data(password.utf8))]
            }
            let machine = try grub(options, in: folder)
            let screen = try ScreenViewer("grub", in: folder)
            try screen.wait(for: "highlighted entry")
            let desktop = try VirtualDesktop(in: folder)
            // It takes this type only, knows this certificate only, and asks nobody.
            let viewer = try desktop.start([
                "VNC_PASSWORD=" + (password ?? ""), "xtigervncviewer", "-Shared", "-SecurityTypes", type,
                "-X509CA", certificate, "localhost::\(port)",
            ])
            defer { viewer.terminate() }
            try desktop.wait { picture in try contains(screen, in: picture) }
            try desktop.run(["xdotool", "search", "--onlyvisible", "--name", "TigerVNC", "windowfocus"])
            try desktop.run(["xdotool", "key", "--delay", "100", "c"])
            try screen.wait(for: "grub>")
            try desktop.run(["xdotool", "type", "--delay", "60", "echo secret!"])
            try desktop.run(["xdotool", "key", "Return"])
            try screen.wait(for: "secret!")
            try desktop.wait { picture in try contains(screen, in: picture) }
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0)
            let left = try FileManager.default.contentsOfDirectory(atPath: folder.path + "/ospite")
            #expect(left.isEmpty, "\(left)")
        }

        @Test func `strangers at an encrypted place harm nobody`() throws {
            let folder = try ScratchFolder(), place = folder.path + "/strangers"
            let files = try TestCertificate()
            let certificate = try folder.file("pem", Data(files.certificate + files.key))
            let machine = try grub(
                ["--display", "vnc=unix:" + place, "--vnc-certificate", certificate], in: folder)
            let screen = try ScreenViewer("grub", in: folder)
            try screen.wait(for: "highlighted entry")
            let process = "/proc/\(machine.identifier)"
            func descriptors() throws -> Int {
                try FileManager.default.contentsOfDirectory(atPath: process + "/fd").count
            }
            func kilobytes() throws -> Int {
                let status = try String(contentsOfFile: process + "/status", encoding: .utf8)
                return try #require(status.firstMatch(of: /VmRSS:\s+(\d+)/).flatMap { Int($0.output.1) })
            }
            /// All that a viewer says before TLS, then a greeting of TLS that is none, or half of it.
            func misbehave(_ round: Int) throws {
                let stranger = try Descriptor.connect(unixPath: place)
                var words = Array("RFB 003.008\n".utf8) + [19, 0, 2, 0, 0, 1, 4, 0x16, 3, 1, 0, 200]
                words += (0..<200).map { UInt8(truncatingIfNeeded: $0 &* round) }
                // It may be turned away meanwhile.
                try? stranger.writeAll(Array(words.prefix(round % 230)))
                guard round % 2 == 0 else { return }
                var answer = [UInt8](repeating: 0, count: 64)
                guard try stranger.wait(forWriting: false, milliseconds: 20_000) else { return }
                _ = try? stranger.read(into: &answer)
            }
            let before = try descriptors()
            for round in 0..<100 { try misbehave(round) }
            let memory = try kilobytes()
            for round in 0..<1_000 { try misbehave(round) }
            #expect(try kilobytes() < memory + 8_192)
            // More than are let in, and they say nothing; the machine's folder has room for its user.
            let silent = try (0..<30).map { _ in try Descriptor.connect(unixPath: place) }
            #expect(try verb(["screenshot", "grub", folder.path + "/shot.png"], in: folder).status == 0)
            withExtendedLifetime(silent) {}
            let end = Date(timeIntervalSinceNow: 30)
            while try descriptors() > before, Date() < end { usleep(20_000) }
            #expect(try descriptors() == before)
            // The next one is served.
            let guest = try Descriptor.connect(unixPath: place)
            try guest.writeAll(Array("RFB 003.008\n".utf8))
            var offer: [UInt8] = []
            while offer.count < 14, try guest.wait(forWriting: false, milliseconds: 20_000) {
                var bytes = [UInt8](repeating: 0, count: 64)
                guard case .moved(let count) = try guest.read(into: &bytes) else { break }
                offer += bytes.prefix(count)
            }
            #expect(offer.suffix(2) == [1, 19])
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        /// Whether the machine's picture is somewhere on the desktop, pixel by pixel but for what blinks and
        /// what JPEG blurs: each row of text has the same bright dots.
        private func contains(_ screen: ScreenViewer, in picture: VirtualDesktop.Picture) throws -> Bool {
            try screen.viewer.capture()
            let (width, height) = (screen.viewer.width, screen.viewer.height), pixels = screen.viewer.pixels
            func isBright(_ pixel: UInt32) -> Bool { pixel >> 8 & 0xFF > 0x50 }
            for top in 0..<min(60, picture.height - height) {
                for left in 0..<min(40, picture.width - width) {
                    var wrong = 0
                    for y in stride(from: 0, to: height, by: 3) where wrong < 200 {
                        for x in 0..<width
                        where isBright(pixels[y * width + x])
                            != isBright(picture.pixels[(top + y) * picture.width + left + x])
                        {
                            wrong += 1
                        }
                    }
                    if wrong < 200 { return true }
                }
            }
            return false
        }
    }
}

/// Viewers that others wrote.
enum VNCTools {
    static let hasTigerVNC = ["xtigervncviewer", "Xvfb", "xdotool"].allSatisfy {
        FileManager.default.isExecutableFile(atPath: "/usr/bin/" + $0)
    }
    static let missingTigerVNC: Comment = "TigerVNC is absent; install tigervnc-viewer, xvfb and xdotool"

    /// From PyPI, into an environment of its own that is made once.
    static func vncdotool() throws -> String {
        let folder = BootAssets.root + "/out/boot-tests/vncdotool"
        let program = folder + "/bin/vncdo"
        if !FileManager.default.isExecutableFile(atPath: program) {
            // PyPI may be out of reach for a moment.
            let commands = """
                python3 -m venv '\(folder)' || exit
                for pause in 10 10 0; do
                    '\(folder)/bin/pip' -q install vncdotool && exit
                    sleep $pause
                done
                exit 1
                """
            let run = try runTool(["sh", "-c", commands], in: BootAssets.root)
            guard run.status == 0 else {
                throw AssetProblem(description: "vncdotool cannot be had from PyPI: \(run.output)")
            }
        }
        return program
    }
}

/// An X server without a screen, whose picture is in a file (Xvfb(1), `-fbdir`).
final class VirtualDesktop {
    struct Picture {
        let width: Int, height: Int
        let pixels: [UInt32]
    }

    private let server = Process()
    private let folder: String
    private let display: String

    init(in scratch: ScratchFolder) throws {
        folder = scratch.path
        server.executableURL = URL(fileURLWithPath: "/usr/bin/Xvfb")
        let pipe = Pipe()
        server.arguments = ["-screen", "0", "1024x768x24", "-fbdir", folder, "-displayfd", "1"]
        server.standardOutput = pipe
        server.standardError = FileHandle.nullDevice
        try server.run()
        var number = ""
        while !number.contains("\n") {
            let more = pipe.fileHandleForReading.availableData
            guard !more.isEmpty else { throw AssetProblem(description: "Xvfb does not start") }
            number += String(decoding: more, as: UTF8.self)
        }
        display = ":" + number.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    deinit { server.terminate() }

    func start(_ arguments: [String]) throws -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["DISPLAY=" + display, "HOME=" + folder] + arguments
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        return process
    }

    func run(_ arguments: [String]) throws {
        let process = try start(arguments)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw AssetProblem(description: "\(arguments) ended with \(process.terminationStatus)")
        }
    }

    /// An X window dump: big-endian header, then rows of 32-bit pixels (XWDFile.h).
    func picture() throws -> Picture {
        let file = Array(try Data(contentsOf: URL(fileURLWithPath: folder + "/Xvfb_screen0")))
        func field(_ place: Int) -> Int { file[place..<place + 4].reduce(0) { $0 << 8 | Int($1) } }
        try #require(file.count > 100 && field(44) == 32)
        let width = field(16), height = field(20), row = field(48), isBigEndian = field(28) == 1
        let start = field(0) + field(76) * 12
        try #require(file.count >= start + row * height)
        var pixels: [UInt32] = []
        pixels.reserveCapacity(width * height)
        for y in 0..<height {
            for x in 0..<width {
                let place = start + y * row + 4 * x
                let bytes = file[place..<place + 4]
                let ordered = isBigEndian ? Array(bytes) : bytes.reversed()
                pixels.append(ordered.reduce(UInt32(0)) { $0 << 8 | UInt32($1) } & 0xFF_FFFF)
            }
        }
        return Picture(width: width, height: height, pixels: pixels)
    }

    /// Looks until the picture is as it must be.
    func wait(until isRight: (Picture) throws -> Bool) throws {
        let end = Date(timeIntervalSinceNow: 180)
        while Date() < end {
            if try isRight(try picture()) { return }
            usleep(300_000)
        }
        throw AssetProblem(description: "the desktop does not show the machine")
    }
}
