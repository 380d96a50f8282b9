internal import ArgumentParser
internal import Glibc
internal import LinuxHost
internal import MachineSpec
internal import ViewerGateway

/// Who may see the machine's screen and type into it.
struct ScreenOptions: ParsableArguments {
    @Option(
        help: """
            The screen: none, auto (viewers of this user, in the machine's folder), vnc=HOST:PORT or \
            vnc=unix:PATH, either with ,websocket=HOST:PORT for a browser. (default: auto with a firmware \
            or --video virtio, else none)
            """)
    var display: String?

    @Option(
        help: """
            The display adapter: vga, or virtio, whose size follows the viewer's window; with a firmware \
            it is a VGA, too, until the guest has a driver for it.
            """)
    var video = "vga"

    @Option(
        help: """
            The keyboard: ps2, or one on usb or virtio for systems that know those. virtio is a tablet, \
            too; with a firmware there is one on USB anyway. (default: virtio with --video virtio, else ps2)
            """)
    var input: String?

    @Option(help: "A file whose first line is the password for vnc= and websocket=: its first 8 bytes count.")
    var vncPasswordFile: String?

    @Option(
        help: """
            Encrypt vnc= (VeNCrypt, X.509) and websocket= (wss) with TLS: a PEM file of the certificate, \
            and of those between it and one that viewers trust.
            """)
    var vncCertificate: String?

    @Option(help: "The private key for --vnc-certificate, in PEM. (default: in the same file)")
    var vncKey: String?

    func adapter() throws(SpecError) -> VideoAdapter {
        switch video {
        case "vga": return .vga
        case "virtio": return .virtio
        default: throw SpecError("--video '\(video)' is unknown: use one of vga, virtio.")
        }
    }

    func inputDevices() throws(SpecError) -> InputDevices {
        switch input {
        case nil: return try adapter() == .virtio ? .virtio : .ps2
        case "ps2": return .ps2
        case "usb": return .usb
        case "virtio": return .virtio
        case let other?: throw SpecError("--input '\(other)' is unknown: use one of ps2, usb, virtio.")
        }
    }

    func option(hasScreen: Bool) throws(SpecError) -> DisplayOption {
        let option =
            try display.map { text throws(SpecError) in try DisplayOption(parsing: text) }
            ?? (hasScreen ? .auto : DisplayOption.none)
        if vncPasswordFile != nil {
            guard case .vnc = option else {
                throw SpecError("--vnc-password-file goes with --display vnc=HOST:PORT.")
            }
        }
        if vncCertificate != nil {
            guard case .vnc = option else {
                throw SpecError("--vnc-certificate goes with --display vnc=HOST:PORT.")
            }
        }
        guard vncKey == nil || vncCertificate != nil else {
            throw SpecError("--vnc-key goes with --vnc-certificate.")
        }
        if case .vnc(let place, let webSocket) = option {
            for place in [place, webSocket].compactMap({ $0 }) { try check(place) }
        }
        return option
    }

    /// Anybody who reaches a port owns the machine: not from other hosts without a password.
    private func check(_ place: ViewerPlace) throws(SpecError) {
        guard case .network(let host, let port) = place else { return }
        guard let address = NetworkAddress(host: host, port: port) else {
            throw SpecError("--display: '\(host)' is no address: give it in numbers, or localhost.")
        }
        guard address.isLoopback || vncPasswordFile != nil else {
            throw SpecError(
                "--display at \(address) would let other hosts in: add --vnc-password-file, or use "
                    + "localhost and a tunnel.")
        }
    }

    /// The password's bytes; nil for none.
    func password() throws(RunFailure) -> [UInt8]? {
        guard let vncPasswordFile else { return nil }
        do throws(HostError) {
            let file = try Descriptor.open(vncPasswordFile, flags: O_RDONLY | O_NONBLOCK)
            var bytes = [UInt8](repeating: 0, count: 256)
            guard case .moved(let count) = try file.read(into: &bytes) else {
                throw HostError("\(vncPasswordFile) is empty", code: 0)
            }
            let line = bytes.prefix(count).prefix { $0 != 0x0A && $0 != 0x0D }
            guard !line.isEmpty else { throw HostError("its first line is empty", code: 0) }
            return Array(line)
        } catch {
            throw .host("--vnc-password-file cannot be used: \(error). Give a file with a password in it.")
        }
    }

    /// For TLS; nil: viewers come without it.
    func identity() throws(RunFailure) -> TLSIdentity? {
        guard let vncCertificate else { return nil }
        let certificate = try Self.contents(of: vncCertificate, "--vnc-certificate")
        let key = try vncKey.map { file throws(RunFailure) in try Self.contents(of: file, "--vnc-key") }
        do throws(CertificateProblem) {
            return try TLSIdentity(certificate: certificate, key: key ?? certificate)
        } catch {
            throw .host("--vnc-certificate \(vncCertificate) cannot be used: \(error).")
        }
    }

    /// Of a file of certificates or keys, which has at most a megabyte.
    private static func contents(of path: String, _ option: String) throws(RunFailure) -> [UInt8] {
        do throws(HostError) {
            let file = try Descriptor.open(path, flags: O_RDONLY | O_NONBLOCK)
            let facts = try file.facts()
            guard facts.kind == .regular, facts.size <= 1 << 20 else {
                throw HostError("\(path) is no file of at most a megabyte", code: 0)
            }
            var bytes = [UInt8](repeating: 0, count: Int(facts.size))
            let count = try file.read(at: 0, into: &bytes)
            return Array(bytes.prefix(count))
        } catch {
            throw .host("\(option) cannot be used: \(error). Give a PEM file that you may read.")
        }
    }
}
