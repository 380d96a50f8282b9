import Foundation
import LinuxHost
import TestKit
import Testing

private enum Browser {
    static let program = "/usr/bin/chromium", page = "/usr/share/novnc/core/rfb.js"
    static let problem: String? =
        InstalledFirmware.hasBIOS
        ? FileManager.default.isExecutableFile(atPath: program)
            ? FileManager.default.isReadableFile(atPath: page) ? nil : "noVNC is absent; install novnc"
            : "there is no browser; install chromium"
        : "\(InstalledFirmware.missingBIOS)"
}

extension BootTests {
    /// A machine's screen in noVNC, in a browser without a window.
    @Suite(.enabled(if: Browser.problem == nil, "\(Browser.problem ?? "")"))
    struct BrowserBootTests {
        @Test(arguments: [false, true])
        func `noVNC shows the screen and types into it`(isEncrypted: Bool) throws {
            let folder = try ScratchFolder()
            let address = try #require(NetworkAddress(host: "127.0.0.1", port: 0))
            let ports = try [0, 1].map { _ in try Descriptor.listen(at: address) }.map { try $0.localPort() }
            var options = ["--display", "vnc=127.0.0.1:\(ports[0]),websocket=127.0.0.1:\(ports[1])"]
            if isEncrypted {
                let files = try TestCertificate()
                options += [
                    "--vnc-certificate", try folder.file("pem", Data(files.certificate + files.key)),
                    "--vnc-password-file", try folder.file("password", Data("sesame\n".utf8)),
                ]
            }
            let machine = try GuestMachine(
                [
                    "/usr/lib/grub-rescue/grub-rescue-cdrom.iso", "--name", "browser", "--accel", "soft",
                    "--memory", "128M", "--serial", "none",
                ] + options, in: folder, patience: 240)
            let screen = try ScreenViewer("browser", in: folder)
            try screen.wait(for: "highlighted entry")
            let site = try WebSite(
                "\(isEncrypted ? "wss" : "ws")://127.0.0.1:\(ports[1])", password: "sesame", in: folder)
            let browser = try HeadlessBrowser(in: folder)
            try browser.open(site.address)
            let menu = try wait(for: "highlighted entry", in: browser)
            #expect(menu.contains { $0.contains("GNU GRUB  version 2.") }, "\(menu)")
            try browser.type("c")
            try wait(for: "grub>", in: browser)
            try browser.type("echo typed in a browser\n")
            #expect(try wait(for: "grub> echo typed in a browser", in: browser).count > 3)
            try screen.wait(for: "grub> echo typed in a browser")
            machine.send(SIGTERM)
            machine.send(SIGTERM)
            #expect(try machine.status() == 0, "\(machine.errorText)")
        }

        /// Looks at the page until a row of its text has `words`; the text then.
        @discardableResult
        private func wait(for words: String, in browser: HeadlessBrowser) throws -> [String] {
            let reader = try ScreenViewer.textMode(), end = Date(timeIntervalSinceNow: 180)
            var rows: [String] = []
            while Date() < end {
                if let picture = try browser.picture() {
                    rows = reader.text(picture.pixels, width: picture.width)
                    if rows.contains(where: { $0.contains(words) }) { return rows }
                }
                usleep(200_000)
            }
            let status = try browser.evaluate("String(window.status)")
            throw AssetProblem(
                description: "no \"\(words)\" in the browser (\(status)):\n" + rows.joined(separator: "\n"))
        }
    }
}

/// A page with noVNC that connects, served to this host. Confinement: the test's thread.
private final class WebSite {
    private let server = Process()
    let address: String

    init(_ place: String, password: String, in scratch: ScratchFolder) throws {
        let page = """
            <!DOCTYPE html><body><script type="module">
            import RFB from './novnc/core/rfb.js';
            window.rfb = new RFB(document.body, '\(place)', { credentials: { password: '\(password)' } });
            for (const name of ['connect', 'disconnect', 'securityfailure'])
                rfb.addEventListener(name, event => { window.status = name; });
            </script></body>
            """
        _ = try scratch.file("index.html", Data(page.utf8))
        try FileManager.default.createSymbolicLink(
            atPath: scratch.path + "/novnc", withDestinationPath: "/usr/share/novnc")
        let pipe = Pipe()
        server.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
        server.arguments = [
            "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", scratch.path,
        ]
        server.standardOutput = pipe
        server.standardError = FileHandle.nullDevice
        try server.run()
        var text = ""
        while !text.contains("\n") {
            let more = pipe.fileHandleForReading.availableData
            guard !more.isEmpty else { throw AssetProblem(description: "python3 serves nothing") }
            text += String(decoding: more, as: UTF8.self)
        }
        let port = try #require(text.firstMatch(of: /port (\d+)/)?.output.1)
        address = "http://127.0.0.1:\(port)/index.html"
    }

    deinit { server.terminate() }
}

