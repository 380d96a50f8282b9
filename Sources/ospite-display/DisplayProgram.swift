internal import Glibc
internal import LinuxHost
internal import MachineSpec
internal import RFB
internal import ScreenSurface
internal import VMMSandbox

/// The process that shows one machine's screen: it serves viewers by the remote framebuffer protocol. It is
/// born with the surface, which it can only read, the link to the machine and its listening sockets, opens
/// nothing, and is inside its sandbox before it looks at anything that a viewer or the machine sends.
///
/// It ends when the machine closes the link.
@main
enum DisplayProgram {
    private static let usage: Int32 = 64

    static func main() {
        guard let options = DisplayOptions(Array(CommandLine.arguments.dropFirst())),
            fcntl(DisplayDescriptor.link, F_GETFD) >= 0
        else {
            say("ospite-display is started by ospite: use ospite run --display.")
            exit(usage)
        }
        do throws(HostError) {
            HostSignals.ignoreBrokenPipes()
            let hub = try DisplayHub(options)
            try ProcessPrivileges.renounce()
            let sandbox = Sandbox(mode: options.sandbox)
            try sandbox.confineProcess()
            try sandbox.confine(.display)
            hub.run()
            exit(0)
        } catch {
            say("The screen's process cannot start: \(error).")
            exit(1)
        }
    }

    static func say(_ sentence: String) {
        let bytes = Array((sentence + "\n").utf8)
        // SAFETY: the array's own bytes and count.
        _ = unsafe write(STDERR_FILENO, bytes, bytes.count)
    }
}

/// The descriptors that the process is born with. Others follow, named by its arguments.
enum DisplayDescriptor {
    static let link: Int32 = 3
    static let surface: Int32 = 4
}

/// `--name NAME --sandbox on|log [--password FD] [--local FD]... [--rfb FD]... [--websocket FD]...`
struct DisplayOptions {
    private(set) var name = ""
    private(set) var sandbox = SandboxMode.on
    private(set) var password: VNCPassword?
    /// A socket that only its owner's user reaches asks for no password.
    enum Kind { case local, viewers, browsers }
    private(set) var listeners: [(descriptor: Int32, kind: Kind)] = []

    init?(_ arguments: [String]) {
        guard arguments.count.isMultiple(of: 2) else { return nil }
        for index in stride(from: 0, to: arguments.count, by: 2) {
            let value = arguments[index + 1]
            switch (arguments[index], Int32(value)) {
            case ("--name", _): name = value
            case ("--sandbox", _): sandbox = value == "log" ? .log : .on
            case ("--local", let number?): listeners.append((number, .local))
            case ("--rfb", let number?): listeners.append((number, .viewers))
            case ("--websocket", let number?): listeners.append((number, .browsers))
            case ("--password", let number?):
                var bytes = [UInt8](repeating: 0, count: 256)
                guard case .moved(let count) = try? Descriptor(adopting: number).read(into: &bytes) else {
                    return nil
                }
                password = VNCPassword(Array(bytes.prefix(count)))
            default: return nil
            }
        }
    }
}
