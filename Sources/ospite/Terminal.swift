internal import Glibc
internal import LinuxHost

/// The terminal on standard input, in raw mode while the guest has it. `restore` may be called at any time
/// and any number of times. Confinement: the main thread.
final class Terminal {
    private var raw: RawTerminal?

    /// nil when standard input is no terminal.
    init?() {
        guard isatty(STDIN_FILENO) == 1 else { return nil }
    }

    /// Every key goes to the guest, and its bytes come out as they are.
    func enterRaw() {
        guard raw == nil else { return }
        raw = RawTerminal(HostCall.standardInput)
        Console.setRaw(raw != nil)
    }

    func restore() {
        raw?.restore()
        raw = nil
        Console.setRaw(false)
    }

    /// We are the terminal's foreground job, or it has no jobs for us: changing its mode does not stop us.
    var isForeground: Bool {
        let group = tcgetpgrp(STDIN_FILENO)
        return group == -1 || group == getpgrp()
    }
}