/// Chromium without a window, driven by messages of its DevTools protocol, which end with a zero each,
/// through descriptors 3 and 4. Confinement: the test's thread.
private final class HeadlessBrowser {
    private let process = Process()
    private let input: Descriptor, output: Descriptor
    private var buffer: [UInt8] = []
    private var lastCall = 0
    private var session: String?

    init(in folder: ScratchFolder) throws {
        let (toBrowser, fromBrowser) = (folder.path + "/to-browser", folder.path + "/from-browser")
        guard mkfifo(toBrowser, 0o600) == 0, mkfifo(fromBrowser, 0o600) == 0 else {
            throw AssetProblem(description: "no pipes for the browser")
        }
        input = try Descriptor.open(toBrowser, flags: O_RDWR)
        output = try Descriptor.open(fromBrowser, flags: O_RDWR)
        let options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--ignore-certificate-errors", "--user-data-dir='\(folder.path)/profile'",
            "--remote-debugging-pipe",
        ].joined(separator: " ")
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = [
            "-c", "exec \(Browser.program) \(options) about:blank 3<'\(toBrowser)' 4>'\(fromBrowser)'",
        ]
        process.environment = [
            "HOME": folder.path, "XDG_RUNTIME_DIR": folder.path, "PATH": "/usr/bin:/bin",
        ]
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
    }

    deinit {
        process.terminate()
        process.waitUntilExit()
    }

    func open(_ address: String) throws {
        let target = try call("Target.createTarget", ["url": "about:blank"])["targetId"] as? String
        let parameters: [String: Any] = ["targetId": try #require(target), "flatten": true]
        session = try call("Target.attachToTarget", parameters)["sessionId"] as? String
        _ = try call("Page.navigate", ["url": address])
    }

    /// The result of a call; events that come before it are passed over.
    private func call(_ method: String, _ parameters: [String: Any]) throws -> [String: Any] {
        lastCall += 1
        var message: [String: Any] = ["id": lastCall, "method": method, "params": parameters]
        if let session { message["sessionId"] = session }
        try input.writeAll(Array(try JSONSerialization.data(withJSONObject: message)) + [0])
        while true {
            let reply = try JSONSerialization.jsonObject(with: Data(try nextMessage())) as? [String: Any]
            guard reply?["id"] as? Int == lastCall else { continue }
            guard let result = reply?["result"] as? [String: Any] else {
                throw AssetProblem(description: "\(method): \(reply?["error"] ?? "no result")")
            }
            return result
        }
    }

    private func nextMessage() throws -> [UInt8] {
        while true {
            if let end = buffer.firstIndex(of: 0) {
                defer { buffer.removeFirst(end + 1) }
                return Array(buffer[..<end])
            }
            guard try output.wait(forWriting: false, milliseconds: 60_000) else {
                throw AssetProblem(description: "the browser does not answer")
            }
            var bytes = [UInt8](repeating: 0, count: 1 << 16)
            guard case .moved(let count) = try output.read(into: &bytes) else { continue }
            buffer += bytes.prefix(count)
        }
    }

    /// The value of an expression on the page, as text.
    func evaluate(_ script: String) throws -> String {
        let result = try call("Runtime.evaluate", ["expression": script, "returnByValue": true])
        return (result["result"] as? [String: Any])?["value"] as? String ?? ""
    }

    /// What noVNC shows; nil while it shows nothing.
    func picture() throws -> (width: Int, pixels: [UInt32])? {
        let text = try evaluate(
            """
            (() => {
                const canvas = document.querySelector('canvas');
                if (!canvas || !canvas.width || !canvas.height) return '';
                const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
                let bytes = '';
                for (let place = 0; place < data.length; place += 4)
                    bytes += String.fromCharCode(data[place], data[place + 1], data[place + 2]);
                return canvas.width + ' ' + btoa(bytes);
            })()
            """)
        let parts = text.split(separator: " ")
        guard parts.count == 2, let width = Int(parts[0]), let data = Data(base64Encoded: String(parts[1]))
        else { return nil }
        let bytes = Array(data)
        var pixels: [UInt32] = []
        for place in stride(from: 0, to: bytes.count - 2, by: 3) {
            let parts = bytes[place..<place + 3].map { UInt32($0) }
            pixels.append(parts[0] << 16 | parts[1] << 8 | parts[2])
        }
        return (width, pixels)
    }

    /// Small letters, spaces and Enter, slowly enough for a guest that polls its keyboard.
    func type(_ text: String) throws {
        _ = try evaluate("document.querySelector('canvas').focus(); ''")
        for character in text {
            let (key, code) =
                character == "\n"
                ? ("Enter", "Enter")
                : (String(character), character == " " ? "Space" : "Key" + character.uppercased())
            for kind in ["keyDown", "keyUp"] {
                _ = try call("Input.dispatchKeyEvent", ["type": kind, "key": key, "code": code])
                usleep(25_000)
            }
        }
    }
}
